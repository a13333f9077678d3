import pytest

from planner.compress.devices import card
from planner.compress.holdings import About, Holding, Owner
from planner.compress.ledger import LARGEST, Ledger
from planner.errors import UnsupportedError
from planner.units import BLOCK, GIB, MIB, in_blocks


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_the_peak_is_the_highest_moment_and_not_the_end(ledger: Ledger) -> None:
    first = ledger.alloc("gpu", 700, "a", "first")
    second = ledger.alloc("gpu", 500, "b", "second")
    ledger.free(first)
    third = ledger.alloc("gpu", 100, "a", "third")
    ledger.free(second)
    peak = ledger.close_step()["gpu"]
    assert peak.bytes == 700 + 500
    assert peak.end == 100
    assert peak.by_kind == {"a": 700, "b": 500}
    assert ledger.live("gpu") == ledger.size(third) == 100


def test_the_first_of_equal_peaks_is_described(ledger: Ledger) -> None:
    for owner in ("first", "second"):
        with ledger.hold("gpu", 300, owner, owner):
            pass
    assert ledger.close_step()["gpu"].by_kind == {"first": 300}


def test_a_tensor_is_allocated_in_whole_blocks() -> None:
    assert [in_blocks(n) for n in (0, 1, BLOCK, BLOCK + 1)] == [0, BLOCK, BLOCK, 2 * BLOCK]


def test_allocated_bytes_round_each_tensor_and_may_peak_at_another_moment(ledger: Ledger) -> None:
    count, large = 100, 200
    ledger.free_all([ledger.alloc("gpu", 1, "small", "x") for _ in range(count)])
    ledger.free(ledger.alloc("gpu", large, "large", "y"))
    peak = ledger.close_step()["gpu"]
    assert (peak.bytes, peak.by_kind) == (large, {"large": large})
    assert peak.allocated == count * BLOCK


def test_kinds_sum_to_the_peak_largest_first_and_empty_ones_are_left_out(ledger: Ledger) -> None:
    for kind, nbytes in (("small", 1), ("large", 50), ("middle", 20), ("large", 50), ("none", 0)):
        ledger.alloc("cpu", nbytes, kind, "x")
    peak = ledger.close_step()["cpu"]
    assert list(peak.by_kind.items()) == [("large", 100), ("middle", 20), ("small", 1)]
    assert sum(peak.by_kind.values()) == peak.bytes


def test_devices_are_separate(ledger: Ledger) -> None:
    ledger.alloc("cpu", 10, "a", "x")
    with ledger.hold("gpu", 20, "b", "y"):
        assert (ledger.live("cpu"), ledger.live("gpu")) == (10, 20)
    peaks = ledger.close_step()
    assert (peaks["cpu"].bytes, peaks["gpu"].bytes) == (10, 20)


def test_hold_lasts_as_long_as_its_block_even_when_it_fails(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.hold("gpu", 5, "a", "x"):
        assert ledger.live("gpu") == 5
        raise RuntimeError
    assert ledger.live("gpu") == 0


def test_a_holding_grows_and_shrinks_in_blocks_of_its_tensors(ledger: Ledger) -> None:
    tensors, size = 3, 600
    handle = ledger.alloc("cpu", 0, "cache", "x")
    ledger.grow(handle, tensors * size, tensors)
    assert ledger.size(handle) == ledger.live("cpu") == tensors * size
    ledger.grow(handle, -size)
    peak = ledger.close_step()["cpu"]
    assert (peak.bytes, peak.allocated) == (tensors * size, tensors * in_blocks(size))
    assert ledger.close_step()["cpu"].allocated == (tensors - 1) * in_blocks(size)
    ledger.free(handle)
    ledger.close_step()
    assert ledger.close_step()["cpu"].allocated == 0


def test_a_step_begins_with_what_the_one_before_left(ledger: Ledger) -> None:
    kept = ledger.alloc("gpu", 100, "kept", "k")
    with ledger.hold("gpu", 900, "gone", "g"):
        pass
    assert ledger.close_step()["gpu"].bytes == 1000
    quiet = ledger.close_step()["gpu"]
    assert (quiet.bytes, quiet.end, quiet.by_kind) == (100, 100, {"kept": 100})
    ledger.free(kept)
    after = ledger.close_step()["gpu"]
    assert (after.bytes, after.end, after.by_kind) == (100, 0, {"kept": 100})


def test_the_largest_holdings_are_summed_by_owner_and_kind(ledger: Ledger) -> None:
    for owner, kind, nbytes in (("x", "a", 10), ("y", "a", 15), ("x", "a", 10), ("x", "b", 1), ("nothing", "a", 0)):
        ledger.alloc("gpu", nbytes, kind, owner)
    assert ledger.close_step()["gpu"].largest == (
        Holding(Owner("x"), "a", 20),
        Holding(Owner("y"), "a", 15),
        Holding(Owner("x"), "b", 1),
    )


def test_only_the_largest_few_are_listed(ledger: Ledger) -> None:
    for size in range(1, LARGEST + 3):
        ledger.alloc("gpu", size, "a", f"owner {size}")
    assert [h.bytes for h in ledger.close_step()["gpu"].largest] == list(range(LARGEST + 2, 2, -1))


def test_live_by_kind_tells_what_is_held_now(ledger: Ledger) -> None:
    gone = ledger.alloc("gpu", 5, "a", "x")
    ledger.alloc("gpu", 7, "b", "y")
    ledger.free(gone)
    assert ledger.live_by_kind("gpu") == {"b": 7}


def test_nothing_is_freed_twice(ledger: Ledger) -> None:
    handle = ledger.alloc("gpu", 5, "a", "x")
    ledger.free(handle)
    with pytest.raises(KeyError):
        ledger.free(handle)


def test_negative_sizes_are_refused_with_their_owner(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="the owner: -1 bytes"):
        ledger.alloc("gpu", -1, "a", "the owner")


def test_a_holding_remembers_where_and_whose_it_is(ledger: Ledger) -> None:
    assert ledger.about(ledger.alloc("cpu", 5, "kind", "owner")) == About("cpu", "kind", Owner("owner"))


def test_an_owner_reads_as_its_name_how_many_it_stands_for_and_its_role() -> None:
    one, several = Owner("layer.q", "Hessian"), Owner("layer.q", "input", copies=3)
    assert [str(one), str(several), str(several.part("in fp32"))] == [
        "layer.q Hessian",
        "layer.q and 2 more input",
        "layer.q and 2 more input in fp32",
    ]


def test_an_owner_is_renamed_with_the_module_it_lies_in_and_with_no_other() -> None:
    names = {"layers.1": "layers.7"}
    owners = [Owner("layers.1.q", "Hessian"), Owner("layers.1"), Owner("layers.10.q")]
    assert [str(owner.renamed(names)) for owner in owners] == ["layers.7.q Hessian", "layers.7", "layers.10.q"]


# ---------------------------------------------------------------------- tensors that others keep
def test_what_is_bequeathed_stays_where_it_is_until_it_is_freed_and_then_counts_for_its_heir() -> None:
    ledger = Ledger()
    tensor, heir = ledger.alloc("gpu", 100, "forward", "hidden"), ledger.open("gpu", "kept", "arguments")
    ledger.bequeath(tensor, heir)
    assert ledger.live_by_kind("gpu") == {"forward": 100}
    ledger.free(tensor)
    assert ledger.live_by_kind("gpu") == {"kept": 100}
    ledger.free(heir)
    assert ledger.live("gpu") == 0
    assert ledger.close_step()["gpu"].bytes == 100


def test_what_outlives_its_heir_is_freed_as_ever() -> None:
    ledger = Ledger()
    tensor, heir = ledger.alloc("gpu", 100, "forward", "hidden"), ledger.open("gpu", "kept", "arguments")
    ledger.bequeath(tensor, heir)
    ledger.free(heir)
    assert ledger.live_by_kind("gpu") == {"forward": 100}
    ledger.free(tensor)
    assert ledger.live("gpu") == 0


def test_of_two_heirs_the_last_counts_the_tensor_and_must_go_last() -> None:
    ledger = Ledger()
    tensor = ledger.alloc("gpu", 100, "forward", "mask")
    first, last = (ledger.open("gpu", "kept", name) for name in ("first", "last"))
    for heir in (first, last, first):  # kept by the first twice: as good as once
        ledger.bequeath(tensor, heir)
    ledger.free(tensor)
    assert (ledger.size(first), ledger.size(last)) == (0, 100)
    with pytest.raises(UnsupportedError, match=r"last go before an earlier one"):
        ledger.free(last)
    ledger.free(first)
    assert ledger.live("gpu") == 100


def test_a_tensor_has_no_heir_on_another_device() -> None:
    ledger = Ledger()
    tensor, heir = ledger.alloc("gpu", 100, "forward", "hidden"), ledger.open("cpu", "kept", "arguments")
    with pytest.raises(ValueError, match="lie on two devices"):
        ledger.bequeath(tensor, heir)


def test_bytes_that_are_not_so_many_equal_tensors_are_refused() -> None:
    ledger = Ledger()
    handle = ledger.open("cpu", "kept", "arguments")
    with pytest.raises(ValueError, match="arguments: 100 bytes are not 3 equal tensors"):
        ledger.grow(handle, 100, 3)
    ledger.grow(handle, 100, 1)
    with pytest.raises(ValueError, match="-100 bytes are not 3 equal tensors"):
        ledger.grow(handle, -100, 3)


def test_a_holding_never_loses_more_than_it_has() -> None:
    ledger = Ledger()
    handle = ledger.open("cpu", "model", "model weights")
    ledger.grow(handle, 100)
    with pytest.raises(ValueError, match="model weights: -101 bytes, and it holds 100"):
        ledger.grow(handle, -101)
    ledger.grow(handle, -100)
    assert ledger.size(handle) == 0


def test_a_tensor_that_is_given_moves_no_memory() -> None:
    ledger = Ledger()
    tensor, heir = ledger.alloc("gpu", 100, "forward", "hidden"), ledger.open("gpu", "activation_cache", "cache")
    ledger.give(tensor, heir)
    assert (ledger.size(heir), ledger.growth()[heir]) == (100, {100: 1})
    assert (ledger.live("gpu"), ledger.close_step()["gpu"].bytes) == (100, 100)


def test_a_part_of_a_growing_holding_is_freed_on_its_own() -> None:
    ledger = Ledger()
    cache = ledger.open("gpu", "activation_cache", "cache")
    ledger.grow(cache, 200, 2)
    part = ledger.part(cache, 100, "batch", "batch")
    assert (ledger.size(cache), ledger.size(part), ledger.live("gpu")) == (100, 100, 200)
    ledger.free(part)
    assert ledger.live_by_kind("gpu") == {"activation_cache": 100}


def test_a_tensor_that_changes_hands_stays_where_it_is() -> None:
    ledger = Ledger(gpu=card(GIB, 0))
    first = ledger.alloc("gpu", 3 * MIB, "forward", "first")
    second, heir = ledger.alloc("gpu", 3 * MIB, "forward", "second"), ledger.open("gpu", "activation_cache", "cache")
    layout = ledger.layout("gpu", [first, second])
    ledger.give(second, heir)
    assert ledger.layout("gpu", [first, heir]) == layout
