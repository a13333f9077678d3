"""Python's names and what is onloaded."""

import pytest

from planner.compress.context import Context
from planner.compress.holdings import About, Owner
from planner.units import GIB
from tests import toys


@pytest.fixture
def context() -> Context:
    return Context(toys.job())


def peak(context: Context) -> int:
    return context.ledger.close_step()["gpu"].bytes


# ---------------------------------------------------------------------- names
def test_assignment_takes_the_new_tensor_before_the_old_one_goes(context: Context) -> None:
    with context.frame("compress", "f") as frame:
        frame.assign("H", 100)
        frame.assign("H", 70)
        assert context.ledger.live("gpu") == 70
    assert peak(context) == 100 + 70


def test_returning_frees_what_the_names_hold_but_not_what_is_handed_over(context: Context) -> None:
    with context.frame("compress", "f") as frame:
        frame.assign("kept", 10)
        frame.assign("gone", 20)
        result = frame.hand_over("kept")
    assert context.ledger.live("gpu") == context.ledger.size(result) == 10


def test_an_exception_leaves_the_function_too(context: Context) -> None:
    with pytest.raises(RuntimeError), context.frame("compress", "f") as frame:
        frame.assign("x", 10)
        raise RuntimeError
    assert context.ledger.live("gpu") == 0


def test_binding_a_name_to_its_own_tensor_frees_nothing(context: Context) -> None:
    with context.frame("compress", "f") as frame:
        handle = frame.assign("x", 10)
        frame.bind("x", handle)
        assert context.ledger.live("gpu") == 10


def test_binding_lets_the_old_tensor_go(context: Context) -> None:
    with context.frame("compress", "f") as frame:
        frame.assign("x", 10)
        frame.bind("x", context.take(5, "compress", "other"))
        assert context.ledger.live("gpu") == 5


def test_deleting_an_unset_name_is_nothing(context: Context) -> None:
    with context.frame("compress", "f") as frame:
        frame.assign("x", 10)
        frame.delete("y", "x", "x")
        assert context.ledger.live("gpu") == 0


def test_temporaries_and_during_end_with_statement_and_block(context: Context) -> None:
    with context.frame("compress", "f") as frame:
        with frame.during(10, "a"):
            frame.temporary(5, "b")
            assert context.ledger.live("gpu") == 10
        assert context.ledger.live("gpu") == 0
    assert peak(context) == 10 + 5


def test_names_are_owned_by_their_function_with_its_kind_unless_told_otherwise(context: Context) -> None:
    with context.frame("compress", "the function") as frame:
        own, other = frame.assign("x", 1), frame.assign("y", 1, "weights")
        assert context.ledger.about(own) == About("gpu", "compress", Owner("the function", "x"))
        assert context.ledger.about(other) == About("gpu", "weights", Owner("the function", "y"))


# ---------------------------------------------------------------------- parameters
def test_a_parameter_is_onloaded_once_until_the_subgraph_ends(context: Context) -> None:
    context.onload("a.weight", 100)
    context.onload("a.weight", 100)
    with context.accessed("a.weight", 100), context.accessed("b.weight", 30):
        pass
    assert context.ledger.live("gpu") == 100 + 30
    context.offload_all()
    assert context.ledger.live("gpu") == 0
    assert peak(context) == 100 + 30


def test_without_disable_offloading_each_access_is_a_copy_of_its_own(context: Context) -> None:
    context.keep_onloaded = False
    context.onload("a.weight", 100)
    assert context.ledger.live("gpu") == 0
    with context.accessed("a.weight", 100), context.accessed("a.weight", 100):
        assert context.ledger.live("gpu") == 100 + 100
    assert context.ledger.live("gpu") == 0


def test_computing_on_the_cpu_onloads_nothing(context: Context) -> None:
    context.device = "cpu"
    context.onload("a.weight", 100)
    with context.accessed("a.weight", 100), context.frame("compress", "f") as frame:
        frame.assign("x", 10)
        assert (context.ledger.live("gpu"), context.ledger.live("cpu")) == (0, 10)


def test_free_memory_is_the_card_less_what_is_live() -> None:
    context = Context(toys.job(gpu_memory_bytes=GIB))
    context.take(1000, "weights", "x")
    assert context.ledger.free_bytes("gpu") == GIB - 1000
    context.take(GIB, "weights", "x")
    assert context.ledger.free_bytes("gpu") == 0


def test_a_timeline_has_every_layers_events() -> None:
    assert not Context(toys.job(), keep="timeline").shortcuts.subgraphs
    assert Context(toys.job()).shortcuts.subgraphs
