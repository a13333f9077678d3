"""Preset models as servers see them, each loaded once for all tests."""

from functools import cache

from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import StoredModel
from planner.serving.model import load_served


@cache
def served(model: str) -> ServedModel:
    return load_served(model)[0]


def stored(model: str, form: Format) -> StoredModel:
    return form.store(served(model))
