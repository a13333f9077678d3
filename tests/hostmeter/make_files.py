#!/usr/bin/env python3
"""Write a checkpoint of make_models.py once more, in other files: for model_free_ptq, which knows no model.

    make_files.py SOURCE NAME [--shard BYTES] [--fp8] [--fused]

--fp8: the decoder's matrices as blocks of 8-bit floats with weight_scale_inv, as DeepSeek publishes them. --fused: the
experts of a layer as one tensor.
"""

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from resident import FOLDER
from safetensors import safe_open
from safetensors.torch import save_file

BLOCK = 128
EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
Named = dict[str, torch.Tensor]


def read(folder: Path) -> Named:
    """All tensors, in the order of their names."""
    found: Named = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def natural(name: str) -> list[str | int]:
    """Layers by their number."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def as_fp8(tensors: Named) -> Named:
    """Matrices of the decoder's layers with a scale for each block."""
    found: Named = {}
    for name, tensor in tensors.items():
        if re.search(r"\.(self_attn|mlp)\..*_proj\.weight$", name):
            found[name] = tensor.to(torch.float8_e4m3fn)
            blocks = [-(-side // BLOCK) for side in tensor.shape]
            found[f"{name}_scale_inv"] = torch.ones(blocks, dtype=torch.float32)
        else:
            found[name] = tensor
    return found


def fused(tensors: Named) -> Named:
    """Experts of a layer together: gate_up_proj and down_proj, as transformers keeps them."""
    found, parts = dict[str, torch.Tensor](), dict[str, dict[int, dict[str, torch.Tensor]]]()
    for name, tensor in tensors.items():
        if match := EXPERT.fullmatch(name):
            parts.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = tensor
        else:
            found[name] = tensor
    for module, experts in parts.items():
        ordered = [experts[number] for number in sorted(experts)]
        found[f"{module}.gate_up_proj"] = torch.stack([torch.cat((each["gate"], each["up"])) for each in ordered])
        found[f"{module}.down_proj"] = torch.stack([each["down"] for each in ordered])
    return dict(sorted(found.items(), key=lambda item: natural(item[0])))


def files(tensors: Named, most: int) -> Iterator[Named]:
    """One file after the other; one is full when the next tensor would pass `most` bytes."""
    current: Named = {}
    for name, tensor in tensors.items():
        if current and sum(each.nbytes for each in current.values()) + tensor.nbytes > most:
            yield current
            current = {}
        current[name] = tensor.contiguous()
    yield current


def main() -> None:
    """Write the files and their index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("name")
    parser.add_argument("--shard", type=int, default=300_000_000)
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--fused", action="store_true")
    args = parser.parse_args()
    source, target = FOLDER / "models" / args.source, FOLDER / "models" / args.name
    target.mkdir(parents=True, exist_ok=True)
    tensors = read(source)
    tensors = as_fp8(tensors) if args.fp8 else tensors
    parts = list(files(fused(tensors) if args.fused else tensors, args.shard))
    index: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file(part, target / name)
        index |= dict.fromkeys(part, name)
    total = sum(tensor.nbytes for part in parts for tensor in part.values())
    written = {"metadata": {"total_size": total}, "weight_map": index}
    (target / "model.safetensors.index.json").write_text(json.dumps(written, indent=2), encoding="utf-8")
    shutil.copy(source / "config.json", target)


if __name__ == "__main__":
    main()
