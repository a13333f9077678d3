"""A folder of safetensors from the command line and from Python: headers are read, mistakes are one line."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from planner import model_free
from planner.cli import main
from planner.errors import JobError, ModelError, UnsupportedError
from planner.hardware.machine import Machine
from planner.modelfree.plan import ModelFreeOptions
from planner.modelfree.schema import ModelFreePlan
from planner.sizing.saved import SavedTensor
from planner.units import GIB, MIB
from tests.modelfree.toy import attention, bf16


def write(path: Path, tensors: Iterable[SavedTensor]) -> None:
    """A header; nobody reads what would follow."""
    header = {t.name: {"dtype": t.type, "shape": t.shape, "data_offsets": [0, 0]} for t in tensors}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of attention, with an index and a config."""
    weights = {}
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        write(tmp_path / name, attention(number))
        weights |= {tensor.name: name for tensor in attention(number)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_headers_of_a_folder_are_what_is_planned(folder: Path) -> None:
    plan = model_free(str(folder), "FP8_DYNAMIC", machine=Machine(gpu_memory_bytes=GIB, sm=90, source="test"))
    assert (plan.checkpoint_bytes, plan.quantized, len(plan.files)) == (12 * MIB, 6, 2)
    assert [note.kind for note in plan.notes] == ["estimate"]
    assert plan.disk.copied_bytes == sum(path.stat().st_size for path in folder.glob("*.json"))
    assert plan.disk.tensor_bytes == 6 * (MIB + 2 * 1024)


def test_on_the_cpu_originals_are_mapped_and_one_file_is_worked_on_at_a_time(folder: Path) -> None:
    one, two = (
        model_free(str(folder), "W8A8", options=ModelFreeOptions(max_workers=workers, device="cpu"))
        for workers in (1, 2)
    )
    assert one.gpu is None
    assert one.host == two.host
    assert one.host.parts["mapped files"] == 6 * MIB
    assert one.host.resident_bytes == sum(one.host.parts.values())
    # two results, and the third weight: copy, scaled, clamped, rounded; without the originals
    assert one.files[0].peak_bytes == 2 * (MIB + 2048) + 4 * 2 * MIB + 2048


def test_more_workers_hold_more_files_at_a_time(folder: Path) -> None:
    one, two = (
        model_free(str(folder), "FP8_BLOCK", options=ModelFreeOptions(max_workers=workers)).gpu for workers in (1, 2)
    )
    assert one is not None
    assert two is not None
    assert two.requested_bytes == 2 * one.requested_bytes
    assert one.smallest_card_bytes == two.smallest_card_bytes
    assert sum(two.parts.values()) == two.requested_bytes


def test_a_card_that_is_too_small_is_a_no_and_check_says_it_with_its_code(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["model-free", str(folder), "--scheme", "W4A16", "--check", "--ram", "64GiB", "--disk", "1TB"]
    assert main([*words, "--gpu", "512MiB"]) == 1
    assert "NO: " in capsys.readouterr().out.splitlines()[0]
    assert main([*words, "--gpu", "4GiB"]) == 0
    assert "YES" in capsys.readouterr().out.splitlines()[0]


def test_json_is_the_record(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = json.dumps({"all": {"targets": ["re:.*q_proj$"], "weights": {"num_bits": 8, "strategy": "channel"}}})
    assert main(["model-free", str(folder), "--config-groups", groups, "--format", "json"]) == 0
    found = ModelFreePlan.model_validate_json(capsys.readouterr().out)
    assert (found.scheme, found.quantized) == ("all", 2)


def test_markdown_names_every_kind_of_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model-free", str(folder), "-s", "NVFP4A16", "--format", "markdown"]) == 0
    assert "| model-00001-of-00002 and 1 more | 3 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--scheme", "FP8"], "cannot calibrate activations"),
        (["--scheme", "FP9"], "unknown scheme FP9"),
        ([], "either --scheme, like FP8_BLOCK, or --config-groups"),
        (["--scheme", "W4A16", "--max-workers", "0"], "write a number from 1"),
        (["--scheme", "W4A16", "--ignore", "re:("], "not a regular expression"),
        (["--scheme", "W4A16", "--ignore", "re:.*"], "leave no weight to quantize"),
        (["--scheme", "W4A16", "--converter", "awq"], "unknown converter awq"),
        (["--scheme", "W4A16", "--converter-target", "re:.*"], "name it by --converter"),
        (["--scheme", "W4A16", "--converter-ignore", "lm_head"], "name it by --converter"),
        (["--config-groups", "nowhere.json"], "No such file"),
        (["--config-groups", "[1]"], "No such file"),
        (["--scheme", "W4A16", "--shard-size", "many"], "--shard-size"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["model-free", str(folder), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


def test_files_that_no_index_names_stop_the_library_and_the_plan(folder: Path) -> None:
    write(folder / "consolidated.safetensors", attention(3))
    with pytest.raises(ModelError, match=r"no tensor in consolidated\.safetensors"):
        model_free(str(folder), "W8A8")


def test_an_index_that_names_what_is_not_there_is_told(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="which is not there: download it"):
        model_free(str(folder), "W8A8")


def test_a_file_that_is_no_safetensors_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="not a safetensors file"):
        model_free(str(tmp_path), "W8A8")


def test_without_an_index_the_library_knows_one_name_alone(tmp_path: Path) -> None:
    write(tmp_path / "weights.safetensors", attention(0))
    with pytest.raises(ModelError, match=r"neither model\.safetensors\.index\.json nor model\.safetensors"):
        model_free(str(tmp_path), "W8A8")


def test_embeddings_among_the_weights_get_a_note_and_ignored_ones_none(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", [*attention(0), bf16("model.embed_tokens.weight", 1024, 1024)])
    assert any("quantized like any Linear" in note.text for note in model_free(str(tmp_path), "W8A8").notes)
    ignored = model_free(str(tmp_path), "W8A8", ignore=["re:.*embed_tokens$"])
    assert not any("quantized like any Linear" in note.text for note in ignored.notes)


def test_what_the_library_does_not_finish_is_a_no_whatever_the_machine(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", [*attention(0), bf16("a.weight", 256, 200)])
    machine = Machine(gpu_memory_bytes=80 * GIB, ram_bytes=64 * GIB, source="test")
    plan = model_free(str(tmp_path), "FP8_BLOCK", machine=machine)
    assert plan.fits == "no"
    assert [note.text for note in plan.notes if note.kind == "fails"] == [
        "model_free_ptq stops at a.weight: its 200 columns are not whole blocks, and what is cut off of them cannot be "
        "saved. Add what it should leave alone to ignore."
    ]


def test_a_converter_of_the_checkpoints_own_format_needs_its_config(folder: Path) -> None:
    with pytest.raises(JobError, match="no quantization_config"):
        model_free(str(folder), "W8A8", converter="compressed-tensors")
    with pytest.raises(UnsupportedError, match="MagnitudeExpertPruner is not modelled"):
        model_free(str(folder), "W8A8", converter="MagnitudeExpertPruner")
