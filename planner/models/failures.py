"""Tells whether an error is the model's own or planner's.

Hundreds of model classes fail on tensors without data, each in its own way, and a plan then falls back to an
estimate and says so. An error of the planner must not look like one of these: it surfaces as a traceback. The
error's type cannot tell the two apart, but its stack frames can. Go outwards from where it was raised, past torch and
the standard library: the first frame that is the planner's or the model's says whose error it is. A frame is the
model's if transformers, torch or a stand-in (below) called it; it is the planner's if the planner called it.

Some frames of the planner stand in for what the model calls: an operator runs inside of the recorder, a layer's
forward inside of the tracer. They are marked: `stands_in` marks a function that torch or the model calls in
place of its own, and `pass_on` marks where that function hands the call on. An error below `pass_on` belongs to
whoever called the stand-in.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from traceback import walk_stack, walk_tb
from types import CodeType, FrameType
from typing import Any, TypeVar

from planner.errors import PlannerError, UnsupportedError

# Libraries that the planner calls too: their frames do not say whose an error is.
_LIBRARIES = {"torch", "networkx", "compressed_tensors", "accelerate"} | sys.stdlib_module_names
_STAND_INS: set[CodeType] = set()

Function = TypeVar("Function", bound=Callable[..., Any])


class ForwardError(UnsupportedError):
    """A model's own forward fails on tensors without data; `reason` is its error in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"its forward does not run without data ({reason})")
        self.reason = reason


@contextmanager
def forward_of_model() -> Iterator[None]:
    """Turn errors of the model's own forward into ForwardError; the planner's own pass unchanged."""
    try:
        yield
    except PlannerError:
        raise
    except Exception as error:
        if not is_models_own(error):
            raise
        raise ForwardError(f"{type(error).__name__}: {first_line(error)}") from error


def run_forward(model: Any, fields: dict[str, Any]) -> Any:
    """Call the model with these inputs. Raises ForwardError where its forward takes no such inputs."""
    try:
        inspect.signature(model.forward).bind(**fields)
    except TypeError as error:
        raise ForwardError(f"TypeError: {type(model).__name__}.forward {error}") from error
    return model(**fields)


def stands_in(function: Function) -> Function:
    """Mark a function that torch or the model calls in place of an operator or a forward of its own."""
    _STAND_INS.add(function.__code__)
    return function


def pass_on(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run the call that a stand-in replaces; its errors belong to whoever called the stand-in."""
    return function(*args, **kwargs)


def run_for_model(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run what the model's operators do without a frame of the model, like backward; errors are the model's."""
    return function(*args, **kwargs)


def is_models_own(error: BaseException) -> bool:
    """Whether the model's own code raised this error, or asked torch for what raised it."""
    frames = [frame for frame, _line in walk_tb(error.__traceback__)]
    return _is_models(reversed(frames))


def is_called_by_model() -> bool:
    """Whether the model's own code called what is running now; for use below a stand-in."""
    return _is_models((frame for frame, _line in walk_stack(sys._getframe(1))), passing=True)


def first_line(error: BaseException) -> str:
    """The first line of an error's text: torch may add pages to it."""
    return (str(error).splitlines() or ["no reason given"])[0]


def _is_models(frames: Iterable[FrameType], passing: bool = False) -> bool:
    """`frames` from the innermost on; `passing`: they begin below a stand-in."""
    foreign = False  # the previous frame is of an unknown package: a model's code from elsewhere
    for frame in frames:
        code = frame.f_code
        if code is run_for_model.__code__ or (foreign and code is pass_on.__code__):
            return True
        if code is pass_on.__code__:
            passing = True
        elif passing:
            passing = code not in _STAND_INS
        else:
            package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            if package == "planner":
                return False
            if package == "transformers" or (foreign and package in _LIBRARIES):
                return True
            foreign = package not in _LIBRARIES
    return foreign
