"""What llama-quantize itself answered: tests/formats/recorded/llama_quantize, made by record_llama_quantize.py."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from planner.formats.gguf.mixture import Tensor
from planner.formats.gguf.rules import Hyper

FOLDER = Path(__file__).parent.parent / "recorded" / "llama_quantize"
MODELS = sorted(path.stem for path in FOLDER.glob("*.json"))


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One model: its tensors as given to llama-quantize, and per run the types it gave them."""

    hyper: Hyper
    tensors: tuple[Tensor, ...]
    runs: Mapping[str, dict]

    def types(self, run: str) -> dict[str, str]:
        return {t.name: t.type for t in self.tensors} | dict(unfold(self.runs[run]["types"]))


@cache
def recording(model: str) -> Recording:
    kept = json.loads((FOLDER / f"{model}.json").read_text())
    tensors = []
    for name, value in unfold(kept["tensors"]):
        kind, _, shape = value.partition(" ")
        tensors.append(Tensor(name=name, shape=tuple(map(int, shape.split("x"))), type=kind))
    return Recording(hyper=Hyper(**kept["hyper"]), tensors=tuple(tensors), runs=kept["types"])


def unfold(folded: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    for key, values in folded.items():
        for value, ranges in values.items():
            for name in names(key, ranges):
                yield name, value


def names(key: str, ranges: str) -> Iterator[str]:
    if not ranges:
        yield key
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from (key.replace("*", str(layer), 1) for layer in range(int(first), int(last or first) + 1))
