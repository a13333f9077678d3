"""Weights as numbers of one size: what a checkpoint has as published, and flat bytes per weight."""

from collections.abc import Callable, Iterable
from fractions import Fraction

from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import Stored, StoredModel, Weight

FLAT_NOTE = (
    "Flat: every weight of the model at this width, norms, embeddings and head too, and no scales. "
    "No engine stores a model so; it is the rule of thumb to compare the other formats with."
)

# Name, bits, summary, aliases. The flat ones are what guides multiply: parameters x bytes.
_KINDS: tuple[tuple[str, int, str, tuple[str, ...]], ...] = (
    ("fp32", 32, "32-bit floats", ("float32",)),
    ("fp16", 16, "16-bit floats", ("float16", "half")),
    ("bf16", 16, "16-bit floats with the range of 32-bit ones", ("bfloat16",)),
    ("int8", 8, "every weight in one byte, no scales (a rule of thumb)", ("int8-flat",)),
    ("int4", 4, "every weight in half a byte, no scales (a rule of thumb)", ("int4-flat", "4bit")),
)


def formats() -> Iterable[Format]:
    """The widths that rules of thumb know."""
    for name, bits, summary, aliases in _KINDS:
        yield Format(
            name=name,
            family="plain",
            summary=summary,
            bits=Fraction(bits),
            store=_store(name, bits),
            aliases=aliases,
        )


def parse(_text: str) -> Format | None:
    """No plain format has a number or a path in its name."""
    return None


def keep(weight: Weight, itemsize: int, *, on_cpu: bool = False) -> Stored:
    """A tensor that a format leaves as it is, in floats of `itemsize` bytes."""
    size = weight.elements * itemsize
    return Stored(
        weight=weight,
        type=f"{8 * itemsize}-bit",
        file_bytes=size,
        gpu_bytes=0 if on_cpu else size,
        cpu_bytes=size if on_cpu else 0,
    )


def packed_bytes(elements: int, bits: int | Fraction) -> int:
    """Whole bytes that hold so many weights of so many bits."""
    return int(-(-elements * Fraction(bits) // 8))


def _store(name: str, bits: int) -> Callable[[ServedModel], StoredModel]:
    def store(served: ServedModel) -> StoredModel:
        return StoredModel(
            format=name,
            tensors=tuple(_flat(weight, name, bits) for weight in served.weights),
            notes=(FLAT_NOTE,) if bits < 16 else (),
        )

    return store


def _flat(weight: Weight, name: str, bits: int) -> Stored:
    size = packed_bytes(weight.elements, bits)
    return Stored(weight=weight, type=name, file_bytes=size, gpu_bytes=size)
