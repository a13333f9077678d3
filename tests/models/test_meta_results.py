"""Results that are remembered by shape are those that torch works out."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from planner.models import meta_results
from planner.models.meta_results import result_of

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def facts(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.size(), tensor.stride(), tensor.dtype, tensor.device, tensor.untyped_storage().nbytes()


@pytest.fixture(autouse=True)
def _nothing_is_known() -> Iterator[None]:
    meta_results._KNOWN.clear()
    yield
    meta_results._KNOWN.clear()


CALLS: list[tuple[Any, Callable[[], tuple[Any, ...]], dict[str, Any]]] = [
    (aten.mm.default, lambda: (meta(3, 4), meta(4, 5)), {}),
    (aten.add.Tensor, lambda: (meta(3, 1), meta(4)), {"alpha": 2}),
    (aten.mul.Tensor, lambda: (meta(2, 3).t(), meta(3, 2)), {}),
    (aten._to_copy.default, lambda: (meta(2, 3).t(),), {"dtype": torch.float32}),
    (aten.cat.default, lambda: ([meta(2, 3), meta(4, 3)],), {}),
    (aten.mean.dim, lambda: (meta(2, 3), [-1], True), {}),
    (aten.index.Tensor, lambda: (meta(5, 6), [None, meta(7, dtype=torch.int64)]), {}),
    (aten._softmax.default, lambda: (meta(2, 3), -1, False), {}),
    (aten.empty_like.default, lambda: (meta(2, 3).t(),), {}),
]


@pytest.mark.parametrize(("func", "arguments", "named"), CALLS, ids=[str(func) for func, *_ in CALLS])
def test_what_is_remembered_is_what_torch_works_out(
    func: Any, arguments: Callable[[], tuple[Any, ...]], named: dict[str, Any]
) -> None:
    first = result_of(func, arguments(), named)
    assert len(meta_results._KNOWN) == 1
    again = result_of(func, arguments(), named)
    assert facts(first) == facts(again) == facts(func(*arguments(), **named))
    assert first.untyped_storage()._cdata != again.untyped_storage()._cdata


def test_what_shares_memory_or_is_written_to_is_worked_out_each_time() -> None:
    given = meta(2, 3)
    for func, arguments in ((aten.t.default, ()), (aten._unsafe_view.default, ([6],)), (aten.add_.Tensor, (given,))):
        for _ in range(2):
            result = result_of(func, (given, *arguments), {})
            assert result.untyped_storage()._cdata == given.untyped_storage()._cdata
    assert not meta_results._KNOWN


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (True, 1)])
def test_numbers_that_are_equal_and_of_another_type_are_told_apart(one: object, other: object) -> None:
    whole = meta(3, dtype=torch.bool)
    found = [result_of(aten.add.Scalar, (whole, number), {}).dtype for number in (one, other)]
    assert found == [aten.add.Scalar(whole, number).dtype for number in (one, other)]
    assert found[0] != found[1]


def test_a_number_on_the_cpu_and_a_type_by_default_are_heeded() -> None:
    whole = meta(3, dtype=torch.int64)
    assert result_of(aten.mul.Tensor, (meta(3), torch.tensor(2.0)), {}).dtype is torch.bfloat16
    assert result_of(aten.true_divide.Tensor, (whole, whole), {}).dtype is torch.float32
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert result_of(aten.true_divide.Tensor, (whole, whole), {}).dtype is torch.float64
    finally:
        torch.set_default_dtype(before)


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_results, "MOST", 2)
    for size in range(1, 6):
        result_of(aten.neg.default, (meta(size),), {})
        assert 0 < len(meta_results._KNOWN) <= 2
