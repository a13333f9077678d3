"""A mapping of bounded size, and one for what nobody has asked for yet."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

V = TypeVar("V")


class Latest(Generic[V]):
    """A mapping that forgets what was asked for the longest ago, once it holds more than `most`.

    One with a `base` is for what is made ahead. It finds what the base has without counting as somebody who asked, so
    that the base forgets nothing for it. The base finds what was made ahead, and takes it over once it is asked for.
    """

    def __init__(self, most: int, base: "Latest[V] | None" = None) -> None:
        self.most = most
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._base = base
        self._ahead: Latest[V] | None = None
        if base is not None:
            base._ahead = self

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Hashable) -> bool:
        return any(key in each._values for each in self._all())

    def __iter__(self) -> Iterator[Hashable]:
        return iter([key for each in self._all() for key in each._values])

    def __getitem__(self, key: Hashable) -> V:
        if self._base is not None and key in self._base._values:
            return self._base._values[key]
        if key not in self._values and self._ahead is not None:
            self.put(key, self._ahead._values.pop(key))
        self._values.move_to_end(key)
        return self._values[key]

    def peek(self, key: Hashable) -> V:
        """The value of this key, which nobody asks for."""
        return next(each._values[key] for each in self._all() if key in each._values)

    def forget_latest(self) -> None:
        """Forget the value that was asked for last."""
        if self._values:
            self._values.popitem()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of this key, made where it is not there. Nothing is kept of one that could not be made."""
        if key not in self:
            self.put(key, make())
        return self[key]

    def put(self, key: Hashable, value: V) -> None:
        """Keep this value, in the place of the one that is there."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self.most:
            self._values.popitem(last=False)

    def _all(self) -> "Iterator[Latest[V]]":
        """This one, and the other where keys are found."""
        yield self
        if (other := self._base if self._base is not None else self._ahead) is not None:
            yield other
