import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.errors import ModelError
from planner.models.source import list_presets, load_source, truncate
from tests.models.hubless import TINY, no_hub  # noqa: F401 - a fixture that every test here uses


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "my-model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(TINY))
    return model


# ---------------------------------------------------------------- presets


@pytest.mark.parametrize(
    "text",
    [
        "llama-3-8b",
        "LLAMA-3-8B",
        " llama-3-8b ",
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "META-llama/meta-llama-3-8b-instruct",
        "Meta-Llama-3-8B-Instruct",
    ],
)
def test_a_preset_answers_to_its_name_its_hub_id_and_the_last_part_of_it(text: str) -> None:
    source = load_source(text)
    assert (source.name, source.hub_id) == ("llama-3-8b", "meta-llama/Meta-Llama-3-8B-Instruct")
    assert source.config["architectures"] == ["LlamaForCausalLM"]
    assert source.config["model_type"] == "llama"
    assert source.checkpoint_parameters == 8_030_261_248


def test_an_alias_keeps_the_hub_id_that_was_asked_for() -> None:
    assert load_source("nousresearch/meta-llama-3-8b-instruct").hub_id == "NousResearch/Meta-Llama-3-8B-Instruct"


def test_no_spelling_means_two_presets() -> None:
    spellings = [spelling for preset in list_presets() for spelling in preset.answers_to()]
    assert len(spellings) == len(set(spellings))


def test_a_preset_says_what_transformers_does_not_load() -> None:
    source = load_source("deepseek-r1")
    assert source.not_loaded_parameters == 13_463_426_304
    assert "model.layers.61" in source.not_loaded[0]
    assert "num_nextn_predict_layers" in source.not_loaded[0]


def test_changing_a_loaded_config_does_not_change_the_preset() -> None:
    load_source("gemma-3-27b").config["text_config"]["hidden_size"] = 1
    assert load_source("gemma-3-27b").config["text_config"]["hidden_size"] == 5376


def test_finding_a_preset_imports_neither_torch_nor_transformers_nor_the_hub() -> None:
    program = (
        "import sys; from planner.models.source import list_presets, load_source; list_presets();"
        "load_source('deepseek-r1'); print({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# ---------------------------------------------------------------- paths


def test_a_config_file_and_its_folder_are_the_same_model_named_after_the_folder(folder: Path) -> None:
    for path in (folder, folder / "config.json"):
        source = load_source(str(path))
        assert (source.name, source.config, source.hub_id) == ("my-model", TINY, None)
        assert (source.checkpoint_parameters, source.not_loaded, source.notes) == (None, (), ())


def test_a_config_of_another_name_gives_the_model_its_name(folder: Path) -> None:
    (folder / "config.json").rename(folder / "short.json")
    assert load_source(str(folder / "short.json")).name == "short"


def test_home_and_relative_paths_are_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder.parent)
    for text in ("~", "~/config.json", "my-model", "./my-model", "my-model/config.json"):
        assert load_source(text).config == TINY


def test_an_existing_path_wins_over_the_hub_id_of_the_same_spelling(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Qwen").mkdir()
    folder.rename(tmp_path / "Qwen" / "Qwen3-8B")
    monkeypatch.chdir(tmp_path)
    assert load_source("Qwen/Qwen3-8B").config == TINY


def test_a_preset_wins_over_a_folder_unless_it_is_written_as_a_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rename(folder.parent / "qwen3-8b")
    monkeypatch.chdir(folder.parent)
    assert load_source("qwen3-8b").hub_id == "Qwen/Qwen3-8B"
    assert load_source("./qwen3-8b").hub_id is None


def test_a_quantized_or_mtp_checkpoint_gets_a_note(folder: Path) -> None:
    extra = {"quantization_config": {"quant_method": "fp8"}, "num_nextn_predict_layers": 1}
    (folder / "config.json").write_text(json.dumps({**TINY, **extra}))
    source = load_source(str(folder))
    assert "fp8" in source.notes[0]
    assert "num_nextn_predict_layers" in source.not_loaded[0]


@pytest.mark.parametrize(
    ("extra", "note"),
    [
        (
            {"num_nextn_predict_layers": 1},
            "1 multi-token-prediction layer(s) of the checkpoint (num_nextn_predict_layers)",
        ),
        ({"mtp_num_hidden_layers": 1}, "(mtp_num_hidden_layers)"),
        ({"text_config": {"mtp_num_hidden_layers": 2}}, "2 multi-token-prediction layer(s)"),
        ({"text_config": {"mtp_num_hidden_layers": 2}}, "(text_config.mtp_num_hidden_layers)"),
        ({"num_mtp_modules": 3}, "3 multi-token-prediction layer(s) of the checkpoint (num_mtp_modules)"),
        ({"num_mtp_layers": 1, "num_nextn_predict_layers": 1}, "1 multi-token-prediction layer(s)"),
        ({"mtp_config": {"num_nextn_predict_layers": 4}}, "(mtp_config.num_nextn_predict_layers)"),
    ],
)
def test_multi_token_prediction_layers_are_noted_under_every_familys_name(
    folder: Path, extra: dict[str, Any], note: str
) -> None:
    (folder / "config.json").write_text(json.dumps({**TINY, **extra}))
    (noted,) = load_source(str(folder)).not_loaded
    assert note in noted


@pytest.mark.parametrize("value", [0, None, False, [1]])
def test_no_multi_token_prediction_layers_are_no_note(folder: Path, value: object) -> None:
    (folder / "config.json").write_text(json.dumps({**TINY, "mtp_num_hidden_layers": value}))
    assert load_source(str(folder)).not_loaded == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02\xff\x00", "not a text file"),
        (b"{", "not JSON: .* at line 1 column 2"),
        (b"", "not JSON"),
        (b"[1, 2]", "holds a JSON list, not an object"),
        (b"null", "holds a JSON NoneType"),
        (b"{}", "has no model_type"),
        (b'{"model_type": 5}', "has no model_type"),
        (b'{"model_type": ""}', "has no model_type"),
        (b'{"model_type": "lama"}', "knows no model_type 'lama' .*llama"),
        (
            b'{"model_type": "x", "auto_map": {"AutoConfig": "x.X"}}',
            "trust_remote_code.*a plan never runs: `planner rehearse script.py --trust-remote-code`",
        ),
        (b"[" * 100_000, "not a sensible JSON file"),
        (b'{"model_type": ' + b"1" * 5000 + b"}", "not a sensible JSON file"),
        (b" " * (4 * 2**20 + 1), "larger than 4194304 bytes"),
    ],
)
def test_a_bad_config_says_what_is_wrong_and_where(folder: Path, content: bytes, reason: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=rf"(?s)^{folder}.*{reason}") as caught:
        load_source(str(folder))
    assert len(str(caught.value)) < 500


def test_remote_code_is_not_needed_where_transformers_knows_the_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**TINY, "auto_map": {"AutoConfig": "evil.Config"}}))
    assert load_source(str(folder)).config["model_type"] == "qwen3"


def test_missing_paths_and_strange_files_are_refused(tmp_path: Path) -> None:
    cases = {
        "": "no model given",
        "missing.json": "no such file or folder",
        "./missing": "no such file or folder",
        "~nobody-of-this-name/model": "no such file or folder",
        str(tmp_path): "holds no config.json",
        "/dev/null": "not a regular file",
        "/" + "x" * 5000: "cannot be read|not a preset",
        "null\0byte.json": "no such file or folder",
    }
    for text, reason in cases.items():
        with pytest.raises(ModelError, match=reason):
            load_source(text)


def test_an_unreadable_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match="cannot be read: Permission denied"):
        load_source(str(folder))


# ---------------------------------------------------------------- truncate


def test_truncating_cuts_the_depth_and_every_list_that_goes_with_it() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(**load_source("qwen2.5-vl-7b").config)
    truncate(config, 2, 16)
    assert config.text_config.num_hidden_layers == 2
    assert len(config.text_config.layer_types) == 2
    assert config.vision_config.depth == 16
    assert config.vision_config.fullatt_block_indexes == [7, 15]


def test_truncating_nothing_changes_nothing() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(**TINY)
    before = config.to_dict()
    truncate(config, None, None)
    assert config.to_dict() == before


def test_a_model_cannot_be_cut_to_more_layers_than_it_has() -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(**TINY)
    with pytest.raises(ModelError, match="--layers 5: the text decoder has only 4 layers"):
        truncate(config, 5, None)
    with pytest.raises(ModelError, match="--vision-layers: the model has no vision tower"):
        truncate(config, None, 1)
