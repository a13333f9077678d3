"""What a recipe asks for, as plain records: the simulation reads these and never the YAML.

The words are those of LLM Compressor and compressed-tensors. `planner.recipe.load` makes them.
"""

from dataclasses import dataclass, field
from typing import Literal

Strategy = Literal["tensor", "channel", "group", "block", "token", "tensor_group", "attn_head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantArgs:
    """compressed-tensors' QuantizationArgs, as resolved (presets expanded, observers filled in)."""

    num_bits: int
    type: Literal["int", "float"]
    symmetric: bool
    strategy: Strategy
    group_size: int | None = None
    block_structure: tuple[int, int] | None = None
    dynamic: bool | Literal["local"] = False
    actorder: Literal["group", "weight", "static"] | None = None
    observer: str | None = None
    observer_kwargs: tuple[tuple[str, float], ...] = ()
    scale_dtype: str | None = None
    """torch dtype name without `torch.`, e.g. `float8_e4m3fn`; None: the weight's own dtype."""
    zp_dtype: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """One config group: what it quantizes and how."""

    targets: tuple[str, ...]
    weights: QuantArgs | None = None
    input_activations: QuantArgs | None = None
    output_activations: QuantArgs | None = None
    where: str = field(default="", compare=False)
    """Path of the group in the recipe file, for error messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSpec:
    """QuantizationModifier, and the part of GPTQModifier that it shares (QuantizationMixin)."""

    type: str = "QuantizationModifier"
    where: str = ""
    """Path into the recipe file, for error messages."""
    groups: tuple[Scheme, ...] = ()
    ignore: tuple[str, ...] = ()
    kv_cache: QuantArgs | None = None
    bypass_divisibility_checks: bool = False
    calibrate_anyway: bool = False
    """The recipe itself says `requires_calibration_data: true`."""

    @property
    def requires_calibration_data(self) -> bool:
        """mixin.py `_set_requires_calibration_data`: static activations, or a data-driven observer."""
        asked = self.calibrate_anyway or self.kv_cache is not None
        return asked or any(_needs_data(group) for group in self.groups)

    @property
    def has_hessians(self) -> bool:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTQSpec(QuantizationSpec):
    """GPTQModifier. Its actorder is already resolved into each group's weights."""

    type: str = "GPTQModifier"
    block_size: int = 128
    dampening_frac: float | None = 0.01
    batched_quantization: Literal["auto"] | int | None = "auto"

    @property
    def requires_calibration_data(self) -> bool:
        return True

    @property
    def has_hessians(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseGPTSpec:
    """SparseGPTModifier."""

    type: str = "SparseGPTModifier"
    where: str = ""
    sparsity: float
    prune_n: int = 0
    """N of the N:M mask; 0 means an unstructured mask."""
    prune_m: int = 0
    block_size: int = 128
    dampening_frac: float | None = 0.01
    preserve_sparsity_mask: bool = False
    offload_hessians: bool = False
    targets: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = ()

    @property
    def requires_calibration_data(self) -> bool:
        return True

    @property
    def has_hessians(self) -> bool:
        return True


ModifierSpec = QuantizationSpec | GPTQSpec | SparseGPTSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe's modifiers in the order LLM Compressor runs them."""

    name: str
    modifiers: tuple[ModifierSpec, ...]
    notes: tuple[str, ...] = ()
    """What LLM Compressor accepts and does not heed, or does other than it says."""


@dataclass(frozen=True, slots=True)
class ModuleRef:
    """A module as recipes see it: its full name and the class names of its MRO, own class first."""

    name: str
    classes: tuple[str, ...]


def _needs_data(group: Scheme) -> bool:
    weights, inputs, outputs = group.weights, group.input_activations, group.output_activations
    return (
        (weights is not None and weights.observer in ("imatrix_mse", "nvfp4_expanded_imatrix"))
        or (inputs is not None and inputs.dynamic in (False, "local"))
        or (outputs is not None and not outputs.dynamic)
    )
