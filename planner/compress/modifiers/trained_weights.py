"""Where the weights of a layer lie while AutoRound trains it: on one card, or spread over several."""

from collections import Counter

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.models.tuned import TunedBlock
from planner.timeline import Handle


class TrainedWeights:
    """The weights of one layer. `matrices`: what takes in those that other modifiers left there."""

    def __init__(self, context: Context, layer: str, block: TunedBlock, matrices: Handle) -> None:
        self.context, self.layer, self.block, self.matrices = context, layer, block, matrices
        self._handles: list[Handle | None] = []
        """As `TunedBlock.weights`, None for those on a card without books; empty where nothing is moved."""
        self._on_cpu: Handle | None = None

    @property
    def _owner(self) -> Owner:
        return Owner(self.layer, "weights while it is trained")

    def suspend_offloading(self) -> None:
        """base.py suspend_offloading: the layer's weights once more, beside those that calibration onloaded."""
        if self.context.weights_on_gpu or self.context.device == "cpu":
            return
        handles = [self.context.copied_to_gpu(str(self._owner), nbytes) for nbytes in self.block.weights]
        if self.context.job.dtype == "float16":  # context/model.py `_set_amp_dtype`: in bfloat16, one by one
            for number, nbytes in enumerate(self.block.weights):
                before, handles[number] = handles[number], self.context.take(nbytes, "weights", self._owner)
                self.context.ledger.free(before)
        self._handles = [*handles]

    def take_off(self) -> None:
        """apply_autoround, where `device_ids` is given: `decoding_layer.to("cpu")`, tensor by tensor."""
        if not self._handles:
            return
        ledger = self.context.ledger
        self._on_cpu = ledger.open("cpu", "autoround", Owner(self.layer, "weights on their way to their cards"))
        for handle, nbytes in zip(self._handles, self.block.weights, strict=True):
            ledger.grow(self._on_cpu, nbytes)
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
        rest = [number for number in range(len(block.weights)) if number not in linears]
        for number in (*rest, *linears):
            card, nbytes = self.context.card(block.cards[number] if block.cards else 0), block.weights[number]
            self._handles[number] = ledger.alloc(card, nbytes, "weights", self._owner) if card is not None else None
            ledger.grow(self._on_cpu, -nbytes)
            if number in linears:
                ledger.empty_cache()
        ledger.free(self._on_cpu)

    def move_to_cpu(self) -> None:
        """mv_module_from_gpu: the weights lie on the CPU anew; those that were onloaded keep the old ones there."""
        if not self._handles:
            return
        ledger = self.context.ledger
        holding = ledger.open("cpu", "model", Owner(self.layer, "weights before they were trained"))
        matrices = Counter(self.block.rotations)
        for handle, nbytes in zip(self._handles, self.block.weights, strict=True):
            ledger.grow(self.matrices if matrices[nbytes] > 0 else holding, nbytes)
            matrices[nbytes] -= 1
            if handle is not None:
                ledger.free(handle)
            self.context.traffic.off_gpu(nbytes)
        self.context.onloaded[f"{self.layer} before it was trained"] = holding
        self.context.shared.add(holding)
