"""Runs a script in a child process on a card that is not there. Nothing is left behind, however the child ends."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from planner.compress.schema import Plan
from planner.errors import RehearseError, StoppedError
from planner.hints import MAX_PATH_SHOWN, shorten
from planner.job import Job
from planner.rehearse.allocation import ALLOCATOR_VARIABLES, told_by_environment
from planner.rehearse.build import Interpreter, PretendedDriver, interpreter, pretended_driver
from planner.rehearse.guess import guessed
from planner.rehearse.ranks import heaviest
from planner.rehearse.report import Rehearsed, report

INTERRUPTED = 130
GRACE_SECONDS = 10
"""For a child that was told to end."""
CARDS = ",".join(map(str, range(16)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptWish:
    """What to rehearse."""

    script: Path
    arguments: tuple[str, ...]
    job: Job
    python: str | None = None
    cards: int = 1
    ram_bytes: int | None = None
    save: bool = False
    real_data: bool = False
    trust_remote_code: bool = False
    quiet: bool = False
    every_batch: bool = False
    """Run those, too, that would do what batches before them did."""
    rank: int = 0
    """Which process of a torchrun job this is."""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, a null byte
        return False


def rehearse(wish: ScriptWish, say: Callable[[str], None]) -> Plan:
    """Run the script and report. Raises RehearseError where it cannot run, StoppedError where it did not end well.

    A job that ran out of the card's memory ended well: that is what was asked.
    """
    if not _is_file(wish.script):
        shown = shorten(str(wish.script), MAX_PATH_SHOWN)
        raise RehearseError(f"{shown}: no such script (a model needs a --recipe beside it)")
    wish = replace(wish, job=told_by_environment(wish.job))
    python = interpreter(wish.python)
    with _ending_when_told():
        driver = pretended_driver(python, say)
        if wish.job.ranks == 1:
            return _rehearsed(wish, python, driver, say)
        return heaviest([_rehearsed(replace(wish, rank=rank), python, driver, say) for rank in range(wish.job.ranks)])


@contextmanager
def _ending_when_told() -> Iterator[None]:
    """SIGTERM and SIGHUP end planner as Ctrl-C does: the child is ended, and nothing is left behind."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {each: signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGHUP)} if _is_main() else {}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _is_main() -> bool:
    """Only the main thread may say what a signal does."""
    return threading.current_thread() is threading.main_thread()


def _rehearsed(wish: ScriptWish, python: Interpreter, driver: PretendedDriver, say: Callable[[str], None]) -> Plan:
    with _folder() as folder:
        _write_settings(wish, driver, folder)
        say(f"rehearsing {wish.script.name}" + (f", rank {wish.rank}" if wish.job.ranks > 1 else ""))
        began = time.monotonic()
        code = _run(wish, python, driver, folder)
        done = Rehearsed(
            folder=folder,
            script=str(wish.script.resolve()),
            arguments=wish.arguments,
            versions={name: version for name, version in python.packages.items() if version},
            job=wish.job,
            exit_code=code,
            seconds=time.monotonic() - began,
            name=str(wish.script),
            card=wish.rank,
        )
        say("folding the trace")
        return _checked(done)


def _checked(done: Rehearsed) -> Plan:
    if done.exit_code == INTERRUPTED:
        raise StoppedError(f"{done.name}: interrupted", interrupted=True)
    if not (done.folder / "events.jsonl").exists():
        raise RehearseError(
            f"{done.name}: the rehearsal did not start (exit code {done.exit_code}); see the lines above"
        )
    plan = report(done)
    script = plan.script
    assert script is not None
    where = f" at {script.line}" if script.line else ""
    if script.ended == "refused":
        raise RehearseError(script.stopped or "refused")
    if script.ended == "failed":
        raise StoppedError(f"{done.name}: failed for reasons of its own{where}: {script.stopped}")
    if script.ended == "died":
        raise StoppedError(f"{done.name}: the process ended with code {done.exit_code}, without saying why")
    if script.ended == "exit" and script.exit_code:
        raise StoppedError(
            f"{done.name}: ended itself with exit code {script.exit_code} {script.stopped or ''}".strip()
        )
    return plan


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="planner_rehearse_"))
    try:
        site = folder / "site"
        site.mkdir()
        # the child needs planner's own files and nothing that planner needs
        (site / "planner").symlink_to(Path(__file__).resolve().parents[1])
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_settings(wish: ScriptWish, driver: PretendedDriver, folder: Path) -> None:
    samples, tokens = guessed(wish.script)
    settings = {
        "folder": str(folder),
        "books": str(driver.books),
        "script": str(wish.script.resolve()),
        "arguments": list(wish.arguments),
        "save": wish.save,
        "real_data": wish.real_data,
        "trust_remote_code": wish.trust_remote_code,
        "samples": samples,
        "tokens": tokens,
        "ram_bytes": wish.ram_bytes,
        "ranks": wish.job.ranks,
        "rank": wish.rank,
        "every_batch": wish.every_batch,
        "most_samples": wish.job.samples if "samples" in wish.job.model_fields_set else None,
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")


def environment(wish: ScriptWish, driver: PretendedDriver, folder: Path) -> dict[str, str]:
    """The child's: the user's, with the pretended driver in the place of CUDA's."""
    own = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    job = wish.job

    def before(name: str, value: str, separator: str) -> str:
        return separator.join(filter(None, (value, own.get(name))))

    offline = {} if wish.real_data else {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {
        **own,
        **offline,
        "LD_PRELOAD": before("LD_PRELOAD", driver.preload, " "),
        "LD_LIBRARY_PATH": before("LD_LIBRARY_PATH", str(driver.folder), ":"),
        "PYTHONPATH": before("PYTHONPATH", str(folder / "site"), ":"),
        "CUDA_VISIBLE_DEVICES": CARDS,
        "HF_MODULES_CACHE": str(folder / "modules"),  # copies of code from the Hub
        "HF_DEACTIVATE_ASYNC_LOAD": "1",  # weights are loaded in their order, and by the thread that counts
        "PRETENDED_TOTAL": str(job.gpu_memory_bytes),
        "PRETENDED_CONTEXT": str(job.cuda_context_bytes),
        "PRETENDED_SM": str(job.capability),
        "PRETENDED_DEVICES": str(max(wish.cards, job.ranks)),
        "PRETENDED_COPY": "65536",
        "PYTORCH_ALLOC_CONF": job.alloc_conf,
        "TORCHDYNAMO_DISABLE": "1",  # what it would compile runs on no card
        "OMP_NUM_THREADS": own.get("OMP_NUM_THREADS", "1"),  # what is computed is small: more of them wait in a loop
        **(torchrun(wish) if job.ranks > 1 else {}),
        **({} if job.progress_bars else {"TQDM_DISABLE": "1"}),
        "TOKENIZERS_PARALLELISM": own.get("TOKENIZERS_PARALLELISM", "false"),
    }


def torchrun(wish: ScriptWish) -> dict[str, str]:
    """What torchrun tells each of its processes."""
    rank, ranks = str(wish.rank), str(wish.job.ranks)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {**numbers, "TORCHELASTIC_RUN_ID": "rehearsal", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def command(python: Interpreter, folder: Path) -> list[str]:
    """The child's command line: its own copy of planner comes first, whatever lies in the current folder."""
    start = f"import sys; sys.path[0] = {str(folder / 'site')!r}; from planner.rehearse.child.start import run; run()"
    return [python.path, "-c", start, str(folder / "settings.json")]


def _run(wish: ScriptWish, python: Interpreter, driver: PretendedDriver, folder: Path) -> int:
    """The child's exit code. Its own output is the user's, on stderr: stdout is the report's."""
    out = subprocess.DEVNULL if wish.quiet else sys.stderr
    child = subprocess.Popen(  # noqa: S603  (the user's own script, as the user would run it)
        command(python, folder), env=environment(wish, driver, folder), stdout=out, stderr=out, start_new_session=True
    )
    try:
        return child.wait()
    except KeyboardInterrupt:
        _end(child, signal.SIGINT)
        return INTERRUPTED
    finally:
        _end(child, signal.SIGKILL)


def _end(child: "subprocess.Popen[bytes]", how: signal.Signals) -> None:
    """Tell the child, and whatever it started, to end."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, how)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(GRACE_SECONDS)
