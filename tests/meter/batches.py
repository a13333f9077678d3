"""Calibration batches of exact sizes: random tokens, and images and audio for the families known here."""

import math
from dataclasses import dataclass

import fakecuda
import models
import torch

# Fields that a batch concatenates instead of stacking: their first dimension is not the batch.
CONCATENATED = ("pixel_values", "image_grid_thw", "image_sizes", "input_features", "feature_attention_mask")
FRAMES_PER_SECOND = 100
"""Of a mel spectrogram: 16,000 samples a second, one frame every 160."""
FIXED_SIZE = ("llava", "gemma3", "paligemma", "internvl")
PIXTRAL = ("mistral3",)
QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")


class UnsupportedInputs(SystemExit):
    """Images or audio were asked for a family whose inputs this file cannot build."""


@dataclass(frozen=True)
class Data:
    """`samples` samples of `seq_len` tokens, with `images` images and `audios` clips each; a loss mask if asked for."""

    samples: int
    seq_len: int
    batch_size: int
    images: int = 0
    image_size: tuple[int, int] = (448, 448)
    loss_mask: bool = False
    audios: int = 0
    audio_seconds: int = 30


def loader(config, dtype, data):
    """A DataLoader of these samples.

    Image placeholder tokens are part of the `seq_len` tokens. Raises UnsupportedInputs for a
    family whose image or audio inputs are not known here.
    """
    with fakecuda.kind("calibration_data"):
        rows = [_sample(config, dtype, data) for _ in range(data.samples)]
        for row in rows if data.loss_mask else ():
            row["loss_mask"] = torch.ones(data.seq_len, dtype=torch.long)
        return torch.utils.data.DataLoader(rows, batch_size=data.batch_size, collate_fn=_collate)


def _sample(config, dtype, data):
    seq_len = data.seq_len
    ids = torch.randint(10, models.text_config(config).vocab_size - 10, (seq_len,))
    special = _special_tokens(config)
    ids[torch.isin(ids, torch.tensor(special))] = 9
    sample = {"input_ids": ids, "attention_mask": torch.ones(seq_len, dtype=torch.long)}
    if data.images:
        sample.update(_image_fields(config, dtype, ids, data.images, data.image_size))
        if config.model_type in ("gemma3", *QWEN_VL):
            # the processors of these families add it, with 1 for image tokens
            name = "token_type_ids" if config.model_type == "gemma3" else "mm_token_type_ids"
            sample[name] = (ids == _image_token(config)).to(torch.int64)
    if data.audios:
        sample.update(_audio_fields(config, ids, data.audios, data.audio_seconds))
    return sample


def _special_tokens(config) -> list[int]:
    names = (
        "image_token_id",
        "image_token_index",
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
        "boi_token_index",
        "eoi_token_index",
        "audio_token_index",
    )
    return [getattr(config, n) for n in names if isinstance(getattr(config, n, None), int)] or [-1]


def _image_token(config) -> int:
    token = getattr(config, "image_token_id", None)
    return getattr(config, "image_token_index", -1) if token is None else token


def _place(ids, runs, token, start_token=None):
    """Overwrite ids with one run of `token` per image or clip, one ordinary token before each."""
    position = 1
    for length in runs:
        if position + length + 1 > len(ids):
            raise SystemExit(f"meter: {sum(runs)} image or audio tokens do not fit into --seq-len {len(ids)}")
        if start_token is not None:
            ids[position - 1] = start_token
        ids[position : position + length] = token
        position += length + 2


def _image_fields(config, dtype, ids, images, size):
    if config.model_type in QWEN_VL:
        return _qwen_vl(config, ids, images, size)
    if config.model_type in FIXED_SIZE + PIXTRAL:
        keeps_size = models.vision_config(config).model_type == "pixtral"
        return _pixtral(config, dtype, ids, images, size) if keeps_size else _fixed_size(config, dtype, ids, images)
    raise UnsupportedInputs(
        f"meter: image inputs are not known for model_type {config.model_type!r}; run it with --images 0"
    )


def _qwen_vl(config, ids, images, size):
    """Flattened patches and their grid; one token per spatial_merge_size squared patches."""
    vision = models.vision_config(config)
    unit = vision.patch_size * vision.spatial_merge_size
    rows, columns = (max(1, round(side / unit)) * vision.spatial_merge_size for side in size)
    tokens = rows * columns // vision.spatial_merge_size**2
    _place(ids, [tokens] * images, config.image_token_id, config.vision_start_token_id)
    width = getattr(vision, "in_channels", 3) * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": torch.randn(images * rows * columns, width),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * images),
    }


def _fixed_size(config, dtype, ids, images):
    """Towers that resize every image to vision_config.image_size."""
    vision = models.vision_config(config)
    side = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    tokens = (
        getattr(config, "mm_tokens_per_image", None)
        or getattr(config, "image_seq_length", None)
        or (side // patch) ** 2
    )
    if config.model_type == "llava":
        tokens = (side // patch) ** 2 + (getattr(config, "vision_feature_select_strategy", "default") == "full")
    _place(ids, [tokens] * images, _image_token(config))
    return {"pixel_values": torch.randn(images, 3, side, side, dtype=dtype)}


def _pixtral(config, dtype, ids, images, size):
    """Pixtral towers keep the aspect ratio; a row break or end token follows each row."""
    vision = models.vision_config(config)
    merge = getattr(config, "spatial_merge_size", 1)
    unit = vision.patch_size * merge
    rows, columns = (math.ceil(side / unit) for side in size)
    _place(ids, [rows * columns] * images, _image_token(config))
    shape = (rows * unit, columns * unit)
    return {"pixel_values": torch.randn(images, 3, *shape, dtype=dtype), "image_sizes": torch.tensor([shape] * images)}


def _audio_fields(config, ids, audios, seconds):
    """Mel spectrograms, padded to the length that the tower takes, and masks of the frames that were heard."""
    if config.model_type != "qwen2_audio":
        raise UnsupportedInputs(
            f"meter: audio inputs are not known for model_type {config.model_type!r}; run it with --audios 0"
        )
    audio = models.audio_config(config)
    frames, heard = 2 * audio.max_source_positions, FRAMES_PER_SECOND * seconds
    if not 0 < heard <= frames:
        raise SystemExit(f"meter: the tower hears up to {frames // FRAMES_PER_SECOND} seconds, not {seconds}")
    # transformers Qwen2AudioProcessor._process_audio, num_audio_tokens
    _place(ids, [((heard - 1) // 2 + 1 - 2) // 2 + 1] * audios, config.audio_token_index)
    mask = torch.zeros(audios, frames, dtype=torch.long)
    mask[:, :heard] = 1
    return {"input_features": torch.randn(audios, audio.num_mel_bins, frames), "feature_attention_mask": mask}


def _collate(rows):
    with fakecuda.kind("calibration_data"):
        return {
            name: (torch.cat if name in CONCATENATED else torch.stack)([row[name] for row in rows]) for name in rows[0]
        }
