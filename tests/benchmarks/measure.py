"""Time and memory of whole processes, and ratios between two commands that take turns."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Self

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one process took."""

    seconds: float
    cpu_seconds: float
    """Of all its threads, user and system: what a busy machine disturbs least."""
    rss_bytes: int
    """The most memory it had resident at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of several numbers the least, the middle and the greatest."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Self:
        values = list(numbers)
        return cls(low=min(values), middle=median(values), high=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two commands that took turns, so that both met the same neighbours on the machine."""

    subject: list[Usage] = field(default_factory=list)
    baseline: list[Usage] = field(default_factory=list)

    def ratio(self, quantity: Callable[[Usage], float]) -> Spread:
        """Subject over baseline, turn by turn."""
        return Spread.of(quantity(a) / quantity(b) for a, b in zip(self.subject, self.baseline, strict=True))


def run_process(command: Sequence[str]) -> Usage:
    """Run a command to its end; RuntimeError with its last words where it fails.

    Linux counts the parent's peak as the child's own until the child calls exec, so whoever calls
    this must be smaller than what it measures: the benchmark itself imports nothing.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryFile() as errors:
        begun = perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT, env={**environment, "HF_HUB_OFFLINE": "1"}
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command}: exit code {process.returncode}: {errors.read()[-1000:].decode()}")
    return Usage(seconds=seconds, cpu_seconds=used.ru_utime + used.ru_stime, rss_bytes=used.ru_maxrss * 1024)


def take_turns(subject: Sequence[str], baseline: Sequence[str], rounds: int) -> Pair:
    """Run the two commands in turn: once each unmeasured, to warm the file cache, then `rounds` times."""
    run_process(subject), run_process(baseline)
    pair = Pair()
    for _ in range(rounds):
        pair.subject.append(run_process(subject))
        pair.baseline.append(run_process(baseline))
    return pair
