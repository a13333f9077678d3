"""Which weights stay on the disk, and what the job writes there before it saves.

compressed_tensors offload/cache/disk.py: a weight that was loaded is a link to the checkpoint. One that changes takes
the link's place as a file of its own; scales and zero points are files from the start.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.compress.program import Program, Run
from planner.notes import Note
from planner.recipe.qparams import qparam_sizes
from planner.recipe.targets import LinearModule, UnitTargets

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph

OnDisk = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskShare:
    """Bytes on the disk."""

    weights: int
    qparams: int
    rewritten: int
    """Weights that the modifiers change."""
    left: int
    """Files that they leave beside those."""


def disk_share(graph: "ModelGraph", runs: Sequence[Run], quantized: Iterable[UnitTargets]) -> DiskShare:
    """What of the model, and of these modifiers' work, lies on the disk; `quantized`: all modules with a scheme."""
    if not graph.on_disk:
        return DiskShare(weights=0, qparams=0, rewritten=0, left=0)
    on_disk = below(graph.on_disk)
    weights = sum(
        parameter.bytes
        for unit in graph.units
        for parameter in graph.structures[unit.structure].parameters
        if not parameter.tied and on_disk(unit.name + parameter.name)
    )
    qparams = sum(qparams_on_disk(quantized, graph.on_disk))
    changed = {
        module.name: module.weight_bytes
        for run in runs
        if run.spec.rewrites_weights
        for module in _modules(run, on_disk)
        if module.observed and not module.embedding
    }
    left = left_files(runs, graph.on_disk)
    return DiskShare(weights=weights, qparams=qparams, rewritten=sum(changed.values()), left=left)


def left_files(runs: Iterable[Run], roots: frozenset[str]) -> int:
    """Bytes of the files that modifiers leave beside those of what lies on the disk, which `roots` hold."""
    on_disk = below(roots)
    return sum(run.spec.left_files(on_disk) for run in runs) if roots else 0


def qparams_on_disk(quantized: Iterable[UnitTargets], roots: frozenset[str]) -> Iterator[int]:
    """Bytes of each scale and zero point that is a file."""
    on_disk = below(roots)
    for unit in quantized if roots else ():
        for module in (*unit.named(), *unit.named_states()):
            if on_disk(module.name):
                yield from qparam_sizes(module)


def disk_notes(program: Program) -> Iterator[Note]:
    """What weights on the disk mean beyond the figures; nothing where none lie there."""
    on_disk = below(program.on_disk)
    if program.tied and on_disk(program.embedding) and any(run.unties_embeddings for run in program.runs):
        # utils/transformers.py untie_word_embeddings deletes the first weight, and with it DiskCache's entry for both
        yield Note(
            kind="fails",
            text="This job fails in LLM Compressor: it unties the word embeddings, and tied weights that lie on the "
            f"disk are not found after the first one is replaced ('KeyError'). Add {_module(program.head)} and "
            f"{_module(program.embedding)} to ignore, or keep them in CPU memory.",
        )
    if program.disk_bytes:
        yield Note(
            kind="job",
            text="A weight comes from the disk to the GPU through pinned CPU memory. It is counted while it is copied; "
            "PyTorch rounds it up to a power of two and keeps it for the rest of the job.",
        )


def _module(weight: str) -> str:
    return weight.removesuffix(".weight")


def below(roots: frozenset[str]) -> OnDisk:
    """Tells whether a dotted name is one of `roots`, or lies in one. The empty name is the root of all."""
    known: dict[str, bool] = {}

    def lies_below(name: str) -> bool:
        if name not in known:
            known[name] = name in roots or (bool(name) and lies_below(name.rpartition(".")[0]))
        return known[name]

    return lies_below


def _modules(run: Run, on_disk: OnDisk) -> Iterator[LinearModule]:
    """The run's modules whose weights are on the disk, with their full names."""
    return (module for unit in run.units for module in unit.named() if on_disk(module.name))
