"""AutoRoundModifier: llmcompressor/modifiers/autoround/base.py 0.14.0.1 over the package auto_round 0.15.1.

While a layer is calibrated, a hook keeps what it is passed, on the CPU. At the epoch's end its Linears are trained
together: rounding and clipping of every weight get gradients in a few hundred forwards and backwards of the whole
layer, batch by batch. What the GPU holds meanwhile is traced (planner/models/tuning.py); what surrounds it is here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, ClassVar, Self

from pydantic import Field

from planner.compress.batches import walk_batches
from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.compress.modifiers.autoround_schemes import cards_of, linear_tuning, rounding
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.mixin import QuantizationMixinSpec, shared_fields
from planner.compress.modifiers.trained_weights import TrainedWeights
from planner.compress.modifiers.training import TrainedLayer, all_qparams, data_parallel
from planner.errors import RecipeError, UnsupportedError
from planner.models.traces import Call
from planner.models.tuned import Rounding, Spread, TunedBlock, TuningRequest, replaced
from planner.notes import Note
from planner.recipe.matching import Patterns
from planner.recipe.qparams import weight_qparam_bytes
from planner.recipe.schemes import QuantizationFields
from planner.recipe.specs import ModuleRef, Scheme
from planner.recipe.targets import LinearModule
from planner.recipe.validation import must_calibrate, validated
from planner.timeline import Handle
from planner.units import FP32

PASS = 8
"""auto_round algorithms/block_runner.py from_orchestrator: samples that go through a layer together, whatever the
modifier's batch size is, because the orchestrator has no attribute of that name."""

COMPILED = Note(
    kind="estimate",
    text="AutoRound: enable_torch_compile is on, and planned as if it were off: what torch.compile saves of a layer's "
    "forward and backward is not known.",
)


class AutoRoundFields(QuantizationFields):
    """Fields of AutoRoundModifier (modifiers/autoround/base.py)."""

    iters: int = Field(default=200, ge=0)
    enable_torch_compile: bool = True
    batch_size: int = Field(default=8, ge=1)
    lr: float | None = None
    device_ids: str | None = None
    disable_opt_rtn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoRoundSpec(QuantizationMixinSpec):
    """AutoRoundModifier, as a recipe asks for it."""

    type: ClassVar[str] = "AutoRoundModifier"
    preset: str | None = None
    """Name of the scheme, where the recipe gives one name."""
    iters: int = 200
    """0: weights are rounded, and nothing is trained."""
    batch_size: int = 8
    enable_torch_compile: bool = True
    disable_opt_rtn: bool = False
    cards: int = 1
    """GPUs that each layer is spread over."""
    is_placed: bool = False
    """`device_ids` is given: AutoRound takes the layer to its cards from the CPU."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses an entry that says nothing to quantize, and GPUs with which the library stops."""
        entry = validated(AutoRoundFields, fields, where)
        must_calibrate(entry, where)
        spec = cls(
            **shared_fields(entry, where),
            preset=entry.scheme.upper() if isinstance(entry.scheme, str) else None,
            iters=entry.iters,
            batch_size=entry.batch_size,
            enable_torch_compile=entry.enable_torch_compile,
            disable_opt_rtn=entry.disable_opt_rtn,
            cards=cards_of(entry.device_ids, f"{where}.device_ids"),
            is_placed=entry.device_ids is not None,
        )
        if not any(group.weights for group in spec.groups):
            raise RecipeError("AutoRound needs a scheme for weights; give scheme (like W4A16) or config_groups", where)
        for group in spec.groups:
            linear_tuning(spec.preset, group)
        return spec

    @property
    def requires_calibration_data(self) -> bool:
        """AutoRoundModifier.requires_calibration_data."""
        return True

    @property
    def shares_work(self) -> bool:
        """Each rank trains every layer with its own samples, and takes the same."""
        return False

    def in_ranks(self) -> Iterable[Note]:
        """What training together takes beside.

        Raises RecipeError with `device_ids`: base.py `_update_device_map_for_dp` leaves them alone on every rank.
        """
        if self.is_placed:
            raise RecipeError(
                "LLM Compressor stops at the first layer of rank 1: its norms are on GPU 1, and samples on GPU 0, "
                "which is named first; leave device_ids out, and each rank takes its own GPU",
                f"{self.where}.device_ids",
            )
        return (data_parallel(self.where),) if self.iters else ()

    @property
    def trains(self) -> bool:
        """It does."""
        return True

    @property
    def adapts_to_card(self) -> bool:
        """models/cards.py cards_of_linears deals a layer's Linears out by the room on several GPUs."""
        return self.cards > 1

    def uncounted(self) -> Iterable[Note]:
        """What torch.compile does."""
        yield from QuantizationMixinSpec.uncounted(self)
        if self.enable_torch_compile and not any(how.static for how in self._ways()):
            yield COMPILED

    def _ways(self) -> Iterable[Any]:
        return (linear_tuning(self.preset, group) for group in self.groups if group.weights)

    def tuning(
        self, layer: str, modules: Sequence[ModuleRef], schemes: Mapping[str, Scheme | None], samples: int, rows: int
    ) -> TuningRequest:
        """compressors/orchestrator.py quantize_block: every Linear of the layer is trained but those that the recipe
        targets and ignores; one that it does not target gets the first group's scheme.

        Raises UnsupportedError for a layer that is a Linear itself: there is none inside to be wrapped.
        """
        targeted = Patterns(target for target, _ in self.targets())
        linears = []
        for ref in modules:
            if ref.classes[:1] != ("Linear",):
                continue
            if ref.name == layer:
                raise UnsupportedError(
                    f"{self.type} trains the Linears inside a layer, and planner does not follow it where the layer is "
                    "a Linear itself; leave Linear out of the sequential targets"
                )
            scheme = schemes.get(ref.name)
            if scheme is None and targeted.first(ref) is not None:
                continue
            linears.append((ref.name[len(layer) :], linear_tuning(self.preset, scheme or self.groups[0])))
        each = rows if self.batch_size == 1 else 1  # calibration/llm.py forward_capture: split into samples
        count = -(-samples // rows) if self.batch_size == 1 else samples
        batch, trained = min(PASS, count), min(self.batch_size, count)
        return TuningRequest(
            layer=layer,
            linears=tuple(linears),
            rows=batch * each,
            last_rows=count % batch * each,
            trained=tuple(min(PASS, trained - done) * each for done in range(0, trained, PASS)),
            rounding=None if self.iters else self._rounding(),
            spread=self._spread(samples),
        )

    def _spread(self, samples: int) -> Spread | None:
        """orchestrator.py quantize_block: what sees no data stays on the first card."""
        if self.cards == 1 or not (self.iters or self._rounding().sees_data):
            return None
        return Spread(cards=self.cards, card_bytes=0, samples=samples, batch=self.batch_size)

    def _rounding(self) -> Rounding:
        first = linear_tuning(self.preset, self.groups[0])
        return rounding(self.preset, first, searches=not self.disable_opt_rtn)

    def model(self, context: Context) -> "AutoRoundModel":
        """Captured inputs, and the training.

        Raises UnsupportedError with `device_ids` for weights on the GPU: apply_autoround and quantize_block
        (`decoding_layer.to("cpu")`, mv_module_from_gpu) leave them on the CPU, layer by layer.
        """
        if self.is_placed and context.weights_on_gpu:
            raise UnsupportedError(
                f"{self.where}.device_ids: planner does not follow --weights gpu here, whose layers AutoRound takes to "
                "the CPU one by one; leave out --weights or device_ids"
            )
        return AutoRoundModel(context, self)


class AutoRoundModel(ModifierModel):
    """Inputs of a layer on the CPU while it is calibrated; at the end the layer is trained on the GPU."""

    keeps_batches = True

    def __init__(self, context: Context, spec: AutoRoundSpec) -> None:
        super().__init__(context)
        self.spec = spec
        self.captured: Handle | None = None
        self.outputs: Handle | None = None
        """`_q_input`: what the last layer's quantized outputs are, sample by sample."""
        self.zero_points = context.ledger.open("cpu", "autoround", Owner("zero points", "that stay on their modules"))
        self.matrices = context.ledger.open("cpu", "transform", Owner("matrices", "that trained layers have alone"))
        """Modules that shared one before have one each: suspend_offloading gave each its own."""
        context.losses.draining.add(self.matrices)
        self.garbage: list[Handle] = []
        """What refers to itself and waits for Python's collector."""
        self.calls = 0
        self.hidden = self.others = 0
        """Bytes of a row of hidden states, and of a row of all else that has rows."""
        self.halves = 0
        """Bytes of all else that is passed in one batch in 16-bit floats."""

    # ------------------------------------------------------------------ calibrate
    def before_forward(self, module: LinearModule, call: Call) -> None:
        """base.py input_capture_hook: a copy of all that the layer is passed."""
        if self.context.forward.tuned(module.name) is None:
            return
        self.calls += 1
        if self.calls > 1:
            self._collect_garbage()
        if self.captured is None:
            self.captured = self.context.ledger.open("cpu", "autoround", Owner(module.name, "inputs of all samples"))
        for value in call.arguments:
            if self.context.device == "gpu":
                self.context.ledger.grow(self.captured, value.bytes)
                self.context.traffic.off_gpu(value.bytes)
        self.hidden = call.arguments[0].bytes // max(1, call.dims[0])
        self.halves = sum(v.bytes for v in call.arguments[1:] if v.bytes == 2 * prod(v.dims))
        self.others = sum(v.bytes for v in call.arguments[1:] if v.name == "attention_mask") // max(1, call.dims[0])

    def _collect_garbage(self) -> None:
        self.context.ledger.free_all(self.garbage)
        self.garbage = []

    # ------------------------------------------------------------------ compress
    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """base.py apply_autoround and post_autoround_cleanup."""
        for layer in modules:
            block = self.context.forward.tuned(layer.name)
            if block is not None and self.captured is not None:
                self._apply(layer, block, [m for m in modules if m.name.startswith(f"{layer.name}.")])
        if self.captured is not None:
            self.context.ledger.free(self.captured)
            self.captured = None
        self.calls = 0
        self.context.ledger.empty_cache()

    def _apply(self, layer: LinearModule, block: TunedBlock, linears: Sequence[LinearModule]) -> None:
        context, ledger = self.context, self.context.ledger
        request = self._request(layer)
        with context.frame("qparams", layer.name) as names:
            for module in linears:
                self._preprocess(module, names)
            weights = TrainedWeights(context, layer.name, block, self.matrices)
            weights.suspend_offloading()
            if self.spec.is_placed:
                weights.take_off()
            self._collect_garbage()
            ledger.empty_cache()
            cast = self._cast(request)
            weights.place()
            compress = self._compress_block if self.spec.iters else self._round_block
            earlier = [*compress(layer, block, request, cast), cast]
            weights.move_to_cpu()
            ledger.free_all(earlier)
            for module in linears:
                self._postprocess(module)

    def _request(self, layer: LinearModule) -> TuningRequest:
        job = self.context.job
        return self.spec.tuning(layer.name, (), {}, job.rank_samples, job.batch_size)

    def _cast(self, request: TuningRequest) -> Handle:
        """calibration/inputs.py preprocess_block_inputs: of inputs in fp16 there are copies in bfloat16."""
        ledger, job = self.context.ledger, self.context.job
        copies = ledger.open("cpu", "autoround", Owner("inputs of all samples", "in bfloat16"))
        needs_inputs = request.rounding is None or request.rounding.sees_data
        if job.dtype == "float16" and needs_inputs:
            ledger.grow(copies, self.hidden * job.rank_samples, job.rank_samples)
            ledger.grow(copies, self.halves * job.batches, job.batches)
        return copies

    def _preprocess(self, module: LinearModule, names: Any) -> None:
        """base.py `_preprocess_qparams`: a copy of each, then the module forgets them."""
        sizes = list(all_qparams(module))
        onloaded = []
        for name, nbytes in sizes:
            if self.context.device == "gpu" and not self.context.weights_on_gpu:
                onloaded.append(self.context.copied_to_gpu(f"{module.name}.{name}", nbytes, "qparams"))
            names.assign(f"{module.name}.{name}", nbytes)
        self.context.ledger.free_all(onloaded)

    def _compress_block(
        self, layer: LinearModule, block: TunedBlock, request: TuningRequest, cast: Handle
    ) -> list[Handle]:
        """auto_round algorithms/composer.py compress_block; returns outputs on the CPU that nobody needs any more."""
        context, ledger = self.context, self.context.ledger
        trained = TrainedLayer(context, layer.name, block)
        reference = ledger.open("cpu", "autoround", Owner(layer.name, "outputs of all samples"))
        self._all_batches(
            request, lambda number, rows: self._forward(trained, block.reference[number], rows, reference)
        )
        if block.observed:
            unkept = ledger.open("cpu", "autoround", Owner(layer.name, "outputs that nobody keeps"))
            self._observe(trained, request, unkept)
            ledger.free(unkept)
        ledger.empty_cache()
        if self.outputs is not None and context.job.dtype == "float16":  # clear_memory(fp_inputs)
            ledger.grow(cast, -self.hidden * context.job.rank_samples, context.job.rank_samples)
        trained.play(block.wrap, "autoround")
        best = self._train(trained, layer, block, request)
        ledger.empty_cache()
        trained.play(block.unwrap, "autoround")
        ledger.free(best)
        quantized = ledger.open("cpu", "autoround", Owner(layer.name, "outputs of all samples, quantized"))
        self._all_batches(request, lambda number, rows: self._forward(trained, block.collect[number], rows, quantized))
        self.garbage += trained.kept()
        earlier = [reference]
        if self.outputs is not None:  # orchestrator.py quantize_block clears memory where it was given inputs
            self._collect_garbage()
            ledger.empty_cache()
            earlier.append(self.outputs)
        self.outputs = quantized
        return earlier

    def _round_block(
        self, layer: LinearModule, block: TunedBlock, request: TuningRequest, _cast: Handle
    ) -> list[Handle]:
        """The same over rtn/quantizer.py. What the inputs' squares add up to stays on the modules."""
        ledger = self.context.ledger
        trained = TrainedLayer(self.context, layer.name, block)
        reference = ledger.open("cpu", "autoround", Owner(layer.name, "outputs of all samples"))
        if block.observed:
            self._observe(trained, request, reference)
        ledger.empty_cache()
        trained.play(block.unwrap, "autoround")
        self.garbage += trained.kept()
        return [reference]

    def _all_batches(self, request: TuningRequest, batch: Any) -> None:
        """block_runner.py forward over all samples: whole batches, and a smaller one at the end."""
        each = self.context.job.batch_size if self.spec.batch_size == 1 else 1
        count = self.context.job.rank_samples if each == 1 else self.context.job.batches
        size = request.rows // each
        batches = -(-count // size)

        def one(number: int) -> None:
            is_short = number == batches - 1 and request.last_rows
            batch(1 if is_short else 0, request.last_rows if is_short else request.rows)

        walk_batches(self.context, batches, one)

    def _forward(self, trained: TrainedLayer, events: Any, rows: int, outputs: Handle) -> None:
        """A batch is joined on the CPU and copied; its outputs come back one by one."""
        ledger = self.context.ledger
        with ledger.hold("cpu", self.hidden * rows, "autoround", Owner(trained.layer, "batch")):
            with ledger.hold("cpu", self.others * rows, "autoround", Owner(trained.layer, "batch")):
                pass
            trained.play(events, "forward")
            if self.context.device == "gpu":
                ledger.grow(outputs, trained.block.output * rows, rows)

    def _observe(self, trained: TrainedLayer, request: TuningRequest, outputs: Handle) -> None:
        """composer.py compress_block, step 3: a pass with hooks that see each Linear's inputs."""
        ledger, observed = self.context.ledger, trained.block.observed
        handed = [(), *(replaced(before, events) for before, events in pairwise(observed))]
        seen = 0

        def batch(number: int, rows: int) -> None:
            nonlocal seen
            phase = number + 1 if seen else 0
            seen += 1
            with ledger.hold("cpu", self.hidden * rows, "autoround", Owner(trained.layer, "batch")):
                trained.carry(observed[phase], "forward", handed[phase], None if phase else handed[1])
                ledger.grow(outputs, trained.block.output * rows, rows)

        self._all_batches(request, batch)
        trained.settle(observed[-1])

    def _train(self, trained: TrainedLayer, layer: LinearModule, block: TunedBlock, request: TuningRequest) -> Handle:
        """sign_round/quantizer.py quantize_block: the best parameters so far wait on the CPU, and so do better ones."""
        ledger = self.context.ledger
        with ledger.hold("cpu", self.hidden * max(request.trained), "autoround", Owner(layer.name, "batch")):
            trained.iterate(self.spec.iters)
        best = ledger.open("cpu", "autoround", Owner(layer.name, "best parameters"))
        for _ in range(min(2, self.spec.iters)):
            for size in block.trained:
                ledger.grow(best, size)
        for size in block.trained if self.spec.iters > 1 else ():
            ledger.grow(best, -size)
        return best

    def _postprocess(self, module: LinearModule) -> None:
        """base.py `_postprocess_qparams`: scales go to the GPU and to the CPU, and hasattr onloads them again."""
        scale = weight_qparam_bytes(module).get("scale", 0)
        with self.context.frame("qparams", module.name) as names:
            names.assign("ar_value", scale)
            self.context.onload(f"{module.name}.weight_scale", scale, "qparams")
        if module.scheme and module.scheme.weights and not module.scheme.weights.symmetric:
            # wrapper.py unwrapper leaves `zp` on the module, in fp32, and nobody takes it away
            self.context.ledger.grow(self.zero_points, scale // module.itemsize * FP32)

    def on_calibration_end(self) -> None:
        """base.py on_calibration_end."""
        self._collect_garbage()
        if self.outputs is not None:
            self.context.ledger.free(self.outputs)
            self.outputs = None
