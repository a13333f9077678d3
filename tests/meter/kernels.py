"""Stand-ins for the Triton kernels that LLM Compressor runs on a CUDA device.

With Triton present the library takes its fused paths, which allocate less than the eager
fallbacks. There is no Triton here, so the library is told that there is one and each kernel
launch is replaced: by the same result computed eagerly and uncounted (mode real, for GPTQ,
whose result the next block needs), by zeros, or by nothing (mode shape). The library's own
code around the launch, which allocates the kernels' outputs, stays as it is.
"""

import fakecuda


class Launch:
    """kernel[grid](...) that calls `result` instead of launching; nothing it makes counts."""

    def __init__(self, result, shape: bool):
        self.result, self.shape = result, shape

    def __getitem__(self, _grid):
        def run(*args, **kwargs):
            if not self.shape:
                with fakecuda.uncounted():
                    self.result(*args, **kwargs)

        return run


def _gptq_block(work, hinv, scale, zero_point, quantized, errors, _rows, *rest, HAS_ZP, **_config):  # noqa: N803  (the kernel's name)
    """_gptq_block_update_kernel: quantize a block column by column, spreading the error."""
    import torch

    q_min, q_max = (x for x in rest if isinstance(x, float))
    w, h, s = work.cpu().clone(), hinv.cpu(), scale.cpu().float()
    z = zero_point.cpu().float() if HAS_ZP else torch.zeros(())
    out, err = torch.empty_like(w), torch.empty_like(w)
    for i in range(w.shape[-1]):
        column = w[:, :, i]
        offset = z[:, :, i] if HAS_ZP else z
        q = ((column / s[:, :, i] + offset).clamp(q_min, q_max).round() - offset) * s[:, :, i]
        e = (column - q) / h[:, i, i][:, None]
        out[:, :, i], err[:, :, i] = q, e
        w[:, :, i:] -= e.unsqueeze(-1) * h[:, i, i:].unsqueeze(1)
    quantized.copy_(out)
    errors.copy_(err)


def _zero(position):
    def result(*args, **_kwargs):
        args[position].zero_()

    return result


def _nothing(*_args, **_kwargs):
    pass


def claim_triton() -> None:
    """Tell compressed-tensors that Triton is there. Call before importing llmcompressor."""
    import compressed_tensors.utils.triton as ct_triton

    ct_triton.triton.next_power_of_2 = lambda n: 1 << (int(n) - 1).bit_length()
    ct_triton.HAS_TRITON = True


def replace_kernels(shape: bool) -> None:
    """Replace every kernel that the library would launch. Call after importing llmcompressor."""
    import compressed_tensors.compressors.nvfp4.helpers as nvfp4
    import compressed_tensors.quantization.lifecycle.forward_helpers as forward_helpers
    import compressed_tensors.quantization.utils.fp4_utils as fp4_utils
    import llmcompressor.modifiers.gptq.gptq_quantize as gptq
    import llmcompressor.observers.mse_quant as mse

    gptq.HAS_TRITON = True
    gptq._gptq_block_update_kernel = Launch(_gptq_block, shape)
    forward_helpers._quantize_kernel = Launch(_zero(0), shape)
    mse._grid_search_mse_triton_packed_kernel = Launch(_zero(4), shape)
    mse._grid_search_mse_triton_split_kernel = Launch(_nothing, shape)
    mse._grid_search_mse_triton_split_reduce_kernel = Launch(_zero(1), shape)
    fp4_utils._cast_to_fp4_kernel = Launch(_nothing, shape)
    nvfp4._pack_fp4_kernel = Launch(_zero(1), shape)


def replace_mask_readers() -> None:
    """Shape mode: AutoRound reads from a causal mask which tokens are samples' own, and stops at a mask without values.

    autoround/utils.py _collapse_causal_attention_mask, which works on the CPU: all tokens are their own.
    """
    import llmcompressor.modifiers.autoround.utils as autoround
    import torch

    autoround._collapse_causal_attention_mask = lambda mask: torch.ones(mask.shape[0], mask.shape[-2], dtype=torch.long)


def shorten_searches() -> None:
    """Shape mode: AutoRound without iterations tries four scales of a hundred and more: all tries are alike.

    auto_round/data_type/int.py search_scales and nvfp.py search_nvfp4_scale. No sum of squared inputs is zero, where
    gguf.py `_imatrix_handle_zero` would read it.
    """
    import builtins

    import auto_round.data_type.gguf as gguf
    import auto_round.data_type.int as integers
    import auto_round.data_type.nvfp as nvfp
    import torch

    def few(first, last):
        return builtins.range(first, min(first + 4, last))

    def with_squares(imatrix, *_args, **_others):
        if isinstance(imatrix, torch.Tensor):
            torch.min(imatrix)
        return imatrix

    integers.range = nvfp.range = few
    gguf._imatrix_handle_zero = nvfp._imatrix_handle_zero = with_squares


def shorten_column_loops() -> None:
    """Shape mode: run only the first columns of loops that pass over every weight column.

    SparseGPT's inner loop makes its largest temporary at the first column of a block (it
    covers the columns that are left), and Wanda's N:M loop does the same work for every
    group of columns. Sixteen columns reach the steady state of both, so the peaks stay.
    Both modules call `range(one_number)` for these loops alone.
    """
    import builtins

    import llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify as sparsegpt
    import llmcompressor.modifiers.pruning.wanda.wanda_sparsify as wanda

    def first_columns(*bounds):
        return builtins.range(min(bounds[0], 16)) if len(bounds) == 1 else builtins.range(*bounds)

    sparsegpt.range = wanda.range = first_columns
