"""What PyTorch's CUDA build says of transforms in whole numbers and in complex128. Opt-in, with the real library.

CUDAMETER=FOLDER pytest tests/compress/test_whole_numbers_on_cuda.py -m llmcompressor -n0
"""

import os
import subprocess
from pathlib import Path

import pytest

from planner.compress.modifiers.precisions import WIDTHS, check_multiplied, is_saved
from planner.errors import RecipeError
from tests.rehearse.cuda_build import FOLDER, MARKS

pytestmark = MARKS
RUN = Path(__file__).parent.parent / "cudameter" / "run.sh"
PROGRAM = """
import sys, torch
from compressed_tensors.transform.utils.hadamard import random_hadamard_matrix
from safetensors.torch import _TYPES
dtype = getattr(torch, sys.argv[1])
matrix = torch.ones(64, 64, device="cuda").to(dtype)
tries = {
    "product": lambda: torch.ones(2, 8, 64, device="cuda").to(dtype) @ matrix,
    "making": lambda: random_hadamard_matrix(64, dtype, torch.device("cuda"), torch.Generator()),
}
for name, run in tries.items():
    try:
        run()
        print(name, "works")
    except Exception as error:
        print(name, type(error).__name__, error)
print("saving", "works" if dtype in _TYPES.values() else "fails")
"""


def said(dtype: str) -> dict[str, str]:
    """What came of a product, of a random matrix, and of a name in a file."""
    words = [str(RUN), "--python", "-W", "ignore", "-c", PROGRAM, dtype]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "CUDAMETER": str(FOLDER)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("dtype", sorted(WIDTHS))
def test_what_a_gpu_multiplies_is_what_is_planned_there(dtype: str) -> None:
    found = said(dtype)
    try:
        check_multiplied(dtype, "quip")
    except RecipeError:
        assert "NotImplementedError" in found["product"]
        assert "addmm_cuda" in found["product"]
        assert "baddbmm_cuda" in found["making"]
    else:
        assert found["product"] == "works"
    assert (found["saving"] == "works") is is_saved(dtype)
