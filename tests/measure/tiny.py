"""Measure a tiny Llama for real on the CPU, with the real llmcompressor; test_library.py runs this.

    python tests/measure/tiny.py OUT [out-of-memory | interrupt]

With a second word the third GPTQ batch ends so, as it would on a full card or by Ctrl-C.
"""

import sys
from pathlib import Path
from typing import Any

import torch

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
ENDS = {"out-of-memory": torch.OutOfMemoryError("CUDA out of memory"), "interrupt": KeyboardInterrupt()}


def stop_at(number: int, error: BaseException) -> None:
    """Raise in the library's quantize_weight the `number`th time it is called."""
    import llmcompressor.modifiers.gptq.base as gptq

    quantize, calls = gptq.quantize_weight, []

    def stopping(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise error
        return quantize(*arguments, **named)

    gptq.quantize_weight = stopping


def main(out: str, end: str = "") -> int:
    from planner.job import Job
    from planner.measure.files import recipe_argument, recipe_text, render
    from planner.measure.record import MeasuredRecipe
    from planner.measure.run import Request, measure
    from planner.models.source import ModelSource

    if end:
        stop_at(3, ENDS[end])
    request = Request(
        source=ModelSource(name="tiny", config=CONFIG),
        recipe=MeasuredRecipe(name="gptq_w4a16", text=recipe_text("gptq_w4a16")),
        recipe_argument=recipe_argument("gptq_w4a16"),
        job=Job(samples=4, seq_len=64),
    )
    kept: list[str] = []
    result = measure(request, on_record=lambda record: kept.append(render(record)))
    Path(out).write_text(render(result))
    Path(out).with_suffix(".kept").write_text(kept[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
