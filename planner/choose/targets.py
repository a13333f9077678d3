"""Finer sequential targets than whole layers: which classes of a model they are.

LLM Compressor cuts a model at modules of the classes in `sequential_targets` (utils/pytorch/module.py
infer_sequential_targets); the classes must cover each decoder layer, or what lies between two of them runs with the
one before.
"""

from collections import Counter
from collections.abc import Iterator

from planner.models.graph import ModelGraph, ModuleInfo, Structure

Targets = tuple[str, ...]


def count_targets(graph: ModelGraph, targets: Targets) -> int:
    """How many modules of the decoder's layers these classes are: each becomes a subgraph of its own."""
    wanted = set(targets)
    return sum(
        not wanted.isdisjoint(module.classes)
        for unit in graph.units
        if unit.kind == "decoder"
        for module in graph.structures[unit.structure].modules
    )


def finer_targets(graph: ModelGraph) -> dict[str, Targets]:
    """Target classes by a name for them, from coarse to fine, for a graph that is cut at whole layers.

    `parts of a layer` (attention, then MLP or mixture of experts), `attention and single experts` where there are
    experts, and `Linear`. Classes that the graph's own targets have besides, such as a vision tower's blocks, are kept
    where the model has a module of them: a class that matches nothing is refused.
    """
    layers = [graph.structures[number] for number in dict.fromkeys(_decoder_structures(graph))]
    if not layers:
        return {}
    classes = {layer.class_name for layer in layers}
    present = {name for module in graph.module_refs() for name in module.classes}
    others = tuple(name for name in graph.sequential_targets if name not in classes and name in present)
    parts = _names(part for layer in layers for part in _parts(layer))
    experts = _names(part for layer in layers for part in _experts(layer))
    found: dict[str, Targets] = {"parts of a layer": (*parts, *others)} if parts else {}
    if experts != parts:
        found["attention and single experts"] = (*experts, *others)
    found["single Linears"] = ("Linear",)
    return found


def _decoder_structures(graph: ModelGraph) -> Iterator[int]:
    return (unit.structure for unit in graph.units if unit.kind == "decoder" and unit.is_target)


def _parts(layer: Structure) -> Iterator[ModuleInfo]:
    """The layer's direct parts that have a Linear in them."""
    for module in layer.modules:
        if module.name.count(".") == 1 and any(linear.startswith(f"{module.name}.") for linear in _linears(layer)):
            yield module


def _experts(layer: Structure) -> Iterator[ModuleInfo]:
    """The same, where each list of experts counts expert by expert, and what lies beside it in its part on its own."""
    for part in _parts(layer):
        inside = [module for module in layer.modules if module.name.startswith(f"{part.name}.")]
        lists = _lists_of_experts(inside)
        if not lists:
            yield part
            continue
        yield from (m for m in inside if _parent_of_numbered(m) in lists)
        linears = [name for name in _linears(layer) if not name.startswith(tuple(f"{each}." for each in lists))]
        yield from (
            m
            for m in inside
            if m.name.count(".") == part.name.count(".") + 1
            and m.name not in lists
            and any(name.startswith(f"{m.name}.") for name in linears)
        )


def _lists_of_experts(modules: list[ModuleInfo]) -> set[str | None]:
    """Those of which several parts are numbered."""
    numbered = Counter(map(_parent_of_numbered, modules))
    return {module.name for module in modules if numbered[module.name] > 1}


def _parent_of_numbered(module: ModuleInfo) -> str | None:
    """What the module is a numbered part of; None for one with a name."""
    parent, _, last = module.name.rpartition(".")
    return parent if last.isdigit() else None


def _linears(layer: Structure) -> list[str]:
    return [module.name for module in layer.modules if "Linear" in module.classes and module.itemsize]


def _names(modules: Iterator[ModuleInfo]) -> Targets:
    return tuple(dict.fromkeys(module.classes[0] for module in modules))
