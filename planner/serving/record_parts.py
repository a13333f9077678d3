"""The parts of a Serving record: what weights, cache, activations and overhead take, and how fast it can be."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from planner.formats.registry import Format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import StoredModel, Weight
from planner.hardware import Gpu
from planner.serving.cache import KV_DTYPES, kv_dtype
from planner.serving.engines.facts import EngineFacts
from planner.serving.need import Limits, Setting
from planner.serving.rules_of_thumb import activation_rule, kv_cache_rule
from planner.serving.schema import (
    MAX_CONTEXT,
    ActivationUse,
    CacheUse,
    GpuFacts,
    GpuShare,
    ModelSize,
    Overhead,
    OverheadPart,
    ServeOptions,
    Speed,
    WeightUse,
)
from planner.serving.speed import CPU_BANDWIDTH, bytes_read, speed
from planner.serving.split import Placement, Share

OTHER_TYPES = ("fp16", "fp32")
"""Plain formats of models that nobody computes with in bfloat16."""
_ATTENTION = ("attn", "attention", "mamba", "mixer", "ssm")


def model_size(served: ServedModel) -> ModelSize:
    """The model's numbers."""
    return ModelSize(
        name=served.name,
        architecture=served.architecture,
        parameters=served.parameters,
        active_parameters=served.active_parameters,
        max_positions=served.max_positions,
    )


def gpu_facts(gpu: Gpu | None) -> GpuFacts | None:
    """The GPU as the record keeps it."""
    if gpu is None:
        return None
    return GpuFacts(name=gpu.name, memory_bytes=gpu.memory_bytes, bandwidth=gpu.bandwidth, source=gpu.source)


def weight_use(weight_format: Format, stored: StoredModel, placement: Placement) -> WeightUse:
    """The weights as they lie on the devices."""
    parts: dict[str, int] = defaultdict(int)
    for tensor in stored.tensors:
        parts[_part(tensor.weight)] += tensor.gpu_bytes + tensor.cpu_bytes
    on_gpus, on_cpu = placement.bytes, placement.cpu.bytes
    once = stored.gpu_bytes + stored.cpu_bytes
    return WeightUse(
        format=weight_format.name,
        family=weight_format.family,
        bytes=on_gpus,
        cpu_bytes=on_cpu,
        file_bytes=stored.file_bytes,
        replicated_bytes=on_gpus + on_cpu - once,
        bits_per_weight=stored.bits_per_weight,
        by_unit=dict(parts),
    )


def cache_use(setting: Setting, context: int, gpus: Sequence[GpuShare]) -> CacheUse:
    """The cache on the devices; beside it the multi-head rule."""
    model, options = setting.model, setting.options
    dtype = kv_dtype(options.kv_dtype)
    each = [setting.cache(share.cache, context, options.batch) for share in setting.placement.gpus]
    on_cpu = setting.cache(setting.placement.cpu.cache, context, options.batch)
    return CacheUse(
        dtype=dtype,
        bytes=sum(gpu.kv_cache_bytes or 0 for gpu in gpus),
        cpu_bytes=on_cpu.bytes,
        bytes_per_token=setting.whole_cache(context).bytes_per_token,
        state_bytes=sum(size.state_bytes for size in each) + on_cpu.state_bytes,
        rule_bytes=kv_cache_rule(options.batch, context, model.hidden_size, model.layers, KV_DTYPES[dtype] / 8),
    )


def activation_use(setting: Setting, context: int, gpus: Sequence[GpuShare]) -> ActivationUse:
    """The highest of a prefill step and a decoding step; beside it the rule for the whole batch at once."""
    model, batch = setting.model, setting.options.batch
    tokens, together = setting.step(context, batch)
    return ActivationUse(
        bytes=sum(gpu.activations_bytes or 0 for gpu in gpus),
        method="traced",
        tokens=tokens,
        sequences=together,
        rule_bytes=activation_rule(batch, context, model.hidden_size, model.layers),
    )


def overhead_use(setting: Setting, gpus: Sequence[GpuShare]) -> Overhead:
    """All GPUs together; the parts are those of the fullest."""
    fullest = max(range(len(gpus)), key=lambda rank: gpus[rank].total_bytes)
    parts: tuple[OverheadPart, ...] = setting.overhead(setting.placement.gpus[fullest])
    return Overhead(bytes=sum(gpu.overhead_bytes for gpu in gpus), parts=parts)


def decode_speed(setting: Setting, context: int, gpu: Gpu | None) -> Speed | None:
    """The ceiling at this context and batch, or None where no bandwidth is known."""
    options, placement = setting.options, setting.placement
    bandwidth = options.bandwidth or (gpu.bandwidth if gpu else None)
    cpu_bandwidth = options.cpu_bandwidth or (bandwidth if gpu and gpu.unified else None) or CPU_BANDWIDTH
    return speed(
        [_step_bytes(setting, share, context) for share in placement.gpus],
        _step_bytes(setting, placement.cpu, context),
        options.batch,
        bandwidth=bandwidth,
        cpu_bandwidth=cpu_bandwidth or CPU_BANDWIDTH,
        together=placement.mode in ("tensor", "expert"),
    )


def _step_bytes(setting: Setting, share: Share, context: int) -> int:
    """Weights once, and every sequence's cache; states are written back."""
    batch = setting.options.batch
    size = setting.cache(share.cache, context, batch, block=1) if share.cache else None
    cache = size.bytes + size.state_bytes if size else 0
    return bytes_read(share.weights, setting.model, batch) + cache


def _unusual_cache(engine: EngineFacts, dtype: str) -> str | None:
    """That the engine offers no such cache; None where it does."""
    offered = engine.cache_types
    if dtype in offered:
        return None
    listed = ", ".join(offered)
    return f"{engine.name} keeps no {dtype} cache: it has {listed}; the figures are those of the type asked for"


def _part(weight: Weight) -> str:
    if weight.unit != "decoder":
        return weight.unit
    if weight.is_expert:
        return "experts"
    if any(word in weight.name for word in _ATTENTION) and "norm" not in weight.name:
        return "attention"
    return "norm" if "norm" in weight.name else "mlp"


def notes(setting: Setting, stored: StoredModel, context: int, most: Limits, gpu: Gpu | None) -> tuple[str, ...]:
    """What the reader has to know to read the numbers right."""
    model, options = setting.model, setting.options
    lines = [*model.notes, *stored.notes, *setting.placement.notes]
    if model.max_positions and context > model.max_positions:
        lines.append(f"{context:,} tokens are more than the {model.max_positions:,} positions the config allows")
    if most.context and most.context == model.max_positions:
        lines.append(
            f"memory would allow more, the config allows {model.max_positions:,} positions (--beyond-positions)"
        )
    if most.context == MAX_CONTEXT:
        lines.append(f"contexts above {MAX_CONTEXT:,} tokens are not looked at")
    if gpu is not None:
        lines += _on_card(setting, stored, gpu)
    if setting.placement.mode == "layer" and options.gpus > 1:
        lines.append("split by layer, the GPUs work one after the other for each token")
    if options.gpus > 1 and setting.placement.mode != "layer":
        lines.append("what the GPUs send each other is in no figure: NCCL's buffers, and the time in the speed ceiling")
    for tower, media in (("vision", "images'"), ("audio", "audio's")):
        if any(weight.unit == tower for weight in model.weights):
            lines.append(f"text alone: the {tower} tower's weights are counted, {media} activations and tokens are not")
    if (unusual := _unusual_cache(setting.engine, options.kv_dtype)) is not None:
        lines.append(unusual)
    return tuple(dict.fromkeys(lines))


def _on_card(setting: Setting, stored: StoredModel, gpu: Gpu) -> Iterator[str]:
    """What is so on this card alone."""
    model, options, engine = setting.model, setting.options, setting.engine
    if not options.overhead:
        yield from engine.card_notes(model.vocabulary, options.batch, gpu)
    if options.dtype == "bfloat16" and stored.format not in OTHER_TYPES:
        yield from engine.without_bfloat16(gpu, model.architecture)
    if gpu.unified:
        yield "CPU and GPU share this memory, and the system keeps a part of it (macOS about a quarter)"


def parameter_notes(weight_format: Format, options: ServeOptions) -> tuple[str, ...]:
    """What is missing where only a number of parameters is given."""
    lines = ["KV cache and activations need the model's attention: give a MODEL; the total is without them"]
    bits = f"{float(weight_format.bits or 0):g} bits"
    if weight_format.family == "gguf" and ":" not in weight_format.name:
        lines.append(
            f"a {weight_format.name} file mixes types, and {bits} are those of its base type: files of real models are "
            "larger, those of small models most; give a MODEL for its tensors"
        )
    else:
        lines.append(f"every parameter is taken at {bits}; real files keep some tensors in more")
    if options.gpus > 1:
        lines.append("the weights are divided evenly; what is copied to every GPU is not known")
    return tuple(lines)
