"""Where PyTorch's CUDA build and the real library are: CUDAMETER names what tests/cudameter/setup.sh made."""

import os
import shutil
from pathlib import Path

import pytest

FOLDER = os.environ.get("CUDAMETER", "")
PYTHON = f"{FOLDER}/venv/bin/python"
MARKS = [
    pytest.mark.llmcompressor,
    pytest.mark.skipif(not FOLDER or not Path(PYTHON).exists() or not shutil.which("g++"), reason="no CUDAMETER"),
]
"""Of tests that need both."""
