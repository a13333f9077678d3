"""How records show themselves to people: in a notebook, at a prompt.

Records lie below the reports that put them into words. So a record asks, once somebody looks at it, the module that the
front door (`planner/__init__.py`) has named; until then nothing of it is imported.
"""

from importlib import import_module
from typing import Any

_homes: list[str] = []


def shown_by(module: str) -> None:
    """Name the module whose functions show records."""
    _homes[:] = [module]


def view(name: str, record: Any) -> Any:
    """What the function of this name makes of the record; None where nobody shows records."""
    return getattr(import_module(_homes[0]), name)(record) if _homes else None
