"""LLM Compressor's memory guide: 6 rows, 12 figures, and the sentences around them."""

from collections.abc import Callable
from fractions import Fraction

from planner.serving.rules_of_thumb import weight_rule
from worked_examples import real
from worked_examples.records import GBIT, TIMES, Example, Reason

TITLE = "LLM Compressor's memory guide (docs)"

_LLAMA, _R1, _QWEN = "llama-3-8b", "deepseek-r1", "qwen2.5-vl-7b"
RTN, GPTQ, DATA_FREE = "rtn_w8a8_static", "gptq_w4a16", "rtn_w4a16"
"""Shipped recipes that stand for the guide's two algorithms. The first RTN looks at data, as GPTQ does."""

_WHOLE = {_LLAMA: 8, _R1: 684, _QWEN: 7}
_LAYERS = {_LLAMA: 32, _R1: 61}
_TEXT_LAYER, _TOWER = 233_057_792, 676_550_144  # Qwen2.5-VL-7B: the guide prints their bytes, not their counts


def _cpu(model: str) -> Callable[[], int]:
    return lambda: weight_rule(_WHOLE[model] * 10**9, 16)


def _layer(model: str, factor: int = 1) -> Callable[[], Fraction]:
    """The guide says `mem(1 layer)` and gives no count; the whole model by its layers is what it prints."""
    return lambda: Fraction(factor * weight_rule(_WHOLE[model] * 10**9, 16), _LAYERS[model])


def _rows(recipe: str, factor: int, name: str) -> tuple[Example, ...]:
    where = f"table of {name}"
    twice = " x 2" if factor == 2 else ""
    cpu = tuple(
        Example(
            where=where,
            what=f"CPU, {model}: {_WHOLE[model]}B x 2 bytes",
            printed=f"{2 * _WHOLE[model]:,}",
            unit=GBIT,
            formula=_cpu(model),
            exact=2 * _WHOLE[model] * 10**9,
            real=lambda model=model: real.plan_peak(model, recipe, "cpu"),
            model=f"plan of {recipe}",
            why=(Reason.PARAMETERS, Reason.COPIES) if model == _QWEN else (Reason.COPIES,),
        )
        for model in _WHOLE
    )
    return (
        *cpu,
        Example(
            where=where,
            what=f"GPU, {_LLAMA}: one layer{twice}",
            printed=("0.5", "1")[factor - 1],
            unit=GBIT,
            formula=_layer(_LLAMA, factor),
            exact=factor * 500_000_000,
            real=lambda: real.plan_peak(_LLAMA, recipe, "gpu"),
            model=f"plan of {recipe}",
            why=(Reason.SPREAD, Reason.WEIGHTS_ALONE),
        ),
        Example(
            where=where,
            what=f"GPU, {_R1}: one layer{twice}",
            printed=("22.4", "44.8")[factor - 1],
            unit=GBIT,
            formula=_layer(_R1, factor),
            exact=Fraction(factor * 1_368_000_000_000, 61),
            slip=(None, Reason.CUT)[factor - 1],
            real=lambda: real.plan_peak(_R1, recipe, "gpu"),
            model=f"plan of {recipe}",
            why=(Reason.SPREAD, Reason.WEIGHTS_ALONE),
        ),
        Example(
            where=where,
            what=f"GPU, {_QWEN}: max(text layer, vision tower){twice}",
            printed=("1.3", "2.6")[factor - 1],
            unit=GBIT,
            formula=lambda: factor * 2 * max(_TEXT_LAYER, _TOWER),
            exact=factor * 1_353_100_288,
            slip=Reason.CUT,
            real=lambda: real.plan_peak(_QWEN, recipe, "gpu"),
            model=f"plan of {recipe}",
            why=(Reason.WEIGHTS_ALONE,),
        ),
    )


def _hessian(model: str) -> Example:
    return Example(
        where="GPTQ / SparseGPT",
        what=f"Hessians are about the size of the weights: one layer of {model}",
        printed="1",
        unit=TIMES,
        real=lambda: real.hessian_share(model),
        model=model,
        why=(Reason.HESSIAN,),
    )


EXAMPLES = (
    Example(
        where="things to note, 1",
        what="1B parameters x 2 bytes",
        printed="2",
        unit=GBIT,
        formula=lambda: weight_rule(10**9, 16),
        exact=2_000_000_000,
    ),
    *_rows(RTN, 1, "RTN"),
    Example(
        where="table of RTN",
        what=f"GPU, {_LLAMA}: one layer, where RTN needs no data",
        printed="0.5",
        unit=GBIT,
        formula=_layer(_LLAMA),
        exact=500_000_000,
        real=lambda: real.plan_peak(_LLAMA, DATA_FREE, "gpu"),
        model=f"plan of {DATA_FREE}",
        why=(Reason.ONE_MODULE,),
    ),
    Example(
        where="table of RTN",
        what=f"GPU, {_QWEN}: one text layer",
        printed="0.4",
        unit=GBIT,
        formula=lambda: 2 * _TEXT_LAYER,
        exact=466_115_584,
        slip=Reason.CUT,
        real=lambda: real.unit_bytes(_QWEN, "decoder"),
        model="its own tensors",
        why=(Reason.CUT,),
    ),
    Example(
        where="table of RTN",
        what=f"GPU, {_QWEN}: vision tower",
        printed="1.3",
        unit=GBIT,
        formula=lambda: 2 * _TOWER,
        exact=1_353_100_288,
        slip=Reason.CUT,
        real=lambda: real.unit_bytes(_QWEN, "vision"),
        model="its own tensors",
        why=(Reason.CUT,),
    ),
    *_rows(GPTQ, 2, "GPTQ / SparseGPT"),
    _hessian(_LLAMA),
    _hessian(_R1),
    _hessian(_QWEN),
)
