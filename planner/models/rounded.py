"""Weights that AutoRound rounds without training them (`iters: 0`), operator by operator as auto_round/data_type does.

As in `fake_quant.py` nothing is computed. A search tries a hundred scales and more; all tries are alike, and the first
few are run here: from the second on, each begins while the one before still holds its names.
"""

from typing import Any

import torch

from planner.models.fake_quant import (
    FP4_MAX,
    FP8_MAX,
    INT_THRESHOLD,
    MX,
    Quantized,
    cast_to_fp4,
    grouped,
    mx_element,
    nv_fp4,
    quantized_weight,
    reciprocal,
    ungrouped,
)
from planner.models.tuned import LinearTuning

TRIES = 3


class InputSquares:
    """The squares of a Linear's inputs, summed over all samples: rtn/quantizer.py `_register_imatrix_hooks`."""

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None

    def see(self, inputs: torch.Tensor) -> None:
        """`collect_imatrix`, a forward hook."""
        flattened = inputs.reshape(-1, inputs.shape[-1]).to(torch.float32)
        squared = torch.sum(torch.pow(flattened, 2), dim=0).to(torch.float32)
        if self.total is None:
            self.total = squared
            return
        self.total += squared


def round_linear(linear: Any, how: LinearTuning, squares: Any, whole: Any, search: bool) -> None:
    """wrapper.py WrapperLinear, then its `unwrapper`."""
    weight = linear.weight
    qdq_weight, *_scale_and_zp = rounded_weight(how, weight, squares, whole, search)
    weight.data.copy_(qdq_weight.to(weight.dtype))


def rounded_weight(how: LinearTuning, weight: Any, squares: Any, whole: Any, search: bool) -> Quantized:
    """data_type/utils.py get_quant_func with no iterations: which function, with `search` or without.

    `squares`: the inputs' squares, summed (imatrix), None where no sample was seen; `whole`: NVFP4's range.
    """
    if how.weights == "int_sym":
        return _searched_int(weight, how, squares) if search else _plain_int(weight, how)
    if how.weights == "mx_fp" and search:
        return _searched_mx(weight, how, squares)
    if how.weights == "nv_fp" and search:
        return _searched_nv_fp4(weight, how, squares, whole)
    one = weight.new_empty((), dtype=torch.float32)
    return quantized_weight(how, weight, one, one, one, (None, None) if how.weights == "fp8" else None, whole)


def _importance(squares: Any, tensor: torch.Tensor, group: int) -> Any:
    """The inputs' squares beside each weight, in fp32: int.py quant_tensor_opt_rtn_sym.

    gguf.py `_imatrix_handle_zero`: no sum of squares is zero where every input was seen at least once.
    """
    if squares is None:
        return None
    imatrix = squares.reshape(1, -1)
    imatrix = grouped(imatrix, group)[0].view(1, -1)
    imatrix = imatrix.expand(tensor.numel() // imatrix.numel(), -1)
    imatrix = imatrix.reshape(tensor.shape)
    torch.min(imatrix)
    return imatrix


# ---------------------------------------------------------------------- integers
def _plain_int(tensor: torch.Tensor, how: LinearTuning) -> Quantized:
    """int.py quant_tensor_rtn_sym."""
    tensor, shape, pad = grouped(tensor, how.group)
    maxq = int(2.0 ** (how.bits - 1))
    one = tensor.new_empty((), dtype=torch.float32)
    wmin_tmp = torch.clamp(tensor.min(-1)[0], max=0)
    wmax_tmp = torch.clamp(tensor.max(-1)[0], min=0)
    wmin_abs = -(wmin_tmp * one)
    wmax_abs = wmax_tmp * one
    max_v = (2 * (wmax_abs < wmin_abs).int() - 1) * torch.max(wmax_abs, wmin_abs)
    scale = _bounded((max_v / maxq).to(torch.float16)).unsqueeze(dim=-1)
    return _divided(tensor, scale, maxq, shape, pad)


def _searched_int(tensor: torch.Tensor, how: LinearTuning, squares: Any) -> Quantized:
    """int.py quant_tensor_opt_rtn_sym."""
    tensor, shape, pad = grouped(tensor, how.group)
    maxq = int(2.0 ** (how.bits - 1))
    imatrix = _importance(squares, tensor, how.group)
    scale = _search_scales(tensor, maxq, imatrix)
    scale = _bounded(scale)
    return _divided(tensor, scale, maxq, shape, pad)


def _bounded(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale < 0, torch.clamp(scale, max=-INT_THRESHOLD), torch.clamp(scale, min=INT_THRESHOLD))


def _divided(tensor: torch.Tensor, scale: torch.Tensor, maxq: int, shape: torch.Size, pad: int) -> Quantized:
    int_w = tensor.div(scale).round_().clamp_(-maxq, maxq - 1)
    qdq_result = (int_w.mul_(scale)).to(tensor.dtype)
    return ungrouped(qdq_result, shape, pad), scale, maxq


def _search_scales(data: torch.Tensor, nmax: int, qw: Any) -> torch.Tensor:
    """int.py search_scales."""
    imax = torch.abs(data).argmax(dim=-1, keepdim=True)
    group_max = torch.take_along_dim(data, imax, dim=-1)
    iscales = -nmax * reciprocal(group_max)
    scales = reciprocal(iscales)
    L = torch.empty_like(data)  # noqa: N806 - upstream's name
    torch.round(iscales * data, out=L)
    L.clamp_(-nmax, nmax - 1)
    best_loss = _int_loss(scales, L, data, qw)
    for _ in range(TRIES):
        iscales_tmp = -nmax * reciprocal(group_max)
        tmp_L = torch.empty_like(data)  # noqa: N806 - upstream's name
        torch.round(iscales_tmp * data, out=tmp_L)
        tmp_L.clamp_(-nmax, nmax - 1)
        tmp_scales = reciprocal(iscales_tmp)
        loss = _int_loss(tmp_scales, tmp_L, data, qw)
        replace_id = loss < best_loss
        replace_id.any()
        _replaced(scales, replace_id)
        _replaced(best_loss, replace_id)
    return scales


def _int_loss(scales: torch.Tensor, rounded: torch.Tensor, data: torch.Tensor, qw: Any) -> torch.Tensor:
    loss = ((scales * rounded - data).to(torch.float32)) ** 2
    if qw is not None:
        loss.mul_(qw)
    return torch.sum(loss, dim=-1)


def _replaced(values: torch.Tensor, chosen: torch.Tensor) -> None:
    """`values[chosen] = others[chosen]`, as if all were better: the places, and what lies there."""
    places = values.new_empty((chosen.numel(),), dtype=torch.int64)
    taken = values.new_empty((chosen.numel(),))
    del places, taken


# ---------------------------------------------------------------------- MXFP4 and MXFP8
def _searched_mx(tensor: torch.Tensor, how: LinearTuning, squares: Any) -> Quantized:
    """mxfp.py quant_mx_opt_rtn."""
    tensor, shape, pad = grouped(tensor, how.group)
    ebits, mbits, emax, max_norm = MX[how.bits]
    orig_dtype = tensor.dtype
    tensor = tensor.to(torch.float32)
    qw = _importance(squares, tensor, how.group)
    max_scales = _search_mx(tensor, how.bits, qw)
    max_val = torch.amax(torch.abs(tensor), dim=-1, keepdim=True)
    max_val.mul_(max_scales)
    shared_exp = torch.where(max_val == 0, torch.ones_like(max_val), torch.log2(max_val))
    shared_exp.floor_()
    shared_exp.sub_(emax).clamp_(min=-127.0, max=127.0)
    scale = torch.pow(2.0, shared_exp)
    tensor.div_(scale)
    tensor.clamp_(min=-max_norm, max=max_norm)
    tensor = mx_element(tensor, ebits, mbits, max_norm)
    tensor.mul_(scale)
    tensor = ungrouped(tensor, shape, pad)
    return tensor.to(orig_dtype), shared_exp.to(orig_dtype), None


def _search_mx(tensor: torch.Tensor, bits: int, qw: Any) -> torch.Tensor:
    """mxfp.py search_mx_scale: three scales, and no more."""
    tensor = tensor.to(torch.float32)
    max_val, _ = torch.max(torch.abs(tensor), dim=-1, keepdim=True)
    scale_buf = torch.empty_like(max_val)
    buf = torch.empty_like(tensor)
    scales = torch.ones_like(max_val)
    best_loss = torch.empty(tensor.shape[:-1], dtype=tensor.dtype, device=tensor.device)
    loss = torch.empty_like(best_loss)
    qdq_t = _tried_mx(tensor, max_val, bits)
    _mx_loss(buf, qdq_t, tensor, qw, best_loss)
    for tmp_scale in (0.5, 2.0):
        torch.mul(max_val, tmp_scale, out=scale_buf)
        qdq_t = _tried_mx(tensor, scale_buf, bits)
        _mx_loss(buf, qdq_t, tensor, qw, loss)
        replace_id = loss < best_loss
        _replaced(best_loss, replace_id)
    return scales


def _tried_mx(tensor: torch.Tensor, max_val: torch.Tensor, bits: int) -> torch.Tensor:
    """mxfp.py qdq_mxfp."""
    ebits, mbits, emax, max_norm = MX[bits]
    shared_exp = torch.where(max_val == 0, torch.ones_like(max_val), torch.log2(max_val))
    shared_exp = torch.floor(shared_exp)
    shared_exp = (shared_exp - emax).clamp(min=-127, max=127)
    scale = torch.pow(2.0, shared_exp)
    tensor = tensor / scale
    tensor = torch.clamp(tensor, min=-max_norm, max=max_norm)
    tensor = mx_element(tensor, ebits, mbits, max_norm)
    return tensor * scale


def _mx_loss(buf: torch.Tensor, qdq: torch.Tensor, tensor: torch.Tensor, qw: Any, out: torch.Tensor) -> None:
    torch.sub(qdq, tensor, out=buf)
    buf.pow_(2)
    if qw is not None:
        buf.mul_(qw)
    torch.sum(buf, dim=-1, out=out)


# ---------------------------------------------------------------------- NVFP4
def _searched_nv_fp4(tensor: torch.Tensor, how: LinearTuning, squares: Any, whole: torch.Tensor) -> Quantized:
    """nvfp.py opt_rtn_fast_nvfp4."""
    tensor, shape, pad = grouped(tensor, how.group)
    qw = _importance(squares, tensor, how.group)
    init_scale = _search_nv_fp4(tensor, how.group, qw)
    tensor = ungrouped(tensor, shape, pad)
    one = tensor.new_empty((), dtype=torch.float32)
    return _nv_fp4_in_place(tensor, how.group, one, whole, one.view(-1) * init_scale.view(-1))


def _search_nv_fp4(tensor: torch.Tensor, group: int, qw: Any) -> torch.Tensor:
    """nvfp.py search_nvfp4_scale."""
    tensor_fp32 = tensor.float()
    tensor_max = tensor_fp32.to(torch.float32).abs().max()
    global_scale = FP8_MAX * FP4_MAX * reciprocal(tensor_max)
    qdq_t, scale, _ = nv_fp4(tensor_fp32, group, 0, global_scale, tensor.new_ones((1,), dtype=torch.float32))
    diff = torch.empty_like(tensor_fp32)
    loss = torch.empty_like(tensor_fp32[..., 0])
    _nv_loss(diff, loss, qdq_t, tensor_fp32, qw)
    best_loss = loss.clone()
    best_scale = torch.ones_like(scale)
    test_scale = torch.empty_like(scale)
    for _ in range(TRIES):
        tmp_qdq, _, _ = _nv_fp4_in_place(tensor_fp32, group, 0, None, test_scale)
        _nv_loss(diff, loss, tmp_qdq, tensor_fp32, qw)
        mask = loss < best_loss
        _replaced(best_loss, mask)
        _replaced(best_scale, mask)
    return best_scale


def _nv_loss(diff: Any, loss: Any, qdq: torch.Tensor, tensor: torch.Tensor, qw: Any) -> None:
    diff.copy_(qdq)
    diff.sub_(tensor)
    diff.mul_(diff)
    if qw is not None:
        diff.mul_(qw)
    loss.copy_(diff.sum(dim=-1))


def _nv_fp4_in_place(tensor: torch.Tensor, group: int, v: Any, global_scale: Any, coefficient: Any) -> Quantized:
    """nvfp.py nv_fp4_rtn and ref_nvfp4_quant_inplace."""
    orig_dtype = tensor.dtype
    tensor, shape, pad = grouped(tensor, group)
    if global_scale is None:
        tensor_max = tensor.abs().max().to(torch.float32)
        global_scale = FP8_MAX * FP4_MAX * reciprocal(tensor_max)
    vec_max = torch.amax(torch.abs(tensor), dim=-1, keepdim=True).float()
    vec_max.mul_(coefficient.view(-1, 1))
    scale = global_scale * (vec_max * (1.0 / FP4_MAX))
    scale.clamp_(min=-FP8_MAX, max=FP8_MAX)
    scale = scale.to(torch.float8_e4m3fn).to(torch.float32)
    output_scale = reciprocal(scale * reciprocal(global_scale))
    out = torch.empty_like(tensor, dtype=torch.float32)
    out.copy_(tensor)
    out.mul_(output_scale)
    if isinstance(v, torch.Tensor):
        out.add_(v)
    out.clamp_(-FP4_MAX, FP4_MAX)
    out = cast_to_fp4(out) * reciprocal(output_scale)
    qdq_res = ungrouped(out.reshape(tensor.shape), shape, pad)
    return qdq_res.to(orig_dtype), scale, None
