"""Optimizer states against the real optimizers, adapters and sharded states against published numbers."""

import json
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from planner.errors import JobError
from planner.formats.served_model import ServedModel
from planner.serving.model import load_served
from planner.training.lora import adapter_shapes, target_weights
from planner.training.notes import notes_on
from planner.training.optimizers import Optimizer, state_bytes, states_bytes, step_bytes
from planner.training.schema import Offload, OffloadTo, Part, Sharding, TrainOptions
from planner.training.sharding import copies_of, place, refused
from planner.training.states import Copies, States
from planner.training.trained import split
from planner.units import GIB

SHAPES = ((300, 500), (64, 64), (7, 5), (4096,), (33,), (4, 40, 60))


def stepped(make: Any, dtype: torch.dtype) -> dict[tuple[int, ...], int]:
    """Bytes of tensors that the optimizer keeps for each weight after a step."""
    weights = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in SHAPES]
    optimizer = make(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return {
        tuple(w.shape): sum(v.numel() * v.element_size() for v in optimizer.state[w].values() if torch.is_tensor(v))
        for w in weights
    }


def adafactor(weights: Any) -> torch.optim.Optimizer:
    """As transformers' Trainer makes it (trainer_optimizer.py: scale_parameter and relative_step off)."""
    from transformers.optimization import Adafactor

    return Adafactor(weights, lr=1e-3, scale_parameter=False, relative_step=False)


REAL: dict[Optimizer, Any] = {
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "sgd-momentum": lambda weights: torch.optim.SGD(weights, momentum=0.9),
    "adafactor": adafactor,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", REAL)
def test_the_real_optimizer_keeps_that_many_bytes(optimizer: Optimizer, dtype: torch.dtype) -> None:
    for shape, kept in stepped(REAL[optimizer], dtype).items():
        extra = 4 if optimizer == "adafactor" else 0  # state["RMS"] is a scalar tensor
        assert kept - extra == state_bytes(optimizer, shape, dtype.itemsize), (optimizer, shape)


def test_8bit_adam_keeps_two_bytes_and_a_scale_for_256_weights_twice() -> None:
    # bitsandbytes 0.50.2 optim/optimizer.py Optimizer2State.init_state
    assert state_bytes("adamw8bit", (4096, 4096), 2) == 2 * 4096**2 + 2 * 4 * 4096**2 // 256
    assert state_bytes("adamw8bit", (4095,), 2) == 8 * 4095
    assert state_bytes("adamw8bit", (4097,), 2) == 2 * 4097 + 2 * 4 * 17


def test_lion_keeps_one_fp32_moment_whatever_the_weight() -> None:
    # bitsandbytes 0.50.2 optim/optimizer.py Optimizer1State.init_state: optim_bits 32 is float32
    assert state_bytes("lion", (100, 10), 2) == state_bytes("lion", (100, 10), 4) == 4000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adafactors_step_works_with_whole_fp32_tensors(dtype: torch.dtype) -> None:
    from planner.models.recorder import Recorder
    from planner.models.traces import memory_events
    from planner.timeline import fold

    weight = torch.nn.Parameter(torch.empty(3000, 5000, dtype=dtype, device="meta"))
    optimizer = adafactor([weight])
    weight.grad = torch.empty_like(weight)
    with Recorder() as recorder:
        recorder.adopt(weight)
        recorder.adopt(weight.grad)
        for _ in range(2):
            recorder.begin()
            optimizer.step()
        peak = fold(memory_events(recorder.events)).level.peak
    expected = step_bytes("adafactor", weight.numel(), dtype.itemsize)
    assert peak == pytest.approx(expected, rel=0.01)


def test_no_optimizer_of_the_list_is_without_a_number() -> None:
    for optimizer in get_args(Optimizer):
        assert (state_bytes(optimizer, (512, 512), 4) == 0) == (optimizer == "sgd")


# Adapters: (model, rank, targets) -> trainable parameters
PUBLISHED = {
    # "trainable params: 4,194,304 || all params: 6,742,609,920 || trainable%: 0.0622": printed by peft for Llama-2-7B
    # with r=8 on q_proj,v_proj: 32 layers x 2 x 8 x (4096 + 4096)
    ("llama-2-7b", 8, "q_proj,v_proj"): 4_194_304,
    # "trainable params: 41,943,040 || all params: 8,072,204,288 || trainable%: 0.5196": Llama-3-8B, r=16, all Linears
    ("llama-3-8b", 16, "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"): 41_943_040,
    ("llama-3-8b", 16, "all-linear"): 41_943_040,
}


@pytest.mark.parametrize(("model", "rank", "targets"), PUBLISHED)
def test_adapters_have_as_many_weights_as_peft_prints(model: str, rank: int, targets: str) -> None:
    shapes = adapter_shapes(target_weights(load_served(model)[0], targets), rank)
    assert sum(a * b * copies for (a, b), copies in shapes) == PUBLISHED[model, rank, targets]


GPT2 = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_head": 12, "n_layer": 12,
    "vocab_size": 50257, "n_positions": 1024,
}  # fmt: skip


def adapted(served: ServedModel, targets: str = "all-linear", rank: int = 16) -> int:
    shapes = adapter_shapes(target_weights(served, targets), rank)
    return sum(a * b * copies for (a, b), copies in shapes)


def test_a_conv1d_gets_an_adapter(tmp_path: Path) -> None:
    # get_nb_trainable_parameters of peft 0.21.2 on gpt2, r=16, all-linear
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    served, _ = load_served(str(tmp_path / "config.json"))
    assert adapted(served) == 2_359_296


def test_a_router_that_is_a_kind_of_linear_gets_an_adapter() -> None:
    # peft 0.21.2, r=16, all-linear, text decoder alone: 3,944,448 of them Llama4Router's
    assert adapted(load_served("llama-4-scout")[0]) == 59_781_120


# get_nb_trainable_parameters of peft 0.21.2, r=16, on models without data
MIXTURES = {
    ("mixtral-8x7b", "all-linear"): 359_665_664,
    ("mixtral-8x7b", "w1,w2,w3"): 343_932_928,
    ("mixtral-8x7b", "q_proj,v_proj"): 6_815_744,
    ("qwen3-30b-a3b", "all-linear"): 996_507_648,
    ("qwen3-30b-a3b", "q_proj,gate_proj,up_proj,down_proj"): 986_185_728,
    ("deepseek-r1", "all-linear"): 7_645_254_656,
    ("deepseek-r1", "gate_proj,up_proj,down_proj"): 7_541_358_592,
    ("gpt-oss-20b", "all-linear"): 7_962_624,
    ("llama-4-scout", "q_proj,gate_proj,up_proj,down_proj"): 38_535_168,
}


@pytest.mark.parametrize(("model", "targets"), MIXTURES)
def test_fused_experts_get_adapters_where_peft_knows_their_old_names(model: str, targets: str) -> None:
    assert adapted(load_served(model)[0], targets) == MIXTURES[model, targets]


def test_half_of_a_fused_tensor_is_no_target() -> None:
    with pytest.raises(JobError, match="up_proj"):
        target_weights(load_served("qwen3-30b-a3b")[0], "gate_proj,down_proj")


def test_adapters_on_fused_experts_take_no_dropout() -> None:
    served = load_served("qwen3-30b-a3b")[0]
    with pytest.raises(JobError, match="dropout"):
        split(served, TrainOptions(method="lora", dropout=0.1))
    assert split(served, TrainOptions(method="lora", dropout=0.1, targets="q_proj")).states.trained


def test_experts_spread_out_for_bitsandbytes_get_an_adapter_each() -> None:
    served = load_served("llama-4-scout")[0]
    shapes = adapter_shapes(target_weights(served, "all-linear", "qlora"), 16)
    assert sum(a * b * n for (a, b), n in shapes) == 59_781_120 + 48 * 16 * 3 * 16 * (8192 + 5120)


def test_the_families_are_those_that_transformers_converts() -> None:
    from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN as FAMILIES

    from planner.training import lora

    for family, kinds in (("mixtral", lora._AS_MIXTRAL), ("qwen2_moe", lora._AS_QWEN2_MOE)):
        assert kinds == {family, *(kind for kind, other in FAMILIES.items() if other == family)}


@pytest.mark.parametrize(("targets", "told"), [("all-linear", True), ("q_proj,v_proj", False)])
def test_an_adapter_that_fails_in_peft_is_told(targets: str, told: bool) -> None:
    served, options = load_served("llama-4-scout")[0], TrainOptions(method="lora", targets=targets)
    notes = notes_on(served, options, split(served, options))
    assert any("Llama4Router" in note for note in notes) is told


def test_a_model_without_linears_is_refused() -> None:
    served = load_served("llama-2-7b")[0]
    with pytest.raises(JobError, match="all-linear"):
        target_weights(replace(served, weights=tuple(w for w in served.weights if not w.is_linear)), "all-linear")


def test_a_target_that_matches_nothing_is_named() -> None:
    with pytest.raises(JobError, match=r"q_prj.*q_proj"):
        target_weights(load_served("llama-2-7b")[0], "q_prj")


# The fused gate_up_proj of a layer: (8, 2 x 14336, 4096), (256, 2 x 2048, 7168) in transformers 5.
FUSED = {"mixtral-8x7b": 8 * 28672 * 4096, "deepseek-r1": 256 * 4096 * 7168}


@pytest.mark.parametrize("model", FUSED)
def test_the_largest_tensor_of_a_mixture_is_all_experts_of_a_layer(model: str) -> None:
    served, _ = load_served(model)
    own = split(served, TrainOptions(optimizer="adafactor", precision="bf16")).states
    assert own.largest == FUSED[model]
    assert own.trained == sum(prod(shape) * copies for shape, copies in own.shapes) == served.parameters
    assert step_bytes("adafactor", own.largest, 2) == {"mixtral-8x7b": 14 * GIB, "deepseek-r1": 112 * GIB}[model]


# DeepSpeed docs/code-docs/source/memory.rst: 2851e6 weights, largest layer 32e6, one node with 8 GPUs. It prints GiB
# as GB; CPU memory is multiplied by 1.5 for buffers. Here: GPU, and CPU without the 1.5.
# ZeRO-2 without offload is stage_1_and_2.py's formula of today, 2 + 18 / GPUs bytes a weight; the page still prints the
# 15.93 of 4 + 16 / GPUs. It leaves out the flat 16-bit gradients while they become fp32.
# ZeRO-3's 18 leaves out the 16-bit gradients, from which the fp32 ones are made at the step, and the flat ones.
# CPU memory's 16 bytes leave out the pinned 16-bit copy: stage_1_and_2.py param_buffer_of_bit16_for_cpu_offload_groups,
# stage3.py grad_partitions_flat_buffer.
# GPU memory of ZeRO-2 leaves out temp_grad_buffer_for_gpu_offload, the largest weight in 16 bit.
LARGEST_WEIGHT = 28_510_000
PINNED = 2 * 2_851_000_000 / 2**30
PARAMS, GPUS = 2_851_000_000, 8
LARGEST_LAYER = 4 * 32_000_000 / GIB
ESTIMATORS: dict[tuple[Sharding, Offload], tuple[float, float]] = {
    ("zero2", "none"): ((2 + (18 + 2) / GPUS) * PARAMS / GIB, 0),
    ("zero2", "optimizer"): (
        5.31 + 2 * LARGEST_WEIGHT / GIB,
        63.72 / 1.5 + PINNED,
    ),  # the printed 127.45 is max(4 x 8, 16): initialisation
    ("zero3", "none"): (6.09 - LARGEST_LAYER + (2 + 2) * PARAMS / GPUS / GIB, 0),
    ("zero3", "optimizer"): (0.78 - LARGEST_LAYER, 63.72 / 1.5 + PINNED),
    ("zero3", "optimizer+params"): (0.12 - LARGEST_LAYER, 71.69 / 1.5 + PINNED),
}


def states(optimizer: Optimizer = "adamw") -> States:
    return States(
        shapes=(((PARAMS,), 1),),
        trained=PARAMS,
        frozen_bytes=0,
        layer_weights=32_000_000,
        layer_trained=32_000_000,
        root_weights=PARAMS // 10,
        root_trained=PARAMS // 10,
        layers_weights=PARAMS - PARAMS // 10,
        largest=LARGEST_WEIGHT,
        optimizer=optimizer,
    )


def total(parts: tuple[Part, ...]) -> int:
    return sum(part.bytes for part in parts)


@pytest.mark.parametrize(("sharding", "offload"), ESTIMATORS)
def test_sharded_states_are_what_deepspeeds_estimators_print(sharding: Sharding, offload: Offload) -> None:
    placed = place(states(), copies_of("bf16-mixed", sharding, "full"), sharding, offload, "cpu", GPUS, GPUS)
    gpu, cpu = ESTIMATORS[sharding, offload]
    held = total(placed.resident) + placed.gradients + total(placed.step)
    assert held / GIB == pytest.approx(gpu, abs=0.011)
    assert total(placed.ram) / GIB == pytest.approx(cpu, abs=0.01)


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3", "fsdp"])
def test_more_gpus_never_take_more_memory_each(sharding: Sharding) -> None:
    copies = copies_of("bf16-mixed", sharding, "full")
    held = [total(place(states(), copies, sharding, "none", "cpu", n, 1).resident) for n in (1, 2, 8, 64)]
    assert held == sorted(held, reverse=True)


@pytest.mark.parametrize(("offload", "to"), [("optimizer", "cpu"), ("optimizer+params", "cpu"), ("optimizer", "nvme")])
def test_what_leaves_the_gpu_arrives_in_memory_or_on_disk(offload: Offload, to: OffloadTo) -> None:
    copies: Copies = copies_of("bf16-mixed", "zero3", "full")
    here = place(states(), copies, "zero3", "none", "cpu", GPUS, GPUS)
    away = place(states(), copies, "zero3", offload, to, GPUS, GPUS)
    left = total(here.resident) - total(away.resident)
    arrived = total(away.ram if to == "cpu" else away.nvme) // GPUS
    gradients = 4 if to == "nvme" else 4 + 2  # fp32 ones for the CPU's step; pinned ones are never on NVMe
    assert arrived == left + gradients * -(-PARAMS // GPUS)


def test_plain_data_parallelism_holds_gradients_twice() -> None:
    # torch DistributedDataParallel, gradient_as_bucket_view: "the saved memory size will be equal to the total
    # gradients size"
    copies = copies_of("bf16-mixed", "none", "full")
    one, two = (place(states(), copies, "none", "none", "cpu", gpus, 1) for gpus in (1, 2))
    assert total(two.backward) - total(one.backward) == one.gradients == 4 * PARAMS


def test_shards_are_flat_so_adafactor_cannot_factor_them() -> None:
    whole = states_bytes("adafactor", (((1000, 1000), 1),), 4)
    assert whole == 4 * 2000
    placed = place(states("adafactor"), copies_of("bf16-mixed", "fsdp", "full"), "fsdp", "none", "cpu", 1, 1)
    kept = {part.name: part.bytes for part in placed.resident}
    assert kept["optimizer states"] == 4 * PARAMS


@pytest.mark.parametrize(
    ("sharding", "offload", "to"),
    [
        ("none", "optimizer", "cpu"),
        ("zero2", "optimizer+params", "cpu"),
        ("zero1", "optimizer", "nvme"),
        ("fsdp", "optimizer", "cpu"),
        ("fsdp", "optimizer+params", "nvme"),
    ],
)
def test_what_the_libraries_do_not_offer_is_refused_with_a_reason(
    sharding: Sharding, offload: Offload, to: OffloadTo
) -> None:
    assert refused(sharding, offload, to)


@pytest.mark.parametrize("optimizer", get_args(Optimizer))
@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_deepspeed_offloads_adam_and_lion_alone(sharding: Sharding, optimizer: Optimizer) -> None:
    # DeepSpeed 0.19.8 runtime/engine.py _configure_optimizer raises unless DeepSpeedCPUAdam or DeepSpeedCPULion
    reason = refused(sharding, "optimizer", "cpu", optimizer)
    assert (optimizer in reason) == (optimizer not in ("adamw", "lion"))
    assert not refused(sharding, "none", "cpu", optimizer)
