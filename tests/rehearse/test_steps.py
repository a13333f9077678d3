"""What a rehearsal does around LLM Compressor's entry points, without the library."""

import gc
import types
from typing import Any

import pytest
import torch

from planner.rehearse.child.steps import _EntryPoints, _modules_of


class Steps:
    """As far as the entry points need it."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def begin(self, phase: str, *_rest: Any) -> None:
        self.phases.append(phase)

    rename = begin


class LifecycleCallbacks:
    """LLM Compressor's, as far as a pipeline begins and ends."""

    kept: list[Any] = []

    @classmethod
    def calibration_start(cls) -> None:
        cls.kept.append([])

    @classmethod
    def calibration_end(cls) -> None:
        cls.kept.clear()


def test_collections_pass_over_what_a_pipeline_attached_until_it_ends() -> None:
    module = types.SimpleNamespace(
        LifecycleCallbacks=type("Own", (LifecycleCallbacks,), dict(vars(LifecycleCallbacks)))
    )
    steps = Steps()
    _EntryPoints(steps, types.SimpleNamespace(end=lambda: None)).callbacks(module)
    try:
        module.LifecycleCallbacks.calibration_start()
        attached = module.LifecycleCallbacks.kept[-1]
        assert not any(each is attached for each in gc.get_objects())
        module.LifecycleCallbacks.calibration_end()
        assert any(each is attached for each in gc.get_objects())
    finally:
        gc.unfreeze()
    assert steps.phases[1:] == ["finalize", "returning"]


def test_modules_are_counted_as_the_model_counts_them() -> None:
    shared = torch.nn.Linear(1, 1)
    model = torch.nn.Sequential(shared, torch.nn.ModuleList([shared, torch.nn.Identity()]))
    model.register_module("removed", None)
    assert _modules_of(model) == len(list(model.modules())) == 4
    assert _modules_of("no model") == 0


@pytest.mark.parametrize(
    ("description", "hooks"),
    [("(1/2): Calibrating", True), ("(2/2): Propagating", False), ("(2/2): Preparing", True), ("whatever", True)],
)
def test_a_loop_that_propagates_alone_is_one_without_hooks(description: str, hooks: bool) -> None:
    said: list[bool] = []

    def batches(own: Any, _cache: Any, *, is_plain: bool, hooks: bool) -> Any:
        said.append(hooks)
        return own

    points = _EntryPoints(Steps(), types.SimpleNamespace(batches=batches))
    assert list(points._batches(lambda *_values: range(3))(None, 3, [], description)) == [0, 1, 2]
    assert said == [hooks]
