"""ExLlama: EXL2 and EXL3 files, and a cache that knows no windows."""

from planner.formats.mixed import default_order
from planner.serving.engines.facts import PYTORCH_CONTEXT, EngineFacts, whole_blocks
from planner.serving.engines.vllm import pipeline

MEASURED = "ExLlama's converters measure the error of each matrix and will choose otherwise."

EXLLAMA = EngineFacts(
    name="exllama",
    made_for=("exllama",),
    block=256,  # exllamav2/generator/dynamic.py PAGE_SIZE
    cache_types=("float16", "fp8", "q8_0", "q4_0"),  # exllamav2/cache.py
    cache_type="float16",  # exllamav2/cache.py
    # exllamav2/cache.py ExLlamaV2CacheBase `shape_wk`: the whole context in every layer
    window_room=lambda _kind, _window, context, block, _chunk: whole_blocks(context, block),
    room_from_the_start=True,
    window_reach=lambda _window, _chunk: None,
    chunk=lambda _gpu: 2048,  # exllamav2/config.py max_input_len
    split="layer",
    splits=("layer",),
    layer_devices=pipeline,  # equal numbers of layers; its own --gpu-split goes by free memory
    context_bytes=PYTORCH_CONTEXT,
    mixture_order=default_order,
    mixture_notes=(MEASURED,),
)
