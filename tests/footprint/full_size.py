"""Preset models as servers see them, each loaded once for all tests."""

from functools import cache

from planner.footprint.formats import Format
from planner.footprint.model import ServedModel
from planner.footprint.tensors import StoredModel
from planner.models.serving import load_served


@cache
def served(model: str) -> ServedModel:
    return load_served(model)[0]


def stored(model: str, form: Format) -> StoredModel:
    return form.store(served(model))
