"""Writes, as JSON, which modules of a tiny model each modifier takes: `python targets.py OUT RECIPE`.

Runs in an environment with llmcompressor 0.14.0.1 (test_recipes_in_llmcompressor.py starts it).
"""

import json
import sys
from pathlib import Path

from llmcompressor.core import State
from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
from llmcompressor.recipe import Recipe
from transformers import AutoConfig, AutoModelForCausalLM


def tiny_model():
    """A mixture of experts with a shared expert: its gate is a Linear, the router is not."""
    sizes = {"hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128, "vocab_size": 128}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model(
        "qwen2_moe", **sizes, **heads, shared_expert_intermediate_size=128, num_experts=2, num_experts_per_tok=1
    )
    return AutoModelForCausalLM.from_config(config)


def taken(modifier):
    model = tiny_model()
    state = State(model=model)
    modifier.on_initialize(state)
    if not isinstance(modifier, SparseGPTModifier):
        schemes = {name: getattr(module, "quantization_scheme", None) for name, module in model.named_modules()}
        return {name: scheme.weights.num_bits for name, scheme in schemes.items() if scheme is not None}
    modifier.on_calibration_start(state, None)
    pruned = set(modifier._module_names)
    return [name for name, module in model.named_modules() if module in pruned]


if __name__ == "__main__":
    found = [taken(modifier) for modifier in Recipe.create_instance(sys.argv[2]).modifiers]
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
