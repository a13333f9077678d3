"""Made-up tokenizers, processors and samples, for what is not on this machine."""

import json
from pathlib import Path
from typing import Any

WORDS = 1_000
"""Size of the made-up vocabulary. Ids begin behind those that tokenizers use for themselves."""
FIRST_ID = 10

CHAT = (
    "{% for m in messages %}{{ '<|turn|> ' }}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] in ('image', 'image_url') %}{{ image }}"
    "{% elif part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}{% endif %}{{ ' ' }}{% endfor %}"
)
SPECIAL = ("pad", "unk", "bos", "eos")

# Which columns the data sets of LLM Compressor's examples have.
COLUMNS = {
    "ultrachat": ("prompt", "messages"),
    "platypus": ("instruction", "output", "input"),
    "pile": ("text",),
    "c4": ("text",),
    "wikitext": ("text",),
    "gsm8k": ("question", "answer"),
    "cnn_dailymail": ("article", "highlights"),
    "flickr30k": ("image", "caption"),
    "calibration": ("text", "messages"),
}
ANY = ("text", "messages", "prompt", "instruction", "input", "output", "question", "answer")


def write_tokenizer(folder: Path, config: dict[str, Any]) -> None:
    """tokenizer.json and its config: one word is one token, special ids are the model's."""
    taken = set(_image_ids(config).values())
    vocabulary = {f"w{number}": FIRST_ID + number for number in range(WORDS) if FIRST_ID + number not in taken}
    tokens = {name: f"<{name}>" for name in SPECIAL}
    size = _size(config)
    vocabulary.update({text: number for number, text in enumerate(tokens.values())})
    vocabulary["<|turn|>"] = len(SPECIAL)
    images = {name: value for name, value in _image_ids(config).items() if value < size}
    vocabulary.update(images)
    added = [_added(text, vocabulary[text]) for text in (*tokens.values(), "<|turn|>", *images)]
    _write(folder / "tokenizer.json", json.dumps(_tokenizer(vocabulary, added)))
    settings = {f"{name}_token": text for name, text in tokens.items()}
    image = "<start_of_image>" if "<start_of_image>" in images else next(iter(images), "")
    image = "<|vision_start|><|image_pad|><|vision_end|>" if "<|vision_start|>" in images else image
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 10**9,
        "chat_template": CHAT.replace("{{ image }}", image),
        **settings,
        **_extra(images),
    }
    _write(folder / "tokenizer_config.json", json.dumps(about))
    _write(folder / "chat_template.jinja", str(about["chat_template"]))  # where processors look


def _write(path: Path, text: str) -> None:
    """The file anew: what is there may be a link to the user's own."""
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")


def _size(config: dict[str, Any]) -> int:
    return int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 32_000)


def _image_ids(config: dict[str, Any]) -> dict[str, int]:
    """The model's tokens for images, by the spelling that its processor looks for."""
    kind = config.get("model_type", "")
    image = "<|image_pad|>" if "qwen" in kind else "[IMG]" if kind in ("mistral3", "pixtral") else "<image>"
    spelling = {
        "image_token_id": image,
        "image_token_index": image,
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
    }
    if kind.startswith("gemma3"):
        spelling |= dict.fromkeys(("image_token_id", "image_token_index"), "<image_soft_token>")
    return {text: config[key] for key, text in spelling.items() if isinstance(config.get(key), int)}


def _extra(images: dict[str, int]) -> dict[str, Any]:
    """What processors read off the tokenizer by name."""
    if "<image_soft_token>" not in images:
        return {}
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    return {"extra_special_tokens": names, **names}


def _added(text: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, "special": True, **flags}


def _tokenizer(vocabulary: dict[str, int], added: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda each: each["id"]),
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }


def write_processor(folder: Path, config: dict[str, Any]) -> None:
    """preprocessor_config.json with the image processor's own defaults and the sizes of the config."""
    vision = config["vision_config"]
    kind = config.get("model_type", "")
    about: dict[str, Any] = {}
    if "qwen2" in kind or "qwen3" in kind:
        fields = ("patch_size", "temporal_patch_size")
        about = {name: vision[name] for name in fields if name in vision}
        about["merge_size"] = vision.get("spatial_merge_size", 2)
    elif isinstance(side := vision.get("image_size"), int):
        square = {"height": side, "width": side}
        crops = vision.get("model_type") == "clip_vision_model"  # CLIP's processor cuts a square out
        about = {"size": {"shortest_edge": side}, "crop_size": square} if crops else {"size": square}
    _write(folder / "preprocessor_config.json", json.dumps(about))
    processor: dict[str, Any] = {}
    if kind in ("llava", "mistral3", "llava_next"):
        processor["patch_size"] = vision.get("patch_size")
    if kind.startswith("llava"):
        processor["num_additional_image_tokens"] = 1  # the class token of CLIP
        processor["vision_feature_select_strategy"] = config.get("vision_feature_select_strategy", "default")
    if kind == "mistral3":
        processor["spatial_merge_size"] = config.get("spatial_merge_size", 2)
    if kind.startswith("gemma3"):
        processor["image_seq_length"] = config.get("mm_tokens_per_image", 256)
    _write(folder / "processor_config.json", json.dumps(processor))


def rows(name: str, count: int, words: int) -> dict[str, list[Any]]:
    """Columns of a made-up data set: `count` samples of `words` words each.

    They differ in their last words, which scripts cut off: what is left is equal, token by token.
    """
    known = next((columns for part, columns in COLUMNS.items() if part in name.lower()), ANY)
    text = " ".join(f"w{place % WORDS}" for place in range(words - 1))
    texts = [f"{text} w{row % WORDS}".strip() for row in range(count)]
    return {column: _column(column, texts) for column in known}


def _column(column: str, texts: list[str]) -> list[Any]:
    if column == "messages":
        return [[{"role": "user", "content": text}, {"role": "assistant", "content": "w1"}] for text in texts]
    if column == "caption":
        return [[text] for text in texts]
    if column == "image":
        from PIL import Image  # type: ignore[import-not-found,unused-ignore]  # the script's environment has it

        return [Image.new("RGB", (500, 375)) for _ in texts]
    return texts
