"""What a quantization modifier's fields mean, as compressed-tensors resolves them.

Mirrors llmcompressor/modifiers/quantization/quantization/mixin.py (`resolve_quantization_config`,
`_apply_observer_overrides`) and calibration.py (`initialize_observer`). The only module of the recipe
side that imports compressed-tensors (and with it torch); it does so only inside functions.
"""

import math
import re
import sys
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from planner.errors import RecipeError, UnsupportedError
from planner.hints import did_you_mean, shorten
from planner.recipe.observers import DEFAULT, OBSERVERS, WEIGHED_STRATEGIES, observer_named
from planner.recipe.specs import QuantArgs, Scheme
from planner.recipe.validation import ModifierFields, validated

Part = Literal["weights", "input_activations", "output_activations"]

# mixin.py `_apply_observer_overrides`: part, key of the `observer` mapping.
_OBSERVED: tuple[tuple[Part, str], ...] = (
    ("weights", "weights"),
    ("input_activations", "input"),
    ("output_activations", "output"),
)
# initialize.py `initialize_qparams` raises for these on a Linear: too few dimensions are known.
_IMPOSSIBLE = {
    "weights": ("attn_head",),
    "input_activations": (),  # one of an attention's states; a Linear that gets it is refused when it is bound
    "output_activations": ("channel", "block", "attn_head"),
}
STATE_STRATEGIES = ("tensor", "attn_head")
"""Strategies of an attention's states."""
_BITS = {"float": (4, 8), "int": tuple(range(1, 33))}  # helpers.py `_calculate_range`


class QuantizationFields(ModifierFields):
    """Fields of QuantizationMixin; what is inside groups and schemes is left to compressed-tensors."""

    config_groups: dict[str, Any] | None = None
    targets: list[str] = Field(default_factory=lambda: ["Linear"])
    ignore: list[str] = Field(default_factory=list)
    scheme: Any = None
    kv_cache_scheme: Any = None
    weight_observer: str | None = None
    input_observer: str | None = None
    output_observer: str | None = None
    observer: dict[str, str] | None = None
    bypass_divisibility_checks: bool = False

    @field_validator("targets", mode="before")
    @classmethod
    def _one_target(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def has_config(self) -> bool:
        """mixin.py `has_config`: observers alone are no configuration."""
        settings = (self.config_groups, self.scheme, self.kv_cache_scheme)
        return any(value is not None for value in settings) or self.targets != ["Linear"] or self.ignore != []


def resolve_groups(fields: QuantizationFields, where: str) -> tuple[Scheme, ...]:
    """The config groups in order; without scheme and config_groups, a single one that quantizes nothing."""
    if fields.scheme is not None and fields.config_groups is not None:
        raise RecipeError("give either scheme or config_groups, not both", where)
    overrides = _overrides(fields, where)
    groups = list(_groups(fields, where))
    if not groups:
        return (Scheme(targets=tuple(fields.targets), where=where),)
    return tuple(_scheme(group, overrides, path) for path, group in groups)


def resolve_kv_cache(data: Any, where: str) -> QuantArgs | None:
    """The cache's arguments; its observers are those of attention inputs (`initialize_observer`)."""
    if data is None:
        return None
    args = _validated_args(data, where)
    _check_states(args, where)
    observer = None if args.dynamic is True else _known_observer(args.observer or DEFAULT["input"], where)
    return _record(args, observer, where)


def _check_states(args: Any, where: str) -> None:
    """Refuses what observers/helpers.py `_flatten_attention` or initialize.py `initialize_qparams` refuses."""
    if args.dynamic is not True and (strategy := _text(args.strategy)) not in STATE_STRATEGIES:
        message = f"keys and values have one scale (tensor) or one for each head (attn_head), not {strategy}"
        raise RecipeError(message, f"{where}.strategy")


def needs_data(group: Scheme) -> bool:
    """Whether some range of the group is taken from calibration data."""
    weights = group.weights
    observer = None if weights is None or weights.observer is None else OBSERVERS.get(weights.observer)
    return (observer is not None and observer.needs_data) or observes_activations(group)


def observes_activations(group: Scheme) -> bool:
    """Whether scales of its activations are taken from calibration data."""
    inputs, outputs = group.input_activations, group.output_activations
    return (inputs is not None and inputs.dynamic in (False, "local")) or (outputs is not None and not outputs.dynamic)


def _groups(fields: QuantizationFields, where: str) -> Iterator[tuple[str, Any]]:
    """Path and QuantizationScheme of each group."""
    if fields.scheme is not None:
        scheme = {fields.scheme: fields.targets} if isinstance(fields.scheme, str) else fields.scheme
        if not isinstance(scheme, dict):
            raise RecipeError("must be a preset name or a mapping of preset names to targets", f"{where}.scheme")
        for name, targets in scheme.items():
            yield f"{where}.scheme.{shorten(str(name))}", _preset(name, targets, f"{where}.scheme")
    for name, group in (fields.config_groups or {}).items():
        yield f"{where}.config_groups.{name}", _group(group, f"{where}.config_groups.{name}")


def preset_names() -> tuple[str, ...]:
    """Names of compressed-tensors' schemes, in upper case."""
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

    return tuple(PRESET_SCHEMES)


def _preset(name: Any, targets: Any, where: str) -> Any:
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES, QuantizationScheme, preset_name_to_scheme

    if not isinstance(name, str) or name.upper() not in PRESET_SCHEMES:
        hint = did_you_mean(str(name), PRESET_SCHEMES) or ";"
        raise RecipeError(f"unknown scheme {shorten(str(name))}{hint} presets: {', '.join(PRESET_SCHEMES)}", where)
    targets = [targets] if isinstance(targets, str) else targets
    checked = validated(QuantizationScheme, {"targets": targets}, f"{where}.{name}")
    return preset_name_to_scheme(name, checked.targets)


def _group(group: Any, where: str) -> Any:
    from compressed_tensors.quantization import QuantizationScheme

    if not isinstance(group, dict):
        raise RecipeError("must be a mapping with targets, weights, input_activations, output_activations", where)
    parts = {part: group[part] for part, _ in _OBSERVED if group.get(part) is not None}
    args = {part: _validated_args(data, f"{where}.{part}") for part, data in parts.items()}
    return validated(QuantizationScheme, {**group, **args}, where)


def _validated_args(data: Any, where: str) -> Any:
    from compressed_tensors.quantization import QuantizationArgs

    if isinstance(data, dict) and not isinstance(data.get("group_size", 0), int | float | None):
        raise RecipeError("must be a number, without quotes", f"{where}.group_size")
    args = validated(QuantizationArgs, data, where)
    kind = _text(args.type)
    if args.num_bits not in _BITS[kind]:
        allowed = "1 to 32" if kind == "int" else "4 or 8"
        raise RecipeError(f"{shorten(str(args.num_bits))}: type {kind} takes {allowed}", f"{where}.num_bits")
    return args


def _overrides(fields: QuantizationFields, where: str) -> dict[str, str | None]:
    """The observer that the modifier itself names for each part, by the part's key; None where it names none."""
    single = (fields.weight_observer, fields.input_observer, fields.output_observer)
    if fields.observer is None:
        return dict(zip(("weights", "input", "output"), single, strict=True))
    if any(name is not None for name in single):
        raise RecipeError("give either observer or weight_observer, input_observer, output_observer", where)
    for key in fields.observer:
        if key not in ("weights", "input", "output"):
            raise RecipeError("unknown key; it has weights, input and output", f"{where}.observer.{shorten(key)}")
    return dict(fields.observer)


def _scheme(group: Any, overrides: dict[str, str | None], where: str) -> Scheme:
    parts: dict[str, QuantArgs | None] = {}
    for part, key in _OBSERVED:
        args = getattr(group, part)
        path = f"{where}.{part}"
        if args is not None:
            _check_strategy(part, _text(args.strategy), path)
        parts[part] = args and _record(args, _observer(args, key, overrides.get(key), path), path)
    return Scheme(targets=tuple(group.targets), where=where, **parts)


def _check_strategy(part: Part, strategy: str, where: str) -> None:
    if strategy in _IMPOSSIBLE[part]:
        raise RecipeError(f"a Linear cannot have the strategy {strategy} here: LLM Compressor refuses it", where)


def _observer(args: Any, key: str, override: str | None, where: str) -> str | None:
    """Name of the observer that is attached in fact; None where scales are computed while serving."""
    if args.dynamic is True:
        return None
    named = args.observer if "observer" in args.model_fields_set else None
    chosen = override or named or DEFAULT[key]
    if key == "weights" and chosen in OBSERVERS:
        # calibration.py `initialize_observer` compares the text as written, so `MinMax` stays a running average
        chosen = OBSERVERS[chosen].on_weights or chosen
    return _known_observer(chosen, where)


def _known_observer(name: str, where: str) -> str:
    """The registered name: the registry ignores case and takes spaces and hyphens for underscores."""
    known = re.sub("[ -]", "_", name).lower()
    if ":" in known:
        raise UnsupportedError(f"{where}.observer: planner knows no observers from files ({shorten(name)})")
    if known not in OBSERVERS:
        hint = did_you_mean(known, OBSERVERS) or ";"
        raise RecipeError(f"unknown observer {shorten(name)}{hint} there are {', '.join(OBSERVERS)}", where)
    return OBSERVERS[known].alias_of or known


def _record(args: Any, observer: str | None, where: str) -> QuantArgs:
    """compressed-tensors' QuantizationArgs (enums or their text, torch dtypes) as plain values."""
    return QuantArgs(
        num_bits=args.num_bits,
        type=_text(args.type),
        symmetric=args.symmetric,
        strategy=_text(args.strategy),
        group_size=args.group_size,
        block_structure=args.block_structure and tuple(args.block_structure),
        dynamic=args.dynamic if isinstance(args.dynamic, bool) else "local",
        actorder=args.actorder and _text(args.actorder),
        observer=observer,
        observer_kwargs=_observer_kwargs(args, observer, where),
        scale_dtype=args.scale_dtype and _text(args.scale_dtype).removeprefix("torch."),
        zp_dtype=args.zp_dtype and _text(args.zp_dtype).removeprefix("torch."),
    )


# mse.py and imatrix.py `__init__`: (lowest, highest) of an option, by what the observer computes.
_RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "minmax": {},
    "mse": {"expand": (1, math.inf)},
    "imatrix": {
        "grid": (sys.float_info.min, math.inf),
        "patience": (0, math.inf),
        "maxshrink": (0, 1),
        "norm": (sys.float_info.min, sys.float_info.max),
    },
}


def _observer_kwargs(args: Any, observer: str | None, where: str) -> tuple[tuple[str, float], ...]:
    statistics = observer_named(observer).statistics
    for name, value in args.observer_kwargs.items():
        path = f"{where}.observer_kwargs.{shorten(name)}"
        if not isinstance(value, int | float):
            raise RecipeError("must be a number", path)
        low, high = _RANGES[statistics].get(name, (-math.inf, math.inf))
        if not low <= value <= high:
            raise RecipeError(f"{value} is not what {observer} takes: it must be {_between(low, high)}", path)
    kwargs, strategy = args.observer_kwargs, _text(args.strategy)
    if statistics == "imatrix" and kwargs.get("strict") and strategy not in WEIGHED_STRATEGIES:
        message = f"{observer} weighs the errors of {', '.join(WEIGHED_STRATEGIES)} alone, and fails on {strategy}"
        raise RecipeError(message, f"{where}.observer_kwargs.strict")
    return tuple((name, float(value)) for name, value in kwargs.items())


def _between(low: float, high: float) -> str:
    lowest = "more than 0" if low == sys.float_info.min else f"{low:g} or more"
    return lowest if high >= sys.float_info.max else f"from {low:g} to {high:g}"


def _text(value: Any) -> Any:
    return str(getattr(value, "value", value))
