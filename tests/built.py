"""Real models, each built and traced once for all tests of a worker (tests/conftest.py brings them together)."""

from functools import lru_cache

from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.load import load_model


@lru_cache(maxsize=16)
def graph_of(model: str, job: Job) -> ModelGraph:
    """The graph of a preset or a config file that does not change: graphs are frozen, so tests can share them.

    A bounded number: objects that stay alive cost the garbage collector time in every test after them.
    """
    return load_model(model, job)
