import functools

import pytest
import torch

from planner.job import Build
from planner.models.build import architecture, build_model, parameter_bytes, parameter_count
from planner.models.source import Preset, list_presets, load_source

PRESETS = {preset.name: preset for preset in list_presets()}

# What transformers loads, tied weights once: the published safetensors totals, less what the
# checkpoints hold beside the weights (see `source` in each preset).
PARAMETERS = {
    "command-a-vision": 111_867_525_360,
    "deepseek-r1": 671_026_404_352,
    "gemma-3-27b": 27_432_406_640,
    "gpt-oss-20b": 20_914_757_184,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3.3-70b": 70_553_706_496,
    "llama-4-scout": 108_641_793_536,
    "mistral-7b": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen3-0.6b": 596_049_920,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-32b": 32_762_123_264,
    "qwen3-8b": 8_190_735_360,
}


@functools.cache
def built(name: str) -> torch.nn.Module:
    return build_model(load_source(name), Build())


def persistent_buffers(model: torch.nn.Module) -> int:
    parameters = {id(parameter) for parameter in model.parameters()}
    return sum(t.numel() for t in model.state_dict(keep_vars=True).values() if id(t) not in parameters)


def test_these_are_the_presets() -> None:
    assert sorted(PRESETS) == sorted(PARAMETERS)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_has_exactly_the_published_parameters(preset: Preset) -> None:
    model = built(preset.name)
    assert parameter_count(model) == preset.parameters == PARAMETERS[preset.name]
    assert parameter_bytes(model) == 2 * preset.parameters
    assert [architecture(model)] == preset.config["architectures"]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_checkpoint_holds_what_is_loaded_and_what_is_said_not_to_be(preset: Preset) -> None:
    assert (preset.not_loaded is not None) == (preset.not_loaded_parameters > 0)
    assert "tie_word_embeddings" in preset.config
    assert preset.source
    if preset.checkpoint_parameters is not None:
        loaded = preset.parameters + persistent_buffers(built(preset.name))
        assert preset.checkpoint_parameters == loaded + preset.not_loaded_parameters


def test_only_one_preset_has_no_published_total() -> None:
    assert [preset.name for preset in list_presets() if preset.checkpoint_parameters is None] == ["command-a-vision"]


def test_deepseek_layer_61_makes_up_the_difference_to_the_published_total() -> None:
    model, hidden, vocabulary = built("deepseek-r1"), 7168, 129_280
    moe_layer = parameter_count(model.get_submodule("model.layers.60"))
    assert moe_layer == 11_507_286_016
    assert parameter_count(model.get_submodule("model.layers.0")) == 583_483_392
    joined = 2 * hidden * hidden + 3 * hidden  # eh_proj, enorm, hnorm, shared_head.norm
    copies = 2 * vocabulary * hidden  # embed_tokens, shared_head.head
    correction_biases = 59 * 256
    layer_61 = moe_layer + joined + copies
    assert PRESETS["deepseek-r1"].not_loaded_parameters == layer_61 + 256
    # the FP8 checkpoint: bf16, FP8, and fp32 values without the weight scales
    assert PARAMETERS["deepseek-r1"] + layer_61 == 3_918_786_560 + 680_571_043_840
    assert PRESETS["deepseek-r1"].checkpoint_parameters == 684_489_830_400 + correction_biases


@pytest.mark.parametrize(
    ("name", "module", "parameters"),
    [
        ("llama-3-8b", "model.layers.0", 218_112_000),
        ("qwen3-30b-a3b", "model.layers.0", 623_120_640),
        ("qwen2.5-vl-7b", "model.language_model.layers.0", 233_057_792),
        ("qwen2.5-vl-7b", "model.visual", 676_550_144),
        ("command-a-vision", "model.language_model", 111_057_580_032),
    ],
)
def test_the_parts_of_a_preset_have_their_known_sizes(name: str, module: str, parameters: int) -> None:
    assert parameter_count(built(name).get_submodule(module)) == parameters


def test_presets_are_plain_models() -> None:
    for preset in list_presets():
        assert "quantization_config" not in preset.config
        assert "auto_map" not in preset.config
