"""One `model_free_ptq` call in, one plan out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner.cuda.build import CudaBuild
from planner.errors import JobError, ModelError
from planner.hardware.demand import fits
from planner.hardware.gpus import CUDA_CONTEXT
from planner.hardware.machine import Machine
from planner.hints import few
from planner.job import DEFAULT_SM, Build, dtype_named
from planner.modelfree.assume import SHARD, assumed_checkpoint
from planner.modelfree.card import CardOfFiles, CountedFile
from planner.modelfree.checkpoint import Checkpoint, in_files, split_name
from planner.modelfree.converters import EMBEDDINGS, ConverterSpec, converter_of
from planner.modelfree.files import FilePlan, Stop, plan_file
from planner.modelfree.host import host_of_files
from planner.modelfree.jobs import file_jobs
from planner.modelfree.passage import WorkPlace
from planner.modelfree.read import folder_of, read_checkpoint, read_config
from planner.modelfree.rules import AnyScheme, Rules, rules_of
from planner.modelfree.schema import FileUse, ModelFreeDisk, ModelFreeGpu, ModelFreePlan, Where
from planner.modelfree.sinks import Tally, tally
from planner.models.source import Named, load_source
from planner.notes import Note
from planner.sizing.demands import CardNeed, DiskNeed, RamNeed, demands_on
from planner.sizing.saved import header_bytes
from planner.upstream import LLMCOMPRESSOR_VERSION

MAX_WORKERS = 10_000
TABLES = (*EMBEDDINGS, "lm_head", "embed_out")
"""What embeddings and heads are called."""
REHEARSAL = WorkPlace(device="gpu", is_meta=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFreeOptions:
    """What `model_free_ptq` is told beside the scheme, and what planner must assume of the checkpoint."""

    max_workers: int = 1
    device: Where | None = None
    """None: the GPU, unless the machine has none."""
    dtype: str = "bfloat16"
    """Of a checkpoint that is not here."""
    shard_bytes: int = SHARD
    """Of its files."""
    cuda_context_bytes: int = CUDA_CONTEXT


def model_free(
    model: Named,
    scheme: AnyScheme | None = None,
    *,
    config_groups: Mapping[str, Any] | None = None,
    ignore: Iterable[str] = (),
    converter: Any = None,
    converter_targets: Iterable[str] = (),
    converter_ignore: Iterable[str] = (),
    options: ModelFreeOptions | None = None,
    machine: Machine | None = None,
) -> ModelFreePlan:
    """Plan one `model_free_ptq` call: GPU, RAM and disk, file by file.

    The model: a folder of safetensors or a Hub id in the local cache, whose headers are read; or a preset, config.json
    or Hub id, whose files are assumed. `scheme` is a preset's name, a mapping or a QuantizationScheme; `converter` one
    of the library's own, or its name with targets and ignores.

    Raises ModelError, RecipeError, JobError or UnsupportedError: also where the library stops before its first file.
    """
    chosen = options or ModelFreeOptions()
    if not 1 <= chosen.max_workers <= MAX_WORKERS:
        raise JobError(f"max_workers {chosen.max_workers}: write a number from 1 to {MAX_WORKERS:,}")
    rules = rules_of(scheme, config_groups, ignore)
    folder = folder_of(str(model)) if isinstance(model, str) or hasattr(model, "__fspath__") else None
    config = _config(model, folder) if converter is not None else None
    spec = converter_of(converter, converter_targets, converter_ignore, config)
    checkpoint, beside = _checkpoint(model, folder, spec, chosen)
    return plan_checkpoint(checkpoint, rules, spec, chosen, machine, beside)


def plan_checkpoint(
    checkpoint: Checkpoint,
    rules: Rules,
    converter: ConverterSpec | None = None,
    options: ModelFreeOptions | None = None,
    machine: Machine | None = None,
    beside: Sequence[str] = (),
) -> ModelFreePlan:
    """The plan of a call whose checkpoint and rules are known. `beside`: what else the real checkpoint holds, in words.

    Pure: no torch, no files. Raises ModelError, JobError where the library stops before its first file.
    """
    return _Planned(checkpoint, rules, converter, options or ModelFreeOptions(), machine).plan(beside)


def _config(model: Named, folder: Any) -> Mapping[str, Any] | None:
    """config.json, of the folder or of a model whose files are assumed."""
    return read_config(folder) if folder is not None else load_source(model).config


def _checkpoint(
    model: Named, folder: Any, spec: ConverterSpec | None, chosen: ModelFreeOptions
) -> tuple[Checkpoint, tuple[str, ...]]:
    if folder is not None:
        return read_checkpoint(folder, str(model)), ()
    build = Build(dtype=dtype_named(chosen.dtype))
    checkpoint, beside = assumed_checkpoint(model, build, chosen.shard_bytes)
    if spec is None:
        return checkpoint, beside
    tensors = [tensor for tensors in checkpoint.files.values() for tensor in tensors]
    files = in_files(spec.quantized(tensors), chosen.shard_bytes)
    return replace(checkpoint, files=files, has_index=len(files) > 1), beside


class _Planned:
    """A call whose checkpoint and rules are known."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        rules: Rules,
        spec: ConverterSpec | None,
        chosen: ModelFreeOptions,
        machine: Machine | None,
    ) -> None:
        self.checkpoint, self.rules, self.chosen, self.machine = checkpoint, rules, chosen, machine
        self.converters = () if spec is None else (spec,)
        has_none = machine is not None and machine.gpus == 0
        self.device: Where = chosen.device or ("cpu" if has_none else "gpu")
        sm = DEFAULT_SM if machine is None or machine.sm is None else machine.sm
        self.place = (
            WorkPlace(device="gpu", build=CudaBuild(sm=sm)) if self.device == "gpu" else WorkPlace(device="cpu")
        )
        self.cards = max(1, machine.gpus) if machine is not None and chosen.max_workers > 1 else 1

    def plan(self, beside: Sequence[str]) -> ModelFreePlan:
        jobs = file_jobs(self.checkpoint, self.rules, self.converters)
        plans = [plan_file(job, self.rules, self.converters) for job in jobs]
        if not any(plan.weights for plan in plans) and not any(plan.stops for plan in plans):
            raise ModelError(f"{self.checkpoint.name}: the scheme and its ignores leave no weight to quantize")
        counted = tuple(self._counted(plans))
        card = self._card(counted) if self.device == "gpu" else None
        gpu, notes = self._gpu(card) if card is not None else (None, ())
        host = host_of_files(counted, self.device, min(self.chosen.max_workers, len(counted)))
        found = ModelFreePlan(
            model=self.checkpoint.name,
            scheme=self.rules.name,
            ignore=self.rules.ignore,
            converter=self.converters[0].type if self.converters else None,
            device=self.device,
            max_workers=self.chosen.max_workers,
            llmcompressor_version=LLMCOMPRESSOR_VERSION,
            checkpoint_bytes=self.checkpoint.bytes,
            quantized=sum(len(each.names) for plan in plans for each in plan.weights),
            files=tuple(map(_use, counted)),
            gpu=gpu,
            host=host,
            disk=_disk(self.checkpoint, plans),
            notes=(*self._notes(plans, beside), *notes),
        )
        return self._judged(found, card)

    def _counted(self, plans: Sequence[FilePlan]) -> Iterable[CountedFile]:
        known: dict[object, tuple[Tally, int]] = {}
        for plan in plans:
            if (like := known.get(plan.signature)) is None:
                found = tally(plan, self.place, with_originals=self.device == "gpu")
                like = known[plan.signature] = found, tally(plan, REHEARSAL).peak
            yield CountedFile(plan=plan, tally=like[0], estimate=like[1])

    def _card(self, counted: Sequence[CountedFile]) -> CardOfFiles:
        each = -(-min(self.chosen.max_workers, len(counted)) // self.cards)
        return CardOfFiles(counted, self.place, each, self.chosen.cuda_context_bytes)

    def _gpu(self, card: CardOfFiles) -> tuple[ModelFreeGpu, tuple[Note, ...]]:
        at_once = card.at_once()
        parts: dict[str, int] = {}
        for each in at_once:
            for part, size in each.tally.parts.items():
                parts[part] = parts.get(part, 0) + size
        gpu = ModelFreeGpu(
            files_at_once=len(at_once),
            requested_bytes=sum(each.tally.peak for each in at_once),
            parts=parts,
            # the allocator is followed with the files in turns, so it may not see all peaks together
            reserved_bytes=max(card.reserved(), sum(each.tally.peak for each in at_once)),
            context_bytes=self.chosen.cuda_context_bytes,
            smallest_card_bytes=card.smallest(),
        )
        return gpu, tuple(_card_notes(card, self.chosen.max_workers))

    def _notes(self, plans: Sequence[FilePlan], beside: Sequence[str]) -> Iterable[Note]:
        if self.checkpoint.assumed is not None:
            yield Note(kind="model", text=self.checkpoint.assumed)
        for text in beside:
            yield Note(kind="model", text=f"The real checkpoint holds more, which is not counted: {text}.")
        if stops := [stop for plan in plans for stop in plan.stops]:
            yield Note(kind="fails", text=_stops(stops))
        if self.device == "cpu" and any(_is_packed(plan) for plan in plans):
            text = (
                "On the CPU malloc keeps free memory between weights that are packed into int32, which is not counted: "
                "0 to 0.45 GB in three runs of 0.6 to 1.2 GB checkpoints."
            )
            yield Note(kind="estimate", text=text)
        if self.device == "cpu" and self.chosen.max_workers > 1:
            yield Note(
                kind="job", text="On the CPU the library takes one file after the other, whatever max_workers says."
            )
        if tables := [name for plan in plans for each in plan.weights for name in each.names if _is_table(name)]:
            text = f"Names alone decide, so {few(tables)} is quantized like any Linear; --ignore leaves it as it is."
            yield Note(kind="recipe", text=text)
        foreign = sum(plan.job.foreign for plan in plans)
        if foreign:
            text = f"{foreign:,} tensors are loaded with a file that they do not lie in, because they belong together."
            yield Note(kind="job", text=text)

    def _judged(self, found: ModelFreePlan, card: CardOfFiles | None) -> ModelFreePlan:
        machine = self.machine
        if machine is None:
            return found
        need = CardNeed(device_total=0, smallest=0)
        if card is not None and found.gpu is not None:
            size = machine.gpu_memory_bytes if machine.gpus else None
            outcome = card.on(size) if size else None
            need = CardNeed(
                device_total=found.gpu.device_total_bytes,
                smallest=found.gpu.smallest_card_bytes,
                retries=outcome.retries if outcome else 0,
                runs_out=bool(outcome and outcome.runs_out),
            )
        ram = RamNeed(resident=found.host.resident_bytes, must_have=found.host.must_have_bytes, is_process=True)
        demands = demands_on(machine, need, ram, DiskNeed(results=found.disk.written_bytes, cache=0))
        fails = any(note.kind == "fails" for note in found.notes)
        update = {"machine": machine, "demands": demands, "fits": "no" if fails else fits(demands)}
        return found.model_copy(update=update)


def _is_packed(plan: FilePlan) -> bool:
    return any(matrix.storage == "pack-quantized" for each in plan.weights for matrix in each.matrices)


def _is_table(name: str) -> bool:
    """The weight of an embedding or of a head, by the names that these have."""
    return split_name(name)[0].rpartition(".")[2] in TABLES


def _use(each: CountedFile) -> FileUse:
    plan = each.plan
    return FileUse(
        file=plan.job.file,
        loaded_bytes=each.tally.loaded,
        foreign=plan.job.foreign,
        quantized=sum(len(weights.names) for weights in plan.weights),
        peak_bytes=each.tally.peak,
        at=each.tally.owner,
        parts={part: size for part, size in each.tally.parts.items() if size},
        estimate_bytes=each.estimate,
        saved_bytes=sum(tensor.bytes for tensor in plan.saved) + header_bytes(plan.saved, {}),
    )


def _disk(checkpoint: Checkpoint, plans: Sequence[FilePlan]) -> ModelFreeDisk:
    tensors = sum(tensor.bytes for plan in plans for tensor in plan.saved)
    return ModelFreeDisk(
        read_bytes=sum(tensor.bytes for plan in plans for tensor in plan.job.tensors) + checkpoint.other_bytes,
        tensor_bytes=tensors,
        header_bytes=sum(header_bytes(plan.saved, {}) for plan in plans),
        index_bytes=_index_bytes(plans, tensors),
        copied_bytes=checkpoint.other_bytes,
        files=len(plans),
    )


def _index_bytes(plans: Sequence[FilePlan], total: int) -> int:
    """compressed_tensors utils/safetensors_load.py update_safetensors_index."""
    names = {tensor.name: plan.job.file.rpartition("/")[2] for plan in plans for tensor in plan.saved}
    return len(json.dumps({"metadata": {"total_size": total}, "weight_map": names}, indent=2, sort_keys=True))


def _stops(stops: Sequence[Stop]) -> str:
    first = stops[0]
    more = f" ({len(stops) - 1:,} more would stop it, too)" if len(stops) > 1 else ""
    return f"model_free_ptq stops at {first.tensor}: {first.why}{more}. Add what it should leave alone to ignore."


def _card_notes(card: CardOfFiles, workers: int) -> Iterable[Note]:
    low = [each for each in card.files if each.estimate < each.tally.peak]
    if low:
        worst = max(low, key=lambda each: each.tally.peak - each.estimate)
        text = (
            f"The library schedules by its own estimate, which is below what a file takes: {worst.plan.job.file} is "
            f"estimated at {worst.estimate / 1e9:.2f} GB and takes {worst.tally.peak / 1e9:.2f} GB, so it may begin "
            "more files than the card has room for."
        )
        yield Note(kind="job", text=text)
    if workers > 1:
        text = (
            "Files that run at a time are counted at their peaks together, which is the most that can happen; "
            "PyTorch's allocator is followed with the files in turns, and threads may meet otherwise."
        )
        yield Note(kind="estimate", text=text)
    text = "What a worker's last modules hold can stay until Python's collector runs: a few results of the file before."
    yield Note(kind="estimate", text=text)
