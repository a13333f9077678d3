"""The PyTorch build and the architecture whose memory is modelled."""

from dataclasses import dataclass

CUBLAS_WORKSPACE = 8_519_680
CUBLAS_WORKSPACE_FROM_SM_90 = 33_554_432
"""ATen/cuda/CublasHandlePool.cpp parseChosenWorkspaceSize: `:4096:2:16:8` KiB, or `:4096:8` from Hopper on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaBuild:
    """PyTorch's CUDA build on one card."""

    torch: str = "2.14"
    """Major and minor version; `pip install llmcompressor==0.14.0.1` brings this one."""
    sm: int = 90
    """Compute capability, major times 10 plus minor."""

    @property
    def cublas_workspace(self) -> int:
        """Bytes that a handle's first product on a stream takes from the allocator and keeps.

        cuBLASLt shares it (CublasHandlePool.cpp unified_cublas_and_lt_workspaces, on unless
        TORCH_CUBLASLT_UNIFIED_WORKSPACE=0); a thread of its own has a handle of its own.
        """
        return CUBLAS_WORKSPACE_FROM_SM_90 if self.sm >= 90 else CUBLAS_WORKSPACE
