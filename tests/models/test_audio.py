"""A model that hears: its class, its inputs, when its tower runs, and where LLM Compressor's traced forward stops."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, Qwen2AudioProcessor, WhisperFeatureExtractor

from planner import plan
from planner.choose.paste import command_line, library_call
from planner.compress.program import cut
from planner.errors import JobError, RecipeError, UnsupportedError
from planner.job import BatchShape, Job
from planner.measure.model import tokenizer
from planner.models.graph import ModelGraph
from planner.models.inputs import calibration_batch
from planner.models.load import load_model
from planner.serving.serve import serve
from planner.training.train import train

TOKEN = 90
TOWER: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 128,
}
HEARING: dict[str, Any] = {
    "model_type": "qwen2_audio",
    "architectures": ["Qwen2AudioForConditionalGeneration"],
    "audio_token_index": TOKEN,
    "audio_config": {"model_type": "qwen2_audio_encoder", **TOWER},
    "text_config": {
        "model_type": "qwen2",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 100,
    },
}
SAMPLES: dict[str, Any] = {"samples": 2, "seq_len": 800}
WHOLE = ("Qwen2AudioModel",)
GPTQ = {"GPTQModifier": {"targets": ["Linear"], "scheme": "W8A8", "ignore": ["lm_head"]}}
DATA_FREE = {"QuantizationModifier": {"targets": ["Linear"], "scheme": "FP8_DYNAMIC", "ignore": ["lm_head"]}}
IGNORED = {"GPTQModifier": {**GPTQ["GPTQModifier"], "ignore": ["lm_head", "re:.*audio_tower.*", "re:.*projector.*"]}}


def graph(**options: Any) -> ModelGraph:
    return load_model(HEARING, Job(**SAMPLES, **options))


def stage(modifiers: dict[str, Any]) -> dict[str, Any]:
    return {"quant_stage": {"quant_modifiers": modifiers}}


def failures(recipe: Any, **options: Any) -> list[str]:
    return [note.text for note in plan(HEARING, stage(recipe), Job(**SAMPLES, **options)).notes if note.kind == "fails"]


def batch(audios: int, seconds: int, seq_len: int = 800) -> dict[str, torch.Tensor]:
    config = AutoConfig.for_model(**HEARING)
    shape = BatchShape(seq_len=seq_len, audios=audios, audio_seconds=seconds)
    return calibration_batch(config, shape, torch.bfloat16).fields


def test_it_is_built_as_its_own_class_with_a_tower_of_its_own_kind() -> None:
    found = graph()
    assert found.architecture == "Qwen2AudioForConditionalGeneration"
    kinds = {unit.name: unit.kind for unit in found.units}
    assert kinds["model.audio_tower"] == "audio"
    assert kinds["model.multi_modal_projector"] == "projector"
    assert found.total("audio") > 0 == found.total("vision")


@pytest.mark.parametrize("seconds", [1, 12, 30])
def test_a_sample_has_the_fields_and_sizes_that_the_familys_processor_makes(seconds: int) -> None:
    words = tokenizer()
    words.add_tokens(["<|AUDIO|>"], special_tokens=True)
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), words, chat_template="")
    clip = np.zeros(seconds * 16_000, dtype=np.float32)
    made = processor(text="a <|AUDIO|> b", audio=[clip], sampling_rate=16_000, return_tensors="pt")
    ours = batch(1, seconds)
    assert set(made) == set(ours)
    assert ours["input_features"].shape == made["input_features"].shape
    assert ours["input_features"].dtype == made["input_features"].dtype
    assert torch.equal(ours["feature_attention_mask"], made["feature_attention_mask"].long())
    heard = made["input_ids"] == words.convert_tokens_to_ids("<|AUDIO|>")
    assert int((ours["input_ids"] == TOKEN).sum()) == int(heard.sum())


def test_clips_of_one_sample_lie_one_after_the_other_as_the_model_takes_them() -> None:
    fields = batch(2, 12)
    assert fields["input_features"].shape == (2, 128, 3000)
    assert fields["feature_attention_mask"].sum(-1).tolist() == [1200, 1200]
    assert int((fields["input_ids"] == TOKEN).sum()) == 600


@pytest.mark.parametrize(
    ("audios", "seconds", "says"),
    [
        (
            2,
            30,
            r"^2 audio clip\(s\) take 1504 tokens, more than --seq-len 800; .*lower --audios or --audio-seconds",
        ),
        (1, 31, r"^--audio-seconds 31: the processor cuts each clip to the 30 seconds that qwen2_audio hears"),
    ],
)
def test_audio_that_no_sample_can_have_is_refused(audios: int, seconds: int, says: str) -> None:
    with pytest.raises(JobError, match=says):
        batch(audios, seconds)


def test_audio_for_a_model_without_an_audio_tower_is_refused() -> None:
    with pytest.raises(JobError, match=r"^--audios 1: qwen3 has no audio tower; leave --audios at 0$"):
        calibration_batch(AutoConfig.for_model("qwen3"), BatchShape(audios=1), torch.bfloat16)


def test_audio_of_another_family_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"audio inputs of voxtral are not modelled.* Modelled: qwen2_audio"):
        calibration_batch(AutoConfig.for_model("voxtral"), BatchShape(audios=1), torch.bfloat16)


def test_the_tower_is_onloaded_whole_with_the_head_where_samples_have_audio_and_never_where_they_have_none() -> None:
    for audios, onload in ((1, "head"), (0, "never")):
        tower = {unit.name: unit for unit in graph(audios=audios).units}["model.audio_tower"]
        assert tower.onload == onload
        assert not tower.is_target


def test_a_traced_job_stops_where_a_test_asks_a_plain_dict_and_the_plan_says_the_way_out() -> None:
    for audios in (0, 1):
        (told,) = failures(IGNORED, audios=audios)
        assert "Qwen2AudioForConditionalGeneration.forward asks a plain dict for outputs.labels" in told
        assert "--sequential-targets Qwen2AudioModel, all of that on the GPU together, or with --pipeline basic" in told


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (DATA_FREE, {}),
        (IGNORED, {"sequential_targets": WHOLE, "audios": 1}),
        (IGNORED, {"pipeline": "basic", "weights": "gpu", "audios": 1}),
    ],
    ids=["data-free", "whole", "untraced"],
)
def test_a_job_that_traces_nothing_around_the_model_does_not_stop(recipe: Any, options: dict[str, Any]) -> None:
    assert failures(recipe, **options) == []


def test_gptq_over_the_tower_stops_behind_a_wrapped_function_and_runs_where_nothing_is_wrapped() -> None:
    with pytest.raises(RecipeError, match=r"No statistics available.*re:\.\*audio_tower\.\*"):
        plan(HEARING, stage(GPTQ), Job(**SAMPLES, audios=1))
    for options in ({"sequential_targets": WHOLE}, {"pipeline": "basic", "weights": "gpu"}):
        kinds = {
            step.phase: step.gpu.by_kind
            for step in plan(HEARING, stage(GPTQ), Job(**SAMPLES, audios=1, **options)).steps
        }
        assert kinds["calibrate"]["hessian"] > kinds["finalize"].get("hessian", 0)


def test_the_first_subgraph_passes_on_inputs_that_a_later_one_reads() -> None:
    whole = graph(audios=1, sequential_targets=WHOLE)
    first, *rest = cut(whole.trace, 1)
    names = {whole.trace.crossings[number].name for number in first.passed}
    assert names == {"input_ids", "attention_mask", "input_features", "feature_attention_mask"}
    assert not any(subgraph.passed for subgraph in rest)
    assert all(not subgraph.passed for subgraph in cut(graph(audios=1).trace, 1))


def test_what_is_to_be_pasted_loads_its_own_class_and_says_what_samples_have() -> None:
    job = Job(**SAMPLES, audios=1, audio_seconds=12, sequential_targets=WHOLE)
    call = library_call(plan(HEARING, stage(IGNORED), job), "gptq_w4a16", job, {})
    assert "from transformers import Qwen2AudioForConditionalGeneration\n" in call
    assert "# each sample of the dataset has 1 audio clip of 12 seconds" in call
    assert "--audios 1 --audio-seconds 12" in command_line("plan", "m", "gptq_w4a16", job)


def test_served_and_trained_on_text_its_tower_is_counted_and_never_runs(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(HEARING))
    tower = sum(unit.parameters for unit in graph().units if unit.kind in ("audio", "projector"))
    (told,) = (note for note in train(str(config)).notes if note.startswith("Trained on text"))
    assert f"the audio tower and its projector ({tower:,} weights) never run" in told
    notes = serve(str(config), "bf16").notes
    assert "text alone: the audio tower's weights are counted, audio's activations and tokens are not" in notes
    assert not any("vision" in note for note in notes)
