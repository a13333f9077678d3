"""`accelerate estimate-memory` as it is, on a local config: only its question to the Hub is answered here.

estimate_memory.py FOLDER_WITH_CONFIG_JSON
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from accelerate.commands import estimate


def answer(repo: str, token: str | None = None) -> Any:
    """What huggingface_hub.model_info says, as far as create_empty_model reads it."""
    config = json.loads((Path(repo) / "config.json").read_text(encoding="utf-8"))
    return SimpleNamespace(library_name="transformers", config=config)


estimate.verify_on_hub = answer
estimate.estimate_command(estimate.estimate_command_parser().parse_args([sys.argv[1]]))
