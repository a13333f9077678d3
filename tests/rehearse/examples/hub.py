"""A Hub's cache that holds configs and nothing else: what a script finds where its models were never fetched."""

from pathlib import Path

from planner.job import Build
from planner.models.build import model_config
from planner.models.source import load_source
from tests.rehearse.examples.scripts import Script

ROOT = Path(__file__).parents[3]
COMMIT = "0" * 40


def write_hub(home: Path, script: Script, *, whole: bool = False) -> None:
    """Put the configs of the script's models into `home`, a folder for HF_HOME; `whole` keeps all layers."""
    for name, config_of in script.models.items():
        folder = home / "hub" / f"models--{name.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        source = load_source(str(ROOT / config_of) if config_of.endswith(".json") else config_of)
        build = Build() if whole else Build(layers=script.layers, vision_layers=script.vision_layers)
        model_config(source, build).save_pretrained(folder / "snapshots" / COMMIT)
