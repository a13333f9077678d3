"""The script for a GPU machine, as far as a machine without one can run it."""

import json
from pathlib import Path

import pytest

from planner.measure.files import recipe_text
from planner.models.source import load_source
from tests.measured.gpu.micro import BENCHMARKS, TINY, run
from tests.measured.gpu.run import jobs, main


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_runs_with_tiny_sizes(name: str) -> None:
    lines = list(run(name, TINY, "cpu"))
    assert [(line["n"], line["call"]) for line in lines] == [
        (n, call) for n in TINY for call in ("first", "second", "third")
    ]
    assert all(line["workspace"] is None for line in lines)


def test_a_result_that_lies_in_an_argument_is_none_of_the_calls_own() -> None:
    sizes = {name: next(run(name, (16,), "cpu"))["result_bytes"] for name in ("cholesky_inverse_out", "index_put")}
    assert sizes == {"cholesky_inverse_out": 0, "index_put": 0}
    assert next(run("stack", (16,), "cpu"))["result_bytes"] == 2 * 16 * 16 * 4
    assert next(run("matmul_bf16", (16,), "cpu"))["result_bytes"] == 16 * 16 * 2


def test_job_names_are_file_names_and_no_two_are_equal() -> None:
    names = [job.name for job in jobs()]
    assert len(names) == len(set(names)) > 40
    assert not any("/" in name or " " in name for name in names)


def test_every_job_names_a_model_and_a_recipe_that_are_here() -> None:
    for job in jobs():
        load_source(job.model)
        assert recipe_text(job.recipe_argument())


def test_a_dry_run_writes_results_and_does_nothing_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path), "--dry-run", "--only", "stack"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert "micro stack: 0" in first
    assert "left: nothing" in first
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["dry_run"] is True
    assert len(results["micro"]["stack"]["results"]) == len(TINY) * 3
    assert results["machine"]["versions"]["torch"]
    assert main(words) == 0
    assert "micro" not in capsys.readouterr().out


def test_when_time_is_up_it_says_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--dry-run", "--minutes", "0", "--only", "llama-2-70b"]) == 0
    assert "left: llama-2-70b-gptq_w4a16-layers1-samples4" in capsys.readouterr().out
