"""The model as onload units: what they hold, how they repeat, and what crosses between them."""

from typing import Any

import pytest

from planner.compress.program import cut
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.models.load import load_model
from tests.built import graph_of
from tests.toys import EMBEDDING, HEAD, NORM, Layer, Linear, Toy

PRESETS = ("llama-3-8b", "qwen3-30b-a3b", "deepseek-r1", "qwen2.5-vl-7b", "gemma-3-27b", "qwen3-0.6b")


def graph(model: str, **options: Any) -> ModelGraph:
    return graph_of(model, Job(**({"seq_len": 2048} | options)))


def kinds(model: str) -> dict[str, int]:
    """How many units of each kind."""
    found: dict[str, int] = {}
    for unit in graph(model).units:
        found[unit.kind] = found.get(unit.kind, 0) + 1
    return found


def named(model: ModelGraph, kind: str) -> list[str]:
    return [unit.name for unit in model.units if unit.kind == kind]


# ---------------------------------------------------------------------- every byte has a unit
@pytest.mark.parametrize("model", PRESETS)
def test_units_sum_to_the_model(model: str) -> None:
    found = graph(model)
    assert sum(unit.bytes for unit in found.units) == found.bytes
    assert sum(unit.parameters for unit in found.units) == found.parameters
    assert found.bytes == found.parameters * 2  # bfloat16


@pytest.mark.parametrize("model", PRESETS)
def test_a_unit_counts_what_its_structure_holds(model: str) -> None:
    found = graph(model)
    for unit in found.units:
        structure = found.structures[unit.structure]
        assert (unit.class_name, unit.parameters, unit.bytes, unit.linears) == (
            structure.class_name,
            structure.count,
            structure.bytes,
            structure.linears,
        )


def test_a_tied_head_holds_no_bytes_of_its_own() -> None:
    tied, untied = graph("qwen3-0.6b"), graph("llama-3-8b")
    assert tied.tied_embeddings
    assert not untied.tied_embeddings
    heads = [next(unit for unit in g.units if unit.name == g.head) for g in (tied, untied)]
    assert [head.bytes for head in heads] == [0, 128_256 * 4096 * 2]
    assert all(parameter.tied for parameter in tied.structures[heads[0].structure].parameters)


def test_structures_count_only_what_they_own() -> None:
    structures = Toy(tied=True).graph.structures
    assert [(s.count, s.bytes) for s in structures[:3]] == [(25_000, 50_000), (200, 400), (0, 0)]


# ---------------------------------------------------------------------- which units there are
@pytest.mark.parametrize(
    ("model", "decoders", "extra"),
    [
        ("llama-3-8b", 32, {}),
        ("qwen3-30b-a3b", 48, {}),
        ("deepseek-r1", 61, {}),
        ("qwen2.5-vl-7b", 28, {"vision": 1}),
        ("gemma-3-27b", 62, {"vision": 1, "projector": 1}),
        ("qwen3-0.6b", 28, {}),
    ],
)
def test_a_model_is_its_embedding_its_layers_its_norm_and_its_head(
    model: str, decoders: int, extra: dict[str, int]
) -> None:
    assert kinds(model) == {"embedding": 1, "decoder": decoders, "norm": 1, "other": 1, "head": 1} | extra


def test_units_stand_in_model_order() -> None:
    names = [unit.name for unit in graph("llama-3-8b").units]
    assert names[0] == "model.embed_tokens"
    assert names[1:33] == [f"model.layers.{i}" for i in range(32)]
    assert names[33:] == ["model.norm", "model.rotary_emb", "lm_head"]


def test_equal_layers_share_a_structure() -> None:
    llama, deepseek = graph("llama-3-8b"), graph("deepseek-r1")
    assert len({unit.structure for unit in llama.units if unit.kind == "decoder"}) == 1
    numbers = [unit.structure for unit in deepseek.units if unit.kind == "decoder"]
    dense, experts = numbers[:3], numbers[3:]
    assert len(set(dense)) == len(set(experts)) == 1
    assert dense[0] != experts[0]


def test_experts_are_linears_of_their_own() -> None:
    layer = next(unit for unit in graph("qwen3-30b-a3b").units if unit.kind == "decoder")
    assert layer.linears == 4 + 3 * 128  # attention, then gate, up and down of each expert
    assert layer.parameters == 623_120_640


def test_units_say_when_they_are_onloaded() -> None:
    text, images = graph("qwen2.5-vl-7b"), graph("qwen2.5-vl-7b", layers=2, images=1, image_size=(224, 224))
    assert {unit.kind: unit.onload for unit in text.units} | {"other": ""} == {
        "vision": "never",
        "embedding": "head",
        "decoder": "own-subgraph",
        "norm": "last",
        "head": "setup",
        "other": "",
    }
    assert {unit.onload for unit in images.units if unit.kind == "vision"} == {"head"}


def test_every_own_subgraph_is_a_segment_of_the_trace() -> None:
    for model in PRESETS:
        found = graph(model)
        own = [unit.name for unit in found.units if unit.onload == "own-subgraph"]
        assert own == [segment.target for segment in found.trace.segments[1:]]


def test_targets_may_be_smaller_than_a_layer() -> None:
    found = graph("llama-3-8b", layers=2, sequential_targets=("LlamaAttention", "LlamaMLP"))
    own = [unit.name for unit in found.units if unit.onload == "own-subgraph"]
    assert own == ["model.layers.0.self_attn", "model.layers.0.mlp", "model.layers.1.self_attn", "model.layers.1.mlp"]
    assert sum(unit.bytes for unit in found.units) == found.bytes


# ---------------------------------------------------------------------- modules as recipes see them
@pytest.mark.parametrize("model", ["llama-3-8b", "qwen2.5-vl-7b"])
def test_module_references_are_all_modules_in_model_order(model: str) -> None:
    from planner.models.build import build_model
    from planner.models.source import load_source

    job = Job(layers=2)
    names = [name for name, _ in build_model(load_source(model), job.build).named_modules()]
    assert [ref.name for ref in load_model(model, job).module_refs()] == names


def test_weighted_modules_are_those_with_a_matrix() -> None:
    found = Toy(kinds=(Layer(linears=(Linear(name=".up", rows=400, columns=200),)),), order=(0,)).graph
    weighted = {unit.name: [(m.name, m.rows, m.columns) for m in found.weighted(unit)] for unit in found.units}
    assert weighted["model.layers.0"] == [(".up", 400, 200)]
    assert weighted[NORM] == []
    assert weighted[EMBEDDING] == weighted[HEAD] == [("", 500, 50)]


def test_sizes_are_told_by_kind() -> None:
    found = Toy(kinds=(Layer(), Layer(linears=(Linear(name=".up", rows=400, columns=200),))), order=(0, 1)).graph
    assert found.largest("decoder") == 400 * 200 + 200 * 400
    assert found.total("decoder") == 400 * 200 + 200 * 400 + 400 * 200
    assert found.total("norm", "embedding") == (400 + 50_000) // 2
    assert (found.largest("vision"), found.total("vision")) == (0, 0)


# ---------------------------------------------------------------------- networkx
def test_the_networkx_graph_has_a_node_per_unit_and_is_acyclic() -> None:
    import networkx

    found = graph("llama-3-8b")
    exported = found.to_networkx()
    assert exported.graph["name"] == "llama-3-8b"
    assert list(exported.nodes) == [unit.name for unit in found.units]
    assert networkx.is_directed_acyclic_graph(exported)
    for unit in found.units:
        assert exported.nodes[unit.name] == {"unit": unit, "structure": found.structures[unit.structure]}


def test_edges_carry_the_tensors_that_cross() -> None:
    exported = graph("llama-3-8b").to_networkx()
    hidden = 2048 * 4096 * 2
    between = exported.edges["model.layers.3", "model.layers.4"]
    assert between == {"tensors": (("hidden_states", hidden),), "bytes": hidden}
    into_first = exported.edges["model.embed_tokens", "model.layers.0"]
    assert into_first["bytes"] == sum(nbytes for _, nbytes in into_first["tensors"]) == 26_230_784
    assert into_first["bytes"] - hidden == exported.edges["model.embed_tokens", "model.layers.31"]["bytes"]


@pytest.mark.parametrize("model", ["llama-3-8b", "qwen3-30b-a3b", "deepseek-r1", "gemma-3-27b"])
def test_consumed_names_follow_from_the_last_edge_that_carries_a_tensor(model: str) -> None:
    found = graph(model)
    exported, order = found.to_networkx(), [unit.name for unit in found.units]
    last: dict[tuple[str, str], str] = {}
    for source, target in sorted(exported.edges, key=lambda edge: order.index(edge[1])):
        for name, _ in exported.edges[source, target]["tensors"]:
            last[source, name] = target
    by_edges: dict[str, set[str]] = {}
    for (_, name), target in last.items():
        by_edges.setdefault(target, set()).add(name)
    crossings, names = found.trace.crossings, found.trace.names()
    for subgraph in cut(found.trace, 1)[1:]:
        consumed = {names[n] for n in subgraph.consumed if crossings[n].producer >= 0}
        assert by_edges.get(subgraph.unit, set()) == consumed


def test_edges_and_the_cache_count_the_same_bytes() -> None:
    found = graph("llama-3-8b")
    exported = found.to_networkx()
    for subgraph in cut(found.trace, 1)[1:]:
        read = sum(found.trace.crossings[n].bytes for n in subgraph.reads)
        assert sum(bytes_ for _, _, bytes_ in exported.in_edges(subgraph.unit, data="bytes")) == read
