"""Put something of ours in the place of a library's function for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ABSENT = object()


@contextmanager
def replaced(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """While this is open, `owner.name` is the replacement; afterwards all is as before, also after an error.

    What is put back is what the owner itself held: a classmethod unbound, and nothing where it only
    inherits the name.
    """
    own = vars(owner).get(name, _ABSENT)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        if own is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
