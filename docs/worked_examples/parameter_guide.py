"""Parameter counts and VRAM requirements guide."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from planner.serving.rules_of_thumb import OVERHEAD_SHARE, grouped_kv_cache_rule, training_rule, weight_rule
from planner.training.optimizers import Optimizer
from worked_examples import real
from worked_examples.records import (
    BANDWIDTH,
    BILLION,
    BITS,
    COUNT,
    GB,
    PERCENT,
    TIMES,
    TRUTH,
    Example,
    Reason,
    Value,
)

TITLE = "Parameter counts and VRAM requirements guide"

_TEN = 10 * 10**9
_LLAMA, _LLAMA_70 = "llama-3-8b", "llama-2-70b"
_MULTIPLES = (("FP32", 32, "4"), ("FP16/BF16", 16, "2"), ("INT8", 8, "1"), ("INT4", 4, "0.5"))
_TRAINED = f"{_LLAMA}, bf16 weights, fp32 master weights"


def _multiples(where: str) -> tuple[Example, ...]:
    """N billion parameters: N x 4, 2, 1, 0.5 GB."""
    return tuple(
        Example(
            where=where, what=f"{name}: GB for each billion parameters", printed=printed, unit=GB,
            formula=lambda bits=bits: weight_rule(10**9, bits), exact=int(10**9 * Fraction(printed)),
        )
        for name, bits, printed in _MULTIPLES
    )  # fmt: skip


def _ten_billion(where: str, about: str) -> tuple[Example, ...]:
    return tuple(
        Example(
            where=where, what=f"10B parameters, {name}", printed=f"{about}{bits * 10 // 8}", unit=GB,
            formula=lambda bits=bits: weight_rule(_TEN, bits), exact=_TEN * bits // 8,
        )
        for name, bits, _ in _MULTIPLES
    )  # fmt: skip


def _float(name: str, exponent: int, mantissa: int) -> Example:
    return Example(
        where="precision", what=f"{name.upper()}: 1 + {exponent} + {mantissa} bits",
        printed=f"{1 + exponent + mantissa}", unit=BITS, formula=lambda: 1 + exponent + mantissa,
        exact=1 + exponent + mantissa, real=lambda: real.format_bits(name), model=name,
    )  # fmt: skip


_PARAMETERS = (
    Example(
        where="first lines", what="parameters of DeepSeek R1", printed="671", unit=BILLION,
        real=lambda: real.served("deepseek-r1")[0].parameters, model="deepseek-r1 as loaded",
    ),
    *_multiples("TL;DR"),
    *_ten_billion("TL;DR, example", ""),
    Example(
        where="what is a parameter", what="weights of a layer of 1024 x 1024", printed="1,048,576", unit=COUNT,
        formula=lambda: 1024 * 1024, exact=1_048_576,
    ),
    Example(
        where="what is a parameter", what="its 1,024 biases: share of all parameters", printed="~0.1", unit=PERCENT,
        formula=lambda: Fraction(1024, 1024 * 1024 + 1024), exact=Fraction(1, 1025),
    ),
    *_multiples("memory estimation, rule of thumb"),
    *_ten_billion("memory estimation, example", "~"),
    _float("fp32", 8, 23),
    _float("fp16", 5, 10),
    _float("bf16", 8, 7),
    Example(where="8-bit", what="INT8: levels", printed="256", unit=COUNT, formula=lambda: 2**8, exact=256),
    Example(where="4-bit", what="INT4: levels, -8 to 7", printed="16", unit=COUNT, formula=lambda: 2**4, exact=16),
    Example(
        where="TL;DR, note", what="some approaches keep weights in less than 2 bits", printed="yes", unit=TRUTH,
        real=lambda: real.format_bits("ggml:IQ1_S") < 2, model="blocks of IQ1_S",
    ),
    Example(
        where="group-size quantization", what="larger groups cost less: groups of 128 beside groups of 32",
        printed="yes", unit=TRUTH, formula=lambda: Fraction(16, 128) < Fraction(16, 32), exact=True,
        real=lambda: real.weights(_LLAMA, "gptq-4bit-128g") < real.weights(_LLAMA, "gptq-4bit-32g"),
        model=f"{_LLAMA}, gptq-4bit-128g and -32g",
    ),
)  # fmt: skip


def _overhead(model: str) -> Example:
    return Example(
        where="inference memory", what=f"framework overhead over raw weights, {model}", printed="10-30",
        unit=PERCENT, formula=lambda: OVERHEAD_SHARE[0], exact=Fraction(1, 10),
        real=lambda: real.overhead_share(model, "fp16"), model=f"{model}, fp16, vLLM: context and graphs",
        why=(Reason.OVERHEAD,),
    )  # fmt: skip


def _multiple(what: str, optimizer: str, part: str, printed: str, exact: Value) -> dict[str, Any]:
    return {
        "where": "training memory",
        "what": what,
        "printed": printed,
        "unit": TIMES,
        "formula": lambda: Fraction(training_rule(10, optimizer)[part], 10),
        "exact": exact,
    }


def _states(name: str, optimizer: Optimizer, printed: str, exact: int, why: tuple[Reason, ...] = ()) -> Example:
    rule = {"adamw": "adam"}.get(optimizer, optimizer)
    return Example(
        **_multiple(f"{name}: states over weights", rule, "optimizer_states", printed, exact),
        real=lambda: real.optimizer_share(_LLAMA, optimizer),
        model=_TRAINED,
        why=why,
    )


def _buffers(part: str, printed: str) -> Example:
    return Example(
        **_multiple(
            f"temporary buffers over weights ({part})", "adam", f"temporary_{part}", printed, Fraction(printed)
        ),
        real=lambda: real.buffer_share(_LLAMA),
        model=f"{_LLAMA}, ZeRO-2 on 8 GPUs",
        why=(Reason.BUFFERS,),
    )


_TRAINING = (
    _states("Adam, two moments and master weights", "adamw", "<=8", 8),
    _states("AdaFactor", "adafactor", "~2", 2),
    _states("Lion", "lion", "~2", 2, (Reason.STATES,)),
    Example(
        **_multiple("gradients over weights", "adam", "gradients", "~1", 1),
        real=real.gradient_share,
        model=_TRAINED,
    ),
    _buffers("lower", "1.2"),
    _buffers("upper", "1.5"),
)


def _grouped() -> int:
    return grouped_kv_cache_rule(1, 8192, 8, 128, 32)


def _same(model: str, heads: int, size: int, layers: int) -> Callable[[], bool]:
    return lambda: grouped_kv_cache_rule(1, 8192, heads, size, layers) == real.kv_cache(model, 8192)


_SERVING = (
    Example(
        where="KV cache", what=f"is the formula with key-value heads exact? {_LLAMA}, 8,192 tokens", printed="yes",
        unit=TRUTH, formula=lambda: _grouped() == 2**30, exact=True, real=_same(_LLAMA, 8, 128, 32), model=_LLAMA,
    ),
    Example(
        where="KV cache", what="the same of deepseek-r1, which keeps latents (128 heads of 128, 61 layers)",
        printed="yes", unit=TRUTH, real=_same("deepseek-r1", 128, 128, 61), model="deepseek-r1",
        why=(Reason.LATENT,),
    ),
    _overhead(_LLAMA),
    _overhead(_LLAMA_70),
)  # fmt: skip

_HARDWARE = (
    Example(
        where="memory bandwidth", what="a gaming GPU", printed="~500", unit=BANDWIDTH,
        real=lambda: real.bandwidth("RTX 4090"), model="RTX 4090", why=(Reason.CARD,),
    ),
    Example(
        where="memory bandwidth", what="an AI GPU", printed="2000-3000", unit=BANDWIDTH,
        real=lambda: real.bandwidth("A100 80GB SXM"), model="A100 80GB SXM",
    ),
    Example(
        where="AI-friendly", what="an A100 can be 10-20 x as fast as a gaming GPU with similar memory",
        printed="10-20", unit=TIMES,
        real=lambda: Fraction(real.bandwidth("A100 40GB PCIe"), real.bandwidth("RTX 4090")),
        model="ceiling of decoding: A100 40GB PCIe over RTX 4090", why=(Reason.CARD,),
    ),
    Example(
        where="real-world impact", what="an A5000 handles large LLMs better than an RTX 4090", printed="yes",
        unit=TRUTH, real=lambda: real.bandwidth("A5000") > real.bandwidth("RTX 4090"),
        model="ceiling of decoding", why=(Reason.CARD,),
    ),
)  # fmt: skip

EXAMPLES = (*_PARAMETERS, *_SERVING, *_TRAINING, *_HARDWARE)
