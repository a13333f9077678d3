from typing import Any

import pytest

from planner.errors import JobError
from planner.fields import Engine
from planner.serving.engines import ENGINES
from planner.serving.engines.facts import CONTEXT, GRAPHS, SHARE
from planner.serving.overhead import flat_share, overhead_parts
from planner.serving.schema import ServeOptions
from planner.units import GIB, MIB


def parts(engine: Engine, memory: int | None = 24 * GIB, **options: Any) -> dict[str, int]:
    found = overhead_parts(ENGINES[engine], ServeOptions(**options), weights=10 * GIB, memory=memory)
    assert all(part.source for part in found)
    return {part.name: part.bytes for part in found}


def test_vllm_leaves_a_share_of_the_card_to_others_and_the_cuda_context_lies_in_it() -> None:
    found = parts("vllm", memory=100 * GIB)
    assert found[CONTEXT] + found[SHARE] == 8 * GIB  # CacheConfig.gpu_memory_utilization is 0.92


def test_a_share_smaller_than_the_context_adds_nothing() -> None:
    assert parts("vllm", memory=4 * GIB)[SHARE] == 0
    assert parts("vllm", gpu_memory_utilization=1.0)[SHARE] == 0


def test_utilization_can_be_chosen() -> None:
    found = parts("vllm", memory=100 * GIB, gpu_memory_utilization=0.5)
    assert found[CONTEXT] + found[SHARE] == 50 * GIB


def test_without_a_card_nobody_knows_the_share() -> None:
    assert set(parts("vllm", memory=None)) == {CONTEXT, GRAPHS}


@pytest.mark.parametrize("engine", ["llama.cpp", "exllama"])
def test_other_engines_have_no_graph_pool_and_no_share(engine: Engine) -> None:
    assert set(parts(engine)) == {CONTEXT}


def test_every_part_can_be_given() -> None:
    found = parts("vllm", reserve={GRAPHS: 3 * GIB, CONTEXT: 300 * MIB, SHARE: 7})
    assert found == {CONTEXT: 300 * MIB, GRAPHS: 3 * GIB, SHARE: 7}


def test_a_flat_overhead_replaces_all_parts() -> None:
    assert parts("vllm", overhead="20%") == {"flat": 2 * GIB}
    assert parts("llama.cpp", overhead="2GiB") == {"flat": 2 * GIB}
    assert parts("vllm", overhead="0") == {"flat": 0}


@pytest.mark.parametrize("text", ["twenty", "20", "%", "-5%"])
def test_a_flat_overhead_is_a_share_or_a_size(text: str) -> None:
    with pytest.raises(JobError, match="20%"):
        flat_share(text)


def test_an_unknown_part_is_refused_with_the_nearest() -> None:
    with pytest.raises(JobError, match="did you mean cuda-graphs"):
        parts("vllm", reserve={"cuda-graph": 1})
