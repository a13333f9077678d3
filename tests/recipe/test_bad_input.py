"""Files that are no recipe: one clear line each, and nothing else whatever the bytes are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.compress.modifiers.mixin import QuantizationMixinSpec
from planner.compress.recipes import load_recipe, recipe_from_dict
from planner.errors import PlannerError, RecipeError
from planner.recipe.files import MAX_BYTES


def refusal(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; a recipe maps *_stage to *_modifiers"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "is not a recipe but a list"),
        ("just words\n", "is not a recipe but a line of text"),
        ("a: [b\n", "is not YAML in line 2: expected ',' or ']'"),
        ("a: 1\nb: c: d\n", "is not YAML in line 2: mapping values are not allowed here"),
        ("a: 2020-99-99\n", "is not YAML: month must be in 1..12"),
        ("a: !!python/object/apply:os.system [ls]\n", "has a Python tag in line 1"),
        ("a: &a [*a]\n", "has an alias that contains itself in line 1"),
        ("a: 1\na: 2\n", "'a' appears twice in one mapping (line 2)"),
        ("[" * 5000, "is not YAML: maximum recursion depth"),
        ("a: \x00\n", "is not YAML"),
        ("model_type: llama\n", "holds no modifier; model_type is not heeded"),
        ("quant_stage: {quant_modifiers: {}}\n", "holds no modifier; a recipe looks like {quant_stage:"),
        ("quant_stage: {quant_modifiers: {GPTQModifier: }}\n", "GPTQModifier: has no fields"),
        ("quant_stage: {quant_modifiers: {GPTQModifier: 4}}\n", "GPTQModifier: must be a mapping of fields, not 4"),
        ("quant_stage: {quant_modifiers: {GPTQModifier: {1: 2}}}\n", "GPTQModifier[1]: Keys should be strings"),
        ("quant_stage: {quant_modifiers: {1: {}}}\n", "quant_stage.quant_modifiers: the key 1 must be a text"),
        ("1: 2\n", "the key 1 must be a text"),
        ("args: 3\n", "args: must be a mapping"),
    ],
)
def test_one_line_says_what_is_wrong_and_where(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    told = refusal(str(path))
    assert told.startswith(str(path))
    assert message in told
    assert "\n" not in told


def test_json_has_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    for content, message in [("{a: 1}", "is not JSON"), ('{"a": 1, "a": 2}', "a key appears twice"), (" ", "is empty")]:
        path.write_text(content)
        assert message in refusal(str(path))


def test_a_card_without_front_matter_is_told(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# A model\n")
    assert "no recipe between two --- lines" in refusal(str(tmp_path / "README.md"))


def test_files_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    assert "no such file or shipped recipe; did you mean gptq_w4a16? shipped: autoround_w4a16, awq_w4a16" in refusal(
        "gptq_w4a61"
    )
    assert "did you mean gptq_w8a8?" in refusal("gptq_w8a8.yaml")
    assert "no recipe is named; shipped: autoround_w4a16" in refusal("")
    assert "is a folder" in refusal(str(tmp_path))
    assert "is not a regular file" in refusal("/dev/zero")
    assert "cannot be read" in refusal("x" * 5000)
    assert refusal("a\0b").startswith("a b: ")
    (tmp_path / "image.yaml").write_bytes(bytes(range(256)))
    assert "is not text (UTF-8)" in refusal(str(tmp_path / "image.yaml"))
    (tmp_path / "huge.yaml").write_bytes(b"a" * (MAX_BYTES + 1))
    assert "is larger than" in refusal(str(tmp_path / "huge.yaml"))


@pytest.mark.parametrize("step", ["[*{0}, *{0}, *{0}, *{0}]", "{{<<: [*{0}, *{0}], k{1}: *{0}}}"])
def test_aliases_that_would_fill_the_memory_are_refused_before_they_are_unfolded(step: str) -> None:
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{i + 1}: &a{i + 1} " + step.format(f"a{i}", i) for i in range(40)]
    assert "holds more than 200000 values" in refusal("\n".join(lines) + "\n")


def test_honest_aliases_work() -> None:
    text = (
        "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      config_groups:\n"
        "        a: &a {targets: [re:a], weights: &w {num_bits: 8, strategy: channel}}\n"
        "        b: {<<: *a, targets: [re:b]}\n        c: {targets: [re:c], weights: *w}\n"
    )
    (spec,) = load_recipe(text).modifiers
    assert isinstance(spec, QuantizationMixinSpec)
    assert [group.targets for group in spec.groups] == [("re:a",), ("re:b",), ("re:c",)]
    assert len({group.weights for group in spec.groups}) == 1


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        *("scheme", "targets", "ignore", "config_groups", "actorder", "block_size", "observer", "weight_observer"),
        *("kv_cache_scheme", "sparsity", "mask_structure", "sparsity_profile", "dampening_frac", "start", "owl_m"),
    ]
)
VALUES = JUNK | st.sampled_from(["W4A16", "FP8", "Linear", "re:(", ["Linear"], "mse", 128, 0.5, "2:4", "owl", -1])
KINDS = st.sampled_from(["GPTQModifier", "QuantizationModifier", "SparseGPTModifier", "AWQModifier", "X"])
QUANTIZERS = st.sampled_from(["GPTQModifier", "QuantizationModifier"])
ARGUMENTS = {
    "num_bits": st.sampled_from([4, 8, 0, "4", 16, None]),
    "type": st.sampled_from(["int", "float", "FLOAT", "x", 3]),
    "strategy": st.sampled_from(["tensor", "channel", "group", "block", "token", "tensor_group", "attn_head", "x", 0]),
    "group_size": st.sampled_from([128, -1, 0, -5, "128", 1.5, None, [1]]),
    "block_structure": st.sampled_from([[128, 128], "64x64", [1], "x", 3, None]),
    "dynamic": st.sampled_from([True, False, "local", "x", None]),
    "symmetric": st.booleans() | JUNK,
    "actorder": st.sampled_from(["static", "weight", "group", True, False, None, 3, []]),
    "observer": st.sampled_from(["minmax", "mse", "x", "", None, 3]),
    "observer_kwargs": st.sampled_from([{}, {"grid": 3}, {"grid": "x"}, {"grid": float("nan")}, 3, None]),
    "scale_dtype": st.sampled_from(["float8_e4m3fn", "torch.uint8", "nn", 3, None]),
    "zp_dtype": st.sampled_from(["int8", "x", None]),
}


def load_quietly(text: str) -> None:
    try:
        load_recipe(text)
    except PlannerError as error:
        assert "\n" not in str(error)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), suffix=st.sampled_from([".yaml", ".json", ".md", ""]))
def test_no_bytes_make_it_raise_anything_but_its_own_errors(
    data: bytes, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("junk") / f"junk{suffix}"
    path.write_bytes(data)
    load_quietly(str(path))
    shutil.rmtree(path.parent)


MARKS = st.lists(st.sampled_from(list("{}[]:,&*a!<>|-?#'\"\n %@`0")), max_size=40).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60) | MARKS)
def test_no_text_makes_it_raise_anything_but_its_own_errors(text: str) -> None:
    load_quietly("a_stage:\n  " + text)


@settings(max_examples=300, deadline=None)
@given(kind=KINDS, fields=st.dictionaries(FIELDS, VALUES, max_size=4) | VALUES)
def test_no_fields_make_it_raise_anything_but_its_own_errors(kind: str, fields: Any) -> None:
    load_quietly(json.dumps({"a_stage": {"b_modifiers": {kind: fields}}}) + "\n")


@settings(max_examples=300, deadline=None)
@given(
    kind=QUANTIZERS,
    weights=st.fixed_dictionaries({}, optional=ARGUMENTS),
    inputs=st.none() | st.fixed_dictionaries({}, optional=ARGUMENTS),
    fields=st.fixed_dictionaries({}, optional={"actorder": ARGUMENTS["actorder"], "weight_observer": VALUES}),
)
def test_no_arguments_make_it_raise_anything_but_its_own_errors(
    kind: str, weights: dict[str, Any], inputs: dict[str, Any] | None, fields: dict[str, Any]
) -> None:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    data = {"a_stage": {"b_modifiers": {kind: {"config_groups": {"g": group}, **fields}}}}
    try:
        (spec,) = recipe_from_dict(data, "x").modifiers
    except PlannerError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(spec, QuantizationMixinSpec)
        assert spec.groups[0].weights is not None
