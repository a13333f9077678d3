"""Weights: one sub-section for each family of formats."""

from fractions import Fraction

from worked_examples import real

from formula_sections.text import decimal, plain, table
from planner.formats.autogptq import matrix_tensors
from planner.formats.bitsandbytes import BLOCK, NESTED_BLOCK, four_bit_tensors
from planner.formats.exllama import HEAD_BITS, HEADS, exl3_tensors
from planner.formats.gguf.filetypes import FILE_TYPES
from planner.formats.gguf.types import bits, blocks, weight_types
from planner.formats.registry import all_formats

MODELS = ("llama-3-8b", "llama-2-70b")
_SIDE = 4096


def section() -> str:
    return "\n".join(
        [
            "## Weights\n",
            _whole(),
            _plain(),
            _gguf(),
            _file_types(),
            _compressed(),
            _gptq(),
            _bitsandbytes(),
            _exllama(),
        ]
    )


def _whole() -> str:
    llama = real.served(MODELS[0])[0]
    outside = sum(weight.elements for weight in llama.weights if weight.unit in ("embedding", "head"))
    return f"""`bytes = sum over the model's tensors of bytes(tensor in its format)`,
`bits per weight = 8 x bytes of tensors / params`.

Which tensors a format quantizes decides more than its bits: the token embedding and the head of {MODELS[0]} are
{100 * outside / llama.parameters:.1f} % of its weights. Tied tensors are stored once
unless the format keeps embedding and head differently.
`--params N` knows no tensors and takes `ceil(N x bits / 8)`.
Source: `planner/formats/tensors.py`, `planner/serving/serve.py serve_parameters`.
"""


def _plain() -> str:
    rows = [
        (kept.name, plain(kept.bits), *(decimal(real.weights(model, kept.name)) for model in MODELS))
        for kept in all_formats()
        if kept.family == "plain" and kept.bits is not None
    ]
    return (
        "### Flat widths\n\n`bytes(tensor) = ceil(elements x bits / 8)` for every tensor, norms included. "
        "fp32, fp16 and bf16 are\nhow checkpoints are published; int8 and int4 are the rule of thumb, no engine "
        "stores a whole model so.\nSource: `planner/formats/plain.py`.\n\n"
        + table(("format", "bits", *(f"{model}, GB" for model in MODELS)), rows)
    )


def _gguf() -> str:
    rows = []
    for kind in weight_types():
        weights, size = blocks()[kind]
        rows.append((kind, weights, size, f"{float(bits(kind)):g}"))
    return (
        "### GGUF: block types\n\n`bytes(row) = columns / weights of a block x bytes of a block`, "
        "`bits = 8 x bytes of a block / weights of a block`.\nBlock sizes are those of the `gguf` package "
        "(`GGML_QUANT_SIZES`). The digit in a name is not its bits: scales and\nminima of the blocks come on top. "
        "Rows that whole blocks do not fill take a type with smaller blocks\n(llama.cpp `src/llama-quant.cpp "
        "tensor_type_fallback`). Source: `planner/formats/gguf/types.py`.\n\n"
        + table(("type", "weights of a block", "bytes of a block", "bits"), rows)
    )


def _file_types() -> str:
    known = {kept.name for kept in all_formats() if kept.family == "gguf"}
    rows = []
    for kind in FILE_TYPES:
        if kind.name in known:
            cells: list[str] = []
            for model in MODELS:
                cells += [
                    decimal(real.weights(model, kind.name)),
                    f"{float(real.bits_per_weight(model, kind.name)):.3f}",
                ]
            rows.append((kind.name, kind.base, f"{float(bits(kind.base)):g}", *cells))
    head = ("file type", "base type", "its bits", *(cell for m in MODELS for cell in (f"{m}, GB", "bits per weight")))
    return (
        "### GGUF: file types\n\nA file type such as Q4_K_M gives each tensor a type of its own: most matrices the "
        "base type, and by the rules of\nllama.cpp's quantizer (`src/llama-quant.cpp llama_tensor_get_type_impl`) more "
        "bits to the head, to attention values, to\nsome layers' `ffn_down`, fewer to others; norms stay 32-bit. "
        "The rules ask for the number of layers, of experts and of heads\nthat share keys and values, so one file type "
        "has different bits in different models. The size of a file counts tensors,\ntheir padding to 32 bytes, names "
        "and the tokenizer. Types that need an importance matrix are taken to be made with one.\n"
        "Source: `planner/formats/gguf/{rules,mixture,header}.py`.\n\n" + table(head, rows, left=2)
    )


def _compressed() -> str:
    rows = []
    for kept in all_formats():
        if kept.family == "compressed-tensors" and kept.bits is not None:
            stored = real.stored(MODELS[0], kept.name)
            matrix = next(t for t in stored.tensors if t.weight.module.endswith("q_proj"))
            own = 8 * matrix.file_bytes / matrix.weight.elements
            rows.append(
                (kept.name, matrix.type, f"{own:.4f}", decimal(stored.file_bytes), f"{stored.bits_per_weight:.3f}")
            )
    head = ("scheme", "kept as", "bits of a 4096 x 4096 Linear", f"{MODELS[0]}, GB", "bits per weight")
    return """### compressed-tensors

Of a Linear of `rows x columns` in groups of `g`, by the compressor that takes the scheme:

| tensor | bytes | where |
|---|---|---|
| `weight_packed`, integers without activations | `rows x 4 x ceil(columns x bits / 32)` | `pack_quantized`, and 16 |
| `weight`, integers with quantized activations | `rows x columns`, one byte each, 4-bit too | `int_quantized` |
| `weight`, fp8 | `rows x columns` | `float_quantized` |
| `weight_packed`, 4-bit floats | `rows x columns / 2` | `nvfp4`, `mxfp4` |
| `weight_scale` | `2 x scales`; 1 byte each for nvfp4, mxfp4, mxfp8 | one a tensor, row, group or block |
| `weight_zero_point` | packed like weights, along the rows; else its own type | asymmetric schemes |
| `weight_global_scale` | 4 | nvfp4 |

Head, embeddings, norms, routers and vision towers stay in 16 bit. Pruned weights (2:4) are stored and served as zeros
at full size. A recipe of one's own goes through the same code, with its own targets and `ignore`.
Source: `planner/formats/{compressed,compressed_schemes}.py`, after compressed_tensors/compressors.

""" + table(head, rows, left=2)


def _gptq() -> str:
    rows = []
    for method, width, group in (("gptq", 4, 128), ("gptq", 4, 32), ("gptq", 8, 128), ("awq", 4, 128)):
        sizes = matrix_tensors(method, _SIDE, _SIDE, width, group)
        total = sum(sizes.values())
        cells = (f"{sizes.get(name, 0):,}" for name in ("qweight", "qzeros", "scales", "g_idx"))
        name = f"{method}-{width}bit-{group}g"
        rows.append((name, *cells, f"{8 * total / _SIDE**2:.4f}", decimal(real.weights(MODELS[0], name))))
    head = ("4096 x 4096", "qweight", "qzeros", "scales", "g_idx", "bits", f"{MODELS[0]}, GB")
    return (
        "### GPTQ and AWQ checkpoints\n\n`qweight = rows x columns x bits / 8`, `qzeros = groups x rows x bits / 8`, "
        "`scales = groups x rows x 2`,\n`g_idx = 4 x columns` (GPTQ alone), `groups = ceil(columns / g)`; in bytes. "
        "The Linears of the decoder layers\nare quantized. Source: `planner/formats/autogptq.py`.\n\n"
        + table(head, rows)
    )


def _bitsandbytes() -> str:
    rows = []
    for name, nested in (("nf4", False), ("nf4-dq", True)):
        sizes = four_bit_tensors(_SIDE, _SIDE, nested=nested)
        rows.append(
            (
                name,
                ", ".join(f"{key} {size:,}" for key, size in sizes.items()),
                f"{8 * sum(sizes.values()) / _SIDE**2:.4f}",
            )
        )
    llama = ", ".join(
        f"{name} {decimal(real.weights(MODELS[0], name))} GB ({real.stored(MODELS[0], name).bits_per_weight:.3f} bits)"
        for name in ("llm.int8", "nf4", "nf4-dq")
    )
    return f"""### bitsandbytes

- LLM.int8: `rows x columns + 4 x rows` bytes: int8 and one fp32 scale a row.
- NF4, FP4: `elements / 2 + 4 x ceil(elements / {BLOCK})`: an fp32 scale for {BLOCK} weights, a table of 64 bytes.
- with double quantization (QLoRA): `elements / 2 + ceil(elements / {BLOCK})
  + 4 x ceil(ceil(elements / {BLOCK}) / {NESTED_BLOCK})`: 8-bit scales for {BLOCK} weights,
  fp32 scales for {NESTED_BLOCK} of these, tables of 64 and 1,024 bytes.

Head, embeddings, norms and whatever is not exactly a Linear (fused experts of transformers 5) stay in 16 bit.
{MODELS[0]}: {llama}. Source: `planner/formats/bitsandbytes.py`.

""" + table(("4096 x 4096", "tensors in the checkpoint, bytes", "bits"), rows, left=2)


def _exllama() -> str:
    rows = []
    for number in ("2.55", "3.0", "4.0", "5.0", "6.0"):
        name = f"exl2:{number}"
        cells: list[str] = []
        for model in MODELS:
            cells += [decimal(real.weights(model, name)), decimal(real.stored(model, name).gpu_bytes)]
        rows.append((name, *cells))
    head = ("format", *(cell for model in MODELS for cell in (f"{model}, file GB", "on the GPU, GB")))
    heads = ", ".join(map(str, HEADS))
    mark = exl3_tensors(_SIDE, _SIDE, Fraction(4))
    return f"""### EXL2 and EXL3

- EXL2: `elements x bits / 8` for the Linears of the layers, scales, group maps and permutation within the budget; on
  the GPU 4 bytes a row of inputs more. The head has bits of its own ({HEAD_BITS} unless asked otherwise; {heads}).
- EXL3: `elements x bits / 8 + 2 x inputs + 2 x outputs + 4`, both sides padded to 128: {sum(mark.values()):,} bytes for
  4096 x 4096 at 4 bits.

Embeddings stay in 16 bit, in CPU memory; norms and routers in 16 bit on the GPU.
Source: `planner/formats/exllama.py`, after exllamav2 and exllamav3 `conversion/`.

""" + table(head, rows)
