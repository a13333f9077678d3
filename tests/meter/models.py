"""Any Hugging Face model from its config alone, with uninitialised or random weights."""

import atexit
import json
import shutil
import tempfile
from pathlib import Path

import checkpoint
import fakecuda
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

# What configs call the depth of a decoder or a vision tower.
DEPTH_KEYS = ("num_hidden_layers", "depth", "num_layers", "n_layers")


def load_config(source: str):
    """A config from a config.json, a folder with one, or `model_type[:key=value,...]`."""
    if Path(source).is_dir():
        source = str(Path(source) / "config.json")
    if source.endswith(".json"):
        values = _read_json(source)
        name = values.pop("model_type", None)
    else:
        name, _, settings = source.partition(":")
        values = {key: _value(text) for key, _, text in (item.partition("=") for item in settings.split(",") if item)}
    if name not in CONFIG_MAPPING:
        raise SystemExit(f"meter: {source}: transformers knows no model_type {name!r}")
    return AutoConfig.for_model(name, **values)


def _read_json(path: str) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise SystemExit(f"meter: cannot read the config {path}: {error}") from None


def _value(text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def truncate(config, layers: int | None) -> None:
    """Keep the first `layers` layers of one (text or vision) config, and of its per-layer lists."""
    key = next((k for k in DEPTH_KEYS if isinstance(getattr(config, k, None), int)), None)
    if layers is None or key is None:
        return
    depth = getattr(config, key)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth:
            setattr(config, name, value[:layers])
    for name in (
        "fullatt_block_indexes",
        "deepstack_visual_indexes",
        "mlp_only_layers",
        "no_rope_layers_indexes",
        "cross_attention_layers",
        "moe_layers",
    ):
        value = getattr(config, name, None)
        if isinstance(value, list):
            setattr(config, name, [i for i in value if i < layers])
    setattr(config, key, layers)


def text_config(config):
    """The part of the config that describes the text decoder."""
    return config.get_text_config(decoder=True)


def vision_config(config):
    """The vision tower's config, or None."""
    return getattr(config, "vision_config", None)


def audio_config(config):
    """The audio tower's config, or None."""
    return getattr(config, "audio_config", None)


def num_experts(config) -> int:
    """Routed experts per layer, 0 for a dense model."""
    text = text_config(config)
    for name in ("num_local_experts", "moe_num_experts", "num_experts", "n_routed_experts"):
        if getattr(text, name, None):
            return getattr(text, name)
    return 0


def build(config, dtype: torch.dtype, shape: bool, device_map: str = "cpu", cpu_bytes: int = 0):
    """The model in `dtype`, ready for oneshot: on the CPU, in shape mode uninitialised, or as `device_map` loads it."""
    for part in (config, text_config(config), vision_config(config), audio_config(config)):
        if part is not None:
            part.dtype = dtype
    auto = _auto_class(config)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with fakecuda.kind("model"):
            if device_map != "cpu":
                model = _loaded(auto, config, dtype, device_map, cpu_bytes)
            else:
                model = _uninitialised(auto, config) if shape else auto.from_config(config, dtype=dtype)
    finally:
        torch.set_default_dtype(before)
    model.eval()
    # oneshot reads the config back from this path to see whether the model is quantized
    folder = temporary_folder()
    config.save_pretrained(folder)
    model.config._name_or_path = model.name_or_path = folder
    return model


def temporary_folder() -> str:
    """A folder that is deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="meter_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def linearize(model) -> None:
    """Replace fused MoE experts by one Linear per expert and projection, before the job."""
    from llmcompressor.modeling.moe.linearize import linearize_moe

    with fakecuda.kind("model"), torch.no_grad():
        linearize_moe(model)


def describe(model) -> dict:
    """Class and size of a model; tied weights count once."""
    weights = {p.data_ptr(): p for p in model.parameters()}.values()
    return {
        "model_type": model.config.model_type,
        "architecture": type(model).__name__,
        "params": sum(p.numel() for p in weights),
        "bytes": sum(p.nbytes for p in weights),
    }


def _auto_class(config):
    """The auto class for this config; for one with a vision tower, the class that has it."""
    both = (AutoModelForCausalLM, AutoModelForImageTextToText)
    ordered = tuple(reversed(both)) if vision_config(config) is not None else both
    for auto in (*ordered, AutoModelForMultimodalLM):  # the last has what hears and is none of these
        if type(config) in auto._model_mapping:
            return auto
    raise SystemExit(
        f"meter: transformers has neither a causal LM nor a model for images or audio for {config.model_type!r}"
    )


def _loaded(auto, config, dtype, device_map: str, cpu_bytes: int):
    """The model by `from_pretrained`; with auto_offload, what does not fit into `cpu_bytes` stays on the disk."""
    from compressed_tensors.offload import load_offloaded_model

    with torch.device("meta"):
        empty = auto.from_config(config, dtype=dtype)
    folder, offload = temporary_folder(), temporary_folder()
    checkpoint.write(empty, folder)
    if device_map == "cuda":
        return auto.from_pretrained(folder, dtype=dtype, device_map=device_map)
    with load_offloaded_model(auto):
        model = auto.from_pretrained(
            folder, dtype=dtype, device_map=device_map, max_memory={"cpu": cpu_bytes}, offload_folder=offload
        )
    _copy_mapped(model)
    return model


def _copy_mapped(model) -> None:
    """Give what lies on the CPU memory of its own, which is counted: it is the checkpoint's, mapped into memory."""
    from compressed_tensors.offload import disable_onloading

    with disable_onloading():
        for parameter in model.parameters():
            if parameter.device.type == "cpu":
                parameter.data = torch.empty_like(parameter.data)
                fakecuda.ext.set_unknown(parameter)


def _uninitialised(auto, config):
    """Build on the meta device, then give every tensor an address but no values."""
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        model = auto.from_config(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    for tensor in (*model.parameters(), *model.buffers()):
        fakecuda.ext.set_unknown(tensor)
    return model
