"""One training job in, one TrainingPlan out: where tensors, traces and sharding meet.

How a step is sized. Two moments can be the highest of a step, and a plan has both: the middle of the backward, where
activations are highest, and the optimizer's step, where they are gone but its temporaries are there.

    states       trained.py sorts a model's tensors into trained and frozen ones; strategies.py has a row for each way
                 to share them out (ZeRO, FSDP, ...): which copies are whole, which in shards, what is gathered, and the
                 library's buffers; sharding.py adds a row up for one GPU and one node
    activations  tracing.py runs one micro batch of text forward and backward without data, each kind of layer once;
                 trace.py walks the layers and finds the highest point, with or without checkpointing
    optimizer    optimizers.py: what each keeps of a tensor, and what its step works with

A trace depends on model, batch, precision and adapters, not on the number of GPUs: every sharding and offload of the
table of choices is arithmetic on the same few traces. Only tracing.py and kernels.py import torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from planner.errors import JobError, UnsupportedError
from planner.fields import DType
from planner.hardware import Gpu, find_gpu, size_notes
from planner.serving.engines.facts import CONTEXT_SOURCE, PYTORCH_CONTEXT
from planner.serving.rules_of_thumb import training_rule
from planner.training.lora import share
from planner.training.notes import notes_on
from planner.training.schema import (
    Memory,
    Moment,
    Offload,
    OffloadTo,
    Part,
    Sharding,
    StepActivations,
    Trained,
    TrainingChoice,
    TrainingPlan,
    TrainOptions,
)
from planner.training.sharding import Placed, copies_of, place, refused
from planner.training.strategies import STRATEGIES
from planner.training.trace import Checkpointing, StepPeak, TraceRequest, TrainingTrace, step_peak
from planner.training.trained import Parts, split
from planner.units import human_bytes

if TYPE_CHECKING:
    from planner.formats.served_model import ServedModel

OFFLOADS: tuple[tuple[Offload, OffloadTo], ...] = (
    ("none", "cpu"),
    ("optimizer", "cpu"),
    ("optimizer+params", "cpu"),
    ("optimizer", "nvme"),
    ("optimizer+params", "nvme"),
)

Traces = Callable[[TraceRequest], TrainingTrace]


def train(model: str, options: TrainOptions | None = None) -> TrainingPlan:
    """Plan one training job of a preset, config.json, folder or Hub id.

    Raises ModelError, JobError, or UnsupportedError where a training step does not run without data.
    """
    options = options or TrainOptions()
    from planner.models.source import load_source
    from planner.serving.model import load_served
    from planner.training.tracing import trace_training

    _refuse_idle(options)
    if reason := refused(options.sharding, options.offload, options.offload_to, options.optimizer):
        raise JobError(f"--sharding {options.sharding} --offload {options.offload}: {reason}")
    served, _ = load_served(model)
    source = load_source(model)
    layers = [unit.name for unit in served.graph.units if unit.kind == "decoder"]
    return plan_training(served, options, cache(lambda request: trace_training(source, request, layers)))


def plan_training(served: "ServedModel", options: TrainOptions, traces: Traces) -> TrainingPlan:
    """Plan a job of a model that is read already; `traces` runs its forward and backward."""
    options = options.model_copy(update={"checkpointing": checkpointing_of(options)})
    job = _Job(served, options, split(served, options), traces)
    gpu = find_gpu(options.gpu) if options.gpu else None
    moments, placed, peak = job.moments(options.sharding, options.offload, options.offload_to)
    highest = max(moments, key=lambda moment: moment.total_bytes)
    trace = job.trace(options.sharding)
    states = job.parts.states
    fits, choices = _fits(highest.total_bytes, gpu), tuple(job.choices(gpu))
    return TrainingPlan(
        model=Trained(
            name=served.name,
            architecture=served.architecture,
            parameters=served.parameters,
            trained_parameters=states.trained,
            trained_percent=_percent(served, options, states.trained),
        ),
        options=options,
        per_gpu=highest,
        moments=moments,
        activations=StepActivations(
            kept_bytes=trace.saved - trace.casts,
            weight_copies_bytes=trace.casts,
            checkpointing=checkpointing_of(options),
            highest=peak.where,
        ),
        node_ram=_memory(placed.ram),
        node_nvme=_memory(placed.nvme),
        gpu_name=gpu.name if gpu else None,
        gpu_memory_bytes=gpu.memory_bytes if gpu else None,
        fits=fits,
        advice=job.advice(gpu, choices) if fits is False else "",
        choices=choices,
        rule=_rule(served, options),
        notes=(*served.notes, *trace.notes, *notes_on(served, options, job.parts), *size_notes(gpu)),
    )


def checkpointing_of(options: TrainOptions) -> Checkpointing:
    """As asked; else what the libraries do: prepare_model_for_kbit_training turns it on, the Trainer does not."""
    return options.checkpointing or ("full" if options.method == "qlora" else "none")


class _Job:
    """One model and what is asked, under every sharding."""

    def __init__(self, served: "ServedModel", options: TrainOptions, parts: Parts, traces: Traces) -> None:
        self.served, self.options, self.parts, self.traces = served, options, parts, traces

    def trace(self, sharding: Sharding) -> TrainingTrace:
        """The micro batch as it runs under this sharding."""
        options, parts, strategy = self.options, self.parts, STRATEGIES[sharding]
        full, mixed = options.method == "full", options.precision.endswith("mixed")
        half: DType = "float16" if options.precision == "fp16-mixed" else "bfloat16"
        copies = strategy.copies(options.precision, options.method, "none")
        forward_item = copies.weight if strategy.whole_weights else copies.gathered
        wide = options.precision == "fp32" or (full and forward_item == 4)
        autocast = mixed and not strategy.casts_weights
        return self.traces(
            TraceRequest(
                seq_len=options.seq_len,
                batch_size=options.batch_size,
                attention=options.attention,
                checkpointing=checkpointing_of(options),
                dtype="float32" if wide else half,
                autocast=half if autocast else None,
                trainable=full,
                adapters=parts.adapters,
                rank=options.rank,
                dropout=options.dropout,
                quantized=parts.quantized,
                cast=not full and not wide and strategy.casts_weights,
            )
        )

    def moments(
        self, sharding: Sharding, offload: Offload, to: OffloadTo
    ) -> tuple[tuple[Moment, ...], Placed, StepPeak]:
        """The points of a step on one GPU, what lies elsewhere, and the highest point of the micro batch."""
        options = self.options
        copies = copies_of(options.precision, sharding, options.method, offload)
        ranks = min(options.gpus, options.gpus_per_node)
        placed = place(self.parts.states, copies, sharding, offload, to, options.gpus, ranks)
        growing = placed.growing and options.grad_accumulation == 1
        trace = _dequantizing(self.trace(sharding), self.parts.dequantized)
        peak = step_peak(trace, growing=growing)
        base = [*placed.resident, Part(name="CUDA context", bytes=PYTORCH_CONTEXT, source=CONTEXT_SOURCE)]
        all_gradients = Part(name="gradients", bytes=placed.gradients, source="of every trained weight on this GPU")
        during = Part(name="gradients", bytes=peak.gradients, source="of the layers that are done") if growing else None
        micro = [*base, during or all_gradients, *placed.backward, *self._activations(trace, peak)]
        step = [*base, all_gradients, *placed.step]
        return (_moment("forward and backward", micro), _moment("optimizer step", step)), placed, peak

    def _activations(self, trace: TrainingTrace, peak: StepPeak) -> list[Part]:
        in_layer = peak.where.endswith(tuple(piece.name for piece in trace.pieces))
        dequantized = self.parts.dequantized if in_layer else 0
        what = "one 4-bit Linear in 16 bit (bitsandbytes MatMul4Bit)"
        return [
            Part(name="activations", bytes=peak.saved, source="kept for the backward, traced"),
            Part(name="working memory", bytes=peak.working - dequantized, source=f"{peak.where}, traced"),
            Part(name="autocast copies", bytes=peak.casts, source="16-bit copies of 32-bit weights, traced"),
            Part(name="dequantized weight", bytes=dequantized, source=what),
        ]

    def choices(self, gpu: Gpu | None) -> list[TrainingChoice]:
        """Every sharding and offload, those that the libraries do not offer with their reason."""
        return [self._choice(sharding, offload, to, gpu) for sharding in STRATEGIES for offload, to in OFFLOADS]

    def _choice(self, sharding: Sharding, offload: Offload, to: OffloadTo, gpu: Gpu | None) -> TrainingChoice:
        reason = refused(sharding, offload, to, self.options.optimizer)
        if reason:
            total = ram = nvme = None
        else:
            moments, placed, _ = self.moments(sharding, offload, to)
            total = max(moment.total_bytes for moment in moments)
            ram, nvme = _memory(placed.ram).total_bytes, _memory(placed.nvme).total_bytes
        return TrainingChoice(
            sharding=sharding,
            offload=offload,
            offload_to=None if offload == "none" else to,
            per_gpu_bytes=total,
            node_ram_bytes=ram,
            node_nvme_bytes=nvme,
            fits=None if total is None else _fits(total, gpu),
            reason=reason,
        )

    def advice(self, gpu: Gpu | None, choices: Sequence[TrainingChoice]) -> str:
        """Checkpointing where that is enough, else the sharding and offload, with or without it, that moves the least.

        The least into NVMe, then into CPU memory; checkpointing only where that saves some.
        """
        options = self.options.model_copy(update={"checkpointing": "full"})
        job = _Job(self.served, options, self.parts, self.traces)
        moments, _, _ = job.moments(options.sharding, options.offload, options.offload_to)
        total = max(moment.total_bytes for moment in moments)
        if _fits(total, gpu):
            return f"--checkpointing full would fit, with {human_bytes(total)}"
        ways = [("", choice) for choice in choices if choice.fits]
        ways += [("--checkpointing full ", choice) for choice in job.choices(gpu) if choice.fits]
        if not ways:
            return "no sharding and offload in the table fits, with --checkpointing full neither"
        prefix, best = min(ways, key=lambda way: (way[1].node_nvme_bytes or 0, way[1].node_ram_bytes or 0, way[0]))
        to = f" --offload-to {best.offload_to}" if best.offload_to == "nvme" else ""
        offload = "" if best.offload == "none" else f" --offload {best.offload}{to}"
        return f"{prefix}--sharding {best.sharding}{offload} would fit"


def _dequantizing(trace: TrainingTrace, count: int) -> TrainingTrace:
    """The same with `count` more bytes while a decoder layer runs: 4-bit Linears are in decoder layers alone."""
    pieces = [
        replace(
            piece,
            forward_peak=piece.forward_peak + count,
            backward_peak=piece.backward_peak + count,
            backward_peak_growing=piece.backward_peak_growing + count,
        )
        for piece in trace.pieces
    ]
    return replace(trace, pieces=tuple(pieces))


def _refuse_idle(options: TrainOptions) -> None:
    """Raise JobError for an option that would do nothing."""
    default = TrainOptions()
    if options.method == "full":
        for name in ("rank", "targets", "dropout"):
            if getattr(options, name) != getattr(default, name):
                raise JobError(f"--{name}: full training has no adapters; add --method lora or qlora")
    if options.offload == "none" and options.offload_to != default.offload_to:
        raise JobError(f"--offload-to {options.offload_to}: nothing is offloaded; add --offload optimizer")


def _moment(name: str, parts: list[Part]) -> Moment:
    nonzero = tuple(part for part in parts if part.bytes)
    return Moment(name=name, total_bytes=sum(part.bytes for part in nonzero), parts=nonzero)


def _memory(parts: tuple[Part, ...]) -> Memory:
    return Memory(total_bytes=sum(part.bytes for part in parts), parts=parts)


def _fits(total: int, gpu: Gpu | None) -> bool | None:
    return None if gpu is None else total <= gpu.memory_bytes


def _percent(served: "ServedModel", options: TrainOptions, trained: int) -> float:
    return 100 * trained / served.parameters if options.method == "full" else share(trained, served.parameters)


def _rule(served: "ServedModel", options: TrainOptions) -> dict[str, int] | None:
    """The rule speaks of whole models: not of adapters, and not of every optimizer."""
    if options.method != "full":
        return None
    try:
        return training_rule(served.parameters * (4 if options.precision == "fp32" else 2), options.optimizer)
    except UnsupportedError:
        return None
