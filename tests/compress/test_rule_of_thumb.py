import pytest

from planner.compress.rule_of_thumb import rule_of_thumb

# (parameters in the checkpoint, largest text layer, vision tower), exact
LLAMA_3_8B = (8_030_261_248, 218_112_000, 0)
DEEPSEEK_R1 = (684_489_845_504, 11_507_286_016, 0)
QWEN_2_5_VL_7B = (8_292_166_656, 233_057_792, 676_550_144)


def rule(model: tuple[int, int, int], *, has_hessians: bool) -> tuple[float, float]:
    """(CPU, GPU) in GB, as the documentation prints them."""
    checkpoint, layer, tower = model
    result = rule_of_thumb(
        checkpoint_parameters=checkpoint,
        text_layer_parameters=layer,
        vision_tower_parameters=tower,
        has_hessians=has_hessians,
    )
    return round(result.cpu_bytes / 1e9, 1), round(result.gpu_bytes / 1e9, 2)


# Beside each: what the documentation prints, from rounded model sizes and average layers.
@pytest.mark.parametrize(
    ("model", "cpu", "rtn", "gptq"),
    [
        (LLAMA_3_8B, 16.1, 0.44, 0.87),  # 16, 0.5, 1
        (DEEPSEEK_R1, 1369.0, 23.01, 46.03),  # 1368, 22.4, 44.8
        (QWEN_2_5_VL_7B, 16.6, 1.35, 2.71),  # 14, 1.3, 2.6
    ],
)
def test_the_documented_table_with_exact_counts(
    model: tuple[int, int, int], cpu: float, rtn: float, gptq: float
) -> None:
    assert rule(model, has_hessians=False) == (cpu, rtn)
    assert rule(model, has_hessians=True) == (cpu, gptq)


def test_the_printed_layers_are_the_rounded_total_shared_among_the_layers() -> None:
    assert round(8e9 / 32 * 2 / 1e9, 1) == 0.5
    assert round(684e9 / 61 * 2 / 1e9, 1) == 22.4


def test_a_large_vision_tower_counts_instead_of_the_layer() -> None:
    without = rule((QWEN_2_5_VL_7B[0], QWEN_2_5_VL_7B[1], 0), has_hessians=False)
    assert rule(QWEN_2_5_VL_7B, has_hessians=False)[1] > without[1] == 0.47


def test_other_weights_than_sixteen_bits_scale_everything() -> None:
    arguments = {"checkpoint_parameters": 100, "text_layer_parameters": 10, "vision_tower_parameters": 0}
    result = rule_of_thumb(**arguments, has_hessians=True, bytes_per_parameter=4)
    assert (result.cpu_bytes, result.gpu_bytes) == (400, 80)
