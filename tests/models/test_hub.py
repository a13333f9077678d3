"""A config from the Hub, real or refused: a server here stands for it."""

import json
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
from planner.models.source import load_source
from tests.models.hubless import TINY, no_hub  # noqa: F401 - a fixture that every test here uses


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


def test_an_unreachable_hub_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="the Hub cannot be reached"):
        load_source("some/model")


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
