"""What to make of a plan: does it fit, what runs out first, and the one thing to change."""

import re
from typing import Literal

from planner.parts import cpu_parts, gpu_parts
from planner.schema import Plan, Step
from planner.units import GIB, human_bytes

Verdict = Literal["fits", "tight", "over"]

# What a card must hold besides the tensors and no plan counts: the CUDA context (0.3 to 0.6 GB) and
# what the caching allocator loses to fragmentation. A plan with less than this to spare is tight.
BREATHING_SPACE = 1 * GIB

# How the simulation names what several modules of one shape share.
_STACK = re.compile(r" and (\d+) more\b")


def peak_gpu_step(plan: Plan) -> Step | None:
    """The step with the highest GPU memory; None when the method knows no steps."""
    return next((step for step in plan.steps if step.index == plan.gpu.peak_step), None)


def peak_cpu_step(plan: Plan) -> Step | None:
    """The step with the highest CPU memory; None when the method knows no steps."""
    return next((step for step in plan.steps if step.index == plan.cpu.peak_step), None)


def runs_out(step: Step, plan: Plan) -> bool:
    """Whether the step's tensors alone, in the allocator's blocks, are more than the GPU has."""
    return step.gpu.peak_allocated_bytes > plan.job.gpu_memory_bytes


def first_over(plan: Plan) -> Step | None:
    """The first step that would run out of GPU memory; None when every step fits."""
    return next((step for step in plan.steps if runs_out(step, plan)), None)


def verdict(plan: Plan) -> Verdict:
    """Whether the plan fits the GPU: `tight` when it does, but leaves no room for what is not tensors."""
    spare = plan.job.gpu_memory_bytes - plan.gpu.peak_allocated_bytes
    if spare < 0:
        return "over"
    return "tight" if spare < BREATHING_SPACE else "fits"


def advise(plan: Plan) -> str:
    """One sentence: the change that helps most with what is most likely to hurt."""
    step = peak_gpu_step(plan)
    if step is None or plan.method == "rule-of-thumb":
        return "This rule knows nothing of samples, tokens or embeddings; --method simulate walks the job step by step."
    if verdict(plan) == "fits" and (sentence := _cache_advice(plan)):
        return sentence
    lever = _lever(plan, step)
    if verdict(plan) == "over":
        return f"To make it fit: {lever}."
    if verdict(plan) == "tight":
        return f"It fits only just, and the CUDA context is not in the figure: {lever}."
    return f"It fits; to lower the GPU peak further: {lever}."


def _cache_advice(plan: Plan) -> str:
    """What to do about an activation cache that is a large part of the CPU's memory, or nothing."""
    step = peak_cpu_step(plan)
    cache = cpu_parts(step.cpu.by_kind)["cache"] if step else 0
    if 3 * cache < plan.cpu.peak_bytes:
        return ""
    return (
        f"It fits the GPU, but {human_bytes(cache)} of the CPU peak is the activation cache: it grows with --samples, "
        "and faster still with --seq-len (attention masks grow with its square), so lower these first."
    )


def _lever(plan: Plan, step: Step) -> str:
    """What lowers this step's peak, in the words of the recipe and the command line."""
    parts = gpu_parts(step.gpu.by_kind)
    heaviest = max(parts, key=lambda part: parts[part])
    if step.phase == "compress" and step.subgraph is None:
        return f"nothing to change, the data-free pipeline already holds one module at a time: {_owner(step)}"
    if step.phase == "compress" and parts["hessians"] + parts["workspace"] > parts["weights"]:
        return _compress_lever(plan, step)
    if heaviest == "activations":
        return _activation_lever(plan)
    if heaviest == "cache":
        return "--offload-device cpu keeps the activation cache in CPU memory"
    if heaviest == "hessians":
        return _hessian_lever(plan, step)
    if heaviest == "weights" and (step.subgraph == 1 or step.phase == "setup"):
        return f"{_owner(step)} is onloaded whole and no calibration option changes that; only a larger GPU helps"
    return _smaller_subgraphs(plan, heaviest)


def _compress_lever(plan: Plan, step: Step) -> str:
    stack = _STACK.search(_owner(step))
    if "GPTQ" in (step.modifier or "") and stack:
        return (
            f"the peak is GPTQ compressing {int(stack[1]) + 1} modules of one shape together; "
            "`batched_quantization: 1` in the recipe takes them one by one, slower and with less memory"
        )
    return _hessian_lever(plan, step)


def _hessian_lever(plan: Plan, step: Step) -> str:
    if "SparseGPT" in (step.modifier or ""):
        return "`offload_hessians: true` in the recipe lets SparseGPT's Hessians wait in CPU memory"
    return _smaller_subgraphs(plan, "hessians")


def _activation_lever(plan: Plan) -> str:
    if plan.job.batch_size > 1:
        return f"the activations of {plan.job.batch_size} samples are on the GPU together, --batch-size 1 holds one"
    if plan.job.prefetch:
        return "leave out --prefetch, which holds the next batch on the GPU as well"
    return (
        f"try --seq-len {max(1, plan.job.seq_len // 2)}: LLM Compressor computes attention in full, and its scores "
        "grow with the square of the length, so half the tokens need a quarter"
    )


def _smaller_subgraphs(plan: Plan, what: str) -> str:
    if plan.job.targets_per_subgraph > 1:
        return f"--targets-per-subgraph 1 keeps the {_NAMES[what]} of one target at a time on the GPU"
    if plan.job.sequential_targets is not None:
        return "only shorter or fewer samples per batch, or a larger GPU, are left"
    return (
        "name attention and MLP classes in --sequential-targets instead of whole layers, so that the "
        f"{_NAMES[what]} of fewer Linears are on the GPU together"
    )


_NAMES: dict[str, str] = {
    "weights": "weights",
    "activations": "activations",
    "hessians": "Hessians",
    "workspace": "workspaces",
    "observers": "observers",
    "cache": "activations",
    "other": "tensors",
}


def _owner(step: Step) -> str:
    return step.gpu.largest[0].owner if step.gpu.largest else "one tensor"
