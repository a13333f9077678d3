"""Whole training plans of real models."""

import pytest

from planner.errors import JobError
from planner.serving.engines.facts import PYTORCH_CONTEXT
from planner.training.schema import Offload, Sharding, TrainingPlan, TrainMethod, TrainOptions
from planner.training.train import train
from planner.units import GIB
from tests.built import share_presets

LLAMA = 8_030_261_248


@pytest.fixture(autouse=True)
def _presets_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    share_presets(monkeypatch)


def parts(plan: TrainingPlan, moment: int = 0) -> dict[str, int]:
    return {part.name: part.bytes for part in plan.moments[moment].parts}


def test_a_full_finetune_in_mixed_precision_takes_sixteen_bytes_a_weight_at_the_step() -> None:
    # Hugging Face "Model training anatomy": AdamW 8, gradients 4, weights 4 (and 2 more for the 16-bit copies, which
    # autocast frees before the step).
    step = parts(train("llama-3-8b"), 1)
    states = step["trained weights"] + step["gradients"] + step["optimizer states"]
    assert states == 16 * LLAMA + 4 * 291  # a step counter of 4 bytes for each of the 291 tensors


def test_autocast_copies_are_the_two_bytes_more_of_the_six_that_mixed_precision_is_said_to_take() -> None:
    copies = parts(train("llama-3-8b"))["autocast copies"]
    embedding_and_norms = 128_256 * 4096 + 65 * 4096
    assert copies == 2 * (LLAMA - embedding_and_norms)


def test_a_plan_is_the_sum_of_its_parts_and_the_highest_of_its_moments() -> None:
    plan = train("qwen2.5-7b", TrainOptions(gpus=8, sharding="zero2", checkpointing="full"))
    assert all(moment.total_bytes == sum(part.bytes for part in moment.parts) for moment in plan.moments)
    assert plan.per_gpu.total_bytes == max(moment.total_bytes for moment in plan.moments)
    same = next(c for c in plan.choices if (c.sharding, c.offload) == ("zero2", "none"))
    assert same.per_gpu_bytes == plan.per_gpu.total_bytes


def test_pure_bf16_takes_half_of_mixed_precisions_states() -> None:
    mixed, pure = parts(train("llama-3-8b"), 1), parts(train("llama-3-8b", TrainOptions(precision="bf16")), 1)
    assert mixed["trained weights"] == 2 * pure["trained weights"]
    assert mixed["gradients"] == 2 * pure["gradients"]


def test_qlora_of_a_70b_model_fits_a_48_gib_gpu_as_the_paper_says_of_65b() -> None:
    # arXiv 2305.14314 (abstract): "finetune a 65B parameter model on a single 48GB GPU". The paper pages its optimizer
    # out to the CPU; 8-bit states stand for that here at its rank of 64.
    asked = TrainOptions(method="qlora", rank=64, optimizer="adamw8bit", seq_len=512, gpu="48GiB")
    assert train("llama-2-70b", asked).fits
    assert train("llama-2-70b", TrainOptions(method="qlora", gpu="48GiB")).fits
    assert not train("llama-2-70b", TrainOptions(method="lora", gpu="80GiB")).fits


def test_adapters_on_16_bit_weights_take_more_than_the_weights_and_less_than_a_full_finetune() -> None:
    plan = train("llama-3-8b", TrainOptions(method="lora", rank=8, targets="q_proj,v_proj", gpu="24GiB"))
    held = parts(plan)
    assert held["frozen weights"] == 2 * LLAMA
    assert held["trained weights"] == 4 * plan.model.trained_parameters == 4 * 3_407_872
    assert held["optimizer states"] == 8 * 3_407_872 + 4 * 128


def test_checkpointing_and_flash_attention_each_take_less() -> None:
    def total(**asked: object) -> int:
        return train("llama-3-8b", TrainOptions(seq_len=4096, precision="bf16", **asked)).activations.kept_bytes

    full, selective, none = (total(checkpointing=c) for c in ("full", "selective", "none"))
    assert full < selective <= none < total(attention="eager")


def test_accumulated_gradients_stay_while_the_next_forward_runs() -> None:
    one, four = (train("llama-3-8b", TrainOptions(grad_accumulation=n)) for n in (1, 4))
    assert parts(four)["gradients"] == 4 * LLAMA
    assert four.per_gpu.total_bytes > one.per_gpu.total_bytes


def test_a_671b_mixture_of_experts_is_planned_on_many_gpus() -> None:
    plan = train("deepseek-r1", TrainOptions(gpus=64, sharding="zero3", gpu="80GiB", checkpointing="full"))
    states = parts(plan)
    assert states["master weights"] == 4 * -(-671_026_404_352 // 64)
    assert plan.fits is False


def test_a_vision_tower_that_text_never_reaches_is_frozen() -> None:
    plan = train("qwen2.5-vl-7b")
    assert plan.model.trained_parameters < plan.model.parameters == 8_292_166_656
    assert parts(plan)["frozen weights"] == 4 * 676_550_144
    assert any("vision tower" in note for note in plan.notes)


def test_the_rule_of_the_guide_stands_beside_a_full_finetune_alone() -> None:
    assert train("llama-3-8b").rule is not None
    assert train("llama-3-8b", TrainOptions(method="lora")).rule is None


def test_offload_moves_states_out_of_the_gpu() -> None:
    asked = {"gpus": 8, "sharding": "zero3"}
    here, away = (
        train("llama-3-8b", TrainOptions(**asked)),
        train("llama-3-8b", TrainOptions(**asked, offload="optimizer")),
    )
    assert here.node_ram.total_bytes == 0
    assert away.node_ram.total_bytes == pytest.approx(18 * LLAMA, rel=1e-6)
    assert away.per_gpu.total_bytes < here.per_gpu.total_bytes - 11 * GIB


def test_the_context_of_the_gpu_is_in_every_moment() -> None:
    for moment in train("llama-3-8b", TrainOptions(method="qlora")).moments:
        assert {part.name: part.bytes for part in moment.parts}["CUDA context"] == PYTORCH_CONTEXT


def test_checkpointing_is_the_first_way_out_where_it_is_enough() -> None:
    plan = train("llama-3-8b", TrainOptions(method="lora", gpu="24GiB"))
    assert plan.fits is False
    assert plan.advice.startswith("--checkpointing full")
    assert train("llama-3-8b", TrainOptions(method="lora", gpu="24GiB", checkpointing="full")).fits


def test_an_offload_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(JobError, match="offload needs ZeRO or FSDP"):
        train("llama-3-8b", TrainOptions(offload="optimizer"))


def test_an_optimizer_that_deepspeed_cannot_step_on_the_cpu_has_no_offload_rows() -> None:
    plan = train("llama-3-8b", TrainOptions(gpus=8, optimizer="adafactor", gpu="80GiB"))
    rows = [choice for choice in plan.choices if choice.sharding.startswith("zero") and choice.offload != "none"]
    assert rows and all(row.per_gpu_bytes is None and row.fits is None and row.reason for row in rows)


def test_the_trainer_keeps_8bit_adams_states_of_an_embedding_in_fp32() -> None:
    # transformers/trainer.py create_optimizer: register_module_override(module, "weight", {"optim_bits": 32})
    embedding, norms = 128_256 * 4096, 65 * 4096  # a norm has 4096 weights, just enough for 8 bits
    held = parts(train("llama-3-8b", TrainOptions(optimizer="adamw8bit")), 1)["optimizer states"]
    assert norms % 256 == 0
    assert held == 8 * embedding + (2 + 8 / 256) * (LLAMA - embedding)


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_deepspeed_keeps_fp32_master_weights_in_pure_bf16_too(sharding: Sharding) -> None:
    # stage_1_and_2.py: the shard's clone is master_weights_and_grads_dtype, fp32 unless bf16_master_weights_and_grads
    step = parts(train("llama-3-8b", TrainOptions(precision="bf16", gpus=8, sharding=sharding)), 1)
    assert step["master weights"] == 4 * LLAMA // 8
    assert step["optimizer states"] == pytest.approx(8 * LLAMA // 8, abs=4)


def test_in_fp32_stages_one_and_two_copy_the_shard_and_stage_three_does_when_it_is_offloaded() -> None:
    # stage3.py _create_fp32_partitions appends the shard itself where its type is fp32 and nothing is offloaded
    def master(sharding: Sharding, offload: Offload) -> int:
        plan = train("llama-3-8b", TrainOptions(precision="fp32", gpus=8, sharding=sharding, offload=offload))
        return sum(p.bytes for p in (*plan.per_gpu.parts, *plan.node_ram.parts) if p.name == "master weights")

    assert master("zero2", "none") == 4 * LLAMA // 8
    assert master("zero3", "none") == 0
    assert master("zero3", "optimizer") == 4 * LLAMA


def test_offload_pins_a_16_bit_copy_of_the_shard_on_nvme_rows_too() -> None:
    plan = train("llama-3-8b", TrainOptions(gpus=8, sharding="zero3", offload="optimizer", offload_to="nvme"))
    held = {part.name: part.bytes for part in plan.node_ram.parts}
    assert held["pinned gradients"] == 2 * LLAMA


@pytest.mark.parametrize(("model", "gpu"), [("llama-2-70b", "24GiB"), ("llama-3-8b", "24GiB"), ("llama-3-8b", "16GiB")])
def test_the_way_out_that_is_named_fits_when_it_is_asked_for(model: str, gpu: str) -> None:
    plan = train(model, TrainOptions(gpus=8, gpu=gpu))
    assert plan.fits is False and plan.advice.endswith(" would fit")
    words = plan.advice.removesuffix(" would fit").split()
    asked = {flag.lstrip("-").replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    assert train(model, TrainOptions(gpus=8, gpu=gpu, **asked)).fits


def test_checkpointing_comes_before_moving_states_out_of_the_gpu() -> None:
    plan = train("llama-3-8b", TrainOptions(gpus=8, gpu="24GiB"))
    assert "--checkpointing full --sharding" in plan.advice and "--offload" not in plan.advice


def test_a_4bit_linear_is_dequantized_while_a_layer_runs_and_not_in_the_head() -> None:
    head = train("llama-3-8b", TrainOptions(method="qlora"))
    assert head.activations.highest == "backward of head and loss"
    assert "dequantized weight" not in parts(head)
    layer = train("llama-2-70b", TrainOptions(method="qlora", seq_len=64))
    assert layer.activations.highest.endswith("LlamaDecoderLayer")
    assert parts(layer)["dequantized weight"] == 2 * 28672 * 8192


def test_zero_2_flattens_the_shards_gradients_before_it_makes_them_fp32() -> None:
    # stage_1_and_2.py step: flatten(averaged_gradients).to(fp32): the shard in 16 bit twice and in fp32
    asked = TrainOptions(gpus=8, sharding="zero2", checkpointing="full", seq_len=512)
    plan = train("llama-3-8b", asked)
    step = parts(plan, 1)
    assert step["flat gradients"] == step["gradients"] == step["fp32 gradients"] // 2 == 2 * LLAMA // 8
    assert plan.per_gpu.name == "optimizer step"
    adafactor = train("llama-3-8b", asked.model_copy(update={"optimizer": "adafactor"}))
    assert "flat gradients" not in parts(adafactor, 1)


@pytest.mark.parametrize("sharding", ["zero1", "zero2", "zero3"])
def test_stages_one_and_two_keep_a_buffer_of_the_largest_weight_for_offload(sharding: Sharding) -> None:
    # stage_1_and_2.py temp_grad_buffer_for_gpu_offload: largest_param_numel elements of the 16-bit type
    plan = train("llama-3-8b", TrainOptions(gpus=8, sharding=sharding, offload="optimizer"))
    assert parts(plan).get("offload buffer", 0) == (0 if sharding == "zero3" else 2 * 128_256 * 4096)


def test_deepspeed_casts_what_is_not_quantized_to_16_bit() -> None:
    # engine.py _cast_module_mixed_precision: every floating parameter; peft had cast these to fp32. NF4 with double
    # quantization: half a byte, an int8 scale for 64 weights, an fp32 scale for 256 of those
    wide = 2 * 128_256 * 4096 + 65 * 4096
    fp32 = parts(train("llama-3-8b", TrainOptions(method="qlora")))["frozen weights"]
    held = parts(train("llama-3-8b", TrainOptions(method="qlora", gpus=8, sharding="zero2")))["frozen weights"]
    assert fp32 - held == 2 * wide
    assert held == pytest.approx(2 * wide + (LLAMA - wide) * (1 / 2 + 1 / 64 + 4 / 64 / 256), rel=1e-4)


def test_the_frozen_weights_of_lora_under_deepspeed_have_16_bit() -> None:
    plan = train("llama-3-8b", TrainOptions(method="lora", gpus=8, sharding="zero1"))
    assert parts(plan)["frozen weights"] == 2 * LLAMA
    vision = train("qwen2.5-vl-7b", TrainOptions(gpus=8, sharding="zero1"))
    assert parts(vision)["frozen weights"] == 2 * 676_550_144


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_under_deepspeed_compute_in_16_bit_without_autocast(method: TrainMethod) -> None:
    # engine.py _cast_module_mixed_precision casts the adapters that peft made fp32; accelerate's native_amp is off
    # for DeepSpeed. So no adapter keeps its input once more in fp32, and autocast copies nothing.
    asked = TrainOptions(method=method, gpus=8, checkpointing="none", precision="bf16-mixed")
    plain, zero = (
        train("llama-3-8b", asked.model_copy(update={"sharding": sharding})).activations
        for sharding in ("none", "zero2")
    )
    assert zero.weight_copies_bytes == 0
    assert zero.kept_bytes <= plain.kept_bytes
    bf16 = asked.model_copy(update={"sharding": "zero2", "precision": "bf16"})
    assert train("llama-3-8b", bf16).activations == zero


def test_fsdp_gathers_the_embedding_and_the_head_of_qlora_in_16_bit_and_layers_in_4() -> None:
    # FSDP's unit outside of layers has no 4-bit weight: bitsandbytes leaves the embedding and the head as they are
    root = 2 * 128_256 * 4096 + 4096
    held = parts(train("llama-3-8b", TrainOptions(method="qlora", gpus=8, sharding="fsdp")))["gathered weights"]
    layer = (LLAMA - root) // 32
    assert 2 * root + layer < held < 2 * root + 2 * layer  # two layers, a little over half a byte a weight
    half = parts(train("llama-3-8b", TrainOptions(method="lora", gpus=8, sharding="fsdp")))["gathered weights"]
    assert half == pytest.approx(2 * (root + 2 * layer), rel=0.02)  # and their adapters
