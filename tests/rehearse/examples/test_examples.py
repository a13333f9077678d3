"""LLM Compressor's own example scripts, unmodified and offline, to their end. Opt-in.

CUDAMETER=FOLDER LLMCOMPRESSOR_CHECKOUT=FOLDER pytest tests/rehearse/examples -m llmcompressor -n0

CUDAMETER: what tests/cudameter/setup.sh made, and into it `pip install torchvision qwen-vl-utils`, which scripts with
images import. LLMCOMPRESSOR_CHECKOUT: a checkout of LLM Compressor's repository.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from planner.errors import StoppedError
from planner.rehearse.run import rehearse
from tests.rehearse.examples.hub import write_hub
from tests.rehearse.examples.scripts import MORE, TEN, Script
from tests.rehearse.examples.table import path_of, wish_for

CHECKOUT = Path(os.environ.get("LLMCOMPRESSOR_CHECKOUT", ""))
PYTHON = f"{os.environ.get('CUDAMETER', '')}/venv/bin/python"
SAMPLES = 4
pytestmark = [
    pytest.mark.llmcompressor,
    pytest.mark.skipif(not Path(PYTHON).exists() or not shutil.which("g++"), reason="no CUDAMETER"),
    pytest.mark.skipif(not (CHECKOUT / "examples").is_dir(), reason="LLMCOMPRESSOR_CHECKOUT names no checkout"),
]


@pytest.mark.parametrize("script", (*TEN, *MORE), ids=lambda script: script.path)
def test_it_runs_to_its_end_unmodified_and_offline(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    write_hub(tmp_path / "hf", script)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.chdir(work)
    before = path_of(script, CHECKOUT).read_bytes()
    wish = wish_for(script, CHECKOUT, PYTHON, SAMPLES)
    if script.fails:
        with pytest.raises(StoppedError, match=re.escape(script.fails)):
            rehearse(wish, lambda _text: None)
        return
    plan = rehearse(wish, lambda _text: None)
    assert plan.script is not None
    assert (plan.script.ended, plan.script.exit_code) == ("end", 0)
    assert set(script.must) <= {step.phase for step in plan.steps}
    assert not script.generates or "generate" in {step.unit for step in plan.steps}
    assert path_of(script, CHECKOUT).read_bytes() == before
    assert not list(work.rglob("*.safetensors"))
