"""Every report can be written in every form that the command line offers."""

from collections.abc import Mapping
from typing import Any, get_args

import pytest

from planner.reports import accuracy, bpw, compare, formats, graph, listing, machines, plan, serve, train
from planner.reports.forms import OutputFormat, everywhere

TABLES: dict[str, Mapping[str, Any]] = {
    "plan": plan.formats(),
    "compare": compare.FORMATS,
    "graph": graph.FORMATS,
    "serve": serve.FORMATS,
    "formats": formats.FORMATS,
    "bpw": bpw.FORMATS,
    "train": train.FORMATS,
    "accuracy": accuracy.formats(),
    "models": listing.MODELS,
    "recipes": listing.RECIPES,
    "gpus": listing.GPUS,
    "machines": machines.MACHINES,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_report_has_every_form_that_can_be_asked_for(name: str) -> None:
    assert set(TABLES[name]) == set(get_args(OutputFormat))


def test_a_form_that_is_the_same_everywhere_takes_any_terminal() -> None:
    render = everywhere(str.upper)
    assert render("a", width=None, color=False) == render("a", width=40, color=True) == "A"
