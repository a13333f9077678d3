"""What to make of a plan: does it fit, what runs out first, and the one thing to change."""

from typing import Literal

from planner.compress.holdings import Owner
from planner.compress.parts import FUSED_EXPERTS, PART_NAMES, cpu_parts, gpu_parts
from planner.compress.schema import Owned, Plan, Step
from planner.units import GIB, human_bytes

Fit = Literal["fits", "tight", "over"]

# Where the allocator was not simulated: bytes that a card must hold besides tensors, for the CUDA context
# (0.3 to 0.6 GB) and what the caching allocator loses to fragmentation. A plan that leaves less free is tight.
BREATHING_SPACE = 1 * GIB

_FITS: dict[str, Fit] = {"through": "fits", "gives back": "tight", "out of memory": "over"}

# Hessians that sum to more than this many times the largest one belong to the experts of a MoE layer:
# a dense layer has about seven Linears, and the Hessian of the widest one makes up most of the sum.
MANY = 16


def peak_gpu_step(plan: Plan) -> Step | None:
    """The step with the highest GPU memory; None when the method knows no steps."""
    return next((step for step in plan.steps if step.index == plan.gpu.peak_step), None)


def peak_cpu_step(plan: Plan) -> Step | None:
    """The step with the highest CPU memory; None when the method knows no steps."""
    return next((step for step in plan.steps if step.index == plan.cpu.peak_step), None)


def runs_out(step: Step, plan: Plan) -> bool:
    """Whether the job runs out of GPU memory here: in the replay at the card's size, or by its tensors alone."""
    if plan.verdict is not None:
        return step.index == plan.verdict.step
    return step.gpu.peak_allocated_bytes > plan.job.gpu_memory_bytes


def first_over(plan: Plan) -> Step | None:
    """The first step that would run out of GPU memory; None when every step fits."""
    return next((step for step in plan.steps if runs_out(step, plan)), None)


def verdict(plan: Plan) -> Fit:
    """Whether the job gets through on its card: `tight` where only after giving cached memory back."""
    if plan.verdict is not None:
        return _FITS[plan.verdict.outcome]
    spare = plan.job.gpu_memory_bytes - plan.gpu.peak_allocated_bytes
    if spare < 0:
        return "over"
    return "tight" if spare < BREATHING_SPACE else "fits"


def advise(plan: Plan) -> str:
    """One sentence: the change that helps most with what is most likely to hurt."""
    step = peak_gpu_step(plan)
    if step is None or plan.method == "rule-of-thumb":
        return "This rule knows nothing of samples, tokens or embeddings; --method simulate walks the job step by step."
    if not plan.gpu.peak_bytes:
        return (
            f"The {plan.job.pipeline} pipeline computes where the model lies, which is the CPU here: leave out "
            "--pipeline, and LLM Compressor brings one layer at a time to the GPU; or load it there, --weights gpu."
        )
    fit = verdict(plan)
    if fit == "fits" and (sentence := _cpu_advice(plan)):
        return sentence
    lever = _lever(plan, step)
    if fit == "over":
        return f"To make it fit: {lever}."
    if fit == "tight":
        return f"It gets through only just, and slowly where memory is given back; to be safe: {lever}."
    return f"Nothing needs to change; a lower GPU peak would take {lever}."


def _cpu_advice(plan: Plan) -> str:
    """What to do about CPU memory that is not the model's weights, or nothing."""
    step = peak_cpu_step(plan)
    if step is None:
        return ""
    fused = next((owned for owned in step.cpu.largest if owned.name == FUSED_EXPERTS), None)
    if fused is not None:
        return (
            f"It fits the GPU, but {human_bytes(fused.bytes)} of the CPU peak is the fused experts, kept while oneshot "
            "converts them: load the model with load_quantizable_moe (here: --linearized)."
        )
    cache = cpu_parts(step.cpu.by_kind)["cache"]
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
    if step.phase == "compress" and step.subgraph is None and plan.job.weights != "gpu":
        return _no_option_helps(plan, "the data-free pipeline brings one module at a time to the GPU already")
    if heaviest == "weights" and plan.job.weights == "gpu":
        return "--weights cpu (no device_map), by which LLM Compressor brings one subgraph at a time to the GPU"
    if heaviest == "cache":
        return "--offload-device cpu, which keeps the activation cache in CPU memory"
    if heaviest in ("hessians", "workspace"):
        return _hessian_lever(plan, step, parts["hessians"])
    if heaviest == "activations":
        return _activation_lever(plan)
    if heaviest == "weights" and (step.subgraph == 1 or step.phase == "setup"):
        return _no_option_helps(plan, f"{_largest(step).owner} is onloaded whole, whatever the options are")
    return _smaller_subgraphs(plan, heaviest)


def _hessian_lever(plan: Plan, step: Step, hessians: int) -> str:
    largest = _largest(step)
    if largest.copies > 1 and step.phase == "compress":
        return (
            "`batched_quantization: 1` in the recipe, because the peak is GPTQ compressing "
            f"{largest.copies} modules of one shape together"
        )
    largest_hessian = max((owned.bytes for owned in step.gpu.largest if owned.kind == "hessian"), default=largest.bytes)
    if hessians > MANY * largest_hessian:
        return (
            "cutting the layers at their experts, with ExpertMLPWithGate and the attention class in "
            "--sequential-targets, "
            "so that the Hessians of one expert at a time are on the GPU"
        )
    if step.phase == "compress" and plan.job.targets_per_subgraph == 1:
        return (
            f"ignoring the widest Linears in the recipe, because {step.modifier} holds several copies of "
            f"{largest.owner}, whose size depends on neither samples nor tokens"
        )
    return _smaller_subgraphs(plan, "hessians")


def _activation_lever(plan: Plan) -> str:
    if plan.job.batch_size > 1:
        return f"--batch-size 1, because the activations of {plan.job.batch_size} samples are on the GPU together"
    if plan.job.prefetch:
        return "leaving out --prefetch, which holds the next batch on the GPU as well"
    return (
        f"--seq-len {max(1, plan.job.seq_len // 2)}, because LLM Compressor computes attention in full and its scores "
        "grow with the square of the length"
    )


def _smaller_subgraphs(plan: Plan, what: str) -> str:
    if plan.job.targets_per_subgraph > 1:
        return f"--targets-per-subgraph 1, which keeps the {PART_NAMES[what]} of one target at a time on the GPU"
    if plan.job.sequential_targets is not None:
        return "a shorter --seq-len, or a larger GPU"
    return (
        "the classes of attention and MLP in --sequential-targets instead of whole layers, so that the "
        f"{PART_NAMES[what]} of fewer modules are on the GPU together"
    )


def _no_option_helps(plan: Plan, reason: str) -> str:
    return f"{'a smaller model' if verdict(plan) == 'fits' else 'a larger GPU'}, because {reason}"


def _largest(step: Step) -> Owned:
    return step.gpu.largest[0] if step.gpu.largest else Owned.of(Owner("one tensor"), "other", 0)
