"""compressed-tensors: every preset scheme, and whatever a recipe of LLM Compressor makes of a model.

Modules are targeted and checked by planner.compress.binding, as for a plan; planner.formats.compressed_schemes knows
what each of them is stored as.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from planner.compress.binding import make_program
from planner.compress.recipes import load_recipe, recipe_from_dict
from planner.errors import RecipeError, UnsupportedError
from planner.formats.compressed_schemes import block_of, describe, module_bytes
from planner.formats.plain import keep
from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import ANY_EXPERT, Stored, StoredModel, Weight, nothing_to_quantize
from planner.job import Job
from planner.notes import Note, texts
from planner.recipe.dtypes import zero_point_itemsize
from planner.recipe.files import list_recipes
from planner.recipe.specs import QuantArgs, Recipe, Scheme
from planner.upstream import ATTENTION_PROJECTIONS

if TYPE_CHECKING:
    from planner.compress.program import Program
    from planner.models.graph import ModelGraph, ModuleInfo

# What the shipped recipes and LLM Compressor's examples leave out, beside the head.
IGNORE = (
    "re:.*lm_head",
    r"re:.*mlp\.gate$",
    "re:.*shared_expert_gate$",
    "re:.*router$",
    "re:.*visual.*",
    "re:.*vision_tower.*",
    "re:.*vision_model.*",
    "re:.*multi_modal_projector.*",
    "re:.*audio_tower.*",
)

SPARSE_NOTE = Note(
    kind="result",
    text="Pruned weights are stored and served as zeros at full size: compressed-tensors has had no sparse format "
    "since 0.14 (model_compressor.py: Sparse24 is no longer supported), so sparsity saves no bytes.",
)

_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_GROUPED = Fraction(16, 128)  # one 16-bit scale for 128 weights

# Preset, bits of a weight with its group's scales (scales of rows and tensors are next to nothing), summary.
_PRESETS: tuple[tuple[str, Fraction, str], ...] = (
    ("W4A16_ASYM", 4 + _GROUPED + Fraction(4, 128), "int4 weights with zero points, groups of 128"),
    ("W8A8", Fraction(8), "int8 weights, one scale a row, int8 activations"),
    ("W4AFP8", 8 + _GROUPED, "int4 weights stored in one byte each, fp8 activations"),
    ("FP8", Fraction(8), "fp8 weights and activations, one scale a tensor"),
    ("FP8_DYNAMIC", Fraction(8), "fp8 weights, one scale a row, activations scaled while serving"),
    ("FP8_BLOCK", 8 + Fraction(16, 128 * 128), "fp8 weights, one scale for 128x128"),
    ("NVFP4A16", Fraction(4) + Fraction(8, 16), "4-bit floats, fp8 scales for 16"),
    ("NVFP4", Fraction(4) + Fraction(8, 16), "4-bit floats, fp8 scales for 16, activations too"),
    ("MXFP4A16", Fraction(4) + Fraction(8, 32), "4-bit floats, power-of-two scales for 32"),
    ("MXFP4", Fraction(4) + Fraction(8, 32), "4-bit floats, power-of-two scales for 32, activations too"),
    ("MXFP8A16", Fraction(8) + Fraction(8, 32), "fp8 weights, power-of-two scales for 32"),
    ("MXFP8", Fraction(8) + Fraction(8, 32), "fp8 weights, power-of-two scales for 32, activations too"),
    *((f"W{n}A16", n + _GROUPED, f"int{n} weights, groups of 128") for n in range(2, 9)),
    *(
        (f"W{n}A{a}", 8 + _GROUPED, f"int{n} weights stored in one byte each, int{a} activations")
        for n, a in ((2, 4), (2, 8), (3, 4), (3, 8), (4, 4), (4, 8), (5, 8), (6, 8), (7, 8))
    ),
)


def formats() -> Iterable[Format]:
    """The preset schemes, each on all Linears but the head, MoE routers and vision towers."""
    for name, bits, summary in _PRESETS:
        yield Format(
            name=name,
            family="compressed-tensors",
            summary=f"{summary}; head and embeddings 16-bit",
            bits=bits,
            store=_store_preset(name),
            aliases=(f"ct:{name.lower()}",),
        )


def parse(text: str) -> Format | None:
    """The format that a recipe makes: a shipped recipe's name, `recipe:NAME`, or the path of a recipe file.

    None for a text that is neither. Raises RecipeError for a recipe that cannot be read.
    """
    prefix, _, rest = text.partition(":")
    named = rest.strip() if prefix.lower() == "recipe" and rest.strip() else None
    shipped = {info.name for info in list_recipes()}
    if named is None and text not in shipped and Path(text).suffix.lower() not in (".yaml", ".yml", ".json", ".md"):
        return None
    recipe = load_recipe(named or text)
    return Format(
        name=recipe.name,
        family="compressed-tensors",
        summary=f"what the recipe {recipe.name} makes of the model",
        bits=None,
        store=lambda served: store_recipe(served, recipe),
    )


def store_recipe(served: ServedModel, recipe: Recipe) -> StoredModel:
    """The checkpoint that `oneshot` with this recipe saves, as it is stored and as it is served.

    Raises RecipeError where LLM Compressor would refuse the recipe for this model, UnsupportedError where it leaves
    another model.
    """
    for spec in recipe.modifiers:
        if (left := spec.experts_left(served.graph.facts)) is not None:
            raise UnsupportedError(
                f"{recipe.name}: {spec.type} leaves a model with {left} experts in each layer; name that model, by a "
                "config.json with this number"
            )
    program, notes = make_program(served.graph, recipe, Job())
    # what is estimated is the job's memory: nothing that a served model's reader needs
    return _stored_model(served, recipe, program, [note for note in notes if note.kind != "estimate"])


def _stored_model(
    served: ServedModel, recipe: Recipe, program: "Program", notes: Sequence[Note], each_stands_for_all: bool = False
) -> StoredModel:
    """The model with the schemes that a recipe gave its modules.

    `each_stands_for_all`: the program knows one expert of each layer, and all get its scheme.
    """
    sparse = [SPARSE_NOTE] if any(spec.prunes for spec in recipe.modifiers) else []
    schemes = _schemes(program)
    copies = {weight.name: weight.copies for weight in served.weights}
    counts = _counted(schemes)
    shared = _shared(served, counts.keys() - copies.keys())
    sentences = texts((*recipe.notes, *notes, *sparse, *shared))
    if each_stands_for_all:
        known = ((name, chosen) for name, chosen in counts.items() if name in copies)
        counts = {name: Counter(dict.fromkeys(chosen, copies[name])) for name, chosen in known}
    extra = _cache_scales(served, recipe) + _untied_head(served, schemes)
    tensors = (_stored(w, counts.get(w.name), extra[w.name], served.graph.itemsize) for w in served.weights)
    return StoredModel(
        format=recipe.name,
        tensors=tuple(tensors),
        kv_dtype=cache_dtype(recipe),
        schemes=tuple(dict.fromkeys(schemes.values())),
        notes=sentences,
    )


def preset_recipe(name: str, graph: "ModelGraph") -> Recipe:
    """Round to nearest with a preset scheme on all Linears but those that stay 16-bit by custom."""
    head = [graph.head] if graph.head and not graph.head.endswith("lm_head") else []
    fields = {"targets": ["Linear"], "scheme": name, "ignore": [*IGNORE, *head]}
    return recipe_from_dict({"quant_stage": {"quant_modifiers": {"QuantizationModifier": fields}}}, name)


def _store_preset(name: str) -> Callable[[ServedModel], StoredModel]:
    def store(served: ServedModel) -> StoredModel:
        try:
            # A preset treats all experts alike: matching all 44,544 Linears of DeepSeek-V3's takes a third of a second.
            graph = _with_one_expert(served.graph)
            recipe = preset_recipe(name, graph)
            program, notes = make_program(graph, recipe, Job())
            if not _schemes(program):
                raise nothing_to_quantize(name, served.name, served.weights)
            return _stored_model(served, recipe, program, notes, each_stands_for_all=True)
        except RecipeError as error:  # its path leads into a recipe that nobody wrote, and so does its advice
            reason = str(error).removeprefix(f"{error.where}: ").partition("; ")[0]
            raise UnsupportedError(f"{name}: LLM Compressor refuses it for {served.name}: {reason}") from error

    return store


def _with_one_expert(graph: "ModelGraph") -> "ModelGraph":
    """The graph with the first routed expert of each layer alone."""

    def kept(module: "ModuleInfo") -> bool:
        number = _EXPERT.search(module.name + ".")
        return number is None or number[1] == "0"

    structures = (replace(s, modules=tuple(filter(kept, s.modules))) for s in graph.structures)
    return replace(graph, structures=tuple(structures))


def _schemes(program: "Program") -> dict[str, Scheme]:
    """The scheme each module ends with: apply.py gives a module that is targeted again the later one."""
    return {
        unit.unit + module.name: module.scheme
        for run in program.runs
        for unit in run.units
        for module in unit.modules
        if module.scheme is not None
    }


def _counted(schemes: dict[str, Scheme]) -> dict[str, Counter[Scheme]]:
    """How many copies of each Weight have which scheme."""
    counts: dict[str, Counter[Scheme]] = {}
    for module, scheme in schemes.items():
        name = _EXPERT.sub(ANY_EXPERT, module) + ".weight"
        counts.setdefault(name, Counter())[scheme] += 1
    return counts


def _shared(served: ServedModel, names: Iterable[str]) -> Iterator[Note]:
    """Quantized matrices that are another layer's: zamba2's blocks come again and again with the same weights."""
    again = [name for name in names if name != f"{served.graph.head}.weight"]
    if again:
        text = (
            f"{len(again)} matrices are the same tensors as another layer's, {min(again)} among them: each is counted "
            "once, on disk too."
        )
        yield Note(kind="result", text=text)


def _stored(weight: Weight, schemes: Counter[Scheme] | None, extra: int, dtype_bytes: int) -> Stored:
    """A tensor with the bytes of its quantization, and `extra` ones that belong to it."""
    block = max((found for scheme in schemes or () if (found := block_of(scheme))), default=None)
    if not schemes:
        plain = keep(weight, dtype_bytes)
        if not extra:
            return plain
        size, kind = plain.file_bytes + extra, plain.type
    else:
        rows, columns = weight.shape[0], weight.elements // weight.copies // weight.shape[0]
        left = weight.copies - schemes.total()
        quantized = sum(n * module_bytes(rows, columns, scheme, dtype_bytes) for scheme, n in schemes.items())
        size = quantized + left * rows * columns * dtype_bytes + extra
        kind = ", ".join(dict.fromkeys(describe(scheme) for scheme in schemes))
    return Stored(weight=weight, type=kind, file_bytes=size, gpu_bytes=size, block=block)


def _untied_head(served: ServedModel, schemes: dict[str, Scheme]) -> Counter[str]:
    """A head that shares the embedding's table is stored beside it once one of the two is quantized.

    llmcompressor calibrates them untied; compressed_tensors_utils.py `_retie_embeddings` ties them again where
    both hold the same tensors.
    """
    graph = served.graph
    head, table = schemes.get(graph.head), schemes.get(graph.embedding)
    shared = next((w for w in served.weights if w.module == graph.embedding), None)
    if not served.tied or head == table or shared is None:
        return Counter()
    if head is None:
        return Counter({shared.name: shared.elements * graph.itemsize})
    return Counter({shared.name: module_bytes(shared.shape[0], shared.shape[1], head, graph.itemsize)})


def cache_dtype(recipe: Recipe) -> str | None:
    """What the recipe's kv_cache_scheme makes of keys and values: fp8 or int8; None without one."""
    args = _cache_args(recipe)
    return None if args is None else {(8, "float"): "fp8", (8, "int"): "int8"}.get((args.num_bits, args.type))


def _cache_args(recipe: Recipe) -> QuantArgs | None:
    """kv_cache_scheme of the last modifier that has one."""
    args = [spec.kv_cache for spec in recipe.modifiers if spec.kv_cache is not None]
    return args[-1] if args else None


def _cache_scales(served: ServedModel, recipe: Recipe) -> Counter[str]:
    """initialize.py initialize_attn_qparams: k_scale and v_scale of each attention, kept with its projection."""
    args = _cache_args(recipe)
    if args is None or args.dynamic is True:
        return Counter()
    size = 2 * _cache_scale_bytes(args, served)
    return Counter(dict.fromkeys(_cached_projections(served.graph), size))


def _cache_scale_bytes(args: QuantArgs, served: ServedModel) -> int:
    """Bytes of the scales, and zero points, of the keys (or the values) of one attention."""
    if args.strategy not in ("tensor", "attn_head"):
        raise UnsupportedError(f"kv_cache_scheme: planner does not know the scales of strategy {args.strategy}")
    count = served.kv_heads if args.strategy == "attn_head" else 1
    return count * (served.graph.itemsize + (0 if args.symmetric else zero_point_itemsize(args)))


def _cached_projections(graph: "ModelGraph") -> Iterator[str]:
    """The weight of the first projection in each attention that has a cache: those of the text decoder."""
    for unit in graph.units:
        if unit.kind != "decoder":
            continue
        modules = graph.structures[unit.structure].modules
        names = {module.name for module in modules}
        for module in modules:
            inside = [f"{module.name}.{part}" for part in ATTENTION_PROJECTIONS if f"{module.name}.{part}" in names]
            if inside and "attention" in module.classes[0].lower():
                yield f"{unit.name}{inside[0]}.weight"
