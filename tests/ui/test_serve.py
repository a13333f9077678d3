"""`planner ui` as a command: where it listens, how it ends, and what it says where it cannot."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from typing import Any

import pytest

from planner.cli import main
from planner.commands import ui
from planner.ui.serve import hosts_of, listen

RUN = [sys.executable, "-m", "planner", "ui", "--no-browser"]


def test_it_prints_its_address_and_ctrl_c_ends_it_with_all_its_processes() -> None:
    with subprocess.Popen([*RUN, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = process.stdout.readline()
        found = re.fullmatch(r"planner ui: (http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends it\)\n", said)
        assert found
        with urllib.request.urlopen(f"{found[1]}api/health") as answer:  # noqa: S310  (our own http address)
            assert json.load(answer) == {"planning": False, "waiting": 0, "process": True}
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)  # ends when no process holds the pipes any more
        assert (process.returncode, out, err) == (0, "", "")


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = subprocess.run([*RUN, "--port", str(port)], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == f"planner: error: --port {port}: Address already in use; --port 0 takes a free one\n"
    assert not result.stdout


OTHER_HOSTS = ["0.0.0.0", "::", "192.168.0.1", "example.com", "127.0.0.2", ""]  # noqa: S104  (each of them is refused)


@pytest.mark.parametrize("host", OTHER_HOSTS)
def test_no_other_host_is_listened_on(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--no-browser", "--host", host]) == 2
    assert "the page is for this machine alone" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_port_0_takes_a_free_one_of_a_loopback_address(host: str) -> None:
    with listen(host, 0) as listening:
        address, port = listening.getsockname()
        assert address == "127.0.0.1"
        assert f"localhost:{port}" in hosts_of(port)


def test_without_the_extra_one_line_names_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ui, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert main(["ui"]) == 2
    error = "planner: error: this needs uvicorn: pip install 'compression-planner[ui]'\n"
    assert capsys.readouterr().err == error


def test_the_extra_holds_what_the_command_asks_for() -> None:
    import tomllib
    from pathlib import Path

    project: dict[str, Any] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    extra = project["project"]["optional-dependencies"]["ui"]
    assert [re.split("[>=]", each)[0] for each in extra] == list(ui.NEEDS)
