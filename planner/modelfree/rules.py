"""What a model-free job quantizes: its schemes, what it leaves out, and what the library refuses before it starts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from planner.errors import RecipeError
from planner.hints import did_you_mean, shorten
from planner.modelfree.checkpoint import split_name
from planner.recipe.matching import Patterns
from planner.recipe.schemes import QuantizationFields, preset_names, resolve_groups
from planner.recipe.specs import ModuleRef, Scheme
from planner.recipe.validation import check_patterns

AnyScheme = str | Mapping[str, Any] | BaseModel
"""A preset's name; a scheme as a mapping, or as compressed-tensors' QuantizationScheme."""

STATIC = "model_free_ptq cannot calibrate activations, which this scheme needs: use oneshot (`planner plan`) instead"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Config groups in their order, and patterns of modules that are left as they are."""

    name: str
    groups: tuple[Scheme, ...]
    ignore: tuple[str, ...] = ()
    renamed_observer: str | None = None
    """The observer that validate.py _validate_scheme puts in place of `mse`, which nobody registered."""
    _left_out: Patterns = field(init=False, repr=False, compare=False, default_factory=lambda: Patterns(()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "_left_out", Patterns(self.ignore))

    @property
    def has_fused(self) -> bool:
        """microscale.py has_microscale_scheme: some weights have a global scale."""
        return any(group.weights is not None and group.weights.strategy == "tensor_group" for group in self.groups)

    @cached_property
    def _targets(self) -> tuple[Patterns | None, ...]:
        """Of each group; None where its targets take every weight."""
        return tuple(None if "Linear" in group.targets else Patterns(group.targets) for group in self.groups)

    def matched(self, names: Sequence[str]) -> Iterator[tuple[str, Scheme]]:
        """converter.py _match_tensors_to_schemes: group by group, the first that matches a tensor has it."""
        taken: set[str] = set()
        for group, targets in zip(self.groups, self._targets, strict=True):
            for name in names:
                if name not in taken and self._takes(name, targets):
                    taken.add(name)
                    yield name, group

    def _takes(self, name: str, targets: Patterns | None) -> bool:
        """compressed_tensors utils/match.py match_quantizable_tensors."""
        module, parameter = split_name(name)
        if parameter != "weight" or module.endswith("norm"):
            return False
        ref = ModuleRef(module, ())
        return (targets is None or targets.first(ref) is not None) and self._left_out.first(ref) is None


def rules_of(
    scheme: AnyScheme | None, config_groups: Mapping[str, Any] | None = None, ignore: Iterable[str] = ()
) -> Rules:
    """The rules that `scheme` or `config_groups` mean. Raises RecipeError where the library refuses them.

    validate.py validate_config: one of the two, weights in each group, and activations that are dynamic or not
    quantized at all.
    """
    if (scheme is None) == (config_groups is None):
        raise RecipeError("give either a scheme or config_groups" + (", not both" if scheme is not None else ""))
    patterns = tuple(ignore)
    check_patterns(patterns, "ignore", may_be_empty=True)
    if isinstance(scheme, str) and scheme.upper() not in preset_names():
        presets = _presets()
        hint = did_you_mean(scheme, presets) or ";"
        raise RecipeError(f"unknown scheme {shorten(scheme)}{hint} model_free_ptq takes {', '.join(presets)}", "scheme")
    name, fields = _fields(scheme, config_groups)
    groups = []
    for group in resolve_groups(fields, "model_free_ptq"):
        _check(group)
        check_patterns(group.targets, f"{group.where}.targets", may_be_empty=True)
        groups.append(group if group.targets else replace(group, targets=("Linear",)))
    return Rules(name=name, groups=tuple(groups), ignore=patterns, renamed_observer=_renamed(fields))


def _presets() -> tuple[str, ...]:
    """Names of the presets that model_free_ptq takes."""

    def is_taken(name: str) -> bool:
        try:
            rules_of(name)
        except RecipeError:
            return False
        return True

    return tuple(filter(is_taken, preset_names()))


def _fields(scheme: AnyScheme | None, groups: Mapping[str, Any] | None) -> tuple[str, QuantizationFields]:
    if isinstance(scheme, str):
        return scheme.upper(), QuantizationFields(scheme=scheme)
    if scheme is not None:
        return "own scheme", QuantizationFields(config_groups={"config_group_0": _mapping(scheme)})
    assert groups is not None
    if not isinstance(groups, Mapping) or not groups:
        raise RecipeError("config_groups must name a mapping for each group")
    return "+".join(map(str, groups)), QuantizationFields(
        config_groups={str(name): _mapping(group) for name, group in groups.items()}
    )


def _mapping(scheme: Any) -> Any:
    """A scheme as the mapping that a recipe has; what it leaves out of `targets` means every Linear."""
    if isinstance(scheme, BaseModel):
        scheme = scheme.model_dump(mode="json", exclude_unset=True)
    return {"targets": ["Linear"], **scheme} if isinstance(scheme, Mapping) else scheme


def _check(group: Scheme) -> None:
    if group.weights is None:
        raise RecipeError("has no weights, and model_free_ptq quantizes nothing else", group.where)
    for args in (group.input_activations, group.output_activations):
        if args is not None and args.dynamic is not True:
            raise RecipeError(STATIC, group.where)


def _renamed(fields: QuantizationFields) -> str | None:
    """`static_mse`, where the scheme itself says `mse`."""
    for group in (fields.config_groups or {}).values():
        args = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(args, Mapping) and args.get("observer") == "mse":
            return f"static_{shorten(args['observer'])}"
    return None
