"""SpinQuantModifier: transform/spinquant/{base,mappings,norm_mappings}.py.

R1 and R2 happen once, before the first batch, weight by weight in fp64: embeddings are centered, norms fused into the
Linears behind them (llmcompressor/modeling/fuse.py), and every weight multiplied with a Hadamard matrix
(compressed_tensors/transform/factory/{base,hadamard}.py).
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, Field

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.compress.modifiers import transforms
from planner.compress.modifiers.hooking import bound
from planner.compress.modifiers.matrices import aligned
from planner.compress.modifiers.precisions import TransformType
from planner.compress.modifiers.rotating import TransformModel, TransformSpec
from planner.compress.modifiers.rotations import TransformFields, unread
from planner.compress.modifiers.transforms import Application, Transform
from planner.compress.modifiers.writing import write_back
from planner.cuda.reductions import dense_buffers
from planner.cuda.requests import temporaries
from planner.errors import RecipeError
from planner.notes import Note
from planner.recipe.matching import Patterns
from planner.recipe.module_sets import ModuleSetError, module_sets
from planner.recipe.specs import ModelTraits, ModifierSpec, ModuleRef, Selection
from planner.recipe.targets import LinearModule
from planner.recipe.validation import check_patterns, validated
from planner.units import FP64

DEFAULT = ("R1", "R2")

EMBEDDING, HEAD, ATTENTION_OUT = "re:.*embed_tokens$", "lm_head", "re:.*o_proj$"
ATTENTION = "re:.*self_attn$"
QUERY, KEY, VALUE = "re:.*q_proj$", "re:.*k_proj$", "re:.*v_proj$"
MLP_IN, MLP_OUT = ("re:.*up_proj$", "re:.*gate_proj$"), ("re:.*down_proj$",)
NORMS: tuple[tuple[str, ...], ...] = (
    ("re:.*input_layernorm$", QUERY, KEY, VALUE),
    ("re:.*post_attention_layernorm$", *MLP_IN),
    ("model.norm", HEAD),
)
"""norm_mappings.py `_default_mappings`: a norm and the Linears behind it."""
ROUTED = "Cohere2MoeForCausalLM"
"""norm_mappings.py `_cohere2_moe_mappings`: the one family with mappings of its own, of norms the last one alone.

They have the router as well, which is a Linear only once `prepare_cohere2_moe_for_spinquant` has made it one.
"""


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_list)]


class MappingFields(BaseModel):
    """Fields of mappings.py SpinQuantMapping."""

    embedding: str
    attn: str
    attn_q: str
    attn_k: str
    attn_v: str
    attn_o: str
    attn_head_dim: int | None = None
    mlp_in: Names
    mlp_out: Names
    lm_head: str


class NormFields(BaseModel):
    """Fields of norm_mappings.py NormMapping."""

    norm: str
    linears: Names


class SpinQuantFields(TransformFields):
    """Fields of SpinQuantModifier."""

    rotations: list[str] = Field(default_factory=lambda: ["R1", "R2"])
    mappings: MappingFields | None = None
    norm_mappings: list[NormFields] | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """What a recipe with a `transform_config` says of its own: groups, the embedding, norms and the Linears behind."""

    groups: tuple[Transform, ...]
    embedding: str
    norms: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpinQuantSpec(TransformSpec):
    """SpinQuantModifier."""

    type: ClassVar[str] = "SpinQuantModifier"
    rotations: tuple[str, ...] = DEFAULT
    transform_type: TransformType = "hadamard"
    transform_block_size: int | None = None
    dtype: str = "float64"
    """Of matrices that hooks ask for first."""
    given: Given | None = None
    """With a `transform_config` nothing is inferred."""
    embeddings: tuple[str, ...] = ()
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Norms with the Linears behind them, found in a model (`within`)."""
    is_routed: bool = False
    """The model is of the family that wants a preparation."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses what the library refuses."""
        entry = validated(SpinQuantFields, fields, where)
        entry.refuse_unfinished(where)
        rotations = tuple(rotation.upper() for rotation in entry.rotations)
        for rotation in rotations:
            if rotation not in ("R1", "R2", "R3", "R4"):
                raise RecipeError(f"{rotation} is not one of R1, R2, R3, R4", f"{where}.rotations")
        return cls(
            where=where,
            notes=tuple(_unread(entry, where)),
            given=_given(entry, where) if entry.transform_config is not None else None,
            rotations=tuple(dict.fromkeys(rotations)),
            transform_type=entry.transform_type,
            transform_block_size=entry.transform_block_size,
            dtype=entry.precision,
        )

    def within(self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]) -> Self:
        """Raises RecipeError where the library cannot group norms, or make a matrix of a weight's size."""
        where = f"{self.where} ({facts.architecture})"
        given = self.given
        # base.py on_initialize asks in any case
        wants_width = given is None and ("R3" in self.rotations or facts.heads)
        if wants_width and facts.head_dim == 0:
            raise RecipeError("the config does not say how wide a head is: LLM Compressor stops there", where)
        if wants_width and facts.is_head_dim_nested:
            raise RecipeError(
                "LLM Compressor asks the model's own config how wide a head is, and stops: its text_config alone says "
                "so; a transform_config of yours is taken",
                where,
            )
        inferred = NORMS[-1:] if facts.architecture == ROUTED else NORMS
        try:
            fused = tuple(_fused(modules, inferred if given is None else given.norms))
        except ModuleSetError as error:
            raise RecipeError(f"{error}; LLM Compressor cannot fuse the norms of this model", where) from error
        groups = tuple(self._groups(facts.head_dim)) if given is None else given.groups
        numbered = [replace(each, number=self.number_in(recipe)) for each in groups]
        groups, applied = bound(numbered, modules, facts.head_dim or 0)
        embeddings = Patterns((EMBEDDING if given is None else given.embedding,)).of(modules)
        if given is not None:
            _check_weights(
                {*(ref.name for ref in embeddings), *(n for _, names in fused for n in names)}, modules, where
            )
        return replace(
            self,
            embeddings=tuple(ref.name for ref in embeddings),
            fused=fused,
            transforms=groups,
            applied=applied,
            is_routed=facts.architecture == ROUTED,
        )

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """What a script must have done before."""
        if self.is_routed:
            yield _unprepared(self.where)
        places = [each for group in self.transforms for each in group.apply]
        yield from transforms.unturned(places, "R3" if self.given is None else "it", self.where)
        yield from transforms.unsaved(self.transforms)
        if self.given is not None:
            yield from transforms.slips(places, modules)
        inverts = any(each.type == "random-matrix" for each in self.transforms)
        yield from self.garbage(sum(each.unused for each in self.transforms), inverts=inverts)

    def hooked_inputs(
        self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]
    ) -> frozenset[str]:
        """Those of R4."""
        applied = self.within(facts, modules, recipe).applied
        return frozenset(name for each in applied if each.application.location == "input" for name in each.names)

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """All that is centered, fused or multiplied; norms are watched."""
        multiplied = (name for each in self.applied if not each.application.of_states for name in each.names)
        taken = {*self.embeddings, *(name for _, names in self.fused for name in names), *multiplied}
        weights = {ref.name: None for ref in modules if ref.name in taken and ref.itemsize}
        keys = frozenset[str]().union(*(each.rotated_keys for each in self.applied))
        hooked = (ref.name for each in self.applied if not each.application.of_states for ref in each.others)
        watched = {*(norm for norm, _ in self.fused), *(name for name in hooked if name not in weights)}
        return Selection(weights=weights, watched=frozenset(watched), keys=keys)

    def model(self, context: Context) -> "SpinQuantModel":
        """Weights in fp64, one at a time."""
        return SpinQuantModel(context, self)

    def _groups(self, head_dim: int | None) -> Iterator[Transform]:
        """base.py `_create_r1_scheme` and the others."""

        def group(name: str, block: int | None, *apply: Application) -> Transform:
            return Transform(
                name=name,
                type=self.transform_type,
                block=block,
                dtype=self.dtype,
                apply=apply,
                where=f"{self.where}.{'rotations' if name in ('R2', 'R3') else 'transform_block_size'}",
            )

        def at(location: transforms.Location, *targets: str, inverse: bool = False) -> Application:
            return Application(targets=targets, location=location, inverse=inverse, where=self.where)

        block = self.transform_block_size
        if "R1" in self.rotations:
            inputs = at("weight_input", QUERY, KEY, VALUE, *MLP_IN, HEAD, inverse=True)
            yield group("R1", block, at("weight_output", EMBEDDING, ATTENTION_OUT, *MLP_OUT), inputs)
        if "R2" in self.rotations:
            yield group("R2", head_dim, at("weight_output", VALUE), at("weight_input", ATTENTION_OUT, inverse=True))
        if "R3" in self.rotations:
            yield group("R3", head_dim, at("q_attn", ATTENTION), at("k_cache", ATTENTION))
        if "R4" in self.rotations:
            yield group("R4", block, at("input", *MLP_OUT), at("weight_input", *MLP_OUT, inverse=True))


def _given(entry: SpinQuantFields, where: str) -> Given:
    """base.py `on_initialize` returns at once: what it would infer is what the recipe gives, or None."""
    path = f"{where}.transform_config"
    if entry.mappings is None:
        text = "LLM Compressor infers no mappings beside it and fails ('NoneType' object has no attribute 'embedding')"
        raise RecipeError(f"{text}; write mappings and norm_mappings too", path)
    if entry.norm_mappings is None:
        text = "LLM Compressor infers no norm_mappings beside it and fails ('NoneType' object is not iterable)"
        raise RecipeError(f"{text}; write them too", path)
    groups = transforms.read_groups(entry.transform_config, path)
    check_patterns([entry.mappings.embedding], f"{where}.mappings.embedding")
    for number, each in enumerate(entry.norm_mappings):
        check_patterns([each.norm, *each.linears], f"{where}.norm_mappings[{number}]")
    return Given(groups, entry.mappings.embedding, tuple((each.norm, *each.linears) for each in entry.norm_mappings))


def _check_weights(names: Collection[str], modules: Sequence[ModuleRef], where: str) -> None:
    """llmcompressor/modeling/fuse.py: `center_embeddings`, `fuse_norm_linears`."""
    bare = next((ref.name for ref in modules if ref.name in names and not ref.itemsize), None)
    if bare is not None:
        raise RecipeError(f"the mappings take {bare}, which has no weight: LLM Compressor fails on it", where)


def _unread(entry: SpinQuantFields, where: str) -> Iterator[Note]:
    if entry.transform_config is not None:
        yield from unread(entry, {"rotations"}, where)
        return
    for name in ("mappings", "norm_mappings"):
        if getattr(entry, name) is not None:
            yield Note(kind="recipe", text=f"{where}.{name} is not heeded: LLM Compressor infers them anew")


def _unprepared(where: str) -> Note:
    """modeling/moe/cohere2_moe.py `prepare_cohere2_moe_for_spinquant` is a script's, before `oneshot`."""
    text = (
        f"{where}: the result is right only if the script calls prepare_cohere2_moe_for_spinquant before oneshot, "
        f"which changes {ROUTED}. Planned from the model as it is loaded; with --linearized its experts are linear, as "
        "that call leaves them. The routers' weights are small, and left out."
    )
    return Note(kind="result", text=text)


def _fused(
    modules: Sequence[ModuleRef], norm_mappings: Sequence[tuple[str, ...]]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for patterns in norm_mappings:
        for norms, *linears in module_sets(patterns, modules):
            if len(norms) != 1:
                raise ModuleSetError(f"{norms[0].name} and {len(norms) - 1} more norms share their Linears")
            yield norms[0].name, tuple(ref.name for group in linears for ref in group)


# ---------------------------------------------------------------------- memory
class SpinQuantModel(TransformModel):
    """Weights in fp64, one at a time; its matrices wait on the CPU."""

    def __init__(self, context: Context, spec: SpinQuantSpec) -> None:
        super().__init__(context, spec)
        self.spec = spec
        self.modules: dict[str, LinearModule] = {}

    def on_calibration_start(self, modules: Iterable[LinearModule]) -> None:
        """base.py `on_calibration_start`: nothing that is onloaded stays so."""
        self.modules = {module.name: module for module in modules}
        kept, self.context.keep_onloaded = self.context.keep_onloaded, False
        for name in self.spec.embeddings:
            self._center(self.modules[name])
        for norm, linears in self.spec.fused:
            self._fuse(norm, [self.modules[name] for name in linears])
        self.groups.apply(self.modules)
        self.context.keep_onloaded = kept

    def _center(self, module: LinearModule) -> None:
        """fuse.py center_embeddings"""
        elements = module.rows * module.columns
        with self.context.frame("compress", module.name) as frame:
            with self._aligned(module):
                frame.assign("weight", elements * FP64)
                with frame.during(module.rows * FP64, "mean"):
                    if frame.build is not None:
                        buffers = dense_buffers((module.rows, module.columns), (1,), FP64, frame.build)
                        frame.operator(temporaries(*buffers), "mean")
                    frame.assign("new_weight", elements * FP64)
                frame.assign("new_weight", module.weight_bytes)
            self._write(module)

    def _fuse(self, norm: str, linears: Sequence[LinearModule]) -> None:
        """fuse.py fuse_norm_linears: the weight before is bound until the next product is there."""
        with self.context.frame("compress", norm) as frame:
            for module in linears:
                frame.owner = Owner(module.name)
                elements = module.rows * module.columns
                vector = module.columns * module.itemsize
                with self._aligned(module), self.context.accessed(f"{norm}.weight", vector):
                    with (
                        frame.during(elements * FP64, "weight in fp64"),
                        frame.during(module.columns * FP64, "norm in fp64"),
                    ):
                        frame.assign("new_weight", elements * FP64)
                    frame.assign("new_weight", module.weight_bytes)
                self._write(module)

    def _aligned(self, module: LinearModule) -> AbstractContextManager[None]:
        """align_module_device: onloaded inside."""
        return aligned(self.context, module)

    def _write(self, module: LinearModule) -> None:
        write_back(self.context, module.name, "weight", module.weight_bytes, module.weight_bytes)
