"""Whole rehearsals, with PyTorch's CUDA build and the real library: CUDAMETER names what tests/cudameter/setup.sh made.

CUDAMETER=FOLDER pytest tests/rehearse -m llmcompressor -n0
"""

from pathlib import Path
from typing import Any

import pytest

from planner.compress.schema import Plan
from planner.errors import RehearseError, StoppedError
from planner.job import Job
from planner.planning import plan
from planner.rehearse.job import rehearse_job
from planner.rehearse.run import ScriptWish, rehearse
from planner.units import GIB
from tests.rehearse.beside_plans import worst
from tests.rehearse.cuda_build import MARKS, PYTHON

pytestmark = MARKS
SMALL = {"layers": 2, "samples": 3}
JOBS: list[tuple[str, str, dict[str, Any]]] = [
    ("llama-3-8b", "gptq_w4a16", {"layers": 3, "samples": 3}),
    ("llama-3-8b", "gptq_w4a16", {**SMALL, "batch_size": 3}),
    ("llama-3-8b", "gptq_w4a16", {**SMALL, "weights": "gpu"}),
    ("llama-3-8b", "gptq_w4a16", {**SMALL, "offload_device": "gpu:1"}),
    ("llama-3-8b", "sparsegpt_2of4", SMALL),
    ("llama-3-8b", "sparsegpt_50", SMALL),
    ("llama-3-8b", "rtn_w8a8_static", SMALL),
    ("qwen3-8b", "rtn_nvfp4", SMALL),
    ("mixtral-8x7b", "gptq_w4a16", SMALL),
    ("qwen3-30b-a3b", "gptq_w4a16", SMALL),
    ("llama-4-scout", "gptq_w4a16", SMALL),
    # borders run between the experts and the shared one, as in LLM Compressor's example of this model
    ("llama-4-scout", "gptq_w4a16", {**SMALL, "sequential_targets": ("Llama4TextMLP",)}),
    ("gemma-3-27b", "gptq_w4a16", {**SMALL, "images": 1, "vision_layers": 2}),
    ("qwen2.5-vl-7b", "gptq_w4a16", {**SMALL, "images": 1, "vision_layers": 2}),
    ("deepseek-r1", "rtn_fp8_dynamic", {"layers": 4, "samples": 3}),
]
LLMCOMPRESSOR = """
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier

model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")
tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B")
ds = load_dataset("HuggingFaceH4/ultrachat_200k", split="train_sft[:2]")
ds = ds.map(lambda row: {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)})
ds = ds.map(lambda row: tokenizer(row["text"], max_length=256, truncation=True), remove_columns=ds.column_names)
oneshot(model=model, dataset=ds, recipe=GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"]),
        max_seq_length=256, num_calibration_samples=2)
model.to("cuda")
inputs = tokenizer("w1 w2 w3", return_tensors="pt").to("cuda")
assert model.generate(**inputs, max_new_tokens=5).shape == (1, 8)
model.save_pretrained("saved")
"""


def wish(script: Path, gpu: int = 80 * GIB, **more: Any) -> ScriptWish:
    return ScriptWish(script=script, arguments=(), job=Job(gpu_memory_bytes=gpu), python=PYTHON, quiet=True, **more)


def run(text: str, folder: Path, **more: Any) -> Plan:
    script = folder / "script.py"
    script.write_text(text)
    return rehearse(wish(script, **more), lambda _text: None)


@pytest.mark.parametrize(("model", "recipe", "options"), JOBS)
def test_rehearsed_and_planned_agree(model: str, recipe: str, options: dict[str, Any]) -> None:
    job = Job(**options)
    cards = 2 if job.has_second_gpu else 1
    asked = ScriptWish(script=Path(), arguments=(), job=job, python=PYTHON, cards=cards, quiet=True)
    rehearsed, planned = rehearse_job(asked, model, recipe, lambda _text: None), plan(model, recipe, job)
    found = worst(rehearsed, planned)
    assert abs(found["requested"].share) < 0.01, found["requested"]
    assert abs(found["reserved"].share) < 0.02, found["reserved"]


def test_a_script_runs_to_its_end_offline_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rehearsed = run(LLMCOMPRESSOR, tmp_path)
    phases = [step.phase for step in rehearsed.steps]
    assert {"load", "setup", "calibrate", "compress", "propagate", "finalize", "save"} <= set(phases)
    assert "generate" in [step.unit for step in rehearsed.steps]
    assert rehearsed.job.samples == 2
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_running_out_of_memory_names_the_line(tmp_path: Path) -> None:
    text = "import torch\nheld = torch.empty(2**30, device='cuda')\nmore = torch.empty(2**34, device='cuda')\n"
    rehearsed = run(text, tmp_path, gpu=8 * GIB)
    assert rehearsed.script is not None
    assert (rehearsed.script.ended, rehearsed.script.line) == ("out of memory", "script.py:3")
    assert rehearsed.script.held[0].bytes == 4 * 2**30
    assert rehearsed.verdict is not None
    assert rehearsed.verdict.asked_bytes == 4 * 2**34


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (
            "raise ValueError('no luck')",
            StoppedError,
            "failed for reasons of its own at script.py:1: ValueError: no luck",
        ),
        ("import sys; sys.exit(3)", StoppedError, "ended itself with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", StoppedError, "the process ended with code -9"),
        ("raise KeyboardInterrupt", StoppedError, "interrupted"),
        (
            "import transformers\ntransformers.AutoModel.from_pretrained('a/b', trust_remote_code=True)",
            RehearseError,
            "script.py:2: a/b asks for trust_remote_code=True",
        ),
        ("import transformers\ntransformers.AutoModel.from_pretrained('a/b')", RehearseError, "a/b: no folder"),
    ],
)
def test_a_script_that_does_not_end_well_is_one_line(
    text: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        run(text, tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_of_small_known_tensors_are_true_and_others_are_healthy(tmp_path: Path) -> None:
    text = """
import os, torch
x = torch.arange(6).reshape(2, 3).cuda()
assert x.prod(-1).tolist() == [0, 60] and x[x > 2].tolist() == [3, 4, 5] and x.unique().numel() == 6
assert torch.tensor([7], device="cuda").item() == 7 and (x == 4).any().item() and x.max().item() == 5
w = torch.randn(500, 500, device="cuda")
assert torch.isfinite(w).all() and not torch.isnan(w).any() and not (w == 0).all()
assert torch.isnan(w).sum() == 0 and torch.isinf(w).nonzero().shape == (0, 2) and w[torch.isnan(w)].numel() == 0
assert w.sum().item() > w.mean().item() > 0
assert torch.linalg.svd(w)[1].shape == (500,) and torch.linalg.cholesky(w).shape == (500, 500)
# a known tensor that takes unknown values leaves nothing to whoever gets its memory: `info` of the next decomposition
known = [torch.arange(1, 65).cuda() for _ in range(9)]
known = [each.mul_(w[0, 0].long()) for each in known][::2]
assert torch.linalg.cholesky(w).shape == (500, 500)
huge = torch.zeros(200_000, 200_000) * 2
assert (w > 0).sum().item() == torch.nonzero(w > 0).shape[0] and (x > 2).sum().item() == 3
assert torch.nn.Conv2d(3, 8, 3).cuda()(torch.randn(1, 3, 32, 32, device="cuda")).shape == (1, 8, 30, 30)
torch.use_deterministic_algorithms(True, warn_only=True)
torch.empty(100_000, 100_000)
if os.fork() == 0:
    os._exit(0)
os.wait()
"""
    rehearsed = run(text, tmp_path)
    assert rehearsed.cpu.peak_bytes >= 2 * 4 * 200_000**2
    assert ((rehearsed.script and rehearsed.script.resident_bytes) or 0) < 2 * GIB
