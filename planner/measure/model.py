"""The real model with made-up weights, and the calibration data: exact sizes, no download."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from planner.job import Job
from planner.models.build import build_on_cpu, text_config
from planner.models.inputs import CONCATENATED, calibration_batch
from planner.models.source import ModelSource

# Length of the random pattern that weights repeat. Odd, so that the rows of a matrix are not equal.
TILE = 2**20 + 7
SPREAD = 0.02
"""Standard deviation of the weights, as most configs' initializer_range."""

Sample = dict[str, torch.Tensor]


@contextmanager
def measured_model(source: ModelSource, job: Job) -> Iterator[Any]:
    """The model on the CPU, ready for oneshot. A folder with the config, for oneshot to read, exists in the block."""
    folder = Path(tempfile.mkdtemp(prefix="planner_measure_"))
    try:
        model = build_on_cpu(source, job.build)
        fill(model)
        model.config.save_pretrained(folder)
        model.config._name_or_path = model.name_or_path = str(folder)
        if job.linearized:
            linearize(model)
        yield model
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill(model: torch.nn.Module) -> None:
    """Give every weight a random value, every norm 1 and every bias 0.

    One random pattern is repeated: numbers for each of 70 billion weights would take longer than the job.
    """
    pattern = torch.randn(TILE, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * SPREAD
    tiles = {dtype: pattern.to(dtype) for dtype in {parameter.dtype for parameter in model.parameters()}}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                for piece in torch.split(parameter.data.view(-1), TILE):
                    piece.copy_(tiles[parameter.dtype][: len(piece)])


def linearize(model: torch.nn.Module) -> None:
    """Replace fused experts as load_quantizable_moe leaves them, before the job."""
    from llmcompressor.modeling.moe.linearize import linearize_moe

    with torch.no_grad():
        linearize_moe(model)


def calibration_data(config: Any, job: Job) -> "DataLoader[Sample]":
    """`job.samples` samples of exactly `job.seq_len` random tokens, images included."""
    pattern = calibration_batch(config, replace(job.batch_shape, batch_size=1), getattr(torch, job.dtype))
    random = torch.Generator().manual_seed(1)
    rows = [_sample(pattern.fields, config, random) for _ in range(job.samples)]
    for row in rows if job.loss_mask else ():
        row["loss_mask"] = torch.ones(job.seq_len, dtype=torch.long)
    return DataLoader(rows, batch_size=job.batch_size, collate_fn=_collate)  # type: ignore[arg-type]  # a list is a dataset


def _sample(pattern: Sample, config: Any, random: torch.Generator) -> Sample:
    """One sample with the pattern's shapes: random ordinary tokens and pixels, all else as in the pattern."""
    sample = {name: _value(name, field, random) for name, field in pattern.items()}
    ids, plain = sample["input_ids"], int(pattern["input_ids"][0, -1])
    tokens = torch.randint(10, max(text_config(config).vocab_size - 10, 11), ids.shape, generator=random)
    special = torch.tensor(_special_tokens(config))
    tokens[torch.isin(tokens, special)] = plain
    sample["input_ids"] = torch.where(ids == plain, tokens, ids)
    return sample


def _value(name: str, field: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    if field.device.type == "meta":
        return torch.randn(field.shape, dtype=field.dtype, generator=random)
    return field.clone() if name in CONCATENATED else field[0].clone()


def _special_tokens(config: Any) -> list[int]:
    """Ids that stand for an image, a video, or their borders, wherever the config keeps them."""
    names = [name for name in vars(config) if name.endswith(("_token_id", "_token_index"))]
    return [value for name in names if isinstance(value := getattr(config, name), int)] or [-1]


def _collate(rows: list[Sample]) -> Sample:
    return {name: (torch.cat if name in CONCATENATED else torch.stack)([row[name] for row in rows]) for name in rows[0]}


def tokenizer() -> Any:
    """oneshot wants a tokenizer when it gets data; it never uses this one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))  # noqa: S106 (not a password)
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")  # noqa: S106  (words, no passwords)
