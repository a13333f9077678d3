"""Tab completes what is shipped, at once: no torch is imported for it."""

import json
import subprocess
import sys

from planner.commands import completion
from planner.hardware import find_gpu, list_gpus
from planner.models.source import list_presets
from planner.recipe.files import list_recipes

HEAVY = ("torch", "transformers", "accelerate", "compressed_tensors", "networkx")
SCRIPT = """
import json, os, sys
from planner.cli import main
for words in json.loads(sys.argv[1]):
    os.environ.update({"_PLANNER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))})
    assert main([]) == 0
    print("--")
print(sorted(set(sys.modules) & set(json.loads(sys.argv[2]))))
"""


def completed(*lines: str) -> list[list[str]]:
    command = [sys.executable, "-c", SCRIPT, json.dumps(lines), json.dumps(HEAVY)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    *offers, imported = out.split("--\n")
    assert imported == "[]\n", "completion must be fast"
    return [each.split() for each in offers]


def test_names_of_models_recipes_cards_and_machines_are_completed_without_torch() -> None:
    commands, models, recipes, cards, machines, words, options, none = completed(
        "planner strat", "planner plan lla", "planner compare x -r gp", "planner fit x --gpu rtx40",
        "planner plan x --machine p5.", "planner plan x --pipeline seq", "planner plan x --sequential-p",
        "planner plan /",
    )  # fmt: skip
    assert commands == ["strategies"]
    assert {"llama-3-8b", "llama-2-70b"} <= set(models)
    assert all(name.startswith("lla") for name in models)
    assert recipes == ["gptq_w4a16", "gptq_w8a8"]
    assert "rtx4090" in cards
    assert "p5.48xlarge" in machines
    assert words == ["sequential"]
    assert options == []
    assert none == [], "bash offers files then"


def test_every_command_that_takes_a_model_completes_presets() -> None:
    takers = ("plan", "rehearse", "measure", "graph", "serve", "train", "model-free", "bpw", "formats", "rent", "fit")
    assert completed(*(f"planner {command} qwen3-0" for command in takers)) == [["qwen3-0.6b"]] * len(takers)


def test_everything_that_is_offered_is_a_name_that_is_taken() -> None:
    assert [name for name, _ in completion.models("")] == [preset.name for preset in list_presets()]
    assert [name for name, _ in completion.recipes("")] == [info.name for info in list_recipes()]
    offered = [name for name, _ in completion.gpus("")]
    assert [find_gpu(name) for name in offered] == list(list_gpus())
    assert all(" " not in name for name, _ in (*completion.gpus(""), *completion.machines("")))


def test_the_script_for_the_shell_is_shown_and_installed(tmp_path: object) -> None:
    shown = f"{sys.executable} -m planner --show-completion; exit $?"
    ran = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True)
    assert "_PLANNER_COMPLETE=complete_bash" in ran.stdout
    installed = f"{sys.executable} -m planner --install-completion; exit $?"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(["bash", "-c", installed], capture_output=True, text=True, check=True, env=environment)
    assert "bash completion installed in " in ran.stdout
