"""Regenerate what a program can say better than a person: docs/cli.md, the JSON schema, outputs in the README.

    python docs/update.py            write what has changed
    python docs/update.py --check    write nothing; exit 1 where something is out of date

An output in a markdown file stands between `<!-- output -->` and `<!-- end -->`, as a console block
whose first line is the command. Its text is what the command prints on a terminal of WIDTH columns.
"""

import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

DOCS = Path(__file__).parent
ROOT = DOCS.parent
WIDTH = 100
HELP_WIDTH = 80  # what rich takes for a terminal that cannot move the cursor, whatever COLUMNS says
COMMANDS = (
    "",
    "plan",
    "rehearse",
    "drift",
    "model-free",
    "fit",
    "strategies",
    "rent",
    "compare",
    "report",
    "explain",
    "graph",
    "serve",
    "formats",
    "bpw",
    "train",
    "ui",
    "measure",
    "accuracy",
    "models",
    "recipes",
    "gpus",
    "machines",
)
PAGES_WITH_OUTPUT = (
    ROOT / "README.md",
    DOCS / "index.md",
    DOCS / "memory-words.md",
    DOCS / "how-it-works.md",
    DOCS / "serving.md",
    DOCS / "training.md",
    DOCS / "machines.md",
    DOCS / "choosing.md",
    DOCS / "model-free.md",
)

OUTPUT = re.compile(
    r"(?P<head><!-- output -->\n```console\n\$ (?P<command>planner [^\n]*)\n)(?P<text>.*?)(?P<end>```\n<!-- end -->)",
    re.DOTALL,
)
_CLI_HEAD = """# Command line

Written by `make docs` from `planner --help`; do not edit.

"""


class Terminal(io.StringIO):
    """A stdout that says it is a terminal, so that commands print as they do for a person."""

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal(width: int) -> Iterator[Terminal]:
    """Everything printed inside goes to a terminal of `width` columns without colours."""
    wanted = {"COLUMNS": f"{width}", "NO_COLOR": "1", "TERM": "dumb"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        with redirect_stdout(Terminal()) as stream:
            yield stream
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def run(command: str, width: int = WIDTH) -> str:
    """What `planner ...` prints; a failing command ends this script."""
    from planner.cli import main

    with terminal(width) as stream:
        code = main(shlex.split(command)[1:])
    if code != 0:
        raise SystemExit(f"docs/update.py: {command!r} ended with exit code {code}")
    return plain(stream.getvalue())


def plain(text: str) -> str:
    """Without escape sequences and blanks at the ends of lines."""
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n") + "\n"


def cli_page() -> str:
    """docs/cli.md."""
    parts = []
    for name in COMMANDS:
        command = f"planner {name}".strip()
        parts.append(f"## {command}\n\n```text\n{run(f'{command} --help', HELP_WIDTH)}```\n")
    return _CLI_HEAD + "\n".join(parts)


def schemas() -> dict[Path, Callable[[], str]]:
    """The JSON schema of every record that `--format json` writes whole."""
    from planner.choose.schema import Fit, Rent, Strategies
    from planner.compress.schema import Plan
    from planner.drift.schema import Drift
    from planner.modelfree.schema import ModelFreePlan
    from planner.serving.fit_schema import BitsPlan, FormatTable
    from planner.serving.schema import Serving
    from planner.training.schema import TrainingPlan

    records = {
        "plan": Plan,
        "drift": Drift,
        "model-free": ModelFreePlan,
        "fit": Fit,
        "strategies": Strategies,
        "rent": Rent,
        "serving": Serving,
        "training": TrainingPlan,
        "formats": FormatTable,
        "bpw": BitsPlan,
    }
    return {DOCS / f"{name}.schema.json": lambda record=record: _schema(record) for name, record in records.items()}


def _schema(record: "type[BaseModel]") -> str:
    return json.dumps(record.model_json_schema(), indent=1) + "\n"


def page_with_output(path: Path) -> str:
    """The page with every output as it is today."""
    text = path.read_text(encoding="utf-8")
    return OUTPUT.sub(lambda match: f"{match['head']}{run(match['command'])}{match['end']}", text)


def generated() -> dict[Path, Callable[[], str]]:
    """Every generated file, and what makes its text."""
    files: dict[Path, Callable[[], str]] = {DOCS / "cli.md": cli_page, **schemas()}
    for path in PAGES_WITH_OUTPUT:
        files[path] = lambda path=path: page_with_output(path)
    return files


def main(arguments: list[str]) -> int:
    stale = []
    for path, make in generated().items():
        text = make()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT))
            if "--check" not in arguments:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path} {'is out of date; run `make docs`' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
