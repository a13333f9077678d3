"""llama.cpp: GGUF files, a cache of cells, layers on CPU and GPUs."""

from planner.formats.mixed import default_order
from planner.formats.served_model import CacheKind
from planner.serving.engines.facts import Devices, EngineFacts, whole_blocks
from planner.units import MIB


def window_room(_kind: CacheKind, window: int, context: int, block: int, chunk: int) -> int:
    """Window + n_ubatch cells, padded to 256.

    src/llama-kv-cache-iswa.cpp llama_kv_cache_iswa, `size_swa`, without --swa-full; the sequences of a server without
    -np share one n_ubatch.
    """
    return whole_blocks(min(window + chunk, context), block)


def devices(layers: int, gpus: int, gpu_layers: int | None) -> Devices:
    """The output and the last `gpu_layers - 1` layers go to the GPUs, in equal numbers where these have equal free
    memory (src/llama-model.cpp load_tensors); None: all of them.
    """
    offloaded = min(layers + 1 if gpu_layers is None else gpu_layers, layers + 1)
    first = layers + 1 - offloaded

    def device(layer: int) -> int | None:
        # the first GPU whose share of the whole, (rank + 1) / gpus, is above the layer's place in what is offloaded
        return (layer - first) * gpus // offloaded if layer >= first else None

    return device


def logits_bytes(tokens: int, vocabulary: int, hidden: int) -> int:
    """Logits of every token of a step, beside the hidden states they come from, both in fp32.

    src/llama-context.cpp graph_reserve with n_outputs = n_tokens. Logs of Llama-3-8B with its default of 512 tokens
    say `compute buffer size = 258.50 MiB`: 512 x (128256 + 4096) x 4 bytes.
    """
    return tokens * (vocabulary + hidden) * 4


LLAMA_CPP = EngineFacts(
    name="llama.cpp",
    made_for=("gguf",),
    block=256,  # src/llama-context.cpp rounds the context of a sequence up to 256 cells
    # common/arg.cpp kv_cache_types
    cache_types=("float32", "bfloat16", "float16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"),
    cache_type="float16",  # common/common.h cache_type_k
    window_room=window_room,
    room_from_the_start=True,
    window_reach=lambda window, chunk: window + chunk,
    chunk=lambda _gpu: 512,  # common/common.h n_ubatch
    most_sequences=256,  # src/llama-cparams.h LLAMA_MAX_SEQ; src/llama-context.cpp refuses more
    logits_bytes=logits_bytes,
    split="layer",
    splits=("layer",),
    layer_devices=devices,
    keeps_layers_on_cpu=True,  # -ngl
    context_bytes=320 * MIB,  # as facts.py PYTORCH_CONTEXT; it links far fewer kernels
    mixture_order=default_order,
)
