"""Where the weights of a layer lie while AutoRound trains it: on one card, or spread over several."""

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.models.tuned import LeftMatrix, TunedBlock
from planner.timeline import Handle


class LayerMatrices:
    """Matrices that hooks in trained layers have alone: modules that shared one before have one each, because
    `suspend_offloading` gives each of them its own."""

    def __init__(self, context: Context) -> None:
        owner = Owner("matrices", "that trained layers have alone")
        self.cpu = context.ledger.open("cpu", "transform", owner)
        self.gpu = context.ledger.open("gpu", "transform", owner)
        context.losses.draining |= {self.cpu, self.gpu}


class TrainedWeights:
    """The weights of one layer. `matrices`: what takes in those that other modifiers left there."""

    def __init__(self, context: Context, layer: str, block: TunedBlock, matrices: LayerMatrices) -> None:
        self.context, self.layer, self.block, self.matrices = context, layer, block, matrices
        self._handles: dict[int, Handle | None] = {}
        """By their places in `TunedBlock.weights`: None for those on a card without books."""
        self._left = {matrix.number: matrix for matrix in block.rotations}
        self._on_cpu: Handle | None = None

    @property
    def _owner(self) -> Owner:
        return Owner(self.layer, "weights while it is trained")

    def suspend_offloading(self) -> None:
        """base.py suspend_offloading: what is offloaded to the CPU once more, beside what calibration onloaded; what
        lies on the GPU as it is (offload/cache/device.py DeviceCache.onload)."""
        context = self.context
        if context.device == "cpu":
            return
        for number, nbytes in enumerate(self.block.weights):
            home = self._home(number)
            if not context.weights_on_gpu or self._waits(number):
                self._handles[number] = context.copied_to_gpu(str(self._owner), nbytes)
            elif home is not None and number not in self._left:
                self._handles[number] = context.ledger.part(home, nbytes, "weights", self._owner)
        if context.job.dtype == "float16":  # context/model.py `_set_amp_dtype`: in bfloat16, one by one
            for number, before in self._handles.items():
                self._handles[number] = context.take(self.block.weights[number], "weights", self._owner)
                if before is not None:
                    context.ledger.free(before)

    def take_off(self) -> None:
        """apply_autoround, where `device_ids` is given: `decoding_layer.to("cpu")`, tensor by tensor."""
        if not self._handles:
            return
        ledger = self.context.ledger
        self._on_cpu = ledger.open("cpu", "autoround", Owner(self.layer, "weights on their way to their cards"))
        for number, handle in self._handles.items():
            ledger.grow(self._on_cpu, self.block.weights[number])
            if handle is not None:
                ledger.free(handle)

    def place(self) -> None:
        """orchestrator.py quantize_block: what was taken off goes back by `block.to`, or to several cards.

        There all but Linears goes first (utils/device.py set_auto_device_map_for_block_with_tuning), then each Linear,
        by accelerate's hook, which empties the caches after each (utils/modeling.py set_module_tensor_to_device).
        """
        if self._on_cpu is None:
            return
        ledger, block = self.context.ledger, self.block
        linears = block.placed if block.cards else ()
        rest = [number for number in self._handles if number not in linears]
        for number in (*rest, *(number for number in linears if number in self._handles)):
            card, nbytes = self.context.card(block.cards[number] if block.cards else 0), block.weights[number]
            self._handles[number] = ledger.alloc(card, nbytes, "weights", self._owner) if card is not None else None
            ledger.grow(self._on_cpu, -nbytes)
            if number in linears:
                ledger.empty_cache()
        ledger.free(self._on_cpu)

    def move_to_cpu(self) -> None:
        """mv_module_from_gpu: the weights lie on the CPU anew. Those that calibration onloaded keep, until the subgraph
        ends, the old ones there; on the GPU they are the very parameters that now lie on the CPU."""
        if self.context.device == "cpu":
            return
        ledger, on_gpu = self.context.ledger, self.context.weights_on_gpu
        holding = ledger.open("cpu", "model", Owner(self.layer, "weights before they were trained"))
        for number, nbytes in enumerate(self.block.weights):
            handle, matrix = self._handles.get(number), self._left.get(number)
            if matrix is None or not on_gpu or matrix.waits:
                ledger.grow(self.matrices.cpu if matrix is not None and self._is_shared(matrix) else holding, nbytes)
            if handle is not None:
                ledger.free(handle)
            self.context.traffic.off_gpu(nbytes)
        for matrix in self._left.values():
            if on_gpu and not matrix.waits:
                self._take_from_all(matrix)
        self.context.onloaded[f"{self.layer} before it was trained"] = holding
        if not on_gpu:
            self.context.shared.add(holding)

    def _is_shared(self, matrix: LeftMatrix) -> bool:
        """Other layers' hooks have the one that was there. One that was made on the GPU is copied to the CPU for each
        hook (`Matrices.stay`): the trained one takes its place."""
        losses = self.context.losses
        return matrix.label not in losses.matrices and matrix.label not in losses.taken

    def _take_from_all(self, matrix: LeftMatrix) -> None:
        """`module.to` moves the parameter, which other layers' hooks have too: it lies on the CPU for all of them."""
        shared = self.context.losses.matrices.pop(matrix.label, None)
        if shared is not None:
            self.context.ledger.grow(self.matrices.cpu, self.context.ledger.size(shared))
            self.context.ledger.free(shared)
            self.context.losses.taken.add(matrix.label)

    def offload(self) -> None:
        """suspend_offloading again: offload/module.py offload_module takes to the GPU what lay there, each hook's own
        matrix too."""
        context = self.context
        if not context.weights_on_gpu:
            return
        for number, nbytes in enumerate(self.block.weights):
            matrix, home = self._left.get(number), self._home(number)
            if matrix is None and home is not None:
                context.ledger.grow(home, nbytes)
            elif matrix is not None and not matrix.waits and matrix.label in context.losses.taken:
                context.ledger.grow(self.matrices.gpu, nbytes)
            context.traffic.onto_gpu(nbytes)
        context.losses.trained_layers.add(self.layer)

    def _home(self, number: int) -> Handle | None:
        """What counts the weight while it lies where the model does, on the GPU."""
        names = self.block.names
        return self.context.losses.home_of(f"{self.layer}{names[number]}" if names else "")

    def _waits(self, number: int) -> bool:
        """A matrix that lies on the CPU: because its module has no weights, or since an earlier layer was trained."""
        matrix = self._left.get(number)
        return matrix is not None and (matrix.waits or matrix.label in self.context.losses.taken)
