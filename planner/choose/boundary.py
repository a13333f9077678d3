"""The largest value that fits, found by few trials: each costs a simulation."""

from collections.abc import Callable, Sequence

from planner.hardware.demand import Demand

Demands = Sequence[Demand]


def last_fitting(
    fits: Callable[[int], bool], guess: Callable[[int, int], int | None], fitting: int, failing: int
) -> int:
    """The last value that fits, between one that does (or 0) and a larger one that does not.

    Looked for where `guess(fitting, failing)` says and beside it, then half-way between those that are known. First of
    all 1 is tried: where it does not fit, none does.
    """

    def narrow(value: int) -> None:
        nonlocal fitting, failing
        if fitting < value < failing:
            fitting, failing = (value, failing) if fits(value) else (fitting, value)

    if not fitting:
        narrow(1)
    while failing - fitting > 1:
        guessed = guess(fitting, failing)
        if guessed is not None:
            for value in (guessed, guessed + 1, guessed - 1):
                narrow(value)
        narrow((fitting + failing) // 2)
    return fitting


def used_up_at(fitting: int, asked: Demands, failing: int, over: Demands) -> int | None:
    """The value at which the first resource is used up, if what is `asked` with one value grows evenly to what is asked
    with the other, where something is `over`; None where it does not grow."""
    before = {demand.resource: demand.at_least_bytes for demand in asked}
    values = []
    for demand in over:
        if demand.outcome == "over":
            least, most = before.get(demand.resource, 0), demand.at_least_bytes
            if demand.has_bytes is None or most <= least:
                return None
            values.append(fitting + (demand.has_bytes - least) * (failing - fitting) // (most - least))
    return min(values, default=None)
