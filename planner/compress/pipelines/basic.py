"""pipelines/basic/pipeline.py: whole forwards where the model lies, which is the CPU.

`oneshot` never moves the model for this pipeline: a model loaded without a device map
computes on the CPU (get_execution_device), so its activations and Hessians are CPU memory.
"""

from planner.compress.batches import Batches, walk_batches
from planner.compress.forward import Hooked
from planner.compress.pipelines.base import Pipeline
from planner.compress.program import Subgraph


class BasicPipeline(Pipeline):
    """The whole model as one subgraph."""

    def run(self) -> None:
        trace, ledger = self.program.trace, self.context.ledger
        self.context.device = "cpu"
        modules = [self.all_modules(run) for run in self.runs]
        hooked = tuple(
            Hooked(model, {m.name: m for m in targeted}) for model, targeted in zip(self.models, modules, strict=True)
        )
        self.start()
        self.close("setup", "setup")
        everything = tuple(range(len(trace.segments)))
        whole = Subgraph(number=1, segments=everything, reads=(), writes=(), consumed=(), unit="model")

        batches = Batches(self.context.job)

        def batch(number: int) -> None:
            samples, size = share = batches.share(number)
            with ledger.hold("cpu", trace.batch_bytes * samples // size, "calibration_data", "batch"):
                ledger.free_all(self.forward.run(whole, hooked, share, again=number > 0).values())

        walk_batches(self.context, batches.count, batch)
        self.close("calibrate", "model")
        self.compress(modules)
        self.close("compress", "model")
        self.finish()
        self.context.device = "gpu"
        self.close("finalize", "finalize")
