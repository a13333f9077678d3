"""Which cards have kernels for a format, as vLLM documents it."""

import pytest

from planner.compress.modifiers.rtn import QuantizationSpec
from planner.compress.recipes import load_recipe
from planner.compress.schema import Support
from planner.formats.compressed import preset_recipe
from planner.recipe.specs import Scheme
from planner.serving.kernels import card_support
from tests import toys

VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL = 70, 75, 80, 89, 90, 100
TOY = toys.Toy()


def schemes(recipe: str) -> list[Scheme]:
    return [group for spec in load_recipe(recipe).modifiers for group in getattr(spec, "groups", ())]


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


def test_a_format_that_no_documentation_speaks_of_is_not_known() -> None:
    (spec,) = preset_recipe("MXFP4", TOY.graph).modifiers
    assert isinstance(spec, QuantizationSpec)
    found = card_support(spec.groups, BLACKWELL)
    assert found is not None
    assert (found.support, found.format) == ("not known", "mxfp4-pack-quantized")
    both = card_support([*schemes("gptq_w4a16"), *spec.groups], AMPERE)
    assert both == found
