"""Watch a running oneshot: cut it into steps and say what each allocation is for."""

import functools
import gc
import importlib
import re

import fakecuda


class Recorder:
    """Collects one entry per step; each entry holds the peaks since the one before."""

    def __init__(self, top: int):
        self.top, self.steps = top, []
        self.modifier, self.pipeline = None, None
        self.subgraph, self.of, self.names = None, None, []
        for device in (fakecuda.GPU, fakecuda.CPU):
            fakecuda.ext.reset_peak(device)

    def mark(self, phase: str) -> None:
        """Close a step: everything since the last mark was `phase` of the current subgraph."""
        step = {
            "name": self._name(phase),
            "modifier": self.modifier,
            "subgraph": self.subgraph,
            "of": self.of,
            "phase": phase,
        }
        for name, device in (("gpu", fakecuda.GPU), ("cpu", fakecuda.CPU)):
            s = fakecuda.stats(device)
            step[name] = {
                "peak_bytes": s["peak"],
                "peak_allocated_bytes": s["peak_512"],
                "end_bytes": s["live"],
                "by_kind": s["peak_by_kind"],
                "end_by_kind": s["live_by_kind"],
            }
            if "reserved" in s:  # tests/cudameter counts the caching allocator's segments too
                step[name].update(peak_reserved_bytes=s["reserved"], alloc_retries=s["retries"])
            if "second" in s:  # another card, on which the activations wait
                step["second_gpu"] = s["second"]
        del step["cpu"]["peak_allocated_bytes"]
        if self.top:
            step["top"] = [
                {"bytes": b, "kind": fakecuda.KINDS[k], "origin": o} for b, k, o in fakecuda.ext.top_at_peak(self.top)
            ]
        for device in (fakecuda.GPU, fakecuda.CPU):
            fakecuda.ext.reset_peak(device)
        self._append(step)

    def _append(self, step) -> None:
        """Add a step, or fold it into the one before where no peak can get lost."""
        if self.steps:
            last = self.steps[-1]
            same = all(last[k] == step[k] for k in ("modifier", "subgraph", "phase"))
            hidden = step["phase"] == "between" and all(
                step[d]["peak_bytes"] <= last[d]["peak_bytes"] for d in ("gpu", "cpu")
            )
            if same or hidden:
                reserved = max(x["gpu"].get("peak_reserved_bytes", 0) for x in (last, step))
                for device in ("gpu", "cpu"):
                    ends = {k: step[device][k] for k in ("end_bytes", "end_by_kind")}
                    if step[device]["peak_bytes"] > last[device]["peak_bytes"]:
                        last[device] = step[device]
                    last[device].update(ends)
                if reserved:
                    last["gpu"]["peak_reserved_bytes"] = reserved
                if "second_gpu" in step:
                    one, other = last["second_gpu"], step["second_gpu"]
                    last["second_gpu"] = {k: max(one[k], other[k]) for k in one} | {"end_bytes": other["end_bytes"]}
                return
        self.steps.append(step)

    def _name(self, phase) -> str:
        return self.names[self.subgraph - 1] if self.subgraph and self.subgraph <= len(self.names) else phase

    def enter_run(self, modifiers, pipeline) -> None:
        """A pipeline starts for these modifiers."""
        self.modifier, self.pipeline = "+".join(type(m).__name__ for m in modifiers), pipeline
        self.subgraph = self.of = None

    def enter_subgraph(self, index: int, of: int, started: bool) -> None:
        """Calibration or propagation of a subgraph starts."""
        if self.subgraph is None:
            self.mark("setup")
        elif started:
            self.mark("between")
        self.subgraph, self.of = index, of


def _subgraph_names(subgraphs) -> list[str]:
    """One readable name per subgraph: the sequential targets it runs, or head."""
    names = []
    for i, subgraph in enumerate(subgraphs):
        modules = [node.target for node in subgraph.graph.find_nodes(op="call_module")]
        layers = [m for m in modules if re.search(r"\.\d+(\.|$)", m)]
        more = f" and {len(layers) - 4} more" if len(layers) > 4 else ""
        if layers:
            names.append(", ".join(layers[:4]) + more)
        else:
            names.append("head" if i == 0 else ", ".join(modules[:4]) or f"subgraph {i + 1}")
    return names


def watch(recorder: Recorder) -> None:
    """Hook the pipelines' and lifecycle's entry points so that they mark steps."""
    _watch_runs(recorder)
    _watch_passes(recorder)
    _watch_lifecycle(recorder)
    _watch_end(recorder)


def _watch_runs(recorder: Recorder) -> None:
    from llmcompressor.pipelines.registry import CalibrationPipeline

    from_modifiers = CalibrationPipeline.from_modifiers.__func__

    def watched(cls, modifiers, user=None):
        pipeline = from_modifiers(cls, modifiers, user)
        name = type(pipeline).__name__
        if name != "IndependentPipeline":
            recorder.enter_run(modifiers, name)
        return pipeline

    CalibrationPipeline.from_modifiers = classmethod(watched)


def _watch_passes(recorder: Recorder) -> None:
    import llmcompressor.pipelines.sequential.pipeline as sequential

    get_batches, trace_subgraphs = sequential._get_batches, sequential.trace_subgraphs

    def watched_batches(activations, num_batches, input_names, desc, *rest):
        index, of, what = re.match(r"\((\d+)/(\d+)\): (\w+)", desc).groups()
        calibrating = what == "Calibrating"
        recorder.enter_subgraph(int(index), int(of), calibrating)
        for batch, item in enumerate(get_batches(activations, num_batches, input_names, desc, *rest)):
            yield item
            if batch < 2:
                # A one-off reference cycle of the first forward keeps its inputs until Python's
                # collector happens to run. Collect here, so that the figures are repeatable.
                gc.collect()
        recorder.mark("calibrate" if calibrating else "propagate")

    def watched_trace(model, *args, **kwargs):
        with fakecuda.kind("trace"):
            subgraphs = trace_subgraphs(model, *args, **kwargs)
        recorder.names = _subgraph_names(subgraphs)
        return subgraphs

    sequential._get_batches, sequential.trace_subgraphs = watched_batches, watched_trace


def _watch_lifecycle(recorder: Recorder) -> None:
    from llmcompressor.core import LifecycleCallbacks

    def start(cls, **kwargs):
        result = callbacks["calibration_start"](cls, **kwargs)
        if recorder.pipeline != "SequentialPipeline":
            recorder.mark("setup")
        return result

    def epoch_end(cls, modules, **kwargs):
        if recorder.pipeline == "BasicPipeline":
            recorder.mark("calibrate")
        result = callbacks["sequential_epoch_end"](cls, modules, **kwargs)
        recorder.mark("compress")
        return result

    def end(cls, **kwargs):
        result = callbacks["calibration_end"](cls, **kwargs)
        recorder.subgraph = recorder.of = None
        recorder.mark("finalize")
        return result

    hooks = {"calibration_start": start, "sequential_epoch_end": epoch_end, "calibration_end": end}
    callbacks = {name: getattr(LifecycleCallbacks, name).__func__ for name in hooks}
    for name, hook in hooks.items():
        setattr(LifecycleCallbacks, name, classmethod(hook))


def _watch_end(recorder: Recorder) -> None:
    entry = importlib.import_module("llmcompressor.entrypoints.oneshot")  # its package hides it behind the function
    post_process = entry.post_process

    def watched(*args, **kwargs):
        recorder.mark("finalize")
        with fakecuda.kind("save"):
            post_process(*args, **kwargs)
        if kwargs.get("output_dir"):
            recorder.mark("save")

    entry.post_process = watched


def label_allocations() -> None:
    """Say what allocations are for, by wrapping the functions that make them."""
    entry = importlib.import_module("llmcompressor.entrypoints.oneshot")  # its package hides it behind the function
    import llmcompressor.modifiers.gptq.base as gptq
    import llmcompressor.modifiers.pruning.sparsegpt.base as sparsegpt
    import llmcompressor.modifiers.pruning.wanda.base as wanda
    import llmcompressor.pipelines.sequential.helpers as helpers
    from compressed_tensors.offload.cache.base import OffloadCache
    from llmcompressor.modifiers.quantization.quantization.mixin import QuantizationMixin
    from llmcompressor.modifiers.transform.awq.base import AWQModifier
    from llmcompressor.modifiers.transform.smoothquant.base import SmoothQuantModifier
    from llmcompressor.observers.base import Observer
    from llmcompressor.pipelines.cache import IntermediatesCache

    for owner, name, kind in (
        (IntermediatesCache, "_onload_value", "batch"),
        (IntermediatesCache, "_offload_value", "activation_cache"),
        (IntermediatesCache, "_pin_intermediate", "activation_cache"),
        (helpers.Subgraph, "forward", "forward"),
        (gptq, "make_empty_hessian", "hessian"),
        (gptq, "accumulate_hessian", "hessian_update"),
        (gptq, "prepare_batch", "compress_inputs"),
        (gptq, "quantize_weight", "compress"),
        (gptq, "update_batch_qparams", "writeback"),
        (sparsegpt, "make_empty_hessian", "hessian"),
        (sparsegpt, "accumulate_hessian", "hessian_update"),
        (sparsegpt, "sparsify_weight", "compress"),
        (sparsegpt, "update_offload_parameter", "writeback"),
        (wanda, "sparsify_weight", "compress"),
        (wanda, "update_offload_parameter", "writeback"),
        (Observer, "forward", "observer"),
        (Observer, "get_qparams", "observer"),
        (AWQModifier, "_apply_smoothing", "awq"),
        (SmoothQuantModifier, "_apply_smoothing", "smoothquant"),
        (OffloadCache, "__setitem__", "model"),
        (entry, "linearize_moe", "model"),
        (QuantizationMixin, "initialize_quantization", "qparams"),
    ):
        _label(owner, name, lambda *_args, _kind=kind: _kind)
    _label(OffloadCache, "__getitem__", lambda _cache, key: "weights" if key in ("weight", "bias") else "qparams")


def _label(owner, name, kind_of) -> None:
    """Wrap owner.name so that what it allocates has kind kind_of(*positional arguments)."""
    raw = owner.__dict__[name]
    function = raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw

    @functools.wraps(function)
    def labelled(*args, **kwargs):
        with fakecuda.kind(kind_of(*args)):
            return function(*args, **kwargs)

    setattr(owner, name, type(raw)(labelled) if isinstance(raw, (classmethod, staticmethod)) else labelled)
