"""planner formats: what is typed, what is printed."""

import json
from collections.abc import Callable

import pytest

from planner.cli import main
from planner.formats.registry import all_formats
from planner.reports.formats import folded, render, shared_notes
from planner.serving.fit import size_all
from planner.serving.fit_schema import FormatRow
from planner.serving.schema import ServeOptions
from planner.units import GB, GIB
from tests.formats.full_size import served
from tests.serving.test_fit import flat

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("planner.serving.model.load_served", lambda model, _dtype: (served(model), flat))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def row(name: str, family: str = "gguf", **fields: object) -> FormatRow:
    values = {"file_bytes": GB, "weights_bytes": GIB, "total_bytes": GIB, "bits_per_weight": 4.5, **fields}
    return FormatRow.model_validate({"name": name, "family": family, "summary": "", **values})


def test_json_is_versioned_and_holds_every_format(run: Run) -> None:
    code, out, _ = run("formats", "llama-3-8b", "--gpu", "rtx4090", "--format", "json")
    found = json.loads(out)
    assert (code, found["schema_version"], found["model"]["name"]) == (0, 1, "llama-3-8b")
    assert len(found["formats"]) == len(all_formats())
    by_name = {item["name"]: item for item in found["formats"]}
    assert by_name["bf16"]["file_bytes"] == 2 * 8030261248
    assert by_name["bf16"]["fits"] is True and by_name["fp32"]["fits"] is False


def test_a_table_without_a_gpu_has_no_columns_about_one(run: Run) -> None:
    _, without, _ = run("formats", "llama-3-8b", "--family", "gguf")
    _, with_gpu, _ = run("formats", "llama-3-8b", "--family", "gguf", "--gpu", "24GiB")
    assert "fits" not in without and "tokens/s" not in without
    assert "fits" in with_gpu and "tokens/s" in with_gpu
    line = next(line.split() for line in without.splitlines() if line.strip().startswith("Q4_K_M "))
    assert line[1] == "4.92"  # published Meta-Llama-3-8B-Instruct-Q4_K_M.gguf: 4.92 GB
    assert not any(line.startswith("compressed-tensors") for line in without.splitlines())


def test_markdown_has_the_family_in_each_line(run: Run) -> None:
    code, out, _ = run("formats", "llama-3-8b", "--family", "plain", "--format", "markdown")
    assert code == 0
    assert "| plain | fp16, bf16 | 16.06 |" in out


def test_reasons_are_told_once_for_all_formats_that_share_them(run: Run) -> None:
    _, out, _ = run("formats", "deepseek-r1", "--family", "exllama")
    assert out.count("has no code for DeepseekV3ForCausalLM") == 1
    assert "exl2:2.55, exl2:3.0, exl2:3.5 and 5 more" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--family", "guff"), "did you mean gguf?"),
        (("--gpu", "rtx409"), "unknown GPU"),
        (("--context", "0"), "--context 0"),
        (("--kv-dtype", "fp7"), "fp7"),
    ],
)
def test_bad_options_end_in_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("formats", "llama-3-8b", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("planner: error: ") and err.count("\n") == 1
    assert message in err


def test_help_lists_families_and_name_patterns(run: Run) -> None:
    _, out, _ = run("formats", "--help")
    for word in (*{kept.family for kept in all_formats()}, "exl2:BPW", "ggml:TYPE", "recipe"):
        assert word in out


def test_rows_with_the_same_numbers_share_a_line() -> None:
    rows = [row("A"), row("B"), row("C", file_bytes=2 * GB), row("D", problem="too odd")]
    assert [[item.name for item in group] for group in folded(rows)] == [["A", "B"], ["C"]]


def test_notes_of_a_whole_family_are_told_with_its_name() -> None:
    rows = [row("A", notes=("all", "half", "one")), row("B", notes=("all", "half")), row("C", "plain", notes=("all",))]
    assert shared_notes(rows) == ["all", "gguf: half"]


def test_a_terminal_of_eighty_columns_shows_every_number() -> None:
    table = size_all(served("llama-3-8b"), flat, all_formats(), ServeOptions(gpu="rtx4090"))
    text = render(table, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert any(line.split()[:3] == ["Q4_K_M", "4.92", "4.30"] for line in text.splitlines())
