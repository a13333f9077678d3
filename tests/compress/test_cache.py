"""The activation cache: all batches, on the CPU or beside the forwards."""

import pytest

from planner.compress.cache import ActivationCache
from planner.compress.context import Context
from tests import toys
from tests.toys import HIDDEN, IDS, MASK, POSITIONS, Toy

TOY = Toy(batch_size=4)


def cache(**options: object) -> tuple[ActivationCache, Context]:
    context = Context(toys.job(**({"samples": 12, "batch_size": 4} | options)))
    return ActivationCache(context, TOY.trace), context


def test_the_prepared_cache_is_all_batches_of_the_calibration_data() -> None:
    activations, context = cache()
    activations.fill()
    batches = 12 // 4
    assert context.ledger.live_by_kind("cpu") == {"calibration_data": batches * TOY.ids * 4}


def test_a_smaller_last_batch_holds_its_own_samples_only() -> None:
    activations, context = cache(samples=9)
    activations.fill()
    assert context.ledger.live("cpu") == 9 * TOY.ids


def test_what_does_not_grow_with_the_batch_is_whole_in_the_last_one_too() -> None:
    activations, context = cache(samples=9)
    activations.update([POSITIONS, HIDDEN], batches=2)
    activations.update([POSITIONS, HIDDEN], last=True)
    assert context.ledger.live("cpu") == 3 * TOY.positions + 2 * TOY.hidden + TOY.hidden // 4


def test_fetching_copies_one_batch_to_the_gpu() -> None:
    activations, context = cache()
    activations.fill()
    handles = [handle for _, handle in activations.fetch([IDS])]
    assert context.ledger.live_by_kind("gpu") == {"batch": 4 * TOY.ids}
    context.ledger.free_all(handles)
    assert context.ledger.live_by_kind("gpu") == {}


def test_a_tensor_with_two_names_is_copied_for_each_and_lies_in_the_cache_once() -> None:
    activations, context = cache()
    activations.fill()
    before = context.ledger.live("cpu")
    assert [number for number, _ in activations.fetch([IDS, IDS])] == [IDS, IDS]
    assert context.ledger.live_by_kind("gpu") == {"batch": 2 * 4 * TOY.ids}
    assert context.ledger.live("cpu") == before


def test_deleting_the_last_batch_empties_the_name() -> None:
    activations, context = cache()
    activations.update([HIDDEN], batches=3)
    for left in (2, 1, 0):
        assert activations.delete([HIDDEN]) == []
        assert context.ledger.live("cpu") == left * TOY.hidden


@pytest.mark.parametrize("samples", [12, 9])
def test_renaming_puts_the_new_names_in_place_of_the_old(samples: int) -> None:
    activations, context = cache(samples=samples)
    activations.update([HIDDEN], batches=2)
    activations.update([HIDDEN], last=True)
    before = context.ledger.live("cpu")
    activations.rename([HIDDEN], [HIDDEN + 1])
    assert context.ledger.live("cpu") == before
    assert before == TOY.hidden * samples // 4


def test_clearing_gives_everything_back() -> None:
    activations, context = cache()
    activations.fill()
    activations.update([MASK], batches=3)
    activations.clear()
    assert context.ledger.live("cpu") == 0


# ---------------------------------------------------------------------- on the GPU
def test_a_cache_on_the_gpu_needs_no_copy_to_run_a_batch() -> None:
    activations, context = cache(offload_device="gpu")
    activations.fill()
    held = 3 * 4 * TOY.ids
    assert context.ledger.live_by_kind("gpu") == {"activation_cache": held}
    assert context.ledger.live("cpu") == 0
    assert activations.fetch([IDS]) == []
    assert context.ledger.live("gpu") == held


def test_the_batch_dictionary_keeps_what_a_cache_on_the_gpu_gives_up() -> None:
    activations, context = cache(offload_device="gpu")
    activations.fill()
    still = activations.delete([IDS])
    assert context.ledger.live_by_kind("gpu") == {"activation_cache": 2 * 4 * TOY.ids, "batch": 4 * TOY.ids}
    context.ledger.free_all(still)
    assert context.ledger.live("gpu") == 2 * 4 * TOY.ids
