"""The script of `planner rehearse MODEL -r RECIPE`: the job as `planner plan` takes it. Its argument is a JSON file."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

CONCATENATED = ("pixel_values", "image_grid_thw", "image_sizes", "input_features", "feature_attention_mask")
"""Fields whose first dimension is not the batch (planner/models/inputs.py)."""


def main(path: str) -> None:
    """Load the model, make the samples, run the job."""
    values: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    import transformers
    from llmcompressor import oneshot
    from torch.utils.data import DataLoader

    model = _model(transformers, values)
    rows: Any = [_row(values["sample"]) for _ in range(values["samples"])]
    data: Any = DataLoader(rows, batch_size=values["batch_size"], collate_fn=_collate)
    oneshot(
        model=model,
        tokenizer=transformers.AutoTokenizer.from_pretrained(values["model"]),
        dataset=data,
        output_dir=str(Path(values["model"]).parent / "saved"),
        **values["arguments"],
    )


def _model(transformers: Any, values: dict[str, Any]) -> Any:
    owner, where = getattr(transformers, values["architecture"]), values["weights"]
    named: dict[str, Any] = {"dtype": getattr(torch, values["dtype"])}
    around: Any = nullcontext()
    if where == "gpu":
        named["device_map"] = "cuda"
    elif where == "disk":
        from compressed_tensors.offload import load_offloaded_model

        around = load_offloaded_model(owner)
        offload = str(Path(values["model"]).parent / "offload")
        named |= {"device_map": "auto_offload", "max_memory": {"cpu": values["ram"]}, "offload_folder": offload}
    with around:
        model = owner.from_pretrained(values["model"], **named)
    if values["linearized"]:
        from llmcompressor.modeling.moe.linearize import linearize_moe

        with torch.no_grad():
            linearize_moe(model)
    return model


def _row(fields: dict[str, Any]) -> dict[str, Any]:
    """One sample: a field with values, or one of a shape alone."""
    return {name: _field(field) for name, field in fields.items()}


def _field(field: dict[str, Any]) -> Any:
    dtype = getattr(torch, field["dtype"])
    if "values" in field:
        return torch.tensor(field["values"], dtype=dtype)
    return torch.empty(field["shape"], dtype=dtype)


def _collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: (torch.cat if name in CONCATENATED else torch.stack)([row[name] for row in rows]) for name in rows[0]}


if __name__ == "__main__":
    main(sys.argv[1])
