"""LLM Compressor jobs: the documented rule beside the simulated plan."""

from worked_examples import real
from worked_examples.memory_guide import DATA_FREE, GPTQ, RTN

from formula_sections.text import decimal, table
from planner.compress.rule_of_thumb import rule_of_thumb
from planner.models.graph import ModelGraph

_MODELS = ("llama-3-8b", "deepseek-r1", "qwen2.5-vl-7b")


def section() -> str:
    rows = []
    for model in _MODELS:
        for recipe in (RTN, DATA_FREE, GPTQ):
            rows.append((model, recipe, *(decimal(count) for count in _figures(model, recipe))))
    head = ("model", "recipe", "rule, GPU", "plan, GPU", "rule, CPU", "plan, CPU")
    return (
        """## Compression jobs

The rule of LLM Compressor's memory guide, with exact counts where the guide rounds:
`CPU = 2 x parameters of the checkpoint`, `GPU = 2 x max(largest text layer, whole vision tower)`, twice that
for GPTQ and SparseGPT. The plan walks the job step by step and adds up what is alive: weights of the subgraph,
activations of eager attention, fp32 Hessians of `inputs x inputs` for each Linear, the compression's
workspaces, the cache of activations on the CPU (see [how it works](how-it-works.md) and
[accuracy](accuracy.md)). Source: `planner/compress/rule_of_thumb.py`, `planner/compress/`. 512 samples of 2,048 tokens,
batch 1, a card of 80 GiB; peaks in GB:

"""
        + table(head, rows, left=2)
        + f"\n`{DATA_FREE}` needs no data: one Linear's weights at a time, and the "
        f"observers' ranges of every Linear that is done. `{RTN}` looks at data layer by layer.\n"
    )


def _figures(model: str, recipe: str) -> tuple[int, int, int, int]:
    rule = _rule(real.traced(model), recipe == GPTQ)
    plan = real.compression(model, recipe)
    return rule[0], plan.gpu.peak_bytes, rule[1], plan.cpu.peak_bytes


def _rule(graph: ModelGraph, has_hessians: bool) -> tuple[int, int]:
    vision = sum(weight.elements for weight in real.served(graph.name)[0].weights if weight.unit == "vision")
    found = rule_of_thumb(
        checkpoint_parameters=graph.checkpoint_parameters,
        text_layer_parameters=graph.layer_parameters,
        vision_tower_parameters=vision,
        has_hessians=has_hessians,
    )
    return found.gpu_bytes, found.cpu_bytes
