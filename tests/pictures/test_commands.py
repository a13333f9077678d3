"""planner report and planner explain, as they are typed."""

import json
from pathlib import Path

import pytest

from planner.cli import main
from planner.pictures.explain import Explanation
from planner.pictures.page import data_in
from tests.built import share_presets

JOB = ["qwen3-0.6b", "-r", "gptq_w4a16", "--layers", "2", "--samples", "4", "--seq-len", "64"]


@pytest.fixture(autouse=True)
def _shared(monkeypatch: pytest.MonkeyPatch) -> None:
    share_presets(monkeypatch)


def test_a_report_replaces_an_old_one_whole(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("old")
    assert main(["report", *JOB, "-r", "rtn_fp8_dynamic", "-o", str(file)]) == 0
    assert [each["plan"]["recipe"] for each in data_in(file.read_text())["plans"]] == ["gptq_w4a16", "rtn_fp8_dynamic"]
    assert list(tmp_path.iterdir()) == [file]


def test_a_report_of_strategies_has_a_plan_for_each(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    asked = ["--strategy", "as asked", "--strategy", "batch of 4"]
    assert main(["report", *JOB, *asked, "--gpu", "t4", "--ram", "16GiB", "-o", str(file)]) == 0
    data = data_in(file.read_text())["plans"]
    assert [each["plan"]["strategy"] for each in data] == [None, "batch of 4"]
    assert all(each["picture"]["capacities"][-1]["bytes"] == 2**34 for each in data)


def test_a_dash_writes_the_page_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *JOB, "-o", "-"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")


def test_a_folder_that_does_not_exist_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "no such model", "-r", "gptq_w4a16", "-o", str(tmp_path / "none" / "report.html")]) == 2
    assert "does not exist; create it first" in capsys.readouterr().err


def test_a_report_needs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *JOB]) == 2
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_an_explanation_sums_to_the_peak(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *JOB, "--device", device, "--format", "json"]) == 0
    found = Explanation.model_validate_json(capsys.readouterr().out)
    assert sum(row.bytes for row in found.rows) + sum(found.rest.values()) == found.bytes
    assert main(["plan", *JOB, "--format", "json"]) == 0
    assert found.bytes == json.loads(capsys.readouterr().out)[device]["peak_bytes"]
    assert [row.bytes for row in found.rows] == sorted((row.bytes for row in found.rows), reverse=True)


def test_an_explanation_names_the_librarys_function_and_the_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *JOB, "--step", "6", "--format", "json"]) == 0
    found = Explanation.model_validate_json(capsys.readouterr().out)
    hessian = next(row for row in found.rows if row.role == "Hessian")
    assert (hessian.line, hessian.dtype) == ("gptq/helpers.py make_empty_hessian", "float32")
    assert hessian.shape is not None
    assert hessian.shape[0] * hessian.shape[1] * 4 == hessian.bytes
    assert {row.dtype for row in found.rows if row.name.endswith("proj.weight")} == {"bfloat16"}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--step", "99"], "--step 99: the job has the steps 0 to"),
        (["--device", "gpu1"], "--offload-device gpu:1"),
        (["--device", "gpu1"], "device_ids"),
    ],
)
def test_a_step_or_a_card_that_there_is_not_is_one_line(
    option: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *JOB, *option]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_explanation_is_text_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *JOB]) == 0
    assert "GiB of GPU memory at the peak of" in capsys.readouterr().out
    assert main(["explain", *JOB, "--format", "markdown"]) == 0
    assert "| bytes | whose, and what |" in capsys.readouterr().out.replace("  ", " ")
