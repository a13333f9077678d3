"""Compiles the pretended driver and the books for one PyTorch build, once, into the user's cache folder."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import RehearseError
from planner.rehearse.driver import stubs

SOURCES = Path(stubs.__file__).parent
LIBRARIES = ("libpretended.so", "libcuda.so.1", "libbooks.so")
CPP = ("-O2", "-shared", "-fPIC", "-std=c++20", "-w")

_LOOK = """
import sys
if sys.path[0] == "": sys.path.pop(0)  # the current folder: what lies there is not what is installed
import glob, importlib.metadata, importlib.util, json, os, runpy
def folder(name):
    spec = importlib.util.find_spec(name)
    return os.path.dirname(spec.origin) if spec and spec.origin else None
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
torch = folder("torch")
facts = runpy.run_path(os.path.join(torch, "version.py")) if torch else {}
places = [place for root in sys.path for place in glob.glob(os.path.join(root, "nvidia", "*", "include"))]
triton = folder("triton")
if triton: places.append(os.path.join(triton, "backends", "nvidia", "include"))
print(json.dumps({"torch": torch, "version": facts.get("__version__"), "cuda": facts.get("cuda"),
    "includes": places, "packages": {name: version(name) for name in
    ("torch", "llmcompressor", "compressed-tensors", "transformers", "accelerate", "datasets")}}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """The Python that would run the script, and its PyTorch."""

    path: str
    torch: Path
    """Its folder."""
    version: str
    cuda: str
    includes: tuple[Path, ...]
    """Folders that may hold CUDA's headers."""
    packages: dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PretendedDriver:
    """The compiled libraries."""

    folder: Path
    """Holds libcuda.so.1, which is looked up by name."""

    @property
    def preload(self) -> str:
        """CUDA's runtime and libraries, by name: a path with a blank in it would be two for the loader."""
        return "libpretended.so"

    @property
    def books(self) -> Path:
        """What the child's Python loads."""
        return self.folder / "libbooks.so"


def interpreter(path: str | None, option: str = "--python") -> Interpreter:
    """What there is in the environment of this Python, which was named by `option`; None: the one that runs planner.

    Raises RehearseError where no job could be rehearsed in it.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise RehearseError(f"a rehearsal needs Linux on x86-64, and this is {sys.platform} on {platform.machine()}")
    python = path or sys.executable
    try:
        out = subprocess.run([python, "-c", _LOOK], capture_output=True, text=True, check=True, timeout=60).stdout  # noqa: S603  (the user's own Python)
        facts: dict[str, Any] = json.loads(out)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise RehearseError(f"{option} {python}: does not run: {_reason(error)}") from None
    if facts["torch"] is None:
        raise RehearseError(f"{option} {python}: has no torch; name the Python that would run the script")
    if not facts["cuda"]:
        raise RehearseError(
            f"{option} {python}: its torch {facts['version']} is no CUDA build, and a rehearsal runs one; name the "
            "Python that would run the script (pip install llmcompressor brings such a torch on Linux)"
        )
    return Interpreter(
        path=python,
        torch=Path(facts["torch"]),
        version=facts["version"],
        cuda=facts["cuda"],
        includes=tuple(map(Path, facts["includes"])),
        packages=facts["packages"],
    )


def _reason(error: Exception) -> str:
    """The last line of what the process said, else the error's own; that of a process out of time is bytes."""
    said = getattr(error, "stderr", None)
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return " ".join((text or str(error)).strip().splitlines()[-1:])


def pretended_driver(python: Interpreter, say: Callable[[str], None]) -> PretendedDriver:
    """The libraries for this PyTorch, compiled where the cache does not have them, which is said. Raises
    RehearseError."""
    try:
        folder = _cache() / f"torch-{python.version}-cuda-{python.cuda}-{_fingerprint()}"
        if not _is_whole(folder):
            say(f"compiling the pretended driver for torch {python.version}, once")
            _compile(python, folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home is known
        raise RehearseError(
            f"the pretended driver cannot be kept: {error}; set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    return PretendedDriver(folder=folder)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "planner" / "rehearse"


def _is_whole(folder: Path) -> bool:
    """All libraries are there."""
    return all((folder / name).is_file() for name in LIBRARIES)


def _fingerprint() -> str:
    """Of all that is compiled: other sources, another folder."""
    texts = (path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.suffix in (".cpp", ".h", ".py"))
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:12]


def headers(python: Interpreter) -> tuple[Path, ...]:
    """Folders with CUDA's headers of torch's CUDA version, to be looked through in this order. Raises RehearseError.

    NVIDIA's package of the runtime is without the folder `crt`. Triton's headers have it, and may be another CUDA's
    (12.8 in Triton 3.6, beside torch 2.11 with CUDA 13.0): they come last, for what NVIDIA's package lacks.
    What is read of it, crt/host_defines.h, names the compiler's attributes.
    """
    wanted = python.cuda.partition(".")[0]
    folders = list(reversed(python.includes))  # Triton's first: it has all headers in one folder
    with_crt = [folder for folder in folders if (folder / "crt" / "host_defines.h").exists()]
    fitting = [folder for folder in folders if _cuda_of(folder) == wanted]
    for folder in fitting:
        if folder in with_crt:
            return (folder,)
    if fitting and with_crt:
        return fitting[0], with_crt[0]
    package = "nvidia-cuda-runtime-cu12" if wanted == "12" else f"'nvidia-cuda-runtime=={wanted}.*'"
    raise RehearseError(
        f"no headers of CUDA {wanted} beside torch {python.version}: pip install triton {package} brings them"
    )


def _cuda_of(folder: Path) -> str | None:
    """The first number of the CUDA whose runtime's headers lie there; None where they do not."""
    if not ((folder / "cuda_runtime_api.h").exists() and (folder / "cuda.h").exists()):
        return None
    return str(stubs.cuda_version(folder / "cuda.h") // 1000)


def _compile(python: Interpreter, folder: Path) -> None:
    for tool in ("g++", "gcc", "nm"):
        if shutil.which(tool) is None:
            raise RehearseError(f"{tool} is missing, which compiles the pretended driver (Debian: apt-get install g++)")
    torch, places = python.torch, headers(python)
    include = [f"-I{place}" for place in places]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        out = Path(name) / "made"
        out.mkdir()
        stubs.main(str(torch / "lib"), str(places[0] / "cuda.h"), str(out / "libraries.cpp"), str(out / "driver.c"))
        made = f"{out}/libpretended.so"
        _run(["g++", *CPP, *include, f"{SOURCES}/runtime.cpp", f"{out}/libraries.cpp", "-o", made], name)
        made = f"{out}/libcuda.so.1"
        _run(["gcc", "-shared", "-fPIC", "-w", f"{out}/driver.c", "-Wl,-soname,libcuda.so.1", "-o", made], name)
        made, libraries = f"{out}/libbooks.so", (f"-L{torch}/lib", "-lc10", "-lc10_cuda", "-ltorch_cpu")
        include.append(f"-I{torch}/include")
        _run(["g++", *CPP, *include, f"{SOURCES}/books.cpp", "-o", made, *libraries], name)
        _put(out, folder)


def _put(made: Path, folder: Path) -> None:
    """Move what was made to its place. What another rehearsal has put there meanwhile is as good, if it is whole.

    Raises OSError where neither is possible.
    """
    try:
        made.rename(folder)
    except OSError:
        if _is_whole(folder):
            return
        if not folder.exists():
            raise
        folder.rename(made.parent / "replaced")  # deleted with the temporary folder
        made.rename(folder)


def _run(command: list[str], folder: str) -> None:
    """Compile; the compiler's own temporary files lie in this folder, and go with it."""
    own = {**os.environ, "TMPDIR": folder}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)  # noqa: S603  (a compiler, our own sources)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-1:]
        raise RehearseError(f"{command[0]} cannot compile the pretended driver: {' '.join(errors[:1])}")
