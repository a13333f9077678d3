"""pipelines/data_free/pipeline.py: no forward; each weight is onloaded where it is used."""

from dataclasses import replace
from itertools import groupby

from planner.compress.importance import bases
from planner.compress.pipelines.base import Pipeline
from planner.compress.program import Run
from planner.recipe.targets import LinearModule


class DataFreePipeline(Pipeline):
    """All modules in one step, one at a time on the GPU."""

    def run(self) -> None:
        self.start()
        self.close("setup", "setup")
        self.context.keep_onloaded = False
        # ranks deal out all modules by name, and iMatrix's sums go by name, so none stands for others
        summed = any(bases(m.scheme) for run in self.runs for unit in run.units for m in unit.modules)
        is_folded = self.context.shortcuts.modules and self.context.rank is None and not summed
        modules = self.folded if is_folded else self.all_modules
        self.compress([modules(run) for run in self.runs])
        self.context.keep_onloaded = True
        self.close("compress", "all modules")
        self.finish()
        self.returned()

    def folded(self, run: Run) -> list[LinearModule]:
        """Every targeted module; of neighbouring equal units, all but the first and the last are folded into one.

        Statistics grow while all weights are observed, and shrink while qparams are computed: the
        first and the last of equal units see the extremes.
        """
        modules: list[LinearModule] = []
        for _, members in groupby(run.units, key=lambda unit: (unit.signature, self.context.is_on_disk(unit.unit))):
            units = list(members)
            modules += units[0].named()
            if len(units) > 2:
                modules += units[1].named(copies=len(units) - 2)
            if len(units) > 1:
                modules += units[-1].named()
        return [replace(module, observed=True) for module in modules]
