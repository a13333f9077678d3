"""A fault planted into the planner surfaces; one in the model's forward gives a note. Nothing hides in between."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP
from typer.testing import CliRunner

from planner.cli import app
from planner.errors import UnsupportedError
from planner.job import Build, Job
from planner.models import calls, dataflow, failures, recorder, tracing
from planner.models.build import build_model
from planner.models.built import built_model
from planner.models.calls import patched_forward
from planner.models.failures import ForwardError, forward_of_model, pass_on, run_forward
from planner.models.load import load_model
from planner.models.recorder import Recorder
from planner.models.source import ModelSource
from planner.serving import cache_layers, prefill_run
from planner.serving.cache_layers import read_cache
from planner.serving.prefill import PrefillTracer
from planner.training import tracing as training
from planner.training.trace import TraceRequest
from planner.training.tracing import trace_training

TINY = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 100, "tie_word_embeddings": False,
}  # fmt: skip
SOURCE = ModelSource(name="tiny", config=TINY)


class PlantedError(Exception):
    """No planner error, and of no type that anything could be told by."""


def planted(kind: type[Exception] = AttributeError) -> Callable[..., Any]:
    def fails(*_: object, **__: object) -> Any:
        raise kind("planted")

    return fails


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    return str(path)


def train() -> object:
    return trace_training(SOURCE, TraceRequest(seq_len=16, batch_size=1), ["model.layers.0", "model.layers.1"])


def prefill() -> tuple[str, ...]:
    tracer = PrefillTracer(built_model(SOURCE, Build()))
    tracer(16, 16)
    return tracer.notes


def cache() -> tuple[str, ...]:
    return read_cache(build_model(SOURCE, Job()), "tiny")[1]


# ---------------------------------------------------------------------- ours: a traceback
@pytest.mark.parametrize("kind", [AttributeError, TypeError, ValueError, KeyError, RuntimeError, PlantedError])
@pytest.mark.parametrize(
    ("home", "name"),
    [(calls.ModuleCalls, "_call"), (tracing.ModelTracer, "_read_value"), (tracing.ModelTracer, "on_read"),
     (tracing.ModelTracer, "_replay"), (recorder.Recorder, "_read"), (recorder.Recorder, "_made")],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_a_fault_in_the_tracer_surfaces(
    tiny: str, monkeypatch: pytest.MonkeyPatch, home: type, name: str, kind: type[Exception]
) -> None:
    monkeypatch.setattr(home, name, planted(kind))
    with pytest.raises(kind, match="planted"):
        load_model(tiny, Job(seq_len=16))


def test_a_fault_below_the_layer_surfaces(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataflow.DataflowTracer, "_note_reads", planted())
    with pytest.raises(AttributeError, match="planted"):
        load_model(tiny, Job(seq_len=16, sequential_targets=("LlamaAttention", "LlamaMLP")))


@pytest.mark.parametrize(
    ("run", "home", "name"),
    [(prefill, prefill_run.PrefillRun, "_replayed"), (prefill, prefill_run.PrefillRun, "_cache"),
     (cache, cache_layers._CacheReader, "_attention"), (cache, cache_layers, "_first_alone"),
     (train, training.StepTracer, "_border"), (train, training, "storage_key"), (train, training, "_adapt")],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_a_fault_in_serving_or_training_surfaces(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], object], home: Any, name: str
) -> None:
    monkeypatch.setattr(home, name, planted(TypeError))
    with pytest.raises(TypeError, match="planted"):
        run()


def test_a_wrong_call_of_torch_by_a_replayed_layer_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder runs the operator, but it is the planner that asked for it."""
    monkeypatch.setattr(prefill_run, "_highest", lambda _events: -1)  # a size that no tensor can have
    with pytest.raises(RuntimeError, match="negative"):
        prefill()


def test_a_fault_ends_the_command_with_a_traceback(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls.ModuleCalls, "_call", planted())
    result = CliRunner().invoke(app, ["plan", tiny, "--recipe", "gptq_w8a8", "--seq-len", "16", "--samples", "1"])
    assert result.exit_code == 1
    assert isinstance(result.exception, AttributeError)


# ---------------------------------------------------------------------- the model's own: a note
@pytest.mark.parametrize("kind", [AttributeError, TypeError, AssertionError, ZeroDivisionError, ImportError])
def test_a_forward_that_fails_is_estimated_with_its_error_in_the_note(
    tiny: str, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    monkeypatch.setattr(LlamaMLP, "forward", planted(kind))
    trace = load_model(tiny, Job(seq_len=16)).trace
    assert not any(segment.exact for segment in trace.segments)
    assert f"({kind.__name__}: planted)" in trace.notes[0].text


def test_a_forward_that_fails_leaves_a_note_in_serving_and_refuses_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaMLP, "forward", planted())
    assert any("estimated" in note and "planted" in note for note in prefill())
    assert any("derived from the config" in note and "planted" in note for note in cache())
    with pytest.raises(UnsupportedError, match=r"does not run without data \(AttributeError: planted\)"):
        train()


class Module(torch.nn.Module):
    """A model whose forward is the function that it is given."""

    def __init__(self, function: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x)


def on_meta(function: Callable[[torch.Tensor], object]) -> object:
    unknown = torch.empty(2, 3, device="meta")
    with torch.no_grad(), forward_of_model(), Recorder():
        return run_forward(Module(function), {"x": unknown})


@pytest.mark.parametrize(
    "function",
    [lambda x: x @ x, lambda x: torch.unique(x), lambda x: x.nothing, lambda x: x.new_empty(-1), lambda x: x.view("a")],
    ids=["shapes", "data", "attribute", "size", "argument"],
)
def test_what_the_model_asks_of_torch_is_its_own(function: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(UnsupportedError, match="does not run without data"):
        on_meta(function)


def test_a_layer_that_runs_inside_of_the_tracers_own_forward_is_the_models() -> None:
    linear = torch.nn.Linear(4, 4, device="meta")
    original = linear.forward

    def forward(x: torch.Tensor) -> Any:
        return pass_on(original, (x,), {})

    with patched_forward(linear, forward), pytest.raises(UnsupportedError, match="does not run without data"):
        on_meta(linear)


def test_inputs_that_a_forward_does_not_take_are_the_models() -> None:
    with pytest.raises(ForwardError, match="unexpected keyword argument 'labels'"), forward_of_model():
        run_forward(Module(lambda x: x), {"x": torch.empty(1), "labels": None})


def test_the_backward_of_the_models_operators_is_the_models() -> None:
    def backward() -> None:
        raise RuntimeError("no kernel")

    with pytest.raises(ForwardError, match="no kernel"), forward_of_model():
        failures.run_for_model(backward)
