"""planner bpw: what is typed, what is printed."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from planner.cli import main
from planner.formats.registry import find_format
from tests.formats.full_size import served
from tests.serving.test_fit import flat

Run = Callable[..., tuple[int, str, str]]
CARD = ("bpw", "llama-2-70b", "--gpu", "24GiB", "--context", "2048")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("planner.serving.model.load_served", lambda model, _dtype: (served(model), flat))
    few = tuple(find_format(name) for name in ("bf16", "W4A16", "Q2_K", "IQ2_XS", "exl2:2.55"))
    monkeypatch.setattr("planner.serving.fit.all_formats", lambda: few)  # 120 formats of 80 layers take seconds

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_json_is_versioned_and_its_budget_sums_up(run: Run) -> None:
    code, out, _ = run(*CARD, "--format", "json")
    found = json.loads(out)
    assert (code, found["schema_version"]) == (0, 1)
    budget = found["budget"]
    assert sum(budget.values()) == 2 * budget["memory_bytes"]
    assert found["bits_per_weight"] >= found["mixture"]["bits_per_weight"] > 2.55
    assert sum(row["gpu_bytes"] for row in found["mixture"]["rows"]) == found["mixture"]["gpu_bytes"]


def test_the_table_says_budget_answer_mixture_and_order(run: Run) -> None:
    code, out, _ = run(*CARD)
    assert code == 0
    assert "At most 2.7" in out
    for text in ("KV cache", "0.625 GiB", "head EXL2 6 bits", "value", "order of thumb", "first and last eighth"):
        assert text in out


def test_markdown_has_both_tables(run: Run) -> None:
    _, out, _ = run(*CARD, "--format", "markdown")
    assert out.startswith("### llama-2-70b")
    assert out.count("| ---") >= 2


def test_a_mixture_is_told_whether_vllm_runs_all_of_it_on_the_card(run: Run) -> None:
    _, said, _ = run("bpw", "llama-2-70b", "--gpu", "gh200", "--choices", "W4A16,FP8_BLOCK")
    assert "kernels   vLLM has them for integer weights" in said
    _, told, _ = run("bpw", "llama-2-70b", "--gpu", "a100-80gb", "--choices", "W4A16,FP8_BLOCK", "--format", "json")
    assert json.loads(told)["card_support"]["support"] == "weights alone"
    _, said, _ = run(*CARD)
    assert "kernels" not in said


def test_own_choices_are_taken(run: Run) -> None:
    _, out, _ = run("bpw", "llama-2-70b", "--gpu", "48GiB", "--choices", "2.5,3,4,6", "--format", "json")
    assert [choice["name"] for choice in json.loads(out)["choices"]] == ["exl2:2.5", "exl2:3", "exl2:4", "exl2:6"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("llama-2-70b",), "--gpu 24GiB"),
        (("llama-2-70b", "--gpu", "12GiB"), "most is weights: take a smaller model"),
        (("llama-2-70b", "--gpu", "24GiB", "--choices", "9"), "EXL2 takes 2 to 8"),
        (("llama-2-70b", "--gpu", "24GiB", "--choices", "Q4_K_M,W4A16"), "no engine reads"),
        (("llama-2-70b", "--gpu", "24"), "24GiB"),
    ],
)
def test_bad_questions_end_in_one_line_with_a_way_out(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("bpw", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("planner: error: ") and err.count("\n") == 1
    assert message in err


def test_commands_bring_no_torch_when_they_are_imported() -> None:
    imports = "import sys, planner.serving.fit, planner.commands.bpw, planner.commands.formats"
    code = f"{imports}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
