"""RAM as the job's process has it: the plan's CPU steps, and all that a plan of tensors does not see.

Two figures for each phase. *Resident* is what ps shows. *Must have* is that without what the kernel can drop, which are
pages of files: with less RAM than this the job is killed; between the two it runs, and reads weights again and again.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal, cast

from planner.compress.host_schema import Host, HostPart, HostPhase, HostPhaseName, HostSetting, Loading
from planner.compress.schema import Plan, Step
from planner.sizing.generation import generation
from planner.sizing.host_constants import HostConstants
from planner.sizing.host_facts import HostModel
from planner.sizing.host_notes import host_notes
from planner.sizing.host_parts import HostMoment, Surroundings, by_part, in_heap
from planner.sizing.host_save import between_copies, save_moments
from planner.sizing.weight_pages import WeightPages, WeightWalk

Outcome = Literal["fits", "slow", "killed"]

ORDER: tuple[HostPhaseName, ...] = (
    "load",
    "setup",
    "prepare",
    "calibrate",
    "compress",
    "propagate",
    "finalize",
    "save",
    "generate",
)


def host_of(
    plan: Plan,
    model: HostModel,
    loading: Loading | None = None,
    setting: HostSetting | None = None,
    constants: HostConstants | None = None,
) -> Host:
    """RAM of a planned job, phase by phase, with the peaks of both figures.

    `model` is what `host_facts.host_model` says of the same graph, recipe and job. A process that computes on the CPU
    (`setting.gpu` false) holds what the plan books on the GPU too: best give a plan made with `without_gpu`; of
    another one, each step's GPU bytes are added, though the two peaks may lie at different moments.
    """
    loading, setting, constants = loading or Loading(), setting or HostSetting(), constants or HostConstants()
    mode = loading.mode(plan.job.dtype)
    walk = WeightWalk(model=model, loading=loading, mode=mode, dtype=plan.job.dtype, constants=constants)
    moments = list(
        _Timeline(plan, walk, Surroundings(constants=constants, setting=setting, modules=model.modules)).moments()
    )
    phases = tuple(_phases(moments))
    resident = max(phases, key=lambda phase: phase.resident_bytes)
    must = max(phases, key=lambda phase: phase.must_have_bytes)
    return Host(
        loading=loading,
        setting=setting,
        mode=mode,
        phases=phases,
        peak_resident_bytes=resident.resident_bytes,
        peak_resident_phase=resident.phase,
        peak_must_have_bytes=must.must_have_bytes,
        peak_must_have_phase=must.phase,
        outcome=_outcome(must.must_have_bytes, resident.resident_bytes, setting.ram_limit_bytes),
        notes=tuple(host_notes(plan, walk, setting)),
    )


def _outcome(must_have: int, resident: int, limit: int | None) -> Outcome | None:
    if limit is None:
        return None
    if must_have > limit:
        return "killed"
    return "slow" if resident > limit else "fits"


class _Timeline:
    """The job's moments in order."""

    def __init__(self, plan: Plan, walk: WeightWalk, around: Surroundings) -> None:
        self.plan, self.walk, self.around = plan, walk, around
        self.most = 0
        """Bytes of malloc's heap that temporaries of one step took so far."""
        self.now = 0
        """And of this step."""
        self.has_run = False
        """A forward has been through the whole model."""
        self.pages = WeightPages()
        """As the last step left them."""

    def moments(self) -> Iterator[HostMoment]:
        """One or more for each step of the plan, and for generation."""
        for step in self.plan.steps:
            if step.phase == "save":
                if self.around.setting.keeps_output:
                    yield from self._save(step)
            else:
                yield self._step(step)
        if self.around.setting.generates:
            pages, copies = generation(self.plan, self.walk, self.pages, self.around)
            yield self.around.moment("generate", None, pages, self._with_malloc({"compressed copies": copies}))

    # ------------------------------------------------------------------ one step
    def _step(self, step: Step) -> HostMoment:
        self.pages = self._weights(step)
        parts = self._parts(step)
        largest = step.cpu.largest if self.around.setting.gpu else (*step.cpu.largest, *step.gpu.largest)
        self.now = in_heap(parts, largest, self.walk.constants.heap_block)
        self.most = max(self.most, self.now)
        if step.phase == "finalize":
            self.has_run = True
        return self.around.moment(phase_of(step), step.index, self.pages, self._with_malloc(parts))

    def _parts(self, step: Step) -> dict[HostPart, int]:
        on_gpu = {} if self.around.setting.gpu else step.gpu.by_kind
        parts = by_part(step.cpu.by_kind, on_gpu)
        more = step.cpu.by_kind.get("model", 0) - self.walk.model.weight_bytes
        if step.phase == "setup" and self.walk.model.is_converted:
            more -= self.walk.model.experts_bytes
        if self.walk.is_mapped and self.walk.model.is_trained:  # not weights before they were trained: pages of files
            more = min(more, self.walk.model.untied_bytes)
        parts["weights"] = parts.get("weights", 0) + max(0, more)  # a head that was untied
        if self.around.setting.gpu and self.around.setting.dataloader_workers and "calibration data" in parts:
            parts["calibration data"] = self.plan.job.batches * self.walk.model.pinned_batch_bytes
        return parts

    def _with_malloc(self, parts: Mapping[HostPart, int], more: int = 0) -> dict[HostPart, int]:
        return {**parts, "allocator": self.around.kept_by_malloc(self.most, self.now) + more}

    def _weights(self, step: Step) -> WeightPages:
        walk = self.walk
        if step.phase == "load":
            return walk.load()
        if step.phase == "setup" and not self.has_run:
            return walk.setup()
        if self.has_run and self._is_datafree():
            return walk.targeted()
        if self.has_run:
            return walk.after(everything=False)
        if step.subgraph is not None:
            return walk.during(step.subgraph - 1, writes=step.phase in ("compress", "propagate"))
        if step.phase == "prepare":
            return walk.before()
        if self._is_datafree():
            return walk.targeted()
        return walk.after(everything=False)

    def _is_datafree(self) -> bool:
        return not any(step.phase in ("calibrate", "prepare") for step in self.plan.steps)

    # ------------------------------------------------------------------ save
    def _save(self, step: Step) -> Iterator[HostMoment]:
        self.now = 0
        walk, parts = self.walk, self._parts(step)
        moments = save_moments(walk, self.pages, repacks=self.around.setting.repacks_moe, gpu=self.around.setting.gpu)
        copies = max(1, sum(module.copy_bytes for module in walk.model.compressed))
        between = 0 if self.around.setting.gpu else between_copies(walk.model, walk.constants)
        for each in moments:
            more = each.lost + max(each.kept, between * (each.copies + each.lost) // copies)
            own: dict[HostPart, int] = {
                **parts,
                "compressed copies": each.copies,
                "tensors": parts.get("tensors", 0) + each.transient,
            }
            self.pages = each.pages
            yield self.around.moment("save", step.index, each.pages, self._with_malloc(own, more))


def phase_of(step: Step) -> HostPhaseName:
    """The phase of a simulated step: a rehearsal, which has two more, is not sized."""
    return cast(HostPhaseName, step.phase)


def _phases(moments: Sequence[HostMoment]) -> Iterator[HostPhase]:
    ordered = sorted(moments, key=lambda moment: ORDER.index(moment.phase))
    for phase, group in groupby(ordered, key=lambda moment: moment.phase):
        members = list(group)
        most = max(members, key=lambda moment: moment.resident)
        must = max(members, key=lambda moment: moment.must_have)
        yield HostPhase(
            phase=phase,
            resident_bytes=most.resident,
            must_have_bytes=must.must_have,
            parts=dict(most.parts),
            step=most.step,
            must_have_step=must.step,
        )
