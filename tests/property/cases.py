"""The cases on which laws are held, and what is planned and walked of them once for several."""

from collections.abc import Callable
from functools import cache, lru_cache

from hypothesis import HealthCheck, given, seed, settings

from planner.compress.binding import make_program
from planner.compress.context import Shortcuts
from planner.compress.modifiers.awq import AwqSpec
from planner.compress.oneshot import simulate
from planner.compress.program import Outcome
from planner.compress.schema import Plan
from planner.job import Job
from planner.planning import plan_graph
from planner.recipe.specs import Recipe
from planner.units import INT64
from tests.books import WatchedLedger, watched
from tests.property import strategies
from tests.toys import UNFOLDED, Toy

Case = tuple[Toy, Recipe, Job]
EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

CALIBRATING = ("basic", "sequential", "independent")
"""The pipelines that run the model on samples."""
OF_AWQ = 4
"""Cases of AWQ in each of them, at least."""


@cache
def any_cases() -> tuple[Case, ...]:
    """A hundred cases, drawn once: what several laws plan or walk of one of them is done once too.

    Which ones Hypothesis draws hangs on the modules that are loaded by then, as it takes constants from them: so some
    are drawn of AWQ in each of its pipelines.
    """
    drawn: list[Case] = []

    def draw(case: Case) -> None:
        drawn.append(case)

    of_awq = [strategies.cases(with_awq=True, pipeline=pipeline) for pipeline in CALIBRATING]
    rest = EXAMPLES.max_examples - OF_AWQ * len(of_awq)
    for some, count in ((strategies.cases(), rest), *((some, OF_AWQ) for some in of_awq)):
        seed(0)(settings(EXAMPLES, max_examples=count)(given(some)(draw)))()
    return tuple(drawn)


def of_any_case(law: Callable[[Case], None]) -> Callable[[], None]:
    """The law on the hundred cases; where one breaks it, Hypothesis looks for the smallest that does."""

    def test() -> None:
        try:
            for case in any_cases():
                law(case)
        except Exception:
            seed(0)(EXAMPLES(given(strategies.cases())(law)))()
            raise

    return test


def awq_of(recipe: Recipe) -> list[AwqSpec]:
    """The recipe's AWQ modifiers."""
    return [spec for spec in recipe.modifiers if isinstance(spec, AwqSpec)]


@lru_cache(maxsize=512)
def planned(case: Case, shortcuts: Shortcuts | None = None) -> Plan:
    toy, recipe, job = case
    return plan_graph(toy.graph, recipe, job, shortcuts=shortcuts)


@lru_cache(maxsize=128)
def simulated(case: Case) -> tuple[Outcome, WatchedLedger]:
    """Every layer walked."""
    toy, recipe, job = case
    context, ledger = watched(job)
    context.shortcuts = UNFOLDED
    program, _ = make_program(toy.graph, recipe, job)
    return simulate(program, context), ledger


def masks_bytes(job: Job) -> int:
    """The loss masks of all samples of one process: an int64 for each token."""
    return job.rank_samples * job.seq_len * INT64 * job.loss_mask
