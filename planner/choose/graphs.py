"""One model in all the ways in which jobs cut it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from planner.accepted import called, check_model
from planner.job import Build, Job
from planner.models.graph import ModelGraph
from planner.models.source import Named

if TYPE_CHECKING:
    from planner.models.built import BuiltModel


class Graphs:
    """The model, built once for each size, and traced once for each cut of it. `say` is told what takes time."""

    def __init__(self, model: Named, say: Callable[[str], None]) -> None:
        check_model(model)
        self.model, self._say = model, say
        self._built: dict[Build, BuiltModel] = {}
        self._graphs: dict[tuple[object, ...], ModelGraph] = {}

    def of(self, job: Job) -> ModelGraph:
        """The model as this job cuts it. Raises ModelError; JobError for targets that match nothing."""
        from planner.models.load import graph_of

        key = job.decides_graph
        if key not in self._graphs:
            built = self.built(job.build)
            self._say(f"tracing {called(self.model)}")
            self._graphs[key] = graph_of(built, job)
        return self._graphs[key]

    def built(self, build: Build) -> "BuiltModel":
        """The model of this size on the meta device. Raises ModelError."""
        from planner.models.load import load_built

        if build not in self._built:
            self._say(f"building {called(self.model)} without weights")
            self._built[build] = load_built(self.model, build)
        return self._built[build]
