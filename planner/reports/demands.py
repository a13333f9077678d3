"""What a job asks of a machine, in words: yes or no, what is missing, what binds."""

from collections.abc import Sequence

from planner.hardware.demand import Demand, Fits, binding
from planner.hardware.machine import Machine
from planner.reports.numbers import gib, gib_short
from planner.units import human_bytes

_ANSWERS: dict[Fits, str] = {
    "yes": "YES",
    "slow": "YES, BUT SLOWLY",
    "not said": "NOBODY SAID what the machine has: give --gpu and --ram, --machine or --here",
}


def answer_line(fits: Fits, demands: Sequence[Demand], fails: str | None) -> str:
    """Yes or no, what binds, and how much of it is left or missing."""
    if fails:
        return f"NO, on any machine: {fails}"
    if missing := missing_line(demands):
        return f"NO: {missing}"
    text = _ANSWERS[fits]
    tightest = next((demand for demand in demands if demand.resource == binding(demands)), None)
    if tightest is not None and tightest.has_bytes is not None:
        text += f": {tightest.resource} binds, {_spare(tightest, tightest.has_bytes)}"
    unsaid = [demand.resource for demand in demands if demand.outcome == "not said"]
    return text + (f" (not said: {', '.join(unsaid)})" if unsaid and fits != "not said" else "")


def _spare(demand: Demand, has: int) -> str:
    """What is left of the resource, beside the figure that it is left of: what the job needs, or the least of it."""
    most = human_bytes(has - demand.at_least_bytes)
    if has < demand.needs_bytes:
        return f"{most} above the least that it can do with"
    left = human_bytes(has - demand.needs_bytes)
    return f"{left} to spare" if left == most else f"{left} to spare, {most} at most"


def missing_line(demands: Sequence[Demand]) -> str:
    """How much is missing of what; empty where nothing is."""
    return "; ".join(_missing(demand) for demand in demands if demand.outcome == "over")


def _missing(demand: Demand) -> str:
    if demand.lacks_gpus and not _is_next(demand):
        return f"{demand.gpus} GPUs are needed, and the machine has {demand.has_gpus or 'none'}"
    if demand.has_bytes == 0:
        return f"no {demand.resource}, and {human_bytes(demand.at_least_bytes)} of one is needed"
    lacking = demand.at_least_bytes - (demand.has_bytes or 0)
    return f"{human_bytes(max(0, lacking))} of {demand.resource} missing"


def _is_next(demand: Demand) -> bool:
    """The job wants one such card: the only GPU, or one second to it."""
    return demand.gpus == (2 if demand.resource == "second GPU" else 1)


def _has(demand: Demand) -> str:
    if demand.lacks_gpus:
        return f"the machine has {demand.has_gpus or 'no'} GPU{'s' * (demand.has_gpus > 1)}"
    return "nobody said how much there is" if demand.has_bytes is None else f"the machine has {gib(demand.has_bytes)}"


def demand_line(demand: Demand) -> str:
    """What is needed of one resource and what there is."""
    between = "" if demand.needs_bytes == demand.at_least_bytes else f", at least {gib(demand.at_least_bytes)}"
    return f"{demand.outcome}: {gib(demand.needs_bytes)}{between}; {_has(demand)} ({demand.what})"


def machine_line(machine: Machine) -> str:
    """The machine in one line: its name, cards, RAM and disk, as far as somebody said."""
    parts = [machine.name] if machine.name else []
    if machine.gpu_memory_bytes is not None:
        many = f"{machine.gpus} x " if machine.gpus > 1 else ""
        parts.append(f"{many}{machine.gpu or 'GPU'} of {gib_short(machine.gpu_memory_bytes)}")
    elif machine.gpus == 0:
        parts.append("no GPU")
    for word, size in (("RAM", machine.ram_bytes), ("disk", machine.disk_bytes)):
        parts += [f"{gib_short(size)} of {word}"] if size is not None else []
    return ", ".join(parts) or "nothing said of it"
