"""Measure the planner beside what it is compared with, and print the page.

python -m tests.benchmarks.run [--quick] [--write]

--quick takes a third of the turns; --write puts the page into docs/performance.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.cases import run_all
from tests.benchmarks.measure import ROOT
from tests.benchmarks.page import render

PAGE = ROOT / "docs" / "performance.md"


def main() -> None:
    """Run everything; minutes, on a machine that should do nothing else."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run")
    parser.add_argument("--quick", action="store_true", help="a third of the turns")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("the page is written from a full run: leave --quick out")
    with tempfile.TemporaryDirectory() as folder:
        text = render(run_all(Path(folder), arguments.quick, lambda line: print(line, file=sys.stderr)))
    print(text)
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
