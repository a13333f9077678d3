import json
import logging
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from planner.errors import ModelError
from planner.job import Build
from planner.models import build
from planner.models.build import (
    architecture,
    build_model,
    config_entry,
    num_experts,
    parameter_bytes,
    parameter_count,
    text_config,
    tower_configs,
)
from planner.models.config_checks import check_sizes
from planner.models.described import facts_of
from planner.models.source import ModelSource, load_source

TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def tiny(**changes: Any) -> ModelSource:
    return ModelSource(name="toy", config={**TINY, **changes})


def closed_form(layers: int = 3) -> int:
    attention = 16 * (16 + 8 + 8 + 16)
    return layers * (attention + 3 * 16 * 24 + 2 * 16) + 2 * 32 * 16 + 16


def test_a_model_is_built_without_a_byte_of_weights() -> None:
    model = build_model(tiny(), Build())
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert parameter_count(model) == closed_form()
    assert parameter_bytes(model) == 2 * closed_form()
    assert architecture(model) == "LlamaForCausalLM"
    assert not model.training


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_job_sets_the_dtype_whatever_the_config_says(dtype: Any) -> None:
    model: Any = build_model(tiny(torch_dtype="float64"), Build(dtype=dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert model.config.dtype == getattr(torch, dtype)
    assert torch.get_default_dtype() == torch.float32


def test_tied_weights_are_one_tensor_and_count_once() -> None:
    model: Any = build_model(tiny(tie_word_embeddings=True), Build())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert parameter_count(model) == closed_form() - 32 * 16


def test_attention_is_eager_in_every_part_of_the_model() -> None:
    for name in ("qwen2.5-vl-7b", "gemma-3-27b"):
        model = build_model(load_source(name), Build(layers=1, vision_layers=1))
        configs = [module.config for module in model.modules() if hasattr(module, "config")]
        assert {config._attn_implementation for config in configs} == {"eager"}


def test_a_kernel_named_in_the_config_is_not_needed() -> None:
    model: Any = build_model(tiny(attn_implementation="flash_attention_2"), Build())
    assert model.config._attn_implementation == "eager"


def test_layers_are_cut_as_the_job_asks() -> None:
    assert parameter_count(build_model(tiny(), Build(layers=1))) == closed_form(layers=1)
    with pytest.raises(ModelError, match="--layers 4: the text decoder has only 3 layers"):
        build_model(tiny(), Build(layers=4))
    model: Any = build_model(load_source("qwen2.5-vl-7b"), Build(layers=2, vision_layers=3))
    assert (len(model.model.language_model.layers), len(model.model.visual.blocks)) == (2, 3)


def test_a_vision_model_is_built_whole_and_a_text_model_alone() -> None:
    vision: Any = build_model(load_source("llama-4-scout"), Build(layers=1, vision_layers=1))
    assert {kind: part.model_type for kind, part in tower_configs(vision.config).items()} == {
        "vision": "llama4_vision_model"
    }
    assert text_config(vision.config).model_type == "llama4_text"
    text: Any = build_model(tiny(), Build())
    assert tower_configs(text.config) == {}
    assert text_config(text.config) is text.config


def test_experts_are_counted_under_every_familys_name() -> None:
    counts = {"mixtral-8x7b": 8, "qwen3-30b-a3b": 128, "deepseek-r1": 256, "llama-4-scout": 16, "llama-3-8b": 0}
    for name, count in counts.items():
        model: Any = build_model(load_source(name), Build(layers=1))
        assert num_experts(model.config) == count


def test_a_quantization_config_does_not_change_the_model() -> None:
    model: Any = build_model(tiny(quantization_config={"quant_method": "fp8"}), Build())
    assert parameter_count(model) == closed_form()
    assert not hasattr(model.config, "quantization_config")


def test_building_leaves_the_source_and_global_settings_alone() -> None:
    from transformers.utils import logging as transformers_logging

    source, before = load_source("gemma-3-27b"), json.dumps(load_source("gemma-3-27b").config)
    settings = (transformers_logging.get_verbosity(), constants.HF_HUB_OFFLINE, warnings.filters[:])
    build_model(source, Build(layers=2, vision_layers=2))
    assert json.dumps(source.config) == before
    assert settings == (transformers_logging.get_verbosity(), constants.HF_HUB_OFFLINE, warnings.filters[:])


def test_building_is_silent(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("transformers").propagate = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build_model(load_source("llama-4-scout"), Build(layers=1, vision_layers=1))
        build_model(tiny(pad_token_id=-5, num_labels=3, id2label={"0": "a"}), Build())
    assert (caught, caplog.records, capfd.readouterr()) == ([], [], ("", ""))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000; the planner takes at most 10000"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers is beyond 10\\^300"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1; it must be at least 1"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"hidden_size": 0}, "hidden_size is 0; it must be at least 1"),
        ({"hidden_size": "4096"}, "hidden_size is '4096', not a whole number"),
        ({"hidden_size": 16.0}, "hidden_size is 16.0, not a whole number"),
        ({"hidden_size": True}, "hidden_size is True, not a whole number"),
        ({"hidden_size": 2**40}, "at most 1048576"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
        ({"num_experts": 10**9}, "num_experts is 1000000000"),
        ({"num_experts": 30_000, "num_hidden_layers": 9000}, "9000 layers of 30000 experts"),
        ({"num_labels": 10**12}, "num_labels"),
        ({"max_position_embeddings": 10**15}, "max_position_embeddings is 1e\\+15"),
        ({"text_config": {"num_hidden_layers": 10**12}}, "text_config.num_hidden_layers"),
        ({"intermediate_size": -5}, "negative dimension"),
        ({"intermediate_size": "wide"}, "intermediate_size"),
        ({"intermediate_size": 0}, "mlp.gate_proj.weight would be 0 x [0-9]+; a size of config.json is 0"),
        ({"num_attention_heads": 5}, "multiple of the number of attention"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0; it must be at least 1, or left out"),
        ({"head_dim": 0}, "head_dim is 0; it must be at least 1, or left out"),
        ({"model_type": "mistral", "head_dim": 0}, "head_dim is 0; it must be at least 1, or left out"),
        ({"model_type": "gemma2", "head_dim": 0}, "head_dim is 0; it must be at least 1, or left out"),
        ({"hidden_act": "swish_glu"}, "hidden_act is 'swish_glu', which transformers does not know; it knows swish"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope_scaling.type is 'ntk', .* it knows default, .*yarn"),
        ({"rope_parameters": {"rope_type": "ntk"}}, "rope_parameters.rope_type is 'ntk', .* it knows default, .*yarn"),
        ({"torch_dtype": "float99"}, "torch_dtype is 'float99', not a type of PyTorch; write bfloat16"),
        ({"dtype": "nn"}, "dtype is 'nn', not a type of PyTorch; write bfloat16"),
        ({"dtype": 5}, "dtype is 5, not a type of PyTorch; write bfloat16"),
        ({"rope_scaling": "x"}, "rope"),
        ({"layer_types": ["x"]}, "layer_types"),
        ({"vision_config": "x"}, "vision|str"),
        ({"self": 1}, "self"),
        ({"model_type": "clip_vision_model"}, "neither a causal language model nor an image-text-to-text model"),
        (
            {"model_type": "step3p5"},
            "of model_type 'step3p5'; its class may be code of .* a plan never runs: `planner reh",
        ),
        (
            {"model_type": "step3p5", "auto_map": {"AutoConfig": "a.B"}},
            "its class is code of the .*--trust-remote-code",
        ),
        ({"model_type": "voxtral"}, "of those that hear qwen2_audio alone, not VoxtralForConditionalGeneration$"),
        (
            {"model_type": "qwen2_5_omni"},
            "that hear qwen2_audio alone, .*; of this one it plans the thinker, from a co",
        ),
    ],
)
def test_an_absurd_config_is_refused_at_once(change: dict[str, Any], reason: str) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match=f"toy: .*{reason}") as caught:
        build_model(tiny(**change), Build())
    assert time.monotonic() - start < 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_unknown_word_inside_of_a_part_is_named_with_its_place() -> None:
    parts = {"text_config": {**TINY, "hidden_act": "nope"}, "vision_config": {"model_type": "siglip_vision_model"}}
    with pytest.raises(ModelError, match=r"toy: text_config\.hidden_act is 'nope', .* it knows gelu"):
        build_model(ModelSource(name="toy", config={"model_type": "llava", **parts}), Build())


def test_a_token_cannot_go_to_more_experts_than_there_are() -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 8}
    with pytest.raises(ModelError, match=r"toy: text_config\.: num_experts_per_tok is 8, and there are 4 experts"):
        check_sizes({"text_config": sizes}, "toy")
    check_sizes({"num_experts": 0, "num_experts_per_tok": 8}, "a dense model of a family with mixtures")


def test_a_zero_that_is_the_familys_own_default_is_no_error() -> None:
    from transformers import CONFIG_MAPPING

    assert CONFIG_MAPPING["glm5_next_text"].head_dim == 0
    check_sizes({"text_config": {"model_type": "glm5_next_text", "head_dim": 0}}, "toy")


def test_the_whole_of_deepseek_r1_fits_a_small_machine() -> None:
    program = (
        "import torch, transformers\n"
        "from pathlib import Path\n"
        "from planner.job import Build\n"
        "from planner.models.build import build_model, parameter_count\n"
        "from planner.models.source import load_source\n"
        "model = build_model(load_source('deepseek-r1'), Build())\n"
        "status = Path('/proc/self/status').read_text()\n"  # getrusage knows this process' parent at the fork, too
        "print(parameter_count(model), status.partition('VmHWM:')[2].split()[0])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    parameters, kibibytes = map(int, result.stdout.split())
    assert parameters == 671_026_404_352
    assert kibibytes < 2**20  # 1 GiB, PyTorch and transformers included


# ---------------------------------------------------------------------- whose error it is
@pytest.mark.parametrize("key", ["text_config", "vision_config"])
@pytest.mark.parametrize("family", ["llama", "llava"])
@pytest.mark.parametrize("value", [5, "clip", [1]], ids=str)
def test_a_part_that_is_no_object_is_named(family: str, key: str, value: Any) -> None:
    source = ModelSource(name="odd", config={"model_type": family, key: value})
    with pytest.raises(ModelError, match=rf"^odd: {key} is .* not an object with the entries of that part$"):
        build_model(source, Build())


@pytest.mark.parametrize("name", ["truncate", "text_config", "check_weights"])
def test_a_fault_of_planner_while_a_model_is_built_is_no_fault_of_its_config(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def planted(*_args: Any) -> None:
        raise AttributeError("planted")

    monkeypatch.setattr(build, name, planted)
    with pytest.raises(AttributeError, match="planted"):
        build_model(load_source("qwen3-0.6b"), Build(layers=1))


def test_an_entry_that_each_layer_has_for_itself_is_none_and_any_other_error_surfaces() -> None:
    class Broken:
        @property
        def head_dim(self) -> int:
            raise RuntimeError("no such luck")

    source = ModelSource(name="gemma4", config=json.loads(Path("tests/measured/configs/gemma4.json").read_text()))
    text = text_config(build.model_config(source, Build()))
    assert config_entry(text, "hidden_size") == text.hidden_size
    assert config_entry(text, "no such entry") is None
    assert config_entry(text, "head_dim") is None  # 256 in sliding layers, 512 in full ones
    with pytest.raises(RuntimeError, match="no such luck"):
        config_entry(Broken(), "head_dim")


def test_the_width_of_a_head_is_what_the_config_has_by_that_name_none_too() -> None:
    """compressed_tensors utils/helpers.py get_head_dim falls back only on configs without the attribute."""
    from transformers import CONFIG_MAPPING

    assert not hasattr(CONFIG_MAPPING["gpt_neox"](), "head_dim")
    widths = {family: facts_of(CONFIG_MAPPING[family]()).head_dim for family in ("mixtral", "llama", "gpt_neox")}
    assert widths == {"mixtral": None, "llama": 128, "gpt_neox": 96}


def test_a_composite_config_says_in_its_text_part_alone_how_wide_a_head_is() -> None:
    """compressed_tensors utils/helpers.py get_head_dim asks the config itself, as SpinQuant hands it over."""
    from transformers import CONFIG_MAPPING

    nested = {
        family: facts_of(CONFIG_MAPPING[family]()) for family in ("llama", "mixtral", "qwen2_5_vl", "gemma3", "llava")
    }
    assert [family for family, facts in nested.items() if facts.is_head_dim_nested] == ["qwen2_5_vl", "gemma3", "llava"]
    assert all(facts.head_dim for facts in nested.values() if facts.is_head_dim_nested)
