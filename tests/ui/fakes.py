"""Answers for tests of the desk and the server: what a plan does to them, without planning anything."""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping

from planner.errors import ModelError
from planner.ui.lines import line
from planner.ui.question import PageQuestion
from planner.ui.worker import Answer, Worker

OTHER = "0000-other"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "tie_word_embeddings": False,
}
"""A small Llama, to be pasted."""


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
        if name in ACTS:
            ACTS[name](worker, built)
        if "plan" not in has:
            yield line("plan", model=name, process=os.getpid())
        if name == "long":
            busy(60 if not has else 0)
        yield line("done", process=os.getpid(), built=len(built))

    return answer


def bad(*_: object) -> None:
    raise ModelError("no such model")


def bug(*_: object) -> None:
    raise KeyError("of planner itself")


def dies(*_: object) -> None:
    os._exit(9)


def slow(*_: object) -> None:
    busy(60)


def builds(worker: Worker, built: list[str]) -> None:
    with worker.untouched():
        worker.say("building")
        busy(0.3)
        built.append("a model")
    worker.say("built")


def stubborn(worker: Worker, _built: list[str]) -> None:
    with worker.untouched():
        busy(60)


def swallows(*_: object) -> None:
    with contextlib.suppress(BaseException):  # as the callback of a weak reference does
        busy(60)
    busy(60)


ACTS: Mapping[str, Callable[[Worker, list[str]], None]] = {
    act.__name__: act for act in (bad, bug, builds, dies, slow, stubborn, swallows)
}
