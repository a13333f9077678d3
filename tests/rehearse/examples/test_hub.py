"""Stand-ins for the examples' models, without an environment."""

import json
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

from tests.rehearse.examples.hub import write_hub
from tests.rehearse.examples.scripts import MORE, TEN, Script
from tests.rehearse.examples.table import OWN, path_of


@pytest.mark.parametrize("script", (TEN[0], *MORE), ids=lambda script: script.path)
def test_a_script_finds_a_config_of_few_layers_in_the_cache(script: Script, tmp_path: Path) -> None:
    write_hub(tmp_path, script)
    for name in script.models:
        found = try_to_load_from_cache(name, "config.json", cache_dir=tmp_path / "hub")
        assert isinstance(found, str)
        config = json.loads(Path(found).read_text())
        assert config.get("text_config", config)["num_hidden_layers"] == script.layers


def test_there_are_ten_and_each_is_another() -> None:
    assert len(TEN) == 10
    assert len({script.path for script in (*TEN, *MORE)}) == len(TEN) + len(MORE)


def test_scripts_of_our_own_are_here_and_others_in_the_checkout() -> None:
    paths = [path_of(script, Path("/checkout")) for script in TEN]
    assert all(path.is_file() if OWN in path.parents else path.is_relative_to("/checkout/examples") for path in paths)
