"""pipelines/sequential/pipeline.py: one subgraph after the other, all batches through each.

For every subgraph: *calibrate* (all batches, hooks on), *compress* (sequential_epoch_end), *propagate* (all batches
again, hooks off but the model's own, outputs into the activation cache). Weights that were touched stay on the GPU
until the subgraph ends (`disable_offloading`). Passes are walked in passes.py, equal subgraphs copied in repeats.py.
"""

from planner.compress.cache import ActivationCache
from planner.compress.forward import Hooked
from planner.compress.holdings import DeviceName
from planner.compress.pipelines.base import Pipeline
from planner.compress.pipelines.passes import NAMES, Pass
from planner.compress.pipelines.repeats import Repeats
from planner.compress.program import Run, Subgraph, cut
from planner.compress.schema import Phase
from planner.recipe.targets import LinearModule


class SequentialPipeline(Pipeline):
    """The pipeline of every modifier that needs data."""

    def run(self) -> None:
        context, trace = self.context, self.program.trace
        self.subgraphs = cut(trace, context.job.targets_per_subgraph)
        self.cache = ActivationCache(context, trace)
        self.names = context.frame("forward", "sequential pipeline")
        # sample_input = next(iter(dataloader)) stays a local name of the pipeline
        sample = context.ledger.alloc("cpu", trace.batch_bytes, "calibration_data", "sample input")
        self.onload_head()
        self._trace()
        self.start()
        self.close("setup", "setup")
        self.onload_head()
        self.cache.fill()
        self.loss_masks.fetch(self.cache)
        self.close("prepare", "activation cache")
        self._walk()
        self.finish()
        # the pipeline returns: its local names and the cache go
        self.names.delete(*NAMES)
        self.cache.clear()
        context.ledger.free(sample)
        self.returned()

    def _trace(self) -> None:
        """helpers.py trace_subgraphs runs what stands before the first target where its weights lie, for one batch.

        Of weights on the disk only the sizes are known then, so nothing is computed.
        """
        crossings = self.program.trace.crossings
        hidden = max(
            (crossings[n].bytes for n in self.subgraphs[0].writes if crossings[n].name != "attention_mask"), default=0
        )
        device: DeviceName = "gpu" if self.context.weights_on_gpu else "cpu"
        if not self.context.is_on_disk(self.program.embedding):
            with self.context.ledger.hold(device, hidden, "trace", "hidden states while the model is traced"):
                self._run_staying_hooks(device)
            self._run_nodes(device)

    def _run_staying_hooks(self, device: DeviceName) -> None:
        """Those that an earlier pipeline left on the embedding."""
        before, self.context.device = self.context.device, device
        name = self.program.embedding.removesuffix(".weight")
        calls = (e.call for e in self.program.trace.segments[0].events if e.kind == "exit" and e.call is not None)
        for call in (call for call in calls if self.staying and call.module == name):
            for _, model in self.staying:
                model.traced(name, call)
        self.context.device = before

    def _run_nodes(self, device: DeviceName) -> None:
        """What stays on modules that hold targets."""
        before, self.context.device = self.context.device, device
        held = self.program.trace.held
        for name in (name for name, calls in held.items() if name and all(call.in_graph for call in calls)):
            for _, model in self.staying:
                model.traced_in_graph(name)
        self.context.device = before

    def _walk(self) -> None:
        runs = (*(run for run, _ in self.staying), *self.runs)
        repeats = Repeats(self.context, self.program, runs, self.cache, self.names)
        steps = self.outcome.steps
        for subgraph in self.subgraphs:
            key = repeats.key(subgraph)
            template = repeats.templates.get(key) if self.context.shortcuts.subgraphs else None
            again = repeats.repeat(template, subgraph) if template and not self._is_last(subgraph) else None
            if again is not None:
                steps += again
            else:
                repeats.walk(key, subgraph, self._subgraph, steps)

    @property
    def _propagates(self) -> bool:
        """SequentialPipeline turns it off for the whole recipe where one of its modifiers trains."""
        return self.context.job.propagate_error and not any(run.spec.trains for run in self.program.runs)

    def _is_last(self, subgraph: Subgraph) -> bool:
        return subgraph is self.subgraphs[-1]

    # ------------------------------------------------------------------ one subgraph
    def _subgraph(self, subgraph: Subgraph) -> None:
        last, propagate = self._is_last(subgraph), self._propagates
        modules = [self._modules(run, subgraph) for run in self.runs]
        hooked = self.hooked(modules, lambda run: self._modules(run, subgraph))
        self._pass(subgraph, "outputs", hooked, store=not propagate and not last)
        self._close(subgraph, "calibrate")
        self.compress(modules)
        if propagate:
            self._close(subgraph, "compress")
            own = tuple(hooks for hooks in hooked if hooks.modifier.stays_in_forward)
            self._pass(subgraph, "output", own, store=not last)
        if not last:
            self.context.offload_all()  # `disable_offloading` ends
        self._close(subgraph, "propagate" if propagate else "compress")

    def _pass(self, subgraph: Subgraph, result: str, hooked: tuple[Hooked, ...], *, store: bool) -> None:
        Pass(self.context, self.forward, self.cache, self.names, subgraph, result, hooked, store).run()

    def _modules(self, run: Run, subgraph: Subgraph) -> list[LinearModule]:
        """Targeted modules that run in the subgraph, in model order."""
        own = {self.program.trace.segments[i].target for i in subgraph.segments}
        called = self._called(subgraph)
        modules: list[LinearModule] = []
        for unit in run.units:
            if unit.unit in own:
                modules += [*unit.named(), *unit.named_states()]
            elif unit.loose:
                modules += [m for m in (*unit.named(), *unit.named_states()) if m.name in called]
        return modules

    def _called(self, subgraph: Subgraph) -> set[str]:
        """Full names of the modules outside of targets that the subgraph calls (head, lm_head)."""
        segments = [self.program.trace.segments[i] for i in subgraph.segments]
        calls = (event.call for segment in segments for event in segment.events)
        return {call.module for call in calls if call is not None and not call.module.startswith(".")}

    def _close(self, subgraph: Subgraph, phase: Phase) -> None:
        self.close(phase, subgraph.unit, subgraph=subgraph.number, of=len(self.subgraphs), exact=subgraph.exact)
