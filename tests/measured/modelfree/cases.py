"""The calls of model_free_ptq that were measured, and what the plan says of each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from planner.hardware.machine import Machine
from planner.modelfree.checkpoint import Checkpoint
from planner.modelfree.converters import Fp8BlockDequantizer
from planner.modelfree.plan import ModelFreeOptions, plan_checkpoint
from planner.modelfree.rules import rules_of
from planner.modelfree.schema import ModelFreePlan, Where
from planner.sizing.saved import SavedTensor
from planner.units import GIB

HERE = Path(__file__).parent
RUNS, CHECKPOINTS = HERE / "runs", HERE / "checkpoints"
IGNORED = ("lm_head", "re:.*embed_tokens.*", "re:.*mlp.gate$")
"""tests/hostmeter/model_free_job.py's default."""
DECODER = r"re:.*(self_attn|mlp)\..*_proj$"
"""What tests/hostmeter/model_free_job.py gives FP8BlockDequantizer as targets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesCase:
    """One call, on one device."""

    checkpoint: str
    scheme: str
    device: Where = "gpu"
    workers: int = 1
    converter: str | None = None
    sm: int = 90

    @property
    def name(self) -> str:
        said = [self.checkpoint, self.scheme, self.device]
        said += [f"{self.workers}workers"] if self.workers > 1 else []
        said += [f"sm{self.sm}"] if self.sm != 90 else []
        return "-".join(said)

    @property
    def recorded(self) -> Path:
        return RUNS / f"{self.name}.json"

    @property
    def words(self) -> list[str]:
        """Options of the instruments beside folder and scheme."""
        converter = ["--converter", self.converter] if self.converter else []
        return ["--workers", str(self.workers), *converter]


def files_cases() -> Iterator[FilesCase]:
    """Every recorded call."""
    dense, moe = "qwen3-0.6b-sharded", "moe-files"
    for scheme in ("FP8_BLOCK", "FP8_DYNAMIC", "W4A16", "W4A16_ASYM", "W8A8", "NVFP4A16", "MXFP4A16"):
        yield FilesCase(checkpoint=dense, scheme=scheme)
    for scheme in ("FP8_BLOCK", "FP8_DYNAMIC", "W4A16", "NVFP4A16"):
        yield FilesCase(checkpoint=moe, scheme=scheme)
    yield FilesCase(checkpoint="moe-fused", scheme="FP8_DYNAMIC")
    yield FilesCase(checkpoint="fp8-files", scheme="W4A16", converter="fp8-block")
    yield FilesCase(checkpoint=dense, scheme="FP8_DYNAMIC", sm=80)
    for workers in (2, 4):
        yield FilesCase(checkpoint=dense, scheme="FP8_DYNAMIC", workers=workers)
        yield FilesCase(checkpoint=dense, scheme="W4A16", workers=workers)
        yield FilesCase(checkpoint=moe, scheme="FP8_BLOCK", workers=workers)
    for scheme in ("FP8_DYNAMIC", "FP8_BLOCK", "W4A16", "W8A8"):
        yield FilesCase(checkpoint=dense, scheme=scheme, device="cpu")
    for scheme in ("FP8_BLOCK", "W4A16"):
        yield FilesCase(checkpoint=moe, scheme=scheme, device="cpu")
    yield FilesCase(checkpoint="fp8-files", scheme="FP8_DYNAMIC", device="cpu", converter="fp8-block")


@cache
def measured_files(case: FilesCase) -> dict[str, Any]:
    """What was recorded."""
    found: dict[str, Any] = json.loads(case.recorded.read_text(encoding="utf-8"))
    return found


@cache
def checkpoint_of(case: FilesCase) -> Checkpoint:
    """The checkpoint's headers, its files in the order in which the library took them."""
    kept = json.loads((CHECKPOINTS / f"{case.checkpoint}.json").read_text(encoding="utf-8"))
    files = {
        name: tuple(
            SavedTensor(name=tensor, type=kind, shape=tuple(shape)) for tensor, kind, shape in kept["files"][name]
        )
        for name in kept["order"]
    }
    return Checkpoint(name=case.checkpoint, files=files, has_index=True)


@cache
def planned_files(case: FilesCase) -> ModelFreePlan:
    """The same call, planned for a card of that compute capability."""
    spec = Fp8BlockDequantizer(targets=(DECODER,)) if case.converter else None
    options = ModelFreeOptions(max_workers=case.workers, device=case.device)
    machine = Machine(gpu_memory_bytes=80 * GIB, sm=case.sm, source="the record's")
    return plan_checkpoint(checkpoint_of(case), rules_of(case.scheme, ignore=IGNORED), spec, options, machine)
