"""What a quantization modifier's fields mean, as compressed-tensors resolves them.

Mirrors llmcompressor/modifiers/quantization/quantization/mixin.py (`resolve_quantization_config`,
`_apply_observer_overrides`) and calibration.py (`initialize_observer`). The only room of the recipe
side that imports compressed-tensors (and with it torch), and only inside functions.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from planner.errors import RecipeError, UnsupportedError
from planner.hints import did_you_mean, shorten
from planner.recipe.specs import QuantArgs, Scheme

M = TypeVar("M", bound=BaseModel)
Part = Literal["weights", "input_activations", "output_activations"]

# Names registered in llmcompressor/observers (min_max.py, mse.py, imatrix.py).
OBSERVERS = (
    "minmax",
    "static_minmax",
    "memoryless_minmax",
    "mse",
    "memoryless_mse",
    "nvfp4_expanded_mse",
    "fouroversix",
    "imatrix_mse",
    "nvfp4_expanded_imatrix",
)
_ALIASES = {"fouroversix": "nvfp4_expanded_mse"}  # mse.py `_load_fouroversix_alias`
# calibration.py `initialize_observer` compares the text as written, so `MinMax` stays a running average.
_MEMORYLESS = {"minmax": "memoryless_minmax", "static_minmax": "memoryless_minmax", "mse": "memoryless_mse"}
# mixin.py `_apply_observer_overrides`: part, key of the `observer` mapping, observer when none is named.
_OBSERVED: tuple[tuple[Part, str, str], ...] = (
    ("weights", "weights", "memoryless_minmax"),
    ("input_activations", "input", "minmax"),
    ("output_activations", "output", "minmax"),
)
_CHOICES = {
    "type": ("int", "float"),
    "strategy": ("tensor", "channel", "group", "block", "token", "tensor_group", "attn_head"),
    "dynamic": ("true", "false", "local"),
    "actorder": ("static", "weight"),
}
# initialize.py `initialize_qparams` raises for these on a Linear: too few dimensions are known.
_IMPOSSIBLE = {
    "weights": ("attn_head",),
    "input_activations": ("attn_head",),
    "output_activations": ("channel", "block", "attn_head"),
}
_BITS = {"float": (4, 8), "int": tuple(range(1, 33))}  # helpers.py `_calculate_range`


class ModifierFields(BaseModel):
    """Fields of every modifier (llmcompressor/modifiers/modifier.py). `group` is refused there too."""

    model_config = ConfigDict(extra="forbid")

    index: int | None = None
    start: float | None = None
    end: float | None = None
    update: float | None = None
    requires_calibration_data: bool = False


class QuantizationFields(ModifierFields):
    """Fields of QuantizationModifier; what is inside groups and schemes is left to compressed-tensors."""

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
        given = (self.config_groups, self.scheme, self.kv_cache_scheme)
        return any(value is not None for value in given) or self.targets != ["Linear"] or self.ignore != []


def validated(model: type[M], data: Any, where: str) -> M:
    """The record, or a RecipeError that names the first bad field by its path."""
    if not isinstance(data, dict):
        raise RecipeError(f"must be a mapping of fields, not {shorten(repr(data))}", where)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explained(error, model, data, where) from error
    except Exception as error:  # validators that compare before they check raise TypeError, NotImplementedError, ...
        raise RecipeError(f"compressed-tensors refuses it: {shorten(str(error))}", where) from error


def resolve_groups(fields: QuantizationFields, where: str) -> tuple[Scheme, ...]:
    """The config groups in order; one that quantizes nothing when neither scheme nor groups are given."""
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
    observer = None if args.dynamic is True else _known_observer(args.observer or "minmax", where)
    return _record(args, observer, where)


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
    parts = {part: group[part] for part, _, _ in _OBSERVED if group.get(part) is not None}
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
    """Observer that the modifier itself names for each part."""
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
    for part, key, default in _OBSERVED:
        args = getattr(group, part)
        path = f"{where}.{part}"
        if args is not None:
            _check_strategy(part, _text(args.strategy), path)
        parts[part] = args and _record(args, _observer(args, part, overrides.get(key), default, path), path)
    return Scheme(targets=tuple(group.targets), where=where, **parts)


def _check_strategy(part: Part, strategy: str, where: str) -> None:
    if strategy in _IMPOSSIBLE[part]:
        raise RecipeError(f"a Linear cannot have the strategy {strategy} here: LLM Compressor refuses it", where)


def _observer(args: Any, part: Part, override: str | None, default: str, where: str) -> str | None:
    """Name of the observer that is really attached; None when values are scaled while serving."""
    named = args.observer if "observer" in args.model_fields_set else None
    chosen = override or named or default
    if args.dynamic is True:
        return None
    return _known_observer(_MEMORYLESS.get(chosen, chosen) if part == "weights" else chosen, where)


def _known_observer(name: str, where: str) -> str:
    """The registered name: the registry ignores case and takes spaces and hyphens for underscores."""
    known = re.sub("[ -]", "_", name).lower()
    if ":" in known:
        raise UnsupportedError(f"{where}.observer: planner knows no observers from files ({shorten(name)})")
    if known not in OBSERVERS:
        hint = did_you_mean(known, OBSERVERS) or ";"
        raise RecipeError(f"unknown observer {shorten(name)}{hint} there are {', '.join(OBSERVERS)}", where)
    return _ALIASES.get(known, known)


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
        observer_kwargs=_observer_kwargs(args.observer_kwargs, where),
        scale_dtype=args.scale_dtype and _text(args.scale_dtype).removeprefix("torch."),
        zp_dtype=args.zp_dtype and _text(args.zp_dtype).removeprefix("torch."),
    )


def _observer_kwargs(kwargs: dict[str, Any], where: str) -> tuple[tuple[str, float], ...]:
    for name, value in kwargs.items():
        if not isinstance(value, int | float):
            raise RecipeError("must be a number", f"{where}.observer_kwargs.{shorten(name)}")
    return tuple((name, float(value)) for name, value in kwargs.items())


def _text(value: Any) -> Any:
    return str(getattr(value, "value", value))


def _explained(error: ValidationError, model: type[BaseModel], data: dict[str, Any], where: str) -> RecipeError:
    """One line for the first bad field. Unions report each member: the one that says most is taken."""
    errors = error.errors(include_url=False)
    first = errors[0]
    same = [one for one in errors if one["loc"][:1] == first["loc"][:1]]
    told = next((one for one in same if one["type"] in ("value_error", "enum")), first)
    path, value = _follow(data, told["loc"])
    name = str(told["loc"][0]) if told["loc"] else ""
    if told["type"] == "extra_forbidden":
        message = f"unknown field{did_you_mean(name, model.model_fields)}"
    elif isinstance(value, str) and name in _CHOICES and value.lower() not in (*_CHOICES[name], "group"):
        message = f"{shorten(value)} is not one of {', '.join(_CHOICES[name])}{did_you_mean(value, _CHOICES[name])}"
    else:
        message = shorten(told["msg"].splitlines()[0].removeprefix("Value error, "))
    return RecipeError(message, where + path)


def _follow(data: Any, loc: tuple[int | str, ...]) -> tuple[str, Any]:
    """Path text as far as the location exists in the data (pydantic adds names of union members)."""
    path = ""
    for depth, part in enumerate(loc):
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return (f".{part}" if depth == 0 else path), None
        path += f"[{part}]" if isinstance(part, int) else f".{shorten(part)}"
    return path, data
