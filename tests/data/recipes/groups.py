"""Writes, as JSON, which modules SmoothQuant and SpinQuant group in each model: `python groups.py OUT TYPE...`.

A type is a model_type of transformers, which has its default config. Runs in an environment with llmcompressor 0.14.0.1
(tests/recipe/test_groups_in_llmcompressor.py starts it). A model is four layers deep and lies on the meta device, so
its experts are still fused where transformers fuses them.
"""

import json
import sys
from pathlib import Path

import torch
from compressed_tensors.utils import match_modules_set
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from llmcompressor.modifiers.transform.spinquant.norm_mappings import infer_norm_mapping_from_model
from llmcompressor.utils.pytorch.module import get_module_to_name_dict
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

DEPTHS = ("num_hidden_layers", "depth", "n_layer")
LAYERS = 4


def shortened(values):
    """The config's text and its tower, four layers each."""
    depth = next((values[name] for name in DEPTHS if name in values), None)
    kept = {}
    for name, value in values.items():
        if isinstance(value, dict):
            kept[name] = shortened(value)
        elif name in DEPTHS:
            kept[name] = LAYERS
        else:
            kept[name] = value[:LAYERS] if isinstance(value, list) and len(value) == depth else value
    return kept


def model_of(name):
    values = shortened(AutoConfig.for_model(name).to_dict())
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    last = None
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        try:
            with torch.device("meta"):
                return auto.from_config(config)
        except ValueError as error:
            last = error
    raise last


def smoothed(model):
    modifier, names = SmoothQuantModifier(), get_module_to_name_dict(model)
    modifier.ignore = []
    try:
        modifier.mappings = modifier._infer_mappings_from_model(model)
        found = modifier._resolve_mappings(model)
    except (RuntimeError, ValueError) as error:
        return {"error": str(error.__cause__ or error)}
    return {"groups": [[one.smooth_name, [names[layer] for layer in one.balance_layers]] for one in found]}


def fused(model):
    names = get_module_to_name_dict(model)
    groups = []
    try:
        for mapping in infer_norm_mapping_from_model(model):
            for norm, *linears in match_modules_set(model, (mapping.norm, *mapping.linears)):
                assert len(norm) == 1
                groups.append([names[norm[0]], [names[linear] for linear in tree_leaves(linears)]])
    except (ValueError, AssertionError) as error:
        return {"error": str(error)}
    return {"groups": groups}


def answers(name):
    model = model_of(name)
    modules = [[name, [cls.__name__ for cls in type(each).__mro__]] for name, each in model.named_modules()]
    return {"modules": modules, "smooth": smoothed(model), "fuse": fused(model)}


if __name__ == "__main__":
    found = {name: answers(name) for name in sys.argv[2:]}
    Path(sys.argv[1]).write_text(json.dumps(found) + "\n")
