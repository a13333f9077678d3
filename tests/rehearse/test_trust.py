"""Whose code runs in a loop."""

import functools
import sys
import types

import pytest
import torch

from planner.rehearse.child import trust


def of(name: str) -> types.FunctionType:
    """A function of a module of this name."""
    space = {"__name__": name}
    exec("def call(*values, **named): return values", space)  # noqa: S102  (a function of another module)
    found = space["call"]
    assert isinstance(found, types.FunctionType)
    return found


LIBRARIES, MAIN = "transformers.models.x", "__main__"
LIBRARY, OWN = of(LIBRARIES), of(MAIN)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (LIBRARY, True),
        (OWN, False),
        (functools.partial(LIBRARY, 1), True),
        (functools.partial(OWN, 1), False),
        (functools.wraps(of(LIBRARIES))(of(MAIN)), False),
        (functools.wraps(of(MAIN))(of(LIBRARIES)), False),
        (torch.nn.functional.silu, True),
        (torch.ops.aten.add, True),
        (len, True),
        (torch.nn.Linear, True),
    ],
)
def test_code_is_of_libraries_with_all_that_it_wraps(call: object, expected: bool) -> None:
    assert trust.is_of_libraries(call) is expected


def test_a_method_that_somebody_put_into_a_library_s_class_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trust.is_class_of_libraries(torch.nn.Linear)
    monkeypatch.setattr(torch.nn.Linear, "forward", OWN)
    assert not trust.is_class_of_libraries(torch.nn.Linear)
    assert not trust.is_class_of_libraries(torch.nn.modules.linear.NonDynamicallyQuantizableLinear)


def test_a_class_of_one_s_own_is_none_of_the_libraries() -> None:
    assert not trust.is_class_of_libraries(type("Own", (torch.nn.Linear,), {"__module__": "__main__"}))


def test_modules_are_known_with_their_hooks_forwards_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU())
    assert trust.are_modules_of_libraries(model.modules())
    with model[1].register_forward_hook(OWN):
        assert not trust.are_modules_of_libraries(model.modules())
    with model[1].register_forward_pre_hook(LIBRARY):
        assert trust.are_modules_of_libraries(model.modules())
    model[0].forward = types.MethodType(OWN, model[0])  # type: ignore[method-assign]  # as one patches a model
    assert not trust.are_modules_of_libraries(model.modules())
    del model[0].forward
    monkeypatch.setattr(sys.modules["torch.nn.modules.linear"], "helper", OWN, raising=False)
    assert not trust.are_modules_of_libraries(model.modules())
