"""Which mask calls LLM Compressor's tracer cuts off from the model's attention implementation.

pipelines/sequential/ast_utils/auto_wrapper.py turns untraceable pieces of a forward (an `if` whose
test is no constant, calls of the functions named in `tracing_ignore`) into functions that run as
they are. Any other call of a transformers mask function becomes a node of the traced graph, and so
does its `config` argument: helpers.py SequentialTracer.create_arg makes it anew from `to_dict()`,
which knows no attention implementation. With none, transformers' masking_utils.py
_preprocess_mask_arguments exits early and the mask is None: these models calibrate without a mask.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import torch

# args/dataset_arguments.py tracing_ignore
TRACING_IGNORE = {
    "_update_causal_mask",
    "create_causal_mask",
    "make_causal_mask",
    "get_causal_mask",
    "mask_interface",
    "mask_function",
}
MASK_FUNCTIONS = ("create_causal_mask", "create_sliding_window_causal_mask", "create_chunked_causal_mask")


def ancestors(model: torch.nn.Module, targets: Iterable[str]) -> list[torch.nn.Module]:
    """Modules whose own forward is traced: those that contain a sequential target."""
    names = {name.rpartition(".")[0] for name in targets}
    while True:
        more = {name.rpartition(".")[0] for name in names} - names
        if not more:
            break
        names |= more
    modules = (model.get_submodule(name) for name in sorted(names))
    return [m for m in modules if type(m).forward is not torch.nn.Module.forward]  # lists have no forward


def loses_mask(module: torch.nn.Module) -> bool:
    """True when a mask function is called in this module's forward outside of any wrapped piece."""
    forward = inspect.unwrap(type(module).forward)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError):
        return False
    namespace = {**getattr(forward, "__globals__", {}), "self": module}
    aliases = {target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in _aliases(node)}
    return any(_is_cut_off(call, aliases, namespace) for call in _traced_calls(tree.body, namespace))


@contextmanager
def without_lost_masks(model: torch.nn.Module, targets: Iterable[str]) -> Iterator[bool]:
    """Run the block as the traced graph runs: masks that lose their config are None.

    Yields whether there is such a mask.
    """
    homes = {inspect.getmodule(type(m)) for m in ancestors(model, targets) if loses_mask(m)}
    patched: list[tuple[ModuleType, str, Any]] = []
    for home in homes:
        for name in MASK_FUNCTIONS:
            if home is not None and hasattr(home, name):
                patched.append((home, name, getattr(home, name)))
                setattr(home, name, lambda *_args, **_kwargs: None)
    try:
        yield bool(patched)
    finally:
        for home, name, function in patched:
            setattr(home, name, function)


def _aliases(node: ast.Assign) -> Iterator[str]:
    """Local names that are bound to a mask function: `mask_function = create_causal_mask if ... else ...`."""
    if isinstance(node.value, ast.Call):
        return
    if any(isinstance(part, ast.Name) and part.id in MASK_FUNCTIONS for part in ast.walk(node.value)):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _traced_calls(nodes: Iterable[ast.AST], namespace: dict[str, Any]) -> Iterator[ast.Call]:
    """Calls that stand outside of wrapped `if` statements."""
    for node in nodes:
        if isinstance(node, (ast.If, ast.IfExp)):
            value = _constant(node.test, namespace)
            if value is None:
                continue  # wrapped: its content runs as ordinary code
            branch: Any = node.body if value else node.orelse
            yield from _traced_calls(branch if isinstance(branch, list) else [branch], namespace)
            continue
        if isinstance(node, ast.Call):
            yield node
        yield from _traced_calls(ast.iter_child_nodes(node), namespace)


def _is_cut_off(call: ast.Call, aliases: set[str], namespace: dict[str, Any]) -> bool:
    if not isinstance(call.func, ast.Name):
        return False
    if call.func.id in aliases:
        return True
    function = namespace.get(call.func.id)
    return (
        isinstance(function, FunctionType)
        and function.__name__ in MASK_FUNCTIONS
        and function.__name__ not in TRACING_IGNORE
    )


def _constant(test: ast.expr, namespace: dict[str, Any]) -> bool | None:
    """The test's value where it can be told without running the forward."""
    if any(isinstance(part, ast.NamedExpr) for part in ast.walk(test)):
        return None
    try:
        # the test stands in the installed transformers, which runs it anyway
        return bool(eval(compile(ast.Expression(body=test), "<test>", "eval"), namespace, {}))  # noqa: S307
    except Exception:  # a local name, most of the time
        return None
