"""The calibration pipelines (llmcompressor/pipelines/*), walked step by step on the books."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from planner.compress.cache import ActivationCache
from planner.compress.context import Context
from planner.compress.forward import Forward
from planner.compress.ledger import Handle, Owner, Peak
from planner.compress.modifiers import make_model
from planner.compress.modifiers.base import ModifierModel
from planner.compress.program import Outcome, Program, Run, StepMemory, Subgraph, cut
from planner.recipe.targets import LinearModule

# Batches simulated one by one at the start of a pass: from the second one on each equals the next.
SHOWN_BATCHES = 3


class Pipeline:
    """Common ground: the runs that share this pass over the data, and how steps are closed."""

    def __init__(
        self, context: Context, program: Program, runs: Sequence[Run], outcome: Outcome, *, fold: bool = True
    ) -> None:
        self.context, self.program, self.runs, self.outcome, self.fold = context, program, runs, outcome, fold
        self.modifier = "+".join(run.spec.type for run in runs)
        self.models: list[ModifierModel] = [make_model(run.spec, context) for run in runs]

    def run(self) -> None:
        """Simulate the pipeline from calibration_start to calibration_end."""
        raise NotImplementedError(type(self).__name__)

    def close(
        self, phase: str, unit: str, *, subgraph: int | None = None, of: int | None = None, exact: bool = True
    ) -> StepMemory:
        """End a step and record it."""
        peaks = self.context.ledger.close_step()
        step = StepMemory(
            modifier=self.modifier,
            subgraph=subgraph,
            of=of,
            phase=phase,
            unit=unit,
            exact=exact,
            gpu=peaks["gpu"],
            cpu=peaks["cpu"],
        )
        self.outcome.steps.append(step)
        return step

    def start(self) -> None:
        """calibration_start of every modifier; untying copies the embeddings first."""
        for run, model in zip(self.runs, self.models, strict=True):
            if run.unties_embeddings:
                self._untie()
            model.on_calibration_start()

    def _untie(self) -> None:
        """utils/transformers.py untie_word_embeddings: both weights onloaded and cloned in turn.

        The old weight, its clone and the next clone are referred to by the loop's names.
        """
        program, ledger = self.program, self.context.ledger
        with self.context.frame("weights", "untie_word_embeddings") as frame:
            for _ in range(2):
                frame.assign("weight", program.embedding_bytes)
                frame.assign("clone", program.embedding_bytes)
        if program.tied:
            ledger.alloc("cpu", program.embedding_bytes, "model", "untied lm_head")

    def onload_head(self) -> None:
        """utils/helpers.py disable_lm_head: the head's weight is onloaded to make a meta copy of it."""
        if self.program.head_bytes and self.context.device == "gpu":
            with self.context.ledger.hold("gpu", self.program.head_bytes, "weights", "lm_head.weight"):
                pass

    def compress(self, modules: Sequence[Sequence[LinearModule]]) -> None:
        """sequential_epoch_end of every modifier, each with the modules that it targets."""
        for model, targeted in zip(self.models, modules, strict=True):
            model.on_sequential_epoch_end(targeted)

    def all_modules(self, run: Run) -> list[LinearModule]:
        """Every targeted module of the model, in model order."""
        return [replace(module, observed=True) for unit in run.units for module in unit.named()]

    def finish(self) -> None:
        """calibration_end of every modifier."""
        for model in self.models:
            model.on_calibration_end()


class SequentialPipeline(Pipeline):
    """pipelines/sequential/pipeline.py."""

    def run(self) -> None:
        context, job = self.context, self.context.job
        self.subgraphs = cut(self.program.trace, job.targets_per_subgraph)
        self.forward = Forward(context, self.program.trace)
        self.cache = ActivationCache(context, self.program.trace)
        self.inputs: list[Handle] = []
        self.outputs: list[Handle] = []
        self.output: list[Handle] = []
        # sample_input = next(iter(dataloader)) stays a local name of the pipeline
        sample = context.ledger.alloc("cpu", self.program.trace.batch_bytes, "calibration_data", "sample input")
        self.onload_head()
        self._trace()
        self.start()
        self.close("setup", "setup")
        self.onload_head()
        self.cache.fill()
        self.close("prepare", "activation cache")
        self._walk()
        self.finish()
        self._release(sample)
        self.close("finalize", "finalize")

    def _trace(self) -> None:
        """helpers.py trace_subgraphs runs what stands before the first target on the CPU, for one batch."""
        crossings = self.program.trace.crossings
        hidden = max(
            (crossings[n].bytes for n in self.subgraphs[0].writes if crossings[n].name != "attention_mask"), default=0
        )
        with self.context.ledger.hold("cpu", hidden, "trace", "hidden states while the model is traced"):
            pass

    def _release(self, sample: Handle) -> None:
        """The pipeline returns: its local names and the cache go."""
        ledger = self.context.ledger
        self.context.offload_all()
        for handles in (self.inputs, self.outputs, self.output):
            ledger.free_all(handles)
        self.cache.clear()
        ledger.free(sample)

    def _walk(self) -> None:
        seen: dict[object, tuple[Subgraph, list[StepMemory], list[list[tuple[str, Owner, int]]]]] = {}
        for subgraph in self.subgraphs:
            key = self._key(subgraph)
            if self.fold and key in seen and subgraph is not self.subgraphs[-1]:
                self._repeat(subgraph, *seen[key])
                continue
            first = len(self.outcome.steps)
            self._subgraph(subgraph)
            seen[key] = (subgraph, self.outcome.steps[first:], self._stale())

    # ------------------------------------------------------------------ one subgraph
    def _subgraph(self, subgraph: Subgraph) -> None:
        last = subgraph is self.subgraphs[-1]
        propagate = self.context.job.propagate_error
        modules = [self._modules(run, subgraph) for run in self.runs]
        self.forward.targets = [
            (m, {t.name: t for t in targeted}) for m, targeted in zip(self.models, modules, strict=True)
        ]
        self._pass(subgraph, "outputs", hooks=True, store=not propagate and not last)
        self._close(subgraph, "calibrate")
        self.compress(modules)
        self._close(subgraph, "compress")
        if propagate:
            self._pass(subgraph, "output", hooks=False, store=not last)
            self._close(subgraph, "propagate")
        if not last:
            self._leave()

    def _leave(self) -> None:
        """`disable_offloading` ends: the step that is recorded last ends without the weights."""
        self.context.offload_all()
        step, peaks = self.outcome.steps[-1], self.context.ledger.close_step()
        self.outcome.steps[-1] = _with_ends(step, peaks["gpu"].end, peaks["cpu"].end)

    def _pass(self, subgraph: Subgraph, name: str, *, hooks: bool, store: bool) -> None:
        """All batches once. From the third batch on every batch costs the same: skip to the last."""
        batches = self.context.job.batches
        shown = range(batches) if batches <= SHOWN_BATCHES + 1 else [*range(SHOWN_BATCHES), batches - 1]
        ahead: list[Handle] | None = None
        for position, batch in enumerate(shown):
            if store and position == SHOWN_BATCHES and batches > SHOWN_BATCHES + 1:
                self._skip(subgraph, batches - SHOWN_BATCHES - 1)
            last = batch == batches - 1
            if ahead is not None and position == SHOWN_BATCHES:  # fetched before the batches that are skipped
                self.context.ledger.free_all(ahead)
                ahead = None
            fetched = ahead if ahead is not None else self.cache.fetch(subgraph.reads, last=last)
            self._assign("inputs", fetched)
            # iter_prefetch: the next batch is on its way while this one runs
            ahead = (
                self.cache.fetch(subgraph.reads, last=batch + 2 == batches)
                if self.context.job.prefetch and not last
                else None
            )
            self.forward.share = self._share(last)
            self._assign(name, self.forward.run(subgraph, hooks=hooks))
            if store:
                self._store(subgraph, last=last)

    def _share(self, last: bool) -> tuple[int, int]:
        """The last batch may hold fewer samples than the others."""
        job = self.context.job
        return (job.last_batch_size, job.batch_size) if last and job.batches > 1 else (1, 1)

    def _assign(self, name: str, produced: list[Handle]) -> None:
        """outputs = subgraph.forward(...): the last batch's outputs go now."""
        self.context.ledger.free_all(getattr(self, name))
        setattr(self, name, produced)

    def _store(self, subgraph: Subgraph, *, last: bool) -> None:
        if self.cache.device == self.context.device:
            # the cache takes the very tensors: they are counted there from now on
            name = "output" if self.context.job.propagate_error else "outputs"
            self._assign(name, [])
        self.cache.update(subgraph.writes, last=last)
        self.inputs += self.cache.delete(subgraph.consumed, last=last)

    def _skip(self, subgraph: Subgraph, batches: int) -> None:
        """Batches that are not shown: each only moves the cache on by the same bytes."""
        self.context.ledger.free_all(self.cache.delete(subgraph.consumed, batches=batches))
        self.cache.update(subgraph.writes, batches=batches)

    def _modules(self, run: Run, subgraph: Subgraph) -> list[LinearModule]:
        """Targeted modules that run in the subgraph, in model order."""
        own = {self.program.trace.segments[i].target for i in subgraph.segments}
        called = self._called(subgraph)
        modules: list[LinearModule] = []
        for unit in run.units:
            if unit.unit in own:
                modules += unit.named()
            elif unit.loose:
                modules += [m for m in unit.named() if m.name in called]
        return modules

    def _called(self, subgraph: Subgraph) -> set[str]:
        """Full names of the modules outside of targets that the subgraph calls (head, lm_head)."""
        segments = [self.program.trace.segments[i] for i in subgraph.segments]
        calls = (event.call for segment in segments for event in segment.events)
        return {call.module for call in calls if call is not None and not call.module.startswith(".")}

    def _close(self, subgraph: Subgraph, phase: str) -> None:
        self.close(phase, subgraph.unit, subgraph=subgraph.number, of=len(self.subgraphs), exact=subgraph.exact)

    # ------------------------------------------------------------------ repeated subgraphs
    def _key(self, subgraph: Subgraph) -> object:
        """Two subgraphs with equal keys cost the same: structure, targets, borders, and what they find."""
        segments = [self.program.trace.segments[i] for i in subgraph.segments]
        crossings = self.program.trace.crossings
        return (
            tuple((s.structure, tuple(run.signature(s.target) for run in self.runs)) for s in segments),
            tuple(crossings[n].bytes for n in subgraph.reads),
            tuple(crossings[n].bytes for n in subgraph.writes),
            tuple(crossings[n].bytes for n in subgraph.consumed),
            tuple(tuple(size for _, _, size in group) for group in self._stale()),
            tuple(sorted(self.context.ledger.live_by_kind("cpu").items())),
            tuple(sorted(self.context.ledger.live_by_kind("gpu").items())),
        )

    def _stale(self) -> list[list[tuple[str, Owner, int]]]:
        ledger = self.context.ledger
        return [
            [(*ledger.about(h)[1:], ledger.size(h)) for h in group]
            for group in (self.inputs, self.outputs, self.output)
        ]

    def _repeat(
        self, subgraph: Subgraph, template: Subgraph, steps: list[StepMemory], stale: list[list[tuple[str, Owner, int]]]
    ) -> None:
        """Copy the steps of an equal subgraph under this one's names, and leave what it leaves."""
        renames = _renames(self.program, template, subgraph)
        for step in steps:
            self.outcome.steps.append(_renamed(step, subgraph, renames))
        ledger = self.context.ledger
        for name, group in zip(("inputs", "outputs", "output"), stale, strict=True):
            ledger.free_all(getattr(self, name))
            setattr(self, name, [self.context.take(size, kind, owner.renamed(renames)) for kind, owner, size in group])
        self.cache.rename(subgraph.consumed, subgraph.writes)
        ledger.close_step()


class DataFreePipeline(Pipeline):
    """pipelines/data_free/pipeline.py: no forward; each weight is onloaded where it is used."""

    def run(self) -> None:
        self.start()
        self.close("setup", "setup")
        self.context.keep_onloaded = False
        fold = self.folded if self.fold else self.all_modules
        self.compress([fold(run) for run in self.runs])
        self.context.keep_onloaded = True
        self.close("compress", "all modules")
        self.finish()
        self.close("finalize", "finalize")

    def folded(self, run: Run) -> list[LinearModule]:
        """Every targeted module, equal neighbours but the first and the last as one.

        Statistics grow while all weights are observed, and shrink while qparams are computed: the
        first and the last of equal units see the extremes.
        """
        modules: list[LinearModule] = []
        for _, members in groupby(run.units, key=lambda unit: unit.signature):
            units = list(members)
            modules += units[0].named()
            if len(units) > 2:
                modules += units[1].named(copies=len(units) - 2)
            if len(units) > 1:
                modules += units[-1].named()
        return [replace(module, observed=True) for module in modules]


class BasicPipeline(Pipeline):
    """pipelines/basic/pipeline.py: whole forwards where the model lies, which is the CPU.

    `oneshot` never moves the model for this pipeline: a model loaded without a device map
    computes on the CPU (get_execution_device), so its activations and Hessians are CPU memory.
    """

    def run(self) -> None:
        trace = self.program.trace
        self.context.device = "cpu"
        forward = Forward(self.context, trace)
        modules = [self.all_modules(run) for run in self.runs]
        forward.targets = [(m, {t.name: t for t in targeted}) for m, targeted in zip(self.models, modules, strict=True)]
        self.start()
        self.close("setup", "setup")
        whole = Subgraph(
            number=1, segments=tuple(range(len(trace.segments))), reads=(), writes=(), consumed=(), unit="model"
        )
        for _ in range(min(SHOWN_BATCHES, self.context.job.batches)):
            with self.context.ledger.hold("cpu", trace.batch_bytes, "calibration_data", "batch"):
                self.context.ledger.free_all(forward.run(whole, hooks=True))
        self.close("calibrate", "model")
        self.compress(modules)
        self.close("compress", "model")
        self.finish()
        self.context.device = "gpu"
        self.close("finalize", "finalize")


def _with_ends(step: StepMemory, gpu: int, cpu: int) -> StepMemory:
    return replace(step, gpu=replace(step.gpu, end=gpu), cpu=replace(step.cpu, end=cpu))


def _renames(program: Program, template: Subgraph, subgraph: Subgraph) -> dict[str, str]:
    """Old module names -> new ones: the subgraph's own targets, and those of the one before it."""
    segments = program.trace.segments
    pairs = list(zip(template.segments, subgraph.segments, strict=True))
    pairs += [(a - len(pairs), b - len(pairs)) for a, b in pairs if a - len(pairs) > 0]
    return {segments[a].target: segments[b].target for a, b in pairs if segments[a].target}


def _renamed(step: StepMemory, subgraph: Subgraph, renames: dict[str, str]) -> StepMemory:
    def peak(old: Peak) -> Peak:
        return replace(old, largest=tuple(replace(h, owner=h.owner.renamed(renames)) for h in old.largest))

    return replace(step, subgraph=subgraph.number, unit=subgraph.unit, gpu=peak(step.gpu), cpu=peak(step.cpu))
