"""Reads the fields of a recipe's entry into a record, or refuses them with the path of the first bad field."""

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from planner.errors import RecipeError, UnsupportedError
from planner.hints import did_you_mean, shorten
from planner.recipe.expressions import MAX_EXPRESSIONS

REMOVED_ACTORDER = "was removed in compressed-tensors 0.19; take static or weight"
"""Of `actorder: group`: compressed_tensors quantization/quant_args.py `validate_actorder`."""

M = TypeVar("M", bound=BaseModel)

_CHOICES = {
    "type": ("int", "float"),
    "strategy": ("tensor", "channel", "group", "block", "token", "tensor_group", "attn_head"),
    "dynamic": ("true", "false", "local"),
    "actorder": ("static", "weight"),
}


class ModifierFields(BaseModel):
    """Fields of every modifier (llmcompressor/modifiers/modifier.py). `group` is refused there too."""

    model_config = ConfigDict(extra="forbid")

    index: int | None = None
    start: float | None = None
    end: float | None = None
    update: float | None = None
    requires_calibration_data: bool = False


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


def must_calibrate(fields: ModifierFields, where: str) -> None:
    """Refuses an entry that turns calibration data off for a modifier that is modelled with data alone."""
    if "requires_calibration_data" in fields.model_fields_set and not fields.requires_calibration_data:
        raise UnsupportedError(f"{where}: planner models this modifier with calibration data only")


def check_patterns(patterns: Iterable[str], where: str, may_be_empty: bool = False) -> None:
    """Refuses targets or ignores that are no regular expressions, and an empty list of targets.

    compressed-tensors compiles `re:` patterns only when it matches, deep in the run.
    """
    empty, expressions = True, 0
    for pattern in patterns:
        empty = False
        expressions += pattern.startswith("re:")
        if expressions > MAX_EXPRESSIONS:
            raise RecipeError(
                f"holds more than {MAX_EXPRESSIONS} regular expressions, each of which is compared with every module; "
                "join them with |, or write whole names",
                where,
            )
        try:
            re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
        except (re.error, RecursionError, OverflowError) as error:
            raise RecipeError(f"{shorten(pattern)} is not a regular expression: {error}", where) from error
    if empty and not may_be_empty:
        raise RecipeError("is empty, so no module would be compressed", where)


def _explained(error: ValidationError, model: type[BaseModel], data: dict[str, Any], where: str) -> RecipeError:
    """One line for the first bad field. A union reports an error for each member; the clearest one is taken."""
    errors = error.errors(include_url=False)
    first = errors[0]
    of_field = [one for one in errors if one["loc"][:1] == first["loc"][:1]]
    clearest = next((one for one in of_field if one["type"] in ("value_error", "enum")), first)
    path, value = _follow(data, clearest["loc"])
    name = str(clearest["loc"][0]) if clearest["loc"] else ""
    if clearest["type"] == "extra_forbidden":
        hint = did_you_mean(name, model.model_fields) or f"; it has {', '.join(model.model_fields)}"
        message = f"unknown field{hint}"
    elif clearest["loc"][-1:] == ("actorder",) and value in ("group", "dynamic", True):
        message = f"{shorten(str(value))} {REMOVED_ACTORDER}"
    elif isinstance(value, str) and name in _CHOICES and value.lower() not in (*_CHOICES[name], "group"):
        message = f"{shorten(value)} is not one of {', '.join(_CHOICES[name])}{did_you_mean(value, _CHOICES[name])}"
    else:
        message = shorten(clearest["msg"].splitlines()[0].removeprefix("Value error, "))
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
