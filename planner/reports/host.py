"""RAM and disk of a planned job in words: what the process takes beyond tensors."""

from planner.compress.host_schema import Disk, Host
from planner.reports.numbers import gib
from planner.units import format_bytes

SHOWN = 4
"""Parts of a peak that are named; the smaller ones are summed."""


def ram_lines(host: Host) -> list[str]:
    """Both figures with their phases, and what the larger one is made of."""
    peak = next(phase for phase in host.phases if phase.phase == host.peak_resident_phase)
    parts = sorted(peak.parts.items(), key=lambda part: -part[1])
    named = [f"{name} {gib(size)}" for name, size in parts[:SHOWN]]
    rest = sum(size for _, size in parts[SHOWN:])
    lines = [
        f"resident in {host.peak_resident_phase}; below {gib(host.peak_must_have_bytes)} (in "
        f"{host.peak_must_have_phase}) the job is killed, between the two it is slow",
        ", ".join([*named, *([f"{len(parts) - SHOWN} others {gib(rest)}"] if rest else [])]),
    ]
    return [*lines, *host.notes]


def disk_line(disk: Disk) -> str:
    """What is read and what is written."""
    parts = [f"reads {format_bytes(disk.checkpoint_bytes, 'GB')}"]
    if disk.download_cache_bytes:
        parts.append(f"{format_bytes(disk.download_cache_bytes, 'GB')} in the Hub's cache")
    if disk.offload_folder_bytes:
        parts.append(f"{format_bytes(disk.offload_folder_bytes, 'GB')} in the offload folder")
    if disk.saved_checkpoint_bytes is not None:
        files = f"{disk.saved_files} file{'s' * ((disk.saved_files or 0) > 1)}"
        saved = disk.saved_checkpoint_bytes + (disk.saved_header_bytes or 0)
        parts.append(f"saves {format_bytes(saved, 'GB')} in {files}")
    return ", ".join((*parts, *disk.notes))
