"""The calibration batches, walked one after the other: by a pipeline, or by a modifier that runs them again.

All batches are equal except the last, which may be shorter. As soon as a batch leaves everything as an earlier one did,
and moved the growing holdings (the activation cache, whatever a modifier keeps for each sample) as that one did, the
batches since then would be repeated again and again. They are passed over up to the last two, and the growing holdings
change by what each round of them changed.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from planner.compress.context import Context
from planner.compress.rounds import WALKED, Batch, Quiet, again, next_round, play_on
from planner.compress.tape import actions_of
from planner.compress.traced_forward import Share
from planner.compress.traffic import Moved
from planner.job import Job
from planner.timeline import Handle

PATIENCE = 8
"""For AWQ and AutoRound: a search or a training begins with what a calibration leaves, and each run of a search with
what the one before left. Without it, 12 samples of Qwen2.5-7B came out 4 % too high in reserved bytes, and 100 of
Llama-2-13B 1.4 % too low; between layers, 64 samples of Llama-3-8B with AutoRound 17 % too low."""


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


def walk_batches(
    context: Context,
    count: int,
    batch: Callable[[int], None],
    *,
    patience: int = 1,
    in_places: bool = False,
    called: str = "",
) -> None:
    """Call `batch` with the numbers 0 to count - 1, but for those that would do what batches before them did.

    A batch that leaves all as an earlier one did is the end of a round, and further rounds would be equal. As many as
    fit before the last two batches are passed over; what grew in one grows on by their number. Where tensors have
    places, batches that differ in these alone settle (`Shortcuts.settled`): after `patience` times as many, where the
    places in which they end decide what all of a job needs. `in_places`: a few long rounds, which are over only where
    every large tensor lies where it lay, and every large free block. `called`: what one is to those who watch; empty
    for nothing.
    """
    ledger, rounds, settled = context.ledger, Rounds(), context.shortcuts.settled
    settled = None if in_places or settled is None else settled * patience
    # a second card would not see what the first one does without the books
    is_alone = [name for name in ledger.devices if ledger.places(name)] == ["gpu"]
    number, ends, quiet = 0, 0 if in_places else 2, Quiet(settled or 0)
    while number < count:
        growth, claims, carried = ledger.growth(), ledger.claims("gpu"), context.traffic.moved
        begun = len(ledger.tape("gpu"))
        _tell(context, called, f"{number + 1}")
        batch(number)
        number += 1
        if not context.shortcuts.batches:
            continue
        rounds.traffic.append(context.traffic.moved - carried)
        places = ledger.large_places("gpu") if in_places else None
        state = ledger.state(with_places=settled is None and not in_places), places
        length, moves = rounds.add(state, _moves(growth, ledger.growth()))
        quiet.count(is_quiet=ledger.claims("gpu") == claims)
        if settled and is_alone and not ledger.watch and ledger.keep == "peaks":
            rounds.done.append([action for part in ledger.tape("gpu")[begun:] for action in actions_of(part)])
            if length:
                number += length * _play(context, rounds, length, moves, (count - ends - number) // length, quiet)
        times = (count - ends - number) // length if length and quiet.is_settled else 0
        if times > 0:
            _tell(context, called, f"{number + 1} to {number + length * times}, like those before")
            _carry(context, rounds, length, moves, times)
            number += length * times
            rounds = Rounds()


def _tell(context: Context, called: str, which: str) -> None:
    """Those who watch, if they are to know."""
    if called and context.ledger.watch:
        context.ledger.watch.milestone(f"{called} {which}")


def _play(context: Context, rounds: "Rounds", length: int, moves: "Moves", most: int, quiet: Quiet) -> int:
    """Let the device alone do rounds that the books know, until they settle; returns how many it did."""
    ledger = context.ledger
    batches = next_round(rounds.done[-WALKED * length :], ledger.growth()) if quiet.has_room(length) else None
    times = play_on(ledger.device("gpu"), batches, most, quiet) if batches else 0
    if batches and times:
        ledger.note("gpu", [again(batches, times)])
        with ledger.unplaced():
            _carry(context, rounds, length, moves, times)
        rounds.repeat(length, times)
    return times


def _carry(context: Context, rounds: "Rounds", length: int, moves: "Moves", times: int) -> None:
    """What grows grows by so many rounds, and so does what is carried."""
    for (handle, size), change in sorted(moves.items(), key=lambda move: move[1]):  # first what goes
        context.ledger.grow(handle, size * change * times, abs(change) * times)
    context.traffic.repeat(sum(rounds.traffic[-length:], Moved()), times)


@dataclass(slots=True)
class Rounds:
    """Batches so far: the state that each one left, and by what it moved the growing holdings."""

    seen: dict[Hashable, int] = field(default_factory=dict)
    moved: list[Moves] = field(default_factory=list)
    traffic: list[Moved] = field(default_factory=list)
    """What each batch carried to the GPU and from it."""

    done: list[Batch] = field(default_factory=list)
    """What each did on the GPU, where that is told apart."""

    def repeat(self, length: int, times: int) -> None:
        """The last `length` batches came so many times more."""
        first = len(self.moved) - length
        self.seen = {key: number + length * times * (number > first) for key, number in self.seen.items()}
        self.moved += self.moved[first:] * times
        self.traffic += self.traffic[first:] * times

    def add(self, state: Hashable, moves: Moves) -> tuple[int, Moves]:
        """The number of batches since the last one that left the same, and what they moved; 0 if there is none."""
        self.moved.append(moves)
        key, number = (state, frozenset(moves.items())), len(self.moved)
        earlier = self.seen.get(key)
        self.seen[key] = number
        if earlier is None:
            return 0, {}
        total: Moves = {}
        for each in self.moved[earlier:]:
            for move, change in each.items():
                total[move] = total.get(move, 0) + change
        return number - earlier, total


def _moves(before: dict[Handle, dict[int, int]], after: dict[Handle, dict[int, int]]) -> Moves:
    """What the growing holdings that are there now have gained and lost."""
    changes = {
        (handle, size): sizes.get(size, 0) - before.get(handle, {}).get(size, 0)
        for handle, sizes in after.items()
        for size in {**before.get(handle, {}), **sizes}
    }
    return {move: change for move, change in changes.items() if change}
