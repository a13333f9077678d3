"""What the parent tells the child."""

import json
from dataclasses import dataclass
from pathlib import Path

RETURNING = "returning"
"""Phase from calibration's end on. The pipeline's own names are still there: they belong to the next run's setup, as in
a plan (planner/compress/pipelines/base.py finish), or to this one's finalize where none follows (report.py)."""

CAUSE = "cause"
"""Kind of a note on what may make the script fail: it is shown if the script does."""


class Refused(Exception):  # noqa: N818  (not an error of the script: the rehearsal declines)
    """The script asks for what a rehearsal does not do; the text is for the user."""


@dataclass(frozen=True)
class Settings:
    """One rehearsal, as planner/rehearse/run.py writes it."""

    folder: Path
    """Where events go, and whatever is made up; deleted afterwards."""
    books: Path
    script: str
    arguments: list[str]
    save: bool = False
    real_data: bool = False
    trust_remote_code: bool = False
    samples: int | None = None
    tokens: int | None = None
    """Rows and words of made-up data, as the script's constants say; None where they do not."""
    ram_bytes: int | None = None
    ranks: int = 1
    rank: int = 0
    most_samples: int | None = None
    """Samples that an oneshot calibrates with, at most."""
    every_batch: bool = False
    """Those, too, that would do what batches before them did."""

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """The settings in this file."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "folder": Path(values["folder"]), "books": Path(values["books"])})
