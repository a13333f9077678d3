"""planner measure with the real LLM Compressor, on a machine without a GPU. Opt-in.

PLANNER_LLMCOMPRESSOR_PYTHON: python of an environment with llmcompressor 0.14.0.1 and planner's own
dependencies. For the tests on the meter's pretended device that is the meter's (tests/meter/setup.sh), and METER_BUILD
names its extension's folder if it is elsewhere.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.job import Job
from planner.measure.files import read_measurement
from planner.measure.record import Measurement
from planner.planning import plan
from tests.measured.cases import RUNS

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = os.environ.get("PLANNER_LLMCOMPRESSOR_PYTHON", "")
EXTENSION = Path(os.environ.get("METER_BUILD") or ROOT / ".instruments" / "meter-build") / "fakecuda_ext.so"
CASES = {
    "llama-3-8b-gptq_w4a16-layers3-seqlen2048-batchsize1": "",
    "llama-3-8b-sparsegpt_2of4-layers3-seqlen2048-batchsize1": "",
    "llama-3-8b-rtn_fp8_dynamic-layers3": "",
    "llama-3-8b-sparsegpt_then_gptq-layers3": "",
    "llama-3-8b-rtn_w8a8_static-layers3-pipelinebasic": "--pipeline basic",
    "qwen2.5-vl-7b-gptq_w4a16-layers3-images1-imagesize644x644": "--images 1 --image-size 644x644",
}
BATCH = 26_230_784
"""What one batch of 2048 tokens is in the activation cache of Llama-3-8B."""

pytestmark = [
    pytest.mark.llmcompressor,
    pytest.mark.skipif(not PYTHON, reason="PLANNER_LLMCOMPRESSOR_PYTHON names no python with llmcompressor"),
]
on_the_meter = pytest.mark.skipif(not EXTENSION.exists(), reason="tests/meter/setup.sh was not run: no fakecuda_ext.so")


def library(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in the library's environment."""
    script, *rest = words
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [PYTHON, str(HERE / script), *rest]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=settings)


def tiny(out: Path, *words: str) -> Measurement:
    done = library("tiny.py", str(out), *words)
    assert done.returncode == 0, done.stderr
    return read_measurement(str(out))


def metered(out: Path, words: str, **environment: str) -> Measurement:
    done = library("metered.py", "80", "measure", *words.split(), "--output", str(out), **environment)
    assert done.returncode == 0, done.stderr
    return read_measurement(str(out))


def names(steps: Any) -> list[tuple[object, ...]]:
    return [(step.modifier, step.subgraph, step.of, step.phase, step.unit) for step in steps]


def test_a_tiny_model_is_measured_for_real_in_the_steps_of_its_plan(tmp_path: Path) -> None:
    found = tiny(tmp_path / "run.json")
    assert (found.complete, found.stopped) == (True, None)
    config = tmp_path / "tiny" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps((found.model and found.model.config) or {}))
    planned = plan(str(config), "gptq_w4a16", Job(samples=4, seq_len=64))
    assert names(found.steps) == [name for name in names(planned.steps) if name[3] != "save"]
    assert found.model is not None
    assert (found.model.parameters, found.model.bytes) == (planned.model.parameters, planned.model.bytes)
    assert all((step.cpu.rss_bytes or 0) > 0 and step.seconds is not None for step in found.steps)
    assert all(step.gpu.requested_bytes is None for step in found.steps)


@pytest.mark.parametrize(("end", "reason"), [("out-of-memory", "out of memory"), ("interrupt", "interrupted")])
def test_a_job_that_ends_early_keeps_what_was_measured(tmp_path: Path, end: str, reason: str) -> None:
    found = tiny(tmp_path / "run.json", end)
    assert (found.complete, found.stopped) == (False, f"{reason} in 2/3 compress")
    assert [step.partial for step in found.steps] == [False] * (len(found.steps) - 1) + [True]
    assert (found.steps[-1].phase, found.steps[-1].unit) == ("compress", "model.layers.0")
    kept = read_measurement(str(tmp_path / "run.kept"))  # as if the process had been killed before the end
    assert kept.stopped is not None
    assert not kept.complete


@on_the_meter
@pytest.mark.parametrize("name", CASES)
def test_steps_agree_with_the_meters_own_to_the_byte(tmp_path: Path, name: str) -> None:
    recorded = read_measurement(str(RUNS / f"{name}.json"))
    assert recorded.model
    assert recorded.recipe
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recorded.recipe.text or "")
    words = f"{recorded.model.name} --recipe {recipe if recorded.recipe.text else recorded.recipe.name}"
    found = metered(tmp_path / "run.json", f"{words} --layers 3 --samples 4 --collect {CASES[name]}", TQDM_DISABLE="1")
    ours = {_key(step): step.gpu for step in found.steps}
    theirs = {_key(step): step.gpu for step in recorded.steps}
    assert set(theirs) <= set(ours)
    for key, gpu in theirs.items():
        assert (ours[key].requested_bytes, ours[key].allocated_bytes) == (gpu.requested_bytes, gpu.allocated_bytes), key
    assert {key[1] for key in set(ours) - set(theirs)} <= {"load", "prepare"}


def _key(step: Any) -> tuple[object, ...]:
    return step.modifier, step.phase, step.subgraph


@on_the_meter
def test_a_progress_bar_holds_one_batch_more(tmp_path: Path) -> None:
    """Users have bars on (planner/compress/pipelines/passes.py says how); the environment can switch them off."""
    words = "llama-3-8b --recipe gptq_w4a16 --layers 2 --samples 4 --collect"
    with_bars = metered(tmp_path / "with.json", words, TQDM_DISABLE="")
    without = metered(tmp_path / "without.json", words, TQDM_DISABLE="1")
    assert with_bars.job
    assert without.job
    assert (with_bars.job.progress_bars, without.job.progress_bars) == (True, False)
    extra = {
        (one.subgraph, one.phase): (one.gpu.requested_bytes or 0) - (other.gpu.requested_bytes or 0)
        for one, other in zip(with_bars.steps, without.steps, strict=True)
    }
    assert extra[2, "calibrate"] == BATCH
    assert extra[2, "compress"] == 0


@on_the_meter
def test_a_card_that_is_too_small_is_refused_before_anything_runs() -> None:
    done = library("metered.py", "2", "measure", "llama-3-8b", "--recipe", "gptq_w4a16", "--layers", "2")
    assert done.returncode == 2
    assert "of GPU memory and 2.000 GiB is free" in done.stderr
    assert "--force" in done.stderr


def test_the_command_itself_finds_no_accelerator_here(tmp_path: Path) -> None:
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [PYTHON, "-m", "planner", "measure", "qwen3-0.6b", "-r", "gptq_w4a16", "-o", str(tmp_path / "run.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=settings)
    assert done.returncode == 2
    assert done.stderr.startswith("planner: error: no accelerator")
    assert not (tmp_path / "run.json").exists()


def test_every_benchmark_runs_in_the_librarys_torch() -> None:
    assert sys.version_info >= (3, 11)
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [PYTHON, "-m", "tests.measured.gpu.micro", "cholesky_inverse_out", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=settings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["result_bytes"] == 0  # out= is an argument's, not a new one
