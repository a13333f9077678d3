"""RAM of a model-free job's process.

A file's tensors are views of it (safetensors `safe_open`, a mapping): pages that the kernel can drop. On the CPU the
library works on them where they lie; on a GPU each is copied, and what is saved comes back all at once (safetensors
torch.py `_to_ndarray`).
"""

from collections.abc import Iterator, Sequence

from planner.modelfree.card import CountedFile
from planner.modelfree.schema import ModelFreeHost, Where
from planner.sizing.host_constants import HostConstants


def host_of_files(
    files: Sequence[CountedFile], device: Where, workers: int, constants: HostConstants | None = None
) -> ModelFreeHost:
    """The process at its largest; `workers` files are worked on at a time on a GPU, one on the CPU."""
    known = constants or HostConstants()
    around = {
        "imports": known.imports_anonymous + known.imports_file,
        "code and objects": known.code_setup + known.objects_setup,
    }
    files_around = known.imports_file + known.code_setup
    if device == "gpu":
        mapped = sum(sorted((each.tally.loaded for each in files), reverse=True)[:workers])
        saved = sorted((sum(tensor.bytes for tensor in each.plan.saved) for each in files), reverse=True)
        parts = {
            **around,
            "mapped files": mapped,
            "results, copied to be saved": sum(saved[:workers]),
            "CUDA": known.cuda_anonymous + known.cuda_file + known.staging,
        }
        must_have = sum(parts.values()) - files_around - mapped - known.cuda_file
    else:
        moments = list(_moments(files, known))
        mapped, held, kept = max(moments, key=sum)
        parts = {**around, "mapped files": mapped, "results and work": held, "allocator": kept}
        must_have = sum(around.values()) - files_around + max(held + kept for _, held, kept in moments)
    return ModelFreeHost(resident_bytes=sum(parts.values()), must_have_bytes=must_have, parts=parts)


def _moments(files: Sequence[CountedFile], known: HostConstants) -> Iterator[tuple[int, int, int]]:
    """Of each file in its turn: mapped, results and work, and what malloc keeps of all work so far."""
    most = 0
    for each in files:
        most = max(most, each.tally.work_peak)
        yield each.tally.loaded, each.tally.peak, _kept(most, known)


def _kept(most: int, known: HostConstants) -> int:
    """Free memory that malloc keeps between live blocks: sizing/host_parts.py kept_by_malloc."""
    took = min(most, 4 * known.heap_block)
    return min(took, known.heap_kept) + took * known.heap_share_percent // 100
