"""What reaches the server and what leaves it: the guard's rows, the routes, and no file but its own."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from planner.errors import PlannerError, UiError
from planner.ui.app import FILES, _script, make_app
from planner.ui.desk import Desk
from planner.ui.guard import MAX_BODY, Guard
from planner.ui.question import PageQuestion, read_question
from planner.ui.serve import hosts_of
from tests.ui.fakes import scripted

HOST = "127.0.0.1:8000"
OWN = {"origin": f"http://{HOST}", "content-type": "application/json"}
ASKED: dict[str, Any] = {
    "client": "page-1",
    "model": {"name": "llama-3-8b"},
    "recipe": {"name": "gptq_w4a16"},
    "gpu": "L40S",
}


class Echo(Desk):
    """Answers with the question itself."""

    async def answers(self, question: PageQuestion) -> AsyncIterator[bytes]:
        yield question.model_dump_json().encode() + b"\n"


class Client:
    """Asks an app as a browser would, without a socket."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def request(self, method: str, path: str | httpx.URL, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url=f"http://{HOST}") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)


@pytest.fixture
def client() -> Client:
    return Client(make_app(Echo(), hosts_of(8000)))


def asked(**changes: Any) -> str:
    return json.dumps({**ASKED, **changes})


def test_the_page_its_files_and_its_choices_are_there(client: Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for name in (*FILES, "planner.js", "ui.js"):
        assert f"/assets/{name}" in page.text, name
        assert client.get(f"/assets/{name}").status_code == 200
    choices = client.get("/api/choices").json()
    assert {"llama-3-8b", "qwen3-30b-a3b"} <= {each["name"] for each in choices["models"]}
    assert {"gptq_w4a16", "awq_w4a16"} <= {each["name"] for each in choices["recipes"]}
    assert "L40S" in {each["name"] for each in choices["gpus"]}
    assert client.post("/api/plan", content=asked(), headers=OWN).json()["model"]["name"] == "llama-3-8b"


def test_a_file_that_changes_is_read_anew_and_nothing_is_loaded_from_elsewhere() -> None:
    texts = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
    for name, text in {**texts, "ui.js": _script("ui.js"), "planner.js": _script("planner.js")}.items():
        links = [word for word in text.split() if "https://" in word and not name.startswith("uPlot")]
        assert not links, f"{name} names {links}"


@pytest.mark.parametrize("path", ["/", "/assets/ui.js", "/api/health", "/api/choices", "/nowhere"])
def test_every_answer_carries_the_security_headers(client: Client, path: str) -> None:
    for answer in (client.get(path), client.get(path, headers={"host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "127.0.0.1", "127.0.0.1:8001", "127.0.0.1.evil.example:8000", ""]
)
def test_another_host_is_refused_as_dns_rebinding_would_send_it(client: Client, host: str) -> None:
    answer = client.get("/api/choices", headers={"host": host})
    assert answer.status_code == 403
    assert "127.0.0.1:8000" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost:8000", "LOCALHOST:8000", "[::1]:8000"])
def test_the_other_loopback_names_are_taken(client: Client, host: str) -> None:
    assert client.get("/api/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "https://127.0.0.1:8000", "http://127.0.0.1:8001"]
)
def test_a_question_from_another_origin_is_refused(client: Client, origin: str | None) -> None:
    headers = {"content-type": "application/json", **({"origin": origin} if origin else {})}
    assert client.post("/api/plan", content=asked(), headers=headers).status_code == 403


def test_a_question_that_the_browser_calls_cross_site_is_refused(client: Client) -> None:
    headers = {**OWN, "sec-fetch-site": "cross-site"}
    assert client.post("/api/plan", content=asked(), headers=headers).status_code == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_another_page_cannot_ask(client: Client, kind: str) -> None:
    assert client.post("/api/plan", content=asked(), headers={**OWN, "content-type": kind}).status_code == 415


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(client: Client, method: str) -> None:
    assert client.request(method, "/api/plan", headers=OWN).status_code == 405
    assert client.get("/api/plan").status_code == 405


def test_a_large_body_is_refused_whether_it_says_its_length_or_not(client: Client) -> None:
    large = asked(model={"config": "x" * (MAX_BODY + 1)})
    assert client.post("/api/plan", content=large, headers=OWN).status_code == 413

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // 65536 + 1):
            yield b"x" * 65536

    answer = client.post("/api/plan", content=pieces(), headers=OWN)
    assert answer.status_code == 413
    assert "bytes at most" in answer.json()["error"]


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    sent: list[Any] = []

    async def never() -> dict[str, Any]:
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", HOST.encode()), *((name.encode(), value.encode()) for name, value in OWN.items())]
    scope = {"type": "http", "method": "POST", "path": "/api/plan", "headers": headers}
    asyncio.run(Guard(lambda *_: asyncio.sleep(0), hosts_of(8000), body_seconds=0.05)(scope, never, send))
    assert sent[0]["status"] == 408


def test_a_fault_of_planner_is_a_line_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(*_: Any) -> None:
        raise KeyError("secret")

    answer = Client(Guard(broken, hosts_of(8000))).get("/")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert "KeyError: 'secret'" in capsys.readouterr().err


PATHS = [
    "/etc/passwd",
    "../x",
    "./x",
    "~",
    "~root",
    "file:///etc/passwd",
    ".",
    "a/../b",
    "config.json",
    "x/..",
    "..%2fx",
]


@pytest.mark.parametrize("name", PATHS)
def test_no_path_of_the_disk_is_a_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.models.source import listed_source

    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(PlannerError, match="not a preset, and not a Hub id"):
        listed_source(name)


def test_a_folder_that_is_spelled_like_a_hub_id_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.models import source

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 1}', encoding="utf-8")

    def no_hub(hub_id: str, _hint: Any) -> Path:
        raise source.ModelError(f"{hub_id} was asked of the Hub")

    monkeypatch.setattr(source, "hub_config", no_hub)
    with pytest.raises(PlannerError, match="org/model was asked of the Hub"):
        source.listed_source("org/model")


def test_a_preset_wins_over_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.models.source import listed_source

    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama-3-8b").mkdir()
    assert listed_source("llama-3-8b").name == "llama-3-8b"
    assert listed_source("Qwen/Qwen3-0.6B").name == "qwen3-0.6b"


@pytest.mark.parametrize("name", ["/etc/passwd", "../gptq_w4a16", "recipes/gptq_w4a16.yaml", "gptq_w4a17", "a\nb"])
def test_a_recipe_is_a_shipped_name_and_never_a_path(client: Client, name: str) -> None:
    answer = client.post("/api/plan", content=asked(recipe={"name": name}), headers=OWN)
    assert answer.status_code == 422
    assert "is not a shipped recipe" in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    ["/assets/../app.py", "/assets/%2e%2e/app.py", "/assets/..%2fapp.py", "/assets//etc/passwd", "/assets/app.py"],
)
def test_no_other_file_is_served(client: Client, path: str) -> None:
    url = httpx.URL(f"http://{HOST}").copy_with(raw_path=path.encode())
    assert client.request("GET", url).status_code == 404


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {}}, "choose a preset"),
        ({"model": {"name": "a", "config": "{}"}}, "not both"),
        ({"recipe": {"name": "a", "text": "b"}}, "not both"),
        ({"recipe": {"path": "/etc/passwd"}}, "recipe.path"),
        ({"job": {"samples": 0}}, "samples 0: should be greater"),
        ({"job": {"samples": 4, "batch_size": 8}}, "batch_size 8 is larger than samples 4"),
        ({"job": {"pipeline": "basic"}}, "the page says nothing of pipeline"),
        ({"job": {"trust_remote_code": True}}, "the page says nothing of trust_remote_code"),
        ({"gpu": "no such card"}, "unknown GPU"),
        ({"gpu": ""}, "gpu"),
        ({"ram_gib": -1}, "ram_gib -1"),
        ({"client": "a b"}, "client"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_what_is_wrong_with_a_question_is_said_in_one_line(client: Client, changes: dict[str, Any], said: str) -> None:
    answer = client.post("/api/plan", content=asked(**changes), headers=OWN)
    assert answer.status_code == 422
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "[" * 100_000, '{"a": 1e999}'])
def test_what_is_no_question_is_refused(client: Client, body: str) -> None:
    assert client.post("/api/plan", content=body, headers=OWN).status_code == 422


def test_a_size_is_a_card_and_ram_and_disk_are_the_machines() -> None:
    question = read_question(asked(gpu="24GiB", ram_gib=64.5, disk_gib=100, job={"samples": 64}).encode())
    machine = question.machine()
    assert (machine.gpu_memory_bytes, machine.ram_bytes) == (24 * 2**30, int(64.5 * 2**30))
    assert machine.disk_bytes == 100 * 2**30
    assert question.asked_job().samples == 64


def test_a_slow_plan_blocks_neither_the_page_nor_its_files() -> None:
    async def inside() -> None:
        desk = Desk(scripted)
        app = make_app(desk, hosts_of(8000))
        desk.open()
        transport = httpx.ASGITransport(app)
        try:
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
                slow = asyncio.create_task(client.post("/api/plan", content=asked(model={"name": "slow"}), headers=OWN))
                while not desk.state()["planning"]:
                    await asyncio.sleep(0.01)
                for path in ("/", "/assets/ui.js", "/api/choices"):
                    assert (await client.get(path)).status_code == 200
                assert (await client.get("/api/health")).json()["planning"]
                newest = await client.post("/api/plan", content=asked(model={"name": "quick"}), headers=OWN)
                assert [json.loads(each)["kind"] for each in newest.text.splitlines()][-2:] == ["plan", "done"]
                assert json.loads((await slow).text.splitlines()[-1]) == {"kind": "superseded"}
        finally:
            desk.close()

    asyncio.run(asyncio.wait_for(inside(), 60))


def test_where_too_many_pages_wait_the_answer_is_a_line() -> None:
    class Full(Desk):
        async def answers(self, question: PageQuestion) -> AsyncIterator[bytes]:
            raise UiError("too many pages wait")
            yield b""

    answer = Client(make_app(Full(), hosts_of(8000))).post("/api/plan", content=asked(), headers=OWN)
    assert json.loads(answer.text) == {"kind": "error", "text": "too many pages wait"}
