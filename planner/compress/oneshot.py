"""The whole of `oneshot` (llmcompressor/entrypoints/oneshot.py): load, initialize, pipelines, save."""

from collections.abc import Mapping

from planner.compress.context import Context
from planner.compress.inferred import PipelineName, pipeline_runs
from planner.compress.ledger import Owner
from planner.compress.parts import FUSED_EXPERTS
from planner.compress.pipelines import BasicPipeline, DataFreePipeline, Pipeline, SequentialPipeline
from planner.compress.program import Outcome, Program, StepMemory

_PIPELINES: Mapping[PipelineName, type[Pipeline]] = {
    "sequential": SequentialPipeline,
    "basic": BasicPipeline,
    "datafree": DataFreePipeline,
}


def simulate(program: Program, context: Context, *, fold: bool = True) -> Outcome:
    """Walk the job from load to save. `fold=False` simulates every subgraph, equal or not."""
    outcome = Outcome()
    ledger = context.ledger
    ledger.alloc("cpu", program.weight_bytes, "model", "model weights")
    _close(context, outcome, "load", "load")
    samples = program.trace.sample_bytes * context.job.samples
    ledger.alloc("cpu", samples, "calibration_data", "calibration samples")
    _linearize(program, context)
    ledger.alloc("cpu", program.qparam_bytes, "qparams", "quantization parameters")
    for each in pipeline_runs(program, context.job):
        _PIPELINES[each.pipeline](context, program, each.runs, outcome, fold=fold).run()
    _close(context, outcome, "save", "save")
    return outcome


def _linearize(program: Program, context: Context) -> None:
    """modeling/moe/linearize.py linearize_moe: its list keeps every fused experts module until it
    returns, so the model and all experts again are there together."""
    with context.ledger.hold(
        "cpu", program.fused_expert_bytes, "model", Owner(FUSED_EXPERTS, "while they are linearized")
    ):
        pass


def _close(context: Context, outcome: Outcome, phase: str, unit: str) -> None:
    peaks = context.ledger.close_step()
    step = StepMemory(
        modifier=None, subgraph=None, of=None, phase=phase, unit=unit, exact=True, gpu=peaks["gpu"], cpu=peaks["cpu"]
    )
    outcome.steps.append(step)
