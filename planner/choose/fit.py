"""Does the job fit the machine, and if not: which smallest changes make it fit.

The search plans every state that it looks at. It begins with the job as asked; at each depth it extends the states that
come closest by each strategy that lowers what is over, and stops at the first depth where something fits. Changes that
leave the result alone go first; only where they do not suffice, samples and their length are cut.

A job that asks what is free is judged by shorter walks until it seems to fit; then by those of a plan, which may say
otherwise near the limit of a card. So whatever is taken as fitting is what a plan says.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log

from planner.choose.boundary import last_fitting, used_up_at
from planner.choose.estimator import Estimator, Trial
from planner.choose.floors import times_too_little
from planner.choose.schema import Choice, Fit, Largest, Strategies
from planner.choose.strategies import ASKED, Strategy, left_out, strategies
from planner.compress.card import card_notes
from planner.errors import PlannerError
from planner.hardware.demand import Demand, Resource, rank
from planner.hardware.machine import Machine
from planner.job import MAX_BATCH, MAX_SAMPLES, MAX_TOKENS, Job
from planner.notes import Note
from planner.sizing.demands import gpus_of_recipe, ram_of

DEPTH = 3
"""So many strategies together at most."""
WIDTH = 2
"""States that are extended at each depth: those that come closest."""
SHOWN = 5
FITTING = ("yes", "slow")
OF_WEIGHTS = ("mapped checkpoint", "weights", "written weights", "compressed copies")
"""Parts of a process's RAM that are less where weights stay on the disk."""
LEAST_SAMPLES, LEAST_TOKENS = 32, 256
"""Fewer and shorter samples are not advised."""
LIMITS = {"samples": min(MAX_SAMPLES, 2**16), "seq_len": min(MAX_TOKENS, 2**17), "batch_size": min(MAX_BATCH, 2**10)}
"""The largest value that `--max` tries of a field."""
STEPS = {"samples": 1, "seq_len": 128, "batch_size": 1}
"""To what the largest value is told exactly."""


@dataclass(frozen=True, slots=True)
class State:
    """One strategy, or several together."""

    strategy: Strategy
    trial: Trial


class Search:
    """Looks for changes that make one job fit one machine."""

    def __init__(self, estimator: Estimator, asked: Job, machine: Machine, *, with_budget: bool = True) -> None:
        """`with_budget`: also weights partly on the disk, by the machine's RAM, which is traced for each size of it."""
        self.estimator, self.machine = estimator.on_gpus(machine.gpus), machine
        self.asked = asked.on(machine)
        whole = Job.model_validate({**self.asked.model_dump(exclude_unset=True), "sequential_targets": None})
        graph = self.estimator.graph(whole)
        self.candidates = strategies(
            graph,
            self.estimator.recipe,
            self.asked,
            gpus=machine.gpus,
            ram_for_weights=self._ram_for_weights() if with_budget else None,
        )[1:]
        self.refused: dict[str, str] = dict(left_out(graph))
        """Strategies that cannot be planned for this model, and why."""
        self._asked_for: dict[Trial, tuple[Demand, ...]] = {}

    def fit(self) -> Fit:
        """The answer, and where it is no, what makes it yes."""
        start, answer = self._start(), self._choice(ASKED)
        fixes = self._fixes(start) if answer.fits == "no" else ()
        closest = self._closest() if answer.fits == "no" and not fixes else ()
        return Fit(
            model=start.trial.plan.model,
            recipe=start.trial.plan.recipe,
            job=self.asked,
            machine=self.machine,
            notes=(*start.trial.plan.notes, *card_notes(self.asked), *self.notes),
            fits=answer.fits,
            answer=answer,
            fixes=fixes,
            closest=closest,
            gpus_of_recipe=gpus_of_recipe(self.asked, answer.demands),
        )

    def strategies(self) -> Strategies:
        """All strategies, and where none of them fits alone, what fits together."""
        start = self._start()
        found = [self._choice(each) for each in (ASKED, *self.candidates) if self._state(each) is not None]
        found, idle = without_idle(found)
        if all(choice.fits == "no" for choice in found):
            found += [choice for choice in self._fixes(start) if choice.strategy not in {c.strategy for c in found}]
        plan = start.trial.plan
        return Strategies(
            model=plan.model,
            recipe=plan.recipe,
            job=self.asked,
            machine=self.machine,
            notes=(*plan.notes, *card_notes(self.asked), *self.notes, *on_idle(idle)),
            choices=ranked(found),
        )

    def combinations(self) -> tuple[Strategy, ...]:
        """What fits together where no strategy fits alone, the result the same."""
        found, _ = self._extend([self._start()], [each for each in self.candidates if each.is_same_result])
        return tuple(state.strategy for state in found)

    def quick_combinations(self) -> tuple[Choice, ...]:
        """The same as choices, without their smallest cards."""
        return tuple(map(self._quick, self.combinations()))

    def quick_choices(self) -> tuple[Choice, ...]:
        """The strategies that can be planned, without their smallest cards."""
        found = [each for each in (ASKED, *self.candidates) if self._state(each) is not None]
        return tuple(map(self._quick, found))

    def elsewhere(self, strategy: Strategy) -> Trial | None:
        """The strategy, simulated on a card of any generation; None where it cannot be planned for this model."""
        return self._unless_refused(strategy, self.estimator.trial_elsewhere)

    def planned(self, strategy: Strategy) -> Choice:
        """The strategy as a plan judges it, without its smallest card."""
        return self.estimator.choice(self.asked, strategy, self.machine, quick=True, exactly=True)

    def largest(self, field: str) -> Largest:
        """The largest value of this field of the job that fits."""
        limit, step = self._limit(field), STEPS[field]
        value = self._most(ASKED, {}, field, limit, step) if limit >= step else 0
        if not value and step > 1:
            value = self._most(ASKED, {}, field, min(limit, step - 1), 1)
        if not value:
            return Largest(field=field, value=None, limit=limit)
        job = Job.model_validate({**self.asked.model_dump(exclude_unset=True), **_with(self.asked, field, value)})
        command = self.estimator.command(job, self.machine)
        return Largest(field=field, value=value, limit=limit, command=command)

    # ------------------------------------------------------------------ inside
    def _limit(self, field: str) -> int:
        """The largest value that is tried: of tokens no more than the model takes."""
        positions = self.estimator.positions(self.asked) if field == "seq_len" else None
        return LIMITS[field] if positions is None else min(LIMITS[field], positions)

    def _ram_for_weights(self) -> int | None:
        """RAM that the job leaves for weights; None where nobody said how much RAM there is, or none is left."""
        ram, host = ram_of(self.machine), self.estimator.trial(self.asked).plan.host
        if ram is None or host is None:
            return None
        other = max(sum(size for part, size in phase.parts.items() if part not in OF_WEIGHTS) for phase in host.phases)
        return max(ram - other, 0) or None

    def _start(self) -> State:
        """The job as asked. Raises what `plan` raises."""
        state = self._state(ASKED)
        assert state is not None, "only other strategies are passed over"
        return state

    @property
    def notes(self) -> tuple[Note, ...]:
        """Strategies that were left out, and why."""
        return tuple(Note(kind="job", text=f"Not planned: {name}: {why}") for name, why in self.refused.items())

    def _most(self, base: Strategy, fixed: Mapping[str, int], field: str, limit: int, step: int) -> int:
        """The largest value of the field, in steps, with which `base` and the `fixed` fields fit; 0 where none does."""
        tried: dict[int, Sequence[Demand]] = {}

        def fits(steps: int) -> bool:
            state = self._state(_shorter(base, {**fixed, **_with(self.asked, field, steps * step)}))
            if state is not None:
                tried[steps] = self._demands(state.trial)
            return state is not None and self._does_fit(state)

        def guess(fitting: int, failing: int) -> int | None:
            is_known = fitting in tried and failing in tried
            return used_up_at(fitting, tried[fitting], failing, tried[failing]) if is_known else None

        top = limit // step
        least, most = 0, min(max(1, getattr(self.asked, field) // step), top)
        while fits(most):
            least, most = most, min(2 * most, top)
            if least == top:
                return top * step
        return last_fitting(fits, guess, least, most) * step

    def _fixes(self, start: State) -> tuple[Choice, ...]:
        if not self.machine.gpus:
            return ()
        if start.trial.fails:  # some other way may not fail
            return ranked([self._choice(state.strategy) for state in self._fitting(self.candidates)])[:SHOWN]
        same = [each for each in self.candidates if each.is_same_result]
        found, reached = self._extend([start], same)
        if not found:
            closest = sorted(reached, key=self._lacks)[:WIDTH]
            found = self._other_results([start.strategy, *(state.strategy for state in closest)])
        by_name = {state.strategy.name: state.strategy for state in found}
        choices = [self._choice(strategy) for strategy in by_name.values()]
        return ranked([choice for choice in choices if choice.fits in FITTING])[:SHOWN]

    def _other_results(self, bases: Sequence[Strategy]) -> list[State]:
        """Where nothing fits that compresses the model alike: the job as asked and the closest that was found, each
        with the calibration changed; the more of them together, the later they are tried."""
        others = [each for each in self.candidates if not each.is_same_result]
        joined = [_joined(base, step) for base in bases for step in others if not base.touches(step)]
        found = self._fitting(joined)
        found += [state for base in bases[:2] for state in self._shrunk(base)]
        return found or [state for base in (*bases[2:], *joined) for state in self._shrunk(base)]

    def _fitting(self, steps: Sequence[Strategy]) -> list[State]:
        hopeful = [each for each in steps if not self.is_hopeless(each)]
        return [state for each in hopeful if (state := self._state(each)) and self._does_fit(state)]

    def _shrunk(self, base: Strategy) -> Iterator[State]:
        """The most samples that fit, at the length as asked and at shorter ones: the compressed model is another one.

        Shorter lengths are tried by halves, until all samples fit.
        """
        seq_len = self.asked.seq_len
        least_samples, least_tokens = min(LEAST_SAMPLES, self.asked.samples), min(LEAST_TOKENS, seq_len)
        while seq_len >= least_tokens:
            cut = {"seq_len": seq_len} if seq_len < self.asked.seq_len else {}
            samples = self._most(base, cut, "samples", self.asked.samples, 1)
            if samples >= least_samples:
                changes = {**cut, **({"samples": samples} if samples < self.asked.samples else {})}
                state = self._state(_shorter(base, changes))
                yield from (state,) if state else ()
            if samples >= self.asked.samples:
                return
            seq_len //= 2

    def _extend(self, states: Sequence[State], steps: Sequence[Strategy]) -> tuple[list[State], list[State]]:
        """Those that fit at the first depth where some do, and the closest of all that were reached."""
        reached: list[State] = []
        for _ in range(DEPTH):
            for is_hopeless in (False, True):  # those that cannot fit may still come closest
                tried = self._followers(states, steps, is_hopeless)
                if found := [each for each in tried if self._does_fit(each)]:
                    return found, []
            states = sorted(tried, key=self._lacks)[:WIDTH]
            reached += states
            if not states:
                break
        return [], reached

    def _followers(self, states: Sequence[State], steps: Sequence[Strategy], with_hopeless: bool) -> list[State]:
        """The states, each extended by each step that helps it; the same changes in another order count once."""
        following = {}
        for state in states:
            over = [demand.resource for demand in _over(self._demands(state.trial))]
            for step in steps:
                strategy = _joined(state.strategy, step)
                is_tried = with_hopeless or not self.is_hopeless(strategy)
                if is_tried and not state.strategy.touches(step) and self._lowers(step, over):
                    following[frozenset(map(str, (*strategy.changes.items(), *strategy.recipe_changes)))] = strategy
        return [each for strategy in following.values() if (each := self._state(strategy))]

    def is_hopeless(self, strategy: Strategy, times: float = 1.0) -> bool:
        """It takes more than so many times what the machine has, which is known before it is planned."""
        return times_too_little(strategy, self.estimator.trial(self.asked).plan, self.machine) > times

    def _lowers(self, step: Strategy, over: Sequence[Resource]) -> bool:
        """Alone, the step lowers one of these resources."""
        alone, start = self._state(step), self._demands(self.estimator.trial(self.asked))
        if alone is None:
            return False
        return any(_asks(self._demands(alone.trial), each) < _asks(start, each) for each in over)

    def _does_fit(self, state: State) -> bool:
        return not self._lacks(state)

    def _lacks(self, state: State) -> float:
        """0 where nothing is over; else the sum of how many times too little there is, as logarithms."""
        over = _over(self._demands(state.trial))
        missing = (log(max(demand.at_least_bytes, 2) / max(demand.has_bytes or 0, 1)) + 0.001 for demand in over)
        return float("inf") if state.trial.fails else sum(missing)

    def _demands(self, trial: Trial) -> tuple[Demand, ...]:
        """What a trial asks of the machine: by shorter walks if something is over by these, else as a plan has it."""
        if trial not in self._asked_for:
            quick = trial.quick_demands(self.machine)
            self._asked_for[trial] = quick if _over(quick) else trial.quick_demands(self.machine, exactly=True)
        return self._asked_for[trial]

    def _state(self, strategy: Strategy) -> State | None:
        """The strategy, simulated; None where it cannot be planned for this model."""
        trial = self._unless_refused(strategy, self.estimator.trial)
        return None if trial is None else State(strategy, trial)

    def _unless_refused(self, strategy: Strategy, make: Callable[[Job, Strategy], Trial]) -> Trial | None:
        if strategy.name in self.refused:
            return None
        try:
            return make(self.asked, strategy)
        except PlannerError as error:
            if strategy is ASKED:
                raise
            self.refused[strategy.name] = str(error)
            return None

    def _quick(self, strategy: Strategy) -> Choice:
        return self.estimator.choice(self.asked, strategy, self.machine, quick=True)

    def _choice(self, strategy: Strategy) -> Choice:
        return self.estimator.choice(self.asked, strategy, self.machine)

    def _closest(self) -> tuple[Choice, ...]:
        states = [state for each in self.candidates if (state := self._state(each))]
        return tuple(self._choice(state.strategy) for state in sorted(states, key=self._lacks)[:3])


def without_idle(choices: Sequence[Choice]) -> tuple[list[Choice], list[str]]:
    """The choices, the job as asked first, without those that take and move what it does; and the names of these."""
    asked, *others = choices
    idle = [each for each in others if _figures(each) == _figures(asked)]
    return [each for each in choices if each not in idle], [each.strategy for each in idle]


def _figures(choice: Choice) -> tuple[object, ...]:
    demands = tuple((each.resource, each.needs_bytes, each.at_least_bytes, each.outcome) for each in choice.demands)
    moved = choice.moved_to_gpu_bytes, choice.moved_from_gpu_bytes
    return demands, moved, choice.passes, choice.fails, choice.samples, choice.seq_len, choice.is_same_result


def on_idle(names: Sequence[str]) -> Iterator[Note]:
    """What becomes of those: a note that names them, or none."""
    if names:
        yield Note(kind="job", text=f"The same figures as the job as asked: {', '.join(names)}.")


def ranked(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Those that fit first; then the same result, the most calibration data, the least movement."""
    return tuple(sorted(choices, key=_place))


def _place(choice: Choice) -> tuple[bool, bool, int, int, int, int]:
    tokens = choice.samples * choice.seq_len
    is_misfit = choice.fits not in FITTING
    return is_misfit, not choice.is_same_result, rank(choice.fits), -tokens, choice.moved_bytes, len(choice.changes)


def _joined(base: Strategy, step: Strategy) -> Strategy:
    """Both together."""
    return step if base is ASKED else base.with_(step)


def _shorter(base: Strategy, changes: Mapping[str, int]) -> Strategy:
    """The strategy with these values of the calibration data, which make another compressed model."""
    words = {"samples": "{:,} samples", "seq_len": "{:,} tokens a sample", "batch_size": "batch of {:,}"}
    name = " and ".join(words[field].format(value) for field, value in changes.items())
    cut = Strategy(name=name, changes=changes, is_same_result=False)
    return _joined(base, cut)


def _with(asked: Job, field: str, value: int) -> dict[str, int]:
    """The field with this value, and a batch that is no larger than the samples."""
    changes = {field: value}
    if field == "samples" and asked.batch_size > value:
        changes["batch_size"] = value
    if field == "batch_size" and asked.samples < value:
        changes["samples"] = value
    return changes


def _over(demands: Sequence[Demand]) -> list[Demand]:
    """Those of which there is too little."""
    return [demand for demand in demands if demand.outcome == "over"]


def _asks(demands: Sequence[Demand], resource: Resource) -> int:
    return next((demand.at_least_bytes for demand in demands if demand.resource == resource), 0)
