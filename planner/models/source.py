"""A model's config, from a preset, a file, a folder or the Hub. Nothing here imports torch by itself."""

import copy
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from planner.errors import ModelError
from planner.hints import closest
from planner.models.architectures import OF_REPOSITORY
from planner.models.hub import hub_config

PRESETS = Path(__file__).parent / "presets"
# A config.json takes a few KB; a file beyond this is weights or a tokenizer.
MAX_CONFIG_BYTES = 4 * 2**20
# What configs call the depth of a decoder or a vision tower, in the order in which the meter looks.
DEPTH_KEYS = ("num_hidden_layers", "depth", "num_layers", "n_layers")
# Lists of layer numbers, whatever their length.
LAYER_NUMBER_KEYS = (
    "fullatt_block_indexes",
    "deepstack_visual_indexes",
    "mlp_only_layers",
    "no_rope_layers_indexes",
    "cross_attention_layers",
    "moe_layers",
)
# What configs call the number of their multi-token-prediction layers: DeepSeek and GLM, Qwen3.5, MiniMax, transformers.
MTP_KEYS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers")
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_ODD_HUB_ID = re.compile(r"(^|/)[.-]|[.-](/|$)|\.\.|--")
"""What huggingface_hub refuses in one (utils/_validators.py validate_repo_id); some of it would be a path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A well-known model, as shipped in `presets/`."""

    name: str
    title: str
    hub_id: str
    aliases: tuple[str, ...]
    """More names and Hub ids of models with the same config."""
    parameters: int
    """What transformers loads, tied weights once."""
    checkpoint_parameters: int | None
    """What the checkpoint holds; None where nobody published a number."""
    not_loaded_parameters: int
    not_loaded: str | None
    """These parameters in words."""
    source: str
    """Where the facts come from, and why a published total differs."""
    config: dict[str, Any] = field(repr=False)

    def answers_to(self) -> tuple[str, ...]:
        """Every spelling that means this preset, in lower case: names, Hub ids, their last parts."""
        names = (self.name, self.hub_id, *self.aliases)
        return tuple(dict.fromkeys(text.lower() for name in names for text in (name, name.rpartition("/")[2])))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What is known of a model before it is built."""

    name: str
    config: dict[str, Any]
    """config.json as it is, `architectures` and `model_type` included."""
    hub_id: str | None = None
    checkpoint_parameters: int | None = None
    not_loaded_parameters: int = 0
    """Parameters that the checkpoint holds and transformers does not load, as far as known."""
    not_loaded: tuple[str, ...] = ()
    """These parameters in words; given also where only their existence is known."""
    notes: tuple[str, ...] = ()
    """What the reader of a plan should know about this config."""
    from_user: bool = False
    """The config is a user's file: a size that it leaves out is an error, not the default of its family."""


@cache
def list_presets() -> tuple[Preset, ...]:
    """All presets, by name."""
    records = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(PRESETS.glob("*.json")))
    return tuple(Preset(**{**record, "aliases": tuple(record["aliases"])}) for record in records)


Named = str | Path | Mapping[str, Any] | ModelSource
"""A model by its name or path, by the content of its config.json, or as a source found earlier."""


def load_source(model: Named) -> ModelSource:
    """Find the model that is named: a preset, a config.json, a folder with one, or a Hub id.

    An existing path wins over a Hub id of the same spelling, a preset over everything that is not
    written as a path. Only config.json is ever read or downloaded, and no remote code is run. A mapping is
    the content of a config.json; a source that was found before comes back as it is.
    """
    if isinstance(model, ModelSource):
        return model
    if isinstance(model, Mapping):
        return source_of(model, str(model.get("model_type", "config")))
    text = str(model).strip()
    if not text:
        raise ModelError("no model given; name a preset, a config.json, a folder with one, or a Hub id")
    path = _expanded(text)
    if _is_path(text, path):
        return _from_path(text, path)
    if preset := _preset(text):
        return _from_preset(preset, text)
    if _exists(path):
        return _from_path(text, path)
    if _HUB_ID.fullmatch(text):
        return _from_hub(text)
    raise ModelError(f"{_short(text)!r} is not a preset, a path or a Hub id (org/name); {presets_like(text)}")


def listed_source(name: str) -> ModelSource:
    """The preset of exactly this name, or the model of this Hub id: never a path, whatever lies there.

    Raises ModelError for every other text.
    """
    preset = next((preset for preset in list_presets() if preset.name == name), None) or _preset(name)
    if preset is not None:
        return _from_preset(preset, name)
    if not _HUB_ID.fullmatch(name) or _ODD_HUB_ID.search(name):
        raise ModelError(f"{_short(name)!r} is not a preset, and not a Hub id (org/name); {presets_like(name)}")
    return _from_hub(name)


def pasted_source(text: str) -> ModelSource:
    """The model whose config.json has this text. Raises ModelError where no config.json could have it."""
    name = "config.json"
    return _checked(ModelSource(name=name, config=_parse(text.encode(errors="replace"), name)), name)


def source_of(config: Mapping[str, Any], name: str) -> ModelSource:
    """A model from the content of a config.json, or from what a transformers config's `to_dict` gives.

    Raises ModelError where transformers has no code for it, and for what no config.json could hold.
    """
    try:
        content = json.loads(json.dumps(dict(config)))  # a copy; `to_dict` has numbers as keys of id2label
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name}: not the content of a config.json: {error}") from error
    return _checked(ModelSource(name=name, config=content), name)


def presets_like(text: str) -> str:
    """`presets like it: a, b`, or all presets where none is."""
    names = {spelling: preset.name for preset in list_presets() for spelling in preset.answers_to()}
    tail = text[-200:].rstrip("/").rpartition("/")[2].lower()
    close = closest(tail, names, shown=9, cutoff=0.5)
    similar = list(dict.fromkeys(names[spelling] for spelling in close))[:3]
    if similar:
        return f"presets like it: {', '.join(similar)} (`planner models` lists all)"
    return f"the presets are {', '.join(preset.name for preset in list_presets())}"


def truncate(config: Any, layers: int | None, vision_layers: int | None) -> None:
    """Keep the first layers of the text decoder and of the vision tower, in a transformers config.

    The same cut as tests/meter's `--layers` and `--vision-layers`, so that a plan and a short run of
    the real library mean the same model.
    """
    if layers is not None:
        _truncate_part(config.get_text_config(decoder=True), layers, "--layers", "text decoder")
    if vision_layers is not None:
        vision = getattr(config, "vision_config", None)
        if vision is None:
            raise ModelError("--vision-layers: the model has no vision tower")
        _truncate_part(vision, vision_layers, "--vision-layers", "vision tower")


def _truncate_part(config: Any, layers: int, option: str, part: str) -> None:
    key = next((key for key in DEPTH_KEYS if isinstance(getattr(config, key, None), int)), None)
    if key is None:
        raise ModelError(f"{option}: the config of the {part} does not say how many layers it has")
    depth = getattr(config, key)
    if layers > depth:
        raise ModelError(f"{option} {layers}: the {part} has only {depth} layers")
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth:
            setattr(config, name, value[:layers])
    for name in LAYER_NUMBER_KEYS:
        if isinstance(numbers := getattr(config, name, None), list):
            setattr(config, name, [number for number in numbers if number < layers])
    setattr(config, key, layers)


def _is_path(text: str, path: Path) -> bool:
    """Whether the text can only be a path, or is a path that exists."""
    looks_like_a_path = text.endswith(".json") or text.startswith(("./", "../", "~", os.sep)) or text in (".", "..")
    return looks_like_a_path or (os.sep in text and _exists(path))


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise ModelError(f"{_short(text)}: no such file or folder: {error}") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, no permission on the way, a null byte
        return False


def _preset(text: str) -> Preset | None:
    return next((preset for preset in list_presets() if text.lower() in preset.answers_to()), None)


def _from_preset(preset: Preset, text: str) -> ModelSource:
    hub_ids = [name for name in (preset.hub_id, *preset.aliases) if "/" in name]
    hub_id = next((name for name in hub_ids if name.lower() == text.lower()), preset.hub_id)
    return ModelSource(
        name=preset.name,
        config=copy.deepcopy(preset.config),
        hub_id=hub_id,
        checkpoint_parameters=preset.checkpoint_parameters,
        not_loaded_parameters=preset.not_loaded_parameters,
        not_loaded=(preset.not_loaded,) if preset.not_loaded else (),
    )


def _from_path(text: str, path: Path) -> ModelSource:
    """The config at this path. The model is named after its folder, or after an unusually named file."""
    shown = _short(text)
    try:
        if path.is_dir():
            path = path / "config.json"
            if not path.exists():
                raise ModelError(f"{shown}: the folder holds no config.json; give the folder of a Hugging Face model")
        if not path.exists():
            raise ModelError(f"{shown}: no such file or folder")
        if not path.is_file():
            raise ModelError(f"{shown}: not a regular file")
        config = _parse(_read(path), shown)
        name = path.resolve().parent.name if path.name == "config.json" else path.stem
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"{shown}: cannot be read: {reason}") from error
    return _checked(ModelSource(name=name or shown, config=config), shown)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_CONFIG_BYTES + 1)


def _parse(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in these bytes."""
    if len(data) > MAX_CONFIG_BYTES:
        raise ModelError(f"{where}: larger than {MAX_CONFIG_BYTES} bytes, so not a model's config.json")
    try:
        config = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ModelError(f"{where}: not a text file; a model's config.json is needed") from error
    except json.JSONDecodeError as error:
        raise ModelError(f"{where}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise ModelError(f"{where}: not a sensible JSON file: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{where}: holds a JSON {type(config).__name__}, not an object like a model's config.json")
    return config


def _from_hub(hub_id: str) -> ModelSource:
    source = ModelSource(
        name=hub_id.rpartition("/")[2], config=_parse(_read(hub_config(hub_id, presets_like)), hub_id), hub_id=hub_id
    )
    return _checked(source, hub_id)


def _checked(source: ModelSource, where: str) -> ModelSource:
    """The source with its notes, or ModelError where transformers has no code for the model."""
    model_type = source.config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(f"{where}: has no model_type, so it is not the config.json of a transformers model")
    types = _model_types()
    if model_type not in types:
        shown = _short(model_type)
        if "auto_map" in source.config:
            raise ModelError(f"{where}: transformers knows no model_type {shown!r}; its class is {OF_REPOSITORY}")
        close = ", ".join(closest(shown, types, shown=3)) or "none like it"
        raise ModelError(f"{where}: transformers knows no model_type {shown!r} (it knows {close})")
    return replace(source, not_loaded=_not_loaded(source.config), notes=_notes(source.config), from_user=True)


def _model_types() -> list[str]:
    from transformers import CONFIG_MAPPING

    return list(CONFIG_MAPPING.keys())


def _not_loaded(config: dict[str, Any]) -> tuple[str, ...]:
    """Multi-token-prediction layers: checkpoints hold them, transformers' classes do not."""
    parts = [("", config), *((f"{key}.", value) for key, value in config.items() if isinstance(value, dict))]
    declared = [(f"{prefix}{key}", part.get(key)) for prefix, part in parts for key in MTP_KEYS]
    for where, extra in declared:
        if isinstance(extra, int) and extra >= 1:  # families that declare them under two keys mean the same layers
            return (f"{extra} multi-token-prediction layer(s) of the checkpoint ({where}), size unknown",)
    return ()


def _notes(config: dict[str, Any]) -> tuple[str, ...]:
    quantization = config.get("quantization_config")
    if quantization is None:
        return ()
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    return (
        f"the checkpoint is already quantized ({_short(str(method or 'unknown method'))}): "
        "the plan is for the same model converted back to plain weights",
    )


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."
