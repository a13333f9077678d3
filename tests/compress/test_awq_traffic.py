"""What AWQ carries to the GPU and from it."""

from planner.compress.context import EVERYTHING, Shortcuts
from planner.compress.modifiers.awq import AwqSpec
from planner.compress.schema import Plan
from planner.planning import plan_graph
from planner.recipe.awq_mappings import AwqMapping
from tests import toys
from tests.toys import Layer, Linear, Toy

LAYERS = 9
"""More equal ones than are walked one by one."""


def planned(weights: str, shortcuts: Shortcuts | None = None) -> Plan:
    """In the basic pipeline, where the equal mappings of all layers come one after the other."""
    layer = Layer(
        linears=(Linear(name=".gate_proj", rows=20, columns=20), Linear(name=".up_proj", rows=20, columns=20))
    )
    model = Toy(kinds=(layer,), order=(0,) * LAYERS)
    awq = AwqSpec(
        where="toy.yaml: awq",
        mappings=(AwqMapping("re:.*up_proj$", ("re:.*gate_proj$",)),),
        offload_device="cpu",
        duo_scaling=False,
        n_grid=2,
    )
    recipe = toys.recipe(awq, toys.rtn(toys.weights(strategy="channel", group_size=None)))
    job = toys.job(samples=9, pipeline="basic", weights=weights)
    return plan_graph(model.graph, recipe, job, shortcuts=shortcuts)


def moved(plan: Plan) -> list[tuple[int, int]]:
    return [(step.moved_to_gpu_bytes, step.moved_from_gpu_bytes) for step in plan.steps]


def test_a_model_that_runs_on_the_cpu_has_its_arguments_there() -> None:
    assert set(moved(planned("cpu"))) == {(0, 0)}


def test_equal_mappings_carry_as_much_as_if_each_was_walked() -> None:
    folded, walked = moved(planned("gpu")), moved(planned("gpu", EVERYTHING))
    assert folded == walked
    assert any(to_gpu for to_gpu, _ in walked)
