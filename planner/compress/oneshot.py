"""The whole of `oneshot` (llmcompressor/entrypoints/oneshot.py): load, initialize, pipelines, save.

How the simulation works, in one page:

- The **program** (program.py) is the job as plain data: a traced forward cut at the sequential targets, and which
  modules each modifier targets. Nothing here runs a model.
- A **pipeline** (pipelines/) walks the program as the library's pipeline of that name does, and calls the modifiers'
  hooks where the library calls them. A **modifier** (modifiers/) takes and frees what its upstream functions do, in
  their order, under their local names.
- All memory goes through the **context** to the **ledger**: taking and freeing are events with a device, a kind and
  an owner. A step is closed by the pipeline; its peak is a fold over its events. A **device** sits in that stream
  and answers what the library asks of the hardware.
- What repeats (batches, blocks of columns, equal layers) is walked once and copied, where state shows that the
  rest would be equal.
"""

from collections.abc import Mapping

from planner.compress.context import Context
from planner.compress.devices import CountingDevice
from planner.compress.disk import below
from planner.compress.home import ModelHome
from planner.compress.inferred import PipelineName, pipeline_runs
from planner.compress.loss_masks import LossMasks
from planner.compress.modifiers import make_model
from planner.compress.modifiers.base import ModifierModel
from planner.compress.pipelines.base import Pipeline, end_step
from planner.compress.pipelines.basic import BasicPipeline
from planner.compress.pipelines.datafree import DataFreePipeline
from planner.compress.pipelines.sequential import SequentialPipeline
from planner.compress.program import Outcome, Program, Run
from planner.compress.ranks import Rank
from planner.compress.saving import retie_embeddings
from planner.cuda.build import CudaBuild
from planner.job import Job

_PIPELINES: Mapping[PipelineName, type[Pipeline]] = {
    "sequential": SequentialPipeline,
    "basic": BasicPipeline,
    "datafree": DataFreePipeline,
}


def simulate(program: Program, context: Context, outcome: Outcome | None = None) -> Outcome:
    """Walk the job from load to save. `outcome` takes the steps, also where the card runs out of memory half-way."""
    outcome = Outcome() if outcome is None else outcome
    ledger, home = context.ledger, ModelHome(context, program)
    if program.on_disk:
        context.is_on_disk = below(program.on_disk)
    context.second_gpu = program.second_gpu
    if program.second_gpu and "gpu1" not in ledger.devices:
        ledger.add_second(CountingDevice(context.job.gpu_memory_bytes))
    context.losses.keeps_modules = any(run.spec.keeps_modules for run in program.runs)
    home.load()
    outcome.steps.append(end_step(context, home, "load"))
    samples = program.trace.sample_bytes * context.job.rank_samples
    ledger.alloc("cpu", samples, "calibration_data", "calibration samples")
    home.linearize()
    home.add_qparams()
    models = {id(run): make_model(run.spec, context) for run in program.runs}
    for run in program.runs:
        models[id(run)].on_initialize(module for unit in run.units for module in unit.named())
    pipelines = pipeline_runs(program, context.job)
    staying: list[tuple[Run, ModifierModel]] = []
    masks = LossMasks(context)
    for each in pipelines:
        is_last = each is pipelines[-1]
        pipeline = _PIPELINES[each.pipeline](context, program, each.runs, outcome, home, models, followed=not is_last)
        pipeline.ending = tuple(models.values()) if is_last else ()
        pipeline.staying = tuple(staying)
        pipeline.loss_masks = masks
        pipeline.run()
        staying += [(run, models[id(run)]) for run in each.runs if models[id(run)].stays_in_forward]
    if program.saves and (context.weights_on_gpu or any(each.pipeline != "basic" for each in pipelines)):
        retie_embeddings(context, program)  # what the basic pipeline alone has seen was never offloaded
    outcome.steps.append(end_step(context, home, "save"))
    return outcome


def heaviest_rank(program: Program, job: Job) -> Rank | None:
    """The rank of a torchrun job whose card takes most, and the first of equals; None where there is no torchrun.

    They differ by the modules that are dealt to them. Counted without PyTorch's allocator.
    """
    return heaviest(program, job, CudaBuild(sm=job.capability))[0]


def heaviest(program: Program, job: Job, cuda: CudaBuild | None) -> tuple[Rank | None, Outcome | None]:
    """The heaviest rank, and what it takes, which is None where nothing had to be simulated to know it."""
    if job.ranks == 1:
        return None, None
    ranks = [Rank(number, job.ranks) for number in range(job.ranks)]
    if not any(run.spec.shares_work for run in program.runs):
        return ranks[0], None
    outcomes = [simulate(program, Context(job, rank=rank, cuda=cuda)) for rank in ranks]
    peaks = [max(step.gpu.bytes for step in outcome.steps) for outcome in outcomes]
    first = peaks.index(max(peaks))
    return ranks[first], outcomes[first]
