"""Which tensors each file's job loads: compressed_tensors entrypoints/convert/converters/base.py
build_inverse_weight_maps."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from planner.errors import ModelError
from planner.modelfree.checkpoint import Checkpoint
from planner.modelfree.converters import ConverterSpec
from planner.modelfree.fused import known, partners
from planner.modelfree.rules import Rules
from planner.sizing.saved import SavedTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class FileJob:
    """One file that is written, and what is loaded for it."""

    file: str
    loads: tuple[tuple[str, tuple[SavedTensor, ...]], ...]
    """(file that is read, tensors of it in their order)."""

    @property
    def tensors(self) -> tuple[SavedTensor, ...]:
        """All that is loaded."""
        return tuple(tensor for _, tensors in self.loads for tensor in tensors)

    @property
    def foreign(self) -> int:
        """Tensors that lie in other files."""
        return sum(len(tensors) for file, tensors in self.loads if file != self.file)


def file_jobs(checkpoint: Checkpoint, rules: Rules, converters: Sequence[ConverterSpec]) -> tuple[FileJob, ...]:
    """One job for each file. A tensor that another one needs is loaded with that one, wherever it lies.

    Raises ModelError where a partner is not in the checkpoint, and for a file that holds partners alone.
    """
    home = {tensor.name: (file, tensor) for file, tensors in checkpoint.files.items() for tensor in tensors}
    needs = {name: _needs(name, home.keys(), rules, converters) for name in home}
    needed = {partner for found in needs.values() for partner in found}
    jobs: dict[str, dict[str, list[SavedTensor]]] = {}
    for name, (file, _) in home.items():
        if name in needed:
            continue
        loads = jobs.setdefault(file, {})
        for each in (name, *needs[name]):
            source, tensor = home[each]
            loads.setdefault(source, []).append(tensor)
    if idle := [file for file in checkpoint.files if file not in jobs]:
        raise ModelError(
            f"{checkpoint.name}: {idle[0]} holds partners of other files alone, at which LLM Compressor stops"
        )
    return tuple(
        FileJob(file=file, loads=tuple((source, tuple(found)) for source, found in jobs[file].items()))
        for file in checkpoint.files
    )


def _needs(name: str, names: Collection[str], rules: Rules, converters: Sequence[ConverterSpec]) -> tuple[str, ...]:
    """All that a tensor needs, and what that needs in turn."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        wanted = [dep for converter in converters for dep in converter.dependencies(each)]
        wanted += partners(each) if rules.has_fused else ()
        for dep in wanted:
            if dep not in found:
                found[known(dep, names)] = None
                waiting.append(dep)
    return tuple(sorted(found))
