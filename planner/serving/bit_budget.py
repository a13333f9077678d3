"""Which formats fit, and how many bits per weight do: rows for every format, and a budget spent on a mixture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from planner.errors import JobError, PlannerError, UnsupportedError
from planner.formats.exllama import least_bits
from planner.formats.exllama_models import EXL2_MODELS, EXL3_MODELS
from planner.formats.mixed import Allocation, quantizable
from planner.formats.registry import Format, find_format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import StoredModel
from planner.serving.engines import ENGINES, usual_engine
from planner.serving.fit_schema import Budget, FormatRow, KeptRow, LadderChoice, Mixture, MixtureRow
from planner.serving.overhead import overhead_parts
from planner.serving.schema import Serving
from planner.serving.search import largest
from planner.units import format_bytes

NEAREST = 4

# What one matrix can be kept as. exl2: exllamav2/conversion/qparams.py total_bits of the options
# 0.1:4b/0.9:3b, 4b, 0.1:6b/0.9:5b, 6b at group 128, rounded up for matrices 8192 wide; the
# smallest depends on the model (exllama.least_bits). exl3: whole bits (exllamav3/conversion/allocation.py).
_EXL2 = ("3.14", "4.04", "5.14", "6.04", "8.0")
CHOICES = {
    "exl2": tuple(f"exl2:{bits}" for bits in _EXL2),
    "exl3": tuple(f"exl3:{bits}" for bits in ("2.0", "3.0", "4.0", "5.0", "6.0", "8.0")),
    "compressed": ("W4A16", "W8A16", "bf16"),
    "gguf": tuple(f"ggml:{kind}" for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")),
}


def format_row(weight_format: Format, serving: Serving) -> FormatRow:
    """What a table shows of a format that holds the model."""
    all_of_it = serving.max_context is not None and serving.max_context == serving.model.max_positions
    return FormatRow(
        name=weight_format.name,
        family=weight_format.family,
        summary=weight_format.summary,
        engine=serving.engine,
        file_bytes=serving.weights.file_bytes,
        weights_bytes=serving.weights.bytes,
        cpu_bytes=serving.weights.cpu_bytes,
        bits_per_weight=serving.weights.bits_per_weight,
        total_bytes=serving.per_gpu.total_bytes,
        fits=serving.fits,
        spare_bytes=serving.spare_bytes,
        max_context=serving.max_context,
        all_positions=None if serving.max_context is None else all_of_it,
        tokens_per_second=serving.speed.tokens_per_second if serving.speed else None,
        speed_word=serving.speed.word if serving.speed else None,
        notes=serving.notes,
    )


def failed_row(weight_format: Format, error: PlannerError) -> FormatRow:
    """A format that cannot hold the model, and why."""
    return FormatRow(
        name=weight_format.name, family=weight_format.family, summary=weight_format.summary, problem=str(error)
    )


def sorted_rows(rows: Iterable[FormatRow]) -> tuple[FormatRow, ...]:
    """Family by family as they come, the smallest file first in each, problems last."""
    rows = tuple(rows)
    families = list(dict.fromkeys(row.family for row in rows))
    return tuple(
        sorted(rows, key=lambda row: (families.index(row.family), row.problem is not None, row.file_bytes or 0))
    )


def nearest_below(rows: Iterable[FormatRow], count: int = NEAREST) -> tuple[FormatRow, ...]:
    """Of each family the largest formats that fit, largest first; of equally large ones the first."""
    found: dict[str, dict[tuple[int, int], FormatRow]] = {}
    for row in rows:
        if row.fits and row.weights_bytes is not None and row.file_bytes is not None:
            found.setdefault(row.family, {}).setdefault((row.weights_bytes, row.file_bytes), row)
    return tuple(sizes[size] for sizes in found.values() for size in sorted(sizes, reverse=True)[:count])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The choices of a mixture, from the smallest to the largest."""

    formats: tuple[Format, ...]
    stored: tuple[StoredModel, ...]

    @property
    def weights(self) -> int:
        """Quantizable ones."""
        return sum(self.stored[0].tensors[n].weight.elements for n in quantizable(self.stored))

    def gpu_bytes(self, rung: int) -> int:
        """The quantizable tensors at one choice."""
        return sum(self.stored[rung].tensors[n].gpu_bytes for n in quantizable(self.stored))

    def file_bytes(self, rung: int) -> int:
        return sum(self.stored[rung].tensors[n].file_bytes for n in quantizable(self.stored))

    def kept(self) -> tuple[KeptRow, ...]:
        """Tensors that all choices keep alike, by unit and type, in the model's order."""
        chosen, found = set(quantizable(self.stored)), dict[tuple[str, str], list[int]]()
        for n, tensor in enumerate(self.stored[0].tensors):
            if n not in chosen:
                sizes = found.setdefault((tensor.weight.unit, tensor.type), [0, 0])
                sizes[0] += tensor.gpu_bytes
                sizes[1] += tensor.cpu_bytes
        return tuple(
            KeptRow(unit=unit, type=kind, gpu_bytes=gpu, cpu_bytes=cpu) for (unit, kind), (gpu, cpu) in found.items()
        )

    def choices(self) -> tuple[LadderChoice, ...]:
        """Each with its average over the quantizable weights."""
        return tuple(
            LadderChoice(
                name=weight_format.name,
                bits_per_weight=8 * self.file_bytes(rung) / self.weights,
                gpu_bytes=self.gpu_bytes(rung),
            )
            for rung, weight_format in enumerate(self.formats)
        )


def make_ladder(served: ServedModel, text: str | None) -> Ladder:
    """The choices as typed, or those that suit the model: EXL2, else EXL3, else W4A16, W8A16 and 16-bit.

    `text`: `2.5,3,4,6` (EXL2), format names with commas between, or exl2, exl3, compressed, gguf for the usual ones.
    Raises JobError for choices that one engine does not read together, or that are all the same size.
    """
    named = _names(served, text)
    if len({usual_engine(choice).name for choice in named}) > 1:
        names = " and ".join(choice.name for choice in named)
        raise JobError(f"--choices {text}: no engine reads {names} in one model")
    pairs = sorted(((choice, choice.store(served)) for choice in named), key=lambda pair: pair[1].gpu_bytes)
    ladder = Ladder(formats=tuple(choice for choice, _ in pairs), stored=tuple(stored for _, stored in pairs))
    if not quantizable(ladder.stored):
        raise JobError(f"--choices {text or named[0].name}: give at least two that differ in size, like 3,4,6")
    return ladder


def _names(served: ServedModel, text: str | None) -> tuple[Format, ...]:
    usual = "exl2" if served.architecture in EXL2_MODELS else "exl3" if served.architecture in EXL3_MODELS else None
    wanted = (text or usual or "compressed").strip().lower()
    if wanted in CHOICES:
        least = (f"exl2:{ceil(100 * least_bits(served)) / 100:.2f}",) if wanted == "exl2" else ()
        return tuple(find_format(name) for name in (*least, *CHOICES[wanted]))
    words = [word.strip() for word in (text or "").split(",")]
    if not all(words):
        raise JobError(f"--choices {text!r}: write bits or formats with commas between, like 2.5,3,4,6")
    return tuple(dict.fromkeys(find_format(f"{usual or 'exl2'}:{w}" if _is_number(w) else w) for w in words))


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def budget_of(ladder: Ladder, lowest: Serving) -> Budget:
    """What one GPU has for the quantizable weights, where `lowest` is the model at the smallest choice.

    An overhead that is a share of the weights grows with them, and is counted as it is when they fill the GPU.
    Raises UnsupportedError where cache or activations are not known, JobError where nothing is left for them.
    """
    share, gpu = lowest.per_gpu, lowest.gpu
    if gpu is None or lowest.spare_bytes is None:
        raise JobError("give the GPU whose memory is to be filled: --gpu rtx4090, or --gpu 24GiB")
    if share.kv_cache_bytes is None or share.activations_bytes is None:
        raise UnsupportedError(f"{lowest.model.name}: KV cache or activations are not known")
    if lowest.spare_bytes < 0:
        raise JobError(_too_large(ladder, lowest))
    least, weights = ladder.gpu_bytes(0), share.weights_bytes

    engine = ENGINES[lowest.engine]

    def overhead(more: int) -> int:
        parts = overhead_parts(engine, lowest.options, weights=weights + more, memory=gpu.memory_bytes)
        return sum(part.bytes for part in parts)

    room = gpu.memory_bytes - share.kv_cache_bytes - share.activations_bytes - weights
    more = largest(lambda count: count + overhead(count), room, room)
    return Budget(
        memory_bytes=gpu.memory_bytes,
        kv_cache_bytes=share.kv_cache_bytes,
        activations_bytes=share.activations_bytes,
        overhead_bytes=room - more,
        kept_bytes=weights - least,
        quantizable_bytes=least + more,
    )


def most_bits(ladder: Ladder, budget: Budget) -> float:
    """Average bits of a quantizable weight in the file that use the budget up exactly, scales included.

    What a choice has on the GPU beside its file (EXL2: a map of its groups) does not depend on the bits.
    """
    beside = ladder.gpu_bytes(0) - ladder.file_bytes(0)
    return 8 * (budget.quantizable_bytes - beside) / ladder.weights


def average_format(ladder: Ladder, bits: float) -> Format | None:
    """The largest EXL2 or EXL3 whose matrices have these bits in the file, in hundredths.

    EXL3 pads matrices, so that its own number is smaller. None for choices that are no averages.
    """
    name, (low, *_, high) = ladder.formats[0].name, ladder.formats
    if not name.startswith(("exl2:", "exl3:")) or low.bits is None or high.bits is None:
        return None
    first, *_, last = ladder.choices()
    share = (bits - first.bits_per_weight) / (last.bits_per_weight - first.bits_per_weight)
    number = low.bits + Fraction(min(1.0, max(0.0, share))) * (high.bits - low.bits)
    return find_format(f"{name[:5]}{float(Fraction(floor(100 * number), 100)):.2f}")


def mixture_of(allocation: Allocation, serving: Serving, order: Sequence[str]) -> Mixture:
    """The record of a mixture, and of the model that is served with it."""
    return Mixture(
        order=tuple(order),
        rows=tuple(
            MixtureRow(
                role=part.role,
                layers=part.layers,
                choice=part.choice,
                tensors=part.tensors,
                weights=part.elements,
                bits_per_weight=part.bits,
                file_bytes=part.file_bytes,
                gpu_bytes=part.gpu_bytes,
            )
            for part in allocation.parts()
        ),
        gpu_bytes=allocation.gpu_bytes,
        file_bytes=allocation.file_bytes,
        left_bytes=allocation.left_bytes,
        bits_per_weight=float(allocation.bits),
        model_file_bytes=serving.weights.file_bytes,
        model_bits_per_weight=serving.weights.bits_per_weight,
        max_context=serving.max_context,
        tokens_per_second=serving.speed.tokens_per_second if serving.speed else None,
    )


def _too_large(ladder: Ladder, lowest: Serving) -> str:
    """What is missing, the largest part, and what would make it smaller."""
    share, gpu = lowest.per_gpu, lowest.gpu
    assert gpu is not None
    parts = {
        "weights": (share.weights_bytes, "take a smaller model or a larger --gpu, or --choices with fewer bits"),
        "KV cache": (share.kv_cache_bytes or 0, "lower --context or --batch, or take --kv-dtype fp8"),
        "activations": (share.activations_bytes or 0, "lower --prefill-chunk or --batch"),
        "overhead": (share.overhead_bytes, "see --reserve and --overhead, or take a larger --gpu"),
    }
    sizes = ", ".join(f"{name} {format_bytes(size)}" for name, (size, _) in parts.items())
    name = max(parts, key=lambda part: parts[part][0])
    return (
        f"{lowest.model.name} does not fit in {format_bytes(gpu.memory_bytes)} at {lowest.context:,} tokens even as "
        f"{ladder.formats[0].name}, it needs {format_bytes(share.total_bytes)} ({sizes}); most is {name}: "
        f"{parts[name][1]}"
    )
