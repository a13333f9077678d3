"""Checks before a measurement starts; each one fails with a single line that says the way out."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from planner.compress.schema import Plan
from planner.errors import MeasureError
from planner.hardware import named_gpu
from planner.job import Job
from planner.measure.record import Card
from planner.units import human_bytes
from planner.upstream import LLMCOMPRESSOR_VERSION

PACKAGES = ("torch", "llmcompressor", "compressed-tensors", "transformers", "accelerate")


def require_library() -> None:
    """Raise MeasureError where llmcompressor is missing, or is not the version that plans are for."""
    try:
        installed = version("llmcompressor")
    except PackageNotFoundError:
        raise MeasureError(
            "llmcompressor is not installed here; it is an extra: pip install 'compression-planner[measure]'"
        ) from None
    if installed != LLMCOMPRESSOR_VERSION:
        raise MeasureError(
            f"llmcompressor {installed} is installed, and plans are for {LLMCOMPRESSOR_VERSION}: "
            f"pip install llmcompressor=={LLMCOMPRESSOR_VERSION}"
        )


def find_card() -> Card:
    """The accelerator; asking for its free memory creates the CUDA context, which is then not counted as free."""
    import torch

    if not torch.cuda.is_available():
        raise MeasureError(
            "no accelerator: torch sees no CUDA or ROCm device here "
            f"(torch {torch.__version__}); `planner plan` needs none"
        )
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Card(
        name=properties.name,
        total_bytes=total,
        free_bytes=free,
        driver=driver_version(),
        capability=f"{properties.major}.{properties.minor}",
    )


def on_this_machine(job: Job, card: Card) -> Job:
    """The job with the figures of this card, and without progress bars where the environment switches them off."""
    known = named_gpu(card.name)
    digits = (card.capability or "").replace(".", "")
    machine = {
        "gpu": known.name if known else card.name,
        "gpu_memory_bytes": card.total_bytes,
        "sm": known.sm if known else int(digits) if digits.isdigit() else None,
        "progress_bars": job.progress_bars and not os.environ.get("TQDM_DISABLE"),
    }
    return job.model_copy(update=machine)


def require_memory(plan: Plan, card: Card) -> None:
    """Raise MeasureError where the plan's peaks exceed the free memory of this machine."""
    needs = plan.gpu.peak_allocated_bytes
    if card.free_bytes is not None and needs > card.free_bytes:
        raise MeasureError(_too_little("GPU", needs, card.free_bytes, "lower --layers, --seq-len or --batch-size"))
    available = available_bytes()
    if available is not None and plan.cpu.peak_bytes > available:
        raise MeasureError(_too_little("CPU", plan.cpu.peak_bytes, available, "lower --layers or --samples"))


def _too_little(device: str, needs: int, has: int, cure: str) -> str:
    return (
        f"the plan needs {human_bytes(needs)} of {device} memory and {human_bytes(has)} is free; "
        f"{cure}, or go on with --force"
    )


def available_bytes() -> int | None:
    """Free host memory, in bytes: the system's or the container's, whichever is less; None if unknown."""
    known = [value for value in (_system_bytes(), _container_bytes()) if value is not None]
    return min(known, default=None)


def _system_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container_bytes() -> int | None:
    """Bytes that a cgroup (version 2) leaves free; cached file pages, which it could drop, count as used."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = (folder / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdigit() else None


def driver_version() -> str | None:
    """The driver's version by NVML, which llmcompressor brings; None on other cards."""
    try:
        import pynvml

        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # no NVIDIA library on this machine, in a dozen ways; the version is a remark, not a need
        return None
    return driver.decode() if isinstance(driver, bytes) else str(driver)


def versions() -> dict[str, str]:
    """Versions of all packages that memory depends on."""
    import torch

    by_package = {}
    for name in PACKAGES:
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            continue
    by_package["torch"] = torch.__version__  # with the build, like +cu128
    if runtime := torch.version.cuda or torch.version.hip:
        by_package["cuda" if torch.version.cuda else "hip"] = runtime
    return by_package
