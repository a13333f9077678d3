"""The PyTorch build and the architecture whose memory is modelled."""

from dataclasses import dataclass

CUBLAS_WORKSPACE = 8_519_680
CUBLAS_WORKSPACE_FROM_SM_90 = 33_554_432
"""ATen/cuda/CublasHandlePool.cpp parseChosenWorkspaceSize: `:4096:2:16:8` KiB, or `:4096:8` from Hopper on."""

SELECT_TILES = ((100, 3520), (90, 4224), (80, 2304), (0, 640))
RADIX_TILES = {90: {0: 5760, 1: 3456, 2: 5632, 4: 5376, 8: 4608}, 80: {0: 3840, 4: 3072, 8: 3840}}
"""Tunings of CUB by architecture, found with recordings (tests/cuda/recorded/operators.json)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaBuild:
    """PyTorch's CUDA build on one card."""

    torch: str = "2.14"
    """Major and minor version; `pip install llmcompressor==0.14.0.1` brings this one."""
    sm: int = 90
    """Compute capability, major times 10 plus minor."""

    multiprocessors: int = 132
    """SMs of the card: how far a large reduction is split depends on them."""
    threads_per_multiprocessor: int = 2048

    @property
    def select_tile(self) -> int:
        """Elements of a tile of cub::DeviceSelect::Flagged over a mask."""
        return next(tile for sm, tile in SELECT_TILES if self.sm >= sm)

    def radix_tile(self, key: int) -> int | None:
        """Elements of a tile of CUB's onesweep sort of pairs, by bytes of the key; 0: the sort by row numbers."""
        return RADIX_TILES[90 if self.sm >= 90 else 80].get(key) if self.sm >= 80 else None

    @property
    def cublas_workspace(self) -> int:
        """Bytes that a handle's first product on a stream takes from the allocator and keeps.

        cuBLASLt shares it (CublasHandlePool.cpp unified_cublas_and_lt_workspaces, on unless
        TORCH_CUBLASLT_UNIFIED_WORKSPACE=0); a thread of its own has a handle of its own.
        """
        return CUBLAS_WORKSPACE_FROM_SM_90 if self.sm >= 90 else CUBLAS_WORKSPACE
