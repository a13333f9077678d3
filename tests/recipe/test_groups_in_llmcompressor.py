"""The real LLM Compressor groups modules as planner does, family by family. Opt-in.

Set PLANNER_LLMCOMPRESSOR_PYTHON to the python of an environment with llmcompressor 0.14.0.1.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from planner.compress.modifiers.smoothquant import SmoothQuantSpec
from planner.errors import RecipeError
from planner.recipe.specs import ModelTraits, ModuleRef

SCRIPT = Path(__file__).parent.parent / "data" / "recipes" / "groups.py"
PYTHON = os.environ.get("PLANNER_LLMCOMPRESSOR_PYTHON", "")
FAMILIES = tuple(
    """
    llama mistral qwen2 qwen3 gemma gemma2 gemma3 gemma3_text cohere cohere2 cohere2_vision bloom opt phi3 phi granite
    mixtral qwen2_moe qwen3_moe deepseek_v2 deepseek_v3 glm4_moe llama4 gpt_oss qwen2_5_vl qwen2_vl qwen3_vl
    qwen3_vl_moe qwen3_5 qwen3_5_moe llava mistral3 paligemma internvl falcon olmo olmo2 seed_oss ernie4_5_moe afmoe
    gpt_neox gpt2 starcoder2 stablelm
""".split()  # noqa: SIM905 - forty names in a list would be forty lines
)

pytestmark = [
    pytest.mark.llmcompressor,
    pytest.mark.skipif(not PYTHON, reason="PLANNER_LLMCOMPRESSOR_PYTHON names no python with llmcompressor 0.14.0.1"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("groups") / "groups.json"
    done = subprocess.run([PYTHON, str(SCRIPT), str(out), *FAMILIES], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())


def modules_of(answer: Any) -> list[ModuleRef]:
    return [ModuleRef(name, tuple(classes)) for name, classes in answer["modules"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_smoothquant_smooths_the_same_norms_before_the_same_linears(family: str, answers: Any) -> None:
    theirs, modules = answers[family]["smooth"], modules_of(answers[family])
    facts = ModelTraits(architecture=modules[0].classes[0])
    if "error" in theirs:
        with pytest.raises(RecipeError):
            SmoothQuantSpec(where="r").within(facts, modules, ())
    else:
        found = SmoothQuantSpec(where="r").within(facts, modules, ()).smoothings
        assert [[each.smooth, list(each.balance)] for each in found] == theirs["groups"]
