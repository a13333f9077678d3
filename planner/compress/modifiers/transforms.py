"""Groups of transforms: compressed_tensors transform/transform_{config,scheme,args}.py, applied by transform/apply.py.

QuIPModifier's own V and U are two such groups; a recipe's `transform_config` has any. Of each group the applications
come one after the other, each on all of its modules: those to weights are over at once, those to inputs, outputs and
states of attentions stay as hooks.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from planner.compress.modifiers.precisions import (
    WIDTHS,
    Precision,
    TransformType,
    check_made,
    check_multiplied,
    is_saved,
    saved_type,
)
from planner.compress.modifiers.rotations import bytes_of, matrix_label, side
from planner.errors import RecipeError
from planner.hints import shorten
from planner.models.tuned import OnlineRotation, Place
from planner.notes import Note
from planner.recipe.matching import Patterns, Target, ignore_notes, matched, no_match_note, selected
from planner.recipe.specs import ModuleRef
from planner.recipe.validation import check_patterns, validated
from planner.units import INT64

Location = Literal["input", "weight_input", "weight_output", "output", "k_cache", "q_attn"]
"""transform_args.py TransformLocation."""

KINDS: Mapping[str, TransformType] = {kind: kind for kind in get_args(TransformType)}
ONLINE: Mapping[str, Place] = {"input": "input", "output": "output", "q_attn": "query", "k_cache": "key"}
"""The locations that stay as hooks (TransformLocation.is_online)."""
STATES = ("q_attn", "k_cache")
"""Those of attentions."""


class ArgsFields(BaseModel):
    """Fields of transform_args.py TransformArgs."""

    model_config = ConfigDict(extra="forbid")

    targets: list[str]
    location: Location
    inverse: bool = False
    ignore: list[str] = Field(default_factory=list)

    @field_validator("targets", "ignore", mode="before")
    @classmethod
    def wrap_singleton(cls, value: Any) -> Any:
        """The same of TransformArgs."""
        return [value] if isinstance(value, str) else value


class SchemeFields(BaseModel):
    """Fields of transform_scheme.py TransformScheme."""

    model_config = ConfigDict(extra="forbid")

    type: str
    apply: list[ArgsFields] = Field(default_factory=list)
    randomize: bool = False
    requires_grad: bool = False
    head_dim: int | None = Field(default=None, ge=1)
    precision: Precision = "float32"


class ConfigFields(BaseModel):
    """Fields of transform_config.py TransformConfig."""

    model_config = ConfigDict(extra="forbid")

    config_groups: dict[str, SchemeFields]


# ---------------------------------------------------------------------- records
@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """transform_args.py TransformArgs: where one group's matrices are multiplied with, on which modules."""

    targets: tuple[str, ...]
    location: Location
    inverse: bool = False
    ignore: tuple[str, ...] = ()
    where: str = field(default="", compare=False)
    """Path in the recipe file of what has the targets."""

    @property
    def is_online(self) -> bool:
        """It stays as a hook."""
        return self.location in ONLINE

    @property
    def of_states(self) -> bool:
        """It is an attention's, not a weight's."""
        return self.location in STATES

    @property
    def is_output(self) -> bool:
        """utils/matrix.py `get_transform_size`: of a Linear's keys, too."""
        return self.location not in ("input", "weight_input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """transform_scheme.py TransformScheme: one group."""

    name: str
    type: TransformType
    block: int | None
    """`head_dim`: the size of the matrix, whatever module it is for."""
    dtype: str
    """Of a matrix that is first asked for by a hook; one that is first asked for by a weight is in float64
    (precisions.py)."""
    apply: tuple[Application, ...]
    permutes: bool = False
    """`randomize`: each matrix has a permutation of its own; of random matrices nobody looks at it
    (factory/matrix_multiply.py)."""
    where: str = field(default="", compare=False)
    """Path of its block size in the recipe file."""
    dtypes: tuple[tuple[int, str], ...] = ()
    """Type of the numbers in each matrix, by its size, found in a model (`within`), and"""
    unused: int = 0
    """bytes of the matrices and inverses that no hook has: they are in weights."""
    number: int = 0
    """Modifiers with transforms before its own: each makes matrices of its own (transform/apply.py
    `apply_transform_config`), whatever the names of its groups."""

    @property
    def label(self) -> str:
        """What the books call the group. Two modifiers' may have one name, in which there is no dot."""
        return f"{self.number + 1}.{self.name}" if self.number else self.name

    def size(self, rows: int, columns: int, is_embedding: bool, application: Application) -> int:
        """utils/matrix.py `get_transform_size`."""
        return self.block or side(rows, columns, is_embedding, application.is_output)

    def size_of(self, ref: ModuleRef, application: Application) -> int:
        """The same of a module in a recipe's eyes."""
        return self.size(ref.rows, ref.columns, "Embedding" in ref.classes, application)

    def has_inverse(self, application: Application) -> bool:
        """A matrix of its own; a Hadamard matrix is turned round instead."""
        return application.inverse and self.type == "random-matrix"

    def steps(self, found: "Found") -> Iterator[tuple[Application, ModuleRef, int]]:
        """What is applied, in the order of factory/base.py `apply_to_model`, with the sizes of the matrices."""
        for application in self.apply:
            for ref in found.of(application):
                yield application, ref, self.size_of(ref, application)

    def within(self, found: "Found") -> Self:
        """The record for a model. The first that asks for a matrix decides of what type its numbers are."""
        dtypes: dict[int, str] = {}
        asked: set[tuple[int, bool]] = set()
        hooked: set[tuple[int, bool]] = set()
        for application, _, size in self.steps(found):
            if size not in dtypes and application.is_online:
                check_made(self.type, self.dtype, self.path)
            dtypes.setdefault(size, self.dtype if application.is_online else "float64")
            key = (size, self.has_inverse(application))
            asked |= {(size, False), key}
            if application.is_online:
                hooked.add(key)
        made = replace(self, dtypes=tuple(dtypes.items()))
        return replace(made, unused=sum(made.bytes_of(size) for size, _ in asked - hooked))

    @property
    def path(self) -> str:
        """Of the group, or of the modifier, in the recipe file."""
        return self.where.rpartition(".")[0]

    def bytes_of(self, size: int) -> int:
        """Of the matrix of this size, with its permutation."""
        return bytes_of(size, WIDTHS[self.dtype_of(size)]) + (size * INT64 if self.permutes else 0)

    def dtype_of(self, size: int) -> str:
        """Type of the numbers in the matrix of this size."""
        return dict(self.dtypes)[size]


@dataclass(frozen=True, slots=True)
class Applied:
    """An application with the modules of one model, by full names."""

    transform: Transform
    application: Application
    names: tuple[str, ...]
    states: tuple[tuple[str, int], ...] = ()
    """Of an application to states: for each of them the attention whose keys are rotated, empty where there is none,
    and the size of the matrix."""
    others: tuple[ModuleRef, ...] = ()
    """Of hooks on inputs and outputs, what is no plain Linear; of those on states, what is no attention."""
    owners: tuple[tuple[str, int], ...] = ()
    """Those of `names` that have weights of their own, and the sizes of their matrices."""
    traced: frozenset[str] = frozenset()
    """Those of `names` whose hooks the traced forward has."""

    def with_traced(self, hooks: Collection[tuple[str, str]]) -> Self:
        """The record where these hooks, by module and place, are traced."""
        place = ONLINE.get(self.application.location)
        return replace(self, traced=frozenset(name for name in self.names if (name, place) in hooks))

    @property
    def rotated_keys(self) -> frozenset[str]:
        """Attentions whose keys it rotates, or whose queries."""
        return frozenset(name for name, _ in self.states if name)


class Found:
    """The modules of one model that applications take: looked for once, where they take the same."""

    def __init__(self, modules: Sequence[ModuleRef]) -> None:
        self.modules = modules
        self._known: dict[tuple[tuple[str, ...], tuple[str, ...]], list[ModuleRef]] = {}

    def of(self, application: Application) -> list[ModuleRef]:
        """In the model's order: match.py `match_named_modules`."""
        key = (application.targets, application.ignore)
        if key not in self._known:
            self._known[key] = selected(*key, self.modules)
        return self._known[key]


# ---------------------------------------------------------------------- reading
def read_groups(config: Any, where: str) -> tuple[Transform, ...]:
    """The groups of a `transform_config`.

    Raises RecipeError where compressed-tensors would refuse it or fail, UnsupportedError for what is not modelled.
    """
    groups = validated(ConfigFields, config, where).config_groups
    return tuple(_group(name, fields, f"{where}.config_groups.{shorten(name)}") for name, fields in groups.items())


def _group(name: str, fields: SchemeFields, where: str) -> Transform:
    if "." in name:
        raise RecipeError("a transform is a part of its module, whose name cannot have a dot", where)
    kind = KINDS.get(fields.type.replace("_", "-").replace(" ", "-").lower())  # registry.py `standardize_lookup_name`
    if kind is None:
        text = f"{shorten(fields.type)} is not one of {', '.join(KINDS)}"
        raise RecipeError(text, f"{where}.type")
    if fields.requires_grad and any(each.location not in ONLINE for each in fields.apply):
        raise RecipeError(  # factory/base.py `_apply_to_module`; hooks run without gradients while samples do
            "LLM Compressor stops: of weights that are offloaded, as all are but in the basic pipeline, "
            "compressed-tensors trains no transform",
            f"{where}.requires_grad",
        )
    return Transform(
        name=name,
        type=kind,
        block=fields.head_dim,
        dtype=fields.precision,
        permutes=fields.randomize and kind != "random-matrix",
        apply=tuple(_application(each, f"{where}.apply[{number}]") for number, each in enumerate(fields.apply)),
        where=f"{where}.head_dim",
    )


def _application(fields: ArgsFields, where: str) -> Application:
    check_patterns(fields.targets, f"{where}.targets", may_be_empty=True)
    check_patterns(fields.ignore, f"{where}.ignore", may_be_empty=True)
    return Application(
        targets=tuple(fields.targets),
        location=fields.location,
        inverse=fields.inverse,
        ignore=tuple(fields.ignore),
        where=where,
    )


# ---------------------------------------------------------------------- a model
def saved(
    transform: Transform,
    modules: Sequence[ModuleRef],
    *,
    on_gpu: bool = False,
    trained: Sequence[str] = (),
    replaced: Collection[str] = (),
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """The tensors that stay in hooks: apply.py `_register_tied_transform_weights`: each goes by the first module, in
    the model's order, that has it.

    `on_gpu`: weights lie on the GPU, where each module is offloaded. What was made elsewhere is then a hook's own
    (offload/cache/device.py DeviceCache.offload): permutations are made on the CPU, and matrices where the module lies
    that asks first. `trained`: layers in which each hook has its own afterwards (autoround/base.py
    `suspend_offloading`: what is onloaded is a copy for each module). `replaced`: names of transforms whose modules
    have later modifiers' in their place.
    """
    found = Found(modules)
    taken = [(each, {ref.name for ref in found.of(each)}) for each in transform.apply if each.is_online]
    made: dict[int, bool] = {}
    for _, ref, size in transform.steps(found) if on_gpu else ():
        made.setdefault(size, not ref.is_bare)
    seen: set[object] = set()
    below = tuple(f"{layer}." for layer in trained)
    for ref in modules:
        is_trained = f"{ref.name}.".startswith(below)
        here = {each.location: each for each, names in taken if ref.name in names}  # of two, the later one's
        for location, application in here.items():
            name, size = _part(transform, ref, location), transform.size_of(ref, application)
            if name in replaced:
                continue
            lies_on_gpu = on_gpu and not ref.is_bare
            kind = saved_type(transform.dtype_of(size), transform.path)
            own = name if is_trained or lies_on_gpu != made.get(size, False) else ""
            if _is_new((size, transform.has_inverse(application), own), seen):
                yield f"{name}.weight", kind, (size, size)
            if transform.permutes and _is_new((size, name if is_trained or lies_on_gpu else ""), seen):
                yield f"{name}.perm", "I64", (size,)


def parts(transforms: Iterable[Transform], modules: Sequence[ModuleRef]) -> Iterator[str]:
    """Full names of the transforms that stay on modules."""
    found = Found(modules)
    for transform in transforms:
        for each in transform.apply:
            if each.is_online:
                yield from (_part(transform, ref, each.location) for ref in found.of(each))


def _part(transform: Transform, ref: ModuleRef, location: str) -> str:
    return f"{ref.name}.{transform.name}_{location}".lstrip(".")


def _is_new(what: object, seen: set[object]) -> bool:
    is_new = what not in seen
    seen.add(what)
    return is_new


def online(transform: Transform, layer: str, modules: Sequence[ModuleRef]) -> Iterator[OnlineRotation]:
    """The transforms that stay in a layer: factory/base.py `_apply_to_module`."""
    steps = [each for each in transform.steps(Found(modules)) if each[0].is_online]
    for application, ref, size in steps:
        check_multiplied(transform.dtype_of(size), transform.path)
        yield OnlineRotation(
            name=f"{transform.name}_{application.location}",
            module=ref.name[len(layer) :],
            place=ONLINE[application.location],
            size=size,
            dtype=transform.dtype_of(size),
            inverse=application.inverse,
            permutes=transform.permutes,
            scales=transform.type != "random-matrix",
            waits=ref.is_bare,
            label=matrix_label(transform.label, transform.type, size, inverse=application.inverse),
        )


def unturned(applications: Collection[Application], what: str, where: str) -> Iterator[Note]:
    """compressed_tensors modeling/attention.py QuantizedAttentionImpl, utils/helpers.py `use_eager_attention`.

    `what` rotates.
    """
    locations = {each.location for each in applications}
    if "q_attn" in locations:
        rotated = "keys alone" if "k_cache" in locations else "no queries"
        text = (
            f"{where}: {what} rotates {rotated} while LLM Compressor runs samples. Calibration forces eager attention, "
            "which goes past the hooks of queries, so that what is learnt from activations behind attention is of "
            "scores that no one will compute."
        )
        yield Note(kind="result", text=text)


def unsaved(transforms: Iterable[Transform]) -> Iterator[Note]:
    """Matrices of hooks that `save_pretrained` fails on."""
    for each in transforms:
        if any(not is_saved(dtype) for _, dtype in each.dtypes):
            text = f"the job ends in save_pretrained (KeyError): safetensors saves no {each.dtype}"
            yield Note(kind="fails", text=f"{each.path}.precision: {text}")


def distinct(applications: Iterable[Application]) -> list[Application]:
    """Those that differ in what they target, or in where the recipe says it."""
    return list({(each.where, each.targets, each.ignore): each for each in applications}.values())


def slips(applications: Iterable[Application], modules: Sequence[ModuleRef]) -> Iterator[Note]:
    """Targets that match nothing and ignores that leave nothing out. RecipeError where no target matches anything."""
    places = distinct(applications)
    idle: list[Target] = []
    for each in places:
        targets = [(target, f"{each.where}.targets") for target in each.targets]
        idle += [target for target in targets if not Patterns((target[0],)).of(modules)]
    if idle and len(idle) == sum(len(each.targets) for each in places):
        matched(idle[0], modules)
    if len({each.where for each in places}) > 1:  # all of a modifier's own groups have the same
        yield from (no_match_note(target, modules) for target in idle)
    for each in places:
        yield from ignore_notes(each.ignore, f"{each.where}.ignore", partial(Patterns(each.targets).of, modules))
