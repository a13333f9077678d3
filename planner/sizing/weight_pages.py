"""Where a model's weights are in RAM, from load to the end of calibration: pages of files, copies, written pages.

transformers 5.17 modeling_utils.py `_load_pretrained_model` opens the files with safetensors' `mmap` backend and
core_model_loading.py `_materialize_copy` takes views of them; `.to` with the same device and dtype copies nothing. So
a weight is a page of the file until somebody writes it: the mapping is private, and a written page becomes the
process's own. What a cast, a conversion or `disable_mmap` makes is the process's own from the start.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

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
    """Pages of a mapping that were written, and tensors that took the place of views of it: the process's own."""

    @property
    def own(self) -> int:
        return self.copies + self.written


@dataclass(frozen=True, kw_only=True)
class WeightWalk:
    """The weights of one job, step by step."""

    model: HostModel
    loading: Loading
    mode: LoadMode
    dtype: DType
    constants: HostConstants

    # ------------------------------------------------------------------ where weights are
    @cached_property
    def on_disk(self) -> frozenset[str]:
        """Units that load_offloaded_model leaves on disk (compressed_tensors offload/load.py).

        accelerate utils/modeling.py infer_auto_device_map fills the CPU in the order of the model, and keeps room
        there for the largest layer; from the first unit that does not fit on, all stay on disk.
        """
        if self.loading.available_ram_bytes is None:
            return frozenset()
        room = self.loading.available_ram_bytes - self.loading.extra_cpu_bytes - self.model.largest_layer
        totals = accumulate(size for _, size in self.model.units)
        names = (name for name, _ in self.model.units)
        return frozenset(name for name, total in zip(names, totals, strict=True) if total > room)

    @property
    def offloaded(self) -> int:
        """Bytes of weights that stay on disk."""
        return sum(size for name, size in self.model.units if name in self.on_disk)

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

    @cached_property
    def first_pages(self) -> int:
        """What loading reads of each view: the pages around its beginning."""
        window = self.constants.fault_bytes
        return sum(window for size in self.model.large_views if size >= window) if self.is_mapped else 0

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
                mapped = self.copied_experts + self.first_pages
                return WeightPages(mapped=mapped, copies=self.copied_experts + stack)

    def setup(self) -> WeightPages:
        """While experts become Linears: linearize.py linearize_moe keeps every fused module until it returns."""
        after = self.before()
        return WeightPages(mapped=after.mapped, copies=after.copies + self.copied_experts, written=after.written)

    def before(self) -> WeightPages:
        """After setup, before the first forward."""
        if self.is_mapped:
            mapped = self.copied_experts + self.first_pages
            return WeightPages(mapped=mapped, copies=self.copied_experts, written=self._written_first)
        return WeightPages(copies=self.model.weight_bytes)

    def during(self, subgraph: int, *, writes: bool) -> WeightPages:
        """While this subgraph runs, from 0; `writes`: its modules are being compressed, or are so already."""
        if not self.is_mapped:
            return self.before()
        read, written, now = self._passed[subgraph]
        earlier = self._passed[subgraph - 1][1] if subgraph else self._written_first
        return self._pages(read + now, written if writes else earlier)

    def targeted(self) -> WeightPages:
        """After a run without data, which reads the weights that it targets and no others."""
        if not self.is_mapped:
            return self.before()
        views = [m for m in self.model.compressed if not (m.is_expert and self.model.is_converted)]
        here = sum(m.weight_bytes for m in views if m.unit not in self.on_disk)
        return self._pages(max(here, self._written), self._written)

    def after(self, *, everything: bool) -> WeightPages:
        """After the last subgraph; `everything`: save has read what calibration did not."""
        if not self.is_mapped:
            return self.before()
        read, written, _ = self._passed[-1]
        if everything:
            read, written = self.model.weight_bytes - self.copied_experts - self.offloaded, self._written
        return self._pages(read, written)

    # ------------------------------------------------------------------ inside
    @cached_property
    def _written(self) -> int:
        """All pages that are written of weights in RAM."""
        return max(self._passed[-1][1], int(self.model.written_bytes * self._share_in_ram))

    @property
    def _written_first(self) -> int:
        """Those that are written before the first sample."""
        return int(self.model.written_first * self._share_in_ram)

    @property
    def _share_in_ram(self) -> float:
        return 1 - self.offloaded / max(1, self.model.weight_bytes)

    @cached_property
    def _passed(self) -> list[tuple[int, int, int]]:
        """For each subgraph: what it and those before have read and written of weights in RAM, and what it reads of
        those on disk, which go when it ends."""
        is_here = self.model.embedding not in self.on_disk
        written, passed = self._written_first, []
        read = written + (self.model.embedding_read(self.constants.fault_bytes) if is_here else 0)
        for subgraph in self.model.subgraphs:
            now = sum(size for unit, size in subgraph.reads.items() if unit in self.on_disk)
            read += sum(subgraph.reads.values()) - now
            written += sum(size for unit, size in subgraph.writes.items() if unit not in self.on_disk)
            passed.append((read, written, now))
        return passed

    def _pages(self, read: int, written: int) -> WeightPages:
        """After so many bytes of views were read and written; first pages of the others are there since loading."""
        before = self.before()
        in_place = self._written_first if self.model.is_trained else written
        mapped = self.copied_experts + max(0, read - in_place)
        return WeightPages(mapped=max(before.mapped, mapped), copies=before.copies, written=written)
