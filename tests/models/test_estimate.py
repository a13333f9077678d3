"""Models that cannot be traced: shapes alone, labelled as an estimate."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from planner.compress.binding import make_program
from planner.compress.recipes import load_recipe
from planner.job import Job
from planner.models.estimate import estimate_trace
from planner.models.load import load_model
from planner.models.traces import ModelTrace, Segment
from planner.notes import Note
from planner.planning import plan_graph
from planner.recipe.specs import ModuleRef, Selection
from tests import toys
from tests.toys import EMBEDDING, UNFOLDED, Toy

HIDDEN, HEADS, SEQ, BATCH = 40, 4, 10, 2
TOKENS = SEQ * BATCH
TOY = Toy(tokens=TOKENS, batch_size=BATCH)


def estimate() -> ModelTrace:
    graph, config = TOY.graph, SimpleNamespace(hidden_size=HIDDEN, num_attention_heads=HEADS)
    return estimate_trace(
        graph.units, graph.structures, config, Job(samples=2, batch_size=BATCH, seq_len=SEQ), 2, "too odd"
    )


def peak(segment: Segment) -> int:
    live: dict[int, int] = {}
    best = 0
    for event in segment.events:
        if event.kind == "alloc":
            live[event.id] = event.bytes
        elif event.kind == "free":
            del live[event.id]
        best = max(best, sum(live.values()))
    return best


# ---------------------------------------------------------------------- from shapes
def test_every_segment_of_an_estimate_is_inexact_and_the_note_says_why() -> None:
    trace = estimate()
    assert [segment.exact for segment in trace.segments] == [False] * 4
    (note,) = trace.notes
    assert note.kind == "estimate"
    assert note.text == "Activations are estimated from the shapes of the Linears, not traced: too odd"


def test_each_unit_with_a_subgraph_of_its_own_is_a_segment() -> None:
    assert [s.target for s in estimate().segments] == ["", "model.layers.0", "model.layers.1", "model.layers.2"]


def test_hidden_states_go_from_unit_to_unit_and_tokens_to_all() -> None:
    trace = estimate()
    hidden, tokens = TOKENS * HIDDEN * 2, 2 * TOKENS * 8
    assert [(c.name, c.bytes, c.producer, c.last_reader) for c in trace.crossings.values()] == [
        ("input_ids", tokens, -1, 3),
        ("hidden_states", hidden, 0, 1),
        ("hidden_states", hidden, 1, 2),
        ("hidden_states", hidden, 2, 3),
    ]
    assert (trace.batch_bytes, trace.sample_bytes) == (tokens, tokens // BATCH)


def test_a_unit_peaks_at_its_scores_or_its_widest_linear() -> None:
    scores = BATCH * HEADS * SEQ * SEQ * (2 + 4 + 4)
    widest = max(TOKENS * (x.rows + x.columns) * 2 for x in TOY.layer(0).linears)
    assert peak(estimate().segments[1]) == max(scores, widest, TOKENS * HIDDEN * 2)


def test_the_head_onloads_the_embedding_and_a_unit_all_of_its_weights() -> None:
    onloads = [{e.name: e.bytes for e in s.events if e.kind == "onload"} for s in estimate().segments]
    assert onloads[0] == {f"{EMBEDDING}.weight": TOY.embedding}
    assert onloads[1] == {f"{x.name}.weight": x.bytes(2) for x in TOY.layer(0).linears}


def test_hooks_see_each_linear_with_all_tokens() -> None:
    calls = [e.call for e in estimate().segments[1].events if e.kind == "exit" and e.call]
    assert [(c.module, c.rows, c.columns) for c in calls] == [(".up", TOKENS, 200), (".down", TOKENS, 400)]


# ---------------------------------------------------------------------- whole plans
@pytest.fixture
def untraceable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Llama whose layers refuse to run."""

    def forward(self: LlamaDecoderLayer, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("this layer needs data\nand more")

    monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
    path = tmp_path / "config.json"
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
    path.write_text(json.dumps({"model_type": "llama", "vocab_size": 100, **sizes}))
    return str(path)


def test_a_model_that_cannot_be_traced_is_planned_inexactly_with_a_note(untraceable: str) -> None:
    job = Job(samples=2, seq_len=64)
    plan = plan_graph(load_model(untraceable, job), load_recipe("gptq_w4a16"), job)
    passes = [step for step in plan.steps if step.subgraph is not None]
    assert passes
    assert not any(step.exact for step in passes)
    assert all(step.exact for step in plan.steps if step.subgraph is None)
    (note,) = [note for note in plan.notes if note.kind == "estimate"]
    assert note.text.endswith("its forward does not run without data (RuntimeError: this layer needs data)")


def test_an_estimate_takes_nothing_from_a_recipe_without_data(untraceable: str) -> None:
    job = Job(samples=2, seq_len=64)
    plan = plan_graph(load_model(untraceable, job), load_recipe("rtn_fp8_dynamic"), job)
    assert all(step.exact for step in plan.steps)
    assert not any(note.kind == "estimate" for note in plan.notes)


def test_estimated_layers_fold_and_leave_nothing(untraceable: str) -> None:
    job = Job(samples=2, seq_len=64)
    graph, recipe = load_model(untraceable, job), load_recipe("gptq_w4a16")
    plan = plan_graph(graph, recipe, job)
    assert plan == plan_graph(graph, recipe, job, shortcuts=UNFOLDED)
    assert plan.steps[-1].gpu.end_bytes == 0


def test_an_estimate_says_which_hooks_do_not_run_in_it(untraceable: str) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Watching(toys.UnreadSpec):
        type: ClassVar[str] = "WatchingModifier"

        def select(self, modules: Sequence[ModuleRef]) -> Selection:
            names = {ref.name for ref in modules if ref.name.endswith((".self_attn", ".input_layernorm", ".q_proj"))}
            return Selection(weights={}, watched=frozenset(names))

    graph = load_model(untraceable, Job(samples=2, seq_len=64))
    _, (note,) = make_program(graph, toys.recipe(Watching(where="awq.yaml: stage.awq")), graph.job)
    assert note == Note(
        kind="estimate",
        text="awq.yaml: stage.awq: what it keeps and computes in the hooks of model.layers.0.input_layernorm and 5 "
        "more is not counted.",
    )


def test_a_real_model_that_needs_data_is_estimated(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {"model_type": "xlstm", "hidden_size": 256, "num_heads": 4, "num_hidden_layers": 2, "vocab_size": 100}
        )
    )
    graph = load_model(str(path), toys.job(seq_len=128))
    assert not any(segment.exact for segment in graph.trace.segments)
    assert "mlstm_backend" in graph.trace.notes[0].text


# ---------------------------------------------------------------------- the laws of a trace
def assert_lawful(trace: ModelTrace) -> None:
    """What is read was written before, by an allocation that lives on, and is as large as both sides say."""
    written: set[int] = {number for number, crossing in trace.crossings.items() if crossing.producer < 0}
    for segment in trace.segments:
        assert set(segment.reads) <= written
        made = {e.id: e.bytes for e in segment.events if e.kind == "alloc"}
        gone = {e.id for e in segment.events if e.kind == "free"}
        for number, local in segment.writes:
            assert trace.crossings[number].producer == segment.index
            assert made[local] == trace.crossings[number].bytes > 0
            assert local not in gone
            written.add(number)
    for number, crossing in trace.crossings.items():
        assert crossing.last_reader == max(s.index for s in trace.segments if number in s.reads)


# Default configs of families that do not run without data; blt and pi0 say nowhere how wide their hidden states are.
@pytest.mark.parametrize("family", ["blt", "pi0", "jetmoe", "glm4v", "idefics"])
def test_what_an_estimate_consumes_was_written(family: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(AutoConfig.for_model(family).to_dict(), default=str))
    job = Job(samples=2, seq_len=32)
    graph = load_model(str(path), job)
    assert not any(segment.exact for segment in graph.trace.segments)
    assert_lawful(graph.trace)
    plan = plan_graph(graph, load_recipe("rtn_w8a8_static"), job)
    assert plan.steps[-1].gpu.end_bytes == 0
    assert plan.gpu.peak_bytes > 0


def test_the_estimate_of_a_toy_obeys_the_laws_of_a_trace() -> None:
    assert_lawful(estimate())


def test_an_estimate_without_a_number_of_heads_says_what_it_leaves_out() -> None:
    graph, job = TOY.graph, Job(samples=2, batch_size=BATCH, seq_len=SEQ)
    trace = estimate_trace(graph.units, graph.structures, SimpleNamespace(hidden_size=HIDDEN), job, 2, "too odd")
    assert "leaves attention scores out" in trace.notes[1].text


def test_what_stands_behind_the_one_target_runs_in_its_subgraph(tmp_path: Path) -> None:
    """blip: BlipTextEmbeddings is the only target outside of the vision tower, and 120 Linears come after it."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(AutoConfig.for_model("blip").to_dict(), default=str))
    job = Job(samples=2, seq_len=32)
    graph = load_model(str(path), job)
    (_, last) = graph.trace.segments
    assert sum(e.kind == "exit" for e in last.events) == 122  # 12 layers of 10, and the head's two
    assert {unit.name: unit.onload for unit in graph.units}["text_decoder.bert.encoder"] == "last"
    plan = plan_graph(graph, load_recipe("gptq_w8a8"), job)
    (step,) = [step for step in plan.steps if (step.phase, step.subgraph) == ("calibrate", 2)]
    assert step.gpu.by_kind["hessian"] > 12 * (9 * 768**2 + 3072**2) * 4
    assert_lawful(graph.trace)
