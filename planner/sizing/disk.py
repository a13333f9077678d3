"""What a job reads from disk and leaves there."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from planner.compress.disk import left_files
from planner.compress.host_schema import Disk, Loading
from planner.compress.program import Program
from planner.errors import UnsupportedError
from planner.job import Job
from planner.sizing.host_constants import HostConstants
from planner.sizing.host_facts import HostModel
from planner.sizing.saved import file_bytes, saved_tensors, shards
from planner.sizing.weight_pages import WIDTHS, WeightWalk
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph


class Saved(NamedTuple):
    """The result's files; None and a note where they cannot be sized."""

    tensor_bytes: int | None = None
    header_bytes: int | None = None
    files: int | None = None
    notes: tuple[str, ...] = ()


def disk_of(
    graph: "ModelGraph",
    program: Program,
    job: Job,
    model: HostModel,
    loading: Loading | None = None,
    constants: HostConstants | None = None,
    saved: Saved | None = None,
) -> Disk:
    """Disk of one job; `model` and `saved` are what `host_model` and `saved_files` say of the same graph, program
    and job."""
    loading, constants = loading or Loading(), constants or HostConstants()
    walk = WeightWalk(model=model, loading=loading, mode=loading.mode(job.dtype), dtype=job.dtype, constants=constants)
    checkpoint = graph.checkpoint_parameters * WIDTHS[loading.checkpoint_dtype or job.dtype]
    saved = saved or saved_files(graph, program, job, constants)
    return Disk(
        checkpoint_bytes=checkpoint,
        download_cache_bytes=checkpoint if loading.downloads else 0,
        offload_folder_bytes=_offload_folder(walk) + left_files(program.runs, walk.on_disk),
        offloaded_bytes=walk.offloaded,
        saved_checkpoint_bytes=saved.tensor_bytes,
        saved_header_bytes=saved.header_bytes,
        saved_files=saved.files,
        notes=(*saved.notes, *_notes(walk)),
    )


def saved_files(graph: "ModelGraph", program: Program, job: Job, constants: HostConstants | None = None) -> Saved:
    """The files that `save_pretrained` writes: they hang on the model, the recipe and `Job.decides_saved`, not on how
    the job runs."""
    constants = constants or HostConstants()
    try:
        tensors = saved_tensors(graph, program, job)
    except UnsupportedError as error:
        return Saved(notes=(str(error),))
    files = [file_bytes(each) for each in shards(tensors, constants.shard)]
    return Saved(sum(nbytes for nbytes, _ in files), sum(header for _, header in files), len(files))


def _offload_folder(walk: WeightWalk) -> int:
    """compressed_tensors offload/cache/disk.py DiskCache: a symlink to the checkpoint until a tensor changes, then a
    file for it. What save compresses is written anew, and the file before it removed."""
    if not walk.offloaded:
        return 0
    share = walk.offloaded / walk.model.weight_bytes
    # transformers integrations/accelerate.py offload_weight saves what a conversion made; linearize_moe as much again
    experts = int(share * walk.copied_experts)
    written = sum(size for each in walk.model.subgraphs for unit, size in each.writes.items() if unit in walk.on_disk)
    modules = [m for m in walk.model.compressed if m.unit in walk.on_disk]
    copies = sum(m.copy_bytes for m in modules)
    left = 0 if modules else written
    return max(2 * experts + written, left + copies)


def _notes(walk: WeightWalk) -> Iterator[str]:
    if walk.offloaded:
        text = f"{format_bytes(walk.offloaded)} of weights are read from the checkpoint's files whenever they are used;"
        yield f"{text} keep them until the job is over: the offload folder has symlinks to them."
