"""A sharding strategy is one row of a table: nothing outside of it knows a strategy's name."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

import planner
from planner.training.schema import Offload, OffloadTo, Sharding
from planner.training.sharding import copies_of, place, refused
from planner.training.strategies import FSDP, STRATEGIES, Buffer
from tests.training.test_states import states

ROOT = Path(planner.__file__).parent
OUTSIDE = [path for path in sorted(ROOT.rglob("*.py")) if path.name != "strategies.py"]
OFFLOADS: list[tuple[Offload, OffloadTo]] = [
    ("none", "cpu"), ("optimizer", "cpu"), ("optimizer+params", "cpu"), ("optimizer", "nvme"),
    ("optimizer+params", "nvme"),
]  # fmt: skip


def test_the_type_of_a_strategys_name_and_the_table_say_the_same() -> None:
    assert get_args(Sharding) == tuple(STRATEGIES)
    assert all(strategy.name == name for name, strategy in STRATEGIES.items())


def test_no_file_but_the_table_compares_with_a_strategys_name() -> None:
    names = set(STRATEGIES) - {"none"}  # an offload and checkpointing have a "none" too
    for path in OUTSIDE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                texts = {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
                assert not texts & names, f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_buffer_has_a_source_and_a_size(name: Sharding) -> None:
    for offload, to in OFFLOADS:
        if refused(name, offload, to):
            continue
        placed = place(states(), copies_of("bf16-mixed", name, "full", offload), name, offload, to, 8, 8)
        parts = (*placed.resident, *placed.backward, *placed.step, *placed.ram, *placed.nvme)
        assert all(part.bytes > 0 and part.source for part in parts)
        assert bool(placed.ram or placed.nvme) == (offload != "none")


def test_a_new_strategy_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in shards, gradients whole, and a buffer of its own: the sum follows from the row."""
    buffer = Buffer(name="ring", where="backward", bytes=lambda shares: 10 * shares.gpus, source="made up")
    monkeypatch.setitem(STRATEGIES, "ring", replace(FSDP, whole_gradients=True, buffers=(buffer,)))
    new: Any = "ring"  # a Sharding as of the row above
    copies = copies_of("bf16-mixed", new, "full")
    placed = place(states(), copies, new, "none", "cpu", 4, 4)
    assert [(part.name, part.bytes) for part in placed.backward] == [("ring", 40)]
    assert placed.gradients == 4 * states().trained
    assert {part.name: part.bytes for part in placed.resident}["trained weights"] == states().trained
    assert "FSDP" in refused(new, "optimizer", "nvme")
