"""torch.autocast for CUDA, on tensors without data: autocast itself does nothing on the meta device."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from planner.models.failures import pass_on, stands_in

# torch docs amp.rst "CUDA Op-Specific Behavior" (aten/src/ATen/autocast_mode.h AT_FORALL_LOWER_PRECISION_FP and
# AT_FORALL_FP32*), by the name of the Python function.
_LOWER = frozenset(
    ("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "addbmm", "baddbmm", "einsum",
     "conv1d", "conv2d", "conv3d", "prelu", "scaled_dot_product_attention")
)  # fmt: skip
_FP32 = frozenset(
    ("pow", "__pow__", "__rpow__", "rsqrt", "reciprocal", "exp", "expm1", "log", "log2", "log10", "log1p", "softplus",
     "layer_norm", "group_norm", "norm", "cumsum", "cumprod", "sum", "prod", "cosine_similarity", "cross_entropy",
     "nll_loss", "logsumexp", "softmin")
)  # fmt: skip
_SOFTMAX = frozenset(("softmax", "log_softmax"))


class CudaAutocast(TorchFunctionMode):
    """Inside, operators get their arguments as under torch.autocast("cuda", dtype); None: as they are.

    Copies of trained fp32 weights are cached until `clear` (autocast_mode.cpp cached_cast), as autocast does until its
    context is left.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.cache: dict[int, torch.Tensor] = {}
        self.caching = True

    def clear(self) -> None:
        """The autocast context is left."""
        self.cache.clear()

    @stands_in
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self.cast(getattr(func, "__name__", ""), args, kwargs or {})
        return pass_on(func, args, kwargs)

    def cast(self, name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of the operator of this name as it gets them."""
        if self.dtype is None:
            return args, kwargs
        if name in _SOFTMAX:  # fp32_set_opt_dtype: a type that the caller asks for is kept
            has_type = kwargs.get("dtype") is not None or any(isinstance(a, torch.dtype) for a in args)
            return args, kwargs if has_type else {**kwargs, "dtype": torch.float32}
        wanted = self.dtype if name in _LOWER else torch.float32 if name in _FP32 else None
        if wanted is None:
            return args, kwargs
        return tuple(self._to(a, wanted) for a in args), {k: self._to(v, wanted) for k, v in kwargs.items()}

    def _to(self, value: Any, wanted: torch.dtype) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._to(each, wanted) for each in value)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        if value.dtype in (wanted, torch.float64):  # aten/src/ATen/autocast_mode.h is_eligible: no double
            return value
        if not (self.caching and isinstance(value, torch.nn.Parameter) and value.requires_grad):
            return value.to(wanted)
        if id(value) not in self.cache:
            self.cache[id(value)] = value.to(wanted)
        return self.cache[id(value)]
