"""Writes, as JSON, how LLM Compressor resolves recipe files: `python dump.py OUT RECIPE...`.

Runs in an environment with llmcompressor 0.14.0.1 (test_recipes_in_llmcompressor.py starts it), not
in planner's: this is the other side of the comparison. Its output is kept in resolved.json.
"""

import json
import sys
from pathlib import Path

import torch
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
from llmcompressor.modifiers import ModifierFactory
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning.sparsegpt import SparseGPTModifier
from llmcompressor.modifiers.quantization.calibration import initialize_observer
from llmcompressor.observers import Observer
from llmcompressor.recipe import Recipe

KEPT = {
    "AWQModifier": ("mappings", "duo_scaling", "n_grid"),
    "SmoothQuantModifier": ("smoothing_strength", "mappings", "algorithm"),
    "LogarithmicEqualizationModifier": ("smoothing_strength", "mappings", "algorithm"),
    "QuIPModifier": ("rotations", "transform_type", "transform_block_size", "targets", "ignore"),
    "SpinQuantModifier": ("rotations", "transform_type", "transform_block_size"),
    "WandaPruningModifier": ("sparsity", "targets"),
}
"""Fields of modifiers that neither quantize nor are SparseGPT's own."""
PARTS = {"weights": "weight", "input_activations": "input", "output_activations": "output"}


def observer_name(scheme, base_name):
    """The registered name of the observer that is really attached to a Linear with this scheme."""
    module = torch.nn.Linear(4, 4)
    module.quantization_scheme = scheme
    initialize_observer(module, base_name)
    attached = getattr(module, f"{base_name}_observer", None)
    by_class = {Observer.get_value_from_registry(name): name for name in Observer.registered_names()}
    return attached and by_class[type(attached)].replace("-", "_")


def arguments(args, observer):
    if args is None:
        return None
    data = args.model_dump(mode="json")
    data["zp_dtype"] = str(args.zp_dtype)  # the serializer hides it for symmetric schemes
    return {**data, "observer": observer}


def scheme(group):
    parts = {part: arguments(getattr(group, part), observer_name(group, base)) for part, base in PARTS.items()}
    return {"targets": group.targets, **parts}


def kv_cache(args):
    if args is None:
        return None
    holder = preset_name_to_scheme("UNQUANTIZED", ["Linear"])
    holder.input_activations = args
    return arguments(args, observer_name(holder, "input"))


def other(one):
    """Fields as they are."""
    data = {"type": type(one).__name__, "requires_calibration_data": one.requires_calibration_data}
    data |= {name: getattr(one, name) for name in (*KEPT[data["type"]], "ignore") if hasattr(one, name)}
    data |= {name: [data[name]] for name in ("targets", "ignore") if isinstance(data.get(name), str)}
    return data | ({"prune_n": one._prune_n, "prune_m": one._prune_m} if hasattr(one, "_prune_n") else {})


def modifier(one):
    if type(one).__name__ in KEPT:
        return other(one)
    data = {
        "type": type(one).__name__,
        "requires_calibration_data": one.requires_calibration_data,
        "ignore": one.ignore,
    }
    if isinstance(one, SparseGPTModifier):
        kept = ("sparsity", "block_size", "dampening_frac", "preserve_sparsity_mask", "offload_hessians", "targets")
        data |= {name: getattr(one, name) for name in kept}
        return data | {"prune_n": one._prune_n, "prune_m": one._prune_m}
    if type(one).__name__ == "REAPPruningModifier":
        return data | {"sparsity": one.sparsity}
    config = one.resolved_config
    data |= {"groups": [scheme(group) for group in config.config_groups.values()]}
    data |= {"kv_cache": kv_cache(config.kv_cache_scheme), "bypass": one.bypass_divisibility_checks}
    if isinstance(one, GPTQModifier):
        kept = ("block_size", "dampening_frac", "batched_quantization")
        data |= {name: getattr(one, name) for name in kept}
    return data


def recipe(path):
    return [modifier(one) for one in Recipe.create_instance(str(path)).modifiers]


def registries():
    ModifierFactory.refresh()
    names = {*ModifierFactory._main_registry, *ModifierFactory._experimental_registry} - {"Modifier"}
    observers = [name.replace("-", "_") for name in Observer.registered_names()]
    return {"modifiers": sorted(names), "observers": sorted(observers), "presets": sorted(PRESET_SCHEMES)}


if __name__ == "__main__":
    found = {"recipes": {Path(path).stem: recipe(path) for path in sys.argv[2:]}, "registries": registries()}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
