"""Models whose attention mask is lost when LLM Compressor traces them, and models that keep it."""

from typing import Any

import pytest
import torch
from transformers.masking_utils import create_causal_mask

from planner.job import Job
from planner.models import wrapping
from planner.models.build import build_model
from planner.models.load import load_model
from planner.models.source import load_source
from planner.models.trace_notes import LOST_MASK
from planner.models.wrapping import ancestors, loses_mask, without_lost_masks

LOSING = ("qwen3-30b-a3b", "mistral-7b", "mixtral-8x7b")
KEEPING = ("llama-3-8b", "deepseek-r1", "qwen2.5-7b", "gemma-3-27b")
SMALL = Job(layers=1, seq_len=1024, samples=1)
TARGET = "model.layers.0"


# ---------------------------------------------------------------------- real models
@pytest.mark.parametrize("model", LOSING)
def test_a_model_that_loses_its_mask_caches_none_and_says_so(model: str) -> None:
    trace = load_model(model, SMALL).trace
    assert not any(c.producer >= 0 and c.name == "attention_mask" for c in trace.crossings.values())
    assert LOST_MASK in trace.notes


@pytest.mark.parametrize("model", KEEPING)
def test_a_model_that_keeps_its_mask_caches_one_per_batch(model: str) -> None:
    trace = load_model(model, SMALL).trace
    masks = [c.bytes for c in trace.crossings.values() if c.producer >= 0 and c.name == "attention_mask"]
    assert masks
    assert set(masks) == {1024 * 1024 * 2}
    assert LOST_MASK not in trace.notes


@pytest.mark.parametrize(
    ("model", "lost"), [*((name, True) for name in LOSING[:2]), *((name, False) for name in KEEPING[:2])]
)
def test_the_model_whose_forward_makes_the_mask_decides(model: str, lost: bool) -> None:
    built = build_model(load_source(model), SMALL.build)
    assert [loses_mask(m) for m in ancestors(built, [TARGET])] == [False, lost]


def test_masks_are_none_only_while_the_model_runs() -> None:
    built = build_model(load_source("mistral-7b"), SMALL.build)
    home = __import__(type(built).__module__, fromlist=["create_causal_mask"])
    before = home.create_causal_mask
    with without_lost_masks(built, [TARGET]) as lost:
        assert lost
        assert home.create_causal_mask(config=None) is None
    assert home.create_causal_mask is before


def test_masks_come_back_when_the_forward_fails() -> None:
    built = build_model(load_source("mistral-7b"), SMALL.build)
    home = __import__(type(built).__module__, fromlist=["create_causal_mask"])
    before = home.create_causal_mask
    with pytest.raises(RuntimeError), without_lost_masks(built, [TARGET]):
        raise RuntimeError
    assert home.create_causal_mask is before


def test_nothing_is_touched_where_no_mask_is_lost() -> None:
    built = build_model(load_source("llama-3-8b"), SMALL.build)
    home = __import__(type(built).__module__, fromlist=["create_causal_mask"])
    with without_lost_masks(built, [TARGET]) as lost:
        assert not lost
        assert home.create_causal_mask is create_causal_mask


# ---------------------------------------------------------------------- which calls are cut off
class Plain(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return create_causal_mask(x)


class Aliased(torch.nn.Module):
    window = 8

    def forward(self, x: Any) -> Any:
        function = create_causal_mask if self.window is None else other_mask
        return function(x)


class UnderAnOpenTest(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        mask = None
        if x is not None:
            function = create_causal_mask
            mask = function(x)
        return mask


class UnderAnOpenTestThatReturns(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        if x is not None:
            function = create_causal_mask
            return function(x)
        return None


class UnderAConstantTest(torch.nn.Module):
    window = None

    def forward(self, x: Any) -> Any:
        if self.window is None:
            function = create_causal_mask
            return function(x)
        return None


class InTheBranchNotTaken(torch.nn.Module):
    window = 8

    def forward(self, x: Any) -> Any:
        if self.window is None:
            function = create_causal_mask
            return function(x)
        return None


class WithoutMask(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return other_mask(x)


def other_mask(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("module", "lost"),
    [
        (Plain, False),  # named in tracing_ignore: wrapped as a whole
        (Aliased, True),
        (UnderAnOpenTest, False),  # the whole `if` is wrapped and runs as it is
        (UnderAnOpenTestThatReturns, True),  # control flow that leaves the piece is not wrapped
        (UnderAConstantTest, True),
        (InTheBranchNotTaken, False),
        (WithoutMask, False),
    ],
)
def test_a_mask_is_lost_where_its_function_is_called_under_another_name_outside_wrapped_code(
    module: type[torch.nn.Module], lost: bool
) -> None:
    assert loses_mask(module()) is lost


def test_a_forward_without_source_loses_nothing() -> None:
    made: dict[str, Any] = {}
    exec("def forward(self, x):\n    return x\n", made)  # noqa: S102  # a function that has no file
    assert not loses_mask(type("Made", (torch.nn.Module,), {"forward": made["forward"]})())


def test_ancestors_are_the_modules_around_the_targets_that_have_a_forward() -> None:
    built = build_model(load_source("llama-3-8b"), SMALL.build)
    assert [type(m).__name__ for m in ancestors(built, [TARGET])] == ["LlamaForCausalLM", "LlamaModel"]
    below = ancestors(built, [f"{TARGET}.self_attn.q_proj"])
    assert {type(m).__name__ for m in below} == {
        "LlamaForCausalLM",
        "LlamaModel",
        "LlamaDecoderLayer",
        "LlamaAttention",
    }


def test_a_fault_of_planner_in_reading_a_test_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_args: Any) -> None:
        raise AttributeError("planted")

    monkeypatch.setattr(wrapping.ast, "fix_missing_locations", planted)
    with pytest.raises(AttributeError, match="planted"):
        load_model("qwen3-0.6b", Job(layers=1, seq_len=16))
