"""pipelines/basic/pipeline.py: whole forwards where the model lies.

`oneshot` never moves the model for this pipeline: a model loaded without a device map computes on the CPU
(get_execution_device), so its activations and Hessians are CPU memory. So does one whose weights are on the disk.
"""

from dataclasses import replace

from planner.compress.batches import Batches, walk_batches
from planner.compress.forward import Hooked, SubgraphForward
from planner.compress.holdings import Owner
from planner.compress.pipelines.base import Pipeline
from planner.compress.program import Subgraph
from planner.compress.quantized_forward import QuantizedForwards, quantizing
from planner.models.traces import ModelTrace
from planner.timeline import Handle


class BasicPipeline(Pipeline):
    """The whole model as one subgraph."""

    def run(self) -> None:
        trace, ledger = self.program.trace, self.context.ledger
        self.context.forward = self.forward = SubgraphForward(self.context, _named(trace))
        before, self.context.device = self.context.device, "gpu" if self.context.weights_on_gpu else "cpu"
        names = self.context.frame("batch", "basic pipeline")
        modules = [self.all_modules(run) for run in self.runs]
        hooked = self.hooked(modules, self.all_modules)
        self.loss_masks.begin()
        self.start()
        self.close("setup", "setup")
        everything = tuple(range(len(trace.segments)))
        whole = Subgraph(number=1, segments=everything, reads=(), writes=(), consumed=(), unit="model")

        batches = Batches(self.context.job)

        def batch(number: int) -> None:
            samples, size = share = batches.share(number)
            names.delete("batch")  # the loop binds it to the dataloader's batch first, then to its copy on the GPU
            kept = self.loss_masks.append(samples, size)
            with ledger.hold("cpu", trace.batch_bytes * samples // size - kept, "calibration_data", "batch"):
                inputs = self._inputs(samples, size) if self.context.device == "gpu" else {}
                names.bind("batch", *inputs.values())
                ledger.free_all(self.forward.run(whole, hooked, share, inputs, again=number > 0).values())

        walk_batches(self.context, batches.count, batch, called="batch")
        self.close("calibrate", "model")
        # DisableQuantization is left: who runs a block again has its Linears quantize
        targeted = (module for run in self.runs for module in self.all_modules(run))
        self.forward.enable(Hooked(QuantizedForwards(self.context), quantizing(targeted)))
        self.compress(modules)
        self.close("compress", "model")
        self.finish()
        names.delete("batch")
        self.context.device = before
        self.returned()

    def _inputs(self, samples: int, size: int) -> dict[int, Handle]:
        """pytorch/utils/helpers.py tensors_to_device: a copy of every column of the batch, by its crossing."""
        crossings = self.program.trace.crossings.values()
        columns = [each for each in crossings if each.producer < 0]
        return {
            each.id: self.context.take(each.bytes * samples // size, "batch", Owner("basic pipeline batch", each.name))
            for each in columns
        }


def _named(trace: ModelTrace) -> ModelTrace:
    """The trace of one whole forward, whose local names keep what stands before the first layer until it returns:
    `inputs_embeds`, masks and positions (transformers models/llama/modeling_llama.py `LlamaModel.forward`)."""
    last = len(trace.segments) - 1
    crossings = {n: replace(c, last_reader=last) if c.producer == 0 else c for n, c in trace.crossings.items()}
    return replace(trace, crossings=crossings)
