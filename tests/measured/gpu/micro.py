"""What PyTorch's CUDA operators and the libraries below them allocate beside their results.

    python -m tests.measured.gpu.micro NAME [--dry-run]     one benchmark, JSON lines on stdout

Each benchmark runs in a process of its own, smallest size first: its first call is the first of its
library. `extra` is what a call held at its highest beyond what was there before; `workspace` is that
less the result. `outside` is what the driver gave to anybody but PyTorch's allocator.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

SIZES = (1024, 2048, 4096, 8192, 14336, 18432)
POTRF = (4096, 8192, 14336, 28672)
"""Columns of Hessians that jobs have, from Llama-3-8B's to a 70B model's: cuSOLVER's workspace grows with them."""
TINY = (16, 32)
CALLS = ("first", "second", "third")
HEADS = 8
PATCH, CHANNELS = 14, 3

Call = Callable[[], Any]
Make = Callable[[int, str], Call]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One call. Byte figures are null on a device whose allocator keeps no books."""

    name: str
    n: int
    call: str
    seconds: float
    result_bytes: int
    extra_requested: int | None
    extra_allocated: int | None
    extra_reserved: int | None
    workspace: int | None
    outside: int | None


def _square(n: int, device: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, n, device=device, dtype=dtype)


def _positive(n: int, device: str, batch: int = 1) -> torch.Tensor:
    """A symmetric positive matrix without a product: the product would be a first call of cuBLAS."""
    matrix = torch.rand(n, n, device=device)
    matrix = (matrix + matrix.T) / (2 * n)
    matrix.diagonal().add_(2.0)
    return matrix if batch == 1 else torch.stack([matrix] * batch)


def cholesky_ex(n: int, device: str) -> Call:
    a = _positive(n, device)
    return lambda: torch.linalg.cholesky_ex(a)


def cholesky_ex_batched(n: int, device: str) -> Call:
    a = _positive(n, device, 2)
    return lambda: torch.linalg.cholesky_ex(a)


def cholesky_upper(n: int, device: str) -> Call:
    a = _positive(n, device)
    return lambda: torch.linalg.cholesky(a, upper=True)


def cholesky_inverse(n: int, device: str) -> Call:
    a = torch.eye(n, device=device)
    return lambda: torch.cholesky_inverse(a)


def cholesky_inverse_out(n: int, device: str) -> Call:
    a, out = torch.eye(n, device=device), torch.empty(n, n, device=device)
    return lambda: torch.cholesky_inverse(a, out=out)


def cholesky_inverse_out_batched(n: int, device: str) -> Call:
    a = torch.stack([torch.eye(n, device=device)] * 2)
    out = torch.empty_like(a)
    return lambda: torch.cholesky_inverse(a, out=out)


def matmul_bf16(n: int, device: str) -> Call:
    a = _square(n, device, torch.bfloat16)
    return lambda: a @ a


def matmul_fp32(n: int, device: str) -> Call:
    a = _square(n, device)
    return lambda: a @ a


def linear_with_bias_bf16(n: int, device: str) -> Call:
    """A product that goes through cuBLASLt, which has a workspace of its own."""
    a, bias = _square(n, device, torch.bfloat16), torch.zeros(n, device=device, dtype=torch.bfloat16)
    return lambda: torch.nn.functional.linear(a, a, bias)


def softmax_bf16_to_fp32(n: int, device: str) -> Call:
    a = torch.randn(HEADS, n, n, device=device, dtype=torch.bfloat16)
    return lambda: torch.softmax(a, -1, dtype=torch.float32)


def softmax_fp16_to_fp32(n: int, device: str) -> Call:
    a = torch.randn(HEADS, n, n, device=device, dtype=torch.float32).to(torch.float16)
    return lambda: torch.softmax(a, -1, dtype=torch.float32)


def argsort(n: int, device: str) -> Call:
    a = torch.randn(n, device=device)
    return lambda: torch.argsort(a, descending=True)


def sort_rows(n: int, device: str) -> Call:
    a = _square(n, device)
    return lambda: torch.sort(a, dim=-1)


def sort_flat(n: int, device: str) -> Call:
    a = _square(n, device).flatten()
    return lambda: torch.sort(a)


def topk_of_four(n: int, device: str) -> Call:
    a = torch.randn(n * n // 4, 4, device=device)
    return lambda: torch.topk(a, 2, dim=-1, largest=False)


def scatter(n: int, device: str) -> Call:
    a, index = torch.zeros(n, n, device=device), torch.zeros(n, n, device=device, dtype=torch.int64)
    return lambda: a.scatter(1, index, 1.0)


def stack(n: int, device: str) -> Call:
    parts = [_square(n, device) for _ in range(2)]
    return lambda: torch.stack(parts)


def index_put(n: int, device: str) -> Call:
    a, mask = _square(n, device), torch.zeros(n, device=device, dtype=torch.bool)
    mask[::2] = True
    value = torch.tensor(0.0, device=device)
    return lambda: a.index_put_((mask,), value)


def index_select_columns(n: int, device: str) -> Call:
    a, order = _square(n, device), torch.arange(n, device=device).flip(0)
    return lambda: a[:, order]


def patch_embedding(n: int, device: str) -> Call:
    side = max(1, round(n**0.5)) * PATCH
    pixels = torch.randn(1, CHANNELS, side, side, device=device, dtype=torch.bfloat16)
    layer = torch.nn.Conv2d(CHANNELS, 64, PATCH, stride=PATCH).to(device=device, dtype=torch.bfloat16)
    return lambda: layer(pixels)


BENCHMARKS: dict[str, Make] = {
    make.__name__: make
    for make in (
        *(cholesky_ex, cholesky_ex_batched, cholesky_upper),
        *(cholesky_inverse, cholesky_inverse_out, cholesky_inverse_out_batched),
        *(matmul_bf16, matmul_fp32, linear_with_bias_bf16, softmax_bf16_to_fp32, softmax_fp16_to_fp32),
        *(argsort, sort_rows, sort_flat, topk_of_four, scatter, stack, index_put, index_select_columns),
        patch_embedding,
    )
}


def sizes_of(name: str) -> tuple[int, ...]:
    """Of linear algebra on one matrix the sizes that jobs have; of everything else a range."""
    return POTRF if name in ("cholesky_ex", "cholesky_upper", "cholesky_inverse_out") else SIZES


def run(name: str, sizes: tuple[int, ...], device: str) -> Iterator[dict[str, object]]:
    """Every size, several calls each; a size that does not fit ends the benchmark with a line that says so."""
    for n in sizes:
        try:
            with torch.no_grad():
                call = BENCHMARKS[name](n, device)
                for number in CALLS:
                    yield asdict(measure(name, n, number, call, device))
            del call
        except torch.OutOfMemoryError:
            yield {"name": name, "n": n, "stopped": "out of memory"}
            return
        if device == "cuda":
            torch.cuda.empty_cache()  # the next size starts from nothing reserved


def measure(name: str, n: int, number: str, call: Call, device: str) -> Result:
    """One call, and what it held."""
    before = books(device)
    started = time.perf_counter()
    result = call()
    after = books(device, reset=False)
    seconds = time.perf_counter() - started
    size = _bytes_of(result, call)
    extra = {key: None if before is None or after is None else after[key][1] - before[key][0] for key in KEYS}
    requested = extra["requested_bytes"]
    outside = None if before is None or after is None else after["outside"][0] - before["outside"][0]
    return Result(
        name=name,
        n=n,
        call=number,
        seconds=round(seconds, 6),
        result_bytes=size,
        extra_requested=requested,
        extra_allocated=extra["allocated_bytes"],
        extra_reserved=extra["reserved_bytes"],
        workspace=None if requested is None else requested - size,
        outside=outside,
    )


KEYS = ("requested_bytes", "allocated_bytes", "reserved_bytes")


def books(device: str, reset: bool = True) -> dict[str, tuple[int, int]] | None:
    """Each figure now and at its peak; `outside` is what the driver gave beyond the allocator."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    stats = torch.cuda.memory_stats()
    free, total = torch.cuda.mem_get_info()
    found = {key: (int(stats[f"{key}.all.current"]), int(stats[f"{key}.all.peak"])) for key in KEYS}
    outside = total - free - found["reserved_bytes"][0]
    return {**found, "outside": (outside, outside)}


def _bytes_of(result: Any, call: Call) -> int:
    """Bytes of the result's storages that are not the arguments' (out=, in place)."""
    arguments = [cell.cell_contents for cell in (call.__closure__ or ())]
    owned = {tensor.untyped_storage().data_ptr() for tensor in _tensors(arguments)}
    new = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(result)}
    return sum(size for pointer, size in new.items() if pointer not in owned)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, torch.nn.Module):
        yield from value.parameters()
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def context() -> dict[str, object]:
    """What the CUDA context takes of the card: in use before and after it is made."""
    before = _used_by_nvml()
    torch.zeros(1, device="cuda")
    found = books("cuda")
    assert found is not None
    after = _used_by_nvml()
    return {
        "name": "cuda_context",
        "before": before,
        "after": after,
        "context": None if before is None or after is None else after - before - found["reserved_bytes"][0],
        "in_use_outside": found["outside"][0],
    }


def _used_by_nvml() -> int | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    except Exception:  # no NVML here: the second figure still says something
        return None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["cuda_context", *BENCHMARKS])
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU; every byte figure is null")
    options = parser.parse_args(arguments)
    if options.name == "cuda_context":
        lines: Iterator[dict[str, object]] = iter(() if options.dry_run else (context(),))
    else:
        device = "cpu" if options.dry_run else "cuda"
        lines = run(options.name, TINY if options.dry_run else sizes_of(options.name), device)
    for line in lines:
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
