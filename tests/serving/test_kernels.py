"""Which cards have kernels for a format, as vLLM documents it."""

from dataclasses import replace

import pytest

from planner.compress.modifiers.rtn import QuantizationSpec
from planner.compress.recipes import load_recipe
from planner.compress.schema import Support
from planner.formats.compressed import preset_recipe
from planner.recipe.specs import Scheme
from planner.serving.kernels import card_support
from tests import toys
from tests.recipe.matched import weights

VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL = 70, 75, 80, 89, 90, 100
TOY = toys.Toy()


def schemes(recipe: str) -> list[Scheme]:
    return [group for spec in load_recipe(recipe).modifiers for group in getattr(spec, "groups", ())]


def of_preset(name: str) -> tuple[Scheme, ...]:
    (spec,) = preset_recipe(name, TOY.graph).modifiers
    assert isinstance(spec, QuantizationSpec)
    return spec.groups


@pytest.mark.parametrize(
    ("recipe", "sm", "support"),
    [
        ("gptq_w4a16", VOLTA, "no"),
        ("gptq_w4a16", TURING, "yes"),
        ("gptq_w4a16", AMPERE, "yes"),
        ("gptq_w4a16", BLACKWELL, "yes"),
        ("rtn_w8a8_static", TURING, "yes"),
        ("rtn_w8a8_static", HOPPER, "yes"),
        ("rtn_w8a8_static", BLACKWELL, "no"),
        ("rtn_fp8_dynamic", TURING, "weights alone"),
        ("rtn_fp8_dynamic", ADA, "yes"),
        ("rtn_nvfp4", HOPPER, "weights alone"),
        ("rtn_nvfp4", BLACKWELL, "yes"),
        ("rtn_nvfp4", VOLTA, "no"),
    ],
)
def test_a_card_runs_the_formats_that_vllm_documents(recipe: str, sm: int, support: Support) -> None:
    found = card_support(schemes(recipe), sm)
    assert found is not None
    assert found.support == support
    assert found.source


def test_nothing_is_said_where_nobody_named_a_card_or_nothing_is_quantized() -> None:
    assert card_support(schemes("gptq_w4a16"), None) is None
    assert card_support(schemes("sparsegpt_2of4"), AMPERE) is None


def test_the_format_with_the_least_support_decides() -> None:
    both = card_support([*schemes("rtn_fp8_dynamic"), *schemes("gptq_w4a16")], TURING)
    assert both is not None
    assert (both.support, both.format) == ("weights alone", "FP8 W8A8")


def test_a_no_counts_for_more_than_what_is_not_known() -> None:
    both = card_support([*schemes("rtn_w8a8_static"), *of_preset("MXFP4")], BLACKWELL)
    assert both is not None
    assert (both.support, both.format) == ("no", "INT8 W8A8")


INT8, DYNAMIC = weights(8, "channel"), replace(weights(8, "token"), dynamic=True)


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(targets=("Linear",), weights=replace(INT8, symmetric=False), input_activations=DYNAMIC),
        Scheme(targets=("Linear",), weights=weights(8, "group", 128), input_activations=DYNAMIC),
        Scheme(targets=("Linear",), weights=weights(4, "channel"), input_activations=DYNAMIC),
        Scheme(targets=("Linear",), weights=INT8, input_activations=replace(DYNAMIC, num_bits=4)),
        Scheme(targets=("Linear",), weights=INT8, input_activations=replace(DYNAMIC, dynamic=False)),
        Scheme(targets=("Linear",), weights=INT8, input_activations=DYNAMIC, output_activations=DYNAMIC),
        Scheme(targets=("Linear",), weights=weights(4, "tensor")),
        Scheme(targets=("Linear",), weights=replace(INT8, type="float")),
    ],
)
def test_a_scheme_that_vllm_makes_nothing_of_is_not_known(scheme: Scheme) -> None:
    found = card_support([scheme], HOPPER)
    assert found is not None
    assert found.support == "not known"


@pytest.mark.parametrize(
    ("preset", "sm", "support", "format_"),
    [
        ("NVFP4A16", TURING, "yes", "NVFP4A16"),
        ("FP8_BLOCK", ADA, "yes", "FP8 W8A8"),
        ("W4A16_ASYM", AMPERE, "yes", "integer weights (W4A16, W8A16)"),
        ("W8A8", AMPERE, "yes", "INT8 W8A8"),
        ("W4AFP8", HOPPER, "not known", "int-quantized"),
    ],
)
def test_preset_schemes_run_where_vllm_takes_them(preset: str, sm: int, support: Support, format_: str) -> None:
    found = card_support(of_preset(preset), sm)
    assert found is not None
    assert (found.support, found.format) == (support, format_)


def test_a_format_that_no_documentation_speaks_of_is_not_known() -> None:
    groups = of_preset("MXFP4")
    found = card_support(groups, BLACKWELL)
    assert found is not None
    assert (found.support, found.format) == ("not known", "mxfp4-pack-quantized")
    both = card_support([*schemes("gptq_w4a16"), *groups], AMPERE)
    assert both == found
