"""How the rehearsed job's caching allocator is told to behave: by the job, or by the variables that PyTorch reads; and
where a release of PyTorch has rules of its own."""

import os
import re

from planner.cuda.settings import AllocatorSettings
from planner.errors import RehearseError
from planner.job import Job
from planner.notes import Note

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
FIRST_WITH_OUR_RULES = (2, 13)
"""The torch from which on equal free blocks are chosen as planner/cuda/allocator.py does: the one in the segment that
was taken first. 2.12 takes the block that was made first, 2.11 and those before it the lowest address."""
OTHER_RULES = (
    "torch {version} chooses among equal free blocks otherwise than torch from 2.13 on, up to 2.11 by the addresses "
    "that the driver gives: reserved bytes may be others on a card, and the smallest card is found by 2.13's rules."
)


def told_by_environment(job: Job) -> Job:
    """The job with the allocator settings of the environment, where it has none of its own: with these the smallest
    card is replayed, too.

    Raises RehearseError for growing segments and for variables that contradict each other: PyTorch takes some words of
    one and some of the other (c10/core/AllocatorConfig.h, c10/cuda/CUDAAllocatorConfig.h). Raises JobError for what
    PyTorch refuses.
    """
    if job.alloc_conf:
        _check("--alloc-conf", job.alloc_conf, "leave it out")
        return job
    found = {name: text for name in ALLOCATOR_VARIABLES if (text := os.environ.get(name, "").strip())}
    for name, text in found.items():
        _check(name, text, "unset it")
    if len(set(found.values())) > 1:
        raise RehearseError(f"{' and '.join(found)} differ, and PyTorch takes a part of each: unset one of them")
    return job.model_copy(update={"alloc_conf": next(iter(found.values()))}) if found else job


def notes_on_rules(version: str | None) -> list[Note]:
    """What to bear in mind of this torch's allocator, where it is not the one that planner knows."""
    found = re.match(r"(\d+)\.(\d+)", version or "")
    if found is None or (int(found[1]), int(found[2])) >= FIRST_WITH_OUR_RULES:
        return []
    return [Note(kind="rehearsal", text=OTHER_RULES.format(version=version))]


def _check(where: str, text: str, way_out: str) -> None:
    if AllocatorSettings.parse(text).expandable_segments:
        raise RehearseError(f"{where}: expandable_segments:True: {way_out}; a rehearsal has no driver calls for it")
