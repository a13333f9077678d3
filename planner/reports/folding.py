"""Folds equal subgraphs into one group of lines with their count, so that each line tells the reader something new."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.compress.parts import gpu_parts
from planner.compress.schema import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Steps that belong together: one subgraph's calibrate, compress and propagate, or a lone step."""

    run: int
    """Number of the pipeline run: the independent pipeline starts one for each modifier."""
    steps: tuple[Step, ...]

    @property
    def unit(self) -> str:
        """Name of the subgraph, or of the phase."""
        return self.steps[0].unit


NEAR = 0.05
"""Folds whose GPU peaks differ by no more than this part of them are of one kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Blocks with the same GPU numbers in every phase, or nearly the same ones, in time order."""

    blocks: tuple[Block, ...]

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    @property
    def run(self) -> int:
        """Number of the pipeline run."""
        return self.blocks[0].run

    @property
    def is_alike(self) -> bool:
        """The blocks do not only nearly have the same numbers."""
        return len({_signature(block) for block in self.blocks}) == 1

    @property
    def label(self) -> str:
        """The units as a range where they are numbered: `model.layers.1-30`."""
        return label([block.unit for block in self.blocks])

    def phases(self) -> Iterable[tuple[Step, ...]]:
        """For each phase in time order, the steps of this phase in all blocks."""
        return zip(*(block.steps for block in self.blocks), strict=True)


def unfolded(steps: Sequence[Step]) -> list[Fold]:
    """Every block on its own."""
    return [Fold(blocks=(block,)) for block in blocks(steps)]


def fold(steps: Sequence[Step]) -> list[Fold]:
    """One Fold per distinct block of each pipeline run, ordered by its first block.

    CPU figures are not compared: they may creep up from layer to layer while the GPU repeats itself.
    Blocks of a fold need not be neighbours: where two kinds of layer alternate, the result is two folds.
    """
    groups: dict[object, list[Block]] = {}
    for block in blocks(steps):
        groups.setdefault(_signature(block), []).append(block)
    return [Fold(blocks=tuple(group)) for group in groups.values()]


def nearly_folded(steps: Sequence[Step]) -> list[Fold]:
    """`fold`, and folds of units of one name, but for its numbers, are one where their GPU peaks nearly are.

    A first and a last layer differ from those between by what the batch before them left behind.
    """
    kinds: list[list[Fold]] = []
    for each in fold(steps):
        kind = next((kind for kind in kinds if _is_near(kind[0], each)), None)
        if kind is None:
            kinds.append([each])
        else:
            kind.append(each)
    return [Fold(blocks=_in_order(block for each in kind for block in each.blocks)) for kind in kinds]


def _in_order(blocks: Iterable[Block]) -> tuple[Block, ...]:
    return tuple(sorted(blocks, key=lambda block: block.steps[0].index))


def _is_near(one: Fold, other: Fold) -> bool:
    first, second = one.blocks[0], other.blocks[0]
    if first.steps[0].subgraph is None or second.steps[0].subgraph is None or _kind(first) != _kind(second):
        return False
    peaks = [(a.gpu.peak_bytes, b.gpu.peak_bytes) for a, b in zip(first.steps, second.steps, strict=True)]
    return all(abs(a - b) <= NEAR * max(a, b) for a, b in peaks)


def _kind(block: Block) -> object:
    return block.run, re.sub(r"\d+", "#", block.unit), tuple((step.phase, step.exact) for step in block.steps)


def blocks(steps: Sequence[Step]) -> list[Block]:
    """The steps in time order, cut where the subgraph or the pipeline run changes."""
    complete: list[Block] = []
    run, last = 0, 0
    current: list[Step] = []
    for previous, step in zip([None, *steps], steps, strict=False):
        if previous is not None and not _together(previous, step):
            complete.append(Block(run=run, steps=tuple(current)))
            current = []
            run += _starts_run(previous, step, last)
        last = step.subgraph if step.subgraph is not None else last
        current.append(step)
    return [*complete, Block(run=run, steps=tuple(current))] if current else complete


def label(units: Sequence[str]) -> str:
    """One name for many units: numbers that differ in one place become ranges.

    A unit may itself name several targets, `model.layers.0, model.layers.1`.
    """
    names = [name for unit in units for name in unit.split(", ")]
    if len(names) == 1:
        return names[0]
    pieces = [re.split(r"(\d+)", name) for name in names]
    varying = _differing(pieces)
    if len(varying) != 1 or not all(place % 2 for place in varying):
        return f"{names[0]} … {names[-1]}"
    place = varying.pop()
    numbers = _ranges([int(other[place]) for other in pieces])
    return "".join([*pieces[0][:place], numbers, *pieces[0][place + 1 :]])


def _differing(pieces: Sequence[Sequence[str]]) -> set[int]:
    """Places where the names differ. Names are cut into text and numbers; odd places are numbers."""
    longest = max(map(len, pieces))
    return {place for place in range(longest) if len({"".join(each[place : place + 1]) for each in pieces}) > 1}


def _together(previous: Step, step: Step) -> bool:
    same_place = (previous.subgraph, previous.unit, previous.modifier) == (step.subgraph, step.unit, step.modifier)
    return same_place and previous.phase != step.phase and step.subgraph is not None


def _starts_run(previous: Step, step: Step, last_subgraph: int) -> bool:
    """Whether a pipeline run starts here: the modifier changes, or subgraphs are numbered from the start again."""
    counts_again = step.subgraph is not None and step.subgraph < last_subgraph
    other_modifier = None not in (previous.modifier, step.modifier) and previous.modifier != step.modifier
    return counts_again or other_modifier


def _signature(block: Block) -> object:
    phases = tuple((step.phase, step.exact, tuple(gpu_parts(step.gpu.by_kind).values())) for step in block.steps)
    is_subgraph = block.steps[0].subgraph is not None
    # A lone step named after its phase (setup, save) stays apart from other steps with the same numbers.
    lone = "" if is_subgraph or block.unit != block.steps[0].phase else block.unit
    return block.run, is_subgraph, lone, block.unit == "head", phases


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 -> `1-3, 7`; a long list of single numbers is cut in the middle."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    return ", ".join(texts if len(texts) <= 4 else [*texts[:2], f"… {texts[-1]}"])
