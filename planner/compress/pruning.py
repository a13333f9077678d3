"""Which jobs can remove whole experts: checked before anything is simulated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.compress.program import Run
from planner.errors import JobError, UnsupportedError
from planner.job import Job

if TYPE_CHECKING:
    from planner.models.graph import ModelGraph


def check_pruning(graph: "ModelGraph", runs: Sequence[Run], job: Job) -> None:
    """Nothing for a recipe whose modifiers keep all experts.

    Raises UnsupportedError where weights lie elsewhere than in CPU memory, and JobError for a pipeline without data:
    reap/base.py `on_finalize` would write fewer experts into the config than `on_sequential_epoch_end` has left.
    """
    spec = next((run.spec for run in runs if run.spec.experts_left(graph.facts) is not None), None)
    if spec is None:
        return
    if job.weights != "cpu":
        raise UnsupportedError(
            f"--weights {job.weights}: {spec.type} is modelled with weights in CPU memory alone; leave out --weights"
        )
    if job.pipeline == "datafree":
        raise JobError(
            f"--pipeline datafree: {spec.type} would see no data and remove nothing, and the saved config.json would "
            "count fewer experts all the same; leave out --pipeline"
        )
