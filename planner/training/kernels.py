"""What a training step does on a GPU where the CPU and the meta device do otherwise, and the modules of adapters.

Nothing is computed: every function makes the tensors that the real one makes and keeps.
"""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from planner.errors import UnsupportedError
from planner.models.autocasting import CudaAutocast
from planner.models.failures import pass_on, stands_in

FLASH, FLASH_AGAIN, EAGER_AGAIN = "planner_flash_training", "planner_flash_recomputed", "planner_eager_recomputed"


def register() -> None:
    """Let transformers know these attention functions by name.

    A name without a mask function gets no mask (masking_utils.py _preprocess_mask_arguments), as FlashAttention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(FLASH, _flash_attention)
    AttentionInterface.register(FLASH_AGAIN, _flash_recomputed)
    AttentionInterface.register(EAGER_AGAIN, _eager_recomputed)
    AttentionMaskInterface.register(EAGER_AGAIN, eager_mask)


class _Flash(torch.autograd.Function):
    """FlashAttention 2: flash_attn_interface.py FlashAttnFunc saves q, k, v, out and the fp32 logsumexp.

    So does torch's memory-efficient kernel (_scaled_dot_product_efficient_attention), which also takes fp32.
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """All are (batch, heads, tokens, dim); keys and values may have fewer heads."""
        batch, heads, tokens, _dim = query.shape
        out = query.new_empty(batch, tokens, heads, value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_empty((batch, heads, tokens), dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *_grads: torch.Tensor) -> Any:
        """csrc/flash_attn/flash_api.cpp mha_bwd: `softmax_d`, `dq_accum` in fp32, `dk_expanded` and `dv_expanded`."""
        query, key, value, _out, logsumexp = ctx.saved_tensors
        batch, heads, _tokens, dim = query.shape
        grads = [torch.empty_like(each) for each in (query, key, value)]
        work = [torch.empty_like(logsumexp)]
        if query.dtype == torch.float32:  # attention_backward.cu _efficient_attention_backward: `delta` alone
            return tuple(grads)
        work += [query.new_empty(query.shape, dtype=torch.float32)]
        if key.shape[1] != heads:
            work += [key.new_empty(batch, heads, key.shape[2], dim) for _ in range(2)]
        del work
        return tuple(grads)


class _Grouped(torch.autograd.Function):
    """torch.nn.functional.grouped_mm: rows (tokens x chosen experts, in) by (experts, in, out).

    Keeps the rows where the weight is trained, the weight where the rows need a gradient
    (tools/autograd/derivatives.yaml _grouped_mm).
    torch's own refuses fp32 on the meta device; CUDA multiplies group by group (GroupedMMUtils.h
    _grouped_mm_fallback) into the same output.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows_wanted, weight_wanted = ctx.needs_input_grad
        ctx.save_for_backward(rows if weight_wanted else None, weight if rows_wanted else None)
        ctx.like = (rows.shape, rows.dtype), (weight.shape, weight.stride(), weight.dtype)
        return rows.new_empty(rows.shape[0], weight.shape[-1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (rows, rows_type), (weight, stride, weight_type) = ctx.like
        rows_wanted, weight_wanted = ctx.needs_input_grad
        return (
            grads[0].new_empty(rows, dtype=rows_type) if rows_wanted else None,
            grads[0].new_empty_strided(weight, stride, dtype=weight_type) if weight_wanted else None,
        )


def flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """(batch, tokens, heads, dim) of (batch, heads, tokens, dim) inputs, in 16 bit unless `dtype` is fp32.

    transformers/integrations/flash_attention.py flash_attention_forward: values are padded to the width of keys
    (latent attention), fp32 inputs are cast (peft keeps norms in fp32).
    """
    width = value.shape[-1]
    if width != query.shape[-1]:
        value = torch.nn.functional.pad(value, [0, query.shape[-1] - width])
    if query.dtype == torch.float32 and dtype != torch.float32:
        query, key, value = (each.to(dtype or torch.bfloat16) for each in (query, key, value))
    out = _Flash.apply(query, key, value)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return out[..., :width]  # type: ignore[no-any-return]  # a tensor: `apply` is untyped


def _flash_attention(
    _module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    return flash(query, key, value, Autocast.type), None


def _flash_recomputed(
    _module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    return recomputed(lambda q, k, v: flash(q, k, v, Autocast.type), query, key, value), None


def _eager_recomputed(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    function = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if function is None:
        raise UnsupportedError(f"the attention of {type(module).__name__} cannot be computed again on its own")
    return recomputed(function, module, *args, **kwargs)


def recomputed(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Run it, keep its inputs alone, and run it again in the backward."""
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none"}
    return checkpoint(function, *args, **options, **kwargs)


class Autocast(CudaAutocast):
    """Autocast for CUDA, CUDA's dropout, and torch's attention function as FlashAttention."""

    type: torch.dtype | None = None
    """What attention computes in; None: 16 bit."""

    def __init__(self, dtype: torch.dtype | None, fused_attention: bool, wide: bool = False) -> None:
        """`wide`: all is fp32, attention too."""
        super().__init__(dtype)
        Autocast.type = torch.float32 if wide else dtype
        self.fused_attention = fused_attention

    @stands_in
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "dropout":
            return _dropout(func, args, kwargs)
        args, kwargs = self.cast(name, args, kwargs)
        if name in ("grouped_mm", "_grouped_mm"):
            return _Grouped.apply(*args[:2])  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if name == "scaled_dot_product_attention" and self.fused_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            return flash(named["query"], named["key"], named["value"], Autocast.type).transpose(1, 2)
        return pass_on(func, args, kwargs)


def _dropout(func: Any, args: Any, kwargs: Any) -> Any:
    """aten/src/ATen/native/Dropout.cpp: CUDA takes native_dropout, which keeps a bool mask."""
    named = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
    if not named.get("training", True) or not named.get("p", 0.5):
        return pass_on(func, args, kwargs)
    return torch.native_dropout(named["input"], named.get("p", 0.5), True)[0]


def _features(linear: Any) -> tuple[int, int]:
    """Inputs and outputs of a Linear or of transformers' Conv1D, whose weight is (in, out)."""
    if hasattr(linear, "in_features"):
        return linear.in_features, linear.out_features
    inputs, outputs = linear.weight.shape
    return inputs, outputs


class LoraLinear(torch.nn.Module):
    """peft/tuners/lora/layer.py Linear.forward with one adapter in fp32."""

    def __init__(self, base: torch.nn.Module, rank: int, dropout: float) -> None:
        super().__init__()
        self.base, self.rate = base, dropout
        self.in_features, self.out_features = _features(base)
        options: dict[str, Any] = {"bias": False, "device": "meta", "dtype": torch.float32}
        self.lora_a = torch.nn.Linear(self.in_features, rank, **options)
        self.lora_b = torch.nn.Linear(rank, self.out_features, **options)

    @property
    def weight(self) -> Any:
        """Model code may read it of what it takes for a Linear."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        """As `weight`: model code may read it."""
        return self.base.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.base(x)
        if isinstance(result, tuple):  # Llama4Router: peft's own forward fails there
            return result  # type: ignore[return-value]  # a router is called for a tuple
        kind = result.dtype
        wide = torch.nn.functional.dropout(x.to(self.lora_a.weight.dtype), self.rate, self.training)
        return (result + self.lora_b(self.lora_a(wide)) * 2.0).to(kind)  # type: ignore[no-any-return]  # modules return Any


class LoraParameters(torch.nn.Module):
    """peft/tuners/lora/layer.py ParamWrapper: the forward reads W + B A, made anew as one whole tensor.

    `_LoraFactorsProxy`: one baddbmm in the type of W, without autocast.
    """

    def __init__(self, base: torch.nn.Module, ranks: Mapping[str, int]) -> None:
        super().__init__()
        self.base = base
        self.factors = torch.nn.ModuleDict({name: self._pair(name, rank) for name, rank in ranks.items()})

    def _pair(self, name: str, rank: int) -> torch.nn.ModuleDict:
        shape = self.base._parameters[name].shape  # type: ignore[union-attr]  # it is there
        experts, (rows, columns) = (shape[0] if len(shape) == 3 else 1), shape[-2:]
        options: dict[str, Any] = {"bias": False, "device": "meta", "dtype": torch.float32}
        return torch.nn.ModuleDict(
            {
                "a": torch.nn.Linear(columns, rank * experts, **options),
                "b": torch.nn.Linear(rank * experts, rows, **options),
            }
        )

    def __getattr__(self, name: str) -> Any:
        """Model code reads more of a router than its result."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def _merged(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        pair: Any = self.factors[name]
        a, b = pair["a"].weight, pair["b"].weight
        with torch._C.DisableTorchFunction():
            if weight.dim() == 2:
                small: torch.Tensor = weight + (b @ a * 2.0).to(weight.dtype)
                return small
            experts = weight.shape[0]
            left = b.reshape(b.shape[0], -1, experts).permute(2, 0, 1).to(weight.dtype)
            right = a.reshape(experts, -1, a.shape[-1]).to(weight.dtype)
            merged: torch.Tensor = torch.baddbmm(weight, left, right, alpha=2.0)
            return merged

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base's own forward, with the sums in place of its parameters."""
        own = self.base._parameters
        weights: dict[str, Any] = {name: own[name] for name in self.factors}
        try:
            for name, weight in weights.items():
                del own[name]
                self.base.__dict__[name] = self._merged(name, weight)
            return self.base(*args, **kwargs)
        finally:
            for name, weight in weights.items():
                self.base.__dict__.pop(name, None)
                own[name] = weight


class FourBitLinear(torch.nn.Module):
    """bitsandbytes/nn/modules.py Linear4bit.forward: input in the compute type, output in the input's type.

    Its backward reads the packed weight alone (autograd/_functions.py MatMul4Bit).
    """

    def __init__(self, base: Any, compute: torch.dtype) -> None:
        super().__init__()
        self.compute = compute
        self.in_features, self.out_features = _features(base)
        self.weight, self.bias = base.weight, base.bias
        if self.weight.shape != (self.out_features, self.in_features):
            self.weight = torch.nn.Parameter(base.weight.data.t(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(self.compute)
        return torch.nn.functional.linear(x.to(self.compute), self.weight, bias).to(x.dtype)
