"""The lines of an answer: JSON, one kind each."""

import json
from typing import Any, Literal

from pydantic import BaseModel

Kind = Literal[
    "progress",
    "verdict",
    "plan",
    "picture",
    "smallest",
    "choice",
    "strategies",
    "card",
    "idle",
    "error",
    "done",
    "superseded",
]


def line(kind: Kind, **fields: Any) -> bytes:
    """One line of JSON."""
    parts = (f"{json.dumps(name)}:{_json(value)}" for name, value in fields.items())
    return ("{" + ",".join((f'"kind":"{kind}"', *parts)) + "}\n").encode()


def _json(value: Any) -> str:
    return value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(value)


def kind_of(data: bytes) -> str:
    """The kind of a line, without reading all of it."""
    return data[9 : data.index(b'"', 9)].decode()
