"""Work that is done again by the device alone leaves it where walking all of it would."""

import pytest

from planner.compress.devices import card
from planner.compress.ledger import Ledger
from planner.units import MIB

WALKED = 4


class Loop:
    """A loop with a name that holds the last round's tensor, and one that holds that of the round before."""

    def __init__(self) -> None:
        self.ledger = Ledger(card(1000 * MIB, 0))
        self.held = [self._taken(7), self._taken(7), self._taken(90)]

    def _taken(self, mib: int) -> int:
        return self.ledger.alloc("gpu", mib * MIB, "forward", "a loop")

    def round(self) -> None:
        """One time through it."""
        self.ledger.free(self.held.pop(0))
        temporary, kept = self._taken(3), self._taken(7)
        self.ledger.free(temporary)
        self.held.insert(1, kept)

    def layout(self) -> object:
        """Where what is held lies."""
        return self.ledger.layout("gpu", self.held)


@pytest.mark.parametrize("times", [0, 1, 2, 3, 9, 30])
def test_rounds_that_are_done_again_leave_the_device_where_walking_them_would(times: int) -> None:
    walked, short = Loop(), Loop()
    for _ in range(WALKED + times):
        walked.round()
    marks = []
    for _ in range(WALKED):
        marks.append(short.ledger.mark())
        short.round()
    assert short.ledger.again(marks, times)
    assert short.layout() == walked.layout()
    assert short.ledger.claims("gpu") == walked.ledger.claims("gpu")
