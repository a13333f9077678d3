"""One calibration batch of exact sizes: tokens, a mask, and images for the families known here.

The fields are those that each family's processor makes (transformers, processing_*.py). Tokens,
masks and grids keep their values, because the model reads them back; pixels have none.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from planner.errors import JobError, UnsupportedError
from planner.job import BatchShape

QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
FIXED_SIZE = ("llava", "gemma3", "paligemma", "internvl")
PIXTRAL = ("mistral3",)
# Fields that tell image tokens from text; the processors of these families add them.
TOKEN_TYPES = {"gemma3": "token_type_ids", **dict.fromkeys(QWEN_VL, "mm_token_type_ids")}
# Fields whose first dimension is not the batch: a batch concatenates them instead of stacking.
CONCATENATED = ("pixel_values", "image_grid_thw", "image_sizes")


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBatch:
    """One batch, and its bytes as samples of the dataset (on the CPU, before collation)."""

    fields: dict[str, torch.Tensor]

    @property
    def size(self) -> int:
        """Samples in the batch."""
        return int(self.fields["input_ids"].shape[0])

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.fields.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Images:
    fields: dict[str, torch.Tensor]
    runs: tuple[int, ...]
    """Placeholder tokens of each image."""
    token: int
    start: int | None = None


def calibration_batch(config: Any, shape: BatchShape, dtype: torch.dtype) -> CalibrationBatch:
    """A batch of `shape.batch_size` equal samples of `shape.seq_len` tokens, image tokens included.

    Raises UnsupportedError for images of a family whose inputs are not known here, JobError when
    the image tokens do not fit into the sequence.
    """
    ids = torch.full((shape.seq_len,), _plain_token(config), dtype=torch.int64)
    rows: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if shape.images:
        images = _images(config, shape, dtype)
        _place(ids, images)
        rows.update(images.fields)
        if name := TOKEN_TYPES.get(config.model_type):
            rows[name] = (ids == images.token).to(torch.int64)
    return CalibrationBatch(fields={name: _collate(name, row, shape.batch_size) for name, row in rows.items()})


def _collate(name: str, row: torch.Tensor, count: int) -> torch.Tensor:
    if name in CONCATENATED:
        return torch.cat([row] * count)
    return torch.stack([row] * count)


def _plain_token(config: Any) -> int:
    """A token id that is no image, video or other placeholder."""
    names = ("image_token_id", "image_token_index", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    special = [getattr(config, name, None) for name in names]  # a config may hold anything
    return next(i for i in range(9, 64) if i not in special)


def _images(config: Any, shape: BatchShape, dtype: torch.dtype) -> _Images:
    family, vision = config.model_type, getattr(config, "vision_config", None)
    if vision is None:
        raise JobError(f"--images {shape.images}: {family} has no vision tower; leave --images at 0")
    if family in QWEN_VL:
        return _qwen_vl(config, vision, shape)
    if family in FIXED_SIZE + PIXTRAL:
        if vision.model_type == "pixtral":
            return _pixtral(config, vision, shape, dtype)
        return _fixed_size(config, vision, shape, dtype)
    known = ", ".join(QWEN_VL + FIXED_SIZE + PIXTRAL)
    raise UnsupportedError(
        f"--images {shape.images}: the image inputs of {family} are not modelled; plan it with --images 0. "
        f"Modelled: {known}"
    )


def _qwen_vl(config: Any, vision: Any, shape: BatchShape) -> _Images:
    """Flattened patches and their grid; one token per spatial_merge_size squared patches."""
    unit = vision.patch_size * vision.spatial_merge_size
    rows, columns = (max(1, round(side / unit)) * vision.spatial_merge_size for side in shape.image_size)
    tokens = rows * columns // vision.spatial_merge_size**2
    width = getattr(vision, "in_channels", 3) * vision.temporal_patch_size * vision.patch_size**2
    fields = {
        "pixel_values": torch.empty(shape.images * rows * columns, width, device="meta"),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * shape.images),
    }
    return _Images(
        fields=fields, runs=(tokens,) * shape.images, token=config.image_token_id, start=config.vision_start_token_id
    )


def _fixed_size(config: Any, vision: Any, shape: BatchShape, dtype: torch.dtype) -> _Images:
    """Towers that resize every image to vision_config.image_size."""
    side, patch = _first(vision.image_size), _first(vision.patch_size)
    patches = (side // patch) ** 2
    tokens = getattr(config, "mm_tokens_per_image", None) or getattr(config, "image_seq_length", None) or patches
    if config.model_type == "llava":
        tokens = patches + (getattr(config, "vision_feature_select_strategy", "default") == "full")
    pixels = torch.empty(shape.images, 3, side, side, dtype=dtype, device="meta")
    return _Images(fields={"pixel_values": pixels}, runs=(int(tokens),) * shape.images, token=_image_token(config))


def _pixtral(config: Any, vision: Any, shape: BatchShape, dtype: torch.dtype) -> _Images:
    """Pixtral towers keep the image's size."""
    unit = vision.patch_size * getattr(config, "spatial_merge_size", 1)
    rows, columns = (math.ceil(side / unit) for side in shape.image_size)
    fields = {
        "pixel_values": torch.empty(shape.images, 3, rows * unit, columns * unit, dtype=dtype, device="meta"),
        "image_sizes": torch.tensor([[rows * unit, columns * unit]] * shape.images),
    }
    return _Images(fields=fields, runs=(rows * columns,) * shape.images, token=_image_token(config))


def _image_token(config: Any) -> int:
    token = getattr(config, "image_token_id", None)
    return int(config.image_token_index if token is None else token)


def _first(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])


def _place(ids: torch.Tensor, images: _Images) -> None:
    """Overwrite ids with one run of placeholders per image, an ordinary token between them."""
    needed = sum(length + 2 for length in images.runs)
    if needed > len(ids):
        raise JobError(
            f"{len(images.runs)} image(s) take {needed} tokens, more than --seq-len {len(ids)}; "
            "raise --seq-len or lower --image-size"
        )
    position = 1
    for length in images.runs:
        if images.start is not None:
            ids[position - 1] = images.start
        ids[position : position + length] = images.token
        position += length + 2
