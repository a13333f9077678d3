"""The sequential pipeline's loops over the calibration batches: those that do nothing new are passed over.

llmcompressor/pipelines/sequential/pipeline.py fetches, for each batch, its inputs from the activation cache, runs the
subgraph's forward, and then updates and deletes what the cache has of that batch. One that is passed over leaves the
cache as that would: new tensors of the same shapes, without what is consumed.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from planner.rehearse.child.books import Deeds, TensorBooks
from planner.rehearse.child.cached import LARGE, Doubt, alike, holders, shape, tensors
from planner.rehearse.child.rounds import PERIODS, LoopRounds

PATIENCE = 8
"""Batches in a row that did the same: planner/compress/batches.py has as many."""
Item = tuple[int, Any]
Entry = dict[str, Any]


@dataclass(frozen=True)
class Cached:
    """What the cache has of one batch, without holding it."""

    shapes: Mapping[str, Hashable]
    bytes: Mapping[str, Mapping[int, int]]
    """Of each value's tensors, by identity."""
    holders: Mapping[int, Hashable]
    """Of each tensor, without the names that the cache has for it."""

    @classmethod
    def of(cls, entry: Entry) -> "Cached":
        """Raises Doubt where it is not all known."""
        found = {name: tensors(value) for name, value in entry.items()}
        names = Counter(key for inside in found.values() for key in inside)
        return cls(
            shapes={name: shape(value) for name, value in entry.items()},
            bytes={name: {key: each.nbytes for key, each in inside.items()} for name, inside in found.items()},
            # the cache's own names do not count, nor what is looked up here for each of them
            holders={key: holders(each, 2 * names[key]) for inside in found.values() for key, each in inside.items()},
        )


class CachedBatches:
    """The batches of one pass over a subgraph."""

    def __init__(self, books: TensorBooks, cache: Any) -> None:
        self._books, self._entries = books, cache.batch_intermediates
        self._number = 0
        self._before: Cached | None = None
        self._moved: dict[int, tuple[list[str], list[str]]] = {}
        """What each of the last batches that were run put into the cache and took from it."""

    def __len__(self) -> int:
        return len(self._entries)

    def kind(self, number: int) -> Hashable | None:
        """Shapes of all that the cache has of the batch, and all known numbers: hooks may read a mask that the subgraph
        does not."""
        try:
            return tuple((name, shape(value, self._books)) for name, value in self._entries[number].items())
        except Doubt:
            return None

    def begin(self, number: int) -> None:
        """This batch is about to be run."""
        self._number = number
        self._before = _cached(self._entries[number])

    def effect(self, done: Deeds) -> Hashable | None:
        """What the batch put into the cache and took from it; None where anything else grew, or has a new holder."""
        before, after = self._before, _cached(self._entries[self._number])
        if before is None or after is None:
            return None
        is_new = {name: after.bytes[name] != before.bytes.get(name) for name in after.bytes}
        came = [name for name in after.bytes if is_new[name]]
        gone = [name for name in before.bytes if name not in after.bytes]
        made = _joined(after.bytes[name] for name in came)
        had = _joined(before.bytes.values())
        lost = {key: nbytes for key, nbytes in had.items() if key not in after.holders}  # it may have had other names
        if made.keys() & had.keys():
            return None  # what was there has a new name
        if any(before.holders[key] != after.holders[key] for key in had.keys() - lost.keys()):
            return None
        if done.change != sum(made.values()) - sum(lost.values()):
            return None
        if (done.large_taken, done.large_given) != (_large(made), _large(lost)):
            return None
        self._moved.pop(self._number - max(PERIODS), None)
        self._moved[self._number] = came, gone
        return tuple((name, after.shapes[name]) for name in came), tuple(gone)

    def pass_over(self, number: int, like: int, done: Deeds) -> None:
        """Put into the cache, and take from it, what batch `like` did with its own part."""
        self._books.rise(done.rise)
        entry, model, made = self._entries[number], self._entries[like], dict[int, torch.Tensor]()
        came, gone = self._moved[like]
        entry.update({name: alike(model[name], self._books, made) for name in came})
        for name in gone:
            del entry[name]


def each_batch(own: Any, rounds: LoopRounds, batches: CachedBatches, cache: Any) -> Iterator[Item]:
    """The library's batches, but for those that would do nothing new.

    The inputs of a batch that is passed over are there already: they become those of the next one that is not.
    """
    ahead, last = 0, len(batches) - 1
    try:
        for item in own:
            number = item[0] + ahead
            passed = rounds.begin(number)
            if passed:
                number, ahead = number + passed, ahead + passed
                _fetch_ahead(cache, ahead)
            batches.begin(number)
            yield (number, item[1]) if ahead else item
            if ahead and number == last:
                return
    finally:
        own.close()
        vars(cache).pop("fetch", None)


def _fetch_ahead(cache: Any, ahead: int) -> None:
    """The library's own iteration counts on: it means the batch that many further."""
    own = type(cache).fetch

    def fetch(number: int, *values: Any, **named: Any) -> Any:
        return own(cache, number + ahead, *values, **named)

    cache.fetch = fetch


def _cached(entry: Entry) -> Cached | None:
    try:
        return Cached.of(entry)
    except Doubt:
        return None


def _joined(each: Iterable[Mapping[int, int]]) -> dict[int, int]:
    return {key: nbytes for inside in each for key, nbytes in inside.items()}


def _large(found: Mapping[int, int]) -> int:
    return sum(nbytes >= LARGE for nbytes in found.values())
