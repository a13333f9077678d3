"""Command lines over mutated files: each of planner's commands, its options by name, and values of every kind."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from planner.cli import app
from planner.models.source import list_presets
from planner.recipe.files import list_recipes
from tests.fuzz.mutations import PATTERNS, edited, mutated, value
from tests.fuzz.running import Case

DATA = Path(__file__).parent.parent / "data"
SHORT = ("--layers", "1", "--samples", "2", "--seq-len", "16")
MACHINE = ("--gpu", "24GiB", "--ram", "64GiB")
COMMANDS = {
    "plan": 40, "model-free": 10, "serve": 10, "train": 8, "graph": 6, "fit": 6, "compare": 5, "bpw": 3, "formats": 2,
    "strategies": 2, "rent": 2, "accuracy": 4, "machines": 3, "gpus": 1, "models": 1, "recipes": 1, "measure": 2,
    "rehearse": 1, "report": 2, "explain": 2, "drift": 1, "ui": 1,
}  # fmt: skip
"""How often each is asked."""
NOWHERE = {"ui": ("--host", "example.org"), "drift": ("--environment", "nowhere")}
"""What has these commands refused once their arguments are read: no server is left running, no release rehearsed."""
NEVER = {"--help", "-h", "--output", "-o", "--python", "--recipe", "-r", "--install-completion", "--show-completion"}
INTEGERS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "17",
    "1000",
    "100000",
    "1e3",
    "1.5",
    "",
    " ",
    "nan",
    "ten",
    "٣",
    "0x10",
    "9" * 40,
)
SIZES = (
    "24GiB",
    "24GB",
    "0",
    "0GiB",
    "-1GiB",
    "1e400GB",
    "1B",
    "80",
    "GiB",
    "999999999999999999TiB",
    "24 gib",
    "rtx4090",
)
TEXTS = (
    "",
    " ",
    "-",
    "--",
    "a",
    "cpu",
    "gpu",
    "cuda:0",
    "auto",
    "h100",
    "l40s",
    "/",
    ".",
    "nope",
    "/dev/null",
    "a,b",
    ",",
)
SETS = (
    "GPTQModifier.block_size=64",
    "GPTQModifier.block_size=0",
    "a",
    "a.b",
    "a.b=",
    "GPTQModifier.scheme=[",
    "=",
    ".=.",
)
TINY = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    "head_dim": 16, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_local_experts": 4, "num_experts": 4,
    "num_hidden_layers": 2, "intermediate_size_mlp": 96, "q_lora_rank": 16, "kv_lora_rank": 16, "depth": 2,
}  # fmt: skip


@cache
def configs() -> tuple[dict[str, Any], ...]:
    """Of the presets, as they are and made small."""
    whole = [preset.config for preset in list_presets()]
    return (*whole, *(shrunk(config) for config in whole), *(shrunk(config) for config in whole))


@cache
def recipes() -> tuple[str, ...]:
    return tuple(info.path.read_text(encoding="utf-8") for info in list_recipes())


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """The same architecture, of sizes that take no time."""
    small = {key: shrunk(each) if isinstance(each, dict) else each for key, each in config.items()}
    return {key: min(TINY[key], each) if key in TINY and isinstance(each, int) else each for key, each in small.items()}


def names_in(tree: Any) -> list[str]:
    """Every key of a tree."""
    if isinstance(tree, dict):
        return [*map(str, tree), *(name for child in tree.values() for name in names_in(child))]
    return [name for child in tree for name in names_in(child)] if isinstance(tree, list) else []


@cache
def config_names() -> tuple[str, ...]:
    return tuple(sorted({name for config in configs() for name in names_in(config)}))


@cache
def recipe_names() -> tuple[str, ...]:
    return tuple(sorted({name for text in recipes() for name in names_in(yaml.safe_load(text))}))


def case(rng: random.Random) -> Case:
    """One command line, with the files that it names."""
    (command,) = rng.choices(list(COMMANDS), weights=list(COMMANDS.values()))
    files: dict[str, bytes] = {}
    words = [command, *_asked(command, files, rng), *_base(command), *_options(command, rng)]
    if rng.random() < 0.1:
        words += ["-o", rng.choice(("out", "no/such/out", ".", "/dev/null", "config.json", ""))]
    if rng.random() < 0.03:
        rng.shuffle(words)
    return Case(words=tuple(words), files=files, stdin=_recipe(rng).encode(errors="replace"))


def _asked(command: str, files: dict[str, bytes], rng: random.Random) -> list[str]:
    """The arguments, and what cannot be left out."""
    if command == "accuracy":
        files["run.json"] = _tree_text((DATA / "docs" / "run.json").read_text(encoding="utf-8"), rng)
        return ["run.json"]
    if command == "machines":
        table = (DATA / "docs" / "my-machines.csv").read_text(encoding="utf-8")
        files["table.csv"] = edited(table, rng).encode(errors="replace")
        return ["--catalogue", "table.csv"]
    if command in ("gpus", "models", "recipes", "ui"):
        return []
    if command == "drift":
        return rng.sample(("gptq", "awq", "", "nope", "a:b", "config.json:recipe.yaml"), rng.choice((0, 1, 1, 2)))
    words = [_model(files, rng)]
    if command == "model-free":
        words += _scheme(files, rng)
    elif command not in ("serve", "train", "graph", "bpw", "formats"):
        words += ["-r", _recipe_word(files, rng)]
    return [*words, "-o", rng.choice(("out.html", "out.html", "-"))] if command == "report" else words


def _base(command: str) -> tuple[str, ...]:
    """What keeps the job short, unless an option after it says otherwise."""
    if command in ("fit", "strategies", "rent"):
        return (*SHORT, *MACHINE)
    if command in ("plan", "compare", "measure", "rehearse", "report", "explain"):
        return SHORT
    if command in NOWHERE:
        return NOWHERE[command]
    return {"graph": SHORT[:2], "train": ("--seq-len", "16"), "serve": ("--context", "64")}.get(command, ())


def _model(files: dict[str, bytes], rng: random.Random) -> str:
    if rng.random() < 0.15:
        return rng.choice(("qwen3-0.6b", "llama-3-70b", "", ".", "/", "org/name", "a" * 5000, "nope.json", "~nobody/x"))
    config = rng.choice(configs())
    if rng.random() < 0.8:
        text = json.dumps(mutated(config, rng, config_names()))
    else:
        text = edited(json.dumps(config, indent=1), rng)
    files["config.json"] = text.encode(errors="replace")
    return rng.choice(("config.json", "config.json", "."))


def _recipe_word(files: dict[str, bytes], rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.35:
        return rng.choice([info.name for info in list_recipes()])
    if draw < 0.45:
        return rng.choice(("-", "-", "", "nope", ".", "/dev/null", "a\nb", "{}\n", "gptq-w4a16"))
    files["recipe.yaml"] = _recipe(rng).encode(errors="replace")
    return "recipe.yaml"


def _recipe(rng: random.Random) -> str:
    text = rng.choice(recipes())
    if rng.random() < 0.25:
        return edited(text, rng)
    tree = mutated(yaml.safe_load(text), rng, recipe_names())
    return json.dumps(tree) if rng.random() < 0.3 else str(yaml.safe_dump(tree))


def _scheme(files: dict[str, bytes], rng: random.Random) -> list[str]:
    if rng.random() < 0.6:
        words = ["-s", rng.choice(("FP8_BLOCK", "W4A16", "NVFP4A16", "MXFP4A16", "W8A8", "nope", ""))]
    else:
        group = {"g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}}
        files["groups.json"] = json.dumps(mutated(group, rng, recipe_names())).encode()
        words = ["--config-groups", "groups.json"]
    return [*words, "--ignore", rng.choice(PATTERNS)] if rng.random() < 0.5 else words


def _tree_text(text: str, rng: random.Random) -> bytes:
    changed = json.dumps(mutated(json.loads(text), rng)) if rng.random() < 0.8 else edited(text, rng)
    return changed.encode(errors="replace")


@cache
def _parameters(command: str) -> tuple[tuple[str, bool, str], ...]:
    """Name, whether it is a flag, and metavar of each option."""
    found = getattr(get_command(app), "commands")[command].params  # noqa: B009  (typer's type does not say it)
    options = [each for each in found if each.param_type_name == "option"]
    return tuple(
        (name, bool(each.is_flag), str(each.metavar or "").strip())
        for each in options
        for name in each.opts
        if name not in NEVER and not name.startswith("--here")
    )


def _options(command: str, rng: random.Random) -> list[str]:
    words: list[str] = []
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 5))):
        name, is_flag, metavar = rng.choice(_parameters(command))
        words.append(rng.choice((name, name, name, name.replace("-", "_") if name.startswith("--") else name)))
        if not is_flag:
            words.append(_value(metavar, rng))
    return words


def _value(metavar: str, rng: random.Random) -> str:
    if rng.random() < 0.1:
        return str(value(rng))[:6000].replace("\x00", "")
    if metavar in ("N", "TOKENS"):
        return rng.choice(INTEGERS)
    if "SIZE" in metavar or metavar == "RATE":
        return rng.choice(SIZES)
    return rng.choice(SETS if metavar.startswith("MODIFIER") else (*TEXTS, *INTEGERS, *SIZES))
