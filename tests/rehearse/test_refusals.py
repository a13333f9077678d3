"""What cannot be rehearsed is one line, before anything is compiled or run."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from planner.cli import main
from planner.errors import RehearseError
from planner.rehearse import build, run
from planner.rehearse.driver import stubs


def interpreter(cuda: str = "13.0", includes: tuple[Path, ...] = ()) -> build.Interpreter:
    return build.Interpreter(
        path=sys.executable,
        torch=Path("/nowhere/torch"),
        version="9.9+cu130",
        cuda=cuda,
        includes=includes,
        packages={},
    )


@pytest.fixture(autouse=True)
def _is_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build.sys, "platform", "linux")


def test_a_torch_without_cuda_is_refused_with_the_way_out() -> None:
    with pytest.raises(RehearseError, match=r"is no CUDA build.*name the Python that would run the script"):
        build.interpreter(None)  # the tests' own torch is a CPU build


def test_a_python_that_does_not_run_is_refused() -> None:
    with pytest.raises(RehearseError, match=r"^--python /nowhere/python: does not run"):
        build.interpreter("/nowhere/python")


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "arm64")
    with pytest.raises(RehearseError, match="needs Linux on x86-64, and this is linux on arm64"):
        build.interpreter(None)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "g++" else f"/usr/bin/{tool}")
    with pytest.raises(RehearseError, match=r"^g\+\+ is missing.*apt-get install g\+\+"):
        build.pretended_driver(interpreter(), print)
    assert not list(tmp_path.iterdir())


def made(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names or build.LIBRARIES:
        (folder / name).write_text(folder.name)
    return folder


def test_a_cache_that_cannot_be_written_is_one_line_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(build, "headers", lambda _: (tmp_path,))
    with pytest.raises(RehearseError, match="set XDG_CACHE_HOME to a folder that can be written"):
        build.pretended_driver(interpreter(), print)


def test_nothing_is_compiled_nor_said_where_the_cache_has_it_for_this_cuda(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_compile", lambda _, folder: made(folder))
    said: list[str] = []
    first, again = (build.pretended_driver(interpreter(), said.append) for _ in range(2))
    assert first == again
    assert len(said) == 1
    assert build.pretended_driver(interpreter("12.8"), said.append) != first
    assert len(said) == 2


@pytest.mark.parametrize(("there", "stays"), [(build.LIBRARIES, True), (build.LIBRARIES[:1], False)])
def test_what_another_rehearsal_put_there_stays_if_it_is_whole(
    there: tuple[str, ...], stays: bool, tmp_path: Path
) -> None:
    place = made(tmp_path / "place", *there)
    build._put(made(tmp_path / "temporary" / "made"), place)
    assert build._is_whole(place)
    assert (place / "libbooks.so").read_text() == ("place" if stays else "made")


def test_the_current_folder_does_not_stand_for_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "glob.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)  # where it names the current folder, that is asked for
    with pytest.raises(RehearseError, match="is no CUDA build"):
        build.interpreter(None)


def test_a_python_that_does_not_end_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(command: list[str], **named: object) -> None:
        raise subprocess.TimeoutExpired(command[:1], 60, stderr=b"first\nwaits for ever\n")

    monkeypatch.setattr(build.subprocess, "run", late)
    with pytest.raises(RehearseError, match=r"does not run: waits for ever$"):
        build.interpreter("/some/python")


def test_a_planner_that_is_told_to_end_while_it_compiles_leaves_nothing(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from planner.job import Job
from planner.rehearse import build, run
run.interpreter = lambda path: build.Interpreter(
    path="python", torch=Path("/x"), version="1", cuda="13", includes=(), packages={})
build.headers = lambda python: (Path("/x"),)
build.shutil.which = lambda tool: tool
def wait(*names):
    print("here", file=sys.stderr, flush=True)
    import time; time.sleep(60)
build.stubs.main = wait
run.rehearse(run.ScriptWish(script=Path(sys.argv[1]), arguments=(), job=Job()), lambda text: None)
"""
    script = tmp_path / "script.py"
    script.write_text("pass")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    planner = subprocess.Popen(
        [sys.executable, "-c", code, str(script)], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert planner.stderr is not None
    assert planner.stderr.readline() == "here\n"
    cache = tmp_path / "planner" / "rehearse"
    assert list(cache.iterdir())
    planner.send_signal(signal.SIGTERM)
    assert planner.wait(30) == 128 + signal.SIGTERM
    assert not list(cache.iterdir())


def headers_in(folder: Path, version: int, *, crt: bool) -> Path:
    """A folder as NVIDIA's packages (without crt) and Triton (with it) have them."""
    (folder / "crt").mkdir(parents=True) if crt else folder.mkdir(parents=True)
    if crt:
        (folder / "crt" / "host_defines.h").touch()
    (folder / "cuda_runtime_api.h").touch()
    (folder / "cuda.h").write_text(f"#define CUDA_VERSION {version}\n")
    return folder


def test_headers_of_another_cuda_are_not_taken(tmp_path: Path) -> None:
    triton = headers_in(tmp_path / "triton", 12080, crt=True)
    assert build.headers(interpreter("12.8", (triton,))) == (triton,)
    with pytest.raises(RehearseError, match=r"no headers of CUDA 13 .*pip install triton 'nvidia-cuda-runtime==13"):
        build.headers(interpreter("13.0", (triton,)))


def test_headers_of_the_right_cuda_come_before_those_that_lend_them_crt(tmp_path: Path) -> None:
    """torch 2.11: NVIDIA's headers of CUDA 13.0 without crt, and Triton's of CUDA 12.8 with it."""
    runtime, triton = (
        headers_in(tmp_path / "cu13", 13000, crt=False),
        headers_in(tmp_path / "triton", 12080, crt=True),
    )
    assert build.headers(interpreter("13.0", (runtime, triton))) == (runtime, triton)
    assert build.headers(interpreter("12.8", (runtime, triton))) == (triton,)
    with pytest.raises(RehearseError, match="no headers of CUDA 13"):  # nobody has crt
        build.headers(interpreter("13.0", (runtime,)))


def test_stubs_answer_for_what_torch_takes_and_the_driver_for_what_the_header_has(tmp_path: Path) -> None:
    header = tmp_path / "cuda.h"
    header.write_text(
        "#define CUDA_VERSION 12040\nCUresult CUDAAPI cuInit(unsigned int);\n#define cuMemFree cuMemFree_v2\n"
    )
    stubs.main(str(tmp_path), str(header), str(tmp_path / "a.cpp"), str(tmp_path / "b.c"))
    driver = (tmp_path / "b.c").read_text()
    assert "#define CUDART 12040" in driver
    assert "int cuInit() { return 0; }" in driver
    assert "int cuMemFree_v2() { return 0; }" in driver


def test_a_script_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", "nowhere.py", "--gpu", "24GiB"]) == 2
    assert (
        capsys.readouterr().err == "planner: error: nowhere.py: no such script (a model needs a --recipe beside it)\n"
    )


def test_beside_a_recipe_no_word_is_thrown_away(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", "llama-3-8b", "-r", "rtn_fp8_dynamic", "--smaples", "4"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("planner: error: --smaples 4: ")
    assert error.endswith("; did you mean --samples?\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "typed", [("--layers", "2"), ("--seq-len", "2048"), ("--batch-size", "1"), ("--weights", "gpu"), ("--prefetch",)]
)
def test_an_option_that_a_script_does_not_heed_is_refused_though_it_is_the_default(
    typed: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "job.py"
    script.write_text("pass")
    assert main(["rehearse", str(script), *typed]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"planner: error: {typed[0]}: a script says that itself")
    assert error.count("\n") == 1


def test_samples_limit_a_script_only_where_they_were_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "job.py"
    script.write_text("pass")
    wishes: list[run.ScriptWish] = []

    def seen(wish: run.ScriptWish, say: object) -> None:
        wishes.append(wish)
        raise RehearseError("seen")

    monkeypatch.setattr(run, "rehearse", seen)
    for typed in ((), ("--samples", "512", "--alloc-conf", "max_split_size_mb:128", "--layer-of-its-own")):
        assert main(["rehearse", str(script), *typed]) == 2
    assert ["samples" in wish.job.model_fields_set for wish in wishes] == [False, True]
    assert wishes[1].arguments == ("--layer-of-its-own",)


def test_the_refusal_reaches_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "job.py"
    script.write_text("print('never')\n")
    assert main(["rehearse", str(script), "--epochs", "3"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("planner: error: --python ")
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_a_planner_that_is_told_to_end_ends_its_child_and_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
import subprocess, sys
from pathlib import Path
from planner.job import Job
from planner.rehearse import run
from planner.rehearse.build import Interpreter, PretendedDriver
run.interpreter = lambda path: Interpreter(
    path={sys.executable!r}, torch=Path("/x"), version="1", cuda="13", includes=(), packages={{}})
run.pretended_driver = lambda python, say: PretendedDriver(folder=Path({str(tmp_path)!r}))
wait = "import time; print('here', flush=True); time.sleep(60)"
run.command = lambda python, folder: [python.path, "-c", wait]
run.environment = lambda *_: {{}}
run.rehearse(run.ScriptWish(script=Path(sys.argv[1]), arguments=(), job=Job()), lambda text: None)
"""
    script = tmp_path / "script.py"
    script.write_text("pass")
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    planner = subprocess.Popen(
        [sys.executable, "-c", code, str(script)], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert planner.stderr is not None
    assert planner.stderr.readline() == "here\n"
    assert list(tmp_path.glob("planner_rehearse_*"))
    planner.send_signal(signal.SIGTERM)
    assert planner.wait(30) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("planner_rehearse_*"))
