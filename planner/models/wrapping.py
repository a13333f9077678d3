"""Finds the code that LLM Compressor's tracer wraps into functions that run untraced, and what follows from that.

pipelines/sequential/ast_utils/auto_wrapper.py rewrites the forward of every module that contains a
sequential target: an `if` whose test is no constant, a call of a function named in `tracing_ignore`,
and starred arguments become wrapped functions. The traced graph does not show what a module
does inside of one: such a module is no subgraph of its own, and `sequential_epoch_end` never sees it.

A mask function that is called outside of any wrapped piece becomes a node of the traced graph, and so
does its `config` argument: helpers.py SequentialTracer.create_arg makes it anew from `to_dict()`,
which knows no attention implementation. With none, transformers' masking_utils.py
_preprocess_mask_arguments exits early and the mask is None: these models calibrate without a mask.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch

from planner.upstream import MASK_FUNCTIONS, TRACING_IGNORE

_LEAVES = (ast.Continue, ast.Break, ast.Return)


@dataclass(frozen=True, slots=True)
class Forward:
    """A traced forward: its code, its syntax tree, and the names with which its tests can be evaluated."""

    code: CodeType
    tree: ast.Module
    namespace: dict[str, Any]

    @property
    def offset(self) -> int:
        """Lines of the file before the function's first."""
        return self.code.co_firstlineno - 1


@dataclass(frozen=True, slots=True)
class WrappedPiece:
    """A piece of a traced forward that becomes a function."""

    first: int
    """Its lines in the file, from this one"""
    last: int
    """to this one."""
    names: frozenset[str]
    """What it uses, and so is passed."""
    assigned: frozenset[str]
    """What it assigns, and so returns."""
    is_call: bool
    """A call; else an `if`, or a tuple with a star in it."""


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


def forwards(modules: Iterable[torch.nn.Module]) -> Iterator[Forward]:
    """The forwards of these modules, except those without source code."""
    for module in modules:
        function = inspect.unwrap(type(module).forward)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            continue
        yield Forward(function.__code__, tree, {**getattr(function, "__globals__", {}), "self": module})


def wrapped_lines(forward: Forward) -> tuple[tuple[int, int], ...]:
    """First and last line, in the file, of every piece that becomes a function."""
    return tuple((piece.first, piece.last) for piece in wrapped_pieces(forward))


def wrapped_pieces(forward: Forward) -> Iterator[WrappedPiece]:
    """Every piece that becomes a function."""
    for node in wrapped_nodes(forward):
        yield WrappedPiece(
            first=node.lineno + forward.offset,
            last=(node.end_lineno or node.lineno) + forward.offset,
            names=frozenset(_names([node], ast.Load)),
            assigned=frozenset(_names([node], ast.Store)),
            is_call=isinstance(node, ast.Call),
        )


def wrapped_nodes(forward: Forward) -> Iterator[Any]:
    """Their syntax: an `if`, a call or a tuple."""
    return _wrapped(forward.tree.body, forward)


def names_wrapped_in_loops(forward: Forward) -> frozenset[str]:
    """Names that a wrapped `if` in a loop over layers is passed at every layer, whether its branch uses them or not.

    Names that the loop itself assigns are left out: they are new at every layer, so they cross no border for this.
    A piece that depends on nothing the loop assigns runs before the first layer (topological_partition).
    """
    names: set[str] = set()
    for loop in (node for node in ast.walk(forward.tree) if isinstance(node, ast.For)):
        tests = (node for node in ast.walk(loop) if isinstance(node, (ast.If, ast.IfExp)))
        assigned = _names(loop.body, ast.Store)
        for node in tests:
            used = _names([node], ast.Load)
            if used & assigned and _is_wrapped_if(node, forward.namespace):
                names |= used - assigned
    return frozenset(names)


def items_passed_in_loops(forward: Forward) -> frozenset[str | int]:
    """Arguments of calls in a loop over layers, by place or keyword, that are an item of something: `masks[kind]`.

    Each is a node of the traced graph for every layer (`getitem`), though the item may be the same one: it crosses
    borders under as many names as there are layers.
    """
    loops = (node for node in ast.walk(forward.tree) if isinstance(node, ast.For))
    calls = (node for loop in loops for node in ast.walk(loop) if isinstance(node, ast.Call))
    return frozenset(
        key
        for call in calls
        for key, value in (*enumerate(call.args), *((word.arg, word.value) for word in call.keywords))
        if key is not None and isinstance(value, ast.Subscript)
    )


def _names(nodes: Iterable[ast.AST], context: type[ast.expr_context]) -> set[str]:
    parts = (part for node in nodes for part in ast.walk(node))
    return {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, context)}


def loses_mask(module: torch.nn.Module) -> bool:
    """True when a mask function is called in this module's forward outside of any wrapped piece."""
    return any(_loses_mask(forward) for forward in forwards([module]))


@contextmanager
def without_lost_masks(model: torch.nn.Module, targets: Iterable[str]) -> Iterator[bool]:
    """Make the block run as the traced graph runs: masks that lose their config are None.

    Yields whether the model has such a mask.
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


# ---------------------------------------------------------------------- syntax
def _wrapped(nodes: Iterable[ast.AST], forward: Forward) -> Iterator[Any]:
    for node in nodes:
        if isinstance(node, (ast.If, ast.IfExp)):
            if _is_wrapped_if(node, forward.namespace):
                yield node
            else:
                yield from _wrapped(_live(node, forward.namespace), forward)
        elif _is_wrapped_call(node, forward.namespace):
            yield node
        else:
            yield from _wrapped(ast.iter_child_nodes(node), forward)


def _is_wrapped_if(node: ast.If | ast.IfExp, namespace: dict[str, Any]) -> bool:
    """auto_wrapper.py visit_If: no constant test, and no control flow that leaves the piece."""
    return _constant(node.test, namespace) is None and not any(isinstance(part, _LEAVES) for part in ast.walk(node))


def _is_wrapped_call(node: ast.AST, namespace: dict[str, Any]) -> bool:
    """auto_wrapper.py visit_Call and visit_Tuple: starred arguments, or a function in tracing_ignore."""
    if isinstance(node, ast.Tuple):
        return isinstance(node.ctx, ast.Load) and any(isinstance(e, ast.Starred) for e in node.elts)
    if not isinstance(node, ast.Call):
        return False
    if any(isinstance(argument, ast.Starred) for argument in node.args):
        return True
    function = evaluated(node.func, namespace)
    return getattr(function, "__name__", "") in TRACING_IGNORE


def _live(node: ast.If | ast.IfExp, namespace: dict[str, Any]) -> list[ast.AST]:
    """The branch that a constant test takes; both where it is no constant."""
    value = _constant(node.test, namespace)
    bodies: list[Any] = [node.body, node.orelse] if value is None else [node.body if value else node.orelse]
    return [part for body in bodies for part in (body if isinstance(body, list) else [body])]


def _loses_mask(forward: Forward) -> bool:
    aliases = {name for node in ast.walk(forward.tree) if isinstance(node, ast.Assign) for name in _aliases(node)}
    return any(_is_cut_off(call, aliases, forward.namespace) for call in _traced_calls(forward.tree.body, forward))


def _aliases(node: ast.Assign) -> Iterator[str]:
    """Local names that are bound to a mask function: `mask_function = create_causal_mask if ... else ...`."""
    if isinstance(node.value, ast.Call):
        return
    if any(isinstance(part, ast.Name) and part.id in MASK_FUNCTIONS for part in ast.walk(node.value)):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _traced_calls(nodes: Iterable[ast.AST], forward: Forward) -> Iterator[ast.Call]:
    """Calls that stand outside of wrapped `if` statements."""
    for node in nodes:
        if isinstance(node, (ast.If, ast.IfExp)):
            if not _is_wrapped_if(node, forward.namespace):
                yield from _traced_calls(_live(node, forward.namespace), forward)
            continue
        if isinstance(node, ast.Call):
            yield node
        yield from _traced_calls(ast.iter_child_nodes(node), forward)


def _is_cut_off(call: ast.Call, aliases: set[str], namespace: dict[str, Any]) -> bool:
    if not isinstance(call.func, ast.Name):
        return False
    if call.func.id in aliases:
        return True
    function = namespace.get(call.func.id)
    if not isinstance(function, FunctionType):
        return False
    return function.__name__ in MASK_FUNCTIONS and function.__name__ not in TRACING_IGNORE


def _constant(test: ast.expr, namespace: dict[str, Any]) -> bool | None:
    """The test's value, or None where it is not known without running the forward."""
    if any(isinstance(part, ast.NamedExpr) for part in ast.walk(test)):
        return None
    truth = ast.UnaryOp(op=ast.Not(), operand=ast.UnaryOp(op=ast.Not(), operand=test))
    value: bool | None = evaluated(truth, namespace)
    return value


def evaluated(expression: ast.expr, namespace: dict[str, Any]) -> Any:
    """The expression's value in the forward's module, with `self`; None where it needs a local name, or fails."""
    code = compile(ast.fix_missing_locations(ast.Expression(body=expression)), "<expression>", "eval")
    try:
        return eval(code, namespace, {})  # noqa: S307  (it stands in the installed transformers, which runs it anyway)
    except Exception:  # nothing of planner runs in there: what it raises is about the values that `self` has here
        return None
