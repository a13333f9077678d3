"""The jobs that are rehearsed under another release: every modifier once, on few layers of real architectures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.errors import JobError
from planner.fields import JOB_FIELDS
from planner.hints import did_you_mean, shorten
from planner.job import Job

COMMON: Mapping[str, Any] = {"samples": 3, "seq_len": 512, "layers": 2}
"""Three batches show what repeats, two layers what the first leaves to the next, 512 tokens take little RAM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftCase:
    """One job, as `planner plan` takes it."""

    name: str
    model: str
    recipe: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the job, beside COMMON."""

    @property
    def job(self) -> Job:
        """The job's record."""
        return Job.model_validate({**COMMON, **self.fields})

    @property
    def options(self) -> str:
        """The job's options, as the command line has them."""
        values = {**COMMON, **self.fields}
        return " ".join(f"{each.option} {values[each.name]}" for each in JOB_FIELDS if each.name in values)


def _case(name: str, model: str, recipe: str, **fields: Any) -> DriftCase:
    return DriftCase(name=name, model=model, recipe=recipe, fields=fields)


CASES: tuple[DriftCase, ...] = (
    _case("rtn-w4a16", "llama-3-8b", "rtn_w4a16"),
    _case("rtn-fp8", "qwen3-8b", "rtn_fp8_dynamic"),
    _case("rtn-w8a8", "llama-3-8b", "rtn_w8a8_static"),
    _case("rtn-nvfp4", "qwen3-8b", "rtn_nvfp4"),
    _case("kv-cache", "llama-3-8b", "rtn_fp8_kv_cache"),
    _case("imatrix", "llama-3-8b", "rtn_w4a16_imatrix"),
    _case("gptq", "llama-3-8b", "gptq_w4a16"),
    _case("gptq-moe", "mixtral-8x7b", "gptq_w4a16"),
    _case("gptq-images", "qwen2.5-vl-7b", "gptq_w4a16", images=1, vision_layers=2),
    _case("sparsegpt", "llama-3-8b", "sparsegpt_2of4"),
    _case("wanda", "llama-3-8b", "wanda_50"),
    _case("awq", "qwen3-8b", "awq_w4a16"),
    _case("smoothquant-gptq", "llama-3-8b", "smoothquant_w8a8"),
    _case("autoround", "qwen3-0.6b", "autoround_w4a16"),
    _case("spinquant", "qwen3-0.6b", "spinquant_w4a16"),
    _case("reap", "qwen3-30b-a3b", "reap_25"),
)


def chosen(words: Sequence[str]) -> tuple[DriftCase, ...]:
    """The cases of these names, all where there are none; MODEL:RECIPE is a job of one's own. Raises JobError."""
    return tuple(_chosen(word) for word in dict.fromkeys(words)) or CASES


def _chosen(word: str) -> DriftCase:
    known = {case.name: case for case in CASES}
    if word in known:
        return known[word]
    model, colon, recipe = word.partition(":")
    if model and recipe and colon:
        return DriftCase(name=word, model=model, recipe=recipe)
    hint = did_you_mean(word, known) or f"; there are {', '.join(known)}"
    raise JobError(f"{shorten(word)}: no such job{hint}; or say MODEL:RECIPE")
