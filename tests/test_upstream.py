"""Facts of LLM Compressor against the installed library: its source is read and not run. Opt-in.

Set PLANNER_LLMCOMPRESSOR_PYTHON to the python of an environment with llmcompressor 0.14.0.1.
"""

import ast
import io
import os
import re
import subprocess
import tokenize
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from planner import upstream
from planner.compress.modifiers import MODIFIERS
from planner.job import Job
from planner.recipe.observers import OBSERVERS
from planner.upstream import PLACES, Citation
from tests.upstream import Library, MissingError

ROOT = Path(__file__).parents[1] / "planner"
PYTHON = os.environ.get("PLANNER_LLMCOMPRESSOR_PYTHON", "")
installed = [
    pytest.mark.llmcompressor,
    pytest.mark.skipif(not PYTHON, reason="PLANNER_LLMCOMPRESSOR_PYTHON names no python with llmcompressor 0.14.0.1"),
]

JOB_FIELDS = {
    "samples": "num_calibration_samples",
    "batch_size": "batch_size",
    "pipeline": "pipeline",
    "sequential_targets": "sequential_targets",
    "targets_per_subgraph": "sequential_targets_per_subgraph",
    "offload_device": "sequential_offload_device",
    "prefetch": "sequential_prefetch",
    "loss_mask": "use_loss_mask",
    "propagate_error": "propagate_error",
    "calibrate_all_experts": "moe_calibrate_all_experts",
}
"""Fields of a job by the argument of `oneshot` that they are."""


@pytest.fixture(scope="module")
def library() -> Library:
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return Library(Path(done.stdout.strip()))


# ---------------------------------------------------------------------- facts, with or without the library
def test_every_fact_has_a_place_and_every_place_a_fact() -> None:
    facts = {name for name in vars(upstream) if name.isupper() and not name.startswith("_")}
    assert facts - {"PLACES", "MODIFIERS"} == PLACES.keys()


def test_a_jobs_defaults_are_those_of_oneshot() -> None:
    assert set(JOB_FIELDS.values()) == upstream.ONESHOT_DEFAULTS.keys()
    defaults = {theirs: Job.model_fields[ours].default for ours, theirs in JOB_FIELDS.items()}
    assert defaults == upstream.ONESHOT_DEFAULTS


def as_lists(value: Any) -> Any:
    return [as_lists(one) for one in value] if isinstance(value, list | tuple) else value


class TestPlaces:
    pytestmark = installed

    @pytest.mark.parametrize("name", PLACES)
    def test_every_fact_is_what_the_library_says(self, name: str, library: Library) -> None:
        place, fact = PLACES[name], getattr(upstream, name)
        expected = fact if place.written is None else place.written
        parts = expected if isinstance(expected, tuple) else (expected,)
        match place.how:
            case "value":
                assert as_lists(library.value(place.file, place.symbol)) == as_lists(expected)
            case "default" if isinstance(fact, dict):
                assert {key: library.value(place.file, f"{place.symbol}.{key}") for key in fact} == fact
            case "default":
                assert as_lists(library.value(place.file, place.symbol)) == as_lists(expected)
            case "literals":
                assert set(parts) <= library.literals(place.file, place.symbol)
            case "names":
                assert all(library.node(place.file, part) for part in parts)
            case "exists":
                assert library.node(place.file, place.symbol)
                assert place.symbol in parts

    @pytest.mark.parametrize("name", upstream.MODIFIERS)
    def test_every_modifier_is_defined_where_it_is_said_to_be(self, name: str, library: Library) -> None:
        assert library.node(upstream.MODIFIERS[name], name)

    @pytest.mark.parametrize("name", OBSERVERS)
    def test_every_observer_is_registered_under_its_name(self, name: str, library: Library) -> None:
        source: Citation = OBSERVERS[name].source
        node = library.node(source.file, source.symbol)
        assert isinstance(node, ast.ClassDef | ast.FunctionDef)
        assert f"Observer.register('{name}')" in [ast.unparse(one) for one in node.decorator_list]

    @pytest.mark.parametrize("name", [n for n, o in OBSERVERS.items() if o.grid])
    def test_an_observers_search_has_the_librarys_defaults(self, name: str, library: Library) -> None:
        observer, source = OBSERVERS[name], OBSERVERS[name].source
        text = ast.unparse(library.node(source.file, source.symbol))
        written = dict(re.findall(r"get\('(maxshrink|grid)', ([^)]+)\)", text))
        found = {key: eval(expression, {}) for key, expression in written.items()}  # noqa: S307 - two numbers
        assert found == {"maxshrink": observer.maxshrink, "grid": observer.grid}

    @pytest.mark.parametrize("name", MODIFIERS)
    def test_a_modifiers_defaults_are_the_librarys(self, name: str, library: Library) -> None:
        files = [upstream.MODIFIERS[name], *BASES.get(name, ())]
        theirs = {key: value for file in reversed(files) for key, value in class_defaults(library, file).items()}
        ours = {f.name: f.default for f in fields(MODIFIERS[name]) if f.name in theirs and f.default is not MISSING}
        # no plain defaults of their own, or all in Field(...)
        assert ours or name in ("QuantizationModifier", "REAPPruningModifier", "SpinQuantModifier", "QuIPModifier")
        assert as_lists(list(ours.items())) == as_lists([(key, or_empty(theirs[key], ours[key])) for key in ours])


BASES = {
    "SparseGPTModifier": (PLACES["PRUNABLE_LAYER_TYPES"].file,),
    "WandaPruningModifier": (PLACES["PRUNABLE_LAYER_TYPES"].file,),
    "LogarithmicEqualizationModifier": (upstream.MODIFIERS["SmoothQuantModifier"],),
}
"""Files of the classes that a modifier's own class extends."""


def or_empty(theirs: Any, ours: Any) -> Any:
    """No list is an empty one here."""
    return () if theirs is None and ours == () else theirs


def class_defaults(library: Library, file: str) -> dict[str, Any]:
    """Fields with a literal as default, of all classes in the file."""
    found: dict[str, Any] = {}
    for node in ast.walk(library.tree(file)):
        for statement in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                try:
                    found[statement.target.id] = ast.literal_eval(statement.value or ast.Constant(None))
                except ValueError:
                    continue
    return found


# ---------------------------------------------------------------------- what the code cites
CITATION = re.compile(r"([\w{},/]+\.py),? +`?([A-Za-z_][\w.]*)`?(?:\(\))?((?:(?:,| and) `?[A-Za-z_][\w.]*`?)*)")
IDENTIFIER = re.compile(r"_|[a-z][A-Z]|[A-Z]{2}")
"""What tells a symbol from a word of English, where it does not stand in backquotes."""


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings of a file, those on lines that follow each other as one text, with their first line."""
    source = path.read_text(encoding="utf-8")
    comments = [
        (token.start[0], token.string.removeprefix("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    while comments:
        first, text = comments.pop(0)
        line = first
        while comments and comments[0][0] == line + 1:
            line, more = comments.pop(0)
            text += more
        yield first, text
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def citations() -> Iterator[tuple[str, str, str]]:
    """(where in planner, file, symbol) of every `file.py symbol` in its comments and docstrings."""
    for path in sorted(ROOT.rglob("*.py")):
        for line, text in texts(path):
            for file, symbol, more in CITATION.findall(" ".join(text.split())):
                for name in (symbol, *re.findall(r"[A-Za-z_][\w.]*", more)):
                    if IDENTIFIER.search(name) or f"`{name}`" in text:
                        yield f"{path.relative_to(ROOT)}:{line}", file, name.rstrip(".")


def spread(file: str) -> list[str]:
    """`gptq/{base,helpers}.py` as the files that it stands for."""
    braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", file)
    return [braces[1] + part + braces[3] for part in braces[2].split(",")] if braces else [file.strip("{},")]


class TestCitations:
    pytestmark = installed

    def test_there_are_many(self, library: Library) -> None:
        assert sum(any(map(library.files, spread(file))) for _, file, _ in citations()) > 100

    def test_every_symbol_that_is_cited_from_the_library_exists_there(self, library: Library) -> None:
        wrong = []
        for where, file, symbol in citations():
            candidates = [found for one in spread(file) for found in library.files(one)]
            if candidates and not any(library.defines(found, symbol) for found in candidates):
                wrong.append(f"{where}: {file} {symbol}")
        assert not wrong, "\n".join(wrong)


def test_a_file_or_a_symbol_that_is_not_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class A:\n    b: int = 3\n    def c(self, d=1):\n        e = (1, 2)\n")
    library = Library(tmp_path)
    assert library.value("a.py", "A.b") == 3
    assert library.value("a.py", "A.c.e") == (1, 2)
    assert library.literals("a.py", "A.c") >= {1, 2}
    for file, symbol in (("b.py", ""), ("a.py", "A.x"), ("a.py", "A.b.c")):
        with pytest.raises(MissingError):
            library.node(file, symbol)
