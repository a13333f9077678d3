import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from planner.errors import ModelError
from planner.models import hub as models_hub
from planner.models.source import list_presets, load_source, truncate

TINY: dict[str, Any] = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "layer_types": ["full_attention"] * 3 + ["sliding_attention"],
    "sliding_window": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))


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
        (b'{"model_type": "x", "auto_map": {"AutoConfig": "x.X"}}', "trust_remote_code.*refuses"),
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


# ---------------------------------------------------------------- Hub


def test_an_unknown_word_lists_presets_like_it() -> None:
    with pytest.raises(ModelError, match=r"not a preset, a path or a Hub id.*presets like it: llama-3-8b"):
        load_source("llama-3-80b")
    with pytest.raises(ModelError, match=r"the presets are .*deepseek-r1.*qwen3-8b"):
        load_source("zzzz")


def test_a_hub_id_offline_says_so_and_lists_presets_like_it() -> None:
    with pytest.raises(ModelError, match=r"Qwen/Qwen3-4B: .*HF_HUB_OFFLINE.*presets like it: qwen3-8b"):
        load_source("Qwen/Qwen3-4B")


@pytest.mark.parametrize(
    ("error", "becomes"),
    [(type("ReadTimeout", (Exception,), {})("timed out"), ModelError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_whatever_the_http_library_raises_is_one_line_and_an_interrupt_stays_one(
    error: BaseException, becomes: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*names: str) -> str:
        raise error

    monkeypatch.setattr(models_hub, "_require_hub", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(becomes) as caught:
        load_source("some/model")
    if becomes is ModelError:
        assert str(caught.value) == "some/model: its config.json could not be downloaded: timed out"


def test_an_unreachable_hub_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(ModelError, match="the Hub cannot be reached"):
        load_source("some/model")
    assert time.monotonic() - start < 3


def test_a_cached_config_needs_no_network(tmp_path: Path) -> None:
    repository = tmp_path / "hub-cache" / "models--some--model"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps(TINY))
    source = load_source("some/model")
    assert (source.name, source.hub_id, source.config) == ("model", "some/model", TINY)


class _Hub(BaseHTTPRequestHandler):
    """As much of the Hub as one config.json needs."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        content = json.dumps(TINY).encode()
        refusals = {
            "gone": (404, "RepoNotFound"),
            "gated": (403, "GatedRepo"),
            "gguf": (404, "EntryNotFound"),
            "mine": (401, ""),
        }
        refusals |= {"full": (429, ""), "ill": (500, "")}
        if "silent" in self.path:
            threading.Event().wait(20)
        word = self.path.split("/")[2] if self.path.count("/") > 2 else ""
        status, code = refusals.get(word, (200, ""))
        self.send_response(status)
        if status != 200:
            self.send_header("X-Error-Code", code)
            content = b""
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_a_hub_model_is_its_config_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert load_source("some/model").config == TINY
    downloaded = [path.name for path in (tmp_path / "hub-cache").rglob("snapshots/*/*")]
    assert downloaded == ["config.json"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone", "not a Hub repository that you can see; if it is private, log in"),
        ("gated", "gated; log in"),
        ("gguf", "holds no config.json"),
        ("mine", r"the Hub refuses it \(401\): private.* set HF_TOKEN"),
    ],
)
def test_a_hub_refusal_is_explained(name: str, reason: str) -> None:
    with pytest.raises(ModelError, match=f"some/{name}: .*{reason}") as caught:
        load_source(f"some/{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "told"), [("full", r"no more requests for now \(429\)"), ("ill", r"itself fails \(500\)")]
)
def test_a_hub_in_trouble_is_tried_again_quietly_and_told_in_one_line(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the library's retries
    with pytest.raises(ModelError, match=f"some/{name}: .*{told}"):
        load_source(f"some/{name}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("hub")
def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_hub, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(ModelError, match=r"some/silent: the Hub has not sent its config.json within 0.5 s"):
        load_source("some/silent")


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
