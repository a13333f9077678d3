"""Where a model's weights are in RAM, from load to the end of calibration: pages of files, copies, written pages.

transformers 5.17 modeling_utils.py `_load_pretrained_model` opens the files with safetensors' `mmap` backend and
core_model_loading.py `_materialize_copy` takes views of them; `.to` with the same device and dtype copies nothing. So
a weight is a page of the file until somebody writes it: the mapping is private, and a written page becomes the
process's own. What a cast, a conversion or `disable_mmap` makes is the process's own from the start.
"""

from dataclasses import dataclass

from planner.compress.host_schema import Loading, LoadMode
from planner.fields import DType
from planner.sizing.host_constants import HostConstants
from planner.sizing.host_facts import HostModel

WIDTHS: dict[DType, int] = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPages:
    """Resident bytes of weights, by what the kernel can do with them."""

    mapped: int = 0
    """Pages of the checkpoint's files: it drops them, and reads them again."""
    copies: int = 0
    """The process's own."""
    written: int = 0
    """Pages of a mapping that were written: the process's own."""

    @property
    def own(self) -> int:
        return self.copies + self.written


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightWalk:
    """The weights of one job, step by step."""

    model: HostModel
    loading: Loading
    mode: LoadMode
    dtype: DType
    constants: HostConstants

    @property
    def budget(self) -> int:
        """Weights that are in RAM at all: load_offloaded_model leaves the others on disk (offload/load.py)."""
        if self.loading.available_ram_bytes is None:
            return self.model.weight_bytes
        room = max(0, self.loading.available_ram_bytes - self.loading.extra_cpu_bytes)
        return min(self.model.weight_bytes, room)

    @property
    def offloaded(self) -> int:
        """Weights that stay on disk."""
        return self.model.weight_bytes - self.budget

    @property
    def file_bytes(self) -> int:
        """The checkpoint's tensors as the files hold them."""
        width = WIDTHS[self.loading.checkpoint_dtype or self.dtype]
        return self.model.weight_bytes * width // WIDTHS[self.dtype]

    @property
    def is_mapped(self) -> bool:
        """Weights are views of the files."""
        return self.mode in ("mapped", "auto offload")

    @property
    def copied_experts(self) -> int:
        """Experts that are the process's own: stacked into one tensor a layer, then spread out again."""
        return self.model.experts_bytes if self.model.is_converted else 0

    # ------------------------------------------------------------------ phases
    def load(self) -> WeightPages:
        """While from_pretrained runs, at most."""
        stack = 2 * self.model.layer_experts_bytes // 3 if self.model.is_converted else 0
        match self.mode:
            case "cast":
                # every tensor is cast by a pool of threads that may be done before the first is stacked
                return WeightPages(mapped=self.file_bytes, copies=self.model.weight_bytes + self.copied_experts)
            case "no mmap":
                # modeling_utils.py: the bytes of one file, and all tensors made of them
                last = self.file_bytes // self.loading.files
                return WeightPages(copies=self.model.weight_bytes + max(last, self.copied_experts))
            case _:
                # core_model_loading.py MergeModulelist, Concatenate: gate and up are stacked, then joined
                return WeightPages(mapped=self.copied_experts, copies=self.copied_experts + stack)

    def setup(self) -> WeightPages:
        """While experts become Linears: linearize.py linearize_moe keeps every fused module until it returns."""
        after = self.before()
        return WeightPages(mapped=after.mapped, copies=after.copies + self.copied_experts)

    def before(self) -> WeightPages:
        """After setup, before the first forward."""
        if self.is_mapped:
            return WeightPages(mapped=self.copied_experts, copies=self.copied_experts)
        return WeightPages(copies=self.model.weight_bytes)

    def targeted(self) -> WeightPages:
        """After a run without data, which reads the weights that it targets and no others."""
        before = self.before()
        if not self.is_mapped:
            return before
        views = [m for m in self.model.compressed if not (m.is_expert and self.model.is_converted)]
        read = max(sum(m.weight_bytes for m in views), self.model.written_bytes)
        return self._limited(before, read, self.model.written_bytes, self.model.largest_unit_bytes)

    def during(self, subgraph: int, *, writes: bool) -> WeightPages:
        """While this subgraph runs, from 0; `writes`: its modules are being compressed, or are so already."""
        before = self.before()
        done = self.model.subgraphs[: subgraph + 1]
        if not self.is_mapped:
            return before
        rows = self.model.embedding_read(self.constants.fault_bytes)
        written = sum(each.written_bytes for each in (done if writes else done[:-1]))
        read = rows + sum(each.read_bytes for each in done)
        return self._limited(before, read, written, done[-1].read_bytes)

    def after(self, *, everything: bool) -> WeightPages:
        """After the last subgraph; `everything`: save has read what calibration did not."""
        if everything and self.is_mapped:
            before = self.before()
            own = self.copied_experts  # their source stays mapped beside them
            return self._limited(before, self.model.weight_bytes - own, self.model.written_bytes, 0)
        return self.during(len(self.model.subgraphs) - 1, writes=True)

    # ------------------------------------------------------------------ inside
    def _limited(self, before: WeightPages, read: int, written: int, now: int) -> WeightPages:
        """Pages after so many bytes were read and written; of weights on disk those that the subgraph uses now."""
        share = self.budget / max(1, self.model.weight_bytes)
        if share < 1:
            read = min(read, self.budget) + min(now, self.offloaded)
            written = int(written * share)
        return WeightPages(
            mapped=before.mapped + max(0, read - written), copies=before.copies, written=min(written, read)
        )
