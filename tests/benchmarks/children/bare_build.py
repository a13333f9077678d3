"""A bare `import torch, transformers` and accelerate's meta build: the least that any plan has to do.

bare_build.py PRESET.json
"""

import json
import sys
from pathlib import Path

import torch  # noqa: F401  (the import is what is measured)
from accelerate import init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM

values = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["config"]
config = AutoConfig.for_model(values.pop("model_type"), **values)
with init_empty_weights(include_buffers=True):
    AutoModelForCausalLM.from_config(config)
