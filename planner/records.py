"""What every record that is written as JSON has in common."""

from collections.abc import Iterable, Sized
from typing import Any

from pydantic import BaseModel, ConfigDict

from planner.views import view

SHOWN = 3
"""Entries of a list that a repr shows; of a longer one it says how many there are."""


class Record(BaseModel):
    """A frozen record; a field it does not know is an error.

    Shown to a person, it is short: without fields that have their default value, and of long lists their length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __repr__(self) -> str:
        return view("text", self) or super().__repr__()

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None: the text."""
        found: str | None = view("html", self)
        return found

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if field.is_required() or value != field.default:
                yield name, _Many(value) if isinstance(value, tuple | list | dict) and len(value) > SHOWN else value

    def __dir__(self) -> Iterable[str]:
        """Fields and what the record says of itself, without pydantic's own names but for copies and JSON."""
        own = (name for kind in type(self).__mro__ if issubclass(kind, Record) for name in vars(kind))
        names = {*type(self).model_fields, *own, "model_copy", "model_dump", "model_dump_json"}
        return sorted(name for name in names if not name.startswith("_") and name != "model_config")


class _Many:
    """Stands for a long list in a repr."""

    def __init__(self, entries: Sized) -> None:
        self.length = len(entries)

    def __repr__(self) -> str:
        return f"<{self.length} entries>"
