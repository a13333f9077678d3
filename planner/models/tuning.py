"""A decoder layer forward and backward as AutoRound trains it, on tensors without data.

llmcompressor/modifiers/autoround/base.py apply_autoround hands a layer and its captured inputs to the package
auto_round: compressors/orchestrator.py quantize_block, algorithms/composer.py compress_block and
algorithms/quantization/sign_round/quantizer.py quantize_block. Their steps are the phases of a `TunedBlock`; the
functions here hold tensors under the names that hold them there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.errors import UnsupportedError
from planner.job import Job
from planner.models.autocasting import CudaAutocast
from planner.models.autograd import MeanSquare, TrainingRecorder, moved
from planner.models.build import quiet
from planner.models.built import BuiltModel, built_model, unchanged
from planner.models.calls import HalfSoftmax, around_calls, patched_forward
from planner.models.captured import SHARED, passed
from planner.models.experts import linearize
from planner.models.failures import forward_of_model, run_for_model
from planner.models.joined import joined, reducer_of, send_states
from planner.models.recorder import NoListener, storage_key
from planner.models.rotated import left_there, own_tensors, rotated
from planner.models.rounded import InputSquares, round_linear
from planner.models.spread import placed, places
from planner.models.threads import number_nodes
from planner.models.traces import Event
from planner.models.tuned import Rounding, TunedBlock, TuningRequest, left
from planner.models.tuned_linear import InputRange, QuantizedInput, TunedLinear, stays, there, whole_range
from planner.models.wrapping import without_lost_masks


def tune(built: BuiltModel, job: Job, targets: Sequence[str], experts: int, request: TuningRequest) -> TunedBlock:
    """Train one sequential target. `targets`: the names of all, in order. Its inputs are those of calibration.

    `experts`: as the recorder has it.

    context/model.py `_set_amp_dtype`: a model in fp16 is trained in bfloat16. Raises UnsupportedError for one in fp32,
    which AutoRound casts too, and where the layer does not run without data.
    """
    if job.dtype == "float32":
        raise UnsupportedError("--dtype float32: AutoRound casts each layer to bfloat16, which planner does not model")
    if job.dtype == "float16":
        job = job.model_copy(update={"dtype": "bfloat16"})
        built = built_model(built.source, job.build)
    model: Any = built.module
    with quiet(), unchanged(model):
        if job.sequential_targets is not None:  # they may be experts, which are there once these are linear
            linearize(model, model.config, job.calibrate_all_experts)
        with without_lost_masks(model, targets), forward_of_model():
            arguments = passed(model, job, targets, request)
            linearize(model.get_submodule(request.layer), model.config, job.calibrate_all_experts)
            with frozen(model), rotated(model.get_submodule(request.layer), request.rotations) as alone:
                tuner = BlockTuner(model, request, arguments, experts)
                for part in alone:  # calibration has onloaded what they have
                    tuner.recorder.name_parameters(part)
                return tuner.run()


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """autoround/base.py on_initialize: no weight of the model is trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class _Listener(NoListener):
    """Names the module that is running, from the layer on."""

    def __init__(self, layer: str, block: torch.nn.Module) -> None:
        self.layer = layer
        self.names = {id(module): f".{name}" if name else "." for name, module in block.named_modules()}
        self.stack: list[str] = []

    def where(self) -> str:
        return self.stack[-1] if self.stack else "."

    def enter(self, module: torch.nn.Module, _args: Any, _kwargs: Any) -> None:
        self.stack.append(self.names.get(id(module), self.where()))

    def leave(self, _module: torch.nn.Module, _args: Any, _kwargs: Any, _output: Any) -> None:
        self.stack.pop()


class BlockTuner:
    """Trains `model`'s layer of this request, whose calibration passes it these `arguments`."""

    def __init__(self, model: Any, request: TuningRequest, arguments: Mapping[str, Any], experts: int) -> None:
        self.request, self.arguments = request, arguments
        self.block = model.get_submodule(request.layer)
        self.linears = {f"{request.layer}{name}": how for name, how in request.linears}
        self.listener = _Listener(request.layer, self.block)
        self.recorder = TrainingRecorder(experts, self.listener)
        self.recorder.name_parameters(model)
        self.autocast = CudaAutocast(next(self.block.parameters()).dtype)
        self.tuned: dict[str, TunedLinear] = {}
        self.observers: dict[str, InputRange] = {}
        self.squares: dict[str, InputSquares] = {}
        self.wrappers: list[list[torch.Tensor]] = []
        """`_init_params` of wrappers that train nothing, and refer to themselves: rounding, smallest and largest."""
        weights = tuple(_weights(self.block))
        self.names_of_weights = tuple(name for name, _ in weights)
        self.weights = tuple(nbytes for _, nbytes in weights)
        self.rotations = tuple(left_there(self.block))
        self.cards = placed(self.block, request, list(arguments.values())[-1], self.recorder)
        self.move = partial(moved, recorder=self.recorder) if self.cards else stays
        on_cards = list(places(self.block, self.cards)) if self.cards else []
        self.weights_on = tuple(card or 0 for card in on_cards)
        self.placed = tuple(number for number, card in enumerate(on_cards) if card is not None)
        self.run_block: Callable[..., Any] = self.block
        """What is called while it is trained: the layer, or what ranks put around it."""
        self.output = 0
        """Bytes of what the last batch of a pass returned."""
        self.names: dict[str, Any] = {}
        """Local names of quantize_block that outlive an iteration."""

    def run(self) -> TunedBlock:
        """All phases in order."""
        with ExitStack() as stack:
            stack.enter_context(around_calls(self.listener.enter, self.listener.leave))
            stack.enter_context(HalfSoftmax())
            for name, card in self.cards.items():
                part = self.block.get_submodule(name)
                stack.enter_context(patched_forward(part, there(part, card, self.move)))
            stack.enter_context(self.recorder)
            self.recorder.begin()
            if self.request.rounding is not None:
                return self._rounded(self.request.rounding)
            sizes = self.request.sizes
            reference = tuple(self._phase(self._pass, rows) for rows in sizes)
            observed = self._observed(sizes)
            wrap = self._phase(self._wrap)
            orders = [self._phase(self._earlier), *(self._phase(self._iteration, ahead) for ahead in self._ahead())]
            found = left(orders[-1])
            iteration = self._phase(self._iteration)
            unwrap = self._phase(self._unwrap)
            collect = tuple(self._phase(self._pass, rows) for rows in sizes)
            kept = frozenset(self.recorder.ids.values())
            stays = self._numbers(number for tuned in self.tuned.values() for number in tuned.stays)
        return TunedBlock(
            reference=reference,
            observed=observed,
            wrap=wrap,
            iteration=iteration,
            found=found,
            orders=tuple(orders[1:]),
            unwrap=unwrap,
            collect=collect,
            weights=self.weights,
            output=self.output // self.request.sizes[-1],
            trained=tuple(p.numel() * p.element_size() for linear in self.tuned.values() for p in linear.trained),
            names=self.names_of_weights,
            rotations=self.rotations,
            cards=self.weights_on,
            placed=self.placed,
            kept=kept,
            stays=stays,
            unruled=frozenset(self.recorder.unruled),
        )

    def _phase(self, function: Callable[..., None], *args: Any) -> tuple[Event, ...]:
        events: list[Event] = []
        self.recorder.write_to(events)
        function(*args)
        return tuple(event for event in events if event.kind != "onload")

    # ------------------------------------------------------------------ forwards
    def _batch(self, rows: int) -> dict[str, Any]:
        """compressors/utils.py block_forward: to_device of a batch, hidden states first, and its arguments in order."""
        *names, hidden = self.arguments
        first = self._on_device(hidden, rows)
        return {name: self._on_device(name, rows) for name in names} | {hidden: first}

    def _on_device(self, name: str, rows: int) -> Any:
        """The argument of this name, as a batch has it."""

        def made(like: torch.Tensor) -> torch.Tensor:
            anchor: torch.Tensor = next(self.block.parameters())
            size = like.shape[0] if name in SHARED else rows
            with self.recorder.on_card(0):
                return anchor.new_empty((size, *like.shape[1:]), dtype=like.dtype)

        batch: Any = pytree.tree_map_only(torch.Tensor, made, self.arguments[name])
        return batch

    def _forward(self, rows: int) -> torch.Tensor:
        """algorithms/block_runner.py `_forward_one_batch` and `_normalize_output`."""
        batch_others = self._batch(rows)
        with self.autocast:
            raw_output: Any = self.run_block(**batch_others)
        output: torch.Tensor = raw_output[0] if isinstance(raw_output, (tuple, list)) else raw_output

        del raw_output
        batch_others.clear()
        return output

    def _pass(self, rows: int) -> None:
        """block_runner.py forward: outputs go to the CPU, sample by sample."""
        with torch.no_grad():
            batch_others = self._batch(rows)
            with self.autocast:
                raw_output = self.block(**batch_others)
            self.output = _hidden_bytes(raw_output)
            del raw_output
            batch_others.clear()

    # ------------------------------------------------------------------ before the training
    def _observed(self, sizes: Sequence[int]) -> tuple[tuple[Event, ...], ...]:
        """composer.py compress_block, step 3: a pass with hooks, where some range is static."""
        handles = []
        for name, module in self.block.named_modules():
            how = self.linears.get(f"{self.request.layer}.{name}")
            if how is not None and how.static:
                seen = self.observers[name] = InputRange(how)
                handles.append(module.register_forward_hook(lambda _m, args, _out, seen=seen: seen.see(args[0])))
        if not handles:
            return ()
        phases = tuple(self._phase(self._pass, rows) for rows in (*sizes[:1], *sizes))
        for handle in handles:
            handle.remove()
        return phases

    def _wrap(self) -> None:
        """wrapper.py wrapper_block, and before it NVFP4's ranges of all weights."""
        parts = [(name, part, self.linears.get(f"{self.request.layer}.{name}")) for name, part in self._parts()]
        tuned = [(name, part, how) for name, part, how in parts if how is not None]
        with torch.no_grad():
            ranges = {name: whole_range(part, how) for name, part, how in tuned}
        for name, part, how in tuned:
            card = self.cards.get(name, 0)
            wrapped = TunedLinear(part, how, self.observers.get(name), ranges[name], card, self.move)
            self.listener.names[id(wrapped)] = self.listener.names[id(part)]
            self.tuned[name] = wrapped
            self._put(name, wrapped)
        if self.request.has_ranks:
            with torch.no_grad():
                send_states(self.block)
                self.names["block"] = reducer_of(self.block)
            self.run_block = joined(self.block)

    def _parts(self) -> list[tuple[str, Any]]:
        return list(self.block.named_modules())

    def _put(self, name: str, module: torch.nn.Module) -> None:
        parent, _, last = name.rpartition(".")
        setattr(self.block.get_submodule(parent), last, module)

    # ------------------------------------------------------------------ instead of the training
    def _rounded(self, rounding: Rounding) -> TunedBlock:
        """rtn/quantizer.py: a pass in which inputs are summed, or none; then one Linear after the other."""
        observed = self._summed() if rounding.sees_data else ()
        unwrap = self._phase(self._round, rounding.searches)
        return TunedBlock(
            reference=(),
            observed=observed,
            wrap=(),
            iteration=(),
            found=(),
            unwrap=unwrap,
            collect=(),
            weights=self.weights,
            output=self.output // self.request.sizes[-1],
            trained=(),
            names=self.names_of_weights,
            rotations=self.rotations,
            cards=self.weights_on,
            placed=self.placed,
            kept=frozenset(self.recorder.ids.values()),
            stays=self._numbers(each.total for each in self.squares.values()),
            unruled=frozenset(self.recorder.unruled),
        )

    def _numbers(self, tensors: Iterable[torch.Tensor | None]) -> frozenset[int]:
        """What the recorder calls these."""
        keys = (storage_key(tensor) for tensor in tensors if tensor is not None)
        return frozenset(self.recorder.ids[key] for key in keys if key in self.recorder.ids)

    def _summed(self) -> tuple[tuple[Event, ...], ...]:
        """composer.py `_get_fp_act_hooks`: ranges where they are static, then the sums of squares, for every Linear."""
        handles = []
        for name, module in self.block.named_modules():
            how = self.linears.get(f"{self.request.layer}.{name}")
            if how is None:
                continue
            if how.static:
                seen = self.observers[name] = InputRange(how)
                handles.append(module.register_forward_hook(lambda _m, args, _out, seen=seen: seen.see(args[0])))
            summed = self.squares[name] = InputSquares()
            handles.append(module.register_forward_hook(lambda _m, args, _out, summed=summed: summed.see(args[0])))
        sizes = self.request.sizes
        phases = tuple(self._phase(self._pass, rows) for rows in (*sizes[:1], *sizes))
        for handle in handles:
            handle.remove()
        return phases

    def _round(self, search: bool) -> None:
        """auto_round's BaseQuantizer `_quantize_layer_via_rtn`, Linear by Linear."""
        parts = [(name, part, self.linears.get(f"{self.request.layer}.{name}")) for name, part in self._parts()]
        taken = [(name, part, how) for name, part, how in parts if how is not None]
        with torch.no_grad():
            ranges = {name: whole_range(part, how) for name, part, how in taken}
            for name, part, how in taken:
                with self._running(part):
                    summed = self.squares[name].total if name in self.squares else None
                    squares = None if summed is None else self.move(summed, self.cards.get(name, 0))
                    self.wrappers.append([part.weight.new_ones((), dtype=torch.float32) for _ in range(3)])
                    round_linear(part, how, squares, ranges[name], search)

    @contextmanager
    def _running(self, part: torch.nn.Module) -> Iterator[None]:
        """What is made here is this module's."""
        self.listener.enter(part, (), {})
        yield
        self.listener.leave(part, (), {}, None)

    # ------------------------------------------------------------------ the training
    def _earlier(self) -> None:
        """What an iteration before this one would have left under its names."""
        rows = sum(self.request.trained)
        self.names["ref_output"] = self._on_device(list(self.arguments)[-1], rows)
        self.names["pred_output"] = torch.empty_like(self.names["ref_output"])
        self.names["loss"] = torch.empty_like(self.names["ref_output"], dtype=torch.float32)

    def _ahead(self) -> tuple[frozenset[int], ...]:
        """Cards whose threads are far ahead of the others, in the orders beside the usual one; none on one card."""
        others = frozenset(self.cards.values()) - {0}
        return (frozenset({0}), others) if others else ()

    def _iteration(self, ahead: frozenset[int] = frozenset()) -> None:
        """sign_round/quantizer.py quantize_block, the loop's body: one batch forward and back, one step."""
        names, parts = self.names, self.request.trained
        rows = sum(parts)
        names["ref_output"] = self._on_device(list(self.arguments)[-1], rows)
        names["pred_output"] = torch.cat([self._forward(part) for part in parts], dim=0)
        names["loss"] = MeanSquare.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            names["pred_output"].to(torch.float32), names["ref_output"].to(torch.float32), self.recorder
        )
        scale_loss = names["loss"] * 1000
        if self.cards:
            number_nodes(scale_loss, self.recorder.card_of, ahead)
        with self.recorder.backward():
            run_for_model(torch.autograd.backward, scale_loss)
        del scale_loss
        with torch.no_grad():
            self._step()

    def _step(self) -> None:
        """sign_sgd.py SignSGD.step, one group after the other: rounding, then scales; then zero_grad."""
        trained = [linear.trained for linear in self.tuned.values()]
        groups = [[parameters[0] for parameters in trained], [p for parameters in trained for p in parameters[1:]]]
        for parameter in (parameter for group in groups for parameter in group):
            if parameter.grad is not None:
                parameter.add_(torch.sign(parameter.grad), alpha=-0.005)
        for parameter in (parameter for group in groups for parameter in group):
            parameter.grad = None

    def _unwrap(self) -> None:
        """wrapper.py unwrapper_block; then quantize_block returns."""
        with torch.no_grad():
            for name, tuned in self.tuned.items():
                tuned.unwrap()
                self._put(name, QuantizedInput(tuned) if tuned.how.inputs else tuned.linear)
        self.names.clear()


def _hidden_bytes(output: Any) -> int:
    """Bytes of the hidden states that a layer returns, alone or before others."""
    hidden: torch.Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return hidden.numel() * hidden.element_size()


def _weights(block: torch.nn.Module) -> Iterator[tuple[str, int]]:
    """Names and bytes of all parameters and buffers, in the order of the modules."""
    for name, part in block.named_modules():
        for own, tensor in own_tensors(part):
            yield f".{name}.{own}" if name else f".{own}", tensor.numel() * tensor.element_size()
