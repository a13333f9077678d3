"""Module lists and modifiers for tests of matching."""

from collections.abc import Sequence
from typing import Any

from planner.compress.modifiers.mixin import QuantizationMixinSpec
from planner.compress.modifiers.rtn import QuantizationSpec
from planner.compress.modifiers.sparsegpt import SparseGPTSpec
from planner.notes import texts
from planner.recipe.specs import ModifierSpec, ModuleRef, QuantArgs, Scheme, Strategy

LINEAR = ("Linear", "Module", "object")
ATTENTION = ("LlamaAttention", "Module", "object")
MLP = ("LlamaMLP", "Module", "object")


def ref(name: str, classes: tuple[str, ...] = LINEAR) -> ModuleRef:
    return ModuleRef(name, classes, takes_cache=classes == ATTENTION)


def llama(layers: int = 2, prefix: str = "model") -> list[ModuleRef]:
    refs = [
        ref("", ("LlamaForCausalLM", "PreTrainedModel", "Module", "PushToHubMixin", "object")),
        ref(prefix, ("LlamaModel", "Module", "object")),
        ref(f"{prefix}.embed_tokens", ("Embedding", "Module", "object")),
    ]
    for index in range(layers):
        layer = f"{prefix}.layers.{index}"
        refs += [ref(layer, ("LlamaDecoderLayer", "Module", "object")), ref(f"{layer}.self_attn", ATTENTION)]
        refs += [ref(f"{layer}.self_attn.{part}") for part in ("q_proj", "k_proj", "v_proj", "o_proj")]
        refs += [ref(f"{layer}.mlp", MLP), ref(f"{layer}.mlp.gate"), ref(f"{layer}.mlp.down_proj")]
    return [*refs, ref("lm_head")]


def weights(bits: int = 8, strategy: Strategy = "channel", group_size: int | None = None) -> QuantArgs:
    return QuantArgs(num_bits=bits, type="int", symmetric=True, strategy=strategy, group_size=group_size)


def group(*targets: str, bits: int = 8, **kwargs: Any) -> Scheme:
    return Scheme(targets=targets, weights=weights(bits), where="r.yaml: s.m.Q.config_groups.group_0", **kwargs)


def states(*targets: str, strategy: Strategy = "attn_head") -> Scheme:
    args = weights(strategy=strategy, group_size=16 if strategy == "group" else None)
    return Scheme(targets=targets, input_activations=args, where="r.yaml: s.m.Q.config_groups.group_0")


def spec(
    *groups: Scheme, ignore: tuple[str, ...] = (), kind: type[QuantizationMixinSpec] = QuantizationSpec
) -> QuantizationMixinSpec:
    return kind(where="r.yaml: s.m.Q", groups=groups, ignore=ignore)


def sparse(*targets: str, ignore: tuple[str, ...] = ()) -> SparseGPTSpec:
    return SparseGPTSpec(where="r.yaml: s.m.S", sparsity=0.5, targets=targets, ignore=ignore)


def taken(modifier: ModifierSpec, modules: Sequence[ModuleRef]) -> dict[str, Scheme | None]:
    """The modules whose weights it changes."""
    return dict(modifier.select(modules).weights)


def checked(modifier: ModifierSpec, modules: Sequence[ModuleRef]) -> tuple[str, ...]:
    """What is said of them before anything runs."""
    return texts(modifier.check(modules, modifier.select(modules)))


def bits(found: dict[str, Scheme | None]) -> dict[str, int]:
    return {name: scheme.weights.num_bits for name, scheme in found.items() if scheme and scheme.weights}
