"""Work that is done again on a device: a card is brought to where other work of the same kind left it."""

from planner.compress.devices import Script, card
from planner.compress.tape import Outcomes
from planner.units import GIB, MIB

SUMS, WEIGHT = 1, 2


def test_a_holding_of_which_the_last_is_taken_plays_its_part_to_the_end() -> None:
    device = card(GIB, 0)
    device.do([(SUMS, 8 * MIB, 2), (WEIGHT, 32 * MIB, 1)], helds=[])
    take = Script(actions=((SUMS, 8 * MIB, -1), None), begin=(SUMS, WEIGHT), end=(SUMS, WEIGHT))
    outcomes = Outcomes(take)
    for left in (1, 0):
        after, _ = outcomes.of(device, (SUMS, WEIGHT), settled=None)
        device.restore(after, (SUMS, WEIGHT))
        assert device.allocator.use.allocated == (32 + 8 * left) * MIB
    device.do([(WEIGHT, 32 * MIB, -1)], helds=[])
    assert device.allocator.use.allocated == 0
