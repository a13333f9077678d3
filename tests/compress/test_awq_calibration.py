"""What AWQ keeps while it calibrates, with the services that hooks have, beside the real AWQ on the meter.

Blocks' arguments are kept on the GPU or on the CPU (transform/awq/base.py `_setup_activation_cache_hooks`), over whole
and shorter batches. Compressing is not modelled: the toy only lets go of what it keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from planner.compress.binding import make_program
from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.compress.ledger import Handle
from planner.compress.modifiers.base import ModifierModel
from planner.compress.oneshot import simulate
from planner.job import Job
from planner.models.traces import Call
from planner.recipe.specs import ModuleRef, Selection
from planner.recipe.targets import LinearModule
from tests import toys
from tests.built import graph_of

PARENTS = (".self_attn", ".mlp", ".mlp.down_proj")
"""The parents of llama's mappings (awq/mappings.py _default_mappings); v_proj and o_proj differ in width: skipped."""
BALANCED = (".q_proj", ".gate_proj", ".down_proj")
FP32 = 4

# tests/meter/meter.py llama:hidden_size=4096,intermediate_size=14336,num_attention_heads=32,num_key_value_heads=8,
# vocab_size=128256,tie_word_embeddings=false --layers 3 --seq-len 512, with AWQModifier {offload_device: null or cpu}
# and W4A16 after it: GPU peak and end of layer 1's calibrate. Eight bytes in each are left from layer 0's grid search.
LEFT_BEHIND = 8
MEASURED = [
    ({"samples": 3}, False, 600_076_296, 520_384_520),
    ({"samples": 5, "batch_size": 2}, False, 711_483_400, 567_570_440),
    ({"samples": 5, "batch_size": 2}, True, 664_031_240, 449_597_448),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqLikeSpec(toys.UnreadSpec):
    """Watches what AWQ hooks in a Llama."""

    type: ClassVar[str] = "AwqLikeModifier"
    offload: bool

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        names = {ref.name for ref in modules if ref.name.endswith((*PARENTS, *BALANCED))}
        return Selection(weights={}, watched=frozenset(names))

    def model(self, context: Context) -> "AwqLikeModel":
        return AwqLikeModel(context, self.offload)


class AwqLikeModel(ModifierModel):
    """AWQ's two hooks."""

    def __init__(self, context: Context, offload: bool) -> None:
        super().__init__(context)
        self.offload = offload
        self.kept: dict[str, Handle] = {}

    def before_forward(self, module: LinearModule, call: Call) -> None:
        """cache_parent_kwargs_hook: IntermediatesCache.append, which copies nothing without an offload device"""
        if not module.name.endswith(PARENTS):
            return
        ledger, device = self.context.ledger, "cpu" if self.offload else self.context.device
        if module.name not in self.kept:
            self.kept[module.name] = ledger.open(device, "awq", Owner(module.name, "arguments"))
        for value in call.arguments:
            if self.offload:
                ledger.grow(self.kept[module.name], value.bytes)
            else:
                self.context.forward.retain(value, self.kept[module.name])

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """cache_smooth_activations_hook: activations.abs(), .float(), .sum(dim=0).cpu()"""
        if module.name.endswith(BALANCED):
            numbers = call.rows * call.columns
            with self.context.frame("awq", Owner(module.name, "activations")) as frame:
                frame.assign("activations", numbers * call.itemsize)
                with frame.during(numbers * FP32, "in fp32"):
                    frame.temporary(call.columns * FP32, "their sum")

    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        for module in modules:
            if module.name in self.kept:
                self.context.ledger.free(self.kept.pop(module.name))


@pytest.mark.parametrize(("options", "offload", "peak", "end"), MEASURED, ids=str)
def test_calibrating_takes_what_the_real_awq_takes_to_the_byte(
    options: dict[str, Any], offload: bool, peak: int, end: int
) -> None:
    job = Job(progress_bars=False, layers=3, seq_len=512, **options)
    program, _ = make_program(graph_of("llama-3-8b", job), toys.recipe(AwqLikeSpec(offload=offload)), job)
    steps = simulate(program, Context(job)).steps
    (calibrated,) = (s for s in steps if (s.unit, s.phase) == ("model.layers.1", "calibrate"))
    assert calibrated.gpu.bytes == peak - LEFT_BEHIND
    assert calibrated.gpu.end == end - LEFT_BEHIND
    assert (calibrated.cpu.by_kind.get("awq", 0) > 0) is offload
