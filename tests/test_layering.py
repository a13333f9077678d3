"""Arrows point down: each folder imports only folders below it, and torch stays where models are built."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parent.parent / "planner"

# The floors, from the ground up. A room is a folder or a file directly under planner/; it imports from its own
# floor's neighbours on the left and from the floors below, never from above.
FLOORS = (
    ("version", "views", "collector"),
    (
        "errors",
        "hints",
        "units",
        "upstream",
        "upstream_lines",
        "records",
        "hardware",
        "spelling",
        "fields",
        "notes",
        "timeline",
    ),
    ("cuda",),
    ("job", "job_arguments", "recipe"),
    ("models",),
    ("compress",),
    ("formats",),
    ("serving", "training", "sizing", "modelfree"),
    ("measure", "rehearse", "accepted", "planning", "drift", "choose", "reports", "pictures"),
    ("ui",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
ORDER = [room for floor in FLOORS for room in floor]

# Folders where modules are built and run; inside of them, files without torch may be imported by anybody.
TORCH_FOLDERS = {"models", "serving", "training", "measure", "rehearse"}
HEAVY = {"llmcompressor", "torch", "transformers", "accelerate", "compressed_tensors"}

FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module: str) -> str:
    return module.removeprefix("planner.").partition(".")[0]


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


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def planner_imports(path: Path) -> tuple[tuple[str, int], ...]:
    """(module, line) of what the file imports from planner, names without the `planner.`."""
    found = [(m, line) for m, line in imports(parse(path)) if m.partition(".")[0] == "planner"]
    own = [line for module, line in found if module == "planner" and path.name != "__main__.py"]
    assert not own, f"{path.name}: lines {own}: not the package"
    return tuple((module.removeprefix("planner."), line) for module, line in found if module != "planner")


@cache
def at_import(path: Path) -> frozenset[str]:
    """Every module that is imported when the file is."""
    return frozenset(module for module, _ in imports(top_level(parse(path))))


def is_heavy(path: Path) -> bool:
    return bool({module.partition(".")[0] for module in at_import(path)} & HEAVY)


@cache
def heavy_files() -> frozenset[str]:
    """The files whose import imports torch, themselves or through other files of planner."""
    heavy = {name_of(path) for path in FILES if is_heavy(path)}
    while True:
        reached = {name_of(path) for path in FILES if heavy & first_imports(path)}
        if reached <= heavy:
            return frozenset(heavy)
        heavy |= reached


def first_imports(path: Path) -> set[str]:
    """What of planner the file imports when it is imported itself."""
    return {module.removeprefix("planner.") for module in at_import(path) if module.startswith("planner.")}


def graph(level: int) -> networkx.DiGraph:
    """Who imports whom, by the first `level` parts of the names."""

    def cut(module: str) -> str:
        return ".".join(module.split(".")[:level])

    pairs = [(cut(name_of(path)), cut(module)) for path in FILES for module, _ in planner_imports(path)]
    return networkx.DiGraph([pair for pair in pairs if pair[0] != pair[1]])


def test_no_arrow_points_up() -> None:
    rooms = {room_of(name_of(path)) for path in FILES}
    assert rooms <= set(ORDER), f"on no floor; give it one in FLOORS: {rooms - set(ORDER)}"
    arrows = [(path, line, room_of(module)) for path in FILES for module, line in planner_imports(path)]
    upward = [
        f"{name_of(path)}:{line} imports {target}, which is above it"
        for path, line, target in arrows
        if ORDER.index(target) > ORDER.index(room_of(name_of(path)))
    ]
    assert not upward


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_no_rooms_and_no_files_import_each_other_in_a_circle(level: int) -> None:
    circles = [c for c in networkx.strongly_connected_components(graph(level)) if len(c) > 1]
    assert not circles


def test_every_floor_is_lived_in() -> None:
    assert set(ORDER) == {room_of(name_of(path)) for path in FILES}


def test_torch_is_imported_where_models_are_built_and_nowhere_else() -> None:
    assert {room_of(name) for name in heavy_files()} == TORCH_FOLDERS


def heavy_arrows() -> Iterator[tuple[str, str]]:
    """(file, file of planner that imports torch) for each import, wherever the statement stands."""
    for path in FILES:
        yield from ((name_of(path), module) for module, _ in planner_imports(path) if module in heavy_files())


def test_the_simulation_and_the_formats_never_reach_torch() -> None:
    pure = {"cuda", "recipe", "compress", "formats", "sizing", "reports"}
    assert not [arrow for arrow in heavy_arrows() if room_of(arrow[0]) in pure]


def test_the_library_is_run_for_a_measurement_alone() -> None:
    into = {own for own, module in heavy_arrows() if room_of(module) == "measure" != room_of(own)}
    assert into <= {"commands.measure"}


def test_no_file_is_too_long_to_read() -> None:
    assert not [name_of(path) for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 400]


def test_no_function_is_too_long_to_read() -> None:
    functions = [(path, node) for path in FILES for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef)]
    long = [(path, node) for path, node in functions if (node.end_lineno or 0) - node.lineno >= 50]
    assert not [f"{name_of(path)}:{node.lineno}: {node.name}" for path, node in long]


def test_pure_rooms_bring_no_torch_when_they_are_imported() -> None:
    pure = [f"planner.{name_of(path)}" for path in FILES if name_of(path) not in heavy_files() | {"__main__"}]
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
