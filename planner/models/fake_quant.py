"""Weights and inputs quantized and dequantized under autograd, operator by operator as auto_round/data_type does.

Nothing is computed: the tensors are the meta device's. What counts is which tensors are made, in which type, what
autograd keeps of them, and how long a local name holds one. So each function has its upstream function's operators and
names; what upstream does for other options is left out.
"""

from typing import Any

import torch

from planner.models.tuned import LinearTuning

INT_THRESHOLD = 1e-5
FP8_MAX, FP4_MAX = 448.0, 6.0
Quantized = tuple[torch.Tensor, torch.Tensor, Any]
"""The dequantized tensor, its scales, its zero points."""

# mxfp.py MXFP_FORMAT_CACHE: exponent and mantissa bits, largest exponent, largest value.
MX = {4: (2, 3, 2, 6.0), 6: (2, 5, 2, 7.5), 8: (4, 5, 8, 448.0)}


def grouped(data: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Size, int]:
    """data_type/utils.py reshape_pad_tensor_by_group_size: a row for each group."""
    shape = data.shape
    if group == 0:
        return data.reshape(1, -1), shape, 0
    if len(data.shape) > 2:
        data = data.reshape(-1, shape[-1])
    if group == -1 or data.shape[1] < group:
        return data, shape, 0
    pad = -data.shape[1] % group
    if pad:
        data = torch.nn.functional.pad(data, (0, pad), value=0.0)
    return data.reshape(-1, group), shape, pad


def ungrouped(data: torch.Tensor, shape: torch.Size, pad: int) -> torch.Tensor:
    """data_type/utils.py revert_tensor_by_pad."""
    if not pad:
        return data.reshape(shape)
    rows = shape[:-1].numel()
    return data.reshape(rows, -1)[:, :-pad].reshape(shape)


def round_ste(x: torch.Tensor) -> torch.Tensor:
    """data_type/utils.py round_ste, and floor_ste, which holds the same."""
    return (x.round() - x).detach() + x


def float8_ste(x: torch.Tensor) -> torch.Tensor:
    """data_type/utils.py float8_e4m3fn_ste."""
    return (x.to(torch.float8_e4m3fn).to(x.dtype) - x).detach() + x


def reciprocal(x: torch.Tensor) -> torch.Tensor:
    """nvfp.py get_reciprocal."""
    return torch.where(x == 0, torch.zeros_like(x, dtype=x.dtype), 1.0 / x)


# ---------------------------------------------------------------------- integers
def int_sym(tensor: torch.Tensor, bits: int, group: int, v: Any, minimum: Any, maximum: Any, given: Any) -> Quantized:
    """data_type/int.py quant_tensor_sym; `given`: the extremes of the groups, None where they are found here."""
    tensor, shape, pad = grouped(tensor, group)
    maxq = int(2.0 ** (bits - 1))
    wmin_tmp, wmax_tmp = given or _extremes(tensor)
    wmin_abs = -(wmin_tmp * minimum)
    wmax_abs = wmax_tmp * maximum
    max_v = (2 * (wmax_abs < wmin_abs).int() - 1) * torch.max(wmax_abs, wmin_abs)
    scale = (max_v / maxq).to(torch.float16)
    scale = torch.where(
        scale < 0, torch.clamp(scale, max=-INT_THRESHOLD), torch.clamp(scale, min=INT_THRESHOLD)
    ).unsqueeze(dim=-1)
    int_w = round_ste(tensor / scale + v)
    q = torch.clamp(int_w, -maxq, maxq - 1)
    qdq_result = (scale * q).to(tensor.dtype)
    qdq_result = ungrouped(qdq_result, shape, pad)
    return qdq_result, scale, maxq


def int_asym(tensor: torch.Tensor, bits: int, group: int, v: Any, minimum: Any, maximum: Any, given: Any) -> Quantized:
    """data_type/int.py quant_tensor_asym."""
    tensor, shape, pad = grouped(tensor, group)
    maxq = int(2.0**bits) - 1
    wmin_tmp, wmax_tmp = given or _extremes(tensor)
    wmin = wmin_tmp * minimum
    wmax = wmax_tmp * maximum
    scale = ((wmax - wmin) / maxq).to(torch.float16)
    scale = torch.clamp(scale, min=INT_THRESHOLD)
    zp = round_ste(-wmin / scale)
    scale = scale.unsqueeze(dim=-1)
    zp = zp.unsqueeze(dim=-1)
    int_w = round_ste(tensor / scale + v)
    q = torch.clamp(int_w + zp, 0, maxq)
    qdq_result = (scale * (q - zp)).to(tensor.dtype)
    qdq_result = ungrouped(qdq_result, shape, pad)
    return qdq_result, scale, zp


def _extremes(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wmin_tmp = torch.clamp(tensor.min(-1)[0], max=0)
    wmax_tmp = torch.clamp(tensor.max(-1)[0], min=0)
    return wmin_tmp, wmax_tmp


# ---------------------------------------------------------------------- floats
def mx_fp(tensor: torch.Tensor, bits: int, group: int, v: Any, max_scale: Any) -> Quantized:
    """data_type/mxfp.py quant_mx."""
    tensor, shape, pad = grouped(tensor, group)
    ebits, mbits, emax, max_norm = MX[bits]
    orig_dtype = tensor.dtype
    tensor = tensor.to(torch.float32)
    max_val, _ = torch.max(torch.abs(tensor), dim=-1, keepdim=True)
    max_val *= 1.0 * (max_scale.unsqueeze(dim=-1) if isinstance(max_scale, torch.Tensor) else max_scale)
    shared_exp = torch.where(max_val == 0, torch.ones_like(max_val), torch.log2(max_val))
    shared_exp = round_ste(shared_exp)
    shared_exp = (shared_exp - emax).clamp(min=-127.0, max=127.0)
    scale = torch.pow(2.0, shared_exp.float())
    tensor = tensor / scale + v
    tensor = torch.clamp(tensor, min=-max_norm, max=max_norm)
    tensor = mx_element(tensor, ebits, mbits, max_norm)
    tensor = tensor * scale
    tensor = ungrouped(tensor, shape, pad)
    return tensor.to(orig_dtype), shared_exp.to(orig_dtype), None


def mx_element(tensor: torch.Tensor, ebits: int, mbits: int, max_norm: float) -> torch.Tensor:
    """data_type/mxfp.py quant_element, rounding to even."""
    private_exp = round_ste(torch.log2(torch.abs(tensor) + (tensor == 0).type(tensor.dtype)))
    private_exp = private_exp.clip(min=-(2.0 ** float(ebits - 1)) + 2)
    tensor = tensor / (2.0 ** private_exp.float()) * (2.0 ** float(mbits - 2))
    abs_tensor = torch.abs(tensor)
    mask_tensor = ((abs_tensor - 0.5) % 2 == torch.zeros_like(abs_tensor)).type(tensor.dtype)
    tensor = torch.sign(tensor) * (round_ste(abs_tensor + 0.5) - mask_tensor)
    tensor = tensor / (2.0 ** float(mbits - 2)) * (2.0 ** private_exp.float())
    return torch.clamp(tensor, min=-max_norm, max=max_norm)


def nv_fp4(tensor: torch.Tensor, group: int, v: Any, global_scale: torch.Tensor, max_scale: Any) -> Quantized:
    """data_type/nvfp.py nv_fp4."""
    orig_dtype = tensor.dtype
    tensor, shape, pad = grouped(tensor, group)
    global_scale = global_scale.to(dtype=torch.float32)
    max_scale = max_scale.view(-1)
    qdq_res, scale = _nv_fp4(tensor, global_scale, v, max_scale * 1.0)
    qdq_res = ungrouped(qdq_res, shape, pad)
    return qdq_res.to(orig_dtype), scale, None


def nv_fp4_inputs(tensor: torch.Tensor, group: int, tensor_max: torch.Tensor) -> Quantized:
    """data_type/nvfp.py nv_fp4_with_static_gs."""
    if tensor.numel() == 0:
        return tensor, tensor, None
    orig_dtype = tensor.dtype
    tensor, shape, pad = grouped(tensor, group)
    tensor_max = tensor_max.to(dtype=torch.float32)
    if tensor_max.numel() != 1:
        tensor_max = tensor_max.to(torch.float32).abs().max()
    global_scale = FP8_MAX * FP4_MAX * reciprocal(tensor_max)
    qdq_res, scale = _nv_fp4(tensor, global_scale, 0, 1.0)
    qdq_res = ungrouped(qdq_res, shape, pad)
    return qdq_res.to(orig_dtype), scale, None


def weight_range(weight: torch.Tensor) -> torch.Tensor:
    """data_type/nvfp.py calculate_gparam: one number."""
    tensor_amax = weight.to(torch.float32).abs().max()
    return FP8_MAX * FP4_MAX * reciprocal(tensor_amax)


def _nv_fp4(x: torch.Tensor, global_scale: torch.Tensor, v: Any, coefficient: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """data_type/nvfp.py ref_nvfp4_quant."""
    m, n = x.shape
    if isinstance(coefficient, torch.Tensor):
        coefficient = coefficient.view(-1, 1)
    vec_max = torch.max(torch.abs(x), dim=-1, keepdim=True)[0].to(torch.float32) * coefficient
    scale = global_scale * (vec_max * (1.0 / FP4_MAX))
    scale = torch.clamp(scale, min=-FP8_MAX, max=FP8_MAX)
    scale = float8_ste(scale).to(torch.float32)
    output_scale = reciprocal(scale * reciprocal(global_scale))
    scaled_x = x.to(torch.float32) * output_scale + v
    clipped_x = torch.clamp(scaled_x, -6.0, 6.0)
    return (cast_to_fp4(clipped_x) * reciprocal(output_scale)).reshape(m, n), scale


def cast_to_fp4(x: torch.Tensor) -> torch.Tensor:
    """data_type/nvfp.py cast_to_fp4."""
    sign = torch.sign(x)
    x = torch.abs(x)
    step1 = round_ste(2.0 * x) / 2.0
    step2 = round_ste(x)
    step3 = 2.0 * round_ste(x / 2.0)
    mask1 = x < 2.0
    mask2 = x < 4.0
    x = step1 * mask1 + step2 * (~mask1) * mask2 + step3 * (~mask1) * (~mask2)
    x = x.clamp(-6, 6)
    return x * sign


def fp8(tensor: torch.Tensor, group: int, v: Any, max_scale: Any, minimum: Any, maximum: Any) -> Quantized:
    """data_type/fp8.py quant_fp8_sym; `minimum` and `maximum` of the groups, None where they are found here."""
    orig_dtype = tensor.dtype
    tensor, shape, pad = grouped(tensor, group)
    if maximum is None:
        max_tensor = torch.max(torch.abs(tensor), dim=-1)[0] * max_scale
    elif minimum is None:
        max_tensor = maximum * max_scale
    else:
        max_tensor = torch.maximum(maximum.abs(), minimum.abs()) * max_scale
    scale = max_tensor.to(torch.float32) / FP8_MAX
    scale = torch.clip(scale, min=1.0 / (FP8_MAX * 512.0))
    if tensor.dtype == torch.float16:
        tensor = tensor.to(torch.bfloat16)
    scale = scale.unsqueeze(dim=-1)
    fp8_res = tensor / scale + v
    fp8_res = torch.clip(fp8_res, -FP8_MAX, FP8_MAX)
    fp8_res = float8_ste(fp8_res)
    qdq_res = fp8_res * scale
    qdq_res = ungrouped(qdq_res, shape, pad)
    qdq_res = qdq_res.to(orig_dtype)
    return qdq_res, scale, None


# ---------------------------------------------------------------------- which of them
def quantized_weight(
    how: LinearTuning, weight: Any, v: Any, minimum: Any, maximum: Any, given: Any, whole: Any
) -> Quantized:
    """wrapper.py WrapperLinear `_qdq_weight`. `given`: extremes of the groups; `whole`: NVFP4's range of the weight."""
    if how.weights == "int_sym":
        return int_sym(weight, how.bits, how.group, v, minimum, maximum, given)
    if how.weights == "int_asym":
        return int_asym(weight, how.bits, how.group, v, minimum, maximum, given)
    if how.weights == "mx_fp":
        return mx_fp(weight, how.bits, how.group, v, maximum)
    if how.weights == "nv_fp":
        return nv_fp4(weight, how.group, v, whole, maximum)
    return fp8(weight, how.group, v, maximum, *given)


def quantized_inputs(how: LinearTuning, x: torch.Tensor, coefficient: Any, observed: Any) -> torch.Tensor:
    """wrapper.py WrapperLinear `_qdq_act`. `observed`: the range that samples showed, None where it is found here."""
    if how.inputs == "mx_fp":
        return mx_fp(x, how.input_bits, how.input_group, 0, coefficient)[0]
    if how.inputs == "nv_fp":
        return nv_fp4_inputs(x, how.input_group, observed)[0]
    if how.inputs == "fp8":
        return fp8(x, how.input_group, 0, coefficient, None, observed)[0]
    return int_sym(x, how.input_bits, how.input_group, 0, 1.0, coefficient, None)[0]
