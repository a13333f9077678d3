"""Measurements on disk: this package's own, and the meter's."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planner.errors import MeasureError, RecipeError
from planner.fields import JOB_FIELDS
from planner.job import Job
from planner.measure.record import (
    Card,
    CpuFigures,
    GpuFigures,
    MeasuredModel,
    MeasuredRecipe,
    MeasuredStep,
    Measurement,
)
from planner.recipe.files import STDIN, list_recipes, stdin_text
from planner.units import GIB

MAX_BYTES = 64 * 2**20


def render(measurement: Measurement) -> str:
    """The measurement as JSON text."""
    return measurement.model_dump_json(indent=1) + "\n"


def read_measurement(path: str) -> Measurement:
    """The measurement in a file that `planner measure` or the meter wrote; MeasureError for anything else."""
    data = _json(path)
    if "gpu" in data and "steps" in data and "schema" in data:
        return _from_meter(data, Path(path))
    try:
        return Measurement.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise MeasureError(f"{path}: not a measurement: {place}: {first['msg']}") from None


def _json(path: str) -> dict[str, Any]:
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise MeasureError(f"{path}: larger than {MAX_BYTES} bytes, so not a measurement")
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MeasureError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise MeasureError(f"{path}: holds no JSON object; `planner measure` writes what is needed here")
    return data


def _from_meter(data: dict[str, Any], path: Path) -> Measurement:
    """The meter's JSON (schema 1; tests/meter/README.md describes the fields)."""
    try:
        words = str(data.get("command", "")).split()
        config_path = next((word for word in words if word.endswith("config.json")), "")
        recipe = _meter_recipe(str(data["job"]["recipe"]), path)
        return Measurement(
            source="meter",
            complete=True,
            versions=data["versions"],
            card=Card(name="counting device", total_bytes=int(data["job"]["gpu_memory_gib"] * GIB)),
            model=MeasuredModel(
                name=Path(config_path).parent.name or data["model"]["model_type"],
                architecture=data["model"]["architecture"],
                parameters=data["model"]["params"],
                bytes=data["model"]["bytes"],
            ),
            recipe=recipe,
            job=_meter_job(data["job"]),
            collected=True,
            steps=tuple(_meter_step(index, step) for index, step in enumerate(data["steps"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MeasureError(
            f"{path}: looks like the meter's output, but {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from None


def _meter_recipe(name: str, path: Path) -> MeasuredRecipe:
    """The meter keeps only the file's name: look for it beside the runs, then among the shipped recipes."""
    shipped = {info.path.name: info for info in list_recipes()}
    for candidate in (path.parent / name, path.parent.parent / "recipes" / name):
        if candidate.is_file():
            return MeasuredRecipe(name=name, text=candidate.read_text(encoding="utf-8"))
    return MeasuredRecipe(name=shipped[name].name if name in shipped else name)


def _meter_job(job: dict[str, Any]) -> Job:
    """A meter that does not speak of progress bars had none; an older one loaded to the CPU, in one process."""
    words = {"progress_bars": False, "device_map": "cpu", "cpu_gib": None, "ranks": 0, **job}
    return Job.model_validate({field.name: field.from_meter(words) for field in JOB_FIELDS})


def _meter_step(index: int, step: dict[str, Any]) -> MeasuredStep:
    gpu, cpu = step["gpu"], step["cpu"]
    return MeasuredStep(
        index=index,
        modifier=step["modifier"],
        subgraph=step["subgraph"],
        of=step["of"],
        phase=step["phase"],
        unit=step["name"],
        gpu=GpuFigures(
            requested_bytes=gpu["peak_bytes"], allocated_bytes=gpu["peak_allocated_bytes"], by_kind=gpu["by_kind"]
        ),
        cpu=CpuFigures(tensor_bytes=cpu["peak_bytes"], by_kind=cpu["by_kind"]),
    )


def recipe_text(recipe: str) -> str:
    """The text of a shipped recipe, of a recipe file or of stdin; RecipeError where it cannot be read."""
    if recipe == STDIN:
        return stdin_text()
    try:
        return recipe_file(recipe).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot be read ({getattr(error, 'strerror', None) or error})", recipe) from None


def recipe_file(recipe: str) -> Path:
    """The file of a shipped recipe, or the path as given."""
    return next((info.path for info in list_recipes() if info.name == recipe), Path(recipe))


def recipe_argument(recipe: str) -> str:
    """What `oneshot` takes for it: the file's path, or the text where it was on stdin."""
    return recipe_text(recipe) + "\n" if recipe == STDIN else str(recipe_file(recipe).resolve())
