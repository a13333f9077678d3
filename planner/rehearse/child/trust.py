"""Tells code of the libraries from the user's own: what the latter remembers from batch to batch, nobody knows."""

import functools
import os
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

LIBRARIES = frozenset(
    {"torch", "transformers", "llmcompressor", "compressed_tensors", "accelerate", "auto_round", "planner"}
    | {
        "pydantic",
        "pydantic_core",
        "safetensors",
        "huggingface_hub",
        "datasets",
        "triton",
        "numpy",
        "typing_extensions",
    }
)
"""Auto-round changes transformers' classes when it is imported. Those of the second line stand in the others' files."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
SHARED = ("llmcompressor.", "compressed_tensors.")
"""Libraries whose files the loops run through, wherever they begin."""
FUNCTIONS = ("torch", "torch.nn.functional", "torch.nn.modules.module")
OWN = str(Path(__file__).parents[2])
"""Planner's folder, which may be a checkout."""


def is_space_of_libraries(space: Mapping[str, Any]) -> bool:
    """The module with these names is one of a library."""
    file = space.get("__file__")
    return is_module_of_libraries(space.get("__name__")) and (file is None or _is_installed(file))


def is_module_of_libraries(name: Any) -> bool:
    """By its name, and by where its file lies: a script may have a trace.py or a code.py beside it."""
    root = str(name).partition(".")[0]
    if root not in LIBRARIES and root not in sys.stdlib_module_names:
        return False
    top, inner = sys.modules.get(root), sys.modules.get(str(name))
    files = [getattr(module, "__file__", None) for module in (top, inner)]
    if top is None or (files[0] is None and root in LIBRARIES):
        return False
    return all(file is None or _is_installed(file) for file in files)  # of what is built in there is none


@functools.cache
def _is_installed(file: str) -> bool:
    """It lies in the interpreter's own folders, where packages are installed, or in planner's."""
    if {"site-packages", "dist-packages"} & set(Path(file).parts):
        return True
    folders = (OWN, str(Path(os.__file__).parent), *map(sysconfig.get_path, ("stdlib", "platstdlib")))
    return any(Path(file).is_relative_to(folder) for folder in folders)


def is_of_libraries(call: Any) -> bool:
    """All the code that this runs, as far as it was wrapped or given along, is of libraries."""
    waiting, seen = [call], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if not _is_own_code_of_libraries(each):
            return False
        waiting.extend(_inside(each))
    return True


def _is_own_code_of_libraries(call: Any) -> bool:
    """Without what it wraps."""
    if isinstance(call, types.FunctionType):
        return is_space_of_libraries(call.__globals__)
    if isinstance(call, types.MethodType):
        call = call.__self__
    return is_module_of_libraries((call if isinstance(call, type) else type(call)).__module__)


def _inside(call: Any) -> Iterator[Any]:
    """What it wraps, and what it was given to call."""
    if isinstance(call, functools.partial | functools.partialmethod):
        yield call.func
        yield from (each for each in (*call.args, *call.keywords.values()) if _is_code(each))
    elif isinstance(call, types.MethodType | classmethod | staticmethod):
        yield call.__func__
    elif isinstance(call, property):
        yield from filter(None, (call.fget, call.fset, call.fdel))
    elif isinstance(call, functools.cached_property):
        yield call.func
    if not isinstance(call, type) and hasattr(call, "__wrapped__"):
        yield call.__wrapped__


def _is_code(value: Any) -> bool:
    """It can be called, or stands in a class for something that can."""
    return callable(value) or hasattr(type(value), "__get__")


def is_class_of_libraries(owner: type) -> bool:
    """The class, what it inherits from, and whatever somebody put into it."""
    return all(is_module_of_libraries(base.__module__) and _is_own_code(vars(base)) for base in owner.__mro__)


def are_modules_of_libraries(modules: Iterable[Any]) -> bool:
    """Their classes, the files that these stand in, what was put on single modules, and all hooks."""
    classes: set[type] = set()
    for module in modules:
        own = vars(module)
        classes.add(type(module))
        if not _is_own_code(own):
            return False
        if not all(is_of_libraries(hook) for name in HOOKS for hook in (own.get(name) or {}).values()):
            return False
    return all(map(is_class_of_libraries, classes)) and _are_own_files({each.__module__ for each in classes})


def are_modifiers_of_libraries(modifiers: Iterable[Any]) -> bool:
    """Their classes, and what was put on single ones."""
    return all(is_class_of_libraries(type(each)) and _is_own_code(vars(each)) for each in modifiers)


def are_shared_files_of_libraries() -> bool:
    """Nobody put anything of his own into the files of LLM Compressor, or in the place of PyTorch's functions."""
    names = [name for name in list(sys.modules) if name.startswith(SHARED)]
    torch = sys.modules.get("torch")
    return _are_own_files([*names, *FUNCTIONS]) and (torch is None or is_class_of_libraries(torch.Tensor))


def _are_own_files(names: Iterable[str]) -> bool:
    """Nobody put a function of his own into a file; the classes in it are judged where they are used."""
    files = filter(None, map(sys.modules.get, names))
    return all(_is_own_code(vars(file), with_classes=False) for file in files)


def _is_own_code(space: Mapping[str, Any], *, with_classes: bool = True) -> bool:
    """All that can be called in this class, file or instance is of libraries."""
    values = (each for each in list(space.values()) if type(each) is not types.BuiltinFunctionType and _is_code(each))
    return all(is_of_libraries(each) for each in values if with_classes or not isinstance(each, type))
