"""Arrows point down: each room imports only rooms below it, and torch stays in its own."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "planner"

# From the ground up. A module may import from its own line and from those above it in this list.
ROOMS = (
    ("errors", "units", "hints", "parts", "records"),
    ("job", "specs"),
    ("schema", "models.traces", "models.graph", "models.source", "measure.record"),
    ("recipe", "recipe_files", "schemes", "matching", "rule_of_thumb", "simulation"),
    ("models",),
    ("binding", "record", "hardware"),
    ("footprint", "models.cache_layers", "models.prefill", "models.prefill_run", "models.serving", "models.training"),
    ("serving", "training"),
    ("results", "bits"),
    ("planning",),
    ("advice", "measure"),
    ("reports",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
# Where modules are built and run on tensors without data.
TORCH_ROOMS = {
    f"models.{name}"
    for name in (
        "build", "cache_layers", "dataflow", "experts", "inputs", "load", "prefill", "prefill_run", "recorder",
        "served_kernels", "serving", "shards", "tracing", "training", "training_kernels",
        "wrapping",
    )
}  # fmt: skip
# Where the real library runs on real tensors: reached from `planner measure` alone.
MEASURE_ROOMS = {f"measure.{name}" for name in ("checks", "model", "probes", "run", "steps")}
HEAVY = {"llmcompressor", "torch", "transformers", "accelerate", "compressed_tensors"}

FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def height(module: str) -> int:
    """Index of the room; the longest matching name decides, so that models.graph is not models."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for index, room in enumerate(ROOMS):
            if prefix in room:
                return index
    raise AssertionError(f"planner.{module} is in no room; give it one in ROOMS")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module and its line, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module
            for alias in node.names:
                path = ROOT.parent.joinpath(*node.module.split("."), alias.name)
                is_module = path.is_dir() or path.with_suffix(".py").is_file()
                yield (f"{node.module}.{alias.name}" if is_module else node.module), node.lineno


def top_level(tree: ast.Module) -> ast.Module:
    """The statements that run when the module is imported."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.Pass:
            return ast.copy_location(ast.Pass(), node)

        def visit_If(self, node: ast.If) -> ast.AST:
            return ast.copy_location(ast.Pass(), node) if ast.unparse(node.test) == "TYPE_CHECKING" else node

    return Strip().visit(tree)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_arrow_points_up(path: Path) -> None:
    own = name_of(path)
    for module, line in imports(parse(path)):
        if module.startswith("planner."):
            target = module.removeprefix("planner.")
            assert height(target) <= height(own), (
                f"{path.name}:{line}: planner.{own} imports {module}, which is above it"
            )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_torch_is_imported_in_its_own_rooms_only(path: Path) -> None:
    if name_of(path) in TORCH_ROOMS | MEASURE_ROOMS:
        return
    found = [(module, line) for module, line in imports(top_level(parse(path))) if module.split(".")[0] in HEAVY]
    assert not found, f"{path.name} is a pure room, and imports {found}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_models_are_built_for_a_plan_alone(path: Path) -> None:
    own = name_of(path)
    allowed = TORCH_ROOMS if own == "planning" or own.startswith("models.") else set()
    if own == "commands.graph":
        allowed = {"models.load"}
    if own in ("serving", "training", "results", "bits"):
        allowed = TORCH_ROOMS
    if own in MEASURE_ROOMS:
        allowed = {"models.build", "models.inputs"}
    reached = {module.removeprefix("planner.") for module, _ in imports(parse(path))} & TORCH_ROOMS
    assert reached <= allowed, f"planner.{own} reaches into {reached}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_library_is_run_for_a_measurement_alone(path: Path) -> None:
    own = name_of(path)
    reached = {module.removeprefix("planner.") for module, _ in imports(parse(path))} & MEASURE_ROOMS
    assert not reached or own == "commands.measure" or own in MEASURE_ROOMS, f"planner.{own} reaches into {reached}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_too_long_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_function_is_too_long_to_read(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, f"{path.name}:{node.lineno}: {node.name}"


def test_pure_rooms_bring_no_torch_when_they_are_imported() -> None:
    pure = [
        f"planner.{name_of(path)}" for path in FILES if name_of(path) not in TORCH_ROOMS | MEASURE_ROOMS | {"__main__"}
    ]
    code = f"""
import importlib, sys
for name in {pure!r}:
    importlib.import_module(name)
    found = [heavy for heavy in {sorted(HEAVY)!r} if heavy in sys.modules]
    assert not found, f"importing {{name}} imports {{found}}"
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_public_names_are_functions_and_records_and_cost_nothing() -> None:
    code = """
import sys
import planner
assert "torch" not in sys.modules
import planner.planning
from planner import compare, load_model, load_recipe, plan
assert all(map(callable, (compare, load_model, load_recipe, plan))), plan
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
