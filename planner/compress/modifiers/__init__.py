"""The registry: every modifier that is modelled, one line each. All else about it is in its own file."""

from collections.abc import Mapping

from planner.compress.context import Context
from planner.compress.modifiers.autoround import AutoRoundSpec
from planner.compress.modifiers.awq import AwqSpec
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.modifiers.masks import ConstantPruningSpec, MagnitudePruningSpec
from planner.compress.modifiers.quip import QuIPSpec
from planner.compress.modifiers.reap import REAPSpec
from planner.compress.modifiers.rtn import QuantizationSpec
from planner.compress.modifiers.smoothquant import LogarithmicEqualizationSpec, SmoothQuantSpec
from planner.compress.modifiers.sparsegpt import SparseGPTSpec
from planner.compress.modifiers.spinquant import SpinQuantSpec
from planner.compress.modifiers.wanda import WandaSpec
from planner.recipe.specs import ModifierSpec

_SPECS: tuple[type[ModifierSpec], ...] = (
    QuantizationSpec,
    GPTQSpec,
    SparseGPTSpec,
    AwqSpec,
    REAPSpec,
    AutoRoundSpec,
    SmoothQuantSpec,
    LogarithmicEqualizationSpec,
    WandaSpec,
    MagnitudePruningSpec,
    ConstantPruningSpec,
    SpinQuantSpec,
    QuIPSpec,
)

MODIFIERS: Mapping[str, type[ModifierSpec]] = {spec.type: spec for spec in _SPECS}
"""By the class names of LLM Compressor under which recipes ask for them."""


def make_model(spec: ModifierSpec, context: Context) -> ModifierModel:
    """The memory model of one modifier; raises UnsupportedError for one that has none."""
    model: ModifierModel = spec.model(context)
    return model
