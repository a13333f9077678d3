"""What all recorders share: which cases to measure, with which Python, and how many failed."""

import argparse
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = Path(os.environ.get("METER_VENV") or ROOT / ".instruments" / "meter-venv")


class Recorded(Protocol):
    """Something to measure, with a name and a file for what was measured."""

    @property
    def name(self) -> str: ...

    @property
    def recorded(self) -> Path: ...


C = TypeVar("C", bound=Recorded)


def record_all(cases: Iterable[C], record: Callable[[C, str], bool], description: str | None) -> int:
    """Record the cases that the command line asks for; the number of those that failed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", default=ENVIRONMENT / "bin" / "python", help="of the meter's environment (%(default)s)"
    )
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--missing", action="store_true", help="only cases that are not recorded yet")
    arguments = parser.parse_args()
    if shutil.which(arguments.python) is None:
        parser.error(f"no python at {arguments.python}: run tests/meter/setup.sh first, or name it with --python")
    failed = 0
    for case in cases:
        if arguments.only in case.name and not (arguments.missing and case.recorded.exists()):
            failed += not record(case, str(arguments.python))
    return failed
