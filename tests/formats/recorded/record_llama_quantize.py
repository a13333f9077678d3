"""Records which type llama-quantize gives each tensor of a full-size model, for every file type, without weights.

    python tests/formats/recorded/record_llama_quantize.py LLAMA_QUANTIZE COMMIT MODEL [MODEL ...]

Per model: a GGUF file with the metadata and tensor infos of the whole model and no data (the file is sparse),
`llama-quantize --dry-run` on it for every file type, once without and once with an importance matrix. What it
prints per tensor, name and new type, goes to llama_quantize/MODEL.json, layers of equal types together and
tensors that stay as they are left out.
LLAMA_QUANTIZE is built of the llama.cpp commit COMMIT: cmake --build build --target llama-quantize.
MODEL is whatever the planner reads: a preset, a folder, a config.json.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from planner.formats.gguf.filetypes import FILE_TYPES
from planner.formats.gguf.mixture import Tensor
from planner.formats.gguf.names import GgufModel, gguf_model
from planner.formats.gguf.types import blocks, tensor_bytes
from planner.serving.model import load_served

HERE = Path(__file__).parent / "llama_quantize"
LINE = re.compile(
    r"\[\s*\d+/\s*\d+\] (\S+) +- \[[^]]*\], type = +(\w+), size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((\w+)\))?"
)
TOTAL = re.compile(r"quant size += +([\d.]+) MiB")
LAYER = re.compile(r"blk\.(\d+)\.")


def main(program: str, commit: str, *models: str) -> None:
    for model in models:
        served = load_served(model)[0]
        written = gguf_model(served)
        name = Path(model).stem if "/" in model else model
        with tempfile.TemporaryDirectory() as folder:
            file, matrix = Path(folder, "model.gguf"), Path(folder, "imatrix.gguf")
            write_model(file, written, served.vocabulary, served.hidden_size)
            write_imatrix(matrix)
            runs = dict(record(program, file, matrix, len(written.text)))
        kept = {
            "model": served.name,
            "source": f"llama-quantize --dry-run [--imatrix FILE] FILE TYPE, llama.cpp {commit}",
            "hyper": {key: getattr(written.hyper, key) for key in ("arch", "layers", "heads", "kv_heads", "experts")},
            "tensors": fold({t.name: f"{t.type} {'x'.join(map(str, t.shape))}" for t in written.text}),
            "types": runs,
        }
        Path(HERE, f"{name}.json").write_text(dump(kept))
        print(name, len(runs), "runs")


def record(program: str, file: Path, matrix: Path, tensors: int) -> Iterator[tuple[str, object]]:
    for file_type in FILE_TYPES:
        if file_type.base not in blocks():
            continue
        for suffix, options in (("", []), (":imatrix", ["--imatrix", str(matrix)]), (":pure", ["--pure"])):
            command = [program, "--dry-run", *options, str(file), file_type.name]
            done = subprocess.run(command, capture_output=True, text=True)
            out = done.stdout + done.stderr
            if done.returncode:
                failed = re.search(r"failed to quantize: (.*)", out)
                yield file_type.name + suffix, {"error": failed[1] if failed else out[-300:]}
                continue
            total, lines = TOTAL.search(out), list(LINE.finditer(out))
            assert total is not None and len(lines) == tensors, out[-2000:]
            types = {found[1]: found[3].upper() for found in lines if found[3]}
            yield file_type.name + suffix, {"mib": float(total[1]), "types": fold(types)}


def fold(values: dict[str, str]) -> dict[str, dict[str, str]]:
    """Tensors of a name with `*` for the layer: one value, or a value per list of layers."""
    grouped: dict[str, dict[str, list[int]]] = {}
    for name, value in values.items():
        match = LAYER.match(name)
        key = LAYER.sub("blk.*.", name, count=1)
        grouped.setdefault(key, {}).setdefault(value, []).append(int(match[1]) if match else -1)
    return {
        key: {value: ranges(layers) for value, layers in sorted(per.items())} for key, per in sorted(grouped.items())
    }


def ranges(layers: list[int]) -> str:
    """`0-3 7 9-10`; empty for a tensor of no layer."""
    text, layers = [], sorted(layers)
    while layers and layers[0] >= 0:
        end = next((i for i in range(1, len(layers)) if layers[i] != layers[0] + i), len(layers))
        text.append(f"{layers[0]}-{layers[end - 1]}" if end > 1 else f"{layers[0]}")
        layers = layers[end:]
    return " ".join(text)


def dump(kept: dict[str, object]) -> str:
    """One line per run."""
    runs = kept.pop("types")
    assert isinstance(runs, dict)
    head = json.dumps(kept)[:-1]
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(run)}" for name, run in runs.items())
    return f'{head}, "types": {{\n{lines}\n}}}}\n'


def write_model(path: Path, model: GgufModel, vocabulary: int, hidden: int) -> None:
    """Metadata and tensor infos; the data is a hole."""
    hyper = model.hyper
    writer = gguf.GGUFWriter(path, hyper.arch)
    writer.add_block_count(hyper.layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(hidden)
    writer.add_head_count(hyper.heads)
    writer.add_head_count_kv(hyper.kv_heads)
    writer.add_feed_forward_length(hidden * 4)
    writer.add_vocab_size(vocabulary)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    if hyper.experts:
        writer.add_expert_count(hyper.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(hidden)
    architecture_keys(writer, hyper.arch, hidden)
    for tensor in model.text:
        add_tensor(writer, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    size = sum(-(-tensor_bytes(t.type, t.shape) // 32) * 32 for t in model.text)
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + size)


def architecture_keys(writer: gguf.GGUFWriter, arch: str, hidden: int) -> None:
    """Keys without which llama.cpp does not load an architecture; their values do not matter here."""
    if arch == "deepseek2":
        writer.add_leading_dense_block_count(3)
        writer.add_kv_lora_rank(512)
        writer.add_q_lora_rank(1536)
        writer.add_key_length(576)
        writer.add_value_length(512)
        writer.add_key_length_mla(192)
        writer.add_value_length_mla(128)
        writer.add_expert_shared_count(1)
        writer.add_expert_weights_scale(2.5)
        writer.add_rope_dimension_count(64)
    if arch in ("gemma3", "gpt-oss", "cohere2"):
        writer.add_sliding_window(1024)
        writer.add_logit_scale(1.0)
    if arch == "llama4":
        writer.add_interleave_moe_layer_step(1)
    if arch == "gptneox":
        writer.add_parallel_residual(True)
    if arch == "qwen2vl":
        writer.add_rope_dimension_sections([16, 24, 24, 0])


def add_tensor(writer: gguf.GGUFWriter, tensor: Tensor) -> None:
    kind = gguf.GGMLQuantizationType[tensor.type]
    plain = {"F32": np.dtype("float32"), "F16": np.dtype("float16")}.get(tensor.type)
    if plain is not None:
        writer.add_tensor_info(tensor.name, tensor.shape, plain, tensor_bytes(tensor.type, tensor.shape))
        return
    shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
    writer.add_tensor_info(tensor.name, shape, np.dtype("uint8"), tensor_bytes(tensor.type, tensor.shape), kind)


def write_imatrix(path: Path) -> None:
    """An importance matrix of one made-up entry: with --dry-run it only matters that there is one."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["none"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    writer.add_tensor("none.weight.in_sum2", np.ones((1, 32), dtype=np.float32))
    writer.add_tensor("none.weight.counts", np.ones((1, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
