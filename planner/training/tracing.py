"""The activations of a training step, traced: forward and backward of each kind of layer on tensors without data.

transformers' own modules run in training mode with autograd on, every operator in its order; what autograd keeps
is what is alive when the forward is over. Layers of one kind run once. The loss is transformers' own
(loss/loss_utils.py ForCausalLMLoss: logits are upcast to fp32).
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks
from torch.utils import _pytree as pytree

from planner.errors import JobError, UnsupportedError
from planner.formats.tensors import ANY_EXPERT
from planner.job import BatchShape, Build
from planner.models.build import build_model, num_experts, quiet, text_config
from planner.models.calls import patched_forward
from planner.models.failures import ForwardError, forward_of_model, pass_on, run_for_model, run_forward
from planner.models.inputs import calibration_batch
from planner.models.load import structure_key
from planner.models.recorder import Recorder, storage_key
from planner.models.source import ModelSource
from planner.models.traces import Event, memory_events
from planner.models.tracing import signature
from planner.timeline import fold
from planner.training.kernels import (
    EAGER_AGAIN,
    FLASH,
    FLASH_AGAIN,
    Autocast,
    FourBitLinear,
    LoraLinear,
    LoraParameters,
    recomputed,
    register,
)
from planner.training.lora import rank_of
from planner.training.trace import Piece, TraceRequest, TrainingTrace

MOST_TOKENS = 2**26


def trace_training(source: ModelSource, request: TraceRequest, layers: Sequence[str]) -> TrainingTrace:
    """One micro batch of text through the model and back. `layers`: names of its text decoder's layers, in order.

    Raises JobError for more than MOST_TOKENS tokens, UnsupportedError where the model does not run without data.
    """
    if request.batch_size * request.seq_len > MOST_TOKENS:
        raise JobError(
            f"--batch-size {request.batch_size} --seq-len {request.seq_len}: at most {MOST_TOKENS:,} tokens go through "
            "one forward here; take fewer and more --grad-accumulation"
        )
    register()
    with quiet():
        try:
            with forward_of_model():
                model = prepare(build_model(source, Build(dtype=request.dtype)), request)
                return StepTracer(model, request, layers).run()
        except ForwardError as error:
            raise UnsupportedError(
                f"{source.name}: a training step does not run without data ({error.reason})"
            ) from error


def prepare(model: Any, request: TraceRequest) -> Any:
    """The model as it is trained: attention function, 4-bit Linears, adapters, and which weights get gradients."""
    again = request.checkpointing == "selective"
    if request.attention == "flash":
        model.config._attn_implementation = FLASH_AGAIN if again else FLASH
    else:
        model.config._attn_implementation = EAGER_AGAIN if again else "eager"
    model.config._experts_implementation = "grouped_mm"  # what transformers takes by default
    for parameter in model.parameters():
        parameter.requires_grad_(request.trainable)
    if any(ANY_EXPERT in name for name in request.quantized):
        _spread(model)
    if request.quantized:
        _quantize(model, _every(model, request.quantized))
    _adapt(model, request)
    if request.cast:  # deepspeed/runtime/engine.py _cast_module_mixed_precision
        for parameter in model.parameters():
            if parameter.dtype == torch.float32:
                parameter.data = parameter.data.to(getattr(torch, request.dtype))
    return model.train()


def _adapt(model: Any, request: TraceRequest) -> None:
    parameters: dict[str, dict[str, int]] = {}
    for name in sorted(request.adapters):
        owner, _, last = name.rpartition(".")
        if ANY_EXPERT not in name and last in model.get_submodule(owner)._parameters:
            parameters.setdefault(owner, {})[last] = rank_of(name, request.rank)
    linears = {n for n in request.adapters if n.rpartition(".")[0] not in parameters}
    for name in _every(model, frozenset(linears)):
        _replace(model, name, LoraLinear(model.get_submodule(name), request.rank, request.dropout))
    for owner, ranks in parameters.items():
        _replace(model, owner, LoraParameters(model.get_submodule(owner), ranks))


def _spread(model: Any) -> None:
    """Fused experts as Linears: transformers/quantizers/base.py _convert_model_for_quantization."""
    from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION

    for name, module in list(model.named_modules()):
        if patch := MODULES_TO_PATCH_FOR_QUANTIZATION.get(type(module).__name__):
            kind = next(module.parameters()).dtype
            with torch.device("meta"):
                experts = patch["module_name"](text_config(model.config))  # type: ignore[operator]  # a class
            _replace(model, name, experts.to(kind).requires_grad_(False))


def _every(model: Any, names: frozenset[str]) -> list[str]:
    """Names of modules, `experts.*.` for each expert."""
    stars = [name for name in names if ANY_EXPERT in name]
    expanded = sorted(names - set(stars))
    for name in stars:
        container, _, last = name.partition(ANY_EXPERT)
        container += ".experts"
        expanded += [f"{container}.{number}.{last}" for number in range(len(model.get_submodule(container)))]
    return expanded


def _quantize(model: Any, names: Sequence[str]) -> None:
    """4-bit Linears; peft/utils/other.py prepare_model_for_kbit_training casts every other weight to fp32."""
    in_four_bits = {id(model.get_submodule(name).weight) for name in names}
    for parameter in model.parameters():
        if id(parameter) not in in_four_bits:
            parameter.data = parameter.data.to(torch.float32)
    for name in names:
        _replace(model, name, FourBitLinear(model.get_submodule(name), torch.bfloat16))


def _replace(model: Any, name: str, module: torch.nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


class _Border(torch.autograd.Function):
    """A tensor that comes from the layer before: its own storage, a gradient that goes nowhere."""

    @staticmethod
    def forward(_ctx: Any, anchor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return _made(anchor, like.size(), like.stride(), like.dtype)

    @staticmethod
    def backward(_ctx: Any, *_grads: torch.Tensor) -> Any:
        return None, None


class StepTracer:
    """Traces `model`, its layers by name."""

    def __init__(self, model: Any, request: TraceRequest, layers: Sequence[str]) -> None:
        self.model, self.request, self.layers = model, request, tuple(layers)
        shape = BatchShape(batch_size=request.batch_size, seq_len=request.seq_len)
        self.batch = calibration_batch(model.config, shape, getattr(torch, request.dtype)).fields
        self.recorder = Recorder(num_experts(model.config))
        wanted = getattr(torch, request.autocast) if request.autocast else None
        wide = wanted is None and request.dtype == "float32"
        self.autocast = Autocast(wanted, request.attention == "flash", wide)
        self.anchor = torch.zeros((), device="meta", requires_grad=True)
        self.calls: dict[Any, tuple[int, torch.nn.Module, Any, Any]] = {}
        self.outputs: dict[str, Any] = {}
        self.order: dict[str, int] = {}
        self.shared: dict[int, int] = {}
        self.known = {storage_key(t) for t in (*model.parameters(), *model.buffers())}

    def run(self) -> TrainingTrace:
        """Once without gradients to see each layer's inputs, then each kind of piece forward and backward."""
        self.recorder.name_parameters(self.model)
        with ExitStack() as stack:
            stack.enter_context(self.recorder)
            stack.enter_context(self.autocast)
            self._look()
            pieces = tuple(self._layer(*call) for _key, call in sorted(self.calls.items(), key=lambda c: c[1][0]))
            rest = self._rest()
            embedding = self._embedding()
        return TrainingTrace(
            pieces=pieces,
            layers=tuple(self.order[name] for name in self.layers if name in self.order),
            embedding=embedding,
            rest=rest,
            shared=sum(self.shared.values()),
        )

    # ------------------------------------------------------------------ what each layer is given
    def _look(self) -> None:
        """Run the model without gradients, one layer of each kind, and keep the inputs of these."""
        with torch.no_grad(), ExitStack() as stack:
            for name in self.layers:
                module = self.model.get_submodule(name)
                stack.enter_context(patched_forward(module, self._first(name, module)))
            run_forward(self.model, {**self.batch, "use_cache": False})
        self.autocast.clear()

    def _first(self, name: str, module: torch.nn.Module) -> Callable[..., Any]:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            key = (structure_key(module, set()), signature((args, kwargs)))
            if key not in self.calls:
                self.calls[key] = (len(self.calls), module, args, kwargs)
                self.outputs[f"{len(self.calls) - 1}"] = pass_on(original, args, kwargs)
            self.order[name] = self.calls[key][0]
            return pytree.tree_map_only(torch.Tensor, _like, self.outputs[f"{self.order[name]}"])

        return forward

    # ------------------------------------------------------------------ the pieces
    def _layer(self, number: int, module: Any, args: Any, kwargs: Any) -> Piece:
        if not isinstance(args[0] if args else kwargs.get("hidden_states"), torch.Tensor):
            raise UnsupportedError(f"{type(module).__name__} takes no hidden_states: its borders are not modelled")

        def call() -> Any:
            given = (self._border(args[0]), *args[1:]) if args else args
            named = kwargs if args else {**kwargs, "hidden_states": self._border(kwargs["hidden_states"])}
            run = type(module).forward
            if self.request.checkpointing == "full":
                return recomputed(run, module, *given, **named)
            return run(module, *given, **named)

        return self._measured(type(module).__name__, call, module)

    def _rest(self) -> Piece:
        inputs = {**self.batch, "labels": self.batch["input_ids"].clone(), "use_cache": False}
        with ExitStack() as stack:
            for name in self.layers:
                module = self.model.get_submodule(name)
                stack.enter_context(patched_forward(module, self._stub(name)))
            head = [m for n, m in self.model.named_modules() if not n.startswith(tuple(self.layers))]
            call = lambda: run_forward(self.model, inputs).loss  # noqa: E731  # one use
            return self._measured("head and loss", call, torch.nn.ModuleList(), owned=head)

    def _embedding(self) -> Piece:
        module = self.model.get_input_embeddings()
        return self._measured("embedding", lambda: module(self.batch["input_ids"]), module)

    def _stub(self, name: str) -> Callable[..., Any]:
        outputs = self.outputs[f"{self.order[name]}"]

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            return pytree.tree_map_only(torch.Tensor, self._border, outputs)

        return forward

    def _border(self, like: torch.Tensor) -> torch.Tensor:
        if not like.is_floating_point():
            return _like(like)
        return _Border.apply(self.anchor, like)  # type: ignore[no-untyped-call,no-any-return]  # torch's

    # ------------------------------------------------------------------ forward and backward of one piece
    def _measured(self, name: str, call: Callable[[], Any], module: Any, owned: Sequence[Any] = ()) -> Piece:
        weights = _own_parameters(owned) if owned else list(module.parameters())
        tied = {id(p) for p in weights if p.grad is not None}
        recorder = self.recorder
        recorder.begin()
        self.autocast.caching = True
        with saved_tensors_hooks(self._keep, _give):
            edges, grads = _edges(call())
        _collect(self.request)
        forward = fold(memory_events(recorder.events)).level
        casts = [recorder.ids[storage_key(t)] for t in self.autocast.cache.values()]
        self.autocast.clear()
        live = fold(memory_events(recorder.events)).holdings
        saved, start = sum(live.values()), len(recorder.events)
        self.autocast.caching = False
        with _marks(weights, recorder) as marks:
            if edges:
                run_for_model(torch.autograd.backward, edges, [_made(self.anchor, *like) for like in grads])
        growing, instantly = _backward_peaks(recorder.events, start, marks)
        return Piece(
            name=name,
            saved=saved,
            casts=sum(live.get(number, 0) for number in casts),
            cached_casts=forward.live - saved,
            forward_peak=forward.peak,
            backward_peak=max(saved, instantly),
            backward_peak_growing=max(saved, growing),
            weight_gradients=sum(_nbytes(p.grad) for p in weights if p.grad is not None and id(p) not in tied),
        )

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Seen by autograd when it keeps a tensor: those from outside of the piece are shared by layers."""
        key = storage_key(tensor)
        if key not in self.recorder.ids and key not in self.known and tensor.numel() > 1:
            self.shared[key] = tensor.untyped_storage().nbytes()
        return tensor.detach()


def _like(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_cpu:
        return tensor.clone()
    return _made(tensor, tensor.size(), tensor.stride(), tensor.dtype)


def _made(beside: torch.Tensor, size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
    """A tensor without values: the recorder gives values to small ones that come from nothing."""
    return beside.new_empty_strided(size, stride, dtype=dtype)


def _give(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _own_parameters(modules: Sequence[torch.nn.Module]) -> list[torch.nn.Parameter]:
    each_once = {id(p): p for module in modules for p in module.parameters(recurse=False)}
    return list(each_once.values())


def _collect(request: TraceRequest) -> None:
    """Recomputation leaves reference cycles in its frames."""
    if request.checkpointing != "none":
        gc.collect(0)


def _edges(result: Any) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """Where the backward of a result starts, and what the gradients it starts with look like."""
    outputs = [t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.requires_grad]
    return [get_gradient_edge(t) for t in outputs], [(t.size(), t.stride(), t.dtype) for t in outputs]


@contextmanager
def _marks(weights: Sequence[torch.nn.Parameter], recorder: Recorder) -> Iterator[dict[int, int]]:
    """Number of the event before which the gradient of a weight was made, by storage."""
    marks: dict[int, int] = {}

    def mark(parameter: torch.Tensor) -> None:
        if parameter.grad is not None and (number := recorder.ids.get(storage_key(parameter.grad))) is not None:
            marks.setdefault(number, len(recorder.events))

    trained: list[Any] = [p for p in weights if p.requires_grad]
    hooks = [p.register_post_accumulate_grad_hook(mark) for p in trained]
    try:
        yield marks
    finally:
        for hook in hooks:
            hook.remove()


def _backward_peaks(events: Sequence[Event], start: int, marks: Mapping[int, int]) -> tuple[int, int]:
    """Highest from event `start` on: with the gradients of weights, and without those that are made already.

    `marks` says of a gradient's storage before which event it was made: there it counts as gone.
    """
    ends = {index: [n for n, at in marks.items() if at == index] for index in set(marks.values())}
    gone: list[Event] = []
    for index, event in enumerate(events):
        gone += [*(Event("free", number) for number in ends.get(index, ())), event]
    early = sum(len(numbers) for index, numbers in ends.items() if index < start)
    return _highest_from(events, start), _highest_from(gone, start + early)


def _highest_from(events: Sequence[Event], start: int) -> int:
    """Most bytes held from event `start` on."""
    changes = list(memory_events(events))
    before = sum(1 for _ in memory_events(events[:start]))
    return fold(changes[before:], fold(changes[:before]).holdings).level.peak
