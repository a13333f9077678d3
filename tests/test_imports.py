"""What a command imports: nothing heavy where it needs no model."""

import subprocess
import sys

import pytest

SERVER = ("starlette", "uvicorn")
TORCH = ("torch", "transformers", "accelerate", "compressed_tensors")
HEAVY = (*TORCH, *SERVER, "networkx", "pydantic")  # typer may use the last


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], HEAVY),
        (["plan", "--help"], HEAVY[:7]),
        (["models"], HEAVY[:6]),
        (["recipes"], HEAVY[:6]),
        (["gpus"], HEAVY[:7]),
        (["machines"], HEAVY[:7]),
        (["plan", "x", "--recipe", "y", "--samples", "0"], HEAVY[:6]),
    ],
)
def test_what_needs_no_model_imports_no_torch(arguments: list[str], unwanted: tuple[str, ...]) -> None:
    code = f"""
import sys
from planner.cli import main
main({arguments!r})
print(sorted(set(sys.modules) & set({unwanted!r})), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "[]"
