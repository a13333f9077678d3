"""AWQ over samples with a loss mask: transform/awq/base.py, where `State.loss_masks` is no empty list.

What the mask marks is copied before it is looked at: activations in the hooks, and outputs as often as they are
compared. How many tokens that are is known to the data alone. All of them is the most, and is what is planned.
"""

from collections.abc import Iterable
from math import prod

from planner.compress.context import WORKSPACE, Frame
from planner.cuda.indexing import selection
from planner.cuda.operands import Operand
from planner.hints import few
from planner.notes import Note
from planner.units import INT64


def marked_activations(names: Frame, rows: int, nbytes: int, *, is_copied: bool) -> None:
    """`cache_smooth_activations_hook`: masked_activations = flat_activations[flat_mask.bool()].

    `is_copied`: the mask comes from another device.
    """
    if is_copied:
        names.assign("mask", rows * INT64)
    with names.during(rows, "mask as bool"):
        _select(names, "masked_activations", (rows,), nbytes)


def marked_outputs(names: Frame, mask: tuple[int, int], nbytes: int) -> None:
    """`_compute_loss`: the mask, and what it marks of both outputs; the names keep them until the next batch's."""
    names.assign("token_mask", prod(mask))
    _select(names, "fp16_masked", mask, nbytes)
    _select(names, "int_w_masked", mask, nbytes)


def _select(names: Frame, name: str, mask: tuple[int, ...], nbytes: int) -> None:
    """name = tensor[mask], every token marked."""
    count = prod(mask)
    if names.build is None:
        with names.during(count * len(mask) * INT64, "positions", WORKSPACE):
            names.assign(name, nbytes)
        return
    strides = tuple(prod(mask[place + 1 :]) for place in range(len(mask)))
    names.result(name, nbytes, selection(Operand(mask, strides, "bool"), count, names.build))


def misfits(
    outputs: Iterable[tuple[str, int, tuple[int, ...]]],
    hooks: frozenset[str],
    parents: frozenset[str],
    samples: int,
    tokens: int,
) -> Iterable[Note]:
    """Masks of (samples, tokens) index the inputs of hooked modules by row, and the outputs of parents by both sides.

    base.py `_has_moe_up_down_proj_mapping` would say so, but `on_calibration_start` asks before the sequential
    pipeline has filled `State.loss_masks`: there the job ends with an IndexError.
    """
    names = dict.fromkeys(
        name
        for name, rows, shape in outputs
        if (name in hooks and rows != samples * tokens) or (name in parents and shape[:2] != (samples, tokens))
    )
    if names:
        text = (
            f"This job fails in LLM Compressor: loss masks of {samples} x {tokens} do not fit the tokens of "
            f"{few(tuple(names))}. Leave it out of AWQ's mappings, or do without use_loss_mask."
        )
        yield Note(kind="fails", text=text)
        return
    text = "AWQ is planned as if loss masks marked every token, which is the most; it takes less where they do not."
    yield Note(kind="job", text=text)
