"""Recipes: what LLM Compressor makes of them, and one clear line where it would refuse."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner import upstream
from planner.compress.modifiers import MODIFIERS
from planner.compress.modifiers.awq import AwqSpec
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.modifiers.quip import QuIPSpec
from planner.compress.modifiers.reap import REAPSpec
from planner.compress.modifiers.smoothquant import SmoothQuantSpec
from planner.compress.modifiers.sparsegpt import SparseGPTSpec
from planner.compress.modifiers.spinquant import SpinQuantSpec
from planner.compress.modifiers.wanda import WandaSpec
from planner.compress.recipes import load_recipe, recipe_from_dict
from planner.errors import PlannerError, RecipeError, UnsupportedError
from planner.notes import Note
from planner.recipe.files import list_recipes
from planner.recipe.observers import OBSERVERS
from planner.recipe.specs import ModifierSpec, QuantArgs, Scheme

DATA = Path(__file__).parent.parent / "data" / "recipes"
RECORDED = json.loads((DATA / "resolved.json").read_text())
SHIPPED = (
    "autoround_w4a16",
    "awq_w4a16",
    "awq_w4a16_asym",
    "gptq_w4a16",
    "gptq_w8a8",
    "quip_w4a16",
    "reap_25",
    "rtn_fp8_dynamic",
    "rtn_fp8_kv_cache",
    "rtn_nvfp4",
    "rtn_w4a16",
    "rtn_w4a16_imatrix",
    "rtn_w8a8_static",
    "smoothquant_w8a8",
    "sparsegpt_2of4",
    "sparsegpt_50",
    "spinquant_w4a16",
    "wanda_2of4",
    "wanda_50",
)


def one(kind: str, **fields: Any) -> dict[str, Any]:
    return {"quant_stage": {"quant_modifiers": {kind: fields}}}


def parse(kind: str, **fields: Any) -> Any:
    (spec,) = recipe_from_dict(one(kind, **fields), "my.yaml").modifiers
    return spec


def refusal(data: dict[str, Any], error: type[PlannerError] = RecipeError) -> str:
    with pytest.raises(error) as caught:
        recipe_from_dict(data, "my.yaml")
    return str(caught.value)


class TestAgreesWithLLMCompressor:
    """resolved.json is what the real library says (tests/data/recipes/dump.py)."""

    @pytest.mark.parametrize("name", RECORDED["recipes"])
    def test_every_recorded_recipe_is_resolved_alike(self, name: str) -> None:
        recipe = load_recipe(name if name in SHIPPED else str(DATA / f"{name}.yaml"))
        assert [as_recorded(spec) for spec in recipe.modifiers] == RECORDED["recipes"][name]

    def test_its_modifiers_and_observers_are_known_by_name(self) -> None:
        assert set(upstream.MODIFIERS) == set(RECORDED["registries"]["modifiers"])
        assert MODIFIERS.keys() <= set(upstream.MODIFIERS)
        assert sorted(OBSERVERS) == RECORDED["registries"]["observers"]


class TestShippedRecipes:
    def test_there_is_one_for_each_common_job_with_a_word_about_it(self) -> None:
        infos = list_recipes()
        assert tuple(info.name for info in infos) == SHIPPED
        assert all(20 < len(info.summary) < 120 and info.summary.endswith(".") for info in infos)
        assert all(info.path.read_text().startswith(f"# {info.summary}") for info in infos)

    def test_a_name_and_its_path_are_the_same_recipe(self) -> None:
        for info in list_recipes():
            assert load_recipe(info.path).modifiers == load_recipe(str(info.path)).modifiers != ()
            assert load_recipe(info.name).name == info.name
            assert load_recipe(info.name).notes == ()

    def test_only_the_data_free_ones_need_no_data(self) -> None:
        free = [n for n in SHIPPED if not load_recipe(n).modifiers[0].requires_calibration_data]
        assert free == ["quip_w4a16", "rtn_fp8_dynamic", "rtn_w4a16", "spinquant_w4a16"]

    def test_listing_them_needs_neither_torch_nor_a_second(self) -> None:
        imports = "import sys, planner.recipe.files as r, planner.compress.recipes"
        code = f"{imports}; r.list_recipes(); print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"

    def test_the_folder_beside_the_package_serves_when_nothing_is_installed_in_it(self) -> None:
        assert list_recipes()[0].path.parent.name == "recipes"


class TestForms:
    """Everything that create_instance reads."""

    def test_yaml_json_markdown_and_text_say_the_same(self, tmp_path: Path) -> None:
        data = one("GPTQModifier", scheme="W4A16", targets=["Linear"])
        text = yaml.safe_dump(data)
        written = {
            "a.yaml": text,
            "a.yml": text,
            "a.json": json.dumps(data),
            "a.recipe": json.dumps(data),
            "noext": text,
            "card.md": f"---\n{text}---\n# A model card\n",
        }
        for name, content in written.items():
            (tmp_path / name).write_text(content)
            (spec,) = load_recipe(str(tmp_path / name)).modifiers
            assert spec.where == f"{tmp_path / name}: quant_stage.quant_modifiers.GPTQModifier"
            assert spec.groups == parse("GPTQModifier", scheme="W4A16").groups
        assert load_recipe(text).name == "recipe text"

    def test_modifiers_of_all_stages_and_groups_run_in_the_order_of_the_file(self) -> None:
        sparse = {"SparseGPTModifier": {"sparsity": 0.5}}
        data = {
            "b_stage": {"z_modifiers": sparse, "a_modifiers": {"GPTQModifier": {"scheme": "W4A16"}}},
            "a_stage": {"m_modifiers": {"QuantizationModifier": {"scheme": "FP8"}}},
            "args": {"sparsity": 0.5},
        }
        recipe = recipe_from_dict(data, "x")
        assert [spec.type for spec in recipe.modifiers] == ["SparseGPTModifier", "GPTQModifier", "QuantizationModifier"]
        assert recipe.notes == ()

    def test_what_the_library_passes_over_in_silence_is_told(self) -> None:
        data = one("GPTQModifier", scheme="W4A16") | {"quant_stage_1": {}, "b_stage": [1]}
        data["quant_stage"] |= {"run_type": "oneshot", "c_modifiers": ["AWQModifier"]}
        assert recipe_from_dict(data, "my.yaml").notes == tuple(
            Note(kind="recipe", text=f"my.yaml: {text}")
            for text in (
                "quant_stage.run_type is not heeded: LLM Compressor reads keys that end in _modifiers",
                "quant_stage.c_modifiers is not heeded: it is not a mapping",
                "quant_stage_1 is not heeded: LLM Compressor reads keys that end in _stage",
                "b_stage is not heeded: it is not a mapping",
            )
        )

    def test_targets_that_its_groups_overrule_are_told(self) -> None:
        groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8}}}
        data = one("QuantizationModifier", targets=["re:.*mlp"], config_groups=groups)
        (note,) = recipe_from_dict(data, "my.yaml").notes
        where = "my.yaml: quant_stage.quant_modifiers.QuantizationModifier"
        assert note.text == f"{where}.targets is not heeded (re:.*mlp): its groups name their own"
        (note,) = recipe_from_dict(one("QuantizationModifier", ignore=["lm_head"]), "my.yaml").notes
        assert note.text == f"{where} quantizes nothing: it has neither scheme nor config_groups"


class TestGPTQ:
    def test_actorder_is_static_unless_something_else_is_said(self) -> None:
        assert parse("GPTQModifier", scheme="W4A16").groups[0].weights.actorder == "static"
        assert parse("GPTQModifier", scheme="W4A16", actorder=None).groups[0].weights.actorder is None
        assert parse("GPTQModifier", scheme="W4A16", actorder="weight").groups[0].weights.actorder == "weight"

    @pytest.mark.parametrize(("own", "of_group"), [("static", "weight"), ("weight", "static"), (None, "weight")])
    def test_a_contradicting_actorder_is_refused(self, own: str | None, of_group: str) -> None:
        groups = {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 128, "actorder": of_group}}}
        message = refusal(one("GPTQModifier", actorder=own, config_groups=groups))
        assert message.startswith("my.yaml: quant_stage.quant_modifiers.GPTQModifier.actorder: ")
        assert message.endswith(f"{own} contradicts {of_group} in config_groups.g.weights.actorder; leave one out")

    def test_without_weights_to_quantize_there_is_nothing_to_do(self) -> None:
        assert "give scheme or config_groups" in refusal(one("GPTQModifier"))
        assert "give scheme or config_groups" in refusal(one("GPTQModifier", targets="Linear"))

    def test_an_earlier_modifier_s_scheme_is_enough_but_not_under_targets_or_ignores_of_its_own(self) -> None:
        data = one("QuantizationModifier", scheme="W4A16")
        modifiers = data["quant_stage"]["quant_modifiers"]
        modifiers["GPTQModifier"] = {"block_size": 64}
        assert not recipe_from_dict(data, "my.yaml").modifiers[1].has_config
        modifiers["GPTQModifier"] = {"ignore": ["lm_head"]}
        assert "replaces the earlier modifier's scheme by an empty one" in refusal(data)
        modifiers["QuantizationModifier"] = {"kv_cache_scheme": {"num_bits": 8}}
        assert "give scheme or config_groups" in refusal(data)

    def test_without_data_it_is_beyond_planner(self) -> None:
        data = one("GPTQModifier", scheme="W4A16", requires_calibration_data=False)
        assert "with calibration data only" in refusal(data, UnsupportedError)


PATH = "my.yaml: quant_stage.quant_modifiers"
WEIGHTS = {"num_bits": 4, "group_size": 128}


def grouped(**weights: Any) -> dict[str, Any]:
    return one("GPTQModifier", config_groups={"group_0": {"targets": ["Linear"], "weights": weights}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (one("GPTQModifier", blok_size=1), "GPTQModifier.blok_size: unknown field; did you mean block_size?"),
        (one("GPTQModifier", group="x"), "GPTQModifier.group: unknown field; it has index"),
        (one("GPTQModifer", scheme="W4A16"), "no such modifier; did you mean GPTQModifier? it has Quan"),
        (one("GPTQModifier", scheme="W4A61"), "GPTQModifier.scheme: unknown scheme W4A61; did you mean W4A16?"),
        (one("GPTQModifier", scheme={"X": "Linear"}), "GPTQModifier.scheme: unknown scheme X; presets: "),
        (one("GPTQModifier", scheme=4), "GPTQModifier.scheme: must be a preset name or a mapping"),
        (one("GPTQModifier", scheme={"FP8": 3}), "GPTQModifier.scheme.FP8.targets: Input should be a valid list"),
        (one("GPTQModifier", scheme="FP8", config_groups={}), "GPTQModifier: give either scheme or config_groups"),
        (one("GPTQModifier", scheme="FP8", targets=[]), "GPTQModifier.scheme.FP8.targets: is empty"),
        (one("GPTQModifier", scheme="FP8", ignore="lm_head"), "GPTQModifier.ignore: Input should be a valid list"),
        (one("GPTQModifier", scheme="FP8", ignore=["re:*x"]), "GPTQModifier.ignore: re:*x is not a regular expression"),
        (one("GPTQModifier", scheme="FP8", ignore=[1]), "GPTQModifier.ignore[0]: Input should be a valid string"),
        (
            one("GPTQModifier", scheme="FP8", actorder="group"),
            "actorder: group was removed in compressed-tensors 0.19; take st",
        ),
        (
            grouped(**WEIGHTS, actorder="group"),
            "weights.actorder: group was removed in compressed-tensors 0.19; take static",
        ),
        (
            grouped(**WEIGHTS, observer="imatrix_mse", observer_kwargs={"grid": 0}),
            "grid: 0 is not what imatrix_mse takes",
        ),
        (
            grouped(**WEIGHTS, observer="mse", observer_kwargs={"expand": 0.5}),
            "expand: 0.5 is not what memoryless_mse takes",
        ),
        (
            grouped(num_bits=8, strategy="tensor", observer="imatrix_mse", observer_kwargs={"strict": True}),
            "observer_kwargs.strict: imatrix_mse weighs the errors of channel, group, tensor_group alone",
        ),
        (one("IMatrixGatherer"), "0.14.0.1 has it no more; the observer imatrix_mse gathers what it needs itself"),
        (one("GPTQModifier", scheme="FP8", actorder="any"), "GPTQModifier.actorder: any is not one of static, weight"),
        (one("GPTQModifier", scheme="FP8", block_size=0), "GPTQModifier.block_size: Input should be greater"),
        (one("GPTQModifier", scheme="FP8", batched_quantization=0), "GPTQModifier.batched_quantization: must be auto"),
        (one("GPTQModifier", scheme="FP8", batched_quantization=True), "GPTQModifier.batched_quantization: must be"),
        (one("GPTQModifier", scheme="FP8", dampening_frac="eval(x)"), "GPTQModifier.dampening_frac: Input should be"),
        (one("GPTQModifier", scheme="FP8", weight_observer="mss"), "weights: unknown observer mss; did you mean mse?"),
        (one("GPTQModifier", scheme="FP8", observer={"wights": "mse"}), "GPTQModifier.observer.wights: unknown key"),
        (
            one("GPTQModifier", scheme="FP8", observer={}, weight_observer="mse"),
            "GPTQModifier: give either observer or weight_observer",
        ),
        (one("GPTQModifier", config_groups={"g": ["Linear"]}), "GPTQModifier.config_groups.g: must be a mapping"),
        (one("GPTQModifier", config_groups={"g": {}}), "GPTQModifier.config_groups.g.targets: Field required"),
        (grouped(num_bit=4), "config_groups.group_0.weights.num_bit: unknown field; did you mean num_bits?"),
        (grouped(num_bits=0), "config_groups.group_0.weights.num_bits: 0: type int takes 1 to 32"),
        (grouped(num_bits="four"), "config_groups.group_0.weights.num_bits: Input should be a valid integer"),
        (grouped(type="flot"), "weights.type: flot is not one of int, float; did you mean float?"),
        (grouped(type="float", num_bits=16), "weights: compressed-tensors refuses it: Only num_bits in (8)"),
        (grouped(strategy="chanel"), "weights.strategy: chanel is not one of tensor, channel, group"),
        (grouped(strategy="group"), "weights: strategy group requires group_size"),
        (grouped(strategy="attn_head"), "weights: a Linear cannot have the strategy attn_head here"),
        (grouped(group_size="128"), "weights.group_size: must be a number, without quotes"),
        (grouped(group_size=-2), "weights.group_size: Invalid group size -2"),
        (grouped(scale_dtype="fp9"), "weights.scale_dtype: No such torch dtype `torch.fp9`"),
        (grouped(actorder="group"), "weights.actorder: group was removed in compressed-tensors 0.19"),
        (grouped(observer_kwargs={"grid": "x"}), "weights.observer_kwargs.grid: must be a number"),
        (grouped(dynamic=True), "weights.dynamic: GPTQ needs fixed weight scales"),
        (one("QuantizationModifier"), "QuantizationModifier: does not say what to quantize; give scheme"),
        (one("QuantizationModifier", weight_observer="mse"), "QuantizationModifier: does not say what to quantize"),
        (one("QuantizationModifier", scheme="W8A8", block_size=1), "QuantizationModifier.block_size: unknown field"),
        (one("QuantizationModifier", kv_cache_scheme={"bits": 8}), "kv_cache_scheme.bits: unknown field; did you mean"),
        (one("QuantizationModifier", kv_cache_scheme=8), "kv_cache_scheme: must be a mapping of fields, not 8"),
        (one("SparseGPTModifier"), "SparseGPTModifier.sparsity: Field required"),
        (one("SparseGPTModifier", sparsity=50), "SparseGPTModifier.sparsity: must be a share of the weights"),
        (one("SparseGPTModifier", sparsity=None), "SparseGPTModifier.sparsity: must be a share of the weights"),
        (one("SparseGPTModifier", sparsity=1), "SparseGPTModifier.sparsity: 1 would prune every weight"),
        (one("SparseGPTModifier", sparsity=0.5, mask_structure=124), "mask_structure: must stand in quotes, '2:4'"),
        (one("SparseGPTModifier", sparsity=0.5, mask_structure="4:2"), "mask_structure: must be N:M with N no larger"),
        (one("SparseGPTModifier", sparsity=0.5, targets="Linear"), "targets: must be a list here, like [Linear]"),
        (one("SparseGPTModifier", sparsity=0.5, sparsity_profile="cat"), "sparsity_profile can only be owl"),
        (one("SparseGPTModifier", sparsity=0.5, owl_m=5), "owl_m and owl_lmbda go together"),
    ],
)
def test_a_bad_field_is_named_by_its_path_with_the_way_out(data: dict[str, Any], message: str) -> None:
    told = refusal(data)
    assert message in told
    assert told.startswith(PATH)
    assert "\n" not in told


class TestBeyondPlanner:
    @pytest.mark.parametrize("name", sorted(set(upstream.MODIFIERS) - set(MODIFIERS)))
    def test_modifiers_that_planner_does_not_model_yet_say_so(self, name: str) -> None:
        told = refusal(one(name), UnsupportedError)
        assert told == (f"{PATH}.{name}: planner does not model {name} yet; it models {', '.join(MODIFIERS)}")

    def test_observers_from_files_say_so(self) -> None:
        data = one("QuantizationModifier", scheme="FP8", weight_observer="my.py:Mine")
        assert "observers from files" in refusal(data, UnsupportedError)


def rotating(spec: QuIPSpec) -> dict[str, Any]:
    """The fields that its own groups are made of."""
    first = spec.transforms[0]
    return {
        "rotations": [each.name for each in spec.transforms],
        "transform_type": first.type,
        "transform_block_size": first.block,
        "targets": list(first.apply[0].targets),
        "ignore": list(first.apply[0].ignore),
    }


def as_recorded(spec: ModifierSpec) -> dict[str, Any]:
    """The record in the words of dump.py."""
    if isinstance(spec, SmoothQuantSpec):
        return smoothing(spec)
    if isinstance(spec, AwqSpec):
        kept = ("type", "requires_calibration_data", "mappings", "duo_scaling", "n_grid")
        return {name: getattr(spec, name) for name in kept}
    data: dict[str, Any] = {
        "type": spec.type,
        "requires_calibration_data": spec.requires_calibration_data,
        "ignore": list(getattr(spec, "ignore", ())),
    }
    if isinstance(spec, SpinQuantSpec):
        kept = ("type", "requires_calibration_data", "transform_type", "transform_block_size")
        return {name: getattr(spec, name) for name in kept} | {"rotations": list(spec.rotations)}
    if isinstance(spec, QuIPSpec):
        return {"type": spec.type, "requires_calibration_data": spec.requires_calibration_data} | rotating(spec)
    if isinstance(spec, WandaSpec):
        kept = ("sparsity", "targets", "ignore", "prune_n", "prune_m")
        return {**{name: getattr(spec, name) for name in kept}, **data} | {"targets": list(spec.targets)}
    if isinstance(spec, SparseGPTSpec):
        kept = ("sparsity", "block_size", "dampening_frac", "preserve_sparsity_mask", "offload_hessians")
        data |= {name: getattr(spec, name) for name in (*kept, "prune_n", "prune_m")}
        return data | {"targets": list(spec.targets)}
    if isinstance(spec, REAPSpec):
        return data | {"sparsity": spec.sparsity}
    data |= {"groups": [recorded_scheme(group) for group in spec.groups]}
    data |= {"kv_cache": recorded_args(spec.kv_cache), "bypass": spec.bypass_divisibility_checks}
    if isinstance(spec, GPTQSpec):
        kept = ("block_size", "dampening_frac", "batched_quantization")
        data |= {name: getattr(spec, name) for name in kept}
    return data


def smoothing(spec: SmoothQuantSpec) -> dict[str, Any]:
    kept = ("type", "requires_calibration_data", "smoothing_strength", "algorithm")
    mappings = spec.mappings and [[list(each.balance), each.smooth] for each in spec.mappings]
    return {**{name: getattr(spec, name) for name in kept}, "mappings": mappings, "ignore": list(spec.ignore) or None}


def recorded_scheme(group: Scheme) -> dict[str, Any]:
    parts = ("weights", "input_activations", "output_activations")
    return {"targets": list(group.targets), **{part: recorded_args(getattr(group, part)) for part in parts}}


def recorded_args(args: QuantArgs | None) -> dict[str, Any] | None:
    if args is None:
        return None
    kept = ("num_bits", "type", "symmetric", "strategy", "group_size", "dynamic", "actorder", "observer")
    return {
        **{name: getattr(args, name) for name in kept},
        "block_structure": args.block_structure and list(args.block_structure),
        "observer_kwargs": dict(args.observer_kwargs),
        "scale_dtype": args.scale_dtype and f"torch.{args.scale_dtype}",
        "zp_dtype": f"torch.{args.zp_dtype}",
    }
