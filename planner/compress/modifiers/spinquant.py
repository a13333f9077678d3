"""SpinQuantModifier: transform/spinquant/{base,mappings,norm_mappings}.py.

R1 and R2 happen once, before the first batch, weight by weight in fp64: embeddings are centered, norms fused into the
Linears behind them (llmcompressor/modeling/fuse.py), and every weight multiplied with a Hadamard matrix
(compressed_tensors/transform/factory/{base,hadamard}.py).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from pydantic import Field

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.rotations import (
    Matrices,
    RotatedInputs,
    TransformFields,
    TransformSpec,
    aligned,
    saved_matrices,
)
from planner.compress.modifiers.writing import write_back
from planner.cuda.reductions import dense_buffers
from planner.cuda.requests import temporaries
from planner.errors import RecipeError
from planner.models.traces import KEY_STATES, Call
from planner.models.tuned import OnlineRotation, Place
from planner.notes import Note
from planner.recipe.matching import Patterns
from planner.recipe.module_sets import ModuleSetError, module_sets
from planner.recipe.specs import ModelTraits, ModifierSpec, ModuleRef, Selection
from planner.recipe.targets import LinearModule
from planner.recipe.validation import validated
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


class SpinQuantFields(TransformFields):
    """Fields of SpinQuantModifier."""

    rotations: list[str] = Field(default_factory=lambda: ["R1", "R2"])
    mappings: Any = None
    norm_mappings: Any = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """One scheme: the weights that are multiplied on the side of their outputs, then those on the side of their inputs.

    R4 stays in the forward too, and R3 is there alone. R2's matrix counts where it is wider than a head (`size`).
    """

    name: str
    outputs: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpinQuantSpec(TransformSpec):
    """SpinQuantModifier."""

    type: ClassVar[str] = "SpinQuantModifier"
    rotations: tuple[str, ...] = DEFAULT
    embeddings: tuple[str, ...] = ()
    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Norms with the Linears behind them, found in a model (`bound`)."""
    rotated: tuple[Rotation, ...] = ()
    attentions: tuple[str, ...] = ()
    """R3: those whose queries and keys are rotated in every forward, and"""
    head_dim: int | None = 0
    """the size of the matrix; None where R2's go by the sides of their Linears."""
    is_routed: bool = False
    """The model is of the family that wants a preparation."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses what the library refuses."""
        entry = validated(SpinQuantFields, fields, where)
        entry.refuse_unfinished(where)
        if entry.transform_config is not None:
            text = (
                "LLM Compressor infers no mappings beside it and fails ('NoneType' object has no attribute 'embedding')"
            )
            raise RecipeError(text, f"{where}.transform_config")
        rotations = tuple(rotation.upper() for rotation in entry.rotations)
        for rotation in rotations:
            if rotation not in ("R1", "R2", "R3", "R4"):
                raise RecipeError(f"{rotation} is not one of R1, R2, R3, R4", f"{where}.rotations")
        return cls(
            where=where,
            notes=tuple(_unread(entry, where)),
            rotations=tuple(dict.fromkeys(rotations)),
            transform_type=entry.transform_type,
            transform_block_size=entry.transform_block_size,
            itemsize=entry.precision_itemsize(where),
        )

    def within(self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]) -> Self:
        """Raises RecipeError where the library cannot group norms, or make a matrix of a weight's size."""
        where = f"{self.where} ({facts.architecture})"
        if facts.head_dim == 0 and ("R3" in self.rotations or facts.heads):  # base.py on_initialize asks in any case
            raise RecipeError("the config does not say how wide a head is: LLM Compressor stops there", where)
        try:
            fused = tuple(_fused(modules, NORMS[-1:] if facts.architecture == ROUTED else NORMS))
        except ModuleSetError as error:
            raise RecipeError(f"{error}; LLM Compressor cannot fuse the norms of this model", where) from error
        rotated = tuple(self._rotations(modules))
        self._check_sizes(modules, rotated, facts.head_dim)
        embeddings = tuple(ref.name for ref in Patterns((EMBEDDING,)).of(modules))
        attentions = tuple(ref.name for ref in Patterns((ATTENTION,)).of(modules)) if "R3" in self.rotations else ()
        for name in attentions:
            if facts.head_dim is None:  # utils/matrix.py get_transform_size
                raise RecipeError(f"the config's head_dim is None: LLM Compressor cannot rotate keys of {name}", where)
            self.check_side(facts.head_dim, f"the heads of {name}", block=facts.head_dim)
        return replace(
            self,
            embeddings=embeddings,
            fused=fused,
            rotated=rotated,
            attentions=attentions,
            head_dim=facts.head_dim,
            is_routed=facts.architecture == ROUTED,
        )

    def check(self, modules: Sequence[ModuleRef], selection: Selection) -> Iterable[Note]:
        """What a script must have done before."""
        if self.is_routed:
            yield _unprepared(self.where)
        if self.attentions:
            yield _unturned(self.where)
        yield from self.garbage(self._garbage({ref.name: ref for ref in modules}))

    def hooked_inputs(
        self, facts: ModelTraits, modules: Sequence[ModuleRef], recipe: Sequence[ModifierSpec]
    ) -> frozenset[str]:
        """Those of R4."""
        rotated = self.within(facts, modules, recipe).rotated
        return frozenset(name for each in rotated if each.name == "R4" for name in each.inputs)

    def online(self, layer: str, modules: Sequence[ModuleRef]) -> Iterable[OnlineRotation]:
        """base.py `_create_r3_scheme`, `_create_r4_scheme`."""
        below = {ref.name: ref.name[len(layer) :] for ref in modules}
        places: tuple[tuple[str, Place], ...] = (("R3_q_attn", "query"), ("R3_k_cache", "key"))
        for name, place in places:
            for attention in (each for each in self.attentions if each in below):
                yield self.transform(name, below[attention], place, self.head_dim or 0, self.itemsize)
        sides = {ref.name: ref.columns for ref in modules}
        for name in (name for each in self.rotated if each.name == "R4" for name in each.inputs if name in below):
            size = self.transform_block_size or sides[name]
            yield self.transform("R4_input", below[name], "input", size, self.itemsize)

    def select(self, modules: Sequence[ModuleRef]) -> Selection:
        """All that is centered, fused or multiplied; norms are watched."""
        rotated = (name for each in self.rotated for name in (*each.outputs, *each.inputs))
        taken = {*self.embeddings, *(name for _, names in self.fused for name in names), *rotated}
        weights = {ref.name: None for ref in modules if ref.name in taken and ref.itemsize}
        watched = frozenset(norm for norm, _ in self.fused)
        return Selection(weights=weights, watched=watched, keys=frozenset(self.attentions))

    def added(self, modules: Sequence[ModuleRef]) -> Iterable[tuple[str, str, tuple[int, ...]]]:
        """The matrices that stay: R3's one, and R4's."""
        if self.attentions:
            sides = ((name, self.head_dim or 0) for name in self.attentions)
            yield from saved_matrices("R3_q_attn", sides, None, self.itemsize)
        if "R4" in self.rotations:
            sides = ((ref.name, ref.columns) for ref in Patterns(MLP_OUT).of(modules))
            yield from saved_matrices("R4_input", sides, self.transform_block_size, self.itemsize)

    def model(self, context: Context) -> "SpinQuantModel":
        """Weights in fp64, one at a time."""
        return SpinQuantModel(context, self)

    def _rotations(self, modules: Sequence[ModuleRef]) -> Iterator[Rotation]:
        def names(*patterns: str) -> tuple[str, ...]:
            return tuple(ref.name for ref in Patterns(patterns).of(modules))

        if "R1" in self.rotations:
            inputs = names(QUERY, KEY, VALUE, *MLP_IN, HEAD)
            yield Rotation("R1", names(EMBEDDING, ATTENTION_OUT, *MLP_OUT), inputs)
        if "R2" in self.rotations:
            yield Rotation("R2", names(VALUE), names(ATTENTION_OUT))
        if "R3" in self.rotations:
            yield Rotation("R3", (), ())
        if "R4" in self.rotations:
            yield Rotation("R4", (), names(*MLP_OUT))

    def _garbage(self, refs: Mapping[str, ModuleRef]) -> Iterator[int]:
        """R1's matrices and the inverses of random ones, and R4's inverses: all of these are in weights."""
        for each in self.rotated:
            made, inverted = (
                {self.size(each, side) for _, side in _sides(refs, names, outputs)}
                for names, outputs in ((each.outputs, True), (each.inputs, False))
            )
            yield from made | inverted if each.name != "R4" else ()
            yield from inverted if self.transform_type == "random-matrix" else ()

    def size(self, rotation: Rotation, side: int) -> int:
        """Of the matrix for this side of a weight; 0 for one that does not count."""
        if rotation.name == "R2":  # goes by the heads, less than a MB, and without their width by its Linears
            return side if self.head_dim is None else 0
        return self.transform_block_size or side

    def _check_sizes(self, modules: Sequence[ModuleRef], rotated: Sequence[Rotation], head_dim: int | None) -> None:
        refs = {ref.name: ref for ref in modules}
        for each in rotated:
            for name, side in (*_sides(refs, each.outputs, True), *_sides(refs, each.inputs, False)):
                if each.name != "R2" or head_dim != 0:
                    self.check_side(side, name, block=(head_dim or side) if each.name == "R2" else None)


def _sides(refs: Mapping[str, ModuleRef], names: Iterable[str], outputs: bool) -> Iterator[tuple[str, int]]:
    for ref in (refs[name] for name in names):
        yield ref.name, _side(ref.rows, ref.columns, "Embedding" in ref.classes, outputs)


def _side(rows: int, columns: int, is_embedding: bool, outputs: bool) -> int:
    return columns if outputs == is_embedding else rows


def _unread(entry: SpinQuantFields, where: str) -> Iterator[Note]:
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


def _unturned(where: str) -> Note:
    """compressed_tensors modeling/attention.py QuantizedAttentionImpl, utils/helpers.py `use_eager_attention`."""
    text = (
        f"{where}: R3 rotates keys alone while LLM Compressor runs samples. Calibration forces eager attention, which "
        "goes past the hooks of queries, so that what is learnt from activations behind attention is of scores that "
        "no one will compute."
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
class SpinQuantModel(ModifierModel):
    """Weights in fp64, one at a time; its matrices wait on the CPU."""

    def __init__(self, context: Context, spec: SpinQuantSpec) -> None:
        super().__init__(context)
        self.spec = spec
        self.modules: dict[str, LinearModule] = {}
        self.matrices: list[Matrices] = []
        self.inputs: RotatedInputs | None = None
        """R4."""
        self.rotated: frozenset[str] = frozenset()
        """Modules that R4 hooks."""
        self.keys: Matrices | None = None
        """R3."""
        self.hooked = frozenset(f"{name}.{KEY_STATES}" for name in spec.attentions)
        """States that R3 hooks."""
        self.stays_in_forward = "R3" in spec.rotations or "R4" in spec.rotations

    def on_calibration_start(self, modules: Iterable[LinearModule]) -> None:
        """base.py `on_calibration_start`: nothing that is onloaded stays so."""
        self.modules = {module.name: module for module in modules}
        kept, self.context.keep_onloaded = self.context.keep_onloaded, False
        for name in self.spec.embeddings:
            self._center(self.modules[name])
        for norm, linears in self.spec.fused:
            self._fuse(norm, [self.modules[name] for name in linears])
        for rotation in self.spec.rotated:
            if rotation.name == "R3":
                self._attach_keys()
            elif rotation.name == "R4":
                self._attach(rotation)
            else:
                self._rotate(rotation)
        self.context.keep_onloaded = kept

    def before_forward(self, module: LinearModule, call: Call) -> None:
        """R4's input hook, and R3's of keys."""
        if self.inputs is not None and module.name in self.rotated:
            self.inputs.enter(module, call)
        if self.keys is not None and module.name in self.hooked:
            self._rotate_keys(self.keys, module, call)

    def returned(self, module: LinearModule, call: Call) -> None:
        """The rotated input goes."""
        if self.inputs is not None:
            self.inputs.leave(module)

    def on_finalize(self) -> None:
        """hadamard.py HadamardFactory refers to itself, so that Python's collector must come for its matrices."""
        for matrices in self.matrices:
            matrices.free()
        if self.inputs is not None:
            self.inputs.finalize()

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

    def _attach(self, rotation: Rotation) -> None:
        """base.py `_create_r4_scheme`: its matrices lie with the model for good."""
        matrices = Matrices(self.context, rotation.name, self.spec.transform_type, self.spec.itemsize)
        self.inputs, self.rotated = RotatedInputs(matrices, self.spec.transform_block_size), frozenset(rotation.inputs)
        self.inputs.attach([self.modules[name] for name in rotation.inputs])

    def _attach_keys(self) -> None:
        """base.py `_create_r3_scheme`: one matrix, and two hooks for each attention."""
        self.keys = Matrices(self.context, "R3", self.spec.transform_type, self.spec.itemsize)
        self.keys.make(self.spec.head_dim or 0)
        self.keys.keep_scales(2 * len(self.spec.attentions))

    def _rotate_keys(self, matrices: Matrices, module: LinearModule, call: Call) -> None:
        """factory/base.py `key_hook`: the attention gets the rotated keys, and lets go of the others.

        native/LinearAlgebra.cpp matmul makes (batch * heads, tokens, width) of them: a copy where heads lie side by
        side, in more than one sample.
        """
        copied = call.dims[0] > 1 and call.dims[1] > 1 and call.contiguous
        owner, elements = Owner(module.name, "rotated"), call.rows * call.columns
        rotated = matrices.rotated(self.spec.head_dim or 0, elements, call.itemsize, owner, copied=copied)
        self.context.forward.replace(call.arguments[0], rotated)

    def _rotate(self, rotation: Rotation) -> None:
        """factory/base.py `_apply_to_module`, with one matrix for each size."""
        matrices = Matrices(self.context, rotation.name, self.spec.transform_type)
        self.matrices.append(matrices)
        for names, outputs in ((rotation.outputs, True), (rotation.inputs, False)):
            for name in names:
                module = self.modules[name]
                side = _side(module.rows, module.columns, module.embedding, outputs)
                matrices.rotate(module, self.spec.size(rotation, side), inverse=not outputs)

    def _aligned(self, module: LinearModule) -> AbstractContextManager[None]:
        """align_module_device: onloaded inside."""
        return aligned(self.context, module)

    def _write(self, module: LinearModule) -> None:
        write_back(self.context, module.name, "weight", module.weight_bytes, module.weight_bytes)
