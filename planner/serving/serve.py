"""One model in one format in, one Serving record out: memory of every GPU, what fits, and the speed ceiling.

How serving is sized. A model has four readers here, and each answers one question about one GPU:

    weights      model.py lists the tensors, a format (planner/formats) says what each takes, split.py where it lies
    cache        cache_layers.py runs the model once and reads what transformers' cache then holds, layer by layer;
                 cache.py multiplies by tokens, sequences and the cache's type
    activations  prefill.py runs one prefill step without data, attention and experts as servers' kernels run them
    overhead     overhead.py: the CUDA context and what the engine holds beside, each part with its source

What differs between engines is in their records (engines/) and nowhere else. need.py adds the four up into what every
GPU needs at a context and a number of sequences; what fits is a search over that sum (search.py), and the speed
ceiling is the bytes that a decoding step reads over the bandwidth (speed.py). A figure is what is needed, not what an
engine reserves: vLLM's unused share of the card is a part of its own. Only the files model, cache_layers, prefill* and
shards.py run a model, and so import torch; all else is arithmetic on records.
"""

from math import ceil

from planner.errors import JobError
from planner.formats.registry import Format, find_format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import StoredModel
from planner.hardware import Gpu, find_gpu, size_notes
from planner.serving.activations import Activations
from planner.serving.cache import kv_dtype
from planner.serving.engines import chunk_of, engine_of
from planner.serving.engines.facts import EngineFacts
from planner.serving.need import Setting, limits, shares
from planner.serving.overhead import overhead_parts
from planner.serving.record_parts import (
    activation_use,
    cache_use,
    decode_speed,
    gpu_facts,
    model_size,
    notes,
    overhead_use,
    parameter_notes,
    weight_use,
)
from planner.serving.schema import (
    MAX_BATCH,
    MAX_CONTEXT,
    ActivationUse,
    CacheUse,
    GpuShare,
    ModelSize,
    Overhead,
    OverheadPart,
    ServeOptions,
    Serving,
    SplitFacts,
    WeightUse,
)
from planner.serving.search import Squeezed
from planner.serving.split import as_held_by, place

DEFAULT_CONTEXT = 4096
AUTO = "auto"


def serve(model: str, weights: str, options: ServeOptions | None = None) -> Serving:
    """What serving a preset, config.json, folder or Hub id in a format takes.

    Raises ModelError, JobError or UnsupportedError; nothing else for bad input.
    """
    options = options or ServeOptions()
    weight_format = find_format(weights)
    check(weight_format, options)
    from planner.serving.model import load_served

    served, activations = load_served(model, options.dtype)
    return size(served, activations, weight_format, options)


def check(weight_format: Format, options: ServeOptions) -> None:
    """Raise JobError for what is wrong whatever the model is, before one is built."""
    engine = engine_of(weight_format, options)
    if options.kv_dtype != AUTO:
        kv_dtype(options.kv_dtype)
    if options.gpu_memory_utilization is not None and engine.left_to_others is None:
        raise JobError(f"--gpu-memory-utilization is vLLM's; {weight_format.name} is served by {engine.name}")
    if options.overhead is not None and options.reserve:
        raise JobError("--overhead is one flat part in the place of all parts: leave --reserve out, or --overhead")
    gpu = _gpu(options)
    overhead_parts(engine, options, weights=0, memory=gpu.memory_bytes if gpu else None)


def size(served: ServedModel, activations: Activations, weight_format: Format, options: ServeOptions) -> Serving:
    """What serving a model that is built already takes. Pure: no torch, no files."""
    return size_stored(served, activations, weight_format, weight_format.store(served), options)


def size_stored(
    served: ServedModel, activations: Activations, weight_format: Format, stored: StoredModel, options: ServeOptions
) -> Serving:
    """What serving a model takes whose tensors are in their format already. Pure."""
    engine, gpu = engine_of(weight_format, options), _gpu(options)
    stored = as_held_by(engine, stored)
    beyond = options.beyond_positions or (options.context or 0) > (served.max_positions or MAX_CONTEXT)
    most = served.max_positions if served.max_positions and not beyond else MAX_CONTEXT
    setting = Setting(
        model=served,
        activations=Squeezed(activations, most if gpu and chunk_of(engine, options, gpu) else 1),
        placement=place(served, stored, engine, options),
        engine=engine,
        chunk=chunk_of(engine, options, gpu),
        memory=gpu.memory_bytes if gpu else None,
        options=options.model_copy(update={"kv_dtype": cache_type(engine, options, stored.kv_dtype)}),
    )
    context = options.context or min(DEFAULT_CONTEXT, most)
    gpus = shares(setting, context, options.batch)
    largest = limits(setting, context, options.batch, most_context=most, most_batch=MAX_BATCH)
    fullest = max(gpus, key=lambda share: share.total_bytes)
    return Serving(
        model=model_size(served),
        options=options,
        engine=engine.name,
        context=context,
        batch=options.batch,
        weights=weight_use(weight_format, stored, setting.placement),
        kv_cache=cache_use(setting, context, gpus),
        activations=activation_use(setting, context, gpus),
        overhead=overhead_use(setting, gpus),
        gpu=gpu_facts(gpu),
        split=SplitFacts(
            mode=setting.placement.mode,
            gpus=options.gpus,
            gpu_layers=setting.placement.gpu_layers,
            layers=served.layers,
        ),
        per_gpu=fullest,
        gpus=gpus,
        fits=None if gpu is None else fullest.total_bytes <= gpu.memory_bytes,
        spare_bytes=None if gpu is None else gpu.memory_bytes - fullest.total_bytes,
        max_context=largest.context,
        max_batch=largest.batch,
        max_users=largest.users,
        speed=decode_speed(setting, context, gpu),
        card_support=engine.card_support(stored.schemes, gpu.sm) if gpu else None,
        notes=(*notes(setting, stored, context, largest, gpu), *getattr(activations, "notes", ()), *size_notes(gpu)),
    )


def serve_parameters(params: int, weights: str, options: ServeOptions | None = None) -> Serving:
    """What a model takes of which only the number of parameters is known: weights and overhead.

    Cache and activations stay unknown (null). Raises JobError for a format without bits per weight of its own, and
    for options that need a model's layers.
    """
    options = options or ServeOptions()
    weight_format = find_format(weights)
    check(weight_format, options)
    if weight_format.bits is None:
        raise JobError(
            f"--weights {weight_format.name} mixes types by tensor: name a model, or a type with bits of its own"
        )
    if options.gpu_layers is not None:
        raise JobError("-ngl needs a model's layers; name a model instead of --params")
    engine, gpu = engine_of(weight_format, options), _gpu(options)
    whole = ceil(params * weight_format.bits / 8)
    share, parts = _even_share(whole, engine, gpu, options)
    return Serving(
        model=ModelSize(
            name=f"{params:,} parameters",
            architecture=None,
            parameters=params,
            active_parameters=None,
            max_positions=None,
        ),
        options=options,
        engine=engine.name,
        context=options.context or DEFAULT_CONTEXT,
        batch=options.batch,
        weights=_flat_weights(weight_format, whole, share.weights_bytes * options.gpus),
        kv_cache=_unknown_cache(engine, options),
        activations=ActivationUse(bytes=None, method=None, tokens=None, sequences=None, rule_bytes=None),
        overhead=Overhead(bytes=share.overhead_bytes * options.gpus, parts=parts),
        gpu=gpu_facts(gpu),
        split=SplitFacts(mode=None, gpus=options.gpus, gpu_layers=None, layers=None),
        per_gpu=share,
        gpus=(share,) * options.gpus,
        # what is not known needs memory too: only "does not fit" is certain
        fits=False if gpu is not None and share.total_bytes > gpu.memory_bytes else None,
        spare_bytes=None if gpu is None else gpu.memory_bytes - share.total_bytes,
        max_context=None,
        max_batch=None,
        max_users=None,
        speed=None,
        notes=(*parameter_notes(weight_format, options), *size_notes(gpu)),
    )


def cache_type(engine: EngineFacts, options: ServeOptions, of_format: str | None) -> str:
    """What keys and values are kept in: as asked, else the engine's own type, else what the format makes of them or
    the model computes in."""
    if options.kv_dtype != AUTO:
        return kv_dtype(options.kv_dtype)
    return engine.cache_type or of_format or kv_dtype(options.dtype)


def _gpu(options: ServeOptions) -> Gpu | None:
    return None if options.gpu is None else find_gpu(options.gpu)


def _even_share(
    whole: int, engine: EngineFacts, gpu: Gpu | None, options: ServeOptions
) -> tuple[GpuShare, tuple[OverheadPart, ...]]:
    """One of equal GPUs, and the parts of its overhead."""
    each = -(-whole // options.gpus)
    parts = overhead_parts(engine, options, weights=each, memory=gpu.memory_bytes if gpu else None)
    beside = sum(part.bytes for part in parts)
    share = GpuShare(
        total_bytes=each + beside,
        weights_bytes=each,
        kv_cache_bytes=None,
        activations_bytes=None,
        overhead_bytes=beside,
    )
    return share, parts


def _unknown_cache(engine: EngineFacts, options: ServeOptions) -> CacheUse:
    return CacheUse(
        dtype=cache_type(engine, options, None),
        bytes=None,
        cpu_bytes=None,
        bytes_per_token=None,
        state_bytes=None,
        rule_bytes=None,
    )


def _flat_weights(weight_format: Format, whole: int, on_gpus: int) -> WeightUse:
    assert weight_format.bits is not None
    return WeightUse(
        format=weight_format.name,
        family=weight_format.family,
        bytes=on_gpus,
        cpu_bytes=0,
        file_bytes=whole,
        replicated_bytes=0,
        bits_per_weight=float(weight_format.bits),
        by_unit={"other": whole},
    )
