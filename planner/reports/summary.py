"""A plan in sentences: the header above the table, and the conclusions below it."""

from typing import Literal

from planner.compress.parts import PART_NAMES, cpu_parts, gpu_parts
from planner.compress.schema import Owned, Plan, Step, Verdict
from planner.compress.verdicts import first_over, peak_cpu_step, peak_gpu_step, verdict
from planner.fields import JOB_FIELDS
from planner.job import Job
from planner.reports.demands import answer_line, demand_line
from planner.reports.numbers import gib, gib_short
from planner.reports.rehearsal import method_line, script_lines, stop_lines
from planner.units import format_bytes, human_bytes

BEYOND_TENSORS = "CUDA context and fragmentation come on top"


def header(plan: Plan) -> list[tuple[str, str]]:
    """Model, recipe, job and method of the plan, as (name, text) lines."""
    model = plan.model
    if plan.script is not None and not plan.script.has_job:
        return [*script_lines(plan.script), ("card", card(plan.job)), ("method", _method(plan))]
    lines = [
        ("model", f"{model.name} ({model.architecture})"),
        ("", f"{model.parameters:,} parameters, {gib(model.bytes)} of {plan.job.dtype} weights"),
        *(script_lines(plan.script) if plan.script else ()),
        ("recipe", plan.recipe),
        ("job", job_line(plan.job)),
        ("method", _method(plan)),
    ]
    if model.not_loaded_parameters:
        lines.insert(2, ("", f"the checkpoint holds {model.not_loaded_parameters:,} parameters more, not loaded"))
    return lines


def job_line(job: Job, *, with_card: bool = True) -> str:
    """The job in one line: sizes always, other options where they are not the default; its card where it has one."""
    parts = [f"{job.samples:,} samples x {job.seq_len:,} tokens", f"batch {job.batch_size}"]
    if job.images:
        parts.append(f"{job.images} image{'s' * (job.images > 1)} of {job.image_size[0]}x{job.image_size[1]} each")
    if job.audios:
        parts.append(f"{job.audios} audio clip{'s' * (job.audios > 1)} of {job.audio_seconds} s each")
    unusual = [field.summary_words(getattr(job, field.name)) for field in JOB_FIELDS]
    parts += [f"{job.pipeline} pipeline", *filter(None, unusual)]
    return ", ".join((*parts, card(job)) if with_card else parts)


def card(job: Job) -> str:
    """The job's card and what CUDA has of it: `L40S of 44.39 GiB`, `GPU of 80 GiB`."""
    return f"{job.gpu or 'GPU'} of {gib_short(job.gpu_memory_bytes)}{_assumed(job)}"


def room(job: Job) -> str:
    """What there is of the card: `44.39 GiB of L40S`, `80 GiB`."""
    return gib_short(job.gpu_memory_bytes) + (f" of {job.gpu}" if job.gpu else _assumed(job))


def _assumed(job: Job) -> str:
    """Where nobody said which card there is. A job that was read from a file tells no more what was said."""
    is_said = job.gpu is not None or "gpu_memory_bytes" in job.model_fields_set
    return "" if is_said else " (assumed: say yours with --gpu)"


def gpu_lines(plan: Plan) -> list[str]:
    """The GPU peak: in which step, set by what, its exact bytes, and the rule of thumb's figure."""
    if not plan.gpu.peak_bytes:
        is_out = plan.verdict is not None and plan.verdict.outcome == "out of memory"
        return ["before anything lay on it" if is_out else "because nothing is computed on a GPU"]
    exact = f"{plan.gpu.peak_bytes:,} bytes requested, {plan.gpu.peak_allocated_bytes:,} allocated in 512-byte blocks"
    rule = _beside_rule(plan, plan.gpu.peak_bytes, plan.rule_of_thumb.gpu_bytes if plan.rule_of_thumb else 0)
    return [*_where(plan, peak_gpu_step(plan), "gpu"), exact, *_on_card(plan), *_on_second(plan), *rule]


SecondUse = Literal["waits", "spread", "both", "not known"]

_SECOND: dict[SecondUse, str] = {
    "waits": "of activations wait on a second GPU",
    "spread": "at most on another GPU that layers are spread over",
    "both": "at most on a second GPU, on which activations wait and over which layers are spread",
    "not known": "at most on a second GPU",
}
SECOND_BRIEFLY: dict[SecondUse, str] = {
    "waits": "activations wait there",
    "spread": "layers are spread over it",
    "both": "activations wait there, and layers are spread over it",
    "not known": "",
}
"""For a box that is headed `second GPU`."""


def second_use(plan: Plan) -> SecondUse:
    """What the second GPU is for. What a rehearsed script has on it was not traced."""
    waits = plan.job.has_second_gpu
    if plan.method == "rehearsed":
        return "waits" if waits else "not known"
    trains = any(step.second_gpu and step.second_gpu.by_kind.keys() - {"activation_cache"} for step in plan.steps)
    return "both" if waits and trains else "waits" if waits else "spread"


def _on_second(plan: Plan) -> list[str]:
    """The card on which activations wait, or layers are trained too; empty where there is no second one."""
    second = plan.second_gpu
    if second is None:
        return []
    held = f"{gib(second.peak_bytes)} {_SECOND[second_use(plan)]}"
    if second.peak_reserved_bytes is None or second.device_total_bytes is None:
        return [held]
    return [
        f"{held}: {gib(second.peak_reserved_bytes)} reserved, {gib(second.device_total_bytes)} with the CUDA context; "
        f"{gib(second.smallest_card_bytes or 0)} are enough for it"
    ]


def _on_card(plan: Plan) -> list[str]:
    """What the card holds beyond tensors; empty where the allocator was not simulated."""
    gpu = plan.gpu
    if gpu.peak_reserved_bytes is None or gpu.context_bytes is None or gpu.device_total_bytes is None:
        return []
    total = f"{gib(gpu.device_total_bytes)} with the CUDA context ({gib(gpu.context_bytes)})"
    return [f"{gib(gpu.peak_reserved_bytes)} reserved by PyTorch {plan.torch}'s caching allocator, {total}"]


def cpu_lines(plan: Plan) -> list[str]:
    """The CPU peak: in which step, set by what, its exact bytes, and the rule of thumb's figure."""
    exact = f"{plan.cpu.peak_bytes:,} bytes of tensors, without the Python process"
    rule = _beside_rule(plan, plan.cpu.peak_bytes, plan.rule_of_thumb.cpu_bytes if plan.rule_of_thumb else 0)
    return [*_where(plan, peak_cpu_step(plan), "cpu"), exact, *_of_ranks(plan), *_on_disk(plan), *rule]


def _of_ranks(plan: Plan) -> list[str]:
    """What all processes take together; empty for one."""
    if plan.ranks is None:
        return []
    all_bytes, shared = gib(plan.ranks.all_bytes), gib(plan.ranks.shared_bytes)
    return [
        f"of rank {plan.ranks.simulated}, whose card takes most; all {plan.job.ranks} ranks take {all_bytes}, "
        f"with {shared} of weights in shared memory (/dev/shm) once"
    ]


def _on_disk(plan: Plan) -> list[str]:
    """What lies on the disk beside that; empty where no weights stay there."""
    disk = plan.weights_on_disk
    if disk is None:
        return []
    stay, written = gib(disk.weights_bytes), gib(disk.written_bytes)
    return [f"{stay} of weights stay on the disk, and the job writes {written} beside them"]


def answer(plan: Plan) -> list[str]:
    """Whether the machine can do it. Of a machine of which only the card was said, one line on the card."""
    others = [demand for demand in plan.demands if demand.resource != "GPU" and demand.has_bytes is not None]
    fails = next((note.text for note in plan.notes if note.kind == "fails"), None)
    if plan.fits is None or not (others or fails):
        return [fit_line(plan), *stop_lines(plan)]
    lines = [f"{demand.resource} {demand_line(demand)}" for demand in others]
    card = [f"GPU {fit_line(plan)}"] if plan.machine and plan.machine.gpus else []
    return [answer_line(plan.fits, plan.demands, fails), *card, *stop_lines(plan), *lines]


def fit_line(plan: Plan) -> str:
    """Whether it gets through, and the first step that does not."""
    ran_out = plan.verdict is not None and plan.verdict.outcome == "out of memory"
    if not (plan.gpu.peak_bytes or ran_out):
        return "needs no GPU"
    if plan.verdict is None:
        return _fit_by_tensors(plan)
    smallest = _smallest(plan, "does")
    if plan.verdict.outcome == "through":
        return f"gets through on {room(plan.job)}{smallest}"
    if plan.verdict.outcome == "gives back":
        times = f"{plan.verdict.retries} time{'s' * (plan.verdict.retries > 1)}{_on_which(plan.verdict)}"
        return f"GETS THROUGH on {room(plan.job)} after giving back cached memory {times}, which is slow{smallest}"
    step = first_over(plan)
    where = place(step) if step else "the last step"
    which = "the second GPU, " if plan.verdict.gpu else ""
    return f"OUT OF MEMORY on {which}{room(plan.job)} in {where}{_asking(plan.verdict)}" + _smallest(
        plan, "gets through"
    )


def _on_which(verdict: Verdict) -> str:
    """Where a second GPU gave back too."""
    there = verdict.second_retries
    return "" if not there else " on the second GPU" if there == verdict.retries else f", {there} on the second GPU"


def _asking(verdict: Verdict) -> str:
    """What was asked for and what was free, as far as known."""
    asked, free = verdict.asked_bytes, verdict.free_bytes
    if asked is None:
        return ""
    return f", asking for {human_bytes(asked)}" + ("" if free is None else f" with {human_bytes(free)} free")


def _smallest(plan: Plan, verb: str) -> str:
    """The smallest card, as the end of a sentence; a rehearsal that ran out of memory knows none."""
    size = plan.gpu.smallest_card_bytes
    return "" if plan.script and not size else f"; the smallest card that {verb} has {gib(size or 0)}"


def _fit_by_tensors(plan: Plan) -> str:
    """The same where the allocator was not simulated."""
    total = room(plan.job)
    spare = plan.job.gpu_memory_bytes - plan.gpu.peak_allocated_bytes
    if verdict(plan) != "over":
        word = "fits" if verdict(plan) == "fits" else "FITS ONLY JUST"
        return f"{word} in {total}: {gib(spare)} to spare ({BEYOND_TENSORS})"
    step = first_over(plan)
    where = f"; the first step that runs out is {place(step)}, at {gib(step.gpu.peak_bytes)}" if step else ""
    return f"DOES NOT FIT in {total}: {gib(-spare)} too much{where}"


def result_line(plan: Plan) -> str:
    """What the compressed model weighs and what serving it takes; empty where that is not planned."""
    result = plan.result
    if result is None:
        return ""
    return (
        f"{format_bytes(result.file_bytes, 'GB')} on disk, {result.bits_per_weight:.2f} bits per weight; serving one "
        f"sequence of {result.context:,} tokens with vLLM takes {gib(result.serving_bytes)} of GPU memory"
    )


def place(step: Step) -> str:
    """Where in the job a step is: `compress of model.layers.0 (GPTQModifier, step 9)`."""
    where = step.phase if step.phase == step.unit else f"{step.phase} of {step.unit}"
    who = f"{step.modifier}, " if step.modifier else ""
    return f"{where} ({who}step {step.index})"


def _method(plan: Plan) -> str:
    if plan.script is not None:
        return method_line(plan.script)
    if plan.method == "simulate":
        return f"simulated, as llmcompressor {plan.llmcompressor} runs it"
    return "the rule of thumb that LLM Compressor documents"


def set_by(step: Step, device: Literal["gpu", "cpu"] = "gpu") -> str:
    """What sets a step's peak: the heaviest part, its share, and the largest that is held of it."""
    memory, parts = (step.gpu, gpu_parts) if device == "gpu" else (step.cpu, cpu_parts)
    if not memory.largest or not memory.peak_bytes:
        return "nothing"
    sizes = parts(memory.by_kind)
    heaviest = max(sizes, key=lambda name: sizes[name])
    share = f"{PART_NAMES[heaviest]} ({100 * sizes[heaviest] / memory.peak_bytes:.0f} %)"
    of_it = (owned for owned in memory.largest if parts({owned.kind: 1})[heaviest])
    largest = next(of_it, memory.largest[0])
    return f"{share}; largest: {_in_words(largest)}, {gib(largest.bytes)}"


def _in_words(owned: Owned) -> str:
    """Whose it is, what it is, and how many modules are meant: `Hessian of 256 modules like mlp.experts.0.up_proj`."""
    of = owned.name if owned.copies == 1 else f"{owned.copies} modules like {owned.name}"
    return f"{owned.role} of {of}" if owned.role else of


def _where(plan: Plan, step: Step | None, device: Literal["gpu", "cpu"]) -> list[str]:
    if step is None:
        return []
    where = [f"in {place(step)}"] if plan.method != "rule-of-thumb" else []
    return [*where, f"set by {set_by(step, device)}"]


def _beside_rule(plan: Plan, planned: int, rule: int) -> list[str]:
    """The rule of thumb's figure, and the plan's as a multiple of it; empty for a plan by the rule of thumb."""
    if plan.method == "rule-of-thumb" or not rule:
        return []
    return [f"rule of thumb {gib(rule)}; this plan is {planned / rule:.2f} times that"]
