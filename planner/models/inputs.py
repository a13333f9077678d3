"""One calibration batch of exact sizes: tokens, a mask, and images and audio for the families known here.

The fields are those that each family's processor makes (transformers, processing_*.py). Tokens,
masks and grids keep their values, because the model reads them back; pixels and spectrograms have none.
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
QWEN_AUDIO = ("qwen2_audio",)
# Fields that tell image tokens from text; the processors of these families add them.
TOKEN_TYPES = {"gemma3": "token_type_ids", **dict.fromkeys(QWEN_VL, "mm_token_type_ids")}
# Fields whose first dimension is not the batch: a batch concatenates them instead of stacking.
CONCATENATED = ("pixel_values", "image_grid_thw", "image_sizes", "input_features", "feature_attention_mask")
FRAMES_PER_SECOND = 100
"""Of a spectrogram: 16,000 samples a second, one frame every 160 (feature_extraction_whisper.py `hop_length`)."""


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
class _Media:
    """Images or audio clips of one sample."""

    fields: dict[str, torch.Tensor]
    runs: tuple[int, ...]
    """Placeholder tokens of each."""
    token: int
    start: int | None = None


def calibration_batch(config: Any, shape: BatchShape, dtype: torch.dtype) -> CalibrationBatch:
    """A batch of `shape.batch_size` equal samples of `shape.seq_len` tokens, those of images and audio included.

    Raises UnsupportedError for images or audio of a family whose inputs are not known here, JobError when
    their tokens do not fit into the sequence.
    """
    ids = torch.full((shape.seq_len,), _plain_token(config), dtype=torch.int64)
    rows: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if shape.images:
        images = _images(config, shape, dtype)
        _place(ids, images, shape)
        rows.update(images.fields)
        if name := TOKEN_TYPES.get(config.model_type):
            rows[name] = (ids == images.token).to(torch.int64)
    if shape.audios:
        clips = _audios(config, shape)
        _place(ids, clips, shape)
        rows.update(clips.fields)
    return CalibrationBatch(fields={name: _collate(name, row, shape.batch_size) for name, row in rows.items()})


def _collate(name: str, row: torch.Tensor, count: int) -> torch.Tensor:
    if name in CONCATENATED:
        return torch.cat([row] * count)
    return torch.stack([row] * count)


def _plain_token(config: Any) -> int:
    """A token id that is no image, video or other placeholder."""
    names = (
        *("image_token_id", "image_token_index", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
        *("audio_token_id", "audio_token_index"),
    )
    special = [getattr(config, name, None) for name in names]  # a config may hold anything
    return next(i for i in range(9, 64) if i not in special)


def _images(config: Any, shape: BatchShape, dtype: torch.dtype) -> _Media:
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


def _qwen_vl(config: Any, vision: Any, shape: BatchShape) -> _Media:
    """Flattened patches and their grid; one token per spatial_merge_size squared patches."""
    unit = vision.patch_size * vision.spatial_merge_size
    rows, columns = (max(1, round(side / unit)) * vision.spatial_merge_size for side in shape.image_size)
    tokens = rows * columns // vision.spatial_merge_size**2
    width = getattr(vision, "in_channels", 3) * vision.temporal_patch_size * vision.patch_size**2
    fields = {
        "pixel_values": torch.empty(shape.images * rows * columns, width, device="meta"),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * shape.images),
    }
    return _Media(
        fields=fields, runs=(tokens,) * shape.images, token=config.image_token_id, start=config.vision_start_token_id
    )


def _fixed_size(config: Any, vision: Any, shape: BatchShape, dtype: torch.dtype) -> _Media:
    """Towers that resize every image to vision_config.image_size."""
    side, patch = _first(vision.image_size), _first(vision.patch_size)
    patches = (side // patch) ** 2
    tokens = getattr(config, "mm_tokens_per_image", None) or getattr(config, "image_seq_length", None) or patches
    if config.model_type == "llava":
        tokens = patches + (getattr(config, "vision_feature_select_strategy", "default") == "full")
    pixels = torch.empty(shape.images, 3, side, side, dtype=dtype, device="meta")
    return _Media(fields={"pixel_values": pixels}, runs=(int(tokens),) * shape.images, token=_image_token(config))


def _pixtral(config: Any, vision: Any, shape: BatchShape, dtype: torch.dtype) -> _Media:
    """Pixtral towers keep the image's size."""
    unit = vision.patch_size * getattr(config, "spatial_merge_size", 1)
    rows, columns = (math.ceil(side / unit) for side in shape.image_size)
    fields = {
        "pixel_values": torch.empty(shape.images, 3, rows * unit, columns * unit, dtype=dtype, device="meta"),
        "image_sizes": torch.tensor([[rows * unit, columns * unit]] * shape.images),
    }
    return _Media(fields=fields, runs=(rows * columns,) * shape.images, token=_image_token(config))


def _image_token(config: Any) -> int:
    token = getattr(config, "image_token_id", None)
    return int(config.image_token_index if token is None else token)


def _first(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])


def _audios(config: Any, shape: BatchShape) -> _Media:
    """Spectrograms, padded to the length that the tower takes, and the frames of them that were heard.

    processing_qwen2_audio.py `_process_audio` pads to max_length, 30 seconds in all published ones, and
    modeling_qwen2_audio.py Qwen2AudioEncoder.forward takes no other length than max_source_positions * 2.
    """
    family, audio = config.model_type, getattr(config, "audio_config", None)
    if audio is None:
        raise JobError(f"--audios {shape.audios}: {family} has no audio tower; leave --audios at 0")
    if family not in QWEN_AUDIO:
        known = ", ".join(QWEN_AUDIO)
        raise UnsupportedError(
            f"--audios {shape.audios}: the audio inputs of {family} are not modelled; plan it with --audios 0. "
            f"Modelled: {known}"
        )
    frames, heard = 2 * audio.max_source_positions, FRAMES_PER_SECOND * shape.audio_seconds
    if heard > frames:
        raise JobError(
            f"--audio-seconds {shape.audio_seconds}: the processor cuts each clip to the "
            f"{frames // FRAMES_PER_SECOND} seconds that {family} hears; write that"
        )
    mask = torch.zeros(shape.audios, frames, dtype=torch.int64)
    mask[:, :heard] = 1
    fields = {
        "input_features": torch.empty(shape.audios, audio.num_mel_bins, frames, device="meta"),
        "feature_attention_mask": mask,
    }
    tokens = ((heard - 1) // 2 + 1 - 2) // 2 + 1  # _process_audio, num_audio_tokens
    return _Media(fields=fields, runs=(tokens,) * shape.audios, token=config.audio_token_id)


def _place(ids: torch.Tensor, media: _Media, shape: BatchShape) -> None:
    """Overwrite ids with one run of placeholders per image or clip, an ordinary token between them."""
    needed = sum(length + 2 for length in media.runs)
    if needed > len(ids):
        what, option, size = (
            ("audio clip(s)", "--audios", "--audio-seconds")
            if shape.audios
            else ("image(s)", "--images", "--image-size")
        )
        raise JobError(
            f"{len(media.runs)} {what} take {needed} tokens, more than --seq-len {len(ids)}; "
            f"raise --seq-len, or lower {option} or {size}"
        )
    position = 1
    for length in media.runs:
        if media.start is not None:
            ids[position - 1] = media.start
        ids[position : position + length] = media.token
        position += length + 2
