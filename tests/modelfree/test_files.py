"""One file after the other: what is loaded, what stays, what is saved, and where the library stops."""

import pytest

from planner.cuda.allocator import CachingAllocator
from planner.cuda.build import CudaBuild
from planner.errors import ModelError, RecipeError
from planner.modelfree.card import CardOfFiles, CountedFile
from planner.modelfree.checkpoint import Checkpoint, in_files
from planner.modelfree.converters import CtDequantizer, Fp8BlockDequantizer, ModelOptNvfp4, converter_of
from planner.modelfree.files import FilePlan, plan_file
from planner.modelfree.fused import fused_sets, partners
from planner.modelfree.jobs import file_jobs
from planner.modelfree.passage import WorkPlace
from planner.modelfree.rules import Rules, rules_of
from planner.modelfree.sinks import place_together, tally
from planner.sizing.saved import SavedTensor
from planner.units import MIB
from tests.modelfree.toy import attention, bf16, checkpoint

CARD = WorkPlace(device="gpu", build=CudaBuild())


def plans(found: Checkpoint, rules: Rules) -> list[FilePlan]:
    return [plan_file(job, rules, ()) for job in file_jobs(found, rules, ())]


def test_originals_stay_until_the_last_weight_so_the_peak_is_all_of_them_and_nearly_all_results() -> None:
    (plan,) = plans(checkpoint(attention(0)), rules_of("FP8_DYNAMIC"))
    found = tally(plan, CARD)
    scales = 2 * 1024
    # three originals, two results, and the work on the third: copy, in bf16, in fp8
    assert found.peak == 3 * 2 * MIB + 2 * (MIB + scales) + (2 + 2 + 1) * MIB + scales
    assert found.owner.endswith("v_proj.weight")
    assert found.peak == sum(found.parts.values())


def test_a_file_without_weights_to_quantize_peaks_when_it_is_loaded() -> None:
    rules = rules_of("FP8_DYNAMIC", ignore=["re:.*self_attn.*"])
    (plan,) = plans(checkpoint(attention(0)), rules)
    assert (tally(plan, CARD).peak, plan.weights) == (6 * MIB, ())


def test_what_is_placed_is_what_was_counted_and_all_of_it_goes_again() -> None:
    for scheme in ("FP8_BLOCK", "W4A16", "NVFP4A16"):
        (plan,) = plans(checkpoint(attention(0)), rules_of(scheme))
        allocator = CachingAllocator()
        place_together([plan], CARD, allocator)
        rounded = allocator.use.allocated_peak
        assert tally(plan, CARD).peak <= rounded <= tally(plan, CARD).peak + 2 * MIB
        assert allocator.use.allocated == 0


def test_two_files_at_a_time_reserve_more_than_one_and_no_more_than_both() -> None:
    found = plans(checkpoint(attention(0), attention(1)), rules_of("W4A16"))
    reserved = []
    for count in (1, 2):
        allocator = CachingAllocator()
        place_together(found[:count], CARD, allocator)
        reserved.append(allocator.use.reserved_peak)
    assert reserved[0] < reserved[1] <= 2 * reserved[0]


# ---------------------------------------------------------------------- names
def test_names_alone_decide_so_that_embeddings_and_heads_are_weights_and_norms_are_not() -> None:
    tensors = (bf16("model.embed_tokens.weight", 128, 128), bf16("lm_head.weight", 128, 128), bf16("norm.weight", 128))
    (plan,) = plans(checkpoint(tensors), rules_of("FP8_DYNAMIC"))
    assert [each.names for each in plan.weights] == [("model.embed_tokens.weight",), ("lm_head.weight",)]


def test_the_first_group_that_matches_a_weight_has_it() -> None:
    groups = {
        "first": {"targets": ["re:.*q_proj$"], "weights": {"num_bits": 8, "strategy": "channel"}},
        "rest": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "channel"}},
    }
    (plan,) = plans(checkpoint(attention(0)), rules_of(None, groups))
    bits = {each.names[0].split(".")[-2]: each.matrices[0].args.num_bits for each in plan.weights}
    assert bits == {"q_proj": 8, "k_proj": 4, "v_proj": 4}


def test_fused_experts_are_split_into_views_before_they_are_quantized() -> None:
    experts = (
        bf16("layers.0.mlp.experts.gate_up_proj", 4, 256, 128),
        bf16("layers.0.mlp.experts.down_proj", 4, 128, 128),
    )
    (plan,) = plans(checkpoint(experts), rules_of("FP8_DYNAMIC"))
    assert len(plan.weights) == 4 * 3
    assert plan.weights[0].names == ("layers.0.mlp.experts.0.gate_proj.weight",)
    assert tally(plan, CARD).loaded == sum(tensor.bytes for tensor in experts)


# ---------------------------------------------------------------------- partners
def test_a_query_brings_its_keys_and_values_from_other_files_where_scales_are_global() -> None:
    q, k, v = attention(0)
    a, b = plans(checkpoint((q,), (k, v, bf16("other.weight", 128, 128))), rules_of("NVFP4A16"))
    assert (a.job.foreign, b.job.foreign) == (2, 0)
    assert [len(each.names) for each in a.weights] == [3]
    assert {tensor.name.rpartition(".")[0] for tensor in b.saved} == {"other"}


def test_without_global_scales_every_tensor_stays_in_its_file() -> None:
    q, k, v = attention(0)
    assert [job.foreign for job in file_jobs(checkpoint((q,), (k, v)), rules_of("FP8_BLOCK"), ())] == [0, 0]


def test_a_partner_that_is_not_there_stops_the_library_and_the_plan() -> None:
    with pytest.raises(ModelError, match=r"no model.layers.0.self_attn.v_proj.weight"):
        file_jobs(checkpoint(attention(0)[:2]), rules_of("NVFP4A16"), ())


def test_a_file_of_partners_alone_stops_the_library_and_the_plan() -> None:
    q, k, v = attention(0)
    with pytest.raises(ModelError, match="partners of other files alone"):
        file_jobs(checkpoint((q,), (k, v)), rules_of("NVFP4A16"), ())


def test_gate_and_up_of_an_mlp_are_a_set_and_those_of_experts_are_none() -> None:
    mlp = [f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up")]
    experts = [f"model.layers.0.mlp.experts.3.{part}_proj.weight" for part in ("gate", "up")]
    assert fused_sets([*mlp, *experts]) == [tuple(mlp)]
    assert partners(mlp[0]) == (mlp[1],)
    assert partners(experts[0]) == ()


# ---------------------------------------------------------------------- where the library stops
def test_a_weight_with_three_dimensions_stops_the_library() -> None:
    (plan,) = plans(checkpoint((bf16("conv.weight", 8, 4, 4), *attention(0))), rules_of("FP8_DYNAMIC"))
    assert [(stop.tensor, stop.why) for stop in plan.stops] == [("conv.weight", "it has 3 dimensions, not 2")]


def test_a_weight_in_fp8_needs_a_converter() -> None:
    quantized = SavedTensor(name="a.q_proj.weight", type="F8_E4M3", shape=(256, 256))
    scales = SavedTensor(name="a.q_proj.weight_scale_inv", type="F32", shape=(2, 2))
    rules = rules_of("FP8_DYNAMIC")
    (plan,) = plans(checkpoint((quantized, scales)), rules)
    assert "dequantize it with a converter" in plan.stops[0].why
    converter = Fp8BlockDequantizer(targets=("re:.*_proj$",))
    (job,) = file_jobs(checkpoint((quantized, scales)), rules, (converter,))
    plan = plan_file(job, rules, (converter,))
    assert plan.stops == ()
    assert {tensor.name: tensor.type for tensor in plan.saved} == {
        "a.q_proj.weight": "F8_E4M3",
        "a.q_proj.weight_scale": "BF16",
    }
    # the fp8 weight and its scales, while it is in fp32 twice: 256 KiB each
    assert tally(plan, CARD).peak == 65536 + 16 + 2 * 4 * 65536


def test_the_observer_mse_is_renamed_to_one_that_does_not_exist() -> None:
    weights = {"num_bits": 8, "strategy": "channel", "observer": "mse"}
    (plan,) = plans(checkpoint(attention(0)), rules_of({"targets": ["Linear"], "weights": weights}))
    assert plan.stops[0].why == "no observer is called static_mse"


@pytest.mark.parametrize("scheme", ["FP8", "NVFP4"])
def test_static_activations_are_refused_as_the_library_refuses_them(scheme: str) -> None:
    with pytest.raises(RecipeError, match="cannot calibrate activations"):
        rules_of(scheme)


@pytest.mark.parametrize(("scheme", "groups"), [(None, None), ("W4A16", {"a": {"targets": ["Linear"]}})])
def test_a_scheme_or_groups_must_be_given_and_not_both(scheme: str | None, groups: dict[str, object] | None) -> None:
    with pytest.raises(RecipeError, match="either a scheme or config_groups"):
        rules_of(scheme, groups)


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(RecipeError, match=r"^scheme: unknown scheme FP8_BLOK; did you mean FP8_BLOCK\?") as refused:
        rules_of("FP8_BLOK")
    taken = str(refused.value).rpartition(" takes ")[2].split(", ")
    assert "FP8_DYNAMIC" in taken
    assert not {"FP8", "NVFP4", "UNQUANTIZED"} & set(taken)
    with pytest.raises(Exception, match=r"unknown converter fp8blok.*fp8-block"):
        converter_of("fp8blok")
    with pytest.raises(Exception, match="AutoAWQConverter is not modelled"):
        converter_of("AutoAWQConverter")


# ---------------------------------------------------------------------- assumed files
def test_files_are_filled_one_after_the_other_and_named_as_save_pretrained_names_them() -> None:
    tensors = [bf16(f"t{number}.weight", 512, 1024) for number in range(5)]
    found = in_files(tensors, 2 * MIB)
    assert {name: len(file) for name, file in found.items()} == {
        "model-00001-of-00003.safetensors": 2,
        "model-00002-of-00003.safetensors": 2,
        "model-00003-of-00003.safetensors": 1,
    }
    assert list(in_files(tensors[:1], 2 * MIB)) == ["model.safetensors"]


def test_the_smallest_card_is_between_what_is_requested_and_what_is_reserved_with_room() -> None:
    (plan,) = plans(checkpoint(attention(0)), rules_of("W8A8"))
    counted = CountedFile(plan=plan, tally=tally(plan, CARD), estimate=tally(plan, CARD).peak)
    card = CardOfFiles([counted], CARD, 1, context=100 * MIB)
    assert counted.tally.peak + 100 * MIB <= card.smallest() <= card.reserved() + 101 * MIB
    assert not card.on(card.smallest()).runs_out
    assert card.on(counted.tally.peak + 100 * MIB - 1).refused


def test_an_assumed_checkpoint_of_model_optimizer_has_what_its_converter_wants() -> None:
    converter = ModelOptNvfp4(targets=("re:.*mlp.*",))
    other, weight = bf16("a.q_proj.weight", 64, 32), bf16("a.mlp.up_proj.weight", 64, 32)
    made = {tensor.name: tensor for tensor in converter.quantized((other, weight))}
    assert made.pop(other.name) == other
    assert {name: tensor.bytes for name, tensor in made.items()} == {
        "a.mlp.up_proj.weight": 64 * 16,
        "a.mlp.up_proj.weight_scale": 64 * 2,
        "a.mlp.up_proj.weight_scale_2": 4,
        "a.mlp.up_proj.input_scale": 4,
    }
    assert set(converter.dependencies("a.mlp.up_proj.weight")) == made.keys() - {"a.mlp.up_proj.weight"}
    assert all(name.endswith(("packed", "global_scale")) for c in converter.conversions(made) for name, *_ in c.made)


def test_an_assumed_checkpoint_of_compressed_tensors_becomes_the_plain_one_again() -> None:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    config = {"quantization_config": {"config_groups": groups, "ignore": ["re:.*attn.*"]}}
    converter = converter_of("compressed-tensors", config=config)
    assert isinstance(converter, CtDequantizer)
    plain = tuple(bf16(f"{name}.weight", 64, 128) for name in ("attn.q_proj", "mlp.up_proj", "embed_tokens"))
    made = {tensor.name: tensor for tensor in converter.quantized(plain)}
    assert made.keys() - {tensor.name for tensor in plain} == {
        f"mlp.up_proj.weight_{part}" for part in ("packed", "scale", "shape")
    }
    assert made["mlp.up_proj.weight_packed"].bytes == 64 * 128 // 2
    (conversion,) = converter.conversions(made)
    assert conversion.made == (plain[1],)
