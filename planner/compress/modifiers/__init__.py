"""The registry: a modifier's record in the recipe -> its memory model, one line each."""

from planner.compress.context import Context
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.gptq import GPTQModel
from planner.compress.modifiers.rtn import QuantizationModel
from planner.compress.modifiers.sparsegpt import SparseGPTModel
from planner.errors import UnsupportedError
from planner.recipe.specs import GPTQSpec, ModifierSpec, QuantizationSpec, SparseGPTSpec


def make_model(spec: ModifierSpec, context: Context) -> ModifierModel:
    """The memory model of one modifier; raises UnsupportedError for one that has none."""
    match spec:
        case GPTQSpec():
            return GPTQModel(context, spec)
        case QuantizationSpec():
            return QuantizationModel(context)
        case SparseGPTSpec():
            return SparseGPTModel(context, spec)
        case _:
            raise UnsupportedError(f"{type(spec).__name__} has no memory model")
