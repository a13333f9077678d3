"""One name, one meaning."""

import ast
from collections import defaultdict
from pathlib import Path

import planner

ROOT = Path(planner.__file__).parent


def classes() -> dict[str, list[Path]]:
    """Every class of the package and the files that define one of that name."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path.relative_to(ROOT))
    return found


def test_no_class_has_another_ones_name() -> None:
    assert not {name: paths for name, paths in classes().items() if len(paths) > 1}
