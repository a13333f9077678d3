"""Linears that quantize: compressed_tensors quantization/lifecycle/forward.py `set_forward_quantized`. And caches:
modeling/kvcache.py `QuantizedKVCache`.

Every Linear with a scheme has such a forward from `initialize_quantization` on. `DisableQuantization` turns it off
while the sequential pipeline works on a subgraph, and in the basic one while batches run. There it is back on when
modifiers get `sequential_epoch_end`: who runs a block again (AWQ) rounds its weights and inputs in every call, and the
keys and values of its attentions. Queries stay: calibration forces eager attention, past their hook.
"""

from collections.abc import Iterable, Mapping
from math import prod

from planner.compress.context import Context, Frame
from planner.compress.fake_quantize import fake_quantized, quantized_values
from planner.compress.grid_search import Observed, take_extreme
from planner.compress.holdings import Owner
from planner.compress.modifiers.base import ModifierModel
from planner.compress.qparams import calculate_qparams
from planner.cuda.reductions import dense_buffers
from planner.cuda.requests import temporaries
from planner.models.traces import KEY_STATES, QUERY_STATES, Call, CallValue
from planner.recipe.specs import QuantArgs
from planner.recipe.targets import LinearModule
from planner.timeline import Handle


class QuantizedForwards(ModifierModel):
    """What `quantized_forward` holds beside a Linear's own forward: rounded inputs and weights, until it returns.

    Rounded keys and values take the place of an attention's own.
    """

    stays_in_forward = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._held: dict[str, list[Handle]] = {}
        self._keys: tuple[CallValue, Handle] | None = None
        """Of the attention that hands its states over, and what they are rounded to."""

    def before_forward(self, module: LinearModule, call: Call) -> None:
        """input = forward_quantize(...); weight_data = forward_quantize(...): nothing of an empty tensor."""
        scheme = module.scheme
        if scheme is None:
            return
        if module.heads:
            self._update(module, scheme.input_activations, call)
            return
        held = self._held.setdefault(module.name, [])
        if scheme.input_activations is not None and call.rows:
            held.append(self._values(module, "input", scheme.input_activations, call.rows, call.dims))
        if scheme.weights is not None:
            with self.context.frame("forward", Owner(module.name, "rounded weight")) as frame:
                held.append(fake_quantized(frame, module, scheme.weights))

    def after_forward(self, module: LinearModule, call: Call) -> None:
        """output = forward_quantize(...), and the forward returns it."""
        args = module.scheme.output_activations if module.scheme else None
        if args is not None and call.rows:
            rounded = self._values(module, "output", args, call.rows, call.output)
            self.context.forward.replace(call.outputs[0], rounded)
        self.context.ledger.free_all(self._held.pop(module.name, ()))

    def _update(self, module: LinearModule, args: QuantArgs | None, call: Call) -> None:
        """QuantizedKVCache.update has its arguments until it returns: keys and values go when both are rounded."""
        if args is None or not call.rows:
            return
        rows = prod(call.dims[:-1])
        count = module.heads if args.strategy == "attn_head" else 1
        with self.context.frame("forward", Owner(module.name, "rounded")) as frame:
            if args.dynamic:
                rounded = self._values(module, "states", args, rows, call.dims)
            else:
                numel, has_zero = rows * call.dims[-1], module.has_zero_point
                rounded = quantized_values(frame, args, numel, count, call.itemsize, has_zero_point=has_zero)
        if module.name.endswith(KEY_STATES):
            self._keys = call.arguments[0], rounded
            return
        if self._keys is not None:
            self.context.forward.replace(*self._keys)
            self._keys = None
        self.context.forward.replace(call.arguments[0], rounded)

    def _values(self, module: LinearModule, base: str, args: QuantArgs, rows: int, dims: tuple[int, ...]) -> Handle:
        """forward_quantize of so many rows: with scales of their own where they are dynamic, else with those stored.

        The scales live until the caller has the result.
        """
        numel, per_row = rows * dims[-1], dims[-1] // args.group_size if args.group_size else 1
        count = _dynamic_count(args, rows, dims) if args.dynamic else per_row
        with self.context.frame("forward", Owner(module.name, f"rounded {base}")) as frame:
            if args.dynamic:
                _take_extremes(frame, count, (rows, dims[-1]), module.itemsize)
                qparams = calculate_qparams(frame, count, module.itemsize, args, has_global=True)
                frame.delete("min_val", "max_val")
                frame.bind("scales", *qparams.handles)
            return quantized_values(frame, args, numel, count, module.itemsize)


def _dynamic_count(args: QuantArgs, rows: int, dims: tuple[int, ...]) -> int:
    """utils/helpers.py compute_dynamic_scales_and_zp: `token` keeps the first two sides, whatever they are.

    Of a tensor with no others, as routed experts get it, one scale is left.
    """
    if args.strategy == "token":
        return rows // prod(dims[2:-1]) if len(dims) > 2 else 1
    return rows * (dims[-1] // args.group_size) if args.group_size else 1


def _take_extremes(frame: Frame, count: int, shape: tuple[int, int], itemsize: int) -> None:
    """The same: amin and amax, or one torch.aminmax of all."""
    if count > 1:
        extremes = Observed(observations=1, count=count, group=prod(shape) // count, itemsize=itemsize)
        for name in ("min_val", "max_val"):
            take_extreme(frame, name, extremes)
        return
    for name in ("min_val", "max_val"):
        frame.assign(name, itemsize)
    if frame.build is not None:
        frame.operator(temporaries(*dense_buffers(shape, (0, 1), 2 * itemsize, frame.build)), "aminmax")


def quantizing(modules: Iterable[LinearModule]) -> Mapping[str, LinearModule]:
    """Those with a scheme, by name, without the queries of attentions."""
    schemed = (module for module in modules if module.scheme is not None)
    return {module.name: module for module in schemed if not module.name.endswith(QUERY_STATES)}
