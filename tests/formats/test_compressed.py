"""compressed-tensors: each scheme beside the library's own compressors, and recipes on real models."""

from typing import Any

import pytest
import torch
from compressed_tensors.compressors.base import compress_module
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES, preset_name_to_scheme
from compressed_tensors.utils import get_direct_state_dict
from transformers import Zamba2Config

from planner.compress.modifiers.mixin import QuantizationMixinSpec
from planner.compress.recipes import load_recipe, recipe_from_dict
from planner.errors import PlannerError, RecipeError, UnsupportedError
from planner.formats.compressed import IGNORE, cache_dtype, formats, parse, store_recipe
from planner.formats.compressed_schemes import describe, module_bytes, module_tensors, storage_of
from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.recipe.files import list_recipes
from planner.recipe.specs import Recipe, Scheme
from planner.serving.model import load_served
from tests.formats.full_size import served, stored
from tests.formats.weight_formats import find_weights

# UNQUANTIZED changes nothing; INT8 is W8A8 again, and a flat width here.
PRESETS = sorted(set(PRESET_SCHEMES) - {"UNQUANTIZED", "INT8"})

INT4: dict[str, Any] = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
INT8: dict[str, Any] = {"num_bits": 8, "type": "int", "strategy": "channel"}
FLOAT8: dict[str, Any] = {"num_bits": 8, "type": "float", "strategy": "tensor"}
GROUPS: dict[str, dict[str, Any]] = {
    "int4 group 32 asymmetric": {"weights": {**INT4, "symmetric": False}},
    "int4 channel asymmetric": {"weights": {**INT4, "strategy": "channel", "group_size": None, "symmetric": False}},
    "int4 tensor asymmetric": {"weights": {**INT4, "strategy": "tensor", "group_size": None, "symmetric": False}},
    "int3 group 64": {"weights": {**INT4, "num_bits": 3, "group_size": 64}},
    "int8 channel asymmetric, int8 tokens": {
        "weights": {**INT8, "symmetric": False},
        "input_activations": {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
    },
    "int8 channel, static asymmetric inputs": {
        "weights": INT8,
        "input_activations": {"num_bits": 8, "type": "int", "strategy": "tensor", "symmetric": False},
    },
    "int12 channel": {"weights": {**INT8, "num_bits": 12}},
    "float8 without activations": {"weights": FLOAT8},
    "float8, static inputs and outputs": {
        "weights": FLOAT8,
        "input_activations": FLOAT8,
        "output_activations": FLOAT8,
    },
    "inputs alone": {"input_activations": FLOAT8},
}
SHAPES = [(256, 512), (130, 256), (64, 1024)]


def real_tensors(scheme: QuantizationScheme, rows: int, columns: int) -> dict[str, int]:
    """Bytes of a Linear's tensors after the library has compressed it."""
    linear = torch.nn.Linear(columns, rows, bias=False, dtype=torch.bfloat16)
    initialize_module_for_quantization(linear, scheme)
    for name, tensor in linear.named_parameters():
        if name.endswith("scale"):
            tensor.data.fill_(1)
    compress_module(linear)
    return {name: t.numel() * t.element_size() for name, t in get_direct_state_dict(linear).items() if t is not None}


def ours(fields: dict[str, Any]) -> Scheme:
    """The same scheme as a recipe reads it."""
    recipe = recipe_from_dict(
        {"a_stage": {"a_modifiers": {"QuantizationModifier": {"targets": ["Linear"], **fields}}}}, "test"
    )
    (spec,) = recipe.modifiers
    assert isinstance(spec, QuantizationMixinSpec)
    return spec.groups[0]


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_stored_as_its_compressor_stores_it(name: str, rows: int, columns: int) -> None:
    scheme = preset_name_to_scheme(name, ["Linear"])
    assert module_tensors(rows, columns, ours({"scheme": name})) == real_tensors(scheme, rows, columns)
    assert storage_of(ours({"scheme": name})) == infer_module_format(torch.nn.Linear, scheme).value


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("name", GROUPS)
def test_a_group_of_a_recipe_is_stored_as_its_compressor_stores_it(name: str, rows: int, columns: int) -> None:
    parts = {part: QuantizationArgs(**args) for part, args in GROUPS[name].items()}
    scheme = QuantizationScheme(targets=["Linear"], **parts)
    group = ours({"config_groups": {"group_0": {"targets": ["Linear"], **GROUPS[name]}}, "targets": ["Linear"]})
    assert module_tensors(rows, columns, group) == real_tensors(scheme, rows, columns)


def test_columns_that_fill_no_whole_word_are_filled_up() -> None:
    # 100 columns of 3 bits are 300 bits: ten int32 a row
    scheme = QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(**{**INT4, "num_bits": 3, "group_size": 100})
    )
    group = ours(
        {"config_groups": {"g": {"targets": ["Linear"], "weights": {**INT4, "num_bits": 3, "group_size": 100}}}}
    )
    assert module_tensors(8, 100, group)["weight_packed"] == 8 * 10 * 4
    assert module_tensors(8, 100, group) == real_tensors(scheme, 8, 100)


def test_a_full_size_matrix_is_stored_as_its_compressor_stores_it() -> None:
    # gate_proj of Llama-3-8B
    scheme = preset_name_to_scheme("W4A16_ASYM", ["Linear"])
    assert module_tensors(14336, 4096, ours({"scheme": "W4A16_ASYM"})) == real_tensors(scheme, 14336, 4096)


def test_floats_of_4_bits_in_other_groups_are_refused_as_the_library_refuses_them() -> None:
    fields = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 64}
    with pytest.raises(NotImplementedError):
        real_tensors(QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**fields)), 64, 128)
    group = ours({"config_groups": {"g": {"targets": ["Linear"], "weights": fields}}})
    with pytest.raises(UnsupportedError, match="groups of 16 or 32"):
        module_bytes(64, 128, group)


def test_every_preset_is_a_format() -> None:
    assert sorted(form.name for form in formats()) == PRESETS


@pytest.mark.parametrize("form", list(formats()), ids=lambda form: form.name)
def test_the_bits_of_a_preset_are_those_of_a_large_matrix(form: Format) -> None:
    assert form.bits is not None
    bits = 8 * module_bytes(28672, 8192, ours({"scheme": form.name})) / (28672 * 8192)
    assert bits == pytest.approx(float(form.bits), abs=0.003)


def test_the_formats_leave_out_what_the_shipped_recipes_leave_out() -> None:
    (spec,) = load_recipe("rtn_w4a16").modifiers
    assert spec.ignore == IGNORE


def test_w4a16_is_what_the_issue_on_its_size_reports() -> None:
    # github.com/vllm-project/llm-compressor/issues/1215: 5,700,595,200 and 9,190,252,544 bytes
    assert stored("llama-3-8b", find_weights("W4A16")).file_bytes == 5_700_595_200
    assert stored("llama-3-8b", find_weights("w4a8")).file_bytes == 9_190_252_544


def test_a_recipe_that_removes_experts_is_the_format_of_another_model() -> None:
    form = parse("reap_25")
    assert form is not None
    with pytest.raises(UnsupportedError, match="leaves a model with 6 experts in each layer"):
        stored("mixtral-8x7b", form)
    with pytest.raises(RecipeError, match="finds no mixture of experts"):
        stored("llama-3-8b", form)


@pytest.mark.parametrize("name", [info.name for info in list_recipes() if not info.name.startswith("reap")])
def test_a_shipped_recipe_is_a_format(name: str) -> None:
    form = parse(name)
    assert form is not None and form.name == name
    found = stored("llama-3-8b", form)
    assert found.elements == served("llama-3-8b").parameters
    assert 0 < found.gpu_bytes <= 2 * served("llama-3-8b").parameters


def test_gptq_and_round_to_nearest_give_checkpoints_of_one_size() -> None:
    sizes = {parse_and_store(name) for name in ("gptq_w4a16", "rtn_w4a16", "recipe:rtn_w4a16")}
    assert sizes == {stored("llama-3-8b", find_weights("W4A16")).file_bytes}


def parse_and_store(name: str, model: str = "llama-3-8b") -> int:
    form = parse(name)
    assert form is not None
    return stored(model, form).file_bytes


def test_a_pruned_model_is_stored_and_served_at_full_size() -> None:
    form = parse("sparsegpt_2of4")
    assert form is not None
    found = stored("llama-3-8b", form)
    assert found.file_bytes == found.gpu_bytes == 2 * served("llama-3-8b").parameters
    assert any("no sparse format" in note for note in found.notes)


def recipe(*modifiers: tuple[str, dict[str, Any]]) -> Recipe:
    stages = {f"m{i}_stage": {"a_modifiers": {kind: fields}} for i, (kind, fields) in enumerate(modifiers)}
    return recipe_from_dict(stages, "test")


HEAD = ["re:.*lm_head"]


def test_pruning_before_quantizing_does_not_change_what_is_quantized() -> None:
    both = recipe(
        ("SparseGPTModifier", {"sparsity": 0.5, "mask_structure": "2:4", "ignore": HEAD}),
        ("GPTQModifier", {"scheme": "W4A16", "ignore": HEAD}),
    )
    assert store_recipe(served("llama-3-8b"), both).file_bytes == 5_700_595_200


def test_a_later_modifier_decides_for_the_modules_that_both_target() -> None:
    down = {"targets": ["re:.*down_proj$"], "scheme": "FP8_DYNAMIC"}
    both = recipe(
        ("QuantizationModifier", {"scheme": "W4A16", "ignore": HEAD}),
        ("QuantizationModifier", down),
    )
    found = {t.weight.name: t.type for t in store_recipe(served("llama-3-8b"), both).tensors}
    assert found["model.layers.0.mlp.down_proj.weight"] == "fp8 channel"
    assert found["model.layers.0.mlp.up_proj.weight"] == "int4 group 128"
    assert found["lm_head.weight"] == "16-bit"


def test_a_static_cache_scheme_adds_two_scales_a_layer() -> None:
    fields: dict[str, Any] = {"scheme": "FP8", "ignore": HEAD}
    cache = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
    without = store_recipe(served("llama-3-8b"), recipe(("QuantizationModifier", fields)))
    scaled = recipe(("QuantizationModifier", {**fields, "kv_cache_scheme": cache}))
    assert store_recipe(served("llama-3-8b"), scaled).file_bytes - without.file_bytes == 32 * 2 * 2


@pytest.mark.parametrize(("kind", "dtype"), [("float", "fp8"), ("int", "int8")])
def test_a_cache_scheme_says_what_keys_and_values_are_kept_as(kind: str, dtype: str) -> None:
    cache = {"num_bits": 8, "type": kind, "strategy": "tensor", "dynamic": False, "symmetric": True}
    scaled = recipe(("QuantizationModifier", {"scheme": "FP8", "ignore": HEAD, "kv_cache_scheme": cache}))
    assert cache_dtype(scaled) == store_recipe(served("llama-3-8b"), scaled).kv_dtype == dtype
    assert stored("llama-3-8b", find_weights("FP8")).kv_dtype is None


def test_what_calibrating_takes_is_no_note_of_a_served_model() -> None:
    cache = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
    scaled = recipe(("QuantizationModifier", {"scheme": "FP8", "ignore": HEAD, "kv_cache_scheme": cache}))
    assert not any("observers" in note for note in store_recipe(served("llama-3-8b"), scaled).notes)


def test_a_tied_head_that_is_quantized_is_stored_beside_the_table() -> None:
    head = store_recipe(
        served("qwen3-0.6b"), recipe(("QuantizationModifier", {"targets": ["lm_head"], "scheme": "W8A8"}))
    )
    # int8 weights and a 16-bit scale a row of the 151936 x 1024 table
    assert head.file_bytes - 2 * served("qwen3-0.6b").parameters == 151936 * 1024 + 2 * 151936


def test_a_table_quantized_for_both_uses_is_stored_once() -> None:
    fields = {"targets": ["lm_head", "model.embed_tokens"], "scheme": "W8A16"}
    found = store_recipe(served("qwen3-0.6b"), recipe(("QuantizationModifier", fields)))
    table = next(t for t in found.tensors if t.weight.unit == "embedding")
    assert table.file_bytes == 151936 * 1024 + 2 * 151936 * 1024 // 128 + 16


@pytest.fixture(scope="module")
def zamba(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """Zamba2-2.7B as transformers' Zamba2Config has it: nine layers share one block of attention and MLP."""
    folder = tmp_path_factory.mktemp("zamba2")
    Zamba2Config().save_pretrained(folder)
    return load_served(str(folder / "config.json"))[0]


@pytest.mark.parametrize("name", ["W4A16", "FP8_BLOCK", "rtn_w4a16"])
def test_a_block_that_layers_share_is_counted_once(zamba: ServedModel, name: str) -> None:
    found = (parse(name) or find_weights(name)).store(zamba)
    assert found.elements == zamba.parameters
    block = {t.weight.layer for t in found.tensors if "shared_transformer.self_attn" in t.weight.name}
    assert block == {6}
    (down,) = (t for t in found.tensors if t.weight.name.endswith("feed_forward.down_proj.weight"))
    assert down.type != "16-bit"
    assert any("192 matrices are the same tensors" in note for note in found.notes)


def test_experts_that_a_recipe_treats_differently_are_counted_one_by_one() -> None:
    first = {"targets": [r"re:.*experts\.0\.down_proj$"], "scheme": "W8A8"}
    found = store_recipe(served("qwen3-30b-a3b"), recipe(("QuantizationModifier", first)))
    down = next(t for t in found.tensors if t.weight.name == "model.layers.0.mlp.experts.*.down_proj.weight")
    assert down.weight.copies == 128
    rows, columns = down.weight.shape
    assert down.file_bytes == 127 * 2 * rows * columns + rows * columns + 2 * rows


def test_what_the_library_refuses_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"W4A16: .* gpt-oss-20b: 128 does not divide 2880"):
        stored("gpt-oss-20b", find_weights("W4A16"))
    with pytest.raises(RecipeError, match="128 does not divide 2880"):
        store_recipe(served("gpt-oss-20b"), load_recipe("rtn_w4a16"))


def test_vision_towers_stay_16_bit() -> None:
    found = stored("qwen2.5-vl-7b", find_weights("FP8_DYNAMIC"))
    assert {t.type for t in found.tensors if t.weight.unit in ("vision", "projector")} == {"16-bit"}


@pytest.mark.parametrize("text", ["Q4_K_M", "exl2:4.0", "w4a17", "no-such-recipe"])
def test_names_of_others_are_left_to_them(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize("text", ["recipe:nothing", "/nowhere/recipe.yaml"])
def test_a_recipe_that_is_not_there_is_an_error(text: str) -> None:
    with pytest.raises(PlannerError, match="no such file"):
        parse(text)


def test_schemes_are_described_in_a_few_words() -> None:
    words = {name: describe(ours({"scheme": name})) for name in ("W4A16", "W4A8", "FP8_BLOCK", "NVFP4", "MXFP8")}
    assert words == {
        "W4A16": "int4 group 128",
        "W4A8": "int4 in int8 group 128",
        "FP8_BLOCK": "fp8 block 128x128",
        "NVFP4": "nvfp4 group 16",
        "MXFP8": "mxfp8 group 32",
    }
