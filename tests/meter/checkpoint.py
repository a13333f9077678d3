"""A checkpoint of zeros: one safetensors file that has every tensor and takes no room on the disk."""

import json
import struct
from pathlib import Path

DTYPES = {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32"}


def write(model, folder: str) -> None:
    """The model's config and weights, as `from_pretrained` reads them; the file's zeros are a hole."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    for name, tensor in model.state_dict().items():
        if name not in tied:
            offsets = [end, end + tensor.nbytes]
            header[name] = {"dtype": DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": offsets}
            end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (Path(folder) / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    model.config.save_pretrained(folder)
