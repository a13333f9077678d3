"""How the rehearsed job's caching allocator is told to behave: by the job, or by the variables that PyTorch reads."""

import os

from planner.cuda.settings import AllocatorSettings
from planner.errors import RehearseError
from planner.job import Job

ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


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


def _check(where: str, text: str, way_out: str) -> None:
    if AllocatorSettings.parse(text).expandable_segments:
        raise RehearseError(f"{where}: expandable_segments:True: {way_out}; a rehearsal has no driver calls for it")
