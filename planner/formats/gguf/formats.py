"""GGUF files as weight formats: every file type of llama-quantize, and every ggml type on all matrices.

On a GPU all layers are taken to be offloaded. llama.cpp keeps the tables of the input layer in CPU memory
even then (src/llama-model.cpp `load_tensors`, dev_input; src/llama-arch.cpp LLM_TENSOR_LAYER_INPUT); a token
embedding that is the head too is loaded a second time, on the GPU (TENSOR_DUPLICATED).
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from functools import cache, partial
from math import prod

from planner.errors import JobError
from planner.formats.gguf.filetypes import FILE_TYPES, FileType
from planner.formats.gguf.header import header_bytes, header_note
from planner.formats.gguf.mixture import tensor_types
from planner.formats.gguf.names import GgufModel, Written, gguf_model
from planner.formats.gguf.types import FLOATS, bits, blocks, tensor_bytes, weight_types
from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import Stored, StoredModel, Weight
from planner.hints import shorten
from planner.units import format_bytes

_INPUT_TABLES = {"token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"}
IMATRIX, STATIC = ":imatrix", ":static"


@cache
def formats() -> tuple[Format, ...]:
    """Every file type that the gguf package can size, then `ggml:TYPE` for every ggml type."""
    return (*_file_types(), *_pure())


def parse(text: str) -> Format | None:
    """`gguf:NAME`, and NAME with `:imatrix` or `:static` (made with or without an importance matrix).

    Raises JobError for a file type that cannot be made without one.
    """
    name = text.lower().removeprefix("gguf:")
    ending = next((each for each in (IMATRIX, STATIC) if name.endswith(each)), "")
    file_type = _known_types().get(name.removesuffix(ending))
    if file_type is None or (not ending and name == text.lower()):
        return None
    if ending == STATIC and file_type.needs_imatrix:
        raise JobError(f"{shorten(text)}: llama-quantize does not make {file_type.name} without an importance matrix")
    return _format(
        file_type, imatrix=ending == IMATRIX if ending else file_type.imatrix, name=f"{file_type.name}{ending}"
    )


def store(served: ServedModel, file_type: FileType, *, imatrix: bool, pure: bool = False) -> StoredModel:
    """A model in a file type, tensor by tensor; the vision part is in the files' mmproj, in 16 bit.

    Raises UnsupportedError where llama.cpp has no type for a matrix's rows.
    """
    model = gguf_model(served, half=file_type.base if file_type.base in FLOATS else "F16")
    types = tensor_types(model.text, model.hyper, file_type, imatrix=imatrix, pure=pure)
    types |= _unquantizable(model)
    sizes = [tensor_bytes(types[t.name], t.shape) for t in model.text]
    return StoredModel(
        format=f"ggml:{file_type.base}" if pure else file_type.name,
        tensors=tuple(_stored(weight, written, types, served.tied) for weight, written in _by_weight(model)),
        other_file_bytes=header_bytes(model.text, sizes, served.vocabulary),
        notes=(*model.notes, *_notes(served, model, file_type, imatrix)),
    )


def _unquantizable(model: GgufModel) -> dict[str, str]:
    """Experts that the checkpoint has in blocks already: llama-quantize refuses to requantize."""
    return {t.name: t.type for t in model.text if t.type not in FLOATS}


def _by_weight(model: GgufModel) -> Iterator[tuple[Weight, Sequence[Written]]]:
    by_name: dict[str, list[Written]] = {}
    for written in model.written:
        by_name.setdefault(written.weight.name, []).append(written)
    return ((parts[0].weight, parts) for parts in by_name.values())


def _stored(weight: Weight, written: Sequence[Written], types: dict[str, str], tied: bool) -> Stored:
    kinds = [w.tensor.type if w.vision else types[w.tensor.name] for w in written]
    size = sum(_bytes(w, kind) for w, kind in zip(written, kinds, strict=True))
    table = any(w.tensor.name in _INPUT_TABLES for w in written)
    doubled = tied and any(w.tensor.name == "token_embd.weight" for w in written)
    return Stored(
        weight=weight,
        type=" and ".join(dict.fromkeys(kinds)),
        file_bytes=size,
        gpu_bytes=size if doubled or not table else 0,
        cpu_bytes=size if table else 0,
    )


def _bytes(written: Written, kind: str) -> int:
    """Vision tensors may have more axes than columns and rows: floats need no whole rows."""
    shape = written.tensor.shape
    return tensor_bytes(kind, (prod(shape),) if written.vision else shape)


def _notes(served: ServedModel, model: GgufModel, file_type: FileType, imatrix: bool) -> Iterator[str]:
    yield header_note(served.vocabulary)
    vision = sum(_bytes(w, w.tensor.type) for w in model.written if w.vision)
    if vision:
        yield f"Of the files, {format_bytes(vision, 'GB')} are the vision part (mmproj), in 16 bit whatever the type."
    if imatrix != file_type.imatrix:
        yield f"Made {'with' if imatrix else 'without'} an importance matrix."
    elif file_type.name in ("Q4_0", "Q5_0"):
        yield f"{file_type.name} made without an importance matrix; with one it is larger: {file_type.name}{IMATRIX}."


@cache
def _known_types() -> dict[str, FileType]:
    """File types whose base the gguf package knows, by every name in lower case."""
    known = [f for f in FILE_TYPES if f.base in blocks()]
    return {name.lower(): f for f in known for name in (*f.aliases, f.name)}


def _file_types() -> Iterable[Format]:
    for file_type in dict.fromkeys(_known_types().values()):
        # Floats go by their full name: bf16 alone is the plain format.
        name = f"gguf:{file_type.name}" if file_type.base in FLOATS else file_type.name
        yield _format(file_type, imatrix=file_type.imatrix, name=name)


def _format(file_type: FileType, *, imatrix: bool, name: str) -> Format:
    kind: Fraction = bits(file_type.base)
    what = "all matrices" if file_type.name in (*FLOATS, "Q8_0") else "most matrices"
    return Format(
        name=name,
        family="gguf",
        summary=f"GGUF, {what} in {file_type.base} ({float(kind):g} bits)",
        bits=kind,
        store=partial(store, file_type=file_type, imatrix=imatrix),
        aliases=() if name.endswith((IMATRIX, STATIC)) else file_type.aliases,
    )


def _pure() -> Iterator[Format]:
    for kind in weight_types():
        pure = FileType(name=kind, base=kind)
        yield Format(
            name=f"ggml:{kind}",
            family="gguf",
            summary=f"GGUF, every matrix in {kind} ({float(bits(kind)):g} bits)",
            bits=bits(kind),
            store=partial(store, file_type=pure, imatrix=False, pure=True),
        )
