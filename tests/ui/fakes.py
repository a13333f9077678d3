"""Answers for tests of the desk and the server: what a plan does to them, without planning anything."""

import contextlib
import os
import time
from collections.abc import Collection, Iterator

from planner.errors import ModelError
from planner.ui.lines import line
from planner.ui.question import PageQuestion
from planner.ui.worker import Answer, Worker

OTHER = "0000-other"


def question(model: str, client: str = "page-1", **job: int) -> PageQuestion:
    """A question of this page whose model's name says what the answer does."""
    content = {"client": client, "model": {"name": model}, "recipe": {"name": "gptq_w4a16"}, "gpu": "L40S", "job": job}
    return PageQuestion.model_validate(content)


def busy(seconds: float) -> None:
    """Python that keeps the interpreter, as planning does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def scripted(worker: Worker) -> Answer:
    """What the worker's process is started with: does what the model's name says."""

    built: list[str] = []

    def answer(asked: PageQuestion, has: Collection[str]) -> Iterator[bytes]:
        name = asked.model.name or ""
        worker.say(f"at work on {name}")
        if name == "bad":
            raise ModelError("no such model")
        if name == "bug":
            raise KeyError("of planner itself")
        if name == "dies":
            os._exit(9)
        if name == "builds" and not built:
            with worker.untouched():
                worker.say("building")
                busy(0.3)
                built.append(name)
            worker.say("built")
        if name == "stubborn":
            with worker.untouched():
                busy(60)
        if name == "swallows":
            with contextlib.suppress(BaseException):  # as the callback of a weak reference does
                busy(60)
            busy(60)
        if name.startswith("slow"):
            busy(60)
        if "plan" not in has:
            yield line("plan", model=name, process=os.getpid())
        if name == "long":
            busy(60 if not has else 0)
        yield line("done", process=os.getpid(), built=len(built))

    return answer
