"""Random toy models, jobs and recipes; sizes are small, odd and rarely equal."""

from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from planner.compress.modifiers.awq import AwqSpec
from planner.compress.modifiers.gptq import GPTQSpec
from planner.compress.modifiers.wanda import WandaSpec
from planner.job import Job
from planner.recipe.awq_mappings import AwqMapping
from planner.recipe.specs import ModifierSpec, QuantArgs, Recipe
from tests import toys
from tests.toys import Layer, Linear, Toy

NAMES = (".gate_proj", ".up_proj", ".q_proj")
GROUP = 100
STRATEGIES: tuple[dict[str, Any], ...] = (
    {"strategy": "tensor", "group_size": None},
    {"strategy": "channel", "group_size": None},
    {"strategy": "group", "group_size": GROUP},
    {"strategy": "block", "group_size": None, "block_structure": (128, 64)},
    {"strategy": "tensor_group", "group_size": GROUP, "scale_dtype": "float8_e4m3fn", "zp_dtype": "float8_e4m3fn"},
)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    side = st.integers(1, 5).map(lambda n: n * GROUP)
    count = draw(st.integers(1, len(NAMES)))
    linears = tuple(Linear(name=name, rows=draw(side), columns=draw(side)) for name in NAMES[:count])
    return Layer(linears=linears, scores=draw(st.integers(0, 60_000)))


@st.composite
def models(draw: st.DrawFn, batch_size: int = 1, on_disk: frozenset[str] = frozenset()) -> Toy:
    """Layers of up to three kinds in any order; per-batch sizes are whole samples."""
    kinds = tuple(draw(st.lists(layers(), min_size=1, max_size=3)))
    order = tuple(draw(st.lists(st.integers(0, len(kinds) - 1), min_size=1, max_size=8)))
    sample = st.integers(1, 9_000)
    return Toy(
        kinds=kinds,
        order=order,
        tokens=draw(st.integers(1, 40)) * batch_size,
        batch_size=batch_size,
        itemsize=draw(st.sampled_from((2, 4))),
        hidden=draw(sample) * batch_size,
        mask=draw(sample) * batch_size,
        positions=draw(sample),
        ids=draw(st.integers(1, 600)),
        embedding=draw(st.integers(1, 900)) * 100,
        norm=draw(st.integers(1, 900)) * 100,
        head=draw(st.integers(1, 900)) * 100,
        tied=draw(st.booleans()),
        on_disk=on_disk,
    )


@st.composite
def jobs(draw: st.DrawFn, **fixed: Any) -> Job:
    options: dict[str, Any] = {
        "samples": draw(st.integers(1, 40)),
        "targets_per_subgraph": draw(st.integers(1, 4)),
        "propagate_error": draw(st.booleans()),
        "prefetch": draw(st.booleans()),
        "loss_mask": draw(st.booleans()),
        "progress_bars": draw(st.booleans()),
        "offload_device": draw(st.sampled_from(("cpu", "gpu", "gpu:1"))),
        "weights": draw(st.sampled_from(("cpu", "cpu", "gpu", "disk"))),
        "pipeline": draw(st.sampled_from(("independent", "independent", "sequential", "basic", "datafree"))),
        "gpu_memory_bytes": draw(st.integers(1, 60_000_000)),
    } | fixed
    most = 1 if options["offload_device"] == "gpu:1" else 3  # that card is rank 1's own
    ranks = draw(st.sampled_from((1, 1, 1, 2, 3)))  # of several, each is simulated to find the heaviest
    options.setdefault("ranks", min(ranks, most, options["samples"]))
    each = -(-options["samples"] // options["ranks"])
    options.setdefault("batch_size", draw(st.integers(1, min(4, each))))
    return toys.job(**options)


@st.composite
def weights(draw: st.DrawFn, *, ordered: bool = False) -> QuantArgs:
    changes = dict(draw(st.sampled_from(STRATEGIES)))
    observer = draw(st.sampled_from(("memoryless_minmax", "memoryless_mse", "imatrix_mse")))
    actorder = draw(st.sampled_from((None, "static", "weight"))) if ordered else None
    return toys.weights(symmetric=draw(st.booleans()), observer=observer, actorder=actorder, **changes)


@st.composite
def gptqs(draw: st.DrawFn) -> GPTQSpec:
    batched = draw(st.sampled_from(("auto", "auto", None, 1, 2, 5)))
    block = draw(st.sampled_from((64, 100, 128, 1000)))
    return toys.gptq(draw(weights(ordered=True)), batched_quantization=batched, block_size=block)


@st.composite
def sparsegpts(draw: st.DrawFn) -> ModifierSpec:
    n, m = draw(st.sampled_from(((0, 0), (2, 4), (1, 2))))
    return toys.sparsegpt(
        prune_n=n,
        prune_m=m,
        block_size=draw(st.sampled_from((64, 100, 128, 1000))),
        preserve_sparsity_mask=draw(st.booleans()),
        offload_hessians=draw(st.booleans()),
    )


@st.composite
def wandas(draw: st.DrawFn) -> ModifierSpec:
    n, m = draw(st.sampled_from(((0, 0), (2, 4), (1, 2))))
    return WandaSpec(where="toy.yaml: wanda", sparsity=0.5, prune_n=n, prune_m=m, ignore=("re:.*lm_head",))


def modifiers() -> st.SearchStrategy[ModifierSpec]:
    return st.one_of(weights().map(toys.rtn), weights().map(toys.static_rtn), gptqs(), sparsegpts(), wandas())


@st.composite
def smoothed(draw: st.DrawFn) -> tuple[ModifierSpec, ...]:
    """AWQ, which scales one Linear of each layer by another's inputs, and what quantizes after it."""
    quantizer = draw(st.one_of(weights().map(toys.rtn), weights().map(toys.static_rtn), gptqs()))
    has_one_scale = quantizer.groups[0].weights.strategy == "tensor"  # the library refuses duo scaling of these
    duo, points = draw(st.sampled_from(((False, 2), (True, 3), ("both", 4))))  # as few points as the library takes
    smooth, balance = draw(st.permutations(NAMES[:2]))
    awq = AwqSpec(
        where="toy.yaml: awq",
        mappings=(AwqMapping(f"re:.*{smooth[1:]}$", (f"re:.*{balance[1:]}$",)),),
        offload_device=draw(st.sampled_from((None, "cpu", "not_provided"))),
        duo_scaling=False if has_one_scale else duo,
        n_grid=points,
    )
    return awq, quantizer


def recipes(model: Toy) -> st.SearchStrategy[Recipe]:
    """One modifier or two; AWQ where the model can be smoothed."""
    some: st.SearchStrategy[Any] = st.lists(modifiers(), min_size=1, max_size=2)
    if can_be_smoothed(model):
        some = st.one_of(some, some, some, some, smoothed())
    return some.map(lambda specs: toys.recipe(*specs))


def can_be_smoothed(model: Toy) -> bool:
    """All layers have the two Linears of AWQ's mapping."""
    return all(len(model.layer(index).linears) > 1 for index in range(model.layers))


@st.composite
def cases(draw: st.DrawFn, *, with_awq: bool = False, **fixed: Any) -> tuple[Toy, Recipe, Job]:
    """A model, a recipe and a job that belong together; `with_awq`: the recipe is one of AWQ."""
    job, some = draw(jobs(**fixed)), ({""}, {"model.layers.0", "lm_head"}, {"model.layers.1", "model.embed_tokens"})
    on_disk = draw(st.sampled_from(some)) if job.weights == "disk" else ()
    model = draw(models(batch_size=job.batch_size, on_disk=frozenset(on_disk)))
    if with_awq:
        assume(can_be_smoothed(model))
        return model, toys.recipe(*draw(smoothed())), job
    return model, draw(recipes(model)), job
