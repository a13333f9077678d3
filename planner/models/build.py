"""A model on the meta device, from its config: every module real, no weight allocated."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch

from planner.errors import ModelError
from planner.job import Build
from planner.models.architectures import auto_class, class_notes
from planner.models.config_checks import (
    check_dtypes,
    check_left_out,
    check_parts,
    check_sizes,
    check_weights,
    defaults_taken,
    field_of,
)
from planner.models.failures import is_models_own
from planner.models.kinds import TOWERS, UnitKind
from planner.models.source import ModelSource, truncate
from planner.upstream import EXPERT_COUNT_KEYS


def build_model(source: ModelSource, build: Build) -> torch.nn.Module:
    """The model as a job finds it after loading: build.dtype, meta device, eval mode, weights tied, eager attention.

    `--layers` and `--vision-layers` are applied. Experts stay fused (see experts.py). Anything that
    keeps transformers from building the model becomes a ModelError with its reason.
    """
    with quiet():
        config = model_config(source, build)
        with _explained(source, "built"):
            model = _uninitialised(config, getattr(torch, build.dtype), source.name)
            check_weights(model, source.name)
    # llmcompressor utils/helpers.py use_eager_attention sets this for the whole calibration; the
    # setter of transformers' PreTrainedConfig passes it on to the configs of the model's parts.
    model.config._attn_implementation = "eager"
    return cast(torch.nn.Module, model)


def build_on_cpu(source: ModelSource, build: Build) -> Any:
    """The same model in CPU memory: weights uninitialised, buffers computed, attention as transformers picks it.

    This is what `planner measure` runs; it takes as much memory as the weights when they are written to.
    """
    from transformers.initialization import no_init_weights

    with quiet():
        config = model_config(source, build)
        with _explained(source, "built"), _default_dtype(getattr(torch, build.dtype)), no_init_weights():
            model = auto_class(config, source.name).from_config(config)
    model.tie_weights()
    return model.eval()


def model_config(source: ModelSource, build: Build) -> Any:
    """The transformers config that a model is built from: cut to `build`'s layers, in its dtype."""
    check_sizes(source.config, source.name)
    check_dtypes(source.config, source.name)
    check_parts(source.config, source.name)
    with quiet(), _explained(source, "built"):
        config = _config(source)
        truncate(config, build.layers, build.vision_layers)
        for part in (config, text_config(config), *tower_configs(config).values()):
            part.dtype = getattr(torch, build.dtype)
    return config


def reading_notes(source: ModelSource, model: Any) -> tuple[str, ...]:
    """Notes on how the config was read: which class was taken, and which values were missing."""
    config, values = model.config, source.config
    notes = [*class_notes(values.get("architectures") or (), config, architecture(model))]
    notes += defaults_taken(values, config)
    default = getattr(type(config), "tie_word_embeddings", False)
    if default and not config.tie_word_embeddings and "tie_word_embeddings" not in values:
        notes.append(
            "config.json leaves tie_word_embeddings to transformers' default, true, its text part says false: planned "
            "with a head of its own, which transformers keeps where the checkpoint has one."
        )
    return tuple(notes)


def text_config(config: Any) -> Any:
    """The part of a transformers config that describes the text decoder; often the config itself."""
    return config.get_text_config(decoder=True)


_POSITION_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "n_ctx",
)


def max_positions(config: Any) -> int | None:
    """Tokens that the text decoder takes at most; None where its config does not say it."""
    text = text_config(config)
    return next((int(value) for key in _POSITION_KEYS if isinstance(value := getattr(text, key, None), int)), None)


def tower_configs(config: Any) -> dict[UnitKind, Any]:
    """The configs of the towers that the model has, by what they are."""
    parts = {kind: getattr(config, f"{kind}_config", None) for kind in TOWERS}
    return {kind: part for kind, part in parts.items() if part is not None}


def config_entry(config: Any, key: str) -> Any:
    """An entry of a transformers config; None where it has none, or another one for each layer (gemma4)."""
    from transformers.integrations.heterogeneity import AmbiguousGlobalPerLayerAttributeError

    try:
        return getattr(config, key, None)
    except AmbiguousGlobalPerLayerAttributeError:
        return None


def differs_by_layer(config: Any, key: str) -> bool:
    """Whether each layer has an entry of its own, so that to ask for one is an error (gemma4's head_dim)."""
    from transformers.integrations.heterogeneity import AmbiguousGlobalPerLayerAttributeError

    try:
        getattr(config, key, None)
    except AmbiguousGlobalPerLayerAttributeError:
        return True
    return False


def num_experts(config: Any) -> int:
    """Routed experts per MoE layer, 0 for a dense model."""
    text = text_config(config)
    parts = (text, getattr(text, "ffn_config", None))  # dbrx keeps its experts in a part of its own
    counts = (getattr(part, key, None) for part in parts for key in EXPERT_COUNT_KEYS)
    return next((count for count in counts if isinstance(count, int) and count), 0)  # a config may hold anything


def names_experts(config: Any) -> bool:
    """Some field of the config is named for experts: llmcompressor modifiers/utils/pytorch_helpers.py is_moe_model."""
    fields = (field.lower() for field in dir(config) if not field.startswith("_"))
    return any("moe" in field or "expert" in field for field in fields)


def architecture(model: torch.nn.Module) -> str:
    """The model's class name, as `architectures` in config.json spells it."""
    return type(model).__name__


def parameter_count(module: torch.nn.Module) -> int:
    """Number of weights, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameter_bytes(module: torch.nn.Module) -> int:
    """Bytes of the weights, tied ones once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _config(source: ModelSource) -> Any:
    """The transformers config of the source, without its quantization: LLM Compressor's input is a plain model."""
    from transformers import AutoConfig

    values = copy.deepcopy(source.config)
    values.pop("quantization_config", None)
    model_type = values.pop("model_type")
    with _explained(source, "read"):
        try:
            config = AutoConfig.for_model(model_type, **values)
        except Exception:  # whatever it is, a left-out size may be behind it: say so first
            if source.from_user:
                _check_left_out_without_lists(model_type, values, source.name)
            raise
        config._attn_implementation = None  # a config may ask for a kernel that is not installed here
        if _holds_its_head(source.config, config):
            config.tie_word_embeddings = False
    if source.from_user:
        check_left_out(source.config, config, source.name)
    return config


def _check_left_out_without_lists(model_type: str, values: dict[str, Any], name: str) -> None:
    """Raise ModelError where a size is left out of values that transformers cannot read.

    Their lists may be what it cannot read: `layer_types` does not fit another model's depth.
    """
    from transformers import AutoConfig

    config = None
    with suppress(Exception):  # then the first error is what there is to say
        config = AutoConfig.for_model(model_type, **{k: v for k, v in values.items() if not isinstance(v, list)})
    if config is not None:
        check_left_out(values, config, name)


def _holds_its_head(values: dict[str, Any], config: Any) -> bool:
    """Whether a composite's checkpoint has a head beside the embedding, although transformers' default ties the two.

    from_pretrained does not tie a head that differs from the embedding (modeling_utils.py tie_weights). A config.json
    without `tie_word_embeddings` at its top was written by transformers 4, which went by the text part (version 5
    always writes it). Where the text part says false, the checkpoint has a head of its own.
    """
    text = text_config(config)
    ties = getattr(config, "tie_word_embeddings", False)
    return "tie_word_embeddings" not in values and ties and getattr(text, "tie_word_embeddings", ties) is False


def _uninitialised(config: Any, dtype: torch.dtype, name: str) -> Any:
    """The module tree on the meta device; its weights are not initialised.

    include_buffers makes accelerate use torch's meta device context. Without it each parameter is
    allocated for real first: 30 GB for one fused experts tensor of DeepSeek-V3.
    """
    from accelerate import init_empty_weights  # type: ignore[import-untyped]  # no stubs
    from transformers.initialization import no_init_weights

    auto = auto_class(config, name)
    with _default_dtype(dtype), init_empty_weights(include_buffers=True), no_init_weights():
        model = auto.from_config(config)
    model.tie_weights()
    return model.eval()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that are created inside have this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _explained(source: ModelSource, done: str) -> Iterator[None]:
    """Turn whatever a config or model class raises into a ModelError that keeps its reason; our own faults surface."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # hundreds of classes check their configs, or do not, each in its own way
        if not is_models_own(error):
            raise
        word = error.args[0] if isinstance(error, KeyError) and error.args else None
        if isinstance(word, str) and (unknown := field_of(source.config, word)):
            raise ModelError(f"{source.name}: {unknown}") from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines)[:300].rstrip() or "no reason given"
        message = f"{source.name}: the config cannot be {done} by transformers: {type(error).__name__}: {reason}"
        raise ModelError(message) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Python warnings and transformers' log, and keep transformers off the Hub.

    Some configs (timm backbones) look up their own config on the Hub when they are created.
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
