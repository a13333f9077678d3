"""Where a cold plan's time goes, and the simulation alone; prints seconds as JSON.

phases.py MODEL RECIPE ROUNDS [more words: without the search for the smallest card]
"""

import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any


class Clock:
    """Seconds between one lap and the next, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = perf_counter()

    def lap(self, name: str) -> None:
        """Give the time since the last lap this name."""
        now = perf_counter()
        self.laps[name] = now - self.last
        self.last = now


class Timed:
    """A function that notes how long each call takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds: list[float] = []

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        begun = perf_counter()
        result = self.function(*arguments, **options)
        self.seconds.append(perf_counter() - begun)
        return result


def main() -> None:
    """Plan once in a cold process, lap by lap, then again and again with the trace in hand.

    Python's collector is set as the command sets it.
    """
    from planner.collector import collect_seldom

    collect_seldom()
    clock = Clock()
    import torch  # noqa: F401  (the import is what is measured)

    clock.lap("import torch")
    import compressed_tensors.quantization  # noqa: F401  (the import is what is measured)
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: F401  (they import when named)

    clock.lap("import transformers and compressed-tensors")
    from planner import Job, load_model, load_recipe, planning
    from planner.compress.binding import make_program
    from planner.compress.fit import Rehearsal
    from planner.reports.forms import as_json

    clock.lap("import the planner")
    recipe = load_recipe(sys.argv[2])
    clock.lap("read the recipe")
    graph = load_model(sys.argv[1], Job())
    clock.lap("build the model on meta, list its units, trace a forward")
    plan = planning.plan_graph(graph, recipe, Job())
    clock.lap("match the recipe, simulate, make the record")
    as_json(plan)
    clock.lap("render JSON")
    simulate = planning.simulate = Timed(planning.simulate)
    whole = Timed(planning.plan_graph)
    for _ in range(int(sys.argv[3])):
        whole(graph, recipe, Job())
    program, _ = make_program(graph, recipe, Job())
    on_card, smallest = Timed(Rehearsal), Timed(Rehearsal.smallest)
    for _ in range(int(sys.argv[3])):
        rehearsal = on_card(program, Job())
        if len(sys.argv) == 4:
            smallest(rehearsal)
    seconds = {
        "simulate": simulate.seconds,
        "plan_graph": whole.seconds,
        "Rehearsal": on_card.seconds,
        "Rehearsal.smallest": smallest.seconds,
    }
    print(json.dumps({"laps": clock.laps, **seconds}))


main()
