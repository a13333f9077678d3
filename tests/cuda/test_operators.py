"""Each rule of planner/cuda equals what the real CUDA build did (tests/cuda/recorded, with the commands in it)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.cuda import linalg
from planner.cuda.build import CudaBuild
from planner.cuda.notes import note_on_unruled
from planner.cuda.operands import Operand, OperatorCall
from planner.cuda.operators import requests_of
from planner.cuda.requests import PRODUCT, RESULT, Ask, Requests, temporaries, then

RECORDED = Path(__file__).parent / "recorded"

# Recorded, and no rule: a plan says that it does not know what these take.
UNRULED = {
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention", "_unique2", "allclose",
    "bincount", "convolution", "count_nonzero", "cumsum", "histc", "index_put_", "kthvalue", "median", "randperm",
    "sort", "topk",
}  # fmt: skip


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECORDED / name).read_text(encoding="utf-8").splitlines()]


def plain(value: Any) -> Any:
    if isinstance(value, dict) and "shape" in value:
        on_cpu = value.get("device") == "cpu"
        return Operand(tuple(value["shape"]), tuple(value["stride"]), value["dtype"], on_cpu)
    return tuple(plain(item) for item in value) if isinstance(value, list) else value


def operands(value: Any) -> Iterator[Operand]:
    if isinstance(value, Operand):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from operands(item)


def call_of(row: dict[str, Any]) -> OperatorCall:
    return OperatorCall(
        name=row["operator"].split(".")[1],
        arguments=plain(row["args"]),
        keywords={key: plain(value) for key, value in row["kwargs"].items()},
        results=tuple(operands(plain(row["results"]))),
    )


def as_recorded(planned: Requests, recorded: list[Ask]) -> list[Ask]:
    """What a recording shows of a rule: the first product, and those results that are new and not empty."""
    new = {request for request in recorded if request.action == "result"}
    named = {request for request in planned if request.action == "result"}
    shown: list[Ask] = []
    for request in planned:
        if request.action == "result":
            shown += [request] * (request in new)
            shown += sorted(new - named) if request == RESULT else []
        elif request != PRODUCT or PRODUCT not in shown:
            shown.append(request)
    return shown


def ruled(name: str, sm: int) -> Iterator[tuple[str, list[Ask], list[Ask]]]:
    for row in rows(name):
        planned = requests_of(call_of(row), CudaBuild(sm=sm))
        recorded = [Ask(action, amount) for action, amount in row["requests"]]
        if planned is not None:
            if not any(request.action == "result" for request in planned):
                recorded = [request for request in recorded if request.action != "result"]
            yield json.dumps(row), as_recorded(planned, recorded), recorded


@pytest.mark.parametrize(("name", "sm", "least"), [("operators.jsonl", 90, 350), ("operators_sm80.jsonl", 80, 12)])
def test_each_rule_asks_for_what_the_real_build_asked_for_in_the_same_order(name: str, sm: int, least: int) -> None:
    compared = list(ruled(name, sm))
    assert [row for row, planned, recorded in compared if planned != recorded] == []
    assert len(compared) >= least


def unfreed(requests: Requests) -> list[int]:
    """Numbers of the temporaries that a rule forgets to give back."""
    taken = range(sum(request.action == "take" for request in requests))
    given = {request.amount for request in requests if request.action == "give"}
    return [number for number in taken if number not in given]


def test_operators_without_a_rule_are_named_and_no_others() -> None:
    calls = [call_of(row) for row in rows("operators.jsonl")]
    assert {call.name for call in calls if requests_of(call, CudaBuild()) is None} == UNRULED


def test_every_rule_gives_back_what_it_takes_and_once() -> None:
    for row in rows("operators.jsonl"):
        planned = requests_of(call_of(row), CudaBuild()) or ()
        given = [request.amount for request in planned if request.action == "give"]
        assert unfreed(planned) == []
        assert len(given) == len(set(given)) == sum(request.action == "take" for request in planned)


def test_positions_of_a_mask_outlive_nonzero_and_end_with_the_operator() -> None:
    mask, tensor = Operand((100,), (1,), "bool"), Operand((100, 8), (8, 1), "float32")
    call = OperatorCall(name="index", arguments=(tensor, (mask,)), results=(tensor,), selected=(25,))
    requests = requests_of(call, CudaBuild())
    assert requests is not None
    positions = Ask("take", 25 * 8)
    assert requests.index(positions) < requests.index(RESULT) == len(requests) - 2
    takes = [request for request in requests if request.action == "take"]
    assert requests[-1] == Ask("give", takes.index(positions))


def test_an_unknown_operator_has_no_rule() -> None:
    assert requests_of(OperatorCall(name="fft_r2c", arguments=()), CudaBuild()) is None


def test_a_single_inverse_holds_four_matrices_beside_its_row_major_output() -> None:
    size = 4096 * 4096 * 4
    takes = [r.amount for r in linalg.cholesky_inverse(4096, into=True) if r.action == "take"]
    assert takes == [size, size, 4, size]


def test_cusolver_says_how_large_its_own_workspace_is() -> None:
    without, with_one = (linalg.cholesky_ex(256, into=True, workspace=size) for size in (0, 1000))
    assert Ask("take", 1000) in with_one
    assert Ask("take", 1000) not in without


@pytest.mark.parametrize(("sm", "workspace"), [(75, 8_519_680), (80, 8_519_680), (90, 33_554_432), (120, 33_554_432)])
def test_hopper_and_later_have_the_larger_workspace_of_cublas(sm: int, workspace: int) -> None:
    assert CudaBuild(sm=sm).cublas_workspace == workspace


def test_temporaries_are_freed_in_reverse_and_parts_follow_one_another() -> None:
    one = temporaries(8, 16, inside=(RESULT,))
    assert [tuple(r) for r in one] == [("take", 8), ("take", 16), ("result", 0), ("give", 1), ("give", 0)]
    assert then(one, temporaries(4))[-2:] == (Ask("take", 4), Ask("give", 2))


def test_a_note_names_the_operators_without_a_rule() -> None:
    assert note_on_unruled(()) == ()
    (note,) = note_on_unruled({"topk", "convolution"})
    assert note.kind == "estimate"
    assert note.text.endswith("convolution, topk")
