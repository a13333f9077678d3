#!/usr/bin/env python3
"""Record what PyTorch's real caching allocator was asked, and what it took from the driver: recorded/traces/.

    python -m tests.cuda.record_traces [--only WORD] [--missing]

CUDAMETER names the folder that tests/cudameter/setup.sh made, if it is not .instruments/cudameter. One after the other;
about 15 seconds each on an idle machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.models.source import load_source
from planner.units import GIB
from tests.cuda.traces import FOLDER, Trace, words_of

ROOT = Path(__file__).parent.parent.parent
RUN = ROOT / "tests" / "cudameter" / "run.sh"
CONTEXT = 520_000_000
H100 = 85_520_809_984
TORCH = "2.14.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One run of run.sh."""

    name: str
    words: Sequence[str]
    """After `run.sh`; `{config}` and `{out}` stand for files in a temporary folder."""
    model: str = ""
    total: int = H100
    settings: str = ""

    @property
    def command(self) -> str:
        """As one would type it."""
        parts = [f"PRETENDED_TOTAL={self.total}", f"PRETENDED_CONTEXT={CONTEXT}"]
        parts += [f"PYTORCH_ALLOC_CONF='{self.settings}'"] if self.settings else []
        words = " ".join(self.words).format(config=f"{self.model}/config.json", out="OUT")
        return " ".join([*parts, "tests/cudameter/run.sh", words])


def job(model: str, recipe: str, options: str, total: int = H100, settings: str = "", name: str = "") -> Recording:
    """A job of the real LLM Compressor."""
    marks = [model, recipe, *options.replace("--", "").split(), *([name] if name else [])]
    words = f"{{config}} --recipe recipes/{recipe}.yaml {options} --out {{out}}.json"
    return Recording(name="-".join(marks), words=words.split(), model=model, total=total, settings=settings)


def stream(seed: int, total: int, settings: str = "", streams: int = 2, count: int = 4000) -> Recording:
    """Random requests, which meet every border of the allocator."""
    what = settings.partition(":")[0] or "default"
    words = f"--python tests/cuda/random_requests.py {seed} {count} {streams} {{out}}"
    return Recording(name=f"random-{seed}-{what}", words=words.split(), total=total, settings=settings)


def recordings() -> Iterator[Recording]:
    """All of them."""
    short, llama = "--layers 2 --samples 2", "llama-3-8b"
    yield job(llama, "gptq_w4a16", "--layers 3 --samples 4")
    yield job(llama, "gptq_w4a16", f"{short} --prefetch")
    yield job(llama, "gptq_w4a16", f"{short} --offload-device cuda")
    yield job(llama, "gptq_w4a16", "--layers 4 --samples 2 --targets-per-subgraph 2")
    yield job(llama, "sparsegpt_2of4", short)
    yield job(llama, "rtn_w8a8_static", f"{short} --batch-size 2")
    yield job("mistral-7b", "gptq_w4a16", f"{short} --seq-len 4096")
    yield job("qwen3-8b", "rtn_fp8_dynamic", short)
    yield job("qwen3-30b-a3b", "gptq_w4a16", "--layers 1 --samples 2 --linearized")
    yield job(llama, "gptq_w4a16", "--layers 3 --samples 2", 6 * GIB, name="6gib")
    yield job(llama, "gptq_w4a16", "--layers 4 --samples 2 --targets-per-subgraph 2", 8_000_000_000, name="8gb")
    yield job(llama, "gptq_w4a16", short, 4_200_000_000, name="out-of-memory")
    yield job(llama, "gptq_w4a16", short, 6 * GIB, "max_split_size_mb:64", name="max_split_size")
    yield job(llama, "gptq_w4a16", short, settings="roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", name="roundup")
    yield job(llama, "gptq_w4a16", short, settings="large_segment_size_mb:64", name="large_segment_size")
    collected = "garbage_collection_threshold:0.5,per_process_memory_fraction:0.9"
    yield job(llama, "gptq_w4a16", short, 8 * GIB, collected, name="garbage_collection")
    yield stream(1, 4 * GIB)
    yield stream(2, 3 * GIB, streams=1)
    yield stream(3, 80 * GIB, streams=3)
    yield stream(4, 4 * GIB, "max_split_size_mb:64", streams=1)
    yield stream(5, 3 * GIB, "max_split_size_mb:20")
    yield stream(6, 3 * GIB, "max_split_size_mb:64,max_non_split_rounding_mb:100")
    yield stream(7, 80 * GIB, "roundup_power2_divisions:4")
    yield stream(8, 80 * GIB, "roundup_power2_divisions:[2:4,>:8,16:2]")
    yield stream(9, 3 * GIB, "large_segment_size_mb:64")
    yield stream(10, 3 * GIB, "large_segment_size_mb:12")
    yield stream(11, 4 * GIB, "per_process_memory_fraction:0.6")
    yield stream(12, 4 * GIB, "garbage_collection_threshold:0.6,per_process_memory_fraction:0.9", streams=1)
    both = "garbage_collection_threshold:0.5,per_process_memory_fraction:0.95,max_split_size_mb:100"
    yield stream(13, 4 * GIB, both)
    yield stream(14, 4 * GIB, "garbage_collection_threshold:0.3")
    yield stream(15, 4 * GIB, "garbage_collection_threshold:0.3,per_process_memory_fraction:1.0")


def main() -> int:
    """Record the asked-for ones; returns the number of those that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only recordings whose name contains this")
    parser.add_argument("--missing", action="store_true", help="only those that are not there yet")
    arguments = parser.parse_args()
    failed = 0
    FOLDER.mkdir(exist_ok=True)
    for recording in recordings():
        path = FOLDER / f"{recording.name}.xz"
        if arguments.only in recording.name and not (arguments.missing and path.exists()):
            failed += not record(recording, path)
    return failed


def record(recording: Recording, path: Path) -> bool:
    """Run one and write its file; returns whether there is a trace."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out, config = folder / "out", folder / "config.json"
        if recording.model:
            config.write_text(json.dumps(load_source(recording.model).config))
        environment = {"PRETENDED_TOTAL": str(recording.total), "PRETENDED_CONTEXT": str(CONTEXT)}
        environment |= {"PYTORCH_ALLOC_CONF": recording.settings} if recording.settings else {}
        environment |= {"CUDAMETER_TRACE": str(out)} if recording.model else {}
        words = [str(RUN), *(word.format(config=config, out=out) for word in recording.words)]
        done = subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
        )
        if not out.exists():
            print(f"{recording.name}: FAILED\n{done.stderr[-2000:]}", file=sys.stderr)
            return False
        with out.open(encoding="utf-8") as lines:
            words_seen = tuple(words_of(map(json.loads, lines)))
    trace = Trace(
        command=recording.command,
        torch=TORCH,
        total=recording.total,
        context=CONTEXT,
        settings=recording.settings,
        words=words_seen,
    )
    trace.write(path)
    print(f"{recording.name}: {len(words_seen)} words, {path.stat().st_size} bytes", flush=True)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
