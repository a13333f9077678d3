"""Finds a recipe and reads it into a plain mapping, whatever the bytes are. Knows no modifier.

Mirrors which texts LLM Compressor can read (llmcompressor/recipe/recipe.py `create_instance`,
recipe/utils.py `_load_json_or_yaml_string`, `_parse_recipe_from_md`).
"""

import json
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import yaml

from planner.errors import RecipeError
from planner.hints import MAX_PATH_SHOWN, did_you_mean, shorten

# Real recipes have a few kB. Aliases can make a small YAML expand without end, so expanded values are counted too.
MAX_BYTES = 2**20
MAX_NODES = 200_000

STDIN, ON_STDIN = "-", "stdin"
"""How a recipe on stdin is asked for, and what it is called."""

_PACKAGE = Path(__file__).parent.parent
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")  # in the wheel; in a checkout
_LOOKS_LIKE = "a recipe maps *_stage to *_modifiers to modifier names, like `planner recipes` shows"
_PIPE = "pipe the recipe in, like `-r - < recipe.yaml`"
_FRONT_MATTER = re.compile(r"^\s*(?:---|\+\+\+)(.*?)(?:---|\+\+\+)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeInfo:
    """A shipped recipe: its name, its file, and what its first comment says."""

    name: str
    path: Path
    summary: str


def list_recipes() -> tuple[RecipeInfo, ...]:
    """The shipped recipes by name; reads their first lines and parses nothing."""
    files: dict[str, Path] = {}
    for folder in reversed(_FOLDERS):
        files.update({path.stem: path for path in folder.glob("*.yaml")})
    return tuple(RecipeInfo(name=name, path=files[name], summary=_summary(files[name])) for name in sorted(files))


def recipe_mapping(text: str) -> tuple[str, dict[str, Any]]:
    """A shipped recipe's name, a file's path, `-`, or recipe text of several lines -> name and mapping."""
    if text == STDIN:
        return ON_STDIN, _parse(stdin_text(), "", ON_STDIN)
    shipped = {info.name: info.path for info in list_recipes()}
    if not text.strip():
        raise RecipeError(f"no recipe is named; shipped: {', '.join(shipped)}")
    if text in shipped:
        return text, _parse(_read(shipped[text], text), ".yaml", text)
    if "\n" in text:
        return "recipe text", _parse(text, "", "recipe text")
    path = Path(text)
    where = shorten(text, MAX_PATH_SHOWN)  # a path that is cut cannot be opened
    return where, _parse(_read(path, where, tuple(shipped)), path.suffix.lower(), where)


def stdin_text() -> str:
    """The recipe on stdin, however often it is asked for. RecipeError where there is none, or nobody pipes one."""
    if sys.stdin is None or sys.stdin.closed:
        raise RecipeError("is closed; " + _PIPE, ON_STDIN)
    if sys.stdin.isatty():
        raise RecipeError("is a terminal; " + _PIPE, ON_STDIN)
    text = _decoded(_bytes_of(sys.stdin), ON_STDIN)
    if not text.strip():
        raise RecipeError("is empty; " + _PIPE, ON_STDIN)
    return text


@lru_cache(maxsize=1)
def _bytes_of(stream: TextIO) -> bytes:
    """Can be read once: who asks again for the same stream gets what it had."""
    source = getattr(stream, "buffer", None)  # a notebook's stdin has none
    if source is None:
        raise RecipeError("is no pipe; " + _PIPE, ON_STDIN)
    try:
        return bytes(source.read(MAX_BYTES + 1))
    except OSError as error:
        raise RecipeError(f"cannot be read ({error.strerror})", ON_STDIN) from error


def parse_recipe(text: str, name: str) -> dict[str, Any]:
    """The mapping in a recipe file's text; `name` is the file's, for its suffix and for error messages."""
    return _parse(text, Path(name).suffix.lower() or ".yaml", name)


def _summary(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def _read(path: Path, where: str, shipped: tuple[str, ...] = ()) -> str:
    """The text of a regular file of bounded size: reading a pipe or a device might never end."""
    try:
        if not path.is_file():
            raise RecipeError(_missing(path, shipped), where)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot be read ({getattr(error, 'strerror', None) or error})", where) from error
    return _decoded(data, where)


def _decoded(data: bytes, where: str) -> str:
    if len(data) > MAX_BYTES:
        raise RecipeError(f"is larger than {MAX_BYTES} bytes; that is not a recipe", where)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError("is not text (UTF-8); a recipe is a YAML or JSON file", where) from error


def _missing(path: Path, shipped: tuple[str, ...]) -> str:
    if path.is_dir():
        return "is a folder; name the recipe file in it"
    if path.exists():
        return "is not a regular file"
    return f"no such file or shipped recipe{did_you_mean(path.stem, shipped) or ';'} shipped: {', '.join(shipped)}"


def _parse(text: str, suffix: str, where: str) -> dict[str, Any]:
    if suffix == ".md":
        text = _front_matter(text, where)
    if suffix == ".json":
        data = _json(text, where)
    elif suffix in (".yaml", ".yml"):
        data = _yaml(text, where)
    else:  # create_instance tries JSON first
        data = _json(text, where) if _is_json(text) else _yaml(text, where)
    if data is None:
        raise RecipeError(f"is empty; {_LOOKS_LIKE}", where)
    if not isinstance(data, dict):
        raise RecipeError(f"is not a recipe but a {_kind(data)}; {_LOOKS_LIKE}", where)
    return data


def _front_matter(text: str, where: str) -> str:
    matter = _FRONT_MATTER.search(text)
    if matter is None:
        raise RecipeError("has no recipe between two --- lines, where a recipe card keeps it", where)
    return matter[1]


def _kind(data: object) -> str:
    return {"list": "list", "str": "line of text", "int": "number", "float": "number"}.get(type(data).__name__, "value")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            raise RecipeError("a key appears twice in one mapping; all but the last would be lost", where)
        return mapping

    try:
        return json.loads(text, object_pairs_hook=unique) if text.strip() else None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"is not JSON: {shorten(str(error))}", where) from error


def _yaml(text: str, where: str) -> Any:
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, {}, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecipeError:
        raise
    except yaml.MarkedYAMLError as error:
        raise RecipeError(_yaml_problem(error), where) from error
    except Exception as error:  # PyYAML lets through what its scalars raise: ValueError, AttributeError, RecursionError
        raise RecipeError(f"is not YAML: {shorten(str(error))}", where) from error


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
    if "python/" in (error.problem or ""):
        return f"has a Python tag{line}, which LLM Compressor cannot read back either; write plain text there"
    return f"is not YAML{line}: {shorten(error.problem or str(error))}"


def _check(node: yaml.Node, sizes: dict[int, int | None], where: str) -> int:
    """Number of values under a node with its aliases expanded; refuses bombs, loops and lost keys.

    Runs on the composed graph, where an alias is a shared node: safe_load itself would expand
    merge keys (`<<`), and what reads the result would expand the rest.
    """
    size = sizes.get(id(node), -1)
    if size is None:
        raise RecipeError(f"has an alias that contains itself in line {node.start_mark.line + 1}", where)
    if size >= 0:
        return size
    sizes[id(node)] = None
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, where)
    size = 1 + sum(_check(child, sizes, where) for child in _children(node))
    if size > MAX_NODES:
        raise RecipeError(f"holds more than {MAX_NODES} values; that is not a recipe", where)
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.MappingNode, where: str) -> None:
    """Refuses equal keys: YAML silently keeps the last, so one of two GPTQModifiers in a group would be lost."""
    earlier_keys: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in earlier_keys:
                line = key.start_mark.line + 1
                raise RecipeError(f"{shorten(key.value)!r} appears twice in one mapping (line {line})", where)
            earlier_keys.add(key.value)
