"""Plan the CPU and GPU memory of an LLM Compressor job, step by step, without running it.

    from planner import Job, plan
    print(plan("llama-3-8b", "gptq_w4a16", Job(samples=256)).gpu.peak_bytes)

Names are imported when they are used: `import planner` is cheap and brings no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from planner.version import __version__ as __version__
from planner.views import shown_by

if TYPE_CHECKING:
    from planner.compress.recipes import load_recipe
    from planner.compress.schema import Plan
    from planner.errors import PlannerError
    from planner.job import Job
    from planner.modelfree.plan import model_free
    from planner.models.load import load_model
    from planner.pictures.notebook import compare, plan
    from planner.rehearse.child.marks import mark

__all__ = ["Job", "Plan", "PlannerError", "compare", "load_model", "load_recipe", "mark", "model_free", "plan"]

_HOMES = {
    "Job": "planner.job",
    "Plan": "planner.compress.schema",
    "PlannerError": "planner.errors",
    "compare": "planner.pictures.notebook",
    "load_model": "planner.models.load",
    "load_recipe": "planner.compress.recipes",
    "mark": "planner.rehearse.child.marks",
    "model_free": "planner.modelfree.plan",
    "plan": "planner.pictures.notebook",
}

shown_by("planner.pictures.notebook")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'planner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
