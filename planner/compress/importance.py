"""iMatrix: the sum of squares of every column of a module's inputs, kept from calibration_start to its scales.

Mirrors llmcompressor/observers/imatrix.py IMatrixMSEObserver.attach. The observer takes its sums when it is attached,
on the device where the weight is brought for that: those of the whole model lie on the GPU at once.
"""

from planner.compress.context import Context
from planner.compress.holdings import Owner
from planner.cuda import reductions
from planner.cuda.operands import Operand
from planner.cuda.requests import temporaries
from planner.models.traces import Call
from planner.recipe.observers import observer_named
from planner.recipe.specs import QuantArgs, Scheme
from planner.recipe.targets import LinearModule
from planner.timeline import Handle
from planner.units import FP32, INT64

COUNT = INT64
"""Bytes of the count of tokens."""


def measures_importance(args: QuantArgs | None) -> bool:
    """Whether the observer of these arguments sums up squares of inputs, wherever it is attached."""
    return args is not None and args.dynamic is not True and observer_named(args.observer).statistics == "imatrix"


class Importances:
    """The sums of one modifier's observers, by module and what it observes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sums: dict[tuple[str, str], int] = {}
        """Bytes of each sum, by module and what is observed."""
        self._held: Handle | None = None
        """All of them: layers take theirs away one after the other."""
        self._seen: set[str] = set()
        self._known: dict[int, tuple[Scheme | None, list[str]]] = {}

    def _bases(self, scheme: Scheme | None) -> list[str]:
        """`bases`, worked out once for modules that share a scheme."""
        if id(scheme) not in self._known:
            self._known[id(scheme)] = scheme, bases(scheme)
        return self._known[id(scheme)][1]

    def attach(self, module: LinearModule) -> None:
        """imatrix.py attach: one sum for each observer; an embedding has no in_features, and gets none.

        `next(module.parameters())` brings the weight to the GPU for the moment.
        """
        for base in self._bases(module.scheme):
            if module.embedding or not module.itemsize:
                continue
            context, onload = self._context, None
            if context.device == "gpu" and not context.weights_on_gpu:
                onload = context.copied_to_gpu(f"{module.name}.weight", module.weight_bytes)
            if self._held is None:
                self._held = context.ledger.open(context.device, "observer", Owner("iMatrix", "sums of squared inputs"))
                context.losses.draining.add(self._held)
            self._sums[module.name, base] = nbytes = module.columns * FP32
            context.ledger.grow(self._held, nbytes)
            context.ledger.grow(self._held, COUNT)
            if onload is not None:
                context.ledger.free(onload)

    def accumulate(self, module: LinearModule, call: Call) -> None:
        """The hook of each observer: `_imatrix_sum.add_(x.float().pow(2).sum(...))`."""
        for base in self._bases(module.scheme):
            if (module.name, base) not in self._sums:
                continue
            self._seen.add(module.name)
            values = call.rows * call.columns
            with self._context.frame("observer", Owner(module.name, "importance")) as frame:
                if call.itemsize != FP32:
                    frame.assign("x_f", values * FP32)
                with frame.during(values * FP32, "x_f.pow(2)"):
                    frame.assign("token_sum", call.columns * FP32)
                    if frame.build is not None and values:
                        operand = Operand((call.rows, call.columns), (call.columns, 1), "float32")
                        buffers = reductions.buffer_sizes(operand, (0,), FP32, frame.build)
                        frame.operator(temporaries(*buffers), "token_sum")

    def is_known(self, name: str) -> bool:
        """Whether inputs of this module have been summed up."""
        return name in self._seen and (name, "weight") in self._sums

    def forget(self, name: str, base: str) -> None:
        """Observer.delete_statistics, which has the sums among them."""
        nbytes = self._sums.pop((name, base), 0)
        if nbytes and self._held is not None:
            self._context.ledger.grow(self._held, -nbytes)
            self._context.ledger.grow(self._held, -COUNT)

    def forget_all(self) -> None:
        """The observers are removed."""
        if self._held is not None:
            self._context.ledger.free(self._held)
            self._context.losses.draining.discard(self._held)
            self._held = None
        self._sums.clear()


def bases(scheme: Scheme | None) -> list[str]:
    """What iMatrix observers are attached for, in the order of mixin.py `_initialize_observers`."""
    if scheme is None:
        return []
    parts = (("input", scheme.input_activations), ("weight", scheme.weights), ("output", scheme.output_activations))
    return [base for base, args in parts if measures_importance(args)]
