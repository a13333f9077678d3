"""What AutoRound holds around the training of a layer: llmcompressor/modifiers/autoround/base.py 0.14.0.1.

Inputs of all samples before it, outputs after it, weights on their way; the training itself is traced.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Protocol

from planner.compress.batches import walk_batches
from planner.compress.context import Context, Frame
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.trained_weights import LayerMatrices, TrainedWeights
from planner.compress.modifiers.training import TrainedLayer, all_qparams
from planner.models.traces import Call
from planner.models.tuned import TunedBlock, TuningRequest, replaced
from planner.recipe.qparams import weight_qparam_bytes
from planner.recipe.specs import ModuleRef, Scheme
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from planner.units import FP32


class Training(Protocol):
    """What the memory model reads of a recipe's AutoRoundModifier."""

    @property
    def iters(self) -> int:
        """0: weights are rounded, and nothing is trained."""

    @property
    def batch_size(self) -> int:
        """Samples of an iteration."""

    @property
    def is_placed(self) -> bool:
        """AutoRound takes the layer to its cards from the CPU."""

    def tuning(
        self, layer: str, modules: Sequence[ModuleRef], schemes: Mapping[str, Scheme | None], samples: int, rows: int
    ) -> TuningRequest:
        """How a layer is trained."""


class AutoRoundModel(ModifierModel):
    """Inputs of a layer on the CPU while it is calibrated; at the end the layer is trained on the GPU."""

    keeps_batches = True

    def __init__(self, context: Context, spec: Training) -> None:
        super().__init__(context)
        self.spec = spec
        self.captured: Handle | None = None
        self.outputs: Handle | None = None
        """`_q_input`: what the last layer's quantized outputs are, sample by sample."""
        self.zero_points = context.ledger.open("cpu", "autoround", Owner("zero points", "that stay on their modules"))
        self.matrices = LayerMatrices(context)
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
            weights.offload()
            for module in linears:
                self._postprocess(module, names)

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

    def _preprocess(self, module: LinearModule, names: Frame) -> None:
        """base.py `_preprocess_qparams`: a copy of each, then the module forgets them."""
        sizes = list(all_qparams(module))
        onloaded = []
        for name, nbytes in sizes:
            if self.context.device == "gpu" and not self.context.weights_on_gpu:
                onloaded.append(self.context.copied_to_gpu(f"{module.name}.{name}", nbytes, "qparams"))
            names.assign(f"{module.name}.{name}", nbytes)
        self.context.ledger.free_all(onloaded)
        if (holding := self._qparams_of(module)) is not None:
            for _, nbytes in sizes:
                self.context.ledger.grow(holding, -nbytes)

    def _qparams_of(self, module: LinearModule) -> Handle | None:
        """What holds the module's scales and zero points while nothing computes; None for files."""
        return None if self.context.is_on_disk(module.name) else self.context.losses.qparams

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

    def _postprocess(self, module: LinearModule, copies: Frame) -> None:
        """base.py `_postprocess_qparams`: scales go to the GPU and to the CPU, and hasattr onloads them again."""
        scale = weight_qparam_bytes(module).get("scale", 0)
        with self.context.frame("qparams", module.name) as names:
            names.assign("ar_value", scale)
            self.context.onload(f"{module.name}.weight_scale", scale, "qparams")
            self._register(module, names, copies)
        if module.scheme and module.scheme.weights and not module.scheme.weights.symmetric:
            # wrapper.py unwrapper leaves `zp` on the module, in fp32, and nobody takes it away
            self.context.ledger.grow(self.zero_points, scale // module.itemsize * FP32)

    def _register(self, module: LinearModule, names: Frame, copies: Frame) -> None:
        """`module.register_parameter`: the scale, and of all else the copy; on the GPU it is the very tensor."""
        if (holding := self._qparams_of(module)) is None:
            return
        for name, nbytes in all_qparams(module):
            if not self.context.weights_on_gpu:
                self.context.ledger.grow(holding, nbytes)
            elif name == "weight_scale":
                self.context.ledger.give(names.hand_over("ar_value"), holding)
            else:
                self.context.ledger.give(copies.hand_over(f"{module.name}.{name}"), holding)

    def on_calibration_end(self) -> None:
        """base.py on_calibration_end."""
        self._collect_garbage()
        if self.outputs is not None:
            self.context.ledger.free(self.outputs)
            self.outputs = None
