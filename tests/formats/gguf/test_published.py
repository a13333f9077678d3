"""Sizes of published GGUF files, each with its source, beside ours. The vision part is in a file of its own."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from planner.formats.gguf.formats import formats, parse
from tests.formats.full_size import stored

ENTRIES = json.loads((Path(__file__).parent.parent / "published_gguf.json").read_text(encoding="utf-8"))
NAMED = {form.name: form for form in formats()}
# In 10^9 bytes (Hugging Face: bartowski/Meta-Llama-3-8B-Instruct-GGUF).
LLAMA_3_8B = {"Q8_0": 8.54, "Q6_K": 6.60, "Q5_K_M": 5.73, "Q4_K_M": 4.92, "Q2_K": 3.18}


def file_bytes(model: str, name: str) -> int:
    form = NAMED.get(name) or parse(name)
    assert form is not None
    found = stored(model, form)
    vision = sum(t.file_bytes for t in found.tensors if t.weight.unit in ("vision", "projector"))
    return found.file_bytes - vision


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e['model']}-{e['format']}")
def test_a_published_file_is_met_within_one_percent(entry: dict[str, str]) -> None:
    told = Decimal(entry["gb"]) * 10**9
    off = abs(file_bytes(entry["model"], entry["format"]) / told - 1)
    assert off < Decimal(entry.get("within", "0.01")), f"{off:.2%} off {entry['source']}"


@pytest.mark.parametrize("name", LLAMA_3_8B)
def test_llama_3_8b_is_met_within_half_a_percent(name: str) -> None:
    assert file_bytes("llama-3-8b", name) == pytest.approx(LLAMA_3_8B[name] * 1e9, rel=0.005)


def test_most_published_files_are_met_within_a_quarter_percent() -> None:
    plain = [e for e in ENTRIES if "within" not in e]
    off = [abs(file_bytes(e["model"], e["format"]) / float(e["gb"]) / 1e9 - 1) for e in plain]
    assert sum(o < 0.0025 for o in off) >= 0.9 * len(off)


def test_every_published_size_has_its_source_and_every_exception_its_reason() -> None:
    assert len({(e["model"], e["format"]) for e in ENTRIES}) >= 60
    assert len({e["model"] for e in ENTRIES}) >= 9
    assert all(e["source"].startswith(("https://", "Hugging Face: ")) for e in ENTRIES)
    assert all(e["note"] for e in ENTRIES if "within" in e)
    assert sum("within" in e for e in ENTRIES) <= 7
