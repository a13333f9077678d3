"""What to do next about a plan: the command that plans other ways to run it. Advice is planned, or not given."""

from planner.choose.paste import SAVE_FIRST, command_line
from planner.compress.schema import Plan
from planner.compress.verdicts import Fit, peak_gpu_step, verdict
from planner.recipe.files import ON_STDIN
from planner.reports.rehearsal import script_advice
from planner.sizing.demands import gpus_of_recipe

_SENTENCES: dict[Fit, tuple[str, str]] = {
    "fits": ("strategies", "nothing needs to change; other ways to run it, and what each asks:"),
    "tight": ("fit", "it gets through, but slowly; what would make it fit, planned:"),
    "over": ("fit", "what makes it fit, planned:"),
}


def advice_line(plan: Plan) -> str:
    """One sentence, with the command to type."""
    return " ".join(filter(None, advice(plan)))


def advice(plan: Plan) -> tuple[str, str]:
    """One sentence, and the command to type; empty where there is none."""
    if plan.script is not None:
        return script_advice(plan.script), ""
    if peak_gpu_step(plan) is None or plan.method == "rule-of-thumb":
        text = "This rule knows nothing of samples, tokens or embeddings; --method simulate walks the job step by step."
        return text, ""
    if not plan.gpu.peak_bytes:
        text = (
            f"The {plan.job.pipeline} pipeline computes where the model lies, which is the CPU here: leave out "
            "--pipeline, and LLM Compressor brings one layer at a time to the GPU; or load it there, --weights gpu."
        )
        return text, ""
    command, sentence = _SENTENCES[verdict(plan)]
    machine, gpus = plan.machine, gpus_of_recipe(plan.job, plan.demands)
    if machine is not None and gpus:
        sentence = f"the recipe spreads layers over GPUs that are not there; with {gpus} of them:"
        machine = machine.model_copy(update={"gpus": gpus})
    if plan.recipe == ON_STDIN:
        sentence = f"{sentence.removesuffix(':')} ({SAVE_FIRST}):"
    return sentence, command_line(command, plan.model.name, plan.recipe, plan.job, machine)
