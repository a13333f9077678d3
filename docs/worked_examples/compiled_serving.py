"""The same compiled document, sections 3 to 6 and its cheat sheet: cache, activations, totals."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from planner.serving.rules_of_thumb import activation_rule, kv_cache_rule, total_rule, weight_rule
from worked_examples import real
from worked_examples.compiled_weights import LLAMA_2, LLAMA_3, SIZES
from worked_examples.records import (
    BINARY_GB,
    BYTES,
    BYTES_EACH,
    COUNT,
    GB,
    PERCENT,
    TIMES,
    TRUTH,
    Example,
    Reason,
    Value,
)

_SHAPE = {LLAMA_2: (8192, 80), LLAMA_3: (4096, 32)}
"""Hidden size and layers, as the document has them."""
_MILLION = 10**6
_Q4 = Fraction(4)
_CARD = "A100"
_OVERHEAD = 2 * 2**30  # "2 GB", by the document's own GB
Q8_0 = Fraction(17, 2)


def _kv(model: str, tokens: int, batch: int = 1, each: int = 2) -> int:
    hidden, layers = _SHAPE[model]
    return kv_cache_rule(batch, tokens, hidden, layers, each)


def _act(model: str, tokens: int, batch: int = 1) -> int:
    hidden, layers = _SHAPE[model]
    return activation_rule(batch, tokens, hidden, layers)


def _sum(model: str, bits: int | Fraction, tokens: int, batch: int = 1, each: int = 2, over: int = _OVERHEAD) -> int:
    """The document's total with the document's own parts, worked out."""
    return total_rule(
        weight_rule(SIZES[model], bits), _kv(model, tokens, batch, each), _act(model, tokens, batch), over
    )


def _cache_example(
    where: str, model: str, tokens: int, printed: str, exact: int, *, batch: int = 1, each: int = 2,
    slip: Reason | None = None, why: tuple[Reason, ...] = (Reason.MULTI_HEAD,),
) -> Example:  # fmt: skip
    kept = {2: "float16", 1: "int8"}[each]
    return Example(
        where=where,
        what=f"KV cache, {model}: {batch} x {tokens:,} tokens, {each} byte{'s' * (each > 1)}",
        printed=printed,
        unit=BINARY_GB,
        formula=lambda: _kv(model, tokens, batch, each),
        exact=exact,
        slip=slip,
        real=lambda: real.kv_cache(model, tokens, batch, kept),
        model=f"{model}, {kept}",
        why=why,
    )


def _activation_example(
    where: str, model: str, tokens: int, printed: str, exact: int, *, batch: int = 1, slip: Reason | None = None
) -> Example:
    return Example(
        where=where,
        what=f"activations, {model}: {batch} x {tokens:,} tokens",
        printed=printed,
        unit=BINARY_GB,
        formula=lambda: _act(model, tokens, batch),
        exact=exact,
        slip=slip,
        real=lambda: real.activations(model, tokens, batch),
        model=f"{model}, whole prompts, flash attention",
        why=(Reason.NOT_ALIVE,) if slip is None else (slip, Reason.NOT_ALIVE),
    )


def _weights_example(where: str, model: str, kept: str, bits: Fraction | int, printed: str, slip: Reason) -> Example:
    mixed = (Reason.PARAMETERS,) if kept in ("fp16", "int8") else (Reason.NAME, Reason.MIXTURE)
    return Example(
        where=where,
        what=f"weights, {model}, {kept}",
        printed=printed,
        unit=BINARY_GB,
        formula=lambda: weight_rule(SIZES[model], bits),
        exact=int(SIZES[model] * bits / 8),
        slip=slip,
        real=lambda: real.weights(model, kept),
        model=f"{model}, {kept}",
        why=(slip, *mixed),
    )


def _total_example(
    where: str, what: str, printed: str, parts: tuple[str, ...], formula: Callable[[], Value], exact: Value,
    own: Callable[[], Value], model: str,
) -> Example:  # fmt: skip
    return Example(
        where=where,
        what=what,
        printed=printed,
        unit=BINARY_GB,
        parts=parts,
        formula=formula,
        exact=exact,
        slip=Reason.PARTS,
        real=own,
        model=model,
        why=(Reason.PARTS, Reason.MULTI_HEAD, Reason.NOT_ALIVE),
    )


def _verdict(where: str, what: str, printed: str, formula: Callable[[], bool], exact: bool, **given: Any) -> Example:
    return Example(where=where, what=what, printed=printed, unit=TRUTH, formula=formula, exact=exact, **given)


_CACHE = (
    Example(
        where="3, key characteristics",
        what=f"elements per token and layer, {LLAMA_2}: 2 x 8,192",
        printed="16,384",
        unit=COUNT,
        formula=lambda: kv_cache_rule(1, 1, 8192, 1, 1),
        exact=16_384,
        real=lambda: Fraction(real.kv_cache(LLAMA_2, 1), 80 * 2),
        model=LLAMA_2,
        why=(Reason.MULTI_HEAD,),
    ),
    _verdict(
        "3, alternative formula", "hidden size = heads x head size, llama-2-70b: 64 x 128", "yes",
        lambda: 64 * 128 == 8192, True, real=lambda: real.heads_fill(LLAMA_2), model=LLAMA_2,
    ),
    _verdict(
        "3, alternative formula", "the same of qwen3-0.6b: 16 x 128", "yes",
        lambda: 16 * 128 == 1024, False, slip=Reason.DEPENDS, real=lambda: real.heads_fill("qwen3-0.6b"),
        model="qwen3-0.6b", why=(Reason.DEPENDS,),
    ),
    Example(
        where="3, examples",
        what=f"{LLAMA_2}, 8 x 4,096 tokens: the product before it is divided",
        printed="32,768",
        unit=GB,
        formula=lambda: _kv(LLAMA_2, 4096, 8),
        exact=85_899_345_920,
        slip=Reason.PREFIX,
        real=lambda: real.kv_cache(LLAMA_2, 4096, 8),
        model=f"{LLAMA_2}, float16",
        why=(Reason.PREFIX, Reason.MULTI_HEAD),
    ),
    _cache_example(
        "3, examples", LLAMA_2, 4096, "32", 80 * 2**30, batch=8, slip=Reason.SLIP,
        why=(Reason.SLIP, Reason.MULTI_HEAD),
    ),
    Example(
        where="3, examples",
        what=f"{LLAMA_3}, 1,000,000 tokens: the product before it is divided",
        printed="524,288",
        unit=GB,
        formula=lambda: _kv(LLAMA_3, _MILLION),
        exact=524_288_000_000,
        slip=Reason.PREFIX,
        real=lambda: real.kv_cache(LLAMA_3, _MILLION),
        model=f"{LLAMA_3}, float16",
        why=(Reason.PREFIX, Reason.MULTI_HEAD),
    ),
    _cache_example(
        "3, examples", LLAMA_3, _MILLION, "128", 524_288_000_000, slip=Reason.SLIP,
        why=(Reason.SLIP, Reason.MULTI_HEAD),
    ),
    Example(
        where="3, optimization",
        what="INT8 for FP16: times smaller",
        printed="2-4",
        unit=TIMES,
        formula=lambda: Fraction(_kv(LLAMA_3, 4096), _kv(LLAMA_3, 4096, each=1)),
        exact=2,
        real=lambda: Fraction(real.kv_cache(LLAMA_3, 4096), real.kv_cache(LLAMA_3, 4096, dtype="int8")),
        model=f"{LLAMA_3}, int8",
    ),
)  # fmt: skip

_ACTIVATIONS = (
    _activation_example("4, examples", LLAMA_2, 2048, "2.5", 5 * 2**29),
    _activation_example("4, examples", LLAMA_2, 2048, "20", 20 * 2**30, batch=8),
    _activation_example("4, examples", LLAMA_3, _MILLION, "64", 262_144_000_000, slip=Reason.SLIP),
)


def _share(context: int) -> Callable[[], Value]:
    """Cache over weights in Q4_K_M, the section's own example."""
    return lambda: Fraction(_kv(LLAMA_3, context), weight_rule(SIZES[LLAMA_3], _Q4))


def _own_share(context: int) -> Callable[[], Value]:
    return lambda: real.cache_share(LLAMA_3, "Q4_K_M", context)


_INSIGHTS = (
    _verdict(
        "5, insights, 1", f"below 4K tokens weights dominate: {LLAMA_3}, Q4_K_M, 4,096 tokens", "yes",
        lambda: _share(4096)() < 1, True, real=lambda: _own_share(4096)() < 1, model=f"{LLAMA_3}, Q4_K_M",
    ),
    Example(
        where="5, insights, 3", what=f"above 32K tokens the cache is 2-4 x the model: {LLAMA_3}, Q4_K_M, 32,768 tokens",
        printed="2-4", unit=TIMES, formula=_share(32_768), exact=Fraction(2**34, 4 * 10**9), slip=Reason.COARSE,
        real=_own_share(32_768), model=f"{LLAMA_3}, Q4_K_M", why=(Reason.MULTI_HEAD, Reason.NAME),
    ),
    Example(
        where="5, insights, 4", what=f"above 100K tokens 10 x or more: {LLAMA_3}, Q4_K_M, 100,000 tokens",
        printed="10+", unit=TIMES, formula=_share(100_000), exact=Fraction(524_288 * 10**5, 4 * 10**9),
        real=_own_share(100_000), model=f"{LLAMA_3}, Q4_K_M", why=(Reason.MULTI_HEAD, Reason.NAME),
    ),
    Example(
        where="5, insights, 3", what=f"above 32K tokens the cache is 2-4 x the model: {LLAMA_2}, FP16, 32,768 tokens",
        printed="2-4", unit=TIMES,
        formula=lambda: Fraction(_kv(LLAMA_2, 32_768), weight_rule(SIZES[LLAMA_2], 16)),
        exact=Fraction(80 * 2**30, 14 * 10**10), slip=Reason.DEPENDS,
        real=lambda: real.cache_share(LLAMA_2, "fp16", 32_768), model=f"{LLAMA_2}, fp16",
        why=(Reason.DEPENDS, Reason.MULTI_HEAD),
    ),
)  # fmt: skip


def _million(where: str) -> tuple[Example, ...]:
    """1M tokens of Llama 3 8B: in section 5 and again as example 3 of section 6."""
    return (
        _weights_example(where, LLAMA_3, "Q4_K_M", _Q4, "3.5", Reason.OTHER_MODEL),
        _cache_example(
            where, LLAMA_3, _MILLION, "128", 524_288_000_000, slip=Reason.SLIP, why=(Reason.SLIP, Reason.MULTI_HEAD)
        ),
        _activation_example(where, LLAMA_3, _MILLION, "64", 262_144_000_000, slip=Reason.SLIP),
        _total_example(
            where, f"total, {LLAMA_3}, Q4_K_M, 1,000,000 tokens", "197.5", ("3.5", "128", "64", "2"),
            lambda: _sum(LLAMA_3, _Q4, _MILLION), 4 * 10**9 + 786_432_000_000 + _OVERHEAD,
            lambda: real.total(LLAMA_3, "Q4_K_M", _MILLION), "llama.cpp",
        ),
    )  # fmt: skip


_SCENARIOS = (
    *_million("5, practical example"),
    _weights_example("5, scenario 1", LLAMA_2, "fp16", 16, "140", Reason.UNITS),
    _cache_example(
        "5, scenario 1", LLAMA_2, 2048, "~16", 5 * 2**30, slip=Reason.SLIP, why=(Reason.SLIP, Reason.MULTI_HEAD)
    ),
    _activation_example("5, scenario 1", LLAMA_2, 2048, "~2.5", 5 * 2**29),
    _total_example(
        "5, scenario 1", f"total, {LLAMA_2}, FP16, 1 x 2,048 tokens", "~160.5", ("140", "16", "2.5", "2"),
        lambda: _sum(LLAMA_2, 16, 2048), 140 * 10**9 + 19 * 2**29,
        lambda: real.total(LLAMA_2, "fp16", 2048), "vLLM",
    ),
    _weights_example("5, scenario 2", LLAMA_2, "fp16", 16, "140", Reason.UNITS),
    _cache_example(
        "5, scenario 2", LLAMA_2, 32_768, "~256", 640 * 2**30, batch=8, slip=Reason.SLIP,
        why=(Reason.SLIP, Reason.MULTI_HEAD),
    ),
    _activation_example("5, scenario 2", LLAMA_2, 32_768, "~40", 320 * 2**30, batch=8, slip=Reason.BATCH),
    _total_example(
        "5, scenario 2", f"total, {LLAMA_2}, FP16, 8 x 32,768 tokens", "~438", ("140", "256", "40", "2"),
        lambda: _sum(LLAMA_2, 16, 32_768, 8), 140 * 10**9 + 962 * 2**30,
        lambda: real.total(LLAMA_2, "fp16", 32_768, 8), "vLLM",
    ),
)  # fmt: skip

_FIRST = (
    _weights_example("6, example 1", LLAMA_3, "Q4_K_M", _Q4, "3.5", Reason.OTHER_MODEL),
    _cache_example(
        "6, example 1", LLAMA_3, 4096, "~1", 2 * 2**30, slip=Reason.SLIP, why=(Reason.SLIP, Reason.MULTI_HEAD)
    ),
    _activation_example("6, example 1", LLAMA_3, 4096, "~0.25", 2**30, slip=Reason.SLIP),
    _total_example(
        "6, example 1", f"total, {LLAMA_3}, Q4_K_M, 4,096 tokens, 1 GB of overhead", "~5.75",
        ("3.5", "1", "0.25", "1"), lambda: _sum(LLAMA_3, _Q4, 4096, over=2**30), 4 * 10**9 + 4 * 2**30,
        lambda: real.total(LLAMA_3, "Q4_K_M", 4096), "llama.cpp",
    ),
    _verdict(
        "6, example 1", "fits 24 GB", "yes", lambda: _sum(LLAMA_3, _Q4, 4096, over=2**30) <= 24 * 2**30, True,
        real=lambda: real.fits(LLAMA_3, "Q4_K_M", "RTX 4090", 4096), model="llama.cpp, RTX 4090",
    ),
)  # fmt: skip

_Step = tuple[str, str, Fraction | int, str, int, str, tuple[str, ...], int, str, tuple[Reason, ...]]
# Words, format, bits, KV type, its bytes, total and parts as printed, exact total, fits as printed, why not so.
_STEPS: tuple[_Step, ...] = (
    ("INT8", "W8A8", 8, "float16", 2, "~146", ("70", "64", "10", "2"), 70 * 10**9 + 122 * 2**30, "no", ()),
    ("Q4_K_M", "Q4_K_M", _Q4, "float16", 2, "~111", ("35", "64", "10", "2"), 35 * 10**9 + 122 * 2**30, "no",
     (Reason.MULTI_HEAD, Reason.NOT_ALIVE)),
    ("Q4_K_M, INT8 cache", "Q4_K_M", _Q4, "int8", 1, "~79", ("35", "32", "10", "2"), 35 * 10**9 + 82 * 2**30, "yes",
     ()),
)  # fmt: skip


def _step(row: _Step) -> tuple[Example, ...]:
    words, kept, bits, dtype, each, printed, parts, exact, fits, why = row
    where = "6, example 2"

    def own() -> int:
        return real.total(LLAMA_2, kept, 8192, 4, dtype)

    def rule() -> int:
        return _sum(LLAMA_2, bits, 8192, 4, each)

    by_rule = exact <= 80 * 2**30
    verdict = Example(
        where=where, what=f"{words} fits an A100 of 80 GB", printed=fits, unit=TRUTH,
        formula=lambda: rule() <= 80 * 2**30, exact=by_rule,
        slip=None if by_rule == (fits == "yes") else Reason.PARTS,
        real=lambda: real.fits(LLAMA_2, kept, _CARD, 8192, 4, dtype), model=f"{LLAMA_2}, {kept}, {dtype} cache",
        why=why,
    )  # fmt: skip
    engine = f"{kept}, vLLM" if kept == "W8A8" else f"{kept}, llama.cpp"
    return (
        _total_example(where, f"total, {LLAMA_2}, {words}, 4 x 8,192 tokens", printed, parts, rule, exact, own, engine),
        verdict,
    )


_SECOND = (
    _weights_example("6, example 2", LLAMA_2, "fp16", 16, "140", Reason.UNITS),
    _verdict(
        "6, example 2", "FP16 fits an A100 of 80 GB", "no", lambda: weight_rule(SIZES[LLAMA_2], 16) <= 80 * 2**30,
        False, real=lambda: real.fits(LLAMA_2, "fp16", _CARD, 8192, 4), model=f"{LLAMA_2}, fp16",
    ),
    _weights_example("6, example 2", LLAMA_2, "int8", 8, "70", Reason.UNITS),
    _weights_example("6, example 2", LLAMA_2, "Q4_K_M", _Q4, "~35", Reason.UNITS),
    _cache_example(
        "6, example 2", LLAMA_2, 8192, "~64", 80 * 2**30, batch=4, slip=Reason.SLIP,
        why=(Reason.SLIP, Reason.MULTI_HEAD),
    ),
    _cache_example(
        "6, example 2", LLAMA_2, 8192, "~32", 40 * 2**30, batch=4, each=1, slip=Reason.SLIP,
        why=(Reason.SLIP, Reason.MULTI_HEAD),
    ),
    _activation_example("6, example 2", LLAMA_2, 8192, "~10", 40 * 2**30, batch=4, slip=Reason.BATCH),
    *(example for row in _STEPS for example in _step(row)),
)  # fmt: skip


def _saved(new: Callable[[], int], old: Callable[[], int]) -> Callable[[], Value]:
    return lambda: 1 - Fraction(new(), old())


_THIRD = (
    *_million("6, example 3"),
    _cache_example(
        "6, example 3", LLAMA_3, _MILLION, "64", 262_144_000_000, each=1, slip=Reason.SLIP,
        why=(Reason.SLIP, Reason.MULTI_HEAD),
    ),
    _total_example(
        "6, example 3", f"total, {LLAMA_3}, Q4_K_M, 1,000,000 tokens, INT8 cache", "133.5", ("3.5", "64", "64", "2"),
        lambda: _sum(LLAMA_3, _Q4, _MILLION, each=1), 4 * 10**9 + 524_288_000_000 + _OVERHEAD,
        lambda: real.total(LLAMA_3, "Q4_K_M", _MILLION, kv_dtype="int8"), "llama.cpp",
    ),
    Example(
        where="6, example 3", what="what the INT8 cache saves: 1 - 133.5 / 197.5", printed="33", unit=PERCENT,
        formula=lambda: 1 - Fraction("133.5") / Fraction("197.5"), exact=Fraction(64 * 2, 395), slip=Reason.SLIP,
        real=_saved(
            lambda: real.total(LLAMA_3, "Q4_K_M", _MILLION, kv_dtype="int8"),
            lambda: real.total(LLAMA_3, "Q4_K_M", _MILLION),
        ),
        model="llama.cpp", why=(Reason.NOT_ALIVE,),
    ),
)  # fmt: skip


def _cheat(name: str, printed: str, bits: Fraction | int, kept: str, why: tuple[Reason, ...]) -> Example:
    return Example(
        where="cheat sheet", what=f"{name}: bytes per parameter", printed=printed, unit=BYTES_EACH,
        formula=lambda: Fraction(bits) / 8, exact=Fraction(bits) / 8,
        real=lambda: real.bits_per_weight(LLAMA_3, kept) / 8, model=f"{LLAMA_3}, {kept}", why=why,
    )  # fmt: skip


_CHEAT_SHEET = (
    _cheat("FP32", "4.0", 32, "fp32", ()),
    _cheat("FP16", "2.0", 16, "fp16", ()),
    _cheat("INT8", "1.0", 8, "llm.int8", (Reason.SIXTEEN,)),
    _cheat("INT4", "0.5", 4, "w4a16", (Reason.SIXTEEN,)),
    _cheat("Q4_K_M", "~0.5", _Q4, "Q4_K_M", (Reason.NAME, Reason.MIXTURE)),
    _cheat("Q5_K_M", "~0.625", 5, "Q5_K_M", (Reason.NAME, Reason.MIXTURE)),
    _cheat("Q8_0", "~1.06", Q8_0, "Q8_0", ()),
    Example(
        where="cheat sheet", what="bytes of a GB", printed="1,073,741,824", unit=BYTES, formula=lambda: 2**30,
        exact=1_073_741_824,
    ),
)  # fmt: skip

EXAMPLES = (*_CACHE, *_ACTIVATIONS, *_INSIGHTS, *_SCENARIOS, *_FIRST, *_SECOND, *_THIRD, *_CHEAT_SHEET)
