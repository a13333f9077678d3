"""Which modules a recipe touches, beside compressed-tensors and LLM Compressor on real torch modules."""

import inspect
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import RecipeError
from planner.recipe.expressions import matcher
from planner.recipe.specs import ModuleRef
from tests.recipe.matched import (
    bits,
    group,
    sparse,
    spec,
    taken,
)

NAMES = st.from_regex(r"[a-c_]{1,4}(\.[a-c0-2_]{1,3}){0,3}", fullmatch=True)
PATTERNS = st.one_of(
    NAMES,
    st.sampled_from(["Linear", "Embedding", "Mlp", "Model", "Block", "Sub", "Module", "object"]),
    st.from_regex(r"re:(\.\*)?[abc]?(\.|\.\*|\[ab\]|\\\.|\|)?[abc]{0,2}\$?", fullmatch=True),
    st.sampled_from(["re:.*", "re:", "re:.*?a", "re:.*a|b", r"re:.*\.a$", "re:^a", "re:.*^a", "re:(?i).*A", "x", ""]),
    st.sampled_from([r"re:(a|b)+(\.[a-c])*", r"re:(.*)*a$", r"re:.*a.*b.*\..*c.*", r"re:([a-c_]+\.?)+$"]),
)


@given(pattern=PATTERNS, name=NAMES)
def test_names_match_as_in_compressed_tensors(pattern: str, name: str) -> None:
    from compressed_tensors.utils.match import match_name

    assert bool(matcher(pattern)(name)) is match_name(name, pattern)


def toy_model():
    """A small tree with everything that matching can trip over."""
    import torch
    from compressed_tensors import InternalModule
    from torch import nn

    class Sub(nn.Linear):
        pass

    class Hidden(InternalModule, nn.Linear):
        pass

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.gate = nn.Linear(4, 4), Sub(4, 4), nn.Linear(4, 2)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp, self.a = Mlp(), nn.Linear(4, 4)
            self.experts = nn.ModuleList(Mlp() for _ in range(2))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(8, 4), nn.LayerNorm(4)
            self.layers = nn.ModuleList(Block() for _ in range(2))
            self.a, self.lm_head, self.observer = nn.Linear(4, 4), nn.Linear(4, 8), Hidden(4, 4)

    with torch.device("meta"):
        return Model()


def refs(model) -> list[ModuleRef]:
    return [
        ModuleRef(
            name,
            tuple(cls.__name__ for cls in type(module).__mro__),
            takes_cache="past_key_values" in inspect.signature(module.forward).parameters,
        )
        for name, module in model.named_modules()
    ]


TOY_PATTERNS = st.sampled_from(
    [
        *("Linear", "Sub", "Embedding", "Mlp", "Block", "Module", "Model", "LayerNorm", "object", "a", "lm_head"),
        *("layers.0.mlp.a", "layers.1.experts.0.b", "layers.0", "embed", "nothing", "re:.*a$", "re:.*mlp", "re:a"),
        *(
            "re:.*experts.*",
            r"re:layers\.0",
            r"re:.*\.b$",
            "re:.*",
            "re:.*lm_head",
            "re:lm",
            "re:.*gate$",
            "re:.*(a|b)$",
        ),
        *("re:.*experts.[01].a|a", "re:.*Linear", "re:.*observer", "observer"),
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    targets=st.lists(st.lists(TOY_PATTERNS, min_size=1, max_size=3), min_size=1, max_size=3),
    ignore=st.lists(TOY_PATTERNS, max_size=3),
)
def test_modules_get_the_scheme_that_apply_quantization_config_gives_them(
    targets: list[list[str]], ignore: list[str]
) -> None:
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    groups = {
        f"group_{index}": {"targets": named, "weights": {"num_bits": index + 2, "strategy": "channel"}}
        for index, named in enumerate(targets)
    }
    model = toy_model()
    apply_quantization_config(
        model, QuantizationConfig.model_validate({"config_groups": groups, "ignore": ignore}), show_progress=False
    )
    expected = {
        name: module.quantization_scheme.weights.num_bits
        for name, module in model.named_modules()
        if hasattr(module, "quantization_scheme")
    }
    ours = spec(*(group(*named, bits=i + 2) for i, named in enumerate(targets)), ignore=tuple(ignore))
    assert bits(taken(ours, refs(toy_model()))) == expected


@settings(max_examples=60, deadline=None)
@given(targets=st.lists(TOY_PATTERNS, min_size=1, max_size=3), ignore=st.lists(TOY_PATTERNS, max_size=3))
def test_sparsegpt_prunes_what_its_two_walks_of_the_model_reach(targets: list[str], ignore: list[str]) -> None:
    """The walk of sgpt_base.py, with the library's own matching functions."""
    from compressed_tensors.utils import match_named_modules, match_targets

    reached: set[int] = set()
    model = toy_model()
    for layer_name, layer in match_named_modules(model, targets):
        for name, module in match_named_modules(layer, ["Linear", "Conv1d", "Conv2d", "Conv3d"]):
            if not match_targets(f"{layer_name}.{name}", module, ignore):
                reached.add(id(module))
    expected = tuple(name for name, module in model.named_modules() if id(module) in reached)
    assert tuple(taken(sparse(*targets, ignore=tuple(ignore)), refs(model))) == expected


def test_an_attention_module_is_refused_where_the_library_refuses_it() -> None:
    """Same targets, same fate: weights on attention itself raise there too."""
    import torch
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=8, head_dim=4
    )
    for target, refused in [("re:.*self_attn$", True), ("LlamaAttention", True), ("re:.*self_attn.*", False)]:
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        modules = refs(model)
        groups = {"group_0": {"targets": [target], "weights": {"num_bits": 8, "strategy": "channel"}}}
        quantization = QuantizationConfig.model_validate({"config_groups": groups})
        if refused:
            with pytest.raises(ValueError, match=re.escape("Cannot apply weight quantization to attention")):
                apply_quantization_config(model, quantization, show_progress=False)
            with pytest.raises(RecipeError):
                taken(spec(group(target)), modules)
        else:
            apply_quantization_config(model, quantization, show_progress=False)
            assert len(taken(spec(group(target)), modules)) == 4
