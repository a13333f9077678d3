"""Whose code runs in a loop."""

import functools
import sys
import types
from pathlib import Path

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


LIBRARIES, MAIN = "torch.nn.x", "__main__"
LIBRARY, OWN = of(LIBRARIES), of(MAIN)


class Own:
    """It can be called."""

    def __call__(self, *values: object) -> object:
        return values


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (LIBRARY, True),
        (OWN, False),
        (functools.partial(LIBRARY, 1), True),
        (functools.partial(OWN, 1), False),
        (functools.partial(LIBRARY, OWN), False),
        (functools.partial(LIBRARY, own=OWN), False),
        (functools.partialmethod(OWN), False),
        (functools.lru_cache(LIBRARY), True),
        (functools.lru_cache(OWN), False),
        (types.MethodType(LIBRARY, torch.nn.Linear(1, 1)), True),
        (types.MethodType(LIBRARY, Own()), False),
        (staticmethod(OWN), False),
        (property(OWN), False),
        (Own(), False),
        (Own, False),
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


@pytest.mark.parametrize(
    "put",
    [OWN, functools.partialmethod(OWN), staticmethod(OWN), classmethod(OWN), property(OWN), Own()],
    ids=lambda put: type(put).__name__,
)
def test_what_somebody_put_into_a_library_s_class_is_noticed(put: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trust.is_class_of_libraries(torch.nn.Linear)
    monkeypatch.setattr(torch.nn.Linear, "forward", put)
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
    model[0].forward = types.MethodType(OWN, model[0])
    assert not trust.are_modules_of_libraries(model.modules())
    del model[0].forward
    model[0]._call_impl = OWN  # type: ignore[method-assign]  # as one patches a model
    assert not trust.are_modules_of_libraries(model.modules())
    del model[0]._call_impl
    assert trust.are_modules_of_libraries(model.modules())
    monkeypatch.setattr(sys.modules["torch.nn.modules.linear"], "helper", OWN, raising=False)
    assert not trust.are_modules_of_libraries(model.modules())


def test_functions_put_in_the_place_of_pytorch_s_own_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trust.are_shared_files_of_libraries()
    for place, name in ((torch.nn.functional, "silu"), (torch.nn.functional, "linear"), (torch, "matmul")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, OWN)
            assert not trust.are_shared_files_of_libraries()
    monkeypatch.setattr(torch.Tensor, "add_", OWN)
    assert not trust.are_shared_files_of_libraries()


def test_functions_put_into_a_modifier_s_file_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    file = types.ModuleType("llmcompressor.modifiers.gptq.base")
    monkeypatch.setitem(sys.modules, file.__name__, file)
    vars(file)["accumulate_hessian"] = LIBRARY
    assert trust.are_shared_files_of_libraries()
    vars(file)["accumulate_hessian"] = OWN
    assert not trust.are_shared_files_of_libraries()


def test_a_method_put_on_a_single_modifier_is_noticed() -> None:
    modifier = torch.nn.Linear(1, 1)  # of a class of libraries
    assert trust.are_modifiers_of_libraries([modifier])
    vars(modifier)["compress"] = OWN
    assert not trust.are_modifiers_of_libraries([modifier])


def test_a_file_beside_the_script_is_no_module_of_python_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`trace`, `code` and `profile` are names of Python's own library."""
    beside = types.ModuleType("trace")
    beside.__file__ = str(tmp_path / "trace.py")
    exec("def call(*values): return values", vars(beside))  # noqa: S102  (a function of another module)
    monkeypatch.setitem(sys.modules, "trace", beside)
    assert not trust.is_module_of_libraries("trace")
    assert not trust.is_of_libraries(vars(beside)["call"])
    assert all(map(trust.is_module_of_libraries, ("builtins", "functools", "os.path", "torch._C._nn")))
    assert trust.is_of_libraries(trust.is_of_libraries)
    monkeypatch.setitem(sys.modules, "torch", beside)
    assert not trust.is_module_of_libraries("torch.nn")
