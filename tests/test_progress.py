"""What is said on a terminal while something takes long."""

import sys
import time

import pytest

from planner.commands.progress import Progress


class Terminal:
    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None: ...


def test_progress_appears_on_a_terminal_once_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress(delay=0.01) as progress:
        progress.say("tracing [a layer]")
        deadline = time.monotonic() + 10
        while "tracing [a layer]" not in terminal.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "tracing [a layer]" in terminal.text


def test_progress_says_nothing_when_it_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(delay=5) as progress:
        progress.say("tracing")
    assert terminal.text == ""


def test_progress_says_nothing_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(delay=0.0) as progress:
        progress.say("tracing")
        time.sleep(0.05)
    assert capsys.readouterr().err == ""
