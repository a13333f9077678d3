"""The installed library's source, read and never run: where a symbol is defined, and what is written there."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
PACKAGES = ("llmcompressor", "compressed_tensors")


class MissingError(LookupError):
    """The file or the symbol is not there."""


@dataclass(slots=True)
class Library:
    """Packages in one site-packages folder."""

    root: Path
    trees: dict[str, ast.Module] = field(default_factory=dict)

    def tree(self, file: str) -> ast.Module:
        if file not in self.trees:
            path = self.root / file
            if not path.is_file():
                raise MissingError(f"no file {file}")
            self.trees[file] = ast.parse(path.read_text(encoding="utf-8"), str(path))
        return self.trees[file]

    def files(self, name: str) -> list[str]:
        """Files of the two packages whose path ends in this name (`gptq/base.py`)."""
        paths = (path for package in PACKAGES for path in (self.root / package).rglob(Path(name).name))
        found = (path.relative_to(self.root).as_posix() for path in paths)
        return [file for file in found if f"/{file}".endswith(f"/{name}")]

    def node(self, file: str, symbol: str) -> ast.AST:
        """The definition or assignment of a dotted symbol; the whole file for an empty one."""
        node: ast.AST = self.tree(file)
        for part in filter(None, symbol.split(".")):
            inner = next((n for n in _inside(node) if part in _names(n) and _says_something(n)), None)
            if inner is None and isinstance(node, ast.ClassDef):  # the first base in the same file
                base = next((self.node(file, b.id) for b in node.bases if isinstance(b, ast.Name)), node)
                inner = next((n for n in _inside(base) if part in _names(n)), None)
            if inner is None:
                raise MissingError(f"{file} has no {symbol}")
            node = inner
        return node

    def value(self, file: str, symbol: str) -> Any:
        """What the symbol is assigned, or what a field or an argument is when nobody gives it."""
        return _value(self.node(file, symbol))

    def literals(self, file: str, symbol: str) -> set[Any]:
        """Everything that is written as it is inside the symbol."""
        nodes = ast.walk(self.node(file, symbol))
        return {node.value for node in nodes if isinstance(node, ast.Constant)}

    def defines(self, file: str, symbol: str) -> bool:
        """A name that is defined or assigned anywhere in the file, nested ones by their last part."""
        wanted = symbol.rpartition(".")[2]
        return any(wanted in _names(node) for node in ast.walk(self.tree(file)))


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """What is defined or assigned in a body, branches and loops included."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, Definition):
            yield from _inside(child)


def _says_something(node: ast.AST) -> bool:
    """Not a mere annotation."""
    return not isinstance(node, ast.AnnAssign) or node.value is not None


def _names(node: ast.AST) -> set[str]:
    """The names that this one statement defines."""
    if isinstance(node, Definition):
        return {node.name}
    if isinstance(node, ast.arg):
        return {node.arg}
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    leaves = [leaf for target in targets for leaf in ast.walk(target)]
    names = {leaf.id for leaf in leaves if isinstance(leaf, ast.Name)}
    return names | {leaf.attr for leaf in leaves if isinstance(leaf, ast.Attribute)}


def _value(node: ast.AST) -> Any:
    """A literal, or the default inside `field(...)` or `Field(...)`."""
    written = getattr(node, "value", node)
    if isinstance(written, ast.Call):
        given = {keyword.arg: keyword.value for keyword in written.keywords}
        written = given.get("default") or given.get("default_factory") or (written.args or [written])[0]
    if isinstance(written, ast.Lambda):
        written = written.body
    return ast.literal_eval(written)
