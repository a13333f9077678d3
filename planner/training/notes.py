"""What a reader of a training plan should know of this job."""

from collections.abc import Iterator

from planner.formats.bitsandbytes import spreads_experts
from planner.formats.served_model import ServedModel
from planner.models.kinds import TOWERS
from planner.training.lora import is_parameter, renamed_targets, target_weights
from planner.training.schema import TrainOptions
from planner.training.strategies import STRATEGIES
from planner.training.trained import Parts


def notes_on(served: ServedModel, options: TrainOptions, parts: Parts) -> tuple[str, ...]:
    """One sentence or two each."""
    return (*_model(served, options, parts), *_copies(options), *_sharding(options), *_left_out(options))


def _model(served: ServedModel, options: TrainOptions, parts: Parts) -> Iterator[str]:
    if parts.vision:
        kinds = sorted({weight.unit for weight in served.weights} & set(TOWERS))
        yield (
            f"Trained on text: the {' and the '.join(kinds)} tower and its projector ({parts.vision:,} weights) never "
            "run, get no gradients and count as frozen."
        )
    if served.experts and options.method != "full":
        yield from _experts(served, options)
    if options.method == "qlora":
        yield (
            "Linears are NF4 with double quantization, all other weights fp32 and checkpointing on unless asked "
            "otherwise, as peft's prepare_model_for_kbit_training leaves them."
        )
        if served.graph.fused_expert_bytes and not spreads_experts(served):
            yield "Fused experts stay as bitsandbytes leaves them: not quantized, so fp32 here."


def _experts(served: ServedModel, options: TrainOptions) -> Iterator[str]:
    targets = target_weights(served, options.targets, options.method)
    if any("Llama4Router" in weight.classes for weight in targets):
        yield (
            "peft 0.21 gives Llama4Router an adapter, counted here, but its forward then fails ('tuple' object has no "
            "attribute 'dtype'): name --targets without `router`."
        )
    if renamed_targets(served):
        if any(is_parameter(weight) for weight in targets):
            yield (
                "peft 0.21 adapts the fused experts and the router as target_parameters: rank x experts, "
                "twice that for gate and up in one. Each forward makes W + BA anew as a whole tensor, which is kept "
                "for the backward and counted with the activations."
            )
    elif options.method == "qlora" and spreads_experts(served):
        yield "The experts are spread out into Linears for bitsandbytes; each has an adapter of its own."
    elif served.graph.fused_expert_bytes:
        yield "Routed experts are fused parameters whose old names peft does not know: they get no adapters."


def _copies(options: TrainOptions) -> Iterator[str]:
    casts = STRATEGIES[options.sharding].casts_weights
    if options.method == "full" and options.precision.endswith("mixed") and not casts:
        yield (
            "Mixed precision is torch.autocast over fp32 weights (Trainer with bf16=True or fp16=True, model loaded in "
            "float32). transformers 5 loads in the checkpoint's type by default: bf16 weights, gradients and states "
            "are --precision bf16."
        )
    if casts and options.precision != "fp32":
        yield "DeepSpeed keeps 16-bit weights and gradients and fp32 master weights; autocast is not used."
    if options.precision == "fp32" and options.attention == "flash":
        yield (
            "FlashAttention takes 16 bit alone: attention in fp32 is counted as torch's memory-efficient kernel keeps "
            "it, 4 bytes an element and no scores. Where torch falls back to its math kernel, --attention eager is "
            "closer."
        )
    if options.precision == "fp16-mixed" and options.method == "full":
        yield "fp16 takes a loss scale; its few bytes are not counted."


def _sharding(options: TrainOptions) -> Iterator[str]:
    if STRATEGIES[options.sharding].flat_states and options.optimizer == "adafactor":
        yield "Shards are flat vectors, so Adafactor keeps a whole fp32 second moment instead of rows and columns."
    if options.offload != "none":
        yield "CPU memory counts offloaded states alone: not the data, and not the weights while they are loaded."


def _left_out(options: TrainOptions) -> Iterator[str]:
    yield "Allocated bytes: what the caching allocator holds back by fragmentation and NCCL's buffers come on top."
    if options.method == "full" and options.optimizer == "adamw":
        yield "AdamW is the fused one (the Trainer's default); foreach=True takes the weights once more in its step."
