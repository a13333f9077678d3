"""Where a traced forward asks a plain dict for an attribute, by its source alone."""

from collections import OrderedDict
from typing import Any

import pytest
import torch

from planner.models.tracing_stops import tracing_stops


class Output(OrderedDict[str, Any]):
    """A dict with attributes, as transformers' ModelOutput."""

    labels: Any = None


class Body(torch.nn.Module):
    """Makes an Output, and holds the target."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x: Any) -> Any:
        return Output(x=self.layer(x))


class Tuples(Body):
    def forward(self, x: Any) -> Any:
        return (self.layer(x),)


class Model(torch.nn.Module):
    def __init__(self, body: type[Body] = Body) -> None:
        super().__init__()
        self.body = body()
        self.flag = False


class AsksInTheTest(Model):
    def forward(self, x: Any, labels: Any = None) -> Any:
        outputs = self.body(x)
        return x, outputs.labels if outputs.labels is not None else labels


class AsksFirst(Model):
    def forward(self, x: Any, labels: Any = None) -> Any:
        outputs = self.body(x)
        if outputs.labels is not None and labels is None:
            labels = 1
        return labels


class AsksInAStarredCall(Model):
    def forward(self, x: Any) -> Any:
        outputs = self.body(x)
        return max(*outputs.labels)


class AsksSecond(Model):
    def forward(self, x: Any, labels: Any = None) -> Any:
        outputs = self.body(x)
        if labels is not None and outputs.labels is not None:
            labels = 1
        return labels


class AsksInTheBranch(Model):
    def forward(self, x: Any, labels: Any = None) -> Any:
        outputs = self.body(x)
        if labels is not None:
            labels = outputs.labels
        return labels


class AsksInTracedCode(Model):
    def forward(self, x: Any) -> Any:
        outputs = self.body(x)
        return outputs.labels


class AsksUnderAConstantTest(Model):
    def forward(self, x: Any) -> Any:
        outputs = self.body(x)
        return outputs.labels if self.flag else x


@pytest.mark.parametrize("model", [AsksInTheTest, AsksFirst, AsksInAStarredCall])
def test_what_is_surely_asked_of_a_traced_modules_output_stops_the_job(model: type[Model]) -> None:
    (note,) = tracing_stops(model(), ["body.layer"])
    assert note.kind == "fails"
    assert f"{model.__name__}.forward asks a plain dict for outputs.labels" in note.text
    assert "--sequential-targets Body" in note.text


@pytest.mark.parametrize("model", [AsksSecond, AsksInTheBranch, AsksInTracedCode, AsksUnderAConstantTest])
def test_what_may_never_be_asked_or_is_asked_outside_of_wrapped_code_does_not(model: type[Model]) -> None:
    assert tracing_stops(model(), ["body.layer"]) == ()


def test_an_output_stays_what_it_is_where_its_module_is_not_traced_or_makes_no_dict() -> None:
    assert tracing_stops(AsksInTheTest(), ["body"]) == ()
    assert tracing_stops(AsksInTheTest(Tuples), ["body.layer"]) == ()
