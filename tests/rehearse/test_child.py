"""The parts of the child that need neither a CUDA build nor the library."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from planner.rehearse.child import data, marks, texts
from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.models import Shelf, _is_known, preset_config, write_hole
from planner.rehearse.child.settings import Settings
from planner.rehearse.child.start import _exit, _failure
from planner.rehearse.guess import guessed


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "rehearsed_package"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from rehearsed_package.inner import answer\n")
    (tmp_path / name / "inner.py").write_text("def answer():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for each in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[each]


def hooked(hooks: Hooks, monkeypatch: pytest.MonkeyPatch) -> Hooks:
    monkeypatch.setattr(sys, "meta_path", [hooks, *sys.meta_path])
    return hooks


def two(module: Any) -> None:
    module.answer = lambda: 2


def test_who_imports_a_name_gets_the_replacement(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hooked(Hooks(), monkeypatch).after(f"{package}.inner", two)
    module = __import__(package)
    assert module.answer() == 2


def test_a_module_that_is_there_is_changed_at_once() -> None:
    module = types.ModuleType("rehearsed_already")
    sys.modules[module.__name__] = module
    try:
        Hooks().after(module.__name__, two)
        assert module.answer() == 2
    finally:
        del sys.modules[module.__name__]


def test_other_modules_are_none_of_the_hooks_business(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hooked(Hooks(), monkeypatch).after("rehearsed_nowhere", two)
    assert __import__(package).answer() == 1


def test_a_mark_does_nothing_outside_of_a_rehearsal() -> None:
    import planner

    planner.mark("anything")


def test_a_mark_begins_a_step_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Steps:
        marked = "script"
        begun: list[str] = []

        def begin(self, phase: str) -> None:
            self.begun.append(phase)

    steps = Steps()
    monkeypatch.setattr(marks, "_listener", None)
    marks.install(steps)
    marks.mark("evaluation")
    assert (steps.marked, steps.begun) == ("evaluation", ["script"])


def test_one_word_is_one_token_and_special_ids_are_the_models(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    config = {"model_type": "qwen2_vl", "vocab_size": 152064, "image_token_id": 151655, "vision_start_token_id": 151652}
    texts.write_tokenizer(tmp_path, config)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode("w1 w2 w999 <|vision_start|><|image_pad|> unheard-of").ids
    assert ids == [texts.FIRST_ID + 1, texts.FIRST_ID + 2, texts.FIRST_ID + 999, 151652, 151655, 1]
    about = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "<|image_pad|>" in about["chat_template"]


def test_no_word_has_the_id_of_an_image(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    texts.write_tokenizer(tmp_path, {"model_type": "mistral3", "vocab_size": 131072, "image_token_index": 10})
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("w0 [IMG] w1").ids == [1, 10, 11]


def test_to_name_a_cache_nothing_is_pickled_for_made_up_data() -> None:
    module = types.SimpleNamespace(update_fingerprint=lambda *given: given)
    data._hash_nothing(module)
    first, second = (module.update_fingerprint(f"{data.MADE_UP}1", "map", {"function": object()}) for _ in range(2))
    assert first.startswith(data.MADE_UP)
    assert first != second
    assert module.update_fingerprint("abc", "map", {"function": 1}) == ("abc", "map", {"function": 1})


def test_made_up_samples_have_the_columns_of_the_data_set_and_the_words_asked_for() -> None:
    made = texts.rows("HuggingFaceH4/ultrachat_200k", 3, 40)
    assert set(made) == {"prompt", "messages"}
    assert [len(row.split()) for row in made["prompt"]] == [40] * 3
    assert len(set(made["prompt"])) == 3
    assert made["messages"][0][0]["role"] == "user"
    assert "text" in texts.rows("somebody/unknown", 1, 2)


def test_a_preset_answers_to_its_hub_id_without_planner_s_libraries() -> None:
    config = preset_config("meta-llama/Meta-Llama-3-8B-Instruct")
    assert config is not None
    assert config["hidden_size"] == 4096
    assert preset_config("nobody/nothing") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NUM_CALIBRATION_SAMPLES = 20\nMAX_SEQUENCE_LENGTH = 4096\n", (20, 4096)),
        ("oneshot(num_calibration_samples=7, max_seq_length=99)\n", (7, 99)),
        ("ds = tokenizer(text, max_length=256)\n", (None, 256)),
        ("MAX_SEQUENCE_LENGTH: int = 64\nNUM_CALIBRATION_SAMPLES: int\n", (None, 64)),
        ("parser.add_argument('-n', '--num-samples', type=int, default=5)\n", (5, None)),
        ("parser.add_argument('--max-seq-length', default=96, type=int)\nx(default=7)\n", (None, 96)),
        ("def main(model, samples: int = 3, *, max_length=128, seed=9): ...\n", (3, 128)),
        ("x = 3\n", (None, None)),
        ("this is no Python", (None, None)),
    ],
)
def test_samples_and_tokens_are_read_off_the_scripts_constants(
    text: str, expected: tuple[int | None, int | None], tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(text)
    assert guessed(tmp_path / "script.py") == expected


@pytest.mark.parametrize(
    ("split", "samples", "tokens", "unfound"),
    [
        ("train[:3]", None, 64, []),
        ("train", 3, 64, []),
        ("train[:3]", None, None, ["No length was found in the script: 2,048 tokens is planner's default."]),
        ("train", None, 64, ["No number of samples was found in the script: 512 is planner's default."]),
    ],
)
def test_a_size_that_is_not_the_scripts_is_said_to_be_planners(
    split: str, samples: int | None, tokens: int | None, unfound: list[str], tmp_path: Path
) -> None:
    class Dataset:
        made: dict[str, list[Any]]

        @classmethod
        def from_dict(cls, columns: dict[str, list[Any]]) -> "Dataset":
            cls.made = columns
            return cls()

    module, events = types.SimpleNamespace(Dataset=Dataset), Told()
    settings = Settings(folder=tmp_path, books=Path(), script="job.py", arguments=[], samples=samples, tokens=tokens)
    data._load(module, None, settings, events)("some/pile", split=split)
    count, words = (samples or 3) if samples or "[" in split else 512, (tokens or 2048) + data.MARGIN
    assert len(Dataset.made["text"]) == count
    assert len(Dataset.made["text"][0].split()) == words
    made = f"some/pile: made-up data, {count} samples of {words:,} words (--real-data takes what is there)."
    assert events.notes == [" ".join((made, *unfound))]


def test_a_card_runs_the_nearest_code_of_its_own_generation() -> None:
    from planner.rehearse.child.start import _binary

    flags = "sm_75 sm_80 sm_86 sm_90 sm_100 compute_120"
    assert [_binary(flags, sm) for sm in ("89", "86", "80", "90", "103")] == [86, 86, 80, 90, 100]
    assert _binary(None, "70") == 70


class Told:
    """Events that are kept."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, _kind: str, text: str) -> None:
        self.notes.append(text)


def shelf_in(tmp_path: Path, events: Any = None) -> Shelf:
    nothing: Any = None
    settings = Settings(folder=tmp_path / "rehearsal", books=Path(), script="job.py", arguments=[])
    return Shelf(settings, nothing, events)


def prepared(files: dict[str, str], tmp_path: Path, events: Any) -> tuple[Path, Path]:
    """The user's folder with these files, and the rehearsal's of it."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, text in files.items():
        (mine / name).write_text(text)
    return mine, shelf_in(tmp_path, events)._prepare(str(mine))


SEEING = json.dumps({"model_type": "mistral3", "vocab_size": 131072, "vision_config": {"image_size": 1540}})


def test_what_is_made_up_does_not_overwrite_the_users_files(tmp_path: Path) -> None:
    files = {"config.json": SEEING, "tokenizer_config.json": "{}", "chat_template.jinja": "mine"}
    mine, folder = prepared(files, tmp_path, Told())
    (folder / "config.json").write_text("the script's")
    assert {path.name: path.read_text() for path in mine.iterdir()} == files
    assert (folder / "tokenizer.json").exists()
    assert (folder / "chat_template.jinja").read_text() != "mine"
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"]["height"] == 1540


@pytest.mark.parametrize("name", ["tekken.json", "tokenizer.model.v3", "spiece.model", "tiktoken.model", "vocab.txt"])
def test_a_tokenizer_or_processor_of_the_user_is_taken_as_it_is(name: str, tmp_path: Path) -> None:
    events = Told()
    files = {"config.json": SEEING, name: "", "processor_config.json": "{}", "pytorch_model.bin.index.json": "{}"}
    _, folder = prepared(files, tmp_path, events)
    assert not events.notes
    assert sorted(path.name for path in folder.iterdir()) == sorted(["config.json", name, "processor_config.json"])


OWN_CODE = """
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

class OwnConfig(PreTrainedConfig):
    model_type = "rehearsed_own"

class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.inner = nn.Linear(config.width, 3)
        self.post_init()
"""
OWN = {
    "model_type": "rehearsed_own",
    "architectures": ["OwnModel"],
    "auto_map": {"AutoConfig": "code.OwnConfig", "AutoModel": "code.OwnModel"},
    "width": 5,
    "dtype": "bfloat16",
}


@pytest.mark.parametrize("trusted", [False, True])
def test_a_models_own_code_runs_where_it_is_trusted_and_only_there(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "config.json").write_text(json.dumps(OWN))
    (tmp_path / "code.py").write_text(OWN_CODE)
    write_hole(tmp_path, "my/own", trusted)
    checkpoint = tmp_path / "model.safetensors"
    assert checkpoint.exists() is trusted
    if trusted:
        from safetensors import safe_open

        with safe_open(checkpoint, "pt") as file:
            assert {name: file.get_slice(name).get_shape() for name in file.keys()} == {  # noqa: SIM118  (no mapping)
                "inner.weight": [3, 5],
                "inner.bias": [3],
            }


def test_code_beside_a_config_that_transformers_knows_is_not_needed() -> None:
    assert _is_known({"model_type": "llama", "auto_map": {"AutoConfig": "code.OwnConfig"}})
    assert not _is_known(OWN)


def test_errors_name_the_model_and_not_its_folder_here(tmp_path: Path) -> None:
    shelf = shelf_in(tmp_path)
    shelf._folders = {f"me/model{number}": tmp_path / "models" / str(number) for number in range(11)}
    said = shelf.in_words_of_the_script(f"{tmp_path}/models/10 and {tmp_path}/models/1/config.json")
    assert said == "me/model10 and me/model1/config.json"


def ending(text: str, tmp_path: Path) -> tuple[int, dict[str, Any]]:
    """The exit code and the last event of a script of these lines."""
    script = tmp_path / "job.py"
    lines = ("import sys, torch", "from planner.rehearse.child.settings import Refused", "OOM = torch.OutOfMemoryError")
    script.write_text("\n".join((*lines, text)))
    settings = Settings(folder=tmp_path, books=Path(), script=str(script), arguments=[])
    try:
        exec(compile(script.read_text(), str(script), "exec"), {})  # noqa: S102  (the lines above)
    except SystemExit as stop:
        return _exit(stop, settings)
    except Exception as error:
        return 1, _failure(error, settings)
    raise AssertionError(text)


RAN_OUT = "try:\n    raise OOM('CUDA out of memory. Tried to allocate 2 GiB')\nexcept OOM:\n    "


@pytest.mark.parametrize(
    ("text", "how", "says"),
    [
        (RAN_OUT + "raise", "out of memory", "2 GiB"),
        (RAN_OUT + "sys.exit(3)", "out of memory", "2 GiB; then the script ended itself with exit code 3"),
        (RAN_OUT + "sys.exit('no room')", "out of memory", "then the script ended itself with exit code 1 no room"),
        (RAN_OUT + "sys.exit(0)", "exit", ""),
        (RAN_OUT + "raise ValueError('no luck')", "out of memory", "2 GiB; then ValueError: no luck"),
        (RAN_OUT + "raise ValueError('no luck') from None", "failed", "ValueError: no luck"),
        (RAN_OUT + "pass\nraise ValueError('no luck')", "failed", "ValueError: no luck"),
        (RAN_OUT + "pass\nsys.exit(3)", "exit", ""),
        ("try:\n    raise Refused('no')\nexcept Exception:\n    sys.exit(1)", "refused", "no"),
        ("try:\n    raise Refused('no')\nexcept Exception:\n    raise OSError from None", "refused", "no"),
    ],
)
def test_a_script_that_ends_after_running_out_of_memory_says_so_and_no_other_does(
    text: str, how: str, says: str, tmp_path: Path
) -> None:
    code, event = ending(text, tmp_path)
    assert event["how"] == how
    assert event["text"].endswith(says)
    assert "then" in says or "; then" not in event["text"]
    if how == "out of memory":
        assert code
        assert event["line"] == "job.py:5"


def test_an_error_in_traced_code_names_the_model_and_its_own_cause(tmp_path: Path) -> None:
    _, event = ending(
        "raise OSError('--- <Autowrapped MyModel 1405>:9 ---\\n code') from ValueError('5 sizes')", tmp_path
    )
    traced = "OSError: in the forward of MyModel, as LLM Compressor traced it"
    assert event["text"] == f"{traced} (from ValueError: 5 sizes)"


@pytest.mark.parametrize(("made", "notes"), [(torch.empty(1, 3), 1), (torch.empty(3), 0), ([[1, 2, 3]], 0)])
def test_a_processor_whose_tensors_keep_their_batch_is_named_once(made: Any, notes: int) -> None:
    class TextGenerationDataset:
        processor = types.SimpleNamespace(tokenizer=None)

        def tokenize(self, _row: Any) -> dict[str, Any]:
            return {"pixel_values": made, "input_ids": [1]}

    events: Any = Told()
    data._tell_kept_batches(types.SimpleNamespace(TextGenerationDataset=TextGenerationDataset), events)
    for _ in range(2):
        assert TextGenerationDataset().tokenize({})["pixel_values"] is made
    assert len(events.notes) == notes
    assert all("each sample's pixel_values keep it" in text for text in events.notes)
