"""Observers and the quantization parameters that they compute, allocation by allocation.

Mirrors llmcompressor/observers/{base,min_max,mse,mse_quant}.py. `count` is the number of scales, `itemsize` the
bytes of an element of the observed tensor: minima, maxima and scales keep its dtype.
"""

from collections.abc import Iterable, Sequence

from planner.compress.context import Context, Frame
from planner.compress.holdings import Owner
from planner.compress.qparams import QParams, calculate_qparams
from planner.cuda import reductions
from planner.cuda.requests import temporaries
from planner.errors import UnsupportedError
from planner.recipe.observers import DEFAULT, OBSERVERS, Observer
from planner.recipe.qparams import scale_count
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from planner.upstream import FUSED_LAYER_NAMES, MSE_TILE


class WeightObservers:
    """The weight observers of one modifier: their statistics live from `observe` to `qparams`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._statistics: dict[str, list[Handle]] = {}
        self._computed: set[str] = set()

    def observe(self, module: LinearModule, fused: Sequence[LinearModule] = ()) -> None:
        """Observer.forward on the weight; a second call does nothing (weights do not change).

        fusion.py get_fused_statistics observes the fused weights while this one is still an argument.
        """
        args = module.scheme.weights if module.scheme else None
        if args is None or module.name in self._statistics:
            return
        context, size = self._context, module.weight_bytes
        with context.accessed(f"{module.name}.weight", size, copies=module.copies):
            with context.frame("observer", Owner(module.name, copies=module.copies)) as frame:
                if args.strategy == "block":
                    _flatten_blocks(frame, module, args)
                count = scale_count(module.rows, module.columns, args)
                group = module.rows * module.columns // count
                observed_range(frame, args, observations=1, count=count, group=group, itemsize=module.itemsize)
                self._statistics[module.name] = [frame.hand_over("min_vals"), frame.hand_over("max_vals")]
            self._multiply(module)
            if args.strategy == "tensor_group":
                for other in fused:
                    self.observe(other, fused)

    def forget_all(self) -> None:
        """calibration.py freeze_module_quantization: the observers go, with the statistics that they still hold."""
        for handles in self._statistics.values():
            self._context.ledger.free_all(handles)
        self._statistics.clear()

    def forget(self, names: Iterable[str]) -> None:
        """Observer.delete_statistics of modules whose scales another rank has computed."""
        for name in names:
            self._context.ledger.free_all(self._statistics.pop(name, []))
            self._computed.discard(name)

    def _multiply(self, module: LinearModule) -> None:
        """Add the statistics of the other modules that this one stands for."""
        for handle in self._statistics[module.name] if module.copies > 1 else ():
            self._context.ledger.grow(
                handle, self._context.ledger.size(handle) * (module.copies - 1), module.copies - 1
            )

    def qparams(self, module: LinearModule, siblings: tuple[str, ...]) -> QParams:
        """Observer.get_qparams: scales from the statistics, which are freed then (once all fused modules are done)."""
        assert module.scheme is not None and module.scheme.weights is not None
        args = module.scheme.weights
        fused = siblings if args.strategy == "tensor_group" else ()
        with self._context.frame("observer", Owner(module.name, copies=module.copies)) as frame:
            count = scale_count(module.rows, module.columns, args)
            result = calculate_qparams(frame, count, module.itemsize, args)
            self._forget(module.name, fused)
        return result

    def _forget(self, name: str, fused: tuple[str, ...]) -> None:
        """fusion.py maybe_delete_statistics: fused statistics go together."""
        self._computed.add(name)
        group = [n for n in fused if n in self._statistics] or [name]
        if all(n in self._computed for n in group):
            for member in group:
                self._context.ledger.free_all(self._statistics.pop(member, []))
                self._computed.discard(member)


def siblings_of(name: str, names: frozenset[str]) -> tuple[str, ...]:
    """Names fused with `name` under the same parent, itself included; empty when it stands alone."""
    parent, _, leaf = name.rpartition(".")
    for group in FUSED_LAYER_NAMES:
        members = tuple(f"{parent}.{member}" for member in group)
        if leaf in group and all(member in names for member in members):
            return members
    return ()


def _flatten_blocks(frame: Frame, module: LinearModule, args: QuantArgs) -> None:
    """observers/helpers.py _flatten_weight: pad to whole blocks, then blocks side by side (a copy)."""
    height, width = args.block_structure or (128, 128)
    rows, columns = -(-module.rows // height) * height, -(-module.columns // width) * width
    if (rows, columns) != (module.rows, module.columns):
        frame.assign("padded weight", rows * columns * module.itemsize)
    frame.assign("weight in blocks", rows * columns * module.itemsize)


def observer_of(args: QuantArgs) -> Observer:
    """The observer that these arguments name; raises UnsupportedError where planner does not model it."""
    name = args.observer or DEFAULT["input"]
    observer = OBSERVERS.get(name)
    if observer is not None and observer.alias_of is not None:
        observer = OBSERVERS[observer.alias_of]
    if observer is None or observer.statistics is None:
        modelled = ", ".join(name for name, known in OBSERVERS.items() if known.statistics is not None)
        raise UnsupportedError(f"observer {name} is not modelled; modelled: {modelled}")
    return observer


def observed_range(frame: Frame, args: QuantArgs, *, observations: int, count: int, group: int, itemsize: int) -> None:
    """Leave the observed extremes in `frame`, as min_vals and max_vals."""
    observer = observer_of(args)
    if observer.statistics == "mse":
        _mse_statistics(frame, args, observer, observations, count, group, itemsize)
    else:
        for name in ("min_vals", "max_vals"):
            _extreme(frame, name, observations, count, group, itemsize)


def _extreme(frame: Frame, name: str, observations: int, count: int, group: int, itemsize: int) -> None:
    """torch.amin(observed, dim=(0, -1)) of (observations, count, group) values."""
    frame.assign(name, count * itemsize)
    if frame.build is not None:
        buffers = reductions.extreme_buffers((observations, count, group), itemsize, frame.build)
        frame.operator(temporaries(*buffers), name)


def _mse_steps(args: QuantArgs, observer: Observer) -> int:
    """observers/mse.py MemorylessMSEObserver: number of shrink factors tried."""
    options = dict(args.observer_kwargs)
    return int(options.get("maxshrink", observer.maxshrink) * options.get("grid", observer.grid))


def _mse_statistics(
    frame: Frame, args: QuantArgs, observer: Observer, observations: int, count: int, group: int, itemsize: int
) -> None:
    """mse_quant.py _grid_search_mse_triton, the path taken on CUDA."""
    small, wide = count * itemsize, count * 4
    for name in ("min_val", "max_val"):
        _extreme(frame, "extreme", observations, count, group, itemsize)
        frame.assign(name, small)
        frame.delete("extreme")
    qparams = calculate_qparams(frame, count, itemsize, args, rounded=False)
    frame.bind("zp_base", qparams.zero_point)
    frame.free(qparams.scale)
    for name in ("min_base", "max_base"):
        with frame.during(small, "zeros"):
            frame.assign(name, small)
    frame.assign("zp_base", wide)
    steps, values = _mse_steps(args, observer), observations * group
    if frame.build is not None:
        frame.assign("grid_points", steps * 4)
    frame.assign("best_step", wide)
    if values > MSE_TILE:
        frame.assign("partial_errors", steps * count * -(-values // MSE_TILE) * 4)
    with frame.during(count * 8, "best_step.long()"):
        frame.assign("best_p", wide)
    for name in ("min_vals", "max_vals"):
        with frame.during(wide, "extreme in fp32"), frame.during(wide, "shrunk extreme"):
            frame.assign(name, small)
