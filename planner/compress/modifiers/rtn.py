"""QuantizationModifier (round to nearest): llmcompressor/modifiers/quantization/quantization/base.py."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from planner.compress.context import Context, Frame
from planner.compress.grid_search import Observed
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.modifiers.mixin import QuantizationMixinSpec, calibrates, shared_fields
from planner.compress.observers import WeightObservers, averages, observed_range, siblings_of
from planner.compress.qparams import QParams, calculate_qparams
from planner.compress.ranks import dealt
from planner.errors import RecipeError
from planner.models.traces import Call
from planner.notes import Note
from planner.recipe.observers import observer_named
from planner.recipe.qparams import activation_qparam_sizes, weight_qparam_bytes
from planner.recipe.schemes import QuantizationFields
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule
from planner.recipe.validation import validated
from planner.timeline import Handle


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSpec(QuantizationMixinSpec):
    """QuantizationModifier, which has no fields but those of QuantizationMixin."""

    type: ClassVar[str] = "QuantizationModifier"
    calibrate_anyway: bool = False
    """The recipe itself says `requires_calibration_data: true`."""

    @classmethod
    def read(cls, fields: Any, where: str) -> Self:
        """Refuses an entry without any configuration; one that quantizes nothing gets a note."""
        entry = validated(QuantizationFields, fields, where)
        if not entry.has_config:
            raise RecipeError("does not say what to quantize; give scheme (like W4A16) or config_groups", where)
        spec = cls(**shared_fields(entry, where), calibrate_anyway=entry.requires_calibration_data)
        if entry.scheme is not None or entry.config_groups or entry.kv_cache_scheme is not None:
            return spec
        idle = Note(kind="recipe", text=f"{where} quantizes nothing: it has neither scheme nor config_groups")
        return replace(spec, notes=(*spec.notes, idle))

    @property
    def requires_calibration_data(self) -> bool:
        """True where some range needs data, or where the recipe says so itself."""
        return self.calibrate_anyway or calibrates(self)

    @property
    def rewrites_weights(self) -> bool:
        """It observes them."""
        return False

    def model(self, context: Context) -> "QuantizationModel":
        """Observers of inputs, outputs and weights."""
        return QuantizationModel(context)


class QuantizationModel(ModifierModel):
    """Static input observers while calibrating; weight observers and scales at the epoch's end."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.observers = WeightObservers(context)
        self._ranges: dict[str, list[Handle]] = {}

    # ------------------------------------------------------------------ calibrate
    def on_calibration_start(self, modules: Iterable[LinearModule]) -> None:
        """mixin.py start_calibration: observers are attached; iMatrix takes its sums then."""
        for module in modules:
            self.observers.importances.attach(module)

    def before_forward(self, module: LinearModule, call: Call) -> None:
        """calibration.py calibrate_input_hook: statistics of the input, kept per module."""
        self.observers.importances.accumulate(module, call)
        args = module.scheme.input_activations if module.scheme else None
        if module.heads:
            self._observe_states(module, call)
            return
        if args is not None and args.dynamic in (False, "local") and call.rows:
            self._observe(f"{module.name}.input", args, call.rows, call.columns, call.itemsize)

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """calibration.py calibrate_output_hook."""
        args = module.scheme.output_activations if module.scheme else None
        if args is not None and not args.dynamic and call.rows:
            self._observe(f"{module.name}.output", args, call.rows, call.output[-1], call.output_itemsize)
            self._quantize_output(module, call.rows * call.output[-1] * call.output_itemsize)

    def _quantize_output(self, module: LinearModule, nbytes: int) -> None:
        """calibrate_output_hook calls forward_quantize itself, past DisableQuantization.

        compressed_tensors forward_helpers.py _quantize_dequantize holds the scaled, rounded and dequantized output,
        and a product.
        """
        with self.context.frame("observer", Owner(module.name, "output")) as frame:
            for name in ("scaled", "rounded", "dequantized"):
                frame.assign(name, nbytes)
            frame.temporary(nbytes, "product")

    def _observe(self, name: str, args: QuantArgs, rows: int, columns: int, itemsize: int) -> None:
        """observers/helpers.py _flatten_activation: one scale, or one per group of columns."""
        count = columns // (args.group_size or columns) if args.strategy == "tensor_group" else 1
        self._update(name, args, Observed(observations=rows, count=count, group=columns // count, itemsize=itemsize))

    def _update(self, name: str, args: QuantArgs, observed: Observed, copied: int = 0) -> None:
        """observers/base.py Observer.forward: this batch's range, combined with that of the batches before.

        `copied`: bytes of the observed tensor where it had to be laid out anew.
        """
        with self.context.frame("observer", name) as frame:
            frame.assign("in order", copied)
            observed_range(frame, args, observed)
            earlier = self._ranges.get(name, [])
            if earlier:
                self._combine(frame, args, observed.small)
            self._ranges[name] = [frame.hand_over("min_vals"), frame.hand_over("max_vals")]
            self.context.ledger.free_all(earlier)

    def _observe_states(self, module: LinearModule, call: Call) -> None:
        """calibration.py calibrate_key_hook, calibrate_value_hook: observers/helpers.py _flatten_attention.

        (batch, heads, tokens, width) -> tokens first. That is a view where heads lie side by side already.
        """
        args = module.scheme.input_activations if module.scheme else None
        if args is None or args.dynamic is True or not module.observed or not call.rows:
            return
        by_head = args.strategy == "attn_head"
        count = call.dims[1] if by_head else 1
        observed = Observed(observations=call.rows, count=count, group=call.columns // count, itemsize=call.itemsize)
        is_view = call.contiguous or (by_head and call.dims[0] == 1)
        copied = 0 if is_view else call.rows * call.columns * call.itemsize
        self._update(f"{module.name}.input", args, observed, copied)

    def _combine(self, frame: Frame, args: QuantArgs, nbytes: int) -> None:
        """min_max.py and mse.py `update_statistics_from_observed`; each extreme has `nbytes`."""
        combines = observer_named(args.observer).combines
        for extreme in ("min_vals", "max_vals"):
            if combines == "average" and averages(args):  # observers/helpers.py lerp: (start * (1 - w)) + (end * w)
                with frame.during(nbytes, "start * (1 - w)"), frame.during(nbytes, "end * w"):
                    frame.assign(extreme, nbytes)
            elif combines == "widest":
                frame.assign(extreme, nbytes)

    def _finish_inputs(self, modules: Sequence[LinearModule]) -> None:
        """update_qparams(modules, ACTIVATION_OBS): frees the statistics; the scales are a few bytes."""
        for module in modules:
            if module.scheme is None:
                continue
            scheme = module.scheme
            for base, args in (("input", scheme.input_activations), ("output", scheme.output_activations)):
                statistics = self._ranges.pop(f"{module.name}.{base}", ())
                if statistics and args is not None:
                    self._finish_input(module, base, args)
                self.context.ledger.free_all(statistics)
                if statistics:
                    self.observers.importances.forget(module.name, base)

    def _finish_input(self, module: LinearModule, base: str, args: QuantArgs) -> None:
        """calibration.py update_qparams: what is stored of them stays on the GPU until the subgraph ends.

        A few bytes each, in blocks of their own: the counting device passes over them.
        """
        if self.context.cuda is None or self.context.device == "cpu":
            return
        sizes = activation_qparam_sizes(module, args)
        with self.context.frame("observer", f"{module.name}.{base}") as frame:
            count = module.columns // (args.group_size or module.columns) if args.strategy == "tensor_group" else 1
            count = module.heads if args.strategy == "attn_head" else count
            qparams = calculate_qparams(frame, count, module.itemsize, args)
            for name, nbytes in sizes.items():
                self.context.onload(f"{module.name}.{base}_{name}", nbytes, "qparams")
            self._release(qparams)

    def on_calibration_end(self) -> None:
        """mixin.py end_calibration: observers are removed."""
        self.observers.forget_all()

    # ------------------------------------------------------------------ compress
    def on_sequential_epoch_end(self, modules: Sequence[LinearModule]) -> None:
        """base.py: activation qparams, then observe every weight, then every weight's qparams."""
        self._finish_inputs(modules)
        targets = own = [m for m in modules if m.observed]
        rank = self.context.rank
        if rank is not None:
            targets = [module for module in targets if not module.heads]
            for module in targets:  # base.py looks whether each has a weight, and onloads it
                with self.context.accessed(f"{module.name}.weight", module.weight_bytes):
                    pass
            targets, shares = dealt(targets, rank.of, lambda module: module.rows * module.columns)
            own = shares[rank.number]
        names = self.observe_weights(targets, own)
        for module in own:
            if module.name in names:
                self._update_qparams(module, siblings_of(module.name, names))
        if rank is not None:
            self._broadcast(targets)

    def _broadcast(self, modules: Sequence[LinearModule]) -> None:
        """utils/dist.py broadcast_qparams_and_cleanup: each rank's copy is kept until all are received.

        The data-free pipeline, which does not keep what is onloaded, has them all on the GPU for that time.
        """
        context, pending = self.context, list[Handle]()
        for module in modules:
            for name, nbytes in weight_qparam_bytes(module).items():
                parameter = f"{module.name}.weight_{name}"
                if context.keep_onloaded or context.weights_on_gpu or context.device == "cpu":
                    context.onload(parameter, nbytes, "qparams")
                else:
                    pending.append(context.copied_to_gpu(parameter, nbytes, "qparams"))
        self.observers.forget(module.name for module in modules)
        context.ledger.free_all(pending)

    def observe_weights(
        self, modules: Sequence[LinearModule], own: Sequence[LinearModule] | None = None
    ) -> frozenset[str]:
        """observe(modules, "weight"), or of a rank's own; returns the names of all that have a weight to quantize."""
        names = frozenset(m.name for m in modules if m.scheme and m.scheme.weights)
        by_name = {m.name: m for m in modules}
        for module in modules if own is None else own:
            self.observers.observe(module, [by_name[name] for name in siblings_of(module.name, names)])
        return names

    def _update_qparams(self, module: LinearModule, siblings: tuple[str, ...]) -> None:
        """calibration.py update_qparams: each value is written to the CPU and to the GPU copy."""
        qparams = self.observers.qparams(module, siblings)
        sizes = weight_qparam_bytes(module)
        self._write(module, "scale", sizes["scale"], qparams.scale_bytes)
        self._write(module, "zero_point", sizes["zero_point"], qparams.zero_point_bytes)
        if "global_scale" in sizes:
            self._write(module, "global_scale", sizes["global_scale"], 4)
        self._release(qparams)

    def _write(self, module: LinearModule, name: str, stored: int, computed: int) -> None:
        """hasattr() onloads the old value; a cast to the stored dtype goes through a CPU buffer."""
        with self.context.accessed(f"{module.name}.weight_{name}", stored, "qparams", module.copies):
            self.context.written(stored, module.copies)
        context, owner = self.context, Owner(f"{module.name}.weight_{name}", "before its cast")
        if context.is_on_disk(module.name):
            context.copied_to_disk(stored, owner)
        elif stored != computed and context.device == "gpu" and not context.weights_on_gpu:
            with context.ledger.hold("cpu", computed, "model", owner):
                pass

    def _release(self, qparams: QParams) -> None:
        self.context.ledger.free_all(qparams.handles)
