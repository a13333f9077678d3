"""Common ground of the pipelines: the modifiers that share a pass over the data, and how steps are closed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from planner.compress.context import Context
from planner.compress.forward import Hooked, SubgraphForward
from planner.compress.home import ModelHome
from planner.compress.loss_masks import LossMasks
from planner.compress.modifiers import make_model
from planner.compress.modifiers.base import ModifierModel
from planner.compress.program import Outcome, Program, Run, StepMemory
from planner.compress.schema import Phase
from planner.recipe.targets import LinearModule


def end_step(context: Context, home: ModelHome, phase: Phase, modifier: str | None = None) -> StepMemory:
    """What was held since the last step ended, as a step of the whole model."""
    peaks = context.ledger.close_step(modifier)
    return StepMemory(
        modifier=modifier,
        subgraph=None,
        of=None,
        phase=phase,
        unit=phase,
        exact=True,
        gpu=peaks["gpu"],
        cpu=peaks["cpu"],
        moved=context.traffic.close_step(),
        second_gpu=peaks.get("gpu1"),
        shared_cpu=home.cpu_bytes + context.shared_bytes,
    )


class Pipeline(ABC):
    """One pipeline run: `runs` are the modifiers that it serves, `outcome` takes its steps, `home` has the model.

    `models` are those that were initialized already, by the identity of their run.
    """

    def __init__(
        self,
        context: Context,
        program: Program,
        runs: Sequence[Run],
        outcome: Outcome,
        home: ModelHome | None = None,
        models: Mapping[int, ModifierModel] | None = None,
        *,
        followed: bool = False,
    ) -> None:
        self.followed = followed
        """Another pipeline begins when this one returns."""
        self.context, self.program, self.runs, self.outcome = context, program, tuple(runs), outcome
        self.home = home or ModelHome(context, program)
        self.modifier = "+".join(run.spec.type for run in runs)
        self.forward = SubgraphForward(context, program.trace, program.tuned)
        context.forward = self.forward
        context.head = (program.head, program.head_bytes)
        made = models or {}
        self.models: list[ModifierModel] = [made.get(id(run)) or make_model(run.spec, context) for run in runs]
        self.ending: Sequence[ModifierModel] = ()
        """Those that are finalized when this pipeline ends: all of the job's, if it is the last one."""
        self.loss_masks = LossMasks(context)
        """State.loss_masks: one for all pipelines of the job."""
        self.staying: Sequence[tuple[Run, ModifierModel]] = ()
        """Those of earlier pipelines whose hooks are in the model for good."""

    @abstractmethod
    def run(self) -> None:
        """Simulate the pipeline from calibration_start to calibration_end."""

    def close(
        self, phase: Phase, unit: str, *, subgraph: int | None = None, of: int | None = None, exact: bool = True
    ) -> None:
        """End a step and record it."""
        step = end_step(self.context, self.home, phase, self.modifier)
        self.outcome.steps.append(replace(step, unit=unit, subgraph=subgraph, of=of, exact=exact))

    def start(self) -> None:
        """calibration_start of every modifier; untying copies the embeddings first."""
        for run, model in zip(self.runs, self.models, strict=True):
            if run.unties_embeddings:
                self.home.untie()
            model.on_calibration_start(module for unit in run.units for module in unit.named())

    def hooked(
        self, modules: Sequence[Sequence[LinearModule]], of_run: Callable[[Run], Sequence[LinearModule]]
    ) -> tuple[Hooked, ...]:
        """Every modifier with the modules that it hooks, in the order in which their hooks were registered."""
        earlier = [(model, of_run(run)) for run, model in self.staying]
        found = (*earlier, *zip(self.models, modules, strict=True))
        return tuple(Hooked(model, {module.name: module for module in targeted}) for model, targeted in found)

    def onload_head(self) -> None:
        """utils/helpers.py disable_lm_head: the head's weight is onloaded to make a meta copy of it."""
        if self.program.head_bytes and self.context.device == "gpu" and not self.context.weights_on_gpu:
            self.context.ledger.free(self.context.copied_to_gpu(self.program.head, self.program.head_bytes))

    def compress(self, modules: Sequence[Sequence[LinearModule]]) -> None:
        """sequential_epoch_end of every modifier, each with the modules that it targets."""
        for model, targeted in zip(self.models, modules, strict=True):
            model.on_sequential_epoch_end(targeted)

    def all_modules(self, run: Run) -> list[LinearModule]:
        """Every targeted module of the model, in model order."""
        states = [module for unit in run.units for module in unit.named_states()]
        return [*(replace(module, observed=True) for unit in run.units for module in unit.named()), *states]

    def finish(self) -> None:
        """calibration_end of every modifier, and finalize of those that end here."""
        for model in self.models:
            model.on_calibration_end()
        for model in self.ending:
            model.on_finalize()
        self.context.offload_all()
        if self.followed:  # the pipeline's own names go when it returns: the next one's setup begins with them
            self.close("finalize", "finalize")

    def returned(self) -> None:
        """The pipeline's local names are gone."""
        if not self.followed:
            self.close("finalize", "finalize")
