"""What the page asks, as a checked record: names from lists, a Hub id, or pasted text. Never a path."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from planner.errors import JobError, PlannerError, RecipeError
from planner.hardware.choice import machine_of
from planner.hardware.machine import MAX_DISK, MAX_RAM, Machine
from planner.hints import did_you_mean, shorten
from planner.job import Job
from planner.recipe.files import list_recipes
from planner.records import Record
from planner.units import GIB

JOB_FIELDS = (
    "samples",
    "seq_len",
    "batch_size",
    "images",
    "image_size",
    "ranks",
    "weights",
    "offload_device",
    "ram_for_weights_bytes",
    "sequential_targets",
    "targets_per_subgraph",
    "propagate_error",
    "prefetch",
    "linearized",
)
"""Fields of a job that the page may say: its own, and those that a strategy changes."""
START_MODEL = "llama-3-8b"
START = {"model": START_MODEL, "recipe": "gptq_w4a16", "gpu": "RTX 4090", "ram": 64}
"""What the page begins with, beside a job's own defaults."""
AS_ON_PAGE = "as given on the page"
PASTED_RECIPE = "recipe.yaml"
MAX_TEXT = 512 * 1024
"""Characters of a pasted config or recipe; real ones have a few thousand."""


def _or_none(value: Any) -> Any:
    """An empty field of a form is no field."""
    return None if isinstance(value, str) and not value.strip() else value


Text = Annotated[str | None, BeforeValidator(_or_none)]


class ModelChoice(Record):
    """The model: exactly one of its fields."""

    name: Text = Field(default=None, max_length=200)
    """A preset or a Hub id."""
    config: Text = Field(default=None, max_length=MAX_TEXT)
    """The text of a config.json."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if not (self.name or self.config):
            raise ValueError("choose a preset, type a Hub id (org/name), or paste a config.json")
        if self.name and self.config:
            raise ValueError("is a name or a pasted config.json, not both")
        return self


class RecipeChoice(Record):
    """The recipe: exactly one of its fields."""

    name: Text = Field(default=None, max_length=200)
    """A shipped one."""
    text: Text = Field(default=None, max_length=MAX_TEXT)
    """Recipe text, YAML or JSON."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if not (self.name or self.text):
            raise ValueError("choose a shipped recipe, or paste one")
        if self.name and self.text:
            raise ValueError("is a shipped one or pasted text, not both")
        return self


class PageQuestion(Record):
    """One question of the page."""

    client: str = Field(pattern="^[A-Za-z0-9-]{1,64}$")
    """The page that asks: of its questions only the newest is answered."""
    model: ModelChoice
    recipe: RecipeChoice
    job: dict[str, Any] = Field(default_factory=dict)
    gpu: str = Field(min_length=1, max_length=80)
    """A card of the table, or a size like 24GiB."""
    gpus: int | None = None
    """Cards in the machine; None for one."""
    ram_gib: float | None = Field(default=None, gt=0, le=MAX_RAM / GIB, allow_inf_nan=False)
    disk_gib: float | None = Field(default=None, gt=0, le=MAX_DISK / GIB, allow_inf_nan=False)
    one_by_one: bool = False
    """GPTQ compresses one module at a time (`batched_quantization` of its modifier)."""

    @model_validator(mode="after")
    def _says_no_more_of_the_job(self) -> Self:
        unknown = sorted(set(self.job) - set(JOB_FIELDS))
        if unknown:
            raise ValueError(f"job: the page says nothing of {shorten(unknown[0])}; it says {', '.join(JOB_FIELDS)}")
        return self

    def machine(self) -> Machine:
        """The machine. Raises JobError for a card that nobody knows."""
        ram, disk = (None if gib is None else f"{int(gib * GIB)} B" for gib in (self.ram_gib, self.disk_gib))
        return machine_of(gpu=self.gpu, gpus=self.gpus, ram=ram, disk=disk).model_copy(update={"source": AS_ON_PAGE})

    def asked_job(self) -> Job:
        """The job on that machine's card. Raises JobError in one line."""
        try:
            return Job.model_validate(self.job).on(self.machine())
        except ValidationError as error:
            raise JobError(_sentence(error)) from None


def read_question(data: bytes) -> PageQuestion:
    """The question in a request's body, checked as far as it can be without building a model.

    Raises PlannerError in one line for all that is wrong with it.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise JobError(f"the request is not JSON: {shorten(str(error))}") from None
    if not isinstance(content, Mapping):
        raise JobError("the request is not a JSON object")
    try:
        question = PageQuestion.model_validate(content)
    except ValidationError as error:
        raise JobError(_sentence(error)) from None
    question.asked_job()
    if (name := question.recipe.name) is not None:
        _check_shipped(name)
    return question


def _check_shipped(name: str) -> None:
    shipped = [info.name for info in list_recipes()]
    if name not in shipped:
        raise RecipeError(f"{shorten(name)!r} is not a shipped recipe{did_you_mean(name, shipped)}")


def _sentence(error: ValidationError) -> str:
    return "; ".join(_words(detail) for detail in error.errors()[:3])


def _words(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = detail["input"] if isinstance(detail["input"], int | float | str) else ""
    where = ".".join(str(part) for part in detail["loc"])
    return f"{f'{where} {shorten(str(value), 40)}'.strip()}: {message}" if where else message


def one_line(error: PlannerError) -> str:
    """The error's text, on one line of bounded length."""
    return shorten(str(error), 2000)
