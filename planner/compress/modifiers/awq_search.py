"""AWQ's search for the best scales, and what it writes: transform/awq/base.py `_apply_smoothing`, line by line.

For each mapping the parent runs again on all batches, once as it is and once for each point of the grid with its
weights scaled, quantized and scaled back. So the outputs of all batches lie there twice beside the parents' arguments,
and while the parent runs whole output tuples do: attention's probabilities too. While it searches, LLM Compressor
holds the output head's weight on the GPU, although no parent uses it (utils/helpers.py disable_lm_head).

Means of weights, and scales that come from them (duo scaling), are fp64; so are the weights that they are multiplied
with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

from planner.compress.batches import walk_batches
from planner.compress.context import Context, Frame
from planner.compress.fake_quantize import fake_quantized
from planner.compress.holdings import Owner
from planner.compress.modifiers.awq_arguments import ParentsArguments
from planner.compress.modifiers.awq_means import layer_means
from planner.compress.modifiers.awq_samples import Samples
from planner.compress.observers import WeightObservers, siblings_of
from planner.compress.traffic import Moved
from planner.recipe.qparams import weight_qparam_bytes
from planner.recipe.specs import Scheme
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from planner.units import FP32, FP64, INT64

ALIKE = 3
"""Equal mappings that are walked before others are passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqSmoothing:
    """mappings.py ResolvedMapping."""

    smooth: LinearModule
    """Without rows and columns where its weight is a vector, as a norm's is."""
    balance: tuple[LinearModule, ...]
    """With the schemes of the recipe's quantizing modifiers."""
    parent: str
    hook: str
    """The module whose input is observed."""

    @property
    def quantized(self) -> tuple[LinearModule, ...]:
        """base.py `_compute_best_scale` balance_layers_to_patch."""
        return tuple(layer for layer in self.balance if layer.scheme and layer.scheme.weights)

    @property
    def shape(self) -> object:
        """Equal for mappings that cost the same, as those of a mixture's experts do."""
        layers = (self.smooth, *self.balance)
        return tuple((each.rows, each.columns, each.itemsize, id(each.scheme)) for each in layers)


@dataclass(frozen=True, slots=True)
class Statistics:
    """base.py `_smooth_activation_stats`: sum and count of a mapping's activations, on the CPU."""

    handle: Handle
    columns: int


class AwqSearch:
    """What was kept while calibrating, and the search that uses it up."""

    def __init__(self, context: Context, points: Sequence[bool], *, offload: bool) -> None:
        self.context, self.points = context, tuple(points)
        self.arguments = ParentsArguments(context, offload=offload)
        self.statistics: dict[str, Statistics] = {}
        self._stored: dict[tuple[int, str], int] = {}
        """Bytes of the qparams that were computed last, by the layer's place in its mapping and by name."""

    def run(self, smoothings: Sequence[AwqSmoothing]) -> None:
        """base.py `_apply_smoothing` of these mappings."""
        with self.context.frame("awq", "AWQ") as names:
            for _, alike in groupby(smoothings, key=self._cost):
                self._equal(list(alike), names)
        self.arguments.end_epoch()

    def _cost(self, one: AwqSmoothing) -> object:
        """Equal for mappings that cost the same with what was kept for them."""
        kept = self.arguments.of(one.parent)
        return one.shape, kept and (kept.first, kept.last, self.arguments.is_shared(one.parent))

    def _equal(self, smoothings: Sequence[AwqSmoothing], names: Frame) -> None:
        """Equal mappings one after the other: the first few and the last, and of the others what they leave behind.

        Where tensors have places, the others are passed over once one needed nothing from the driver.
        """
        ledger, traffic, quiet, moved = self.context.ledger, self.context.traffic, True, Moved()
        for number, one in enumerate(smoothings):
            names.owner = Owner(one.smooth.name)
            is_first, is_last = number < ALIKE, number == len(smoothings) - 1
            if is_first or is_last or not quiet or not self.context.shortcuts.calls:
                claims, carried = ledger.claims("gpu"), traffic.moved
                self._smoothed(one, names)
                quiet, moved = ledger.claims("gpu") == claims, traffic.moved - carried
            else:
                carried = traffic.moved
                self._leave(one, names)
                traffic.repeat(moved - (traffic.moved - carried), 1)

    def _leave(self, one: AwqSmoothing, names: Frame) -> None:
        """What one mapping leaves behind: new weights and scales, and nothing of what was kept for it."""
        kept, context = self.arguments.pop(one.parent), self.context
        names.bind("cache", *([kept.handle] if kept else []))
        if kept:
            self.arguments.pin(one.parent, kept)
        for place, layer in enumerate(one.quantized if kept else ()):
            owner = Owner(layer.name, "scaled weight")
            for name, stored in weight_qparam_bytes(layer).items():
                parameter = f"{layer.name}.weight_{name}"
                context.onload(parameter, stored, "qparams")
                new = context.take(self._stored[place, name], "observer", Owner(layer.name, name))
                context.rebind(parameter, new, stored)
            context.rebind(f"{layer.name}.weight", context.take(layer.weight_bytes, "awq", owner))
        context.ledger.free(self.statistics.pop(one.smooth.name).handle)

    def clear(self) -> None:
        """base.py `on_finalize`."""
        self.arguments.clear()
        self.context.ledger.free_all(seen.handle for seen in self.statistics.values())
        self.statistics.clear()

    def _smoothed(self, one: AwqSmoothing, names: Frame) -> None:
        """One turn of the loop. A parent that was never called as a module has no arguments, and is passed over."""
        kept, context = self.arguments.pop(one.parent), self.context
        samples = Samples(context, one.parent, kept, copies=self.arguments.copies) if kept else None
        names.bind("cache", *([kept.handle] if kept else []))
        if samples and kept:
            samples.pin()
            self.arguments.pin(one.parent, kept)
        context.onload(*context.head)
        if samples:
            names.bind("fp16_outputs", samples.run("outputs"))
            samples.check_finite()
            clones = [context.take(m.weight_bytes, "awq", Owner(m.name, "original weight")) for m in one.balance]
            names.bind("orig_layer_weights", *clones)
            self._search(one, samples)
            self._write(one)
        else:
            names.delete("fp16_outputs")
        context.ledger.free(self.statistics.pop(one.smooth.name).handle)
        names.delete("orig_layer_weights")

    # ------------------------------------------------------------------ the grid
    def _search(self, one: AwqSmoothing, samples: Samples) -> None:
        """base.py `_compute_best_scale`."""
        columns = self.statistics[one.smooth.name].columns
        with self.context.frame("awq", Owner(one.smooth.name, "scales")) as names:
            names.assign("x_sum", columns * FP32)
            with names.single(INT64, "count"):
                names.assign("x_mean", columns * FP32)
                names.delete("x_sum")
            if any(self.points):
                layer_means(self.context, names, one.balance)

            def point(number: int) -> None:
                self._point(one, samples, names, number)

            walk_batches(self.context, len(self.points), point, in_places=True)
            with names.during(columns, "isnan"), names.single(INT64, "sum"):
                if names.build:
                    names.temporary(columns * INT64, "isnan in int64")

    def _point(self, one: AwqSmoothing, samples: Samples, names: Frame, number: int) -> None:
        """One ratio: scale, observe, quantize, run, compare."""
        width = FP64 if self.points[number] else FP32
        columns = self.statistics[one.smooth.name].columns
        _scales(names, columns, width)
        for layer in one.quantized:
            names.temporary(layer.rows * layer.columns * width, "weight * scales")
        self._observe(one.quantized)
        for layer in one.quantized:
            self._quantize(layer, names, width)
        names.bind("int_w_outputs", samples.run("outputs of the quantized weights"))
        samples.compare(names)
        names.delete("int_w_outputs")
        names.assign("best_scales", columns * width)

    def _observe(self, quantized: Sequence[LinearModule]) -> None:
        """calibration.py observe, update_qparams(only_update_onload=True): the GPU's scales are new tensors."""
        layers = [replace(layer, scheme=_patched(layer.scheme)) for layer in quantized if layer.scheme]
        observers, names = WeightObservers(self.context), frozenset(layer.name for layer in layers)
        by_name = {layer.name: layer for layer in layers}
        for layer in layers:
            observers.observe(layer, [by_name[name] for name in siblings_of(layer.name, names)])
        for place, layer in enumerate(layers):
            qparams = observers.qparams(layer, siblings_of(layer.name, names))
            computed = {"scale": qparams.scale, "zero_point": qparams.zero_point, "global_scale": qparams.global_scale}
            for name, stored in weight_qparam_bytes(layer).items():
                parameter, handle = f"{layer.name}.weight_{name}", computed[name]
                assert handle is not None, f"{parameter}: nothing computed"
                self._stored[place, name] = self.context.ledger.size(handle)
                self.context.onload(parameter, stored, "qparams")
                self.context.rebind(parameter, handle, stored)

    def _quantize(self, layer: LinearModule, names: Frame, width: int) -> None:
        """balance_layer.weight.data = (forward_quantize(...) / _scalesview).to(dtype)"""
        assert layer.scheme and layer.scheme.weights, f"{layer.name} has no scheme"
        with self.context.frame("awq", Owner(layer.name, "quantized")) as frame:
            quantized = fake_quantized(frame, layer, layer.scheme.weights)
            with frame.during(layer.rows * layer.columns * width, "/ scales"):
                frame.free(quantized)
                weight = self.context.take(layer.weight_bytes, "awq", Owner(layer.name, "scaled weight"))
            self.context.rebind(f"{layer.name}.weight", weight)

    # ------------------------------------------------------------------ what it writes
    def _write(self, one: AwqSmoothing) -> None:
        """_smooth: each balanced weight times the scales, in their type; the smoothed layer's is divided in place.

        best_scales come from the CPU each time. A weight in another type is cast on the CPU (native/cuda/Copy.cu).
        """
        columns, width = self.statistics[one.smooth.name].columns, FP64 if any(self.points) else FP32
        owner = Owner(one.smooth.name, "best scales")
        with (
            self.context.ledger.hold("cpu", columns * width, "awq", owner),
            self.context.frame("awq", owner) as names,
        ):
            for layer in one.balance:
                names.assign("scales", columns * width)
                with names.during(layer.rows * layer.columns * width, "weight * scales"):
                    self._update(layer, layer.rows * layer.columns * width)
                names.delete("scales")
            names.assign("scales", columns * width)
            context, smooth = self.context, one.smooth
            if smooth.itemsize:
                context.onload(f"{smooth.name}.weight", smooth.weight_bytes)
                context.written(smooth.weight_bytes)

    def _update(self, layer: LinearModule, computed: int) -> None:
        """compressed_tensors offload/cache/{cpu,disk}.py update_offload."""
        context, owner = self.context, Owner(f"{layer.name}.weight", "before its cast")
        context.written(layer.weight_bytes)
        if context.is_on_disk(layer.name):
            with context.frame("awq", owner) as frame, frame.during(layer.weight_bytes, "in its own type"):
                context.copied_to_disk(layer.weight_bytes, owner)
        elif context.device == "gpu" and not context.weights_on_gpu:
            with context.ledger.hold("cpu", computed, "model", owner):
                pass


@lru_cache
def _patched(scheme: Scheme) -> Scheme:
    """`patch_attrs` of the weight observers: memoryless_minmax, whatever the recipe says."""
    assert scheme.weights, "no weights are quantized"
    return replace(scheme, weights=replace(scheme.weights, observer="memoryless_minmax", observer_kwargs=()))


def _scales(names: Frame, columns: int, width: int) -> None:
    """The grid's scales, of which the name `_scalesview` keeps the old ones until there are new ones.

    scales = (x_mean.pow(ratio) / (w_mean.pow(1 - ratio) + 1e-4)).clamp(min=1e-4), without w_mean in fp32;
    scales / (scales.max() * scales.min()).sqrt(); two masks for inf and nan.
    """
    size = columns * width
    names.assign("x_mean.pow", columns * FP32)
    if width == FP64:
        with names.during(size, "w_mean.pow"):
            names.assign("divisor", size)
        names.assign("quotient", size)
        names.delete("x_mean.pow", "divisor")
        names.move("quotient", "x_mean.pow")
    names.assign("scales", size)
    names.delete("x_mean.pow")
    if names.build:
        names.assign("extremes", width)
        with names.during(width, "scales.min()"):
            names.assign("product", width)
            names.delete("extremes")
        names.assign("root", width)
        names.delete("product")
    names.assign("normalized", size)
    names.delete("root")
    names.move("normalized", "scales")
    names.assign("abs", size)
    names.assign("mask", columns)
    names.delete("abs", "mask")
    names.temporary(columns, "isnan")
    names.move("scales", "_scalesview")
