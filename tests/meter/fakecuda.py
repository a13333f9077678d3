"""The counting "CUDA" device, seen from Python. Import this before torch."""

import contextlib
import ctypes
import importlib
import importlib.util
import os
import sys
from pathlib import Path

if "torch" in sys.modules:
    raise RuntimeError("import fakecuda before torch: it must be there when torch looks up its CUDA hooks")

CPU, GPU = 0, 1

# What an allocation is for. The first is the default; the order is the extension's numbering.
KINDS = [
    "other",  # anything not named below
    "model",  # CPU: the model's weights and what is written back to them
    "weights",  # GPU: onloaded weights
    "qparams",  # scales, zero points and other quantization parameters
    "calibration_data",  # CPU: the samples and their batches
    "activation_cache",  # CPU (or the offload device): IntermediatesCache between subgraphs
    "batch",  # GPU: one batch fetched from the activation cache
    "forward",  # GPU: everything a subgraph's forward makes, hooks excluded
    "hessian",  # GPTQ, SparseGPT: the accumulated Hessians
    "hessian_update",  # GPTQ, SparseGPT: temporaries of one accumulation
    "compress_inputs",  # GPTQ: prepare_batch, the stacked weights and Hessians
    "compress",  # GPTQ, SparseGPT, Wanda: the algorithm's own tensors
    "writeback",  # the compressed weight on its way into the module
    "observer",  # observers and the qparams that they compute
    "awq",  # AWQModifier's smoothing search
    "smoothquant",  # SmoothQuantModifier's smoothing
    "trace",  # tracing the subgraphs
    "save",  # save_pretrained
    "cuda_workspace",  # modelled temporaries inside CUDA kernels
]
_KIND_ID = {name: i for i, name in enumerate(KINDS)}


@contextlib.contextmanager
def _silent_stderr():
    """Hide what native code writes: torch warns that the extension replaces CPU kernels."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _load_extension():
    """Load the built extension after torch's own libraries and before torch asks for CUDA."""
    repository = Path(__file__).resolve().parent.parent.parent
    folder = Path(os.environ.get("METER_BUILD") or repository / ".instruments" / "meter-build")
    library = folder / "fakecuda_ext.so"
    if not library.exists():
        raise SystemExit(f"meter: no {library.name} in {folder}; run setup.sh first (METER_BUILD names another folder)")
    torch_lib = Path(importlib.util.find_spec("torch").origin).parent / "lib"
    for name in (
        "libtorch_global_deps.so",
        "libc10.so",
        "libtorch_cpu.so",
        "libtorch.so",
        "libshm.so",
        "libtorch_python.so",
    ):
        ctypes.CDLL(str(torch_lib / name), mode=ctypes.RTLD_GLOBAL)
    with _silent_stderr():
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    import torch  # noqa: F401  (the module below needs it loaded)

    spec = importlib.util.spec_from_file_location("fakecuda_ext", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ext = _load_extension()
import torch


class _Properties:
    """What torch.cuda.get_device_properties answers; an H100-like device."""

    name, major, minor, multi_processor_count = "counting device", 9, 0, 132
    total_memory = 0

    def __getattr__(self, name):
        return 0


class _DeviceContext:
    def __init__(self, *_args):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_args):
        return False


class _Event:
    def record(self, *_args):
        pass


class _Stream(_DeviceContext):
    """torch.Stream / current_stream: copies here are synchronous, so waiting is a no-op."""

    def wait_event(self, _event):
        pass


def install(shape: bool, total_bytes: int, small_bytes: int = 1 << 20) -> None:
    """Make torch see one CUDA device of `total_bytes`, all free, and count every storage.

    shape: compute nothing and back nothing (see the README). small_bytes: in shape mode,
    storages up to this size may keep real values.
    """
    if shape:
        importlib.import_module("torch._meta_registrations")  # the Meta kernels written in Python
    ext.install(shape, small_bytes, total_bytes, total_bytes, _KIND_ID["cuda_workspace"])
    properties = _Properties()
    properties.total_memory = total_bytes
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "is_initialized": True,
        "_is_compiled": True,
        "device_count": 1,
        "current_device": 0,
        "set_device": None,
        "synchronize": None,
        "empty_cache": None,
        "ipc_collect": None,
        "reset_peak_memory_stats": None,
        "get_device_properties": properties,
        "get_device_capability": (9, 0),
        "get_device_name": properties.name,
        "manual_seed": None,
        "manual_seed_all": None,
        "_is_in_bad_fork": False,
    }
    for name, value in answers.items():
        setattr(torch.cuda, name, lambda *_a, _value=value, **_k: _value)
    live, peak = (lambda *_a: stats(GPU)["live"]), (lambda *_a: stats(GPU)["peak"])
    torch.cuda.memory_allocated = torch.cuda.memory_reserved = live
    torch.cuda.max_memory_allocated = torch.cuda.max_memory_reserved = peak
    torch.cuda.mem_get_info = lambda *_a: (max(0, total_bytes - live()), total_bytes)
    torch.cuda.device = _DeviceContext
    torch.Stream, torch.Event = _Stream, _Event
    torch.accelerator.current_stream = lambda *_a: _Stream()
    torch.version.cuda = "12.8"
    torch._C._cuda_getDeviceCount = lambda: 1
    torch._C._cuda_getCurrentRawStream = lambda _d: 0


def stats(device: int) -> dict:
    """Bytes of one device now and at its peak; `*_512` in the caching allocator's blocks."""
    live, peak, live_512, peak_512, by_kind, by_kind_at_peak = ext.stats(device)
    return {
        "live": live,
        "peak": peak,
        "live_512": live_512,
        "peak_512": peak_512,
        "live_by_kind": _named(by_kind),
        "peak_by_kind": _named(by_kind_at_peak),
    }


def _named(by_kind) -> dict[str, int]:
    return {KINDS[number]: count for number, count in enumerate(by_kind) if count}


@contextlib.contextmanager
def kind(name: str):
    """Give allocations made inside to `name`, unless an inner `kind` says otherwise."""
    before = ext.set_kind(_KIND_ID[name])
    try:
        yield
    finally:
        ext.set_kind(before)


@contextlib.contextmanager
def uncounted():
    """Leave allocations made inside out of the books."""
    ext.set_uncounted(1)
    try:
        yield
    finally:
        ext.set_uncounted(-1)
