"""Observers and the quantization parameters that they compute, allocation by allocation.

Mirrors llmcompressor/observers/{base,min_max,mse,mse_quant}.py. `count` is the number of scales, `itemsize` the
bytes of an element of the observed tensor: minima, maxima and scales keep its dtype.
"""

from collections.abc import Iterable, Sequence

from planner.compress.context import Context, Frame
from planner.compress.grid_search import Observed, search_imatrix, search_mse, take_extreme
from planner.compress.holdings import Owner
from planner.compress.importance import Importances
from planner.compress.qparams import QParams, calculate_qparams
from planner.recipe.observers import WEIGHED_STRATEGIES, observer_named
from planner.recipe.qparams import scale_count
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from planner.upstream import FUSED_LAYER_NAMES, MSE_TILE


class WeightObservers:
    """The weight observers of one modifier: their statistics live from `observe` to `qparams`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.importances = Importances(context)
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
                observed = Observed(observations=1, count=count, group=group, itemsize=module.itemsize)
                observed_range(frame, args, observed, importances=self._weighing(module, args))
                self._statistics[module.name] = [frame.hand_over("min_vals"), frame.hand_over("max_vals")]
            self._multiply(module)
            if args.strategy == "tensor_group":
                for other in fused:
                    self.observe(other, fused)

    def _weighing(self, module: LinearModule, args: QuantArgs) -> int:
        """Number of importances that weigh the errors: imatrix.py _get_validated_importance falls back to none."""
        weighs = args.strategy in WEIGHED_STRATEGIES and self.importances.is_known(module.name)
        return module.columns if weighs else 0

    def forget_all(self) -> None:
        """calibration.py freeze_module_quantization: the observers go, with the statistics that they still hold."""
        for handles in self._statistics.values():
            self._context.ledger.free_all(handles)
        self._statistics.clear()
        self.importances.forget_all()

    def forget(self, names: Iterable[str]) -> None:
        """Observer.delete_statistics of modules whose scales another rank has computed."""
        for name in names:
            self._delete_statistics(name)

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
                self._delete_statistics(member)

    def _delete_statistics(self, name: str) -> None:
        self._context.ledger.free_all(self._statistics.pop(name, []))
        self.importances.forget(name, "weight")
        self._computed.discard(name)


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


def observed_range(frame: Frame, args: QuantArgs, observed: Observed, *, importances: int = 0) -> None:
    """Leave the observed extremes in `frame`, as min_vals and max_vals; `importances` as `search_imatrix` has them."""
    statistics = observer_named(args.observer).statistics
    if statistics == "imatrix":
        search_imatrix(frame, args, observed, importances=importances)
    elif statistics == "mse" and (frame.computes_on_cpu or not _has_kernel(args)):
        search_mse(frame, args, observed)
    elif statistics == "mse":
        _mse_statistics(frame, args, observed)
    else:
        for name in ("min_vals", "max_vals"):
            take_extreme(frame, name, observed)


def averages(args: QuantArgs) -> bool:
    """min_max.py MinMaxObserver and its like in mse.py: a constant of 1 leaves nothing of earlier batches."""
    return dict(args.observer_kwargs).get("averaging_constant", 0.01) != 1


def _has_kernel(args: QuantArgs) -> bool:
    """mse_quant.py _mse_triton_req: on CUDA, all but integers of more than 8 bits."""
    return args.type != "int" or args.num_bits <= 8


def _mse_steps(args: QuantArgs) -> int:
    """observers/mse.py MemorylessMSEObserver: number of shrink factors tried."""
    options, observer = dict(args.observer_kwargs), observer_named(args.observer)
    return int(options.get("maxshrink", observer.maxshrink) * options.get("grid", observer.grid))


def _mse_statistics(frame: Frame, args: QuantArgs, observed: Observed) -> None:
    """mse_quant.py _grid_search_mse_triton, the path taken on CUDA."""
    count, small, wide = observed.count, observed.small, observed.count * 4
    for name in ("min_val", "max_val"):
        take_extreme(frame, "extreme", observed)
        frame.assign(name, small)
        frame.delete("extreme")
    qparams = calculate_qparams(frame, count, observed.itemsize, args, rounded=False)
    frame.bind("zp_base", qparams.zero_point)
    frame.free(qparams.scale)
    for name in ("min_base", "max_base"):
        with frame.during(small, "zeros"):
            frame.assign(name, small)
    frame.assign("zp_base", wide)
    steps, values = _mse_steps(args), observed.observations * observed.group
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
