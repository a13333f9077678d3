"""A model on the meta device, from its config: every module real, no weight allocated."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from planner.errors import ModelError
from planner.job import Job
from planner.models.source import DEPTH_KEYS, ModelSource, truncate
from planner.upstream import EXPERT_COUNT_KEYS

# Beyond these a config is a slip of the keyboard or an attack: they bound time and memory here.
MAX_DEPTH = 10_000
MAX_WIDTH = 2**20
MAX_EXPERTS = 2**15
MAX_EXPERTS_OF_ALL_LAYERS = 10**6
MAX_VOCABULARY = 10**8
MAX_POSITIONS = 10**8
_POSITIVE = (*DEPTH_KEYS, "hidden_size", "d_model", "n_embd", "num_attention_heads", "n_head", "vocab_size")
_WIDTH_ENDINGS = ("_size", "_dim", "_rank", "_heads", "_embd", "_model", "_channels", "_features", "_groups")


def build_model(source: ModelSource, job: Job) -> torch.nn.Module:
    """The model as a job finds it after loading: job.dtype, meta device, eval mode, weights tied, eager attention.

    `--layers` and `--vision-layers` are applied. Experts stay fused (see experts.py). Anything that
    keeps transformers from building the model becomes a ModelError with its reason.
    """
    with quiet():
        config = model_config(source, job)
        with _explained(source.name, "built"):
            model = _uninitialised(config, getattr(torch, job.dtype), source.name)
    # llmcompressor utils/helpers.py use_eager_attention sets this for the whole calibration; the
    # setter of transformers' PreTrainedConfig passes it on to the configs of the model's parts.
    model.config._attn_implementation = "eager"
    return cast(torch.nn.Module, model)


def build_on_cpu(source: ModelSource, job: Job) -> Any:
    """The same model in CPU memory: weights uninitialised, buffers computed, attention as transformers picks it.

    This is what `planner measure` runs; it takes as much memory as the weights when they are written to.
    """
    from transformers.initialization import no_init_weights

    with quiet():
        config = model_config(source, job)
        with _explained(source.name, "built"), _default_dtype(getattr(torch, job.dtype)), no_init_weights():
            model = _auto_class(config, source.name).from_config(config)
    model.tie_weights()
    return model.eval()


def model_config(source: ModelSource, job: Job) -> Any:
    """The transformers config that a job's model is built from: cut to its layers, in its dtype."""
    check_sizes(source.config, source.name)
    config = _config(source)
    with _explained(source.name, "built"):
        truncate(config, job.layers, job.vision_layers)
        for part in (config, text_config(config), vision_config(config)):
            if part is not None:
                part.dtype = getattr(torch, job.dtype)
    return config


def text_config(config: Any) -> Any:
    """The part of a transformers config that describes the text decoder; often the config itself."""
    return config.get_text_config(decoder=True)


def vision_config(config: Any) -> Any:
    """The vision tower's config, or None."""
    return getattr(config, "vision_config", None)


def num_experts(config: Any) -> int:
    """Routed experts per MoE layer, 0 for a dense model."""
    text = text_config(config)
    return next((int(count) for key in EXPERT_COUNT_KEYS if (count := getattr(text, key, None))), 0)


def architecture(model: torch.nn.Module) -> str:
    """The model's class name, as `architectures` in config.json spells it."""
    return type(model).__name__


def parameter_count(module: torch.nn.Module) -> int:
    """Number of weights, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameter_bytes(module: torch.nn.Module) -> int:
    """Bytes of the weights, tied ones once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def check_sizes(config: dict[str, Any], name: str) -> None:
    """Raise ModelError for sizes that no model has, in the config and in the configs inside it.

    Some of them would not fail but run for hours: each layer is a Python object.
    """
    parts = [("", config)]
    while parts:
        prefix, part = parts.pop()
        parts += [(f"{prefix}{key}.", value) for key, value in part.items() if isinstance(value, dict)]
        for key, value in part.items():
            _check_size(key, value, f"{name}: {prefix}{key}")
        _check_expert_total(part, f"{name}: {prefix or 'config'}")


def _check_size(key: str, value: Any, where: str) -> None:
    limit, is_number = _limit(key), isinstance(value, int | float) and not isinstance(value, bool)
    if key in _POSITIVE and (isinstance(value, str | float | bool)):
        raise ModelError(f"{where} is {value!r:.100}, not a whole number")
    if limit is None or not is_number:
        return  # null means a default; lists (a size for each stage) are for the model's own check
    if value > limit:
        raise ModelError(f"{where} is {_number(value)}; the planner takes at most {limit}")
    if value < 1 and key in _POSITIVE:
        raise ModelError(f"{where} is {_number(value)}; it must be at least 1")


def _limit(key: str) -> int | None:
    """The largest sensible value of a config entry; None where it is not a size."""
    if "chunk" in key:
        return None  # audio samples
    if "vocab" in key:
        return MAX_VOCABULARY
    if "position" in key:
        return MAX_POSITIONS
    if "experts" in key:
        return MAX_EXPERTS
    if key.endswith(("layers", "depth")) or key in DEPTH_KEYS or key in ("n_layer", "num_labels"):
        return MAX_DEPTH
    return MAX_WIDTH if key.startswith(("num_", "n_")) or key.endswith(_WIDTH_ENDINGS) else None


def _check_expert_total(part: dict[str, Any], where: str) -> None:
    experts = max((part[key] for key in EXPERT_COUNT_KEYS if isinstance(part.get(key), int)), default=0)
    depth = max((part[key] for key in DEPTH_KEYS if isinstance(part.get(key), int)), default=1)
    if experts * depth > MAX_EXPERTS_OF_ALL_LAYERS:
        raise ModelError(f"{where}: {depth} layers of {experts} experts are more than the planner takes")


def _number(value: float) -> str:
    """The number, or its order of magnitude where it would fill the screen."""
    return str(value) if abs(value) < 10**15 else f"{value:.0e}" if abs(value) < 10**300 else "beyond 10^300"


def _config(source: ModelSource) -> Any:
    """The transformers config of the source; LLM Compressor's input is a plain model, so not a quantized one."""
    from transformers import AutoConfig

    values = copy.deepcopy(source.config)
    values.pop("quantization_config", None)
    with _explained(source.name, "read"):
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        config._attn_implementation = None  # a config may ask for a kernel that is not installed here
    return config


def _uninitialised(config: Any, dtype: torch.dtype, name: str) -> Any:
    """The module tree on the meta device, without the initialisation that would follow.

    include_buffers makes accelerate use torch's meta device context. Without it each parameter is
    allocated for real first: 30 GB for one fused experts tensor of DeepSeek-V3.
    """
    from accelerate import init_empty_weights  # type: ignore[import-untyped]  # no stubs
    from transformers.initialization import no_init_weights

    auto = _auto_class(config, name)
    with _default_dtype(dtype), init_empty_weights(include_buffers=True), no_init_weights():
        model = auto.from_config(config)
    model.tie_weights()
    return model.eval()


def _auto_class(config: Any, name: str) -> Any:
    """transformers' auto class for this config; where there is a vision tower, the class that has it."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    classes: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForImageTextToText)
    for auto in reversed(classes) if vision_config(config) is not None else classes:
        if type(config) in auto._model_mapping:
            return auto
    raise ModelError(
        f"{name}: transformers has neither a causal language model nor an image-text-to-text model "
        f"of model_type {config.model_type!r}"
    )


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors made inside have this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _explained(name: str, done: str) -> Iterator[None]:
    """Turn whatever a config or model class raises into a ModelError that keeps its reason."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # hundreds of classes check their configs, or do not, each in its own way
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines)[:300] or "no reason given"
        message = f"{name}: the config cannot be {done} by transformers: {type(error).__name__}: {reason}"
        raise ModelError(message) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Python warnings and transformers' log to themselves, and the Hub out of it.

    Some configs (timm backbones) look their own up on the Hub when they are made.
    """
    from huggingface_hub import constants
    from transformers.utils import logging as transformers_logging

    before, offline = transformers_logging.get_verbosity(), constants.HF_HUB_OFFLINE
    transformers_logging.set_verbosity(logging.CRITICAL + 1)
    constants.HF_HUB_OFFLINE = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        transformers_logging.set_verbosity(before)
