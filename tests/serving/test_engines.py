"""An engine is one record: nothing outside of its file knows its name."""

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

import planner
from planner.fields import Engine
from planner.formats.registry import Family
from planner.serving.cache import KV_DTYPES
from planner.serving.engines import ENGINES, VLLM, chunk_of, engine_of, usual_engine
from planner.serving.engines.facts import PARTS, EngineFacts, whole_blocks
from planner.serving.overhead import overhead_parts
from planner.serving.schema import ServeOptions
from planner.units import GIB
from tests.serving.served import sixteen

ROOT = Path(planner.__file__).parent
FOLDER = ROOT / "serving" / "engines"
OUTSIDE = [path for path in sorted(ROOT.rglob("*.py")) if FOLDER not in path.parents]
ALL = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)


def compared_texts(path: Path) -> Iterator[tuple[str, int]]:
    """Every text that the file compares with something or looks up in a table, and its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare | ast.Subscript | ast.MatchValue | ast.Dict):
            sides = (*ast.iter_child_nodes(node),) if not isinstance(node, ast.Dict) else node.keys
            for side in sides:
                for inner in ast.walk(side) if isinstance(node, ast.Compare) and side is not None else (side,):
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                        yield inner.value, inner.lineno


def test_no_file_outside_of_their_folder_asks_which_engine_it_is() -> None:
    found = [f"{path.relative_to(ROOT)}:{line}" for path in OUTSIDE for text, line in compared_texts(path)
             if text in ENGINES]  # fmt: skip
    assert not found


def test_the_search_for_comparisons_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text('a = engine == "vllm"\nb = T["exllama"]\nc = {"llama.cpp": 1}\nd = e in ("vllm", "x")\n')
    assert sorted(compared_texts(path)) == [("exllama", 2), ("llama.cpp", 3), ("vllm", 1), ("vllm", 4), ("x", 4)]


def test_the_type_of_an_engines_name_and_the_table_say_the_same() -> None:
    assert get_args(Engine) == tuple(ENGINES)
    assert all(engine.name == name for name, engine in ENGINES.items())


def test_every_family_of_formats_is_made_for_one_engine() -> None:
    assert sorted(family for engine in ENGINES.values() for family in engine.made_for) == sorted(get_args(Family))


@ALL
def test_an_engine_takes_by_itself_what_it_offers(engine: EngineFacts) -> None:
    assert engine.split in engine.splits
    assert set(engine.cache_types) <= set(KV_DTYPES)
    assert engine.cache_type is None or engine.cache_type in engine.cache_types
    assert {part.name for part in engine.pools} <= set(PARTS)


@ALL
def test_every_layer_and_the_output_lie_on_a_gpu_in_their_order(engine: EngineFacts) -> None:
    for layers, gpus in ((4, 1), (5, 2), (7, 3), (32, 5)):
        device = engine.layer_devices(layers, gpus, None)
        places = [device(number) for number in range(layers + 1)]
        assert places == sorted(places, key=lambda gpu: -1 if gpu is None else gpu)
        assert set(places) == set(range(gpus))


@ALL
@pytest.mark.parametrize("window", [100, 4096])
def test_room_for_a_window_is_whole_blocks_and_holds_it(engine: EngineFacts, window: int) -> None:
    for context in (50, 1000, 100_000):
        room = engine.window_room("sliding", window, context, engine.block, 512)
        assert room % engine.block == 0
        assert min(window, context) <= room <= whole_blocks(context, engine.block) + engine.block


def test_a_new_engine_is_one_record_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of an engine is asked of its record, so a copy with other figures is sized by these."""
    record = replace(VLLM, block=64, chunk=lambda _gpu: 4096, most_sequences=7, context_bytes=GIB, pools=())
    monkeypatch.setitem(ENGINES, "vllm", record)
    engine = engine_of(sixteen(), ServeOptions(engine="vllm"))
    assert (engine.block, chunk_of(engine, ServeOptions(), None)) == (64, 4096)
    assert [part.bytes for part in overhead_parts(engine, ServeOptions(), weights=0, memory=None)] == [GIB]
    with pytest.raises(planner.PlannerError, match="at most 7 sequences"):
        engine_of(sixteen(), ServeOptions(batch=8))


def test_an_engine_reads_what_it_is_made_for_and_what_it_reads_besides() -> None:
    assert usual_engine(sixteen("gguf")).name == "llama.cpp"
    assert engine_of(sixteen("gguf"), ServeOptions(engine="vllm")) is VLLM
    with pytest.raises(planner.PlannerError, match=r"--engine llama\.cpp: it does not read 16 bits; vllm does"):
        engine_of(sixteen(), ServeOptions(engine="llama.cpp"))
