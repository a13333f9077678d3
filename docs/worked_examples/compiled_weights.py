"""LLM memory requirements: formulas and calculations (a compiled document), sections 1 and 2: weights."""

from fractions import Fraction

from planner.serving.rules_of_thumb import weight_rule
from worked_examples import real
from worked_examples.records import BINARY_GB, BITS, BYTES, BYTES_EACH, PERCENT, Example, Reason

LLAMA_2, LLAMA_3 = "llama-2-70b", "llama-3-8b"
SIZES = {LLAMA_2: 70 * 10**9, LLAMA_3: 8 * 10**9}
_FORMATS = {"fp32": 32, "fp16": 16, "int8": 8, "int4": 4}

# Name, bits, bytes per parameter and reduction as printed; the reduction's slip.
_GGUF: tuple[tuple[str, str, str, str, Reason | None], ...] = (
    ("Q2_K", "2.0", "~0.25", "~85", Reason.COARSE),
    ("Q3_K_S", "3.0", "~0.375", "~80", Reason.COARSE),
    ("Q3_K_M", "3.0", "~0.375", "~80", Reason.COARSE),
    ("Q3_K_L", "3.0", "~0.375", "~80", Reason.COARSE),
    ("Q4_0", "4.5", "~0.56", "~72", None),
    ("Q4_1", "5.0", "~0.625", "~69", None),
    ("Q4_K_S", "4.0", "~0.5", "~75", None),
    ("Q4_K_M", "4.0", "~0.5", "~75", None),
    ("Q5_0", "5.5", "~0.69", "~66", None),
    ("Q5_1", "6.0", "~0.75", "~63", None),
    ("Q5_K_S", "5.0", "~0.625", "~69", None),
    ("Q5_K_M", "5.0", "~0.625", "~69", None),
    ("Q6_K", "6.0", "~0.75", "~63", None),
    ("Q8_0", "8.5", "~1.06", "~47", None),
)

# Name, bits by the document's own table, size in "GB" and reduction as printed.
_FILES: tuple[tuple[str, Fraction, str, Reason, str], ...] = (
    ("FP16", Fraction(16), "~13.0", Reason.OTHER_MODEL, ""),
    ("Q8_0", Fraction(17, 2), "~6.7", Reason.OTHER_MODEL, "~51"),
    ("Q5_K_M", Fraction(5), "~4.9", Reason.SLIP, "~62"),
    ("Q4_K_M", Fraction(4), "~3.5", Reason.OTHER_MODEL, "~73"),
    ("Q3_K_M", Fraction(3), "~2.6", Reason.SLIP, "~80"),
    ("Q2_K", Fraction(2), "~1.6", Reason.OTHER_MODEL, "~88"),
)
_K_QUANT = "_K"


def _bytes_each() -> tuple[Example, ...]:
    rows = (("fp32", "4.0"), ("fp16", "2.0"), ("bf16", "2.0"), ("int8", "1.0"), ("int4", "0.5"))
    return tuple(
        Example(
            where="1, standard formats",
            what=f"{name.upper()}: bits / 8",
            printed=printed,
            unit=BYTES_EACH,
            formula=lambda name=name: Fraction({"bf16": 16, **_FORMATS}[name], 8),
            exact=Fraction(printed),
            real=lambda name=name: real.format_bits(name) / 8,
            model="flat, without scales",
        )
        for name, printed in rows
    )


def _whole(model: str) -> tuple[Example, ...]:
    """The section's formula divides by 2^30; its examples multiply alone and call the result GB."""
    parameters = SIZES[model]

    def off(bits: int) -> bool:
        """7.4 % show in all of them but 8B in INT4: 3.73 is 4 in one digit."""
        return parameters * bits > 4 * 8 * 10**9

    return tuple(
        Example(
            where="1, examples",
            what=f"{model}: {parameters // 10**9}B x {float(Fraction(bits, 8)):g} bytes, {name.upper()}",
            printed=f"{parameters * bits // 8 // 10**9}",
            unit=BINARY_GB,
            formula=lambda bits=bits: weight_rule(parameters, bits),
            exact=parameters * bits // 8,
            slip=Reason.UNITS if off(bits) else None,
            real=lambda name=name: real.weights(model, name),
            model=f"{model}, {name}",
            why=(Reason.UNITS, Reason.PARAMETERS) if off(bits) else (),
        )
        for name, bits in _FORMATS.items()
    )


def _kind(name: str) -> str:
    """The block type that the file type is named after: Q4_K for Q4_K_M."""
    return "ggml:" + "_".join(name.split("_")[:2])


def _why_mixed(name: str) -> tuple[Reason, ...]:
    return (Reason.NAME, Reason.MIXTURE) if _K_QUANT in name else (Reason.MIXTURE,)


def _gguf(name: str, bits: str, each: str, reduction: str, slip: Reason | None) -> tuple[Example, ...]:
    printed = Fraction(bits)
    where, same = "2, GGUF types", name in ("Q5_1", "Q8_0")
    return (
        Example(
            where=where,
            what=f"{name}: bits per weight",
            printed=bits,
            unit=BITS,
            real=lambda: real.format_bits(_kind(name)),
            model=f"blocks of {_kind(name).removeprefix('ggml:')}",
            why=(Reason.NAME,) if _K_QUANT in name else (),
        ),
        Example(
            where=where,
            what=f"{name}: {bits} / 8",
            printed=each,
            unit=BYTES_EACH,
            formula=lambda: printed / 8,
            exact=printed / 8,
            real=lambda: real.bits_per_weight(LLAMA_3, name) / 8,
            model=f"{LLAMA_3}, {name}",
            why=() if same else _why_mixed(name),
        ),
        Example(
            where=where,
            what=f"{name}: 1 - {bits} / 16",
            printed=reduction,
            unit=PERCENT,
            formula=lambda: 1 - printed / 16,
            exact=1 - printed / 16,
            slip=slip,
            real=lambda: real.reduction(LLAMA_3, name),
            model=f"{LLAMA_3}, {name}",
            why=() if name == "Q8_0" else _why_mixed(name),
        ),
    )


def _file(name: str, bits: Fraction, printed: str, slip: Reason, reduction: str) -> tuple[Example, ...]:
    where = "2, file sizes of Llama 3 8B"
    kept = "gguf:F16" if name == "FP16" else name
    size = Example(
        where=where,
        what=f"{name}: 8B x {float(bits / 8):g} bytes",
        printed=printed,
        unit=BINARY_GB,
        formula=lambda: weight_rule(SIZES[LLAMA_3], bits),
        exact=int(10**9 * bits),
        slip=slip,
        real=lambda: real.weights(LLAMA_3, kept),
        model=f"{LLAMA_3}, {name}",
        why=(slip, *_why_mixed(name)) if name not in ("FP16", "Q8_0") else (slip,),
    )
    if not reduction:
        return (size,)
    shares = {row[0]: Fraction(row[2].removeprefix("~")) for row in _FILES}

    def smaller() -> Fraction:
        return 1 - shares[name] / shares["FP16"]

    return (
        size,
        Example(
            where=where,
            what=f"{name}: 1 - {printed} / ~13.0",
            printed=reduction,
            unit=PERCENT,
            formula=smaller,
            exact=1 - shares[name] / shares["FP16"],
            slip=Reason.SHARE if name == "Q8_0" else None,
            real=lambda: real.reduction(LLAMA_3, name),
            model=f"{LLAMA_3}, {name}",
            why=(Reason.SHARE,) if name == "Q8_0" else (slip, *_why_mixed(name)),
        ),
    )


EXAMPLES = (
    Example(
        where="1, core formula",
        what="1,024^3",
        printed="1,073,741,824",
        unit=BYTES,
        formula=lambda: 1024**3,
        exact=1_073_741_824,
    ),
    *_bytes_each(),
    *_whole(LLAMA_2),
    *_whole(LLAMA_3),
    *(example for row in _GGUF for example in _gguf(*row)),
    Example(
        where="2, key notes",
        what="Q4_K_M: size reduction",
        printed="~75",
        unit=PERCENT,
        formula=lambda: 1 - Fraction(4, 16),
        exact=Fraction(3, 4),
        real=lambda: real.reduction(LLAMA_3, "Q4_K_M"),
        model=f"{LLAMA_3}, Q4_K_M",
        why=(Reason.NAME, Reason.MIXTURE),
    ),
    Example(
        where="2, key notes",
        what="Q8_0: about half the size",
        printed="50",
        unit=PERCENT,
        formula=lambda: 1 - Fraction(17, 32),
        exact=Fraction(15, 32),
        slip=Reason.COARSE,
        real=lambda: real.reduction(LLAMA_3, "Q8_0"),
        model=f"{LLAMA_3}, Q8_0",
        why=(Reason.COARSE,),
    ),
    *(example for row in _FILES for example in _file(*row)),
    Example(
        where="2, other methods",
        what="LLM.int8(): bytes per parameter",
        printed="1",
        unit=BYTES_EACH,
        formula=lambda: Fraction(8, 8),
        exact=1,
        real=lambda: real.bits_per_weight(LLAMA_3, "llm.int8") / 8,
        model=f"{LLAMA_3}, llm.int8",
        why=(Reason.SIXTEEN,),
    ),
    Example(
        where="2, other methods",
        what="QLoRA: bytes per parameter",
        printed="0.5",
        unit=BYTES_EACH,
        formula=lambda: Fraction(4, 8),
        exact=Fraction(1, 2),
        real=lambda: real.bits_per_weight(LLAMA_3, "qlora") / 8,
        model=f"{LLAMA_3}, nf4-dq",
        why=(Reason.SIXTEEN,),
    ),
)
