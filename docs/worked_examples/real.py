"""What the models themselves take: every number comes from the product's own code."""

from fractions import Fraction
from functools import cache
from typing import Literal

from planner.compress.modifiers.hessian import hessian_bytes
from planner.compress.recipes import load_recipe
from planner.compress.schema import Plan
from planner.formats.registry import find_format
from planner.formats.served_model import ServedModel
from planner.formats.tensors import StoredModel
from planner.hardware import find_gpu
from planner.job import Job
from planner.models.graph import ModelGraph
from planner.planning import plan_graph
from planner.serving.activations import Activations
from planner.serving.cache import cache_size
from planner.serving.schema import ServeOptions, Serving
from planner.serving.serve import size
from planner.training.optimizers import Optimizer, states_bytes
from planner.training.schema import TrainingPlan, TrainOptions
from planner.training.sharding import copies_of, place
from planner.training.states import States
from planner.training.trace import TraceRequest, TrainingTrace
from planner.training.train import plan_training
from planner.training.trained import split

Device = Literal["gpu", "cpu"]


@cache
def served(model: str) -> tuple[ServedModel, Activations]:
    from planner.serving.model import load_served

    return load_served(model)


@cache
def stored(model: str, weights: str) -> StoredModel:
    return find_format(weights).store(served(model)[0])


def format_bits(weights: str) -> Fraction:
    """Bits of one weight of a quantized matrix."""
    bits = find_format(weights).bits
    assert bits is not None
    return bits


def weights(model: str, kept: str) -> int:
    """Bytes of the checkpoint in a format."""
    return stored(model, kept).file_bytes


def bits_per_weight(model: str, kept: str) -> Fraction:
    """Bits of all tensors in the file over all weights."""
    found = stored(model, kept)
    return Fraction(8 * sum(tensor.file_bytes for tensor in found.tensors), found.elements)


def reduction(model: str, kept: str) -> Fraction:
    """How much smaller than in fp16."""
    return 1 - Fraction(weights(model, kept), weights(model, "fp16"))


def kv_cache(model: str, tokens: int, batch: int = 1, dtype: str = "float16") -> int:
    return cache_size(served(model)[0].cache, tokens, sequences=batch, dtype=dtype, block=1).bytes


def activations(model: str, tokens: int, batch: int = 1) -> int:
    """Of a prefill of the whole prompt at once, with flash attention."""
    return served(model)[1](tokens, tokens, batch=batch)


@cache
def serving(model: str, kept: str, context: int, batch: int = 1, kv_dtype: str = "float16") -> Serving:
    options = ServeOptions(context=context, batch=batch, kv_dtype=kv_dtype, beyond_positions=True)
    return size(*served(model), find_format(kept), options)


def total(model: str, kept: str, context: int, batch: int = 1, kv_dtype: str = "float16") -> int:
    """Bytes on the GPU as the format's engine serves it: prompts in chunks, its own overhead."""
    return serving(model, kept, context, batch, kv_dtype).per_gpu.total_bytes


@cache
def fits(
    model: str, kept: str, card: str, context: int, batch: int = 1, kv_dtype: str = "float16", gpus: int = 1
) -> bool:
    """On a card as the engine uses it: what vLLM leaves free is not used."""
    options = ServeOptions(context=context, batch=batch, kv_dtype=kv_dtype, gpu=card, gpus=gpus)
    found = size(*served(model), find_format(kept), options).fits
    assert found is not None
    return found


def overhead_share(model: str, kept: str) -> Fraction:
    """Overhead over weights."""
    share = serving(model, kept, 4096).per_gpu
    return Fraction(share.overhead_bytes, share.weights_bytes)


def cache_share(model: str, kept: str, context: int) -> Fraction:
    """Cache over weights."""
    return Fraction(kv_cache(model, context), weights(model, kept))


def bandwidth(card: str) -> int:
    found = find_gpu(card).bandwidth
    assert found is not None
    return found


@cache
def compression(model: str, recipe: str) -> Plan:
    """With the options that `planner plan` has of itself: 512 samples of 2,048 tokens, batch 1, a card of 80 GiB."""
    return plan_graph(traced(model), load_recipe(recipe), Job())


@cache
def traced(model: str) -> ModelGraph:
    from planner.models.load import load_model

    return load_model(model)


def plan_peak(model: str, recipe: str, device: Device) -> int:
    found = compression(model, recipe)
    return found.gpu.peak_bytes if device == "gpu" else found.cpu.peak_bytes


def unit_bytes(model: str, kind: Literal["decoder", "vision"]) -> int:
    """The largest decoder layer, or the whole vision tower, in 16 bits."""
    graph = served(model)[0].graph
    if kind == "decoder":
        return 2 * graph.layer_parameters
    return 2 * sum(weight.elements for weight in served(model)[0].weights if weight.unit == "vision")


def hessian_share(model: str) -> Fraction:
    """Hessians of all Linears of the largest decoder layer, over the layer's weights."""
    layers: dict[int, list[int]] = {}
    for weight in served(model)[0].weights:
        if weight.layer is not None:
            sizes = layers.setdefault(weight.layer, [0, 0])
            sizes[0] += hessian_bytes(weight.shape[1]) * weight.copies if weight.is_linear else 0
            sizes[1] += 2 * weight.elements
    hessians, weights_of_it = max(layers.values(), key=lambda sizes: sizes[1])
    return Fraction(hessians, weights_of_it)


def optimizer_share(model: str, optimizer: Optimizer) -> Fraction:
    """States and fp32 master weights over 16-bit weights, as mixed precision with master weights keeps them."""
    copies = copies_of("bf16-mixed", "zero1", "full")
    weights_ = served(model)[0].weights
    shapes = [(weight.shape, weight.copies) for weight in weights_]
    count = sum(weight.elements for weight in weights_)
    kept = states_bytes(optimizer, shapes, copies.state) + copies.master * count
    return Fraction(kept, copies.weight * count)


def gradient_share() -> Fraction:
    """Gradients over weights, under the same."""
    copies = copies_of("bf16-mixed", "zero1", "full")
    return Fraction(copies.gradient, copies.weight)


def heads_fill(model: str) -> bool:
    """Whether heads x head size is the hidden size, from the shape of the first query projection."""
    found = served(model)[0]
    queries = next(weight for weight in found.weights if weight.module.endswith(".q_proj"))
    return queries.shape[0] == found.hidden_size


def buffer_share(model: str) -> Fraction:
    """Buffers of a step over 16-bit weights: DeepSpeed ZeRO-2 on 8 GPUs, the larger of backward and step."""
    copies = copies_of("bf16-mixed", "zero2", "full")
    plan_ = states(model)
    placed = place(plan_, copies, "zero2", "none", "cpu", 8, 8)
    largest = max(sum(part.bytes for part in parts) for parts in (placed.backward, placed.step))
    return Fraction(largest, copies.weight * plan_.trained)


def states(model: str) -> States:
    return split(served(model)[0], TrainOptions()).states


@cache
def trained(model: str, options: TrainOptions) -> TrainingPlan:
    return plan_training(served(model)[0], options, lambda request: _training_trace(model, request))


@cache
def _training_trace(model: str, request: TraceRequest) -> TrainingTrace:
    from planner.models.source import load_source
    from planner.training.tracing import trace_training

    layers = [unit.name for unit in served(model)[0].graph.units if unit.kind == "decoder"]
    return trace_training(load_source(model), request, layers)
