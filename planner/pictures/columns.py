"""Turns JSON's lists of alike objects into columns and back: what repeats itself stands together then, and packs well.

`[{"a": 1, "b": 2}, {"a": 3}]` becomes `{"$of": 2, "$columns": {"a": [1, 3], "b": [2, "$none"]}}`, and a list of lists
of objects the lengths of these and the columns of all: `{"$lengths": [..], "$all": ..}`. assets/page.js reads it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

NONE = "$none"
"""A field that an object does not have."""


def by_columns(value: Any) -> Any:
    """The same value; lists of objects by columns, at any depth."""
    if isinstance(value, Mapping):
        return {key: by_columns(each) for key, each in value.items()}
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return value
    if all(isinstance(each, Mapping) or each == NONE for each in value):
        return _columns(value)
    if all(isinstance(each, list | tuple) for each in value) and any(_has_objects(each) for each in value):
        return {"$lengths": [len(each) for each in value], "$all": by_columns([one for each in value for one in each])}
    return [by_columns(each) for each in value] if _has_objects(value) else value


def _columns(rows: Sequence[Any]) -> dict[str, Any]:
    keys = dict.fromkeys(key for row in rows if row != NONE for key in row)
    columns = {key: by_columns([NONE if row == NONE else row.get(key, NONE) for row in rows]) for key in keys}
    missing = [number for number, row in enumerate(rows) if row == NONE]
    return {"$of": len(rows), "$columns": columns, **({"$missing": missing} if missing else {})}


def _has_objects(value: Sequence[Any]) -> bool:
    return any(isinstance(each, Mapping | list | tuple) for each in value)


def by_rows(value: Any) -> Any:
    """What `by_columns` was given."""
    if isinstance(value, list):
        return [by_rows(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "$columns" in value:
        return list(_rows(value))
    if "$lengths" in value:
        flat = iter(by_rows(value["$all"]))
        return [list(islice(flat, length)) for length in value["$lengths"]]
    return {key: by_rows(each) for key, each in value.items()}


def _rows(table: Mapping[str, Any]) -> Iterator[Any]:
    columns, missing = {key: by_rows(each) for key, each in table["$columns"].items()}, set(table.get("$missing", ()))
    for number in range(table["$of"]):
        row = {key: column[number] for key, column in columns.items() if column[number] != NONE}
        yield NONE if number in missing else row
