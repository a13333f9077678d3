"""Finer sequential targets: classes that the model has, and that planner accepts."""

import pytest

from planner.choose.targets import count_targets, finer_targets
from planner.job import Job
from planner.models.source import list_presets
from tests.built import graph_of

PRESETS = [preset.name for preset in list_presets()]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_finer_target_is_a_class_of_the_model(preset: str) -> None:
    graph = graph_of(preset, Job())
    classes = {name for module in graph.module_refs() for name in module.classes}
    targets = finer_targets(graph)
    assert "single Linears" in targets
    for names in targets.values():
        assert set(names) <= classes


def test_each_target_is_a_subgraph_of_its_own() -> None:
    graph = graph_of("mixtral-8x7b", Job())
    assert count_targets(graph, ("MixtralAttention", "ExpertMLPWithGate")) == 32 * (1 + 8)
    assert count_targets(graph_of("llama-3-8b", Job()), ("Linear",)) == 32 * 7


def test_a_dense_layer_is_cut_into_attention_and_mlp() -> None:
    assert finer_targets(graph_of("llama-3-8b", Job()))["parts of a layer"] == ("LlamaAttention", "LlamaMLP")


def test_a_mixture_of_experts_can_also_be_cut_at_each_expert() -> None:
    targets = finer_targets(graph_of("mixtral-8x7b", Job()))
    assert targets["parts of a layer"] == ("MixtralAttention", "MixtralSparseMoeBlock")
    assert targets["attention and single experts"] == ("MixtralAttention", "ExpertMLPWithGate")


def test_dense_layers_beside_experts_and_shared_experts_keep_targets_of_their_own() -> None:
    fine = finer_targets(graph_of("deepseek-r1", Job()))["attention and single experts"]
    assert fine == ("DeepseekV3Attention", "DeepseekV3MLP", "ExpertMLPWithGate")


def test_a_vision_towers_blocks_stay_targets_and_classes_without_a_module_go() -> None:
    parts = finer_targets(graph_of("gemma-3-27b", Job()))["parts of a layer"]
    assert "SiglipEncoderLayer" in parts
    assert "SiglipTextEmbeddings" not in parts
