"""One file from its load to its save: the tensors that are there, and what each weight takes beside them.

llmcompressor/entrypoints/model_free/__init__.py _process_shard. What was loaded stays until all weights are quantized:
`process` splits it into a dictionary of its own, and its caller still holds the one that was loaded. So the originals,
the results so far and the work on one weight are there together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from planner.compress.context import Context
from planner.compress.ledger import Ledger
from planner.errors import ModelError
from planner.job import Job
from planner.modelfree.checkpoint import TORCH_NAMES, split_name
from planner.modelfree.converters import ConverterSpec, Dequantizing
from planner.modelfree.fused import fused_sets
from planner.modelfree.jobs import FileJob
from planner.modelfree.passage import Passage, WorkPlace, passage, sections_of
from planner.modelfree.rules import Rules
from planner.modelfree.weights import Matrix
from planner.recipe.specs import Scheme
from planner.recipe.targets import LinearModule
from planner.sizing.saved import SavedTensor, compressed_tensors

FLOATING = ("F64", "F32", "F16", "BF16")
"""Types that torch.nn.Linear initializes: a weight of another type stops the job."""
SPLIT = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""converter.py split_fused_moe_experts: names of fused experts, and what each expert gets of them."""


class Sink(Protocol):
    """Who is told what a file's job takes and gives back, in order."""

    def take(self, name: str, nbytes: int) -> None:
        """A tensor of the file is there."""

    def give(self, name: str) -> None:
        """It is gone."""

    def work(self, owner: str, found: Passage, number: int) -> None:
        """A section of a weight's passage, whose tensors are called after the owner."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A tensor at which the library stops, and why."""

    tensor: str
    why: str


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that go together through one passage; a single one, or a fused set."""

    names: tuple[str, ...]
    matrices: tuple[Matrix, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """What is done with one file: in this order."""

    job: FileJob
    converted: tuple[tuple[tuple[str, ...], tuple[SavedTensor, ...], Dequantizing | None], ...]
    """(tensors that go, tensors that come, the work) of each conversion."""
    order: tuple[tuple[int, int], ...]
    """(number of the weights, section) one after the other."""
    weights: tuple[Weights, ...]
    saved: tuple[SavedTensor, ...]
    stops: tuple[Stop, ...] = field(default=())

    @property
    def signature(self) -> object:
        """Equal where the same is done."""
        sizes = tuple(tensor.bytes for tensor in self.job.tensors)
        works = tuple(work for _, _, work in self.converted)
        return sizes, works, self.order, tuple(each.matrices for each in self.weights)

    def play(self, sink: Sink, place: WorkPlace) -> None:
        """Tell the sink all of it, up to the save, after which the file's tensors are gone."""
        for tensor in self.job.tensors:
            sink.take(tensor.name, tensor.bytes)
        for gone, made, work in self.converted:
            if work is not None:
                sink.work(made[0].name, _converting(work, place), 0)
                for name in gone:
                    sink.give(name)
        for number, section in self.order:
            each = self.weights[number]
            sink.work(each.names[0], passage(each.matrices, place), section)


def plan_file(job: FileJob, rules: Rules, converters: Sequence[ConverterSpec]) -> FilePlan:
    """What is done with the file of this job. Raises ModelError, JobError where the library cannot begin with it."""
    tensors = {tensor.name: tensor for tensor in job.tensors}
    converted = []
    for converter in converters:
        for step in list(converter.conversions(tensors)):
            for name in step.gone:
                tensors.pop(name, None)
            tensors.update((made.name, made) for made in step.made)
            converted.append((step.gone, step.made, step.work))
    tensors = {tensor.name: tensor for tensor in split_experts(tensors.values())}
    chosen, stops = _chosen(tensors, rules)
    weights, order = _in_order(chosen, tuple(tensors) if rules.has_fused else ())
    return FilePlan(
        job=job,
        converted=tuple(converted),
        order=order,
        weights=weights,
        saved=tuple(_saved(tensors, chosen)),
        stops=stops,
    )


def split_experts(tensors: Iterable[SavedTensor]) -> Iterator[SavedTensor]:
    """converter.py split_fused_moe_experts: views, which take nothing. Raises ModelError where it cannot split."""
    for tensor in tensors:
        keys = [key for key in SPLIT if key in tensor.name]
        if len(keys) != 1 or len(tensor.shape) != 3:
            yield tensor
            continue
        (key,), (experts, rows, columns) = keys, tensor.shape
        parts = SPLIT[key]
        if rows % len(parts):
            raise ModelError(
                f"{tensor.name}: {rows} rows do not split into {' and '.join(parts)}, so the library stops"
            )
        for expert in range(experts):
            for part in parts:
                name = tensor.name.replace(key, f"{expert}.{part}").removesuffix(".weight") + ".weight"
                yield SavedTensor(name=name, type=tensor.type, shape=(rows // len(parts), columns))


def _chosen(tensors: Mapping[str, SavedTensor], rules: Rules) -> tuple[dict[str, Matrix], tuple[Stop, ...]]:
    """The weights that are quantized, and those at which the library stops."""
    chosen: dict[str, Matrix] = {}
    stops: list[Stop] = []
    for name, scheme in rules.matched(tuple(tensors)):
        tensor = tensors[name]
        why = _cannot_be_quantized(tensor) or (
            rules.renamed_observer and f"no observer is called {rules.renamed_observer}"
        )
        if why is None:
            matrix = matrix_of(tensor, scheme)
            if (why := matrix.refusal()) is None:
                chosen[name] = matrix
                continue
        stops.append(Stop(name, why))
    return chosen, tuple(stops)


def _cannot_be_quantized(tensor: SavedTensor) -> str | None:
    if len(tensor.shape) != 2:
        return f"it has {len(tensor.shape)} dimensions, not 2"
    if tensor.type not in FLOATING:
        return f"it is {tensor.type}, of which PyTorch makes no Linear; dequantize it with a converter"
    return None


def matrix_of(tensor: SavedTensor, scheme: Scheme) -> Matrix:
    """The weight under its scheme."""
    rows, columns = tensor.shape
    plain = replace(scheme, targets=(), where="")
    return Matrix(rows=rows, columns=columns, itemsize=tensor.bytes // (rows * columns), scheme=plain)


def _in_order(
    chosen: Mapping[str, Matrix], names: Sequence[str]
) -> tuple[tuple[Weights, ...], tuple[tuple[int, int], ...]]:
    """converter.py _process_microscale: fused weights are initialized in turn, and quantized set by set at last."""
    sets = {name: number for number, found in enumerate(fused_sets(names)) for name in found}
    together: dict[int, list[str]] = {}
    for name, matrix in chosen.items():
        if matrix.is_fused and name in sets:
            together.setdefault(sets[name], []).append(name)
    numbers: dict[int, int] = {}
    weights: list[Weights] = []
    order: list[tuple[int, int]] = []
    for name, matrix in chosen.items():
        found = sets.get(name) if matrix.is_fused else None
        if found is None:
            weights.append(Weights((name,), (matrix,)))
            order += [(len(weights) - 1, section) for section in range(2 if matrix.is_fused else 1)]
            continue
        if found not in numbers:
            numbers[found] = len(weights)
            group = together[found]
            weights.append(Weights(tuple(group), tuple(chosen[each] for each in group)))
        order.append((numbers[found], together[found].index(name)))
    order += [(number, len(together[found])) for found, number in numbers.items()]
    return tuple(weights), tuple(order)


def _saved(tensors: Mapping[str, SavedTensor], chosen: Mapping[str, Matrix]) -> Iterator[SavedTensor]:
    """What is written."""
    for name, tensor in tensors.items():
        matrix = chosen.get(name)
        if matrix is None:
            yield tensor
            continue
        module = LinearModule(
            name=split_name(name)[0],
            rows=matrix.rows,
            columns=matrix.columns,
            itemsize=matrix.itemsize,
            scheme=matrix.scheme,
        )
        yield from compressed_tensors(module, TORCH_NAMES[tensor.type])


@lru_cache(maxsize=1024)
def _converting(work: Dequantizing, place: WorkPlace) -> Passage:
    """A conversion on a device."""
    ledger = Ledger(keep="timeline")
    work.play(Context(Job(), ledger, cuda=place.build, device=place.device))
    ledger.close_step()
    return sections_of(ledger, place.device, list(ledger.timeline(place.device).ends))
