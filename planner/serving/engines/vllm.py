"""vLLM: paged cache, tensor and expert parallelism, a fixed share of the card."""

from bisect import bisect_right
from fractions import Fraction
from math import ceil

from planner.errors import JobError
from planner.formats.mixed import fused_order
from planner.formats.served_model import CacheKind
from planner.hardware import Gpu
from planner.serving.engines.facts import GRAPHS, PYTORCH_CONTEXT, SHARE, Devices, EngineFacts, whole_blocks
from planner.serving.kernels import card_support
from planner.serving.schema import OverheadPart
from planner.units import GIB, human_bytes

# vllm/config/cache.py CacheConfig.gpu_memory_utilization (0.9 up to 0.18).
UTILIZATION = 0.92

# vllm/engine/arg_utils.py get_batch_defaults, for the API server: 8192 tokens at a time on cards of 70 GiB and more
# that are no A100, else 2048; default_max_num_seqs: 1024 sequences on these cards, else 256.
_LARGE_CARD = 70 * GIB
_CHUNK, _LARGE_CHUNK = 2048, 8192
_SEQUENCES, _LARGE_SEQUENCES = 256, 1024

BFLOAT16 = 80
"""Compute capability from which on bfloat16 is computed in (vllm/platforms/cuda.py supported_dtypes)."""

NOT_IN_FLOAT16 = frozenset(
    ("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Glm4ForCausalLM", "Plamo2ForCausalLM")
)
"""vllm/config/model.py _FLOAT16_NOT_SUPPORTED_MODELS."""

TAKES_ITS_SHARE = (
    "vLLM takes its whole share of the card at start and gives what is left to the cache; "
    "the total is what this context and batch need"
)


def chunk(gpu: Gpu | None) -> int:
    """Tokens that all sequences together get in one step (--max-num-batched-tokens)."""
    return _LARGE_CHUNK if _is_large(gpu) else _CHUNK


def max_num_seqs(gpu: Gpu | None) -> int:
    """Sequences that run at the same time where --max-num-seqs is not given."""
    return _LARGE_SEQUENCES if _is_large(gpu) else _SEQUENCES


def _is_large(gpu: Gpu | None) -> bool:
    return gpu is not None and gpu.memory_bytes >= _LARGE_CARD and "A100" not in gpu.name


def window_room(kind: CacheKind, window: int, context: int, block: int, chunk: int) -> int:
    """The window and a step's new tokens, and one block more where a window can begin inside of one.

    v1/kv_cache_interface.py SlidingWindowSpec and ChunkedLocalAttentionSpec, max_memory_usage_bytes; at most so many
    blocks have to be free for a sequence to start (max_admission_blocks_per_request), so sequences that decode
    already need their windows alone. Versions that schedule a step ahead hold the tokens of two steps
    (VllmConfig.max_in_flight_tokens); one is counted here.
    """
    if kind == "chunked":
        return whole_blocks(min(window + chunk, context), block)
    return whole_blocks(min(window - 1 + chunk, context), block) + block


def pipeline(layers: int, gpus: int, _gpu_layers: int | None = None) -> Devices:
    """Equal numbers of layers; the rest goes to GPUs before the last, one layer each.

    vllm/distributed/utils.py get_pp_indices. Raises JobError for more GPUs than layers.
    """
    if gpus > layers:
        raise JobError(f"--gpus {gpus}: the model has only {layers} layers to split")
    counts = [layers // gpus] * gpus
    for position in range(2, layers % gpus + 2):
        counts[-position] += 1
    starts = [sum(counts[:rank]) for rank in range(gpus)]

    def device(layer: int) -> int | None:
        return gpus - 1 if layer >= layers else bisect_right(starts, layer) - 1

    return device


def left_to_others(utilization: float | None, memory: int, context: int) -> OverheadPart:
    """The rest of the card, without the CUDA context that lies in it.

    vllm/v1/worker/gpu_worker.py init_device: it counts what it takes from the moment the CUDA context and NCCL are
    there, so the context lies in the share that gpu_memory_utilization leaves to others.
    """
    used = UTILIZATION if utilization is None else utilization
    rest = memory - ceil(memory * Fraction(str(used)))
    source = f"vLLM's gpu_memory_utilization {used:g} leaves {1 - used:.0%} of the card, the CUDA context in it"
    return OverheadPart(name=SHARE, bytes=max(0, rest - context), source=source)


def card_notes(vocabulary: int, batch: int, gpu: Gpu) -> tuple[str, ...]:
    """That it takes its share at start; and that it makes room for more sequences than the batch, where that is 1 %
    of the card or more.

    v1/worker/gpu_model_runner.py profile_run samples from the logits of max_num_seqs sequences, in fp32.
    """
    most = max_num_seqs(gpu)
    size = 4 * most * vocabulary
    if batch >= most or size < gpu.memory_bytes // 100:
        return (TAKES_ITS_SHARE,)
    return (
        TAKES_ITS_SHARE,
        f"vLLM sets memory aside for the logits of {most:,} sequences ({human_bytes(size)}), whatever the batch is: "
        f"--max-num-seqs {batch} takes it down to this batch's, which is what is counted",
    )


def without_bfloat16(gpu: Gpu, architecture: str | None) -> tuple[str, ...]:
    """platforms/cuda.py supported_dtypes, config/model.py _resolve_auto_dtype: it falls back, and warns."""
    if gpu.sm is None or gpu.sm >= BFLOAT16:
        return ()
    text = f"{gpu.name} has no bfloat16, which takes compute capability 8.0: vLLM computes in float"
    if architecture not in NOT_IN_FLOAT16:
        return (f"{text}16, the same bytes",)
    return (f"{text}32, as it takes no float16 for {architecture}: what has 16 bits here needs twice as much there",)


VLLM = EngineFacts(
    name="vllm",
    made_for=("plain", "bitsandbytes", "compressed-tensors", "gptq"),
    card_support=card_support,
    without_bfloat16=without_bfloat16,
    also_reads=("gguf",),
    block=16,  # vllm/config/cache.py CacheConfig.DEFAULT_BLOCK_SIZE
    # vllm/config/cache.py CacheDType
    cache_types=("float32", "bfloat16", "float16", "fp8", "int8", "nvfp4"),
    # vllm/config/cache.py cache_dtype "auto" is the model's type, fp8 where a checkpoint has a kv_cache_scheme
    # (model_executor/layers/attention)
    cache_type=None,
    window_room=window_room,
    room_from_the_start=False,
    window_reach=lambda window, _chunk: window,
    chunk=chunk,
    reserves_whole_chunk=True,  # vllm/v1/worker/gpu_model_runner.py profile_run
    split="tensor",
    splits=("tensor", "expert", "layer"),
    layer_devices=pipeline,
    # quantization/gguf.py GGUFEmbeddingMethod: looked up on the GPU in the file's own type, a tied table once
    tables_on_gpu=True,
    context_bytes=PYTORCH_CONTEXT,
    pools=(
        # vLLM prints it: 0.21 GiB in pull request 11349 (Llama-3.2-1B), 0.25 to 1.49 GiB in logs of larger models.
        OverheadPart(
            name=GRAPHS,
            bytes=GIB // 2,
            source="assumed: vLLM logs 0.2 to 1.5 GiB by model and captured batch sizes; 0 with --enforce-eager",
        ),
    ),
    left_to_others=left_to_others,
    card_notes=card_notes,
    mixture_order=fused_order,
)
