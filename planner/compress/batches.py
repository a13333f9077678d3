"""The calibration batches, walked one after the other: by a pipeline, or by a modifier that runs them again.

All batches are equal except the last, which may be shorter. As soon as one batch leaves everything as it found it, and
moves the growing holdings (the activation cache, whatever a modifier keeps for each sample) as the batch before did,
every later one would do the same. The batches between it and the last two are then passed over, and for each of them
the growing holdings change by what that one batch changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

from planner.compress.context import Context, Share
from planner.compress.ledger import Handle
from planner.job import Job


@dataclass(frozen=True, slots=True)
class Batches:
    """The calibration batches by number."""

    job: Job

    @property
    def count(self) -> int:
        return self.job.batches

    def is_last(self, number: int) -> bool:
        return number == self.count - 1

    def share(self, number: int) -> Share:
        """(samples, batch size): the part of a whole batch that this one is."""
        if self.is_last(number) and self.count > 1:
            return self.job.last_batch_size, self.job.batch_size
        return 1, 1


Moves = dict[tuple[Handle, int], int]
"""By how many tensors each growing holding changed, by holding and size of the tensor."""


def walk_batches(context: Context, count: int, batch: Callable[[int], None]) -> None:
    """Call `batch` with the numbers 0 to count - 1, but for those that would do what the last two before them did."""
    ledger = context.ledger
    number, before = 0, None
    while number < count:
        growth = ledger.growth()
        batch(number)
        number += 1
        if not context.shortcuts.batches:
            continue
        moves = _moves(growth, ledger.growth())
        after = (ledger.state(), moves)
        passed_over = count - 2 - number
        if after == before and passed_over > 0:
            for (handle, size), change in sorted(moves.items(), key=lambda move: move[1]):  # first what goes
                ledger.grow(handle, size * change * passed_over, abs(change) * passed_over)
            number += passed_over
        before = after


def _moves(before: dict[Handle, dict[int, int]], after: dict[Handle, dict[int, int]]) -> Moves:
    """What the growing holdings that are there now have gained and lost."""
    changes = {
        (handle, size): sizes.get(size, 0) - before.get(handle, {}).get(size, 0)
        for handle, sizes in after.items()
        for size in {**before.get(handle, {}), **sizes}
    }
    return {move: change for move, change in changes.items() if change}
