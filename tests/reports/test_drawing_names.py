"""Names of modules in narrow columns: broken before a dot, and words whole."""

from planner.reports.drawing import broken


def test_a_name_is_broken_before_a_dot_and_words_never() -> None:
    name = "model.language_model.layers.0.mlp.down_proj stacked Hessians"
    lines = broken(name, 34)
    assert lines == ["model.language_model.layers.0.mlp", ".down_proj stacked Hessians"]
    assert broken("short words stay", 34) == ["short words stay"]
    assert broken("gptq/helpers.py prepare_batch", 20) == ["gptq/helpers.py", "prepare_batch"]
    assert broken("", 5) == [""]
