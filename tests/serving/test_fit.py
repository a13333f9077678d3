"""Bits per weight that fit: the budget's parts, published facts, and rows for every format."""

from functools import cache

import pytest

from planner.errors import JobError, UnsupportedError
from planner.formats.exllama import least_bits
from planner.formats.registry import all_formats, find_format
from planner.serving.activations import Attention
from planner.serving.bit_budget import average_format, make_ladder, nearest_below
from planner.serving.fit import fill, formats_of, size_all
from planner.serving.fit_schema import BitsPlan, FormatTable
from planner.serving.schema import ServeOptions
from planner.serving.serve import size
from planner.units import GIB
from tests.formats.full_size import served


def flat(tokens: int, context: int, *, batch: int = 1, attention: Attention = "flash", shards: int = 1) -> int:
    """Half a GiB of activations, whatever is asked: these tests are about the other parts."""
    return GIB // 2


@cache
def filled(model: str, gpu: str, context: int, choices: str | None = None, overhead: str | None = None) -> BitsPlan:
    return fill(served(model), flat, ServeOptions(gpu=gpu, context=context, overhead=overhead), choices)


@cache
def table(model: str, gpu: str | None = None) -> FormatTable:
    return size_all(served(model), flat, all_formats(), ServeOptions(gpu=gpu))


def test_llama_2_70b_at_255_hundredths_fits_a_24_gib_card_with_2048_tokens() -> None:
    # exllamav2 README: "Llama2 70B ... at 2.55 bits per weight with a 2048-token context" in 24 GB of VRAM
    most = filled("llama-2-70b", "24GiB", 2048).bits_per_weight
    assert 2.55 < most < 2.9


def test_the_budget_is_the_memory() -> None:
    budget = filled("llama-2-70b", "24GiB", 2048).budget
    parts = budget.model_dump()
    assert sum(size for name, size in parts.items() if name != "memory_bytes") == budget.memory_bytes == 24 * GIB
    assert budget.kv_cache_bytes == 2 * 80 * 8 * 128 * 2 * 2048  # keys and values, layers, heads, dim, bf16, tokens
    assert budget.activations_bytes == GIB // 2


def test_the_most_bits_are_the_budget_over_the_weights_of_the_layers() -> None:
    plan = filled("llama-2-70b", "24GiB", 2048)
    assert plan.quantizable_weights == 80 * (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 28672 * 8192)
    maps = 4 * 80 * (6 * 8192 + 28672)  # exllamav2 ext.py make_group_map: 4 bytes for each row of seven matrices
    assert plan.bits_per_weight == 8 * (plan.budget.quantizable_bytes - maps) / plan.quantizable_weights
    assert sum(row.gpu_bytes for row in plan.kept) == plan.budget.kept_bytes


@pytest.mark.parametrize(("model", "gpu"), [("llama-2-70b", "24GiB"), ("llama-3-8b", "8GiB")])
def test_a_hundredth_of_a_bit_more_does_not_fit(model: str, gpu: str) -> None:
    plan = filled(model, gpu, 2048)
    options = ServeOptions(gpu=gpu, context=2048)
    below, above = (int(100 * plan.bits_per_weight + more) / 100 for more in (0, 1))
    assert size(served(model), flat, find_format(f"exl2:{below:.2f}"), options).fits
    assert not size(served(model), flat, find_format(f"exl2:{above:.2f}"), options).fits


@pytest.mark.parametrize("choices", [None, "3,4,6", "exl3", "W4A16,W8A16,bf16", "gguf"])
def test_a_mixture_stays_in_the_budget_and_under_the_most_bits(choices: str | None) -> None:
    plan = filled("llama-3-8b", "9GiB", 2048, choices)
    mixture = plan.mixture
    assert mixture.gpu_bytes + mixture.left_bytes == plan.budget.quantizable_bytes
    assert mixture.left_bytes >= 0
    assert mixture.bits_per_weight <= plan.bits_per_weight
    assert mixture.gpu_bytes == sum(row.gpu_bytes for row in mixture.rows)
    assert mixture.max_context is not None and mixture.max_context >= 2048


def test_an_overhead_that_grows_with_the_weights_is_paid_from_the_budget() -> None:
    budget = filled("llama-3-8b", "8GiB", 2048, None, "20%").budget
    weights = budget.kept_bytes + budget.quantizable_bytes
    assert budget.overhead_bytes >= weights / 5 > budget.overhead_bytes - 2


def test_plenty_of_memory_gives_every_tensor_the_largest_choice() -> None:
    plan = filled("qwen3-0.6b", "24GiB", 2048)
    assert {row.choice for row in plan.mixture.rows} == {"exl2:8.0"}
    assert any("largest choice" in note for note in plan.notes)


def test_too_little_memory_names_the_largest_part_and_what_to_change() -> None:
    with pytest.raises(JobError, match=r"does not fit in 12\.00 GiB at 2,048 tokens even as .* most is weights: take"):
        filled("llama-2-70b", "12GiB", 2048)
    with pytest.raises(JobError, match=r"most is KV cache: lower --context"):
        fill(served("llama-3-8b"), flat, ServeOptions(gpu="8GiB", context=131072))


def test_formats_under_the_budget_fit_and_are_the_largest_that_do() -> None:
    plan = filled("llama-2-70b", "24GiB", 2048)
    families = [row.family for row in plan.below]
    assert all(row.fits for row in plan.below)
    assert max(map(families.count, families)) <= 4
    assert "exl2:2.78" in {row.name for row in plan.below} or plan.bits_per_weight < 2.78
    sizes = [row.weights_bytes or 0 for row in plan.below if row.family == "gguf"]
    assert sizes == sorted(sizes, reverse=True)


def test_choices_that_no_engine_reads_together_are_refused() -> None:
    model = served("llama-3-8b")
    with pytest.raises(JobError, match="no engine reads"):
        make_ladder(model, "Q4_K_M,W8A16")
    with pytest.raises(JobError, match="at least two"):
        make_ladder(model, "4")
    with pytest.raises(JobError, match="with commas between"):
        make_ladder(model, "3,,4")


def test_the_usual_choices_suit_the_engine_that_knows_the_model() -> None:
    assert make_ladder(served("llama-3-8b"), None).formats[0].name.startswith("exl2:2.")
    assert make_ladder(served("deepseek-r1"), None).formats[0].name == "exl3:2.0"
    assert make_ladder(served("llama-4-scout"), None).formats[0].name == "W4A16"
    lowest = float(make_ladder(served("llama-3-8b"), None).formats[0].bits or 0)
    assert least_bits(served("llama-3-8b")) <= lowest < least_bits(served("llama-3-8b")) + 1 / 100


def test_the_average_is_cut_not_rounded() -> None:
    ladder = make_ladder(served("llama-3-8b"), None)
    found = average_format(ladder, 4.3999)
    assert found is not None and found.name == "exl2:4.39"
    lowest = average_format(ladder, ladder.choices()[0].bits_per_weight)
    assert lowest is not None and lowest.bits == ladder.formats[0].bits
    highest = average_format(ladder, 99.0)
    assert highest is not None and highest.bits == 8
    assert average_format(make_ladder(served("llama-3-8b"), "gguf"), 5.0) is None


@pytest.mark.parametrize("model", ["llama-3-8b", "deepseek-r1", "qwen2.5-vl-7b", "gpt-oss-20b"])
def test_every_format_has_a_row_with_its_size_or_its_reason(model: str) -> None:
    rows = table(model).formats
    assert {row.name for row in rows} == {kept.name for kept in all_formats()}
    for row in rows:
        assert (row.file_bytes is None) == (row.problem is not None), row.name
        assert row.fits is row.max_context is row.tokens_per_second is None
    for family in {row.family for row in rows}:
        sizes = [row.file_bytes for row in rows if row.family == family and row.file_bytes is not None]
        assert sizes == sorted(sizes)


def test_rows_say_what_serve_says() -> None:
    row = next(row for row in table("llama-3-8b", "rtx4090").formats if row.name == "Q4_K_M")
    served_alone = size(served("llama-3-8b"), flat, find_format("Q4_K_M"), ServeOptions(gpu="rtx4090"))
    assert row.total_bytes == served_alone.per_gpu.total_bytes
    assert (row.fits, row.max_context) == (True, served_alone.max_context)
    assert served_alone.speed is not None
    assert row.tokens_per_second == served_alone.speed.tokens_per_second
    assert row.all_positions and row.max_context == 8192


def test_a_model_that_exllamav2_does_not_know_is_a_reason_not_a_crash() -> None:
    row = next(row for row in table("deepseek-r1").formats if row.name == "exl2:4.0")
    assert row.problem is not None and "no code for DeepseekV3ForCausalLM" in row.problem


def test_of_equal_sizes_the_nearest_are_shown_once() -> None:
    rows = nearest_below(table("llama-3-8b", "rtx4090").formats)
    sizes = [(row.family, row.weights_bytes, row.file_bytes) for row in rows]
    assert len(sizes) == len(set(sizes))


def test_an_unknown_family_gets_a_hint() -> None:
    with pytest.raises(JobError, match=r"did you mean gguf\?"):
        formats_of(["guff"])


def test_where_no_format_holds_the_model_the_reason_is_the_error() -> None:
    exl2 = [kept for kept in all_formats() if kept.name.startswith("exl2:")]
    with pytest.raises(UnsupportedError, match="ExLlamaV2 has no code"):
        size_all(served("deepseek-r1"), flat, exl2, ServeOptions())
