"""AWQ's mappings against the installed library. Opt-in, as tests/test_upstream.py is."""

import json
import os
import subprocess

import pytest

from planner.recipe.awq_mappings import DYNAMIC_REGISTRY, REGISTRY

PYTHON = os.environ.get("PLANNER_LLMCOMPRESSOR_PYTHON", "")
CODE = """
import json
from llmcompressor.modifiers.transform.awq import AWQ_DYNAMIC_MAPPING_REGISTRY, AWQ_MAPPING_REGISTRY
static = {
    name: [[m.smooth_layer, m.balance_layers, m.activation_hook_target] for m in mappings]
    for name, mappings in AWQ_MAPPING_REGISTRY.items()
}
print(json.dumps({"static": static, "dynamic": sorted(AWQ_DYNAMIC_MAPPING_REGISTRY)}))
"""


@pytest.mark.llmcompressor
@pytest.mark.skipif(not PYTHON, reason="PLANNER_LLMCOMPRESSOR_PYTHON names no python with llmcompressor 0.14.0.1")
def test_every_family_has_the_librarys_mappings() -> None:
    done = subprocess.run([PYTHON, "-c", CODE], capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout.splitlines()[-1])
    ours = {
        name: [[m.smooth_layer, list(m.balance_layers), m.activation_hook_target] for m in mappings]
        for name, mappings in REGISTRY.items()
    }
    assert ours == theirs["static"]
    assert sorted(DYNAMIC_REGISTRY) == theirs["dynamic"]
