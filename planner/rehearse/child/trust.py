"""Tells code of the libraries from the user's own: what the latter remembers from batch to batch, nobody knows."""

import functools
import sys
import types
from collections.abc import Iterable
from typing import Any

LIBRARIES = frozenset(
    {"torch", "transformers", "llmcompressor", "compressed_tensors", "accelerate", "auto_round", "pydantic", "planner"}
)
"""Auto-round changes transformers' classes when it is imported."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def is_module_of_libraries(module: Any) -> bool:
    """By its name."""
    root = str(module).partition(".")[0]
    return root in LIBRARIES or root in sys.stdlib_module_names


def is_of_libraries(call: Any) -> bool:
    """All the code that this runs, as far as it was wrapped, is of libraries."""
    while True:
        if isinstance(call, functools.partial):
            call = call.func
        elif isinstance(call, types.MethodType | classmethod | staticmethod):
            call = call.__func__
        elif isinstance(call, types.FunctionType):
            if not is_module_of_libraries(call.__globals__.get("__name__")):
                return False
            if not hasattr(call, "__wrapped__"):
                return True
            call = call.__wrapped__
        elif isinstance(call, type):
            return is_module_of_libraries(call.__module__)
        else:
            return isinstance(call, types.BuiltinFunctionType) or is_module_of_libraries(type(call).__module__)


def is_class_of_libraries(owner: type) -> bool:
    """The class, what it inherits from, and every method that somebody put into it."""
    return all(is_module_of_libraries(base.__module__) and _are_own_functions(base) for base in owner.__mro__)


def are_modules_of_libraries(modules: Iterable[Any]) -> bool:
    """Their classes, the files that these stand in, the forwards that were put on single modules, and all hooks."""
    classes: set[type] = set()
    for module in modules:
        own = vars(module)
        classes.add(type(module))
        if "forward" in own and not is_of_libraries(own["forward"]):
            return False
        if not all(is_of_libraries(hook) for name in HOOKS for hook in (own.get(name) or {}).values()):
            return False
    files = {sys.modules.get(each.__module__) for each in classes}
    return all(map(is_class_of_libraries, classes)) and all(map(_are_own_functions, filter(None, files)))


def _are_own_functions(place: Any) -> bool:
    """Nobody put a function of his own into this class or file."""
    return all(is_of_libraries(each) for each in list(vars(place).values()) if isinstance(each, types.FunctionType))
