#!/usr/bin/env python3
"""Write C stubs for the CUDA libraries that PyTorch links: each function answers "success" and computes nothing.

stubs.py TORCH_LIB_FOLDER CUDA_H OUT_LIBRARIES.cpp OUT_DRIVER.c
"""

import pathlib
import re
import subprocess
import sys

LIBRARIES = ("libcublas", "libcublasLt", "libcusolver", "libcudnn", "libcusparse", "libcufft")

# Functions whose caller reads an answer back. cuSOLVER's workspace queries answer 0: what they really answer is only
# known on a GPU.
HANDLES = (
    "cublasLtCreate",
    "cusolverDnCreate",
    "cusolverDnCreateParams",
    "cudnnCreate",
    "cusparseCreate",
)
_SIZE = "int cusolverDn{name}_bufferSize({words}) {{ *n = 0; return 0; }}"
_N = "int* n"
# Arguments before and behind the size, as cusolverDn.h has them: H a handle, I an int, P a pointer, L a long.
_SHAPES = {
    "potrf": ("HIIPI", ""),
    "geqrf": ("HIIPI", ""),
    "getrf": ("HIIPI", ""),
    "sytrf": ("HIPI", ""),
    "orgqr": ("HIIIPIP", ""),
    "ungqr": ("HIIIPIP", ""),
    "ormqr": ("HIIIIIPIPPI", ""),
    "unmqr": ("HIIIIIPIPPI", ""),
    "syevd": ("HIIIPIP", ""),
    "heevd": ("HIIIPIP", ""),
    "syevjBatched": ("HIIIPIP", "PI"),
    "heevjBatched": ("HIIIPIP", "PI"),
    "gesvd": ("HII", ""),
    "gesvdj": ("HIIIIPIPPIPI", "P"),
    "gesvdjBatched": ("HIIIPIPPIPI", "PI"),
    "gesvdaStridedBatched": ("HIIIIPILPLPILPIL", "I"),
}
_C = {"H": "void*", "I": "int", "P": "void*", "L": "long long"}
_QUERIES = {
    name: ", ".join([*(_C[word] for word in before), _N, *(_C[word] for word in behind)])
    for name, (before, behind) in _SHAPES.items()
}
# The newer interface: sizes on the device and on the host come last, all that is before fits a register or the stack.
_SIZES = "int cusolverDn{name}_bufferSize({words}, size_t* d, size_t* h{behind}) {{ *d = *h = 0; return 0; }}"
_NEWER = {
    "Xpotrf": ("HPILIPLI", ""),
    "Xgeqrf": ("HPLLIPLIPI", ""),
    "Xsyevd": ("HPIILIPLIPI", ""),
    "XsyevBatched": ("HPIILIPLIPI", "L"),
    "Xgeev": ("HPIILIPLIPIPLIPLI", ""),
    "Xsytrs": ("HILLIPLPIPL", ""),
}
LIBRARY_ANSWERS = {
    "cudnnGetVersion": "unsigned long cudnnGetVersion() { return 91300; }",
    "cudnnGetCudartVersion": "unsigned long cudnnGetCudartVersion() { return CUDART; }",
    # each thread has its own on each card, and PyTorch a workspace for each (CublasHandlePool.cpp)
    "cublasCreate_v2": (
        "int cublasCreate_v2(void** h) { static size_t last = 0x1000; *h = (void*)__atomic_add_fetch(&last, 16, 0);"
        " return 0; }"
    ),
    "cublasGetPointerMode_v2": "int cublasGetPointerMode_v2(void*, int* m) { *m = 0; return 0; }",
    "cublasGetMathMode": "int cublasGetMathMode(void*, int* m) { *m = 0; return 0; }",
    "cublasGetStream_v2": "int cublasGetStream_v2(void*, void** s) { *s = 0; return 0; }",
    "cublasGetVersion_v2": "int cublasGetVersion_v2(void*, int* v) { *v = CUDART * 10; return 0; }",
    "cublasLtMatmulAlgoGetHeuristic": (
        "int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*, int* n)"
        " { *n = 1; return 0; }"
    ),
    **{
        f"cusolverDn{name}_bufferSize": _SIZES.format(
            name=name, words=", ".join(_C[word] for word in before), behind=", long long" if behind else ""
        )
        for name, (before, behind) in _NEWER.items()
    },
    **{
        f"cusolverDn{letter}{name}_bufferSize": _SIZE.format(name=f"{letter}{name}", words=words)
        for name, words in _QUERIES.items()
        for letter in "SDCZ"
    },
    **{name: f"int {name}(void** h) {{ *h = (void*)0x50; return 0; }}" for name in HANDLES},
}
DRIVER_ANSWERS = {
    "cuDevicePrimaryCtxGetState": (
        "int cuDevicePrimaryCtxGetState(int d, unsigned* f, int* a) { if (f) *f = 0; if (a) *a = 1; return 0; }"
    ),
    "cuDevicePrimaryCtxRetain": "int cuDevicePrimaryCtxRetain(void** c, int d) { *c = (void*)0x77; return 0; }",
    "cuCtxGetCurrent": "int cuCtxGetCurrent(void** c) { *c = (void*)0x77; return 0; }",
    "cuCtxGetDevice": "int cuCtxGetDevice(int* d) { *d = 0; return 0; }",
    "cuDeviceGet": "int cuDeviceGet(int* d, int i) { *d = i; return 0; }",
    "cuDeviceGetCount": "int cuDeviceGetCount(int* n) { *n = 1; return 0; }",
    "cuDriverGetVersion": "int cuDriverGetVersion(int* v) { *v = CUDART; return 0; }",
    "cuDeviceGetAttribute": (
        "extern int cudaDeviceGetAttribute(int*, int, int);"
        " int cuDeviceGetAttribute(int* v, int a, int d) { return cudaDeviceGetAttribute(v, a, d); }"
    ),
    "cuFuncGetAttribute": "int cuFuncGetAttribute(int* v, int a, void* f) { *v = a == 0 ? 1024 : 0; return 0; }",
    "cuModuleLoadData": "int cuModuleLoadData(void** m, const void* i) { *m = (void*)0x88; return 0; }",
    "cuModuleGetFunction": "int cuModuleGetFunction(void** f, void* m, const char* n) { *f = (void*)0x99; return 0; }",
}


def taken(folder: pathlib.Path) -> set[str]:
    """Symbols that PyTorch's CUDA libraries take from NVIDIA's, as `name@library`."""
    found: set[str] = set()
    for library in folder.glob("lib*.so"):
        listing = subprocess.run(  # noqa: S603  (binutils, our own arguments)
            ["nm", "-D", "--undefined-only", library],  # noqa: S607  (binutils, wherever the system has them)
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        found.update(line.split()[-1] for line in listing.splitlines() if "@lib" in line)
    return found


def cuda_version(cuda_h: pathlib.Path) -> int:
    """CUDA_VERSION of the header: 13010 for 13.1."""
    found = re.search(r"define CUDA_VERSION (\d+)", cuda_h.read_text())
    return int(found.group(1)) if found else 0


def main(torch_lib: str, cuda_h: str, libraries_out: str, driver_out: str) -> None:
    """Write both files."""
    symbols, header = taken(pathlib.Path(torch_lib)), pathlib.Path(cuda_h).read_text()
    names = sorted({s.split("@")[0] for s in symbols if s.split("@")[1].startswith(LIBRARIES)})
    version = f"#define CUDART {cuda_version(pathlib.Path(cuda_h))}"
    lines = [
        version,
        "#include <cstddef>",
        'extern "C" {',
        *(LIBRARY_ANSWERS.get(n, f"int {n}(...) {{ return 0; }}") for n in names),
        "}",
    ]
    pathlib.Path(libraries_out).write_text("\n".join(lines) + "\n")

    driver = set(re.findall(r"CUresult CUDAAPI (cu\w+)\s*\(", header))
    for name, versioned in re.findall(r"#\s*define\s+(cu[A-Z]\w+)\s+(?:__CUDA_API_PT[SD]Z\()?(cu[A-Z]\w+)\)?", header):
        driver |= {name, versioned}
    driver |= {s.split("@")[0] for s in symbols if s.split("@")[1].startswith("libcuda.so")} | set(DRIVER_ANSWERS)
    pathlib.Path(driver_out).write_text(
        "\n".join([version] + [DRIVER_ANSWERS.get(n, f"int {n}() {{ return 0; }}") for n in sorted(driver)]) + "\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
