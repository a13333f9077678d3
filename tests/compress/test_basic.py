"""The basic pipeline's batches."""

import pytest

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.oneshot import simulate
from planner.models.traces import Call
from planner.recipe.targets import LinearModule
from tests import toys
from tests.compress.walked import births
from tests.toys import Toy


def test_the_last_batch_may_be_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 samples in batches of 4: two whole ones and a half."""
    rows: list[int] = []

    class Counting(ModifierModel):
        def before_forward(self, module: LinearModule, call: Call) -> None:
            if module.name == f"model.layers.0{toy.layer(0).linears[0].name}":
                rows.append(call.rows)

    monkeypatch.setattr(GPTQSpec, "model", lambda _self, context: Counting(context))
    toy, job = Toy(tokens=40, batch_size=4), toys.job(samples=10, batch_size=4, pipeline="basic")
    context = Context(job, keep="timeline")
    simulate(toy.program(toys.gptq()), context)
    assert rows == [40, 40, 20]
    whole = toy.trace.batch_bytes
    assert [size for owner, size in births(context, "cpu") if owner == Owner("batch")] == [whole, whole, whole // 2]
