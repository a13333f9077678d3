"""SparseGPT with 2:4 masks: the repository's examples have no such script, its tests have the recipe."""

import os
from pathlib import Path

from compressed_tensors.offload import dispatch_model
from datasets import load_dataset
from llmcompressor import oneshot
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL_ID = "meta-llama/Meta-Llama-3-8B-Instruct"
NUM_CALIBRATION_SAMPLES = 512
MAX_SEQUENCE_LENGTH = 2048
RECIPE = Path(os.environ["LLMCOMPRESSOR_CHECKOUT"]) / "tests/sparsity/sparsegpt/recipes/sparse_with_mask_structure.yaml"

model = AutoModelForCausalLM.from_pretrained(MODEL_ID)
tokenizer = AutoTokenizer.from_pretrained(MODEL_ID)
ds = load_dataset("HuggingFaceH4/ultrachat_200k", split=f"train_sft[:{NUM_CALIBRATION_SAMPLES}]")
ds = ds.map(lambda row: {"text": tokenizer.apply_chat_template(row["messages"], tokenize=False)})
ds = ds.map(
    lambda row: tokenizer(row["text"], max_length=MAX_SEQUENCE_LENGTH, truncation=True, add_special_tokens=False),
    remove_columns=ds.column_names,
)
oneshot(
    model=model,
    dataset=ds,
    recipe=str(RECIPE),
    max_seq_length=MAX_SEQUENCE_LENGTH,
    num_calibration_samples=NUM_CALIBRATION_SAMPLES,
)
dispatch_model(model)
inputs = tokenizer("Hello my name is", return_tensors="pt").to(model.device)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
model.save_pretrained("sparse")
tokenizer.save_pretrained("sparse")
