"""Finds where LLM Compressor's traced forward stops: a test asks a plain dict for an attribute.

What a traced module returns is an object of transformers' ModelOutput with fx proxies in it. That is a dict, and where
a wrapped function (wrapping.py) takes it, torch/fx/proxy.py TracerBase.create_arg writes it into the graph as a plain
one. When the subgraph runs, `outputs.labels` in that function raises AttributeError. What a module returns that is not
traced, as it is a sequential target or holds none, stays what it is. Seen with the real library and transformers 5.17:
modeling_qwen2_audio.py Qwen2AudioForConditionalGeneration.forward, which has the same lines in 5.15 and 5.16.
"""

import ast
from collections.abc import Iterable, Iterator

import torch

from planner.models.wrapping import Forward, ancestors, evaluated, forwards, wrapped_nodes
from planner.notes import Note


def tracing_stops(model: torch.nn.Module, targets: Iterable[str]) -> tuple[Note, ...]:
    """A note on the first place, if any, where a job stops that traces the model with these sequential targets."""
    traced = ancestors(model, targets)
    outputs = {id(module) for module in traced if any(map(_returns_output, forwards([module])))}
    for module in traced:
        for forward in forwards([module]):
            for read, source in _reads(forward, outputs):
                return (_note(type(module).__name__, read, type(source).__name__),)
    return ()


def _note(forward: str, read: ast.Attribute, source: str) -> Note:
    return Note(
        kind="fails",
        text=f"This job fails in LLM Compressor: as it traces the model, {forward}.forward asks a plain dict for "
        f"{ast.unparse(read)}, and stops with \"'dict' object has no attribute '{read.attr}'\". It runs with "
        f"--sequential-targets {source}, all of that on the GPU together, or with --pipeline basic.",
    )


def _reads(forward: Forward, outputs: set[int]) -> Iterator[tuple[ast.Attribute, torch.nn.Module]]:
    """Attributes that a wrapped function surely asks of what one of these modules returned, and that module."""
    sources = dict(_sources(forward, outputs))
    for node in wrapped_nodes(forward):
        for read in _evaluated_first(node.test if isinstance(node, (ast.If, ast.IfExp)) else node):
            if isinstance(read, ast.Attribute) and isinstance(read.value, ast.Name) and read.value.id in sources:
                yield read, sources[read.value.id]


def _sources(forward: Forward, outputs: set[int]) -> Iterator[tuple[str, torch.nn.Module]]:
    """Names that are bound to what one of these modules returns."""
    for node in ast.walk(forward.tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        called = evaluated(node.value.func, forward.namespace)
        if isinstance(called, torch.nn.Module) and id(called) in outputs:
            yield from ((target.id, called) for target in node.targets if isinstance(target, ast.Name))


def _returns_output(forward: Forward) -> bool:
    """Whether it makes what it returns of a class of dicts, as ModelOutput is."""
    returned = (node.value for node in ast.walk(forward.tree) if isinstance(node, ast.Return))
    made = (evaluated(value.func, forward.namespace) for value in returned if isinstance(value, ast.Call))
    return any(isinstance(each, type) and issubclass(each, dict) for each in made)


def _evaluated_first(node: ast.AST) -> Iterator[ast.AST]:
    """What is evaluated whatever the values are: of `a and b` the first part, of `a if b else c` the test."""
    yield node
    if isinstance(node, ast.BoolOp):
        yield from _evaluated_first(node.values[0])
    elif isinstance(node, ast.IfExp):
        yield from _evaluated_first(node.test)
    elif not isinstance(node, ast.Lambda):
        for part in ast.iter_child_nodes(node):
            yield from _evaluated_first(part)
