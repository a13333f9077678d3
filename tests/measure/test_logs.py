"""LLM Compressor's own log, as 0.14.0.1 wrote it in tests/data/logs (Llama-3-8B, 2 layers, on the meter's device)."""

from pathlib import Path

import pytest

from planner.errors import MeasureError
from planner.measure.logs import parse_log, read_log
from planner.units import GIB

LOGS = Path(__file__).parent.parent / "data" / "logs"
ALLOCATED = 4_049_584_640  # what the device's allocator had held at most when layer 0 was compressed
GRAIN = 8_590_000


def test_a_console_log_tells_layer_time_and_memory() -> None:
    found = read_log(str(LOGS / "gptq_w4a16_console.log"))
    assert [(s.modifier, s.subgraph, s.of, s.phase, s.unit) for s in found.steps] == [
        ("GPTQModifier", 2, 3, "compress", "model.layers.0"),
        ("GPTQModifier", 3, 3, "compress", "model.layers.1"),
    ]
    assert all(step.running and (step.seconds or 0) > 0 for step in found.steps)
    assert abs((found.steps[0].gpu.allocated_bytes or 0) - ALLOCATED) < GRAIN
    assert found.card is not None
    assert abs(found.card.total_bytes - 80 * GIB) < 10**8
    assert (found.source, found.complete) == ("log", False)


def test_modules_of_a_batch_are_named_in_the_order_in_which_their_loggers_close() -> None:
    names = [module.name for module in read_log(str(LOGS / "gptq_w4a16_console.log")).modules]
    assert names[:3] == [
        "model.layers.0.self_attn.o_proj",
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
    ]
    assert len(names) == len(set(names)) == 14


def test_a_batchs_time_counts_once() -> None:
    found = read_log(str(LOGS / "gptq_w4a16_console.log"))
    times = [module.seconds or 0 for module in found.modules[:7]]
    batches = [times[0], times[2], times[4], times[6]]
    assert found.steps[0].seconds == pytest.approx(sum(batches))


def test_a_log_file_that_says_everything_twice_is_read_once() -> None:
    file, console = (read_log(str(LOGS / f"gptq_w4a16_{kind}.log")) for kind in ("file", "console"))
    assert [module.name for module in file.modules] == [module.name for module in console.modules[:7]]
    assert file.steps[0].gpu == console.steps[0].gpu
    assert file.steps[0].subgraph is None  # progress bars do not go to the file


def test_sparsegpt_names_its_modules_with_a_dot_that_is_not_theirs() -> None:
    found = read_log(str(LOGS / "sparsegpt_2of4_console.log"))
    assert {step.modifier for step in found.steps} == {"SparseGPTModifier"}
    assert found.modules[0].name == "model.layers.0.self_attn.q_proj"
    assert found.modules[0].error == 1.0


def test_without_info_lines_modules_have_no_names() -> None:
    found = parse_log(["2026-01-01T00:00:00.0 | GPTQ | METRIC - time 0.52s", "x | GPTQ | METRIC - error nan"])
    assert [(module.name, module.seconds, module.error) for module in found.modules] == [("module 1", 0.52, None)]
    assert found.steps[0].gpu.allocated_bytes is None
    assert any("no INFO lines" in note for note in found.notes)


def test_of_several_devices_the_fullest_counts() -> None:
    head = "x | GPTQ | METRIC - "
    lines = [f"{head}time 1.00s", f"{head}Accelerator 0 | usage: 10.00% | total memory: 80.0 Gb"]
    found = parse_log([*lines, f"{head}Accelerator 1 | usage: 20.00% | total memory: 80.0 Gb"])
    assert found.modules[0].allocated_bytes == 16 * 10**9
    assert found.card is not None
    assert found.card.name == "accelerator 1"


@pytest.mark.parametrize("text", ["", "no log at all", "{broken json", '{"record": 1}', "x | y | INFO - hello"])
def test_a_file_without_metrics_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.log"
    path.write_text(text)
    with pytest.raises(MeasureError, match="no METRIC line"):
        read_log(str(path))


def test_a_missing_log_is_refused() -> None:
    with pytest.raises(MeasureError, match="cannot be read"):
        read_log("nowhere.log")
