"""The documentation cannot lie: what is generated is up to date, and what is shown runs."""

import importlib.util
import json
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

from planner.cli import main
from planner.version import __version__
from tests.built import share_presets

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
# measure needs the real library and a GPU.
SHOWN = (
    "plan|model-free|fit|strategies|rent|compare|report|explain|graph|accuracy|serve|formats|bpw|train|models|recipes|"
    "gpus|machines"
)
FILES = Path(__file__).parent / "data" / "docs"


def load_update() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_update", ROOT / "docs" / "update.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


update = load_update()


def shown_commands() -> list[str]:
    """Every `planner ...` line in a code block, and every example in `--help`, once each."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in re.findall(r"```(?:console|sh|text)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.splitlines():
                match = re.match(rf"(?:\$ | )?(planner (?:{SHOWN})\b.*)", line)
                if match and "[OPTIONS]" not in line:
                    found.setdefault(match[1].strip())
    return list(found)


def blocks() -> dict[str, set[str]]:
    """What pages print of every command whose output they show."""
    found: dict[str, set[str]] = {}
    for page in update.PAGES_WITH_OUTPUT:
        for match in update.OUTPUT.finditer(page.read_text(encoding="utf-8")):
            found.setdefault(match["command"], set()).add(match["text"])
    return found


PRINTED = blocks()


@pytest.fixture(autouse=True)
def _presets_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    share_presets(monkeypatch)


def written(command: str) -> list[Path]:
    """The files that the command writes."""
    words = shlex.split(command)
    return [Path(after) for word, after in pairwise(words) if word in ("--output", "-o")]


def check_finishes(command: str, told: str) -> None:
    """Nobody is shown a job that LLM Compressor would not finish, or `planner plan` of one that runs out of memory."""
    for no in ("on any machine: ", "This job fails in LLM Compressor"):
        assert no not in told, f"{command} shows a job that fails in the library"
    if command.startswith("planner plan "):
        assert "OUT OF MEMORY" not in told, f"{command} shows a job that runs out of memory"


@pytest.mark.parametrize("command", shown_commands())
def test_every_command_shown_runs_and_prints_what_is_shown(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with update.terminal(update.WIDTH) as stream:
        code = main(shlex.split(command)[1:])
    assert (code, capsys.readouterr().err) == (0, "")
    printed = update.plain(stream.getvalue())
    check_finishes(command, printed + "".join(path.read_text("utf-8", "replace") for path in written(command)))
    assert printed.strip() or {"--output", "-o"} & set(shlex.split(command))
    assert PRINTED.get(command, {printed}) == {printed}, "run `make docs`"


def test_every_output_on_a_page_is_of_a_command_that_is_run() -> None:
    assert PRINTED
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(update.OUTPUT.findall(text)) == text.count("<!-- output -->"), page.name
        assert page in update.PAGES_WITH_OUTPUT or "<!-- output -->" not in text, page.name
    assert set(PRINTED) <= set(shown_commands())


def test_commands_are_found_where_they_are_shown() -> None:
    commands = shown_commands()
    assert "planner plan llama-3-8b --recipe gptq_w4a16" in commands
    assert len(commands) < 56, "each one costs seconds; show fewer"


@pytest.mark.parametrize("path", sorted(set(update.generated()) - set(update.PAGES_WITH_OUTPUT)), ids=lambda p: p.name)
def test_what_is_generated_whole_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == update.generated()[path](), "run `make docs`"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("README.md", "model.layers.0"),
        ("docs/serving.md", " True "),
        ("docs/training.md", "full sharding"),
        ("docs/python.md", "Plan of qwen3-0.6b"),
    ],
)
def test_python_shown_runs(page: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})  # noqa: S102  (the point of the test)
    assert said in capsys.readouterr().out


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_a_plan_follows_the_published_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen3-0.6b", "--recipe", "gptq_w4a16", "--samples", "2", "--format", "json"]) == 0
    schema = json.loads((ROOT / "docs" / "plan.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(capsys.readouterr().out), schema)


def test_the_changelog_names_the_version_that_is_packaged() -> None:
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
