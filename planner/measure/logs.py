r"""Reads a finished run's own log: time, error and memory of every compressed module.

llmcompressor 0.14.0.1: utils/metric_logging.py writes METRIC lines after each module; before them,
modifiers/gptq/base.py says `Quantizing 3 module(s): [names]` and modifiers/pruning/sparsegpt/base.py
`Sparsifying name using N samples`. logger.py writes them to the console as
`time | function | LEVEL - message`; with LLM_COMPRESSOR_LOG_FILE everything is in the file twice, as
JSON and in loguru's own format (entrypoints/oneshot.py adds a second sink). The progress bars
on stderr, `(2/33): Calibrating: ...`, give the subgraph.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from planner.errors import MeasureError
from planner.measure.record import Card, GpuFigures, MeasuredStep, Measurement, ModuleMetric
from planner.units import GB

MAX_BYTES = 2**30

_MESSAGE = re.compile(r"\|\s*(INFO|METRIC)\s*(?:-|\|[^|]*? -) (.*)")
_QUANTIZING = re.compile(r"Quantizing \d+ module\(s\): \[(.*)\]")
_SPARSIFYING = re.compile(r"Sparsifying (\S+?)\.? using \d+ samples")
_TIME = re.compile(r"time ([\d.]+)s")
_ERROR = re.compile(r"error (\S+)")
_MEMORY = re.compile(r"Accelerator (\d+) \| usage: ([\d.]+)% \| total memory: ([\d.]+) Gb")
_BAR = re.compile(r"\((\d+)/(\d+)\): (Calibrating|Propagating)")
_LAYER = re.compile(r"^(.*?\.\d+)(?:\.|$)")


def read_log(path: str) -> Measurement:
    """The measurement in a log file; MeasureError where it holds no METRIC line."""
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise MeasureError(f"{path}: larger than {MAX_BYTES} bytes")
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return parse_log(file, path)
    except OSError as error:
        raise MeasureError(f"{path}: cannot be read: {error.strerror or error}") from None


def parse_log(lines: Iterable[str], where: str = "log") -> Measurement:
    """One compress step per layer, in the order of the log."""
    reader = _Reader()
    for line in lines:
        reader.take(line)
    if not reader.modules:
        raise MeasureError(
            f"{where}: no METRIC line of LLM Compressor's log, such as `... | GPTQ | METRIC - time 0.52s`; "
            "GPTQ, SparseGPT and Wanda write them, at log level INFO or METRIC"
        )
    return Measurement(
        source="log",
        complete=False,
        stopped="read from a log, which does not tell whether it is whole",
        card=Card(name=f"accelerator {reader.device}", total_bytes=reader.total) if reader.total else None,
        steps=tuple(reader.steps()),
        modules=tuple(entry.metric() for entry in reader.modules),
        notes=tuple(reader.notes()),
    )


@dataclass(slots=True, kw_only=True)
class _LogEntry:
    """One module, while its lines are read."""

    name: str
    modifier: str
    batch: int
    subgraph: int | None = None
    of: int | None = None
    seconds: float | None = None
    error: float | None = None
    allocated: int | None = None

    @property
    def layer(self) -> str:
        match = _LAYER.match(self.name)
        return match[1] if match else self.name

    def metric(self) -> ModuleMetric:
        return ModuleMetric(name=self.name, seconds=self.seconds, error=self.error, allocated_bytes=self.allocated)


@dataclass(slots=True)
class _Reader:
    modules: list[_LogEntry] = field(default_factory=list)
    total: int = 0
    device: int = 0
    place: tuple[int | None, int | None] = (None, None)
    is_json: bool = False
    """The log has JSON records, so its text lines only repeat them."""
    _waiting: list[_LogEntry] = field(default_factory=list)
    _batches: int = 0
    _unnamed: int = 0

    def take(self, line: str) -> None:
        for match in _BAR.finditer(line):
            self.place = int(match[1]), int(match[2])
        is_json = line.lstrip().startswith("{")
        if message := _message(line, is_json):
            self.is_json |= is_json
            if is_json or not self.is_json:
                self._message(message, line)

    def _message(self, message: str, line: str) -> None:
        if match := _QUANTIZING.match(message):
            self._expect(re.findall(r"'([^']*)'", match[1]), "GPTQModifier")
        elif match := _SPARSIFYING.match(message):
            self._expect([match[1]], "WandaPruningModifier")  # until a METRIC line names SGPT
        elif match := _TIME.match(message):
            self._next("SGPT" in line).seconds = float(match[1])
        elif self.modules and (match := _ERROR.match(message)):
            self.modules[-1].error = _number(match[1])
        elif self.modules and (match := _MEMORY.match(message)):
            self._memory(int(match[1]), float(match[2]), float(match[3]))

    def _expect(self, names: list[str], modifier: str) -> None:
        """Expect METRIC lines of these modules next. The loggers of a GPTQ batch close last in, first out."""
        self._batches += 1
        subgraph, of = self.place
        self._waiting = [
            _LogEntry(name=name, modifier=modifier, batch=self._batches, subgraph=subgraph, of=of) for name in names
        ]

    def _next(self, is_sparsegpt: bool) -> _LogEntry:
        if not self._waiting:
            self._unnamed += 1
            self._batches += 1
            subgraph, of = self.place
            self._waiting = [
                _LogEntry(name=f"module {self._unnamed}", modifier="", batch=self._batches, subgraph=subgraph, of=of)
            ]
        self.modules.append(self._waiting.pop())
        if is_sparsegpt:
            self.modules[-1].modifier = "SparseGPTModifier"
        return self.modules[-1]

    def _memory(self, device: int, percent: float, total: float) -> None:
        """Note a module's memory, in percent of `total` (GB); of several devices the one that holds most counts."""
        entry, size = self.modules[-1], round(total * GB)
        used = round(size * percent / 100)
        if used >= (entry.allocated or 0):
            entry.allocated = used
            self.device, self.total = device, size

    def steps(self) -> Iterator[MeasuredStep]:
        groups: dict[tuple[str, str, int | None], list[_LogEntry]] = {}
        for entry in self.modules:
            groups.setdefault((entry.modifier, entry.layer, entry.subgraph), []).append(entry)
        for index, ((modifier, layer, subgraph), entries) in enumerate(groups.items()):
            allocated = [entry.allocated for entry in entries if entry.allocated is not None]
            yield MeasuredStep(
                index=index,
                modifier=modifier or None,
                subgraph=subgraph,
                of=entries[0].of,
                phase="compress",
                unit=layer,
                seconds=_seconds(entries),
                running=True,
                gpu=GpuFigures(allocated_bytes=max(allocated, default=None)),
            )

    def notes(self) -> Iterator[str]:
        if self.total:
            grain = self.total // 10_000
            yield (
                f"The log's memory figures are peaks since the start of the job, in steps of {grain:,} bytes "
                "(0.01 % of the card), and its total is rounded to 0.1 GB."
            )
        if self._unnamed:
            yield f"{self._unnamed} modules are unnamed: the log holds no INFO lines."


def _message(line: str, is_json: bool) -> str:
    """The message of an INFO or METRIC line in any of the three formats; empty for every other line."""
    if is_json:
        try:
            record = json.loads(line)["record"]
            return str(record["message"]) if record["level"]["name"] in ("INFO", "METRIC") else ""
        except (ValueError, KeyError, TypeError):
            return ""
    match = _MESSAGE.search(line.strip())
    return match[2].strip() if match else ""


def _seconds(entries: list[_LogEntry]) -> float | None:
    """Time of a layer. The modules of one batch are compressed together, and each logs the time of the whole batch."""
    batches: dict[int, float] = {}
    for entry in entries:
        if entry.seconds is not None:
            batches[entry.batch] = max(batches.get(entry.batch, 0.0), entry.seconds)
    return round(sum(batches.values()), 4) if batches else None


def _number(text: str) -> float | None:
    """The error as a number; None for nan and inf, which JSON cannot say."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
