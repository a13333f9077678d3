"""A small Llama whose jobs are planned in milliseconds, and machines of its size."""

import json
from functools import cache
from typing import Any

from planner.choose.estimator import Estimator
from planner.choose.fit import Search
from planner.hardware.machine import Machine
from planner.job import Job
from planner.units import GIB, MIB

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}
MIXTURE = {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
}
JOB = Job(samples=1024, seq_len=512)


def machine(gpu: int = 80 * GIB, ram: int | None = 64 * GIB, **fields: Any) -> Machine:
    return Machine(gpu_memory_bytes=gpu, ram_bytes=ram, source="a test", **fields)


def estimator(recipe: str = "gptq_w4a16", config: dict[str, Any] = CONFIG) -> Estimator:
    """The one that all tests share: a trial is made once, whoever asks."""
    return _shared(recipe, json.dumps(config))


@cache
def _shared(recipe: str, config: str) -> Estimator:
    return Estimator(json.loads(config), recipe)


def search(on: Machine, job: Job = JOB, recipe: str = "gptq_w4a16", config: dict[str, Any] = CONFIG) -> Search:
    return Search(estimator(recipe, config), job, on)


LARGE = machine()
SMALL_STEP = 4 * MIB
