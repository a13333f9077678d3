"""What an ATen operator of PyTorch's CUDA build takes from the allocator beside its results: one rule an operator.

Each rule cites upstream's file and function and was compared with recordings of the real build
(tests/cuda/recorded/operators.json). torch 2.14.1; what depends on the card is in `CudaBuild`.
"""

from collections.abc import Callable
from math import prod

from planner.cuda import indexing, linalg, products, reductions, sorting
from planner.cuda.build import CudaBuild
from planner.cuda.operands import OperatorCall
from planner.cuda.requests import NOTHING, RESULT, Requests, temporaries, then

Rule = Callable[[OperatorCall, CudaBuild], Requests | None]


def copy(call: OperatorCall, _build: CudaBuild) -> Requests:
    """native/cuda/Copy.cu copy_kernel_cuda: to the CPU, a tensor of other strides is packed first."""
    to_copy = call.name == "_to_copy"
    target, source = (call.results[0], call.operand(0)) if to_copy else (call.operand(0), call.operand(1))
    packs = target.on_cpu and not source.on_cpu and target.stride != source.stride and source.numel > 1
    inner = temporaries(source.nbytes) if packs else ()
    return then((RESULT,), inner) if to_copy else inner


def convolution(call: OperatorCall, _build: CudaBuild) -> Requests | None:
    """native/Convolution.cpp select_conv_backend: a depthwise kernel takes nothing.

    Others are cuDNN's, whose workspace only a GPU can tell; without cuDNN, im2col takes the columns of one sample
    (native/cuda/ConvolutionMM2d.cu slow_conv2d_forward).
    """
    groups, channels = call.argument(8, "groups", 1), call.operand(0).shape[1]
    return NOTHING if groups == channels > 1 else None


def softmax_backward(call: OperatorCall, _build: CudaBuild) -> Requests:
    """native/cuda/SoftMax.cu softmax_backward_cuda_out: `grad * output`, beside the result."""
    return then((RESULT,), temporaries(max(call.operand(0).nbytes, call.operand(1).nbytes)))


def norm_of_groups(call: OperatorCall, _build: CudaBuild) -> Requests:
    """native/cuda/group_norm_kernel.cu GroupNormKernelImplInternal: a scale and a shift in fp32."""
    batch, channels, groups = call.argument(3, "N"), call.argument(4, "C"), call.argument(6, "group")
    fp32 = batch * channels * 4
    return then(NOTHING, temporaries(batch * groups * 4, batch * groups * 4, fp32, fp32))


def cholesky_inverse(call: OperatorCall, _build: CudaBuild) -> Requests:
    """torch.cholesky_inverse, see linalg.py."""
    matrix = call.operand(0)
    return linalg.cholesky_inverse(
        matrix.shape[-1], batch=prod(matrix.shape[:-2]), itemsize=matrix.itemsize, into="out" in call.keywords
    )


def linalg_check_errors(call: OperatorCall, _build: CudaBuild) -> Requests:
    """native/BatchLinearAlgebra.cpp _linalg_check_errors, the last step of torch.linalg.cholesky."""
    return linalg.check_errors(max(1, call.operand(0).numel))


def linalg_cholesky_ex(call: OperatorCall, _build: CudaBuild) -> Requests:
    """torch.linalg.cholesky_ex, see linalg.py."""
    matrix = call.operand(0)
    return linalg.cholesky_ex(
        matrix.shape[-1], batch=prod(matrix.shape[:-2]), itemsize=matrix.itemsize, into="L" in call.keywords
    )


RULES: dict[str, Rule] = {
    **dict.fromkeys(("mm", "addmm", "baddbmm"), products.matrix_product),
    "bmm": products.batched_product,
    **dict.fromkeys(("mv", "dot", "addmv", "vdot"), products.vector_product),
    **dict.fromkeys(
        ("sum", "mean", "prod", "amax", "amin", "max", "min", "any", "all", "argmax", "argmin", "aminmax", "var",
         "std", "linalg_vector_norm"),
        reductions.reduction,
    ),
    "sort": sorting.sort,
    "topk": sorting.topk,
    "cumsum": sorting.cumsum,
    "nonzero": indexing.nonzero,
    "index": indexing.index,
    "_unsafe_index": indexing.index,
    "index_put_": indexing.index_put_,
    "_index_put_impl_": indexing.index_put_,
    "index_put": indexing.index_put,
    "masked_scatter_": indexing.masked_scatter_,
    "masked_scatter": indexing.masked_scatter,
    "masked_select": indexing.masked_select,
    "_to_copy": copy,
    "copy_": copy,
    "cholesky_inverse": cholesky_inverse,
    "linalg_cholesky_ex": linalg_cholesky_ex,
    "_linalg_check_errors": linalg_check_errors,
    "convolution": convolution,
    "native_group_norm": norm_of_groups,
    "_softmax_backward_data": softmax_backward,
}  # fmt: skip

VIEWS = frozenset("""
    _reshape_alias _unsafe_view alias as_strided chunk detach diagonal expand expand_as is_same_size lift_fresh narrow
    permute real imag reshape select slice split split_with_sizes squeeze t transpose unbind unfold unsafe_split
    unsqueeze view view_as view_as_complex view_as_real _local_scalar_dense is_nonzero equal set_ resize_
""".split())  # fmt: skip  # noqa: SIM905  (a list of strings has a line for each of them)
"""They make no storage."""

ELEMENTWISE = frozenset("""
    abs abs_ acos add add_ addcdiv addcmul asin atan atan2 bitwise_and bitwise_not bitwise_or bitwise_xor ceil clamp
    clamp_ clamp_max clamp_min complex copysign cos cosh div div_ elu eq eq_ erf erfinv exp exp2 exp_ expm1 fill fill_
    floor floor_divide fmod ge gelu gt hardsigmoid hardswish hardtanh isfinite isinf isnan le leaky_relu lerp log log10
    log1p log2 logical_and logical_and_ logical_not logical_or logical_xor logit lt masked_fill masked_fill_ maximum
    minimum mish mul mul_ nan_to_num ne neg neg_ polar pow pow_ reciprocal relu relu_ remainder round round_ rsqrt
    rsqrt_ rsub sigmoid sigmoid_ sign silu silu_ sin sinh softplus sqrt square sub sub_ tan tanh threshold true_divide
    trunc where xlogy zero_
""".split())  # fmt: skip  # noqa: SIM905  (a list of strings has a line for each of them)
"""TensorIterator loops: native/cuda/Loops.cuh gpu_kernel launches a kernel and allocates nothing; an operand of another
type is cast inside it."""

TAKES_NOTHING = frozenset("""
    clone contiguous _conj arange empty empty_like empty_strided eye full full_like linspace new_empty
    new_empty_strided new_full new_ones new_zeros ones ones_like rand rand_like randn randn_like scalar_tensor tril
    tril_ tril_indices triu triu_ triu_indices zeros zeros_like bernoulli_ normal_ uniform_ exponential_
    cat stack repeat flip roll constant_pad_nd diagonal_copy embedding gather index_add index_add_ index_copy_
    index_select scatter scatter_ scatter_add scatter_add_ searchsorted
    gelu_backward sigmoid_backward silu_backward slice_backward tanh_backward
    _softmax _log_softmax native_layer_norm _fused_rms_norm upsample_bilinear2d avg_pool2d cummax
""".split())  # fmt: skip  # noqa: SIM905  (a list of strings has a line for each of them)
"""Recorded with nothing beside their results: factories, copies between tensors of the GPU, gathers, softmax
(native/cuda/SoftMax.cu host_softmax, half to float included) and norms (native/cuda/layer_norm_kernel.cu)."""


def takes_nothing(name: str) -> bool:
    """The operator is known to take its results alone, whatever its arguments."""
    return name in VIEWS or name in ELEMENTWISE or name in TAKES_NOTHING


def requests_of(call: OperatorCall, build: CudaBuild) -> Requests | None:
    """What the operator asks of the allocator, in order. None: no rule knows it."""
    rule = RULES.get(call.name)
    if rule is not None:
        return rule(call, build)
    return NOTHING if takes_nothing(call.name) else None
