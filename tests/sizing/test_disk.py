"""Disk of toy jobs: what is read, what the offload folder gets, and files of safetensors to the byte."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.compress.binding import make_program
from planner.compress.host_schema import Disk, Loading
from planner.compress.modifiers.quip import QuIPSpec
from planner.compress.program import Program
from planner.compress.recipes import load_recipe
from planner.sizing.disk import disk_of
from planner.sizing.host_facts import host_model
from planner.sizing.saved import SavedTensor, file_bytes, header_bytes, is_of_router, saved_tensors, shards
from planner.units import MIB
from tests import toys
from tests.built import graph_of

TOY = toys.Toy()
LAYER = TOY.layer(0).weight_bytes(2)


def disk(*specs: Any, **loading: Any) -> Disk:
    job, program = toys.job(), bound(*specs)
    return disk_of(TOY.graph, program, job, host_model(TOY.graph, program, job), Loading(**loading))


def bound(*specs: Any) -> Program:
    return make_program(TOY.graph, toys.recipe(*specs), toys.job())[0]


def tensor(name: str, kind: str = "BF16", *shape: int) -> SavedTensor:
    return SavedTensor(name=name, type=kind, shape=shape or (4,))


def test_the_checkpoint_is_read_and_cached_only_if_it_is_downloaded() -> None:
    assert disk(toys.gptq()).checkpoint_bytes == TOY.weight_bytes
    assert disk(toys.gptq()).download_cache_bytes == 0
    assert disk(toys.gptq(), downloads=True).download_cache_bytes == TOY.weight_bytes


def test_the_files_are_read_in_their_own_type() -> None:
    assert disk(toys.gptq(), checkpoint_dtype="float32").checkpoint_bytes == 2 * TOY.weight_bytes


def test_the_offload_folder_has_no_files_unless_weights_stay_on_disk() -> None:
    assert disk(toys.gptq()).offload_folder_bytes == disk(toys.gptq()).offloaded_bytes == 0


def test_rounding_changes_no_offloaded_weight_until_save_compresses_it() -> None:
    found = disk(toys.static_rtn(), available_ram_bytes=0)
    assert found.offloaded_bytes == TOY.weight_bytes
    assert found.offload_folder_bytes == 3 * LAYER // 2


def test_each_offloaded_weight_that_is_written_becomes_a_file() -> None:
    assert disk(toys.gptq(), available_ram_bytes=0).offload_folder_bytes == 3 * LAYER


def test_fused_transforms_leave_a_file_with_the_matrix_for_each_module_on_the_disk() -> None:
    """As measured: qwen3-0.6b cut to four layers, three of them on the disk. Its folder ends with 72 files."""
    fused = [
        {"targets": r"re:.*(gate|up)_proj$", "location": "weight_output"},
        {"targets": r"re:.*down_proj$", "location": "weight_input", "inverse": True},
    ]
    groups = {"a": {"type": "random-hadamard", "head_dim": 512, "randomize": True, "apply": fused}}
    job = toys.job(layers=4, seq_len=32, weights="disk", ram_for_weights_bytes=380 * MIB)
    quip = {"QuIPModifier": {"transform_config": {"config_groups": groups}}}
    rounded = {"QuantizationModifier": {"targets": "Linear", "scheme": "FP8_DYNAMIC", "ignore": ["lm_head"]}}
    recipe = load_recipe(yaml.safe_dump({"a_stage": {"a_modifiers": {**quip, **rounded}}}, sort_keys=False))
    program, _ = make_program(graph_of("qwen3-0.6b", job), recipe, job)
    assert program.disk_written_bytes == 9 * (512 * 512 * 8 + 512 * 8 + 1024 * 3072 * 2) + program.disk_qparam_bytes
    headers = 75_650_664 - program.disk_written_bytes
    assert 72 * 72 <= headers <= 72 * 88


@pytest.mark.parametrize(
    ("modifier", "is_split"),
    [("SpinQuantModifier: {}", True), ("QuIPModifier: {ignore: []}", True), ("QuIPModifier: {}", False)],
)
def test_a_head_that_was_tied_is_saved_by_itself_where_a_transform_changed_it(modifier: str, is_split: bool) -> None:
    """SpinQuant centers the embedding and fuses a norm into the head. As measured: two layers of qwen3-0.6b, rotated
    and in W4A16, are a file of 638,567,328 bytes, of which 5,824 are its header."""
    job = toys.job(layers=2, seq_len=32)
    graph = graph_of("qwen3-0.6b", job)
    rounded = "QuantizationModifier: {targets: [Linear], scheme: W4A16, ignore: [lm_head]}"
    recipe = load_recipe(f"a_stage:\n  a_modifiers:\n    {modifier}\n    {rounded}\n")
    tensors = saved_tensors(graph, make_program(graph, recipe, job)[0], job)
    assert ("lm_head.weight" in {tensor.name for tensor in tensors}) is is_split
    if modifier.startswith("SpinQuant"):
        assert file_bytes(tensors) == (638_567_328 - 5_824, 5_824)


def test_pruned_weights_are_saved_at_full_size() -> None:
    assert disk(toys.sparsegpt()).saved_checkpoint_bytes == TOY.weight_bytes


def test_saved_tensors_are_the_compressed_ones_and_the_rest_as_it_was() -> None:
    tensors = saved_tensors(TOY.graph, bound(toys.static_rtn()), toys.job())
    by_name = {each.name: each for each in tensors}
    assert by_name["model.layers.0.up.weight"] == tensor("model.layers.0.up.weight", "I8", 400, 200)
    assert by_name["model.layers.0.up.weight_scale"] == tensor("model.layers.0.up.weight_scale", "BF16", 400, 1)
    assert by_name["model.embed_tokens.weight"].bytes == TOY.embedding


@pytest.mark.parametrize(
    ("first", "second", "saved"),
    [
        ("down", "down", ["0.down 8"]),
        ("up|down", "up", ["0.down 4", "0.up 8"]),
        ("up|down", "down", ["0.up 4", "0.down 8"]),
        ("down", "up", ["0.down 4", "0.up 8"]),
    ],
)
def test_of_two_modifiers_transforms_of_one_name_on_one_module_the_later_one_is_saved(
    first: str, second: str, saved: list[str]
) -> None:
    """As a tiny Qwen3 was saved after two of transform/apply.py `apply_transform_config`."""

    def quip(targets: str, size: int) -> QuIPSpec:
        apply = [{"targets": rf"re:.*\.({targets})$", "location": "input"}]
        groups = {"a": {"type": "hadamard", "head_dim": size, "apply": apply}}
        return QuIPSpec.read({"transform_config": {"config_groups": groups}}, "quip")

    tensors = saved_tensors(TOY.graph, bound(quip(first, 4), quip(second, 8)), toys.job())
    found = [(each.name.split("layers.")[1], each.shape[0]) for each in tensors if "a_input" in each.name]
    assert [f"{name.removesuffix('.a_input.weight')} {size}" for name, size in found] == saved


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("model.layers.0.mlp.gate.weight", True),
        ("model.layers.0.feed_forward.router.bias", True),
        ("model.layers.0.mlp.e_score_correction_bias", True),
        ("model.layers.0.self_attn.q_norm.weight", False),
        ("model.layers.0.mlp.shared_expert_gate.weight", False),
    ],
)
def test_routers_alone_lose_rows_with_the_experts(name: str, cut: bool) -> None:
    assert is_of_router(name) is cut


def test_a_file_is_full_when_the_next_tensor_would_pass_the_limit() -> None:
    tensors = [tensor(name) for name in "abcde"]  # 8 bytes each
    assert [[each.name for each in file] for file in shards(tensors, 16)] == [["a", "b"], ["c", "d"], ["e"]]
    assert [len(file) for file in shards(tensors, 7)] == [1] * 5
    assert len(shards(tensors, 40)) == 1


@pytest.mark.parametrize("kinds", [("BF16",), ("I8", "BF16", "F32"), ("F8_E4M3", "I64", "U8", "I32", "F16")])
def test_the_header_is_as_long_as_safetensors_writes_it(kinds: tuple[str, ...], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    types = {"BF16": "bfloat16", "I8": "int8", "F32": "float32", "F8_E4M3": "float8_e4m3fn", "I64": "int64"}
    types |= {"U8": "uint8", "I32": "int32", "F16": "float16"}
    tensors = [tensor(f"{name}.{kind}", kind, 3, 5) for kind in kinds for name in ("model.a", "lm_head")]
    made = {each.name: torch.zeros(each.shape, dtype=getattr(torch, types[each.type])) for each in tensors}
    safetensors.save_file(made, tmp_path / "x.safetensors", metadata={"format": "pt"})
    written = (tmp_path / "x.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", written[:8])
    assert header_bytes(tensors) == 8 + length
    assert json.loads(written[8 : 8 + length])[tensors[0].name]["shape"] == [3, 5]
    assert sum(each.bytes for each in tensors) == len(written) - 8 - length
