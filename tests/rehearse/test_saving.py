"""What a script saves or sends leaves nothing outside of the rehearsal's folder."""

import types
from pathlib import Path
from typing import Any

import pytest
import torch

from planner.rehearse.child.models import Shelf
from planner.rehearse.child.saving import SENT, _Savings
from planner.rehearse.child.settings import Settings


class Steps:
    phase = "script"

    def begin(self, _phase: str) -> None:
        """No steps here."""


class Events:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, _kind: str, text: str) -> None:
        self.notes.append(text)


def library() -> tuple[Any, list[str]]:
    """A module with a class that saves and sends, and what was sent."""
    sent: list[str] = []

    class Model:
        def save_pretrained(self, save_directory: str, push_to_hub: bool = False, **_more: Any) -> None:
            (Path(save_directory) / "config.json").write_text("{}")
            if push_to_hub:
                sent.append(save_directory)

        def push_to_hub(self, repo_id: str) -> None:
            sent.append(repo_id)

    return types.SimpleNamespace(Model=Model), sent


def savings(folder: Path, save: bool = False) -> tuple[_Savings, Events]:
    settings = Settings(folder=folder / "rehearsal", books=Path(), script="job.py", arguments=[], save=save)
    events: Any = Events()
    nothing: Any = None
    steps: Any = Steps()
    return _Savings(Shelf(settings, nothing, events), steps, events, lambda: False), events


@pytest.mark.parametrize("save", [False, True])
def test_nothing_is_ever_sent(save: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "out"
    mine.mkdir()
    module, sent = library()
    stand_ins, events = savings(tmp_path, save)
    stand_ins.send(module, "Model", is_model=True)
    stand_ins.save(module, "Model")
    module.Model().save_pretrained(str(mine), push_to_hub=True)
    module.Model().save_pretrained(str(mine), True)
    module.Model().push_to_hub("me/model")
    assert not sent
    assert events.notes == [SENT] * 3
    assert (mine / "config.json").exists() is save
    assert {path.name for path in tmp_path.iterdir()} - {"rehearsal"} == {"out"}


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    mine = tmp_path / "out.safetensors"
    mine.write_text("mine")
    module: Any = types.SimpleNamespace()
    stand_ins, events = savings(tmp_path)
    stand_ins.save_file(module)
    module.save_file({"x": torch.zeros(4)}, mine)
    assert mine.read_text() == "mine"
    assert events.notes == [f"{mine}: not written (--save writes it)."]
    assert [path.name for path in (tmp_path / "rehearsal").rglob("*.safetensors")] == ["out.safetensors"]


def test_a_config_that_the_script_saved_can_be_loaded_again(tmp_path: Path) -> None:
    module, _ = library()
    stand_ins, _ = savings(tmp_path)
    stand_ins.save(module, "Model")
    module.Model().save_pretrained(str(tmp_path / "small"))
    found = stand_ins.shelf._source(str(tmp_path / "small"))
    assert found is not None
    assert (found / "config.json").exists()
    assert not (tmp_path / "small").exists()
