"""Replaces a library's function for the time of a block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """Inside the block `owner.name` is the replacement; afterwards all is as before, also after an error.

    What is restored is the owner's own attribute: a classmethod as it was defined, and no attribute where the
    owner only inherits the name.
    """
    original = vars(owner).get(name, _ABSENT)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if original is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
