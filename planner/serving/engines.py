"""What each serving engine does by default, with the source of every number."""

from planner.errors import JobError
from planner.formats.registry import Format
from planner.hardware import Gpu
from planner.serving.overhead import ENGINES
from planner.serving.schema import Engine, ServeOptions
from planner.units import GIB

# vllm/config/cache.py CacheConfig.DEFAULT_BLOCK_SIZE; llama.cpp src/llama-context.cpp rounds the context of a
# sequence up to 256 cells; exllamav2/generator/dynamic.py PAGE_SIZE.
BLOCK: dict[Engine, int] = {"vllm": 16, "llama.cpp": 256, "exllama": 256}

# vllm/engine/arg_utils.py get_batch_defaults, for the API server: 8192 tokens on cards of 70 GiB and more that are
# no A100, else 2048. llama.cpp common/common.h n_ubatch. exllamav2/config.py max_input_len.
_CHUNK: dict[Engine, int] = {"vllm": 2048, "llama.cpp": 512, "exllama": 2048}
_LARGE_CHUNK, _LARGE_CARD = 8192, 70 * GIB

# llama.cpp src/llama-cparams.h LLAMA_MAX_SEQ: a context of more sequences is refused (src/llama-context.cpp).
# vLLM and ExLlamaV2 have no such limit; vLLM starts with --max-num-seqs (vllm/engine/arg_utils.py
# get_batch_defaults, default_max_num_seqs: 1024 on the cards that read 8192 tokens at a time, else 256).
MOST_SEQUENCES: dict[Engine, int] = {"llama.cpp": 256}
_SEQUENCES, _LARGE_SEQUENCES = 256, 1024


def engine_of(kept: Format, options: ServeOptions) -> Engine:
    """The engine asked for, or the one that the format is made for.

    Raises JobError where it cannot read the format, or serve so many sequences at the same time.
    """
    usual = ENGINES[kept.family]
    asked = options.engine or usual
    if asked != usual and not (asked == "vllm" and kept.family == "gguf"):
        raise JobError(f"--engine {asked}: it does not read {kept.name}; {usual} does")
    most = MOST_SEQUENCES.get(asked, options.batch)
    if options.batch > most:
        raise JobError(f"--batch {options.batch:,}: {asked} serves at most {most} sequences at the same time")
    return asked


def chunk_of(engine: Engine, options: ServeOptions, gpu: Gpu | None) -> int:
    """Tokens of one prefill step over all sequences; 0 without a limit."""
    if options.prefill_chunk is not None:
        return options.prefill_chunk
    return _LARGE_CHUNK if engine == "vllm" and _is_large(gpu) else _CHUNK[engine]


def max_num_seqs(gpu: Gpu | None) -> int:
    """Sequences that vLLM runs at the same time where --max-num-seqs is not given."""
    return _LARGE_SEQUENCES if _is_large(gpu) else _SEQUENCES


def _is_large(gpu: Gpu | None) -> bool:
    return gpu is not None and gpu.memory_bytes >= _LARGE_CARD and "A100" not in gpu.name
