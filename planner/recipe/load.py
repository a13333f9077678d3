"""LLM Compressor recipes -> plain records. `planner.recipe.files` opens a recipe, a reader reads each modifier in it.

Mirrors llmcompressor/recipe/recipe.py `from_dict`: every mapping whose key ends in `_stage` is a
stage, every mapping in it whose key ends in `_modifiers` is a group, and the modifiers of all
groups of all stages run in the order of the file. LLM Compressor passes over everything else in
silence; here it becomes a note. 0.14 evaluates no `args` or `eval(...)` placeholders, and neither does planner.

This module knows no modifier by name: its caller brings the readers (`planner.compress.recipes`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planner.errors import RecipeError, UnsupportedError
from planner.hints import did_you_mean, shorten
from planner.notes import Note
from planner.recipe.changes import Changes, changed, check_changes
from planner.recipe.expressions import hanging_notes
from planner.recipe.files import recipe_mapping
from planner.recipe.specs import ModifierSpec, Recipe
from planner.upstream import LLMCOMPRESSOR_VERSION
from planner.upstream import MODIFIERS as KNOWN_MODIFIERS

Reader = Callable[[Any, str], ModifierSpec]
"""Fields of an entry and its path -> its record (`ModifierSpec.read`)."""
Readers = Mapping[str, Reader]
"""By the class names of LLM Compressor under which a recipe asks for them."""

REMOVED_MODIFIERS: Mapping[str, str] = {
    "IMatrixGatherer": "the observer imatrix_mse gathers what it needs itself: leave it out",
}
"""Modifiers of earlier releases, and what to do instead."""

_SHAPE = "a recipe looks like {quant_stage: {quant_modifiers: {GPTQModifier: {targets: [Linear], scheme: W4A16}}}}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A modifier as the file has it."""

    where: str
    type: str
    fields: Any


_Item = _Entry | str
"""One item of the file: a modifier, or the text of a note on a key that nobody reads."""


def read_recipe(text: str | Path, readers: Readers, changes: Changes | None = None) -> Recipe:
    """The recipe that a shipped name (`gptq_w4a16`), a path, or recipe text of several lines stands for.

    With these fields of its modifiers instead of its own.

    Raises RecipeError where LLM Compressor would refuse it, UnsupportedError where planner cannot follow.
    """
    name, data = recipe_mapping(str(text))
    return read_mapping(data, name, readers, changes)


def read_mapping(data: dict[str, Any], name: str, readers: Readers, changes: Changes | None = None) -> Recipe:
    """The records for a recipe that is already a mapping; `name` is its name in errors and plans."""
    changes = changes or {}
    if not isinstance(data.get("args", {}), dict):
        raise RecipeError("must be a mapping", f"{name}: args")
    notes: list[Note] = []
    specs: list[ModifierSpec] = []
    types: list[str] = []
    for item in _items_of(data, name):
        if isinstance(item, str):
            notes.append(Note(kind="recipe", text=f"{name}: {item}"))
        else:
            item = replace(item, fields=changed(item.fields, item.type, changes))
            types.append(item.type)
            specs.append(_spec(item, specs, readers))
            notes += [*specs[-1].notes, *hanging_notes(item.fields, item.where)]
    if not specs:
        ignored = [note.text.removeprefix(f"{name}: ") for note in notes[:2]]
        raise RecipeError(f"holds no modifier; {'; '.join([*ignored, _SHAPE])}", name)
    check_changes(changes, types, name)
    texts = (f"{name}: {field} is {value} here, whatever the file says" for field, value in changes.items())
    notes += [Note(kind="recipe", text=text) for text in texts]
    return Recipe(name=name, modifiers=tuple(specs), notes=tuple(notes))


def _items_of(data: dict[str, Any], name: str) -> Iterator[_Item]:
    """Every modifier of every stage in the order of the file, and a text for each key that upstream passes over."""
    for stage in _mappings(data, "_stage", "", name):
        if isinstance(stage, str):
            yield stage
            continue
        for group in _mappings(stage.fields, "_modifiers", f"{stage.type}.", name):
            if isinstance(group, str):
                yield group
                continue
            for kind, fields in _pairs(group.fields, group.where):
                yield _Entry(f"{group.where}.{shorten(kind)}", kind, fields)


def _mappings(data: dict[str, Any], suffix: str, path: str, name: str) -> Iterator[_Item]:
    """Mappings whose key ends in `suffix`, as entries of that type; for every other key a text that says why not."""
    for key, value in _pairs(data, f"{name}: {path}".rstrip(": .")):
        if key.endswith(suffix) and isinstance(value, dict):
            yield _Entry(f"{name}: {path}{shorten(key)}", shorten(key), value)
        elif key.endswith(suffix):
            yield f"{path}{shorten(key)} is not heeded: it is not a mapping"
        elif (path, key) != ("", "args"):
            yield f"{path}{shorten(key)} is not heeded: LLM Compressor reads keys that end in {suffix}"


def _pairs(data: dict[Any, Any], where: str) -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if not isinstance(key, str):
            raise RecipeError(f"the key {shorten(str(key))} must be a text", where)
        yield key, value


def _spec(entry: _Entry, earlier: Sequence[ModifierSpec], readers: Readers) -> ModifierSpec:
    reader = readers.get(entry.type)
    if reader is None:
        raise _no_reader_error(entry, readers)
    if entry.fields is None:
        raise RecipeError("has no fields; LLM Compressor fails on an empty entry, {} stands for none", entry.where)
    spec = reader(entry.fields, entry.where)
    spec.follow(earlier)
    return spec


def _no_reader_error(entry: _Entry, readers: Readers) -> RecipeError | UnsupportedError:
    modelled, where = ", ".join(readers), entry.where
    if entry.type in KNOWN_MODIFIERS:
        return UnsupportedError(f"{where}: planner does not model {entry.type} yet; it models {modelled}")
    if instead := REMOVED_MODIFIERS.get(entry.type):
        return RecipeError(f"LLM Compressor {LLMCOMPRESSOR_VERSION} has it no more; {instead}", where)
    hint = did_you_mean(entry.type, dict.fromkeys((*readers, *KNOWN_MODIFIERS))) or ";"
    there = f"LLM Compressor {LLMCOMPRESSOR_VERSION} has no such modifier{hint} it has {', '.join(KNOWN_MODIFIERS)}"
    return RecipeError(there, where)
