"""Rehearsals that pass over what does nothing new tell the same, to the byte, as those that run every batch.

CUDAMETER=FOLDER pytest tests/rehearse -m llmcompressor -n0
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.compress.schema import Plan
from planner.job import Job
from planner.rehearse.child.calls import EQUAL
from planner.rehearse.job import rehearse_job
from planner.rehearse.run import ScriptWish, rehearse
from planner.units import GIB
from tests.rehearse.cuda_build import MARKS, PYTHON

pytestmark = MARKS
JOBS: list[tuple[str, str, dict[str, Any]]] = [
    ("llama-3-8b", "gptq_w4a16", {"layers": 3, "samples": 40}),
    ("llama-3-8b", "gptq_w4a16", {"layers": 2, "samples": 41, "batch_size": 2, "gpu_memory_bytes": 24 * GIB}),
    ("llama-3-8b", "gptq_w4a16", {"layers": 2, "samples": 30, "offload_device": "gpu"}),
    ("llama-3-8b", "sparsegpt_2of4", {"layers": 2, "samples": 30}),
    ("llama-3-8b", "smoothquant_w8a8", {"layers": 2, "samples": 30}),
    ("llama-3-8b", "awq_w4a16", {"layers": 2, "samples": 30, "seq_len": 512}),
    ("llama-3-8b", "rtn_fp8_kv_cache", {"layers": 2, "samples": 30}),
    ("qwen3-30b-a3b", "gptq_w4a16", {"layers": 2, "samples": 24}),
    ("qwen3-30b-a3b", "awq_w4a16", {"layers": 1, "samples": 12, "seq_len": 256}),
]
SCRIPT = """
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier

kept = []
class Own(GPTQModifier):
    def calibrate_module(self, module, args, output):
        super().calibrate_module(module, args, output)
        if self.__dict__.setdefault("_seen", 0) == 20:
            kept.append(torch.empty(2**20, device="cuda"))
        self.__dict__["_seen"] += 1

model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")
tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B")
ds = load_dataset("HuggingFaceH4/ultrachat_200k", split="train_sft[:24]")
ds = ds.map(lambda row: {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)})
ds = ds.map(lambda row: tokenizer(row["text"], max_length=64, truncation=True), remove_columns=ds.column_names)
oneshot(model=model, dataset=ds, recipe=MODIFIER(targets="Linear", scheme="W4A16", ignore=["lm_head"]),
        max_seq_length=64, num_calibration_samples=24)
"""
ALTERNATING = """
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier

lengths = [256, 96] * 32
rows = {"input_ids": [[7] * length for length in lengths], "attention_mask": [[1] * length for length in lengths]}
batches = DataLoader(Dataset.from_dict(rows).with_format("torch"), batch_size=1)  # a data set would be sorted by length
oneshot(model=AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B"), dataset=batches,
        tokenizer=AutoTokenizer.from_pretrained("Qwen/Qwen3-0.6B"), max_seq_length=256, num_calibration_samples=64,
        recipe=GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"]))
"""
MIXTURE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "dtype": "bfloat16",
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 16,
    "num_experts_per_tok": 2,
}
GENERATING = """
from compressed_tensors.offload import dispatch_model
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
ds = load_dataset("HuggingFaceH4/ultrachat_200k", split="train_sft[:4]")
ds = ds.map(lambda row: {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)})
ds = ds.map(lambda row: tokenizer(row["text"], max_length=64, truncation=True), remove_columns=ds.column_names)
oneshot(model=model, dataset=ds, max_seq_length=64, num_calibration_samples=4,
        recipe=QuantizationModifier(targets="Linear", scheme="NVFP4", ignore=["lm_head", "re:.*mlp.gate$"]))
dispatch_model(model)
sample = tokenizer("Hello my name is", return_tensors="pt").to(model.device)
model.generate(**sample, max_new_tokens=12)
"""
COUNTING = """
import sys
from pathlib import Path

found = []
def seen(frame, event, _value):
    if event == "call" and frame.f_code.co_qualname == "LinearExperts2D.forward":
        found.append(frame.f_lineno)  # no frame, which would hold its tensors
sys.setprofile(seen)
model.generate(**sample, max_new_tokens=12)
sys.setprofile(None)
Path("COUNT").write_text(str(len(found)))
"""


def compared(plan: Plan) -> dict[str, Any]:
    """All but what tells how it was run."""
    values = plan.model_dump(exclude={"notes": True, "script": {"seconds", "resident_bytes"}})
    values["notes"] = [note.text for note in plan.notes if not note.text.startswith("Not run")]
    return values


def passed_over(plan: Plan) -> bool:
    return any(note.text.startswith("Not run") for note in plan.notes)


@pytest.mark.parametrize(("model", "recipe", "options"), JOBS)
def test_passing_over_changes_no_figure(model: str, recipe: str, options: dict[str, Any]) -> None:
    asked = ScriptWish(script=Path(), arguments=(), job=Job(**options), python=PYTHON, quiet=True)
    short, whole = (
        rehearse_job(replace(asked, every_batch=every), model, recipe, lambda _text: None) for every in (False, True)
    )
    assert compared(short) == compared(whole)
    assert not passed_over(whole)
    assert passed_over(short) or options.get("offload_device")


PATCHED = """
from llmcompressor.modifiers.gptq import base
own = base.accumulate_hessian
base.accumulate_hessian = lambda *values, **named: own(*values, **named)
"""


@pytest.mark.parametrize(
    ("modifier", "patch", "passes"), [("GPTQModifier", "", True), ("Own", "", False), ("GPTQModifier", PATCHED, False)]
)
def test_code_of_the_script_s_own_sees_every_batch(modifier: str, patch: str, passes: bool, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(patch + SCRIPT.replace("MODIFIER", modifier))
    asked = ScriptWish(script=script, arguments=(), job=Job(gpu_memory_bytes=80 * GIB), python=PYTHON, quiet=True)
    assert passed_over(rehearse(asked, lambda _text: None)) == passes


def test_batches_whose_lengths_alternate_change_no_figure(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ALTERNATING)
    asked = ScriptWish(script=script, arguments=(), job=Job(gpu_memory_bytes=80 * GIB), python=PYTHON, quiet=True)
    short, whole = (rehearse(replace(asked, every_batch=every), lambda _text: None) for every in (False, True))
    assert compared(short) == compared(whole)
    (batches,) = (int(found[1]) for note in short.notes if (found := re.search(r"same: ([0-9]+) batches", note.text)))
    assert batches > 200  # in loops that hand results on, too: there those of the other length would not fit


def test_experts_that_are_played_while_text_is_generated_change_no_figure(tmp_path: Path) -> None:
    folder, script = tmp_path / "mixture", tmp_path / "script.py"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MIXTURE))
    script.write_text(GENERATING.replace("FOLDER", str(folder)))
    asked = ScriptWish(script=script, arguments=(), job=Job(gpu_memory_bytes=80 * GIB), python=PYTHON, quiet=True)
    short, whole = (rehearse(replace(asked, every_batch=every), lambda _text: None) for every in (False, True))
    assert compared(short) == compared(whole)
    assert not passed_over(whole)
    assert "generate" in {step.unit for step in short.steps}
    (calls,) = (
        int(found[1]) for note in short.notes if (found := re.search(r"and ([0-9]+) calls of modules", note.text))
    )
    assert calls > 2 * 16 * 6  # of each expert, when three of the same shape had been run


def test_the_code_of_a_mixture_runs_for_the_prompt_and_the_first_tokens_alone(tmp_path: Path) -> None:
    folder, script, count = tmp_path / "mixture", tmp_path / "script.py", tmp_path / "count"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MIXTURE))
    text = GENERATING.replace("model.generate(**sample, max_new_tokens=12)", COUNTING)
    script.write_text(text.replace("FOLDER", str(folder)).replace("COUNT", str(count)))
    asked = ScriptWish(script=script, arguments=(), job=Job(gpu_memory_bytes=80 * GIB), python=PYTHON, quiet=True)
    for every, calls in ((False, 1 + EQUAL), (True, 12)):
        rehearse(replace(asked, every_batch=every), lambda _text: None)
        assert int(count.read_text()) == MIXTURE["num_hidden_layers"] * calls
