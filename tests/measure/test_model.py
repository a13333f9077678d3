"""The model and data of a measured job: made up, of exact size."""

from typing import Any

import pytest
import torch

from planner.job import Build, Job
from planner.measure.model import calibration_data, fill, measured_model
from planner.models.source import ModelSource, load_source

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 128,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}


def test_the_model_is_cut_filled_and_runs() -> None:
    job = Job(samples=3, batch_size=2, seq_len=8, layers=2, dtype="float32")
    with measured_model(ModelSource(name="tiny", config=TINY), job) as model:
        assert len(model.model.layers) == 2
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert torch.equal(model.model.norm.weight, torch.ones(64))
        (batch, last) = calibration_data(model.config, job)
        with torch.no_grad():
            assert torch.isfinite(model(**batch).logits).all()
    assert batch["input_ids"].shape == (2, 8)
    assert last["input_ids"].shape == (1, 8)  # DataLoader keeps what is left


def test_weights_are_spread_and_rows_differ() -> None:
    layer = torch.nn.Linear(1024, 2048)
    fill(layer)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not torch.equal(layer.weight[0], layer.weight[1024])
    assert not layer.bias.any()


def test_the_folder_that_oneshot_reads_the_config_from_goes_with_the_model() -> None:
    from pathlib import Path

    with measured_model(ModelSource(name="tiny", config=TINY), Job(layers=1)) as model:
        folder = Path(model.name_or_path)
        assert (folder / "config.json").exists()
    assert not folder.exists()


def test_samples_differ_and_repeat_from_run_to_run() -> None:
    config: Any = _config("qwen3-0.6b")
    job = Job(samples=2, seq_len=16)
    first, second = ([row["input_ids"] for row in calibration_data(config, job)] for _ in range(2))
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first[0], second[0])


def test_image_samples_have_the_shapes_that_are_planned() -> None:
    from planner.models.inputs import calibration_batch

    config = _config("qwen2.5-vl-7b")
    job = Job(samples=2, batch_size=2, seq_len=1024, images=1, image_size=(448, 448))
    (batch,) = calibration_data(config, job)
    planned = calibration_batch(config, job.batch_shape, torch.bfloat16).fields
    assert {n: (t.shape, t.dtype) for n, t in batch.items()} == {n: (t.shape, t.dtype) for n, t in planned.items()}
    placed = planned["input_ids"] == config.image_token_id
    assert torch.equal(batch["input_ids"] == config.image_token_id, placed)
    assert torch.equal(batch["mm_token_type_ids"], planned["mm_token_type_ids"])


def _config(name: str) -> Any:
    from planner.models.build import model_config

    return model_config(load_source(name), Build(layers=1))
