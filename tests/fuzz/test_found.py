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
        assert found.err.startswith("planner: error: model.layers.0.self_attn.q_proj: its forward does not run")
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
