"""Sizes of published checkpoints, each with its source, beside what the formats say."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from planner.formats.registry import Format
from tests.formats.full_size import stored
from tests.formats.weight_formats import find_weights

ENTRIES = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
UNITS = {"B": 1, "GB": 10**9, "GiB": 2**30, "MiB": 2**20}


def label(entry: dict[str, str]) -> str:
    return f"{entry['model']}-{entry['format']}-{entry['of']}"


@pytest.mark.parametrize("entry", ENTRIES, ids=label)
def test_a_published_size_is_met_within_one_percent(entry: dict[str, str]) -> None:
    form: Format = find_weights(entry["format"])
    found = stored(entry["model"], form)
    size = found.file_bytes if entry["of"] == "file" else found.gpu_bytes
    told = Decimal(entry["size"]) * UNITS[entry["unit"]]
    assert abs(size / told - 1) < Decimal("0.01"), f"{size} against {told} ({entry['source']})"


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e["unit"] == "B"], ids=label)
def test_a_size_published_in_bytes_is_met_but_for_tables_that_are_not_loaded(entry: dict[str, str]) -> None:
    # The Llama 2 checkpoints hold rotary tables (inv_freq): 64 fp32 numbers a layer.
    tables = {"llama-2-7b": 32 * 256, "llama-2-70b": 80 * 256}.get(entry["model"], 0)
    assert stored(entry["model"], find_weights(entry["format"])).file_bytes + tables == int(entry["size"])


def test_every_published_size_has_its_source() -> None:
    assert len({(e["model"], e["format"]) for e in ENTRIES}) >= 12
    assert all(e["source"] and e["where"] for e in ENTRIES)


def test_llama_2_70b_is_as_large_as_everybody_says() -> None:
    # 137.95 GB in 16 bits, 34.5 GB at four flat bits
    assert round(stored("llama-2-70b", find_weights("fp16")).gpu_bytes / 10**9, 2) == 137.95
    assert round(stored("llama-2-70b", find_weights("int4")).gpu_bytes / 10**9, 1) == 34.5


def test_llama_2_70b_at_2_55_bits_leaves_room_for_2048_tokens_in_24_gb() -> None:
    # exllamav2 README.md: 2.55 bits per weight and a context of 2048 on one 24 GB GPU
    weights = stored("llama-2-70b", find_weights("exl2:2.55")).gpu_bytes
    cache = 2 * 80 * 8 * 128 * 2 * 2048
    assert weights + cache < 24 * 10**9
