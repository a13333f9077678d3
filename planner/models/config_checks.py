"""Refuses bad entries of a config.json: sizes that no model has, words unknown to transformers, left-out sizes."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from planner.errors import ModelError
from planner.models.source import DEPTH_KEYS
from planner.upstream import EXPERT_COUNT_KEYS, EXPERTS_PER_TOKEN_KEYS

# A larger value is a typing mistake or an attack. The limits bound the time and memory that planning takes.
MAX_DEPTH = 10_000
MAX_WIDTH = 2**20
MAX_EXPERTS = 2**15
MAX_EXPERTS_OF_ALL_LAYERS = 10**6
MAX_VOCABULARY = 10**8
MAX_POSITIONS = 10**8
# Some families read a zero in these entries as their default; others fail on it later, far from the cause.
_POSITIVE_OR_LEFT_OUT = ("head_dim", "num_key_value_heads")
_POSITIVE = (
    *DEPTH_KEYS,
    *("n_layer", "hidden_size", "d_model", "n_embd", "num_attention_heads", "n_head", "vocab_size"),
    *_POSITIVE_OR_LEFT_OUT,
)
_WIDTH_ENDINGS = ("_size", "_dim", "_rank", "_heads", "_embd", "_model", "_channels", "_features", "_groups")

# Sizes without which a config says nothing of its model.
_REQUIRED = ("hidden_size", "num_hidden_layers")
# Sizes that a family's models often share, and that some config.json leave out for this reason: named in a note.
_SHARED = ("intermediate_size", "num_attention_heads", "vocab_size")
_ROPE_KEYS = ("rope_scaling", "rope_parameters")


def check_sizes(config: dict[str, Any], name: str) -> None:
    """Raise ModelError for sizes that no model has, in the config and in the configs inside it.

    Some of them would not fail but run for hours: each layer is a Python object.
    """
    for prefix, part in _parts(config):
        for key, value in part.items():
            if not _is_zero_by_default(part, key, value):
                _check_size(key, value, f"{name}: {prefix}{key}")
        _check_experts(part, f"{name}: {prefix or 'config'}")


def check_dtypes(config: dict[str, Any], name: str) -> None:
    """Raise ModelError for a type of weights that PyTorch does not have; transformers reads its name from torch."""
    import torch

    for prefix, part in _parts(config):
        for key in ("dtype", "torch_dtype"):
            value = part.get(key)
            in_config = not prefix or prefix.endswith("config.")
            if value is None or not in_config or isinstance(getattr(torch, str(value), None), torch.dtype):
                continue
            raise ModelError(
                f"{name}: {prefix}{key} is {value!r:.100}, not a type of PyTorch; write bfloat16, float16 or float32, "
                "or leave it out: the job's --dtype counts"
            )


def check_parts(config: dict[str, Any], name: str) -> None:
    """Raise ModelError where the config of a part, like the text decoder's, is no JSON object."""
    from transformers import CONFIG_MAPPING

    family = CONFIG_MAPPING[config["model_type"]]
    for key in {"text_config": None, "vision_config": None, **family.sub_configs}:
        part = config.get(key)
        if part is not None and not isinstance(part, dict):
            raise ModelError(f"{name}: {key} is {part!r:.100}, not an object with the entries of that part")


def check_weights(model: Any, name: str) -> None:
    """Raise ModelError for a built model with a matrix of no rows: a size of 0 that the config's names did not show."""
    for weight, parameter in model.named_parameters():
        rows = parameter.shape[:1] if parameter.dim() == 2 else parameter.shape  # more dimensions: fused experts
        if parameter.dim() > 1 and 0 in rows:
            shape = " x ".join(map(str, parameter.shape))
            raise ModelError(f"{name}: {weight} would be {shape}; a size of config.json is 0, and must be at least 1")


def check_left_out(values: dict[str, Any], config: Any, name: str) -> None:
    """Raise ModelError where a config.json leaves the width or depth of the text decoder to transformers' default.

    The default is another model's. `config` is what transformers read from `values`. The text part of a
    composite config may leave them out, because transformers writes only values that differ from the default there
    (configuration_utils.py recursive_diff_dict), as in llava-1.5-7b. `defaults_taken` names such values.
    """
    key, text = _text_part(config)
    if key and values.get(key):
        return
    if key:  # some families read a flat config.json (qwen2_5_vl), others ignore values outside of their parts
        unread = [field for field in _REQUIRED if values.get(field) != getattr(text, field, None)]
        if unread:
            raise ModelError(
                f"{name}: {key} is missing, and {' and '.join(unread)} of the text decoder with it: transformers would "
                "take its defaults, which are another model's; add it to config.json"
            )
        return
    for field, default in _left_out(values, text, _REQUIRED):
        raise ModelError(
            f"{name}: {field} is missing; transformers would take its default, {default}, which is another model's: "
            "add it to config.json"
        )


def defaults_taken(values: dict[str, Any], config: Any) -> Iterator[str]:
    """A sentence on the sizes that a config.json leaves to its family's defaults, or to those of its text part."""
    key, text = _text_part(config)
    part: dict[str, Any] = values.get(key) or {} if key else {}
    sizes = list(_left_out(part or values, text, _SHARED))
    if part:
        sizes += _left_out(part, text, _REQUIRED)
    if sizes:
        *first, last = (f"{field} {default}" for field, default in sizes)
        shown = f"{', '.join(first)} and {last}" if first else last
        where = f"{key} of config.json" if part else "config.json"
        yield f"{where} leaves sizes to transformers' defaults: planned with {shown}."


def field_of(config: dict[str, Any], word: str) -> str | None:
    """A message on a word that transformers does not know: the entry that has it, and words that transformers knows.

    None where the word is in no entry that transformers looks up in a table.
    """
    from transformers.activations import ACT2FN
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for prefix, part in _parts(config):
        in_rope = any(rope in prefix.split(".") for rope in _ROPE_KEYS)
        for key in (key for key, value in part.items() if value == word):
            if in_rope and key in ("type", "rope_type") and word not in ROPE_INIT_FUNCTIONS:
                return _unknown(f"{prefix}{key}", word, ("default", *ROPE_INIT_FUNCTIONS))
            if ("act" in key.split("_") or "activation" in key) and word not in ACT2FN:
                return _unknown(f"{prefix}{key}", word, ACT2FN)
    return None


def _unknown(where: str, word: str, known: Iterable[str]) -> str:
    names = sorted(set(known))
    near = (difflib.get_close_matches(word, names, n=5) if len(names) > 9 else []) or names
    return f"{where} is {word!r:.100}, which transformers does not know; it knows {', '.join(near)}"


def _parts(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The config and the dictionaries inside it, each with the path that leads there and ends in a dot."""
    parts = [("", config)]
    while parts:
        prefix, part = parts.pop()
        parts += [(f"{prefix}{key}.", value) for key, value in part.items() if isinstance(value, dict)]
        yield prefix, part


def _text_part(config: Any) -> tuple[str, Any]:
    """A composite config's key for its text decoder, and that part; for any other config "" and the config itself."""
    text = config.get_text_config(decoder=True)
    key = next((key for key in config.sub_configs if getattr(config, key, None) is text), "")
    return key, text if key else config


def _left_out(values: dict[str, Any], config: Any, fields: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Those of these sizes that the file has under neither of their names and that equal the family's default, and it.

    A size that is not the default was read from an entry with an older name (n_embed of bloom) or from a list.
    """
    if type(config).has_no_defaults_at_init:
        return
    default = type(config)()
    for field in fields:
        key = config.attribute_map.get(field, field)
        size = getattr(config, key, None)
        computed = isinstance(getattr(type(config), key, None), property)  # prophetnet: from its encoder's layers
        is_present = computed or field in values or key in values
        if not is_present and isinstance(size, int) and size == getattr(default, key, None):
            yield key, size


def _is_zero_by_default(part: dict[str, Any], key: str, value: Any) -> bool:
    """Whether a zero is the family's own default: glm5_next computes its head_dim from other sizes."""
    if key not in _POSITIVE_OR_LEFT_OUT or value != 0:
        return False
    from transformers import CONFIG_MAPPING

    family = str(part.get("model_type"))
    return family in CONFIG_MAPPING and getattr(CONFIG_MAPPING[family], key, None) == 0


def _check_size(key: str, value: Any, where: str) -> None:
    limit, is_number = _limit(key), isinstance(value, int | float) and not isinstance(value, bool)
    if key in _POSITIVE and (isinstance(value, str | float | bool)):
        raise ModelError(f"{where} is {value!r:.100}, not a whole number")
    if limit is None or not is_number:
        return  # null means a default; lists (a size for each stage) are for the model's own check
    if value > limit:
        raise ModelError(f"{where} is {_number(value)}; the planner takes at most {limit}")
    if value < 1 and key in _POSITIVE:
        way_out = ", or left out for the family's default" if key in _POSITIVE_OR_LEFT_OUT else ""
        raise ModelError(f"{where} is {_number(value)}; it must be at least 1{way_out}")


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


def _check_experts(part: dict[str, Any], where: str) -> None:
    experts = max((part[key] for key in EXPERT_COUNT_KEYS if isinstance(part.get(key), int)), default=0)
    for key in EXPERTS_PER_TOKEN_KEYS:
        each = part.get(key)
        if isinstance(each, int) and 0 < experts < each:
            raise ModelError(f"{where}: {key} is {each}, and there are {experts} experts")
    depth = max((part[key] for key in DEPTH_KEYS if isinstance(part.get(key), int)), default=1)
    if experts * depth > MAX_EXPERTS_OF_ALL_LAYERS:
        raise ModelError(f"{where}: {depth} layers of {experts} experts are more than the planner takes")


def _number(value: float) -> str:
    """The number, or its order of magnitude where it would fill the screen."""
    return str(value) if abs(value) < 10**15 else f"{value:.0e}" if abs(value) < 10**300 else "beyond 10^300"
