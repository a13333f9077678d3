"""Real models, each built and traced once for all tests of a worker (tests/conftest.py brings them together)."""

from functools import cache

from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.load import load_model


@cache
def graph_of(model: str, job: Job) -> ModelGraph:
    """The graph of a preset or a config file that does not change: graphs are frozen, so tests can share them."""
    return load_model(model, job)
