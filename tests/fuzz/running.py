"""Runs a command line in this process and says what is wrong with how it ended, whatever was asked."""

import io
import os
import random
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest
import torch._dynamo  # noqa: F401  (torch makes the folder of its cache, empty, at this first import)

from planner.cli import main
from planner.commands.shell import TOO_LITTLE

CPU_SECONDS = 60
"""Of a case: ten times what the slowest ordinary one takes."""
ROOM = 4 * 2**30
"""Bytes of address space beside what the process has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is asked: words, and the files and the stdin that they speak of."""

    words: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How it ended."""

    code: int | None
    out: str
    err: str
    crash: str = ""
    left: tuple[str, ...] = ()


class TooLongError(BaseException):
    """The case takes more CPU time than any should."""


def wrong_with(case: Case, ended: Ended) -> str:
    """What must not be, in a line or a traceback; an empty text where all is well."""
    if ended.crash:
        return ended.crash
    if ended.left:
        return f"left behind: {', '.join(ended.left)}"
    if ended.code not in (0, 1, 2):
        return f"exit code {ended.code}"
    if "Traceback (most recent call last)" in ended.out + ended.err:
        return "a traceback is shown"
    if ended.code == 0 or (ended.code == 1 and "--check" in case.words and not ended.err):
        return f"stderr of a result: {ended.err[:500]}" if ended.err else ""
    return _wrong_with_error(ended)


def _wrong_with_error(ended: Ended) -> str:
    if ended.code == 2 and not ended.err and "Usage:" in ended.out:
        return ""  # `planner` alone
    if not re.fullmatch(r"planner: error: [^\n]*[^\s]\n", ended.err):
        return f"an error that is not one line: {ended.err[:500]!r}"
    if TOO_LITTLE in ended.err:
        return f"takes more than {ROOM} bytes"
    if len(ended.err) > 2000 + 2 * 4096:
        return f"an error of {len(ended.err)} characters: {ended.err[:200]}"
    return f"an error, and a result: {ended.out[:200]}" if ended.out else ""


def run(case: Case) -> Ended:
    """The command line's end, run in a folder of its own that holds the case's files."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        here, temporary = Path(folder, "here"), Path(folder, "tmp")
        for each in (here, temporary):
            each.mkdir()
        for name, data in case.files.items():
            Path(here, name).parent.mkdir(parents=True, exist_ok=True)
            Path(here, name).write_bytes(data)
        patch.chdir(here)
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(case.stdin)))
        ended = _ended(case)
        return Ended(
            code=ended.code, out=ended.out, err=ended.err, crash=ended.crash, left=_left(case, here, temporary, ended)
        )


def _ended(case: Case) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    code, crash = None, ""
    try:
        with redirect_stdout(out), redirect_stderr(err), limits():
            code = main(case.words)
    except TooLongError:
        crash = f"takes more than {CPU_SECONDS} s\n{_frames()}"
    except Exception:
        crash = traceback.format_exc()
    return Ended(code=code, out=out.getvalue(), err=err.getvalue(), crash=crash)


def _frames() -> str:
    return "".join(traceback.format_exc().splitlines(keepends=True)[-12:])


def _left(case: Case, here: Path, temporary: Path, ended: Ended) -> tuple[str, ...]:
    """Files that nobody asked for."""
    asked = {after for word, after in zip(case.words, case.words[1:], strict=False) if word in ("-o", "--output")}
    wanted = {*case.files, *(asked if ended.code in (0, 1) else ())}
    found = [path for path in here.rglob("*") if path.is_file() and str(path.relative_to(here)) not in wanted]
    return tuple(str(path) for path in (*found, *temporary.rglob("*")))


@contextmanager
def limits() -> Iterator[None]:
    """TooLongError where it takes too long; MemoryError where it takes too much."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    handler = signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _too_long(number: int, frame: FrameType | None) -> NoReturn:
    raise TooLongError


def seeded(seed: int) -> random.Random:
    """A source of the same choices every time."""
    return random.Random(seed)  # noqa: S311  (no secret depends on it)
