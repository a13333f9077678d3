"""Which class a config is built as: what its checkpoint is of, or an error that names it."""

from typing import Any

import pytest

from planner.errors import ModelError
from planner.job import Build
from planner.models.build import architecture, build_model, parameter_count, reading_notes
from planner.models.source import ModelSource

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
# openai/whisper-large-v3, 1.54 B parameters, of which the decoder has 0.91
WHISPER: dict[str, Any] = {
    "model_type": "whisper",
    "d_model": 1280,
    "encoder_layers": 32,
    "decoder_layers": 32,
    "num_mel_bins": 128,
    "vocab_size": 51866,
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 20),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 5120),
}


def built(model_type: str, named: list[str] | None, **changes: Any) -> tuple[str, tuple[str, ...]]:
    """The class that such a config is built as, and the notes on it."""
    source = ModelSource(name="toy", config={"model_type": model_type, **TEXT, "architectures": named, **changes})
    model = build_model(source, Build())
    return architecture(model), reading_notes(source, model)


@pytest.mark.parametrize(
    ("model_type", "named", "instead"),
    [
        ("qwen3", "Qwen3ForSequenceClassification", "Qwen3ForCausalLM"),
        ("llama", "LlamaForTokenClassification", "LlamaForCausalLM"),
        ("bart", "BartForConditionalGeneration", "BartForCausalLM"),
        ("qwen2", "Qwen2ForRewardModel", "Qwen2ForCausalLM"),
        ("llama", "LlamaForCausalLMEagle3", "LlamaForCausalLM"),
        ("llava", "LlavaLlamaForCausalLM", "LlavaForConditionalGeneration"),
    ],
)
def test_a_class_of_another_task_is_refused_by_its_name(model_type: str, named: str, instead: str) -> None:
    with pytest.raises(ModelError, match=f"^toy: architectures .*'{named}', .* does not plan.* for {instead} alone"):
        built(model_type, [named])


def test_a_speech_model_is_not_planned_as_its_decoder() -> None:
    named = ModelSource(name="whisper", config={**WHISPER, "architectures": ["WhisperForConditionalGeneration"]})
    with pytest.raises(ModelError, match="WhisperForConditionalGeneration"):
        build_model(named, Build())


def test_the_decoder_alone_is_planned_where_it_is_named_and_said_to_be_alone_where_nothing_is() -> None:
    width, feed = 1280, 5120
    attention, norm = 4 * width**2 + 3 * width, 2 * width  # keys have no bias
    layer = 2 * attention + 2 * width * feed + feed + width + 3 * norm
    decoder = (51866 + 448) * width + 32 * layer + norm
    for named, says in ((["WhisperForCausalLM"], []), (None, ["the decoder alone"])):
        source = ModelSource(name="whisper", config={**WHISPER, "architectures": named})
        model = build_model(source, Build())
        assert architecture(model) == "WhisperForCausalLM"
        assert parameter_count(model) == decoder == 906_521_600
        notes = reading_notes(source, model)
        assert len(notes) == len(says)
        assert all(words in note for words, note in zip(says, notes, strict=True))


@pytest.mark.parametrize(
    ("model_type", "named"),
    [
        ("llama", "LlamaForCausalLM"),
        ("bert", "BertLMHeadModel"),
        ("bert", "BertForMaskedLM"),
        ("emu3", "Emu3ForCausalLM"),
        ("emu3", "Emu3ForConditionalGeneration"),
        ("llama4", "Llama4ForCausalLM"),
        ("llama4", "Llama4ForConditionalGeneration"),
    ],
)
def test_of_several_classes_for_a_config_the_named_one_is_built(model_type: str, named: str) -> None:
    small = {**TEXT, "intermediate_size_mlp": 24, "num_local_experts": 2}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    parts: dict[str, Any] = {}
    if model_type in ("emu3", "llama4"):
        parts = {"text_config": small, "vocabulary_map": {"<image>": 1}}
    if model_type == "llama4":
        parts |= {"vision_config": {**vision, "vision_output_dim": 16, "projector_output_dim": 16}}
    assert built(model_type, [named], **parts) == (named, ())


def test_without_architectures_the_class_is_the_one_that_transformers_auto_class_takes() -> None:
    assert built("llama", None) == ("LlamaForCausalLM", ())
    assert built("llama", []) == ("LlamaForCausalLM", ())


def test_a_model_without_its_head_is_planned_as_it_is_loaded_and_says_so() -> None:
    named, notes = built("llama", ["LlamaModel"])
    assert named == "LlamaForCausalLM"
    (note,) = notes
    assert "'LlamaModel', the model without its head: planned as LlamaForCausalLM" in note


def test_a_repositorys_own_name_for_the_same_head_is_planned_as_it_is_loaded_and_says_so() -> None:
    named, notes = built("mpt", ["MPTForCausalLM"], d_model=16, n_heads=2, n_layers=1)
    assert named == "MptForCausalLM"
    (note,) = notes
    assert "'MPTForCausalLM', which transformers does not have for this model_type: planned as MptForCausalLM" in note


def test_a_name_of_any_length_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError) as caught:
        built("llama", ["x\n" * 10_000])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
