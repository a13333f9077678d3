"""What fuzzing found, each once."""

import json
from typing import Any

import pytest

from planner.models.source import load_source
from tests.fuzz.cases import shrunk
from tests.fuzz.running import Case, Ended, run, wrong_with

SHORT = ("--layers", "1", "--samples", "2", "--seq-len", "16")
LONG = "a" * 5000
"""Longer than any file system takes."""


def ended(*words: str, config: dict[str, Any] | None = None, **files: str) -> Ended:
    """How it ends, which must be well."""
    data = {name.replace("_csv", ".csv"): text.encode() for name, text in files.items()}
    if config is not None:
        data["config.json"] = json.dumps(config).encode()
    case = Case(words=words, files=data)
    found = run(case)
    assert wrong_with(case, found) == ""
    return found


def config_of(preset: str, **changes: Any) -> dict[str, Any]:
    return {**shrunk(dict(load_source(preset).config)), **changes}


@pytest.mark.parametrize("target", ["ExpertMLPWithGate", "Linear"])
def test_autoround_of_single_experts_is_planned_or_refused_by_the_layers_name(target: str) -> None:
    words = ("plan", "config.json", "-r", "autoround_w4a16", *SHORT, "--sequential-targets", target)
    found = ended(*words, config=config_of("mixtral-8x7b"))
    if target == "Linear":
        assert found.err.startswith("planner: error: model.layers.0.self_attn.q_proj: AutoRoundModifier trains")
    else:
        assert "AutoRoundModifier" in found.out


def test_fit_tries_every_cut_of_an_autoround_job() -> None:
    found = ended(
        "fit", "config.json", "-r", "autoround_w4a16", *SHORT, "--gpu", "600MB", config=config_of("mixtral-8x7b")
    )
    assert found.code == 0


def test_an_error_that_is_cut_ends_in_a_word() -> None:
    config = config_of("llama-3-8b", rope_scaling=[{"a": [{"a": 1e300}]}])
    assert "the config cannot be read by transformers: " in ended("graph", "config.json", config=config).err


@pytest.mark.parametrize("token", [["Qwen3ForCausalLM"], {}, "a", 1.5])
def test_a_token_id_may_be_anything(token: Any) -> None:
    ended("plan", "config.json", "-r", "rtn_w8a8_static", *SHORT, config=config_of("qwen3-0.6b", video_token_id=token))


@pytest.mark.parametrize(
    "words", [("formats",), ("serve",), ("bpw", "--gpu", "1GiB"), ("plan", "-r", "rtn_w4a16", *SHORT)]
)
def test_transformers_does_not_warn_of_token_ids_beside_the_answer(words: tuple[str, ...]) -> None:
    config = config_of("qwen3-0.6b", bos_token_id=151643, vocab_size=256)
    ended(words[0], "config.json", *words[1:], config=config)
    config.pop("hidden_size")
    assert ended(words[0], "config.json", *words[1:], config=config).err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("model-free", LONG, "-s", "W8A8"),
        ("model-free", "~nobody/x", "-s", "W8A8"),
        ("machines", "--catalogue", LONG),
        ("gpus", "-o", LONG),
        ("gpus", "-o", f"{LONG}/a"),
        ("rehearse", LONG),
        ("rehearse", "\0"),
        ("gpus", "-o", "a\0b"),
        ("graph", "a\0b/c"),
    ],
    ids=lambda words: f"{words[0]} {words[1][:12]!r}",
)
def test_a_name_that_no_file_can_have_is_one_line(words: tuple[str, ...]) -> None:
    assert ended(*words).code == 2


def test_a_catalogue_without_a_name_for_its_column_says_that_it_has_none() -> None:
    assert ended("machines", "--catalogue", "t_csv".replace("_csv", ".csv"), t_csv=" \n1\n").err.endswith("are none\n")


@pytest.mark.parametrize("count", ["null", [], -1.5])
def test_a_number_of_experts_may_be_anything(count: Any) -> None:
    ended(
        "plan", "config.json", "-r", "rtn_w8a8_static", *SHORT, config=config_of("qwen3-0.6b", num_local_experts=count)
    )


def test_thousands_of_names_that_match_nothing_are_a_few_notes() -> None:
    modifier = {"targets": ["Linear"], "scheme": "W4A16", "ignore": [f"a{number}" for number in range(5000)]}
    recipe = json.dumps({"quant_stage": {"quant_modifiers": {"QuantizationModifier": modifier}}})
    words = ("plan", "config.json", "-r", "many.json", *SHORT)
    data = {"config.json": json.dumps(config_of("qwen3-0.6b")).encode(), "many.json": recipe.encode()}
    found = run(Case(words=words, files=data))
    assert (found.code, found.crash) == (0, "")
    assert found.out.count("leaves nothing out") == 20
    assert "4,980 more leave nothing out" in found.out


@pytest.mark.parametrize("groups", ["/dev/zero", ".", LONG, "[" * 100_000, "{" * 100_000])
def test_config_groups_that_never_end_are_one_line(groups: str) -> None:
    assert ended("model-free", "qwen3-0.6b", "--config-groups", groups).err.startswith(
        "planner: error: --config-groups "
    )


@pytest.mark.parametrize("command", [("plan",), ("compare",), ("fit", "--gpu", "1GiB"), ("serve",), ("model-free",)])
@pytest.mark.parametrize("pattern", ["re:(([a-z._0-9]+)+)+!$", "re:(.*)*lm_head_x$"])
def test_a_pattern_that_would_hang_pythons_re_ends_in_every_command(command: tuple[str, ...], pattern: str) -> None:
    modifier = {"targets": ["Linear"], "scheme": "W4A16", "ignore": [pattern]}
    recipe = json.dumps({"quant_stage": {"quant_modifiers": {"QuantizationModifier": modifier}}})
    data = {"config.json": json.dumps(config_of("qwen3-0.6b")).encode(), "recipe.yaml": recipe.encode()}
    given = {"serve": ("-w", "recipe.yaml"), "model-free": ("-s", "W4A16", "--ignore", pattern)}
    words = (command[0], "config.json", *given.get(command[0], ("-r", "recipe.yaml", *SHORT)), *command[1:])
    case = Case(words=words, files=data)
    found = run(case)
    assert wrong_with(case, found) == ""
    assert found.code == 0


@pytest.mark.parametrize("command", ["plan", "compare", "fit", "serve", "model-free"])
def test_fifty_thousand_patterns_are_refused_in_every_command(command: str) -> None:
    patterns = ",".join(f'"re:a{number}"' for number in range(50_000))
    modifier = f'{{"targets": ["Linear"], "scheme": "W4A16", "ignore": [{patterns}]}}'
    recipe = f'{{"quant_stage": {{"quant_modifiers": {{"QuantizationModifier": {modifier}}}}}}}'
    group = f'{{"g": {{"targets": [{patterns}], "weights": {{"num_bits": 8}}}}}}'
    data = {"recipe.json": recipe.encode(), "groups.json": group.encode()}
    given = {"serve": ("-w", "recipe.json"), "model-free": ("--config-groups", "groups.json")}
    case = Case(words=(command, "qwen3-0.6b", *given.get(command, ("-r", "recipe.json"))), files=data)
    found = run(case)
    assert wrong_with(case, found) == ""
    assert "holds more than 1000 regular expressions" in found.err
