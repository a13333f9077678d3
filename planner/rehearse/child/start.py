"""Runs the script as `python SCRIPT` would, on a card that is not there. `run` is called by planner/rehearse/run.py.

Everything that the script needs of a rehearsal is put in place first, without importing a library before the script
does. How it ended is the last event.
"""

import ctypes
import faulthandler
import functools
import gc
import os
import re
import resource
import runpy
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from planner.rehearse.child.events import Events
from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.settings import Refused, Settings

_TRACED = re.compile(r"--- <Autowrapped (\S+)")
"""llmcompressor/pipelines/sequential/ast_helpers.py append_autowrap_source_on_fail"""
PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""
PASSED = (
    "Not run, because those before them had done the same: {:,} batches and points of searches that leave the card as "
    "it was, and {:,} calls of modules, whose tensors were taken and given back without them (--every-batch runs all)."
)
OWN = str(Path(__file__).parents[2])
"""Planner's folder, as its code names it: frames in it are not the script's."""


def main(file: str) -> int:
    """Run the script; its exit code, 0 where it came to its end."""
    settings = Settings.read(Path(file))
    events = Events(settings.folder / "events.jsonl")
    import torch

    from planner.rehearse.child import (
        data,
        experts,
        generation,
        grid,
        linears,
        marks,
        passing,
        pretrained,
        ranks,
        steps,
        values,
        web,
    )
    from planner.rehearse.child.books import TensorBooks
    from planner.rehearse.child.models import Shelf

    os.environ["PRETENDED_BINARY"] = str(_binary(torch._C._cuda_getArchFlags(), os.environ.get("PRETENDED_SM", "90")))
    torch.cuda.init()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    books = TensorBooks(settings.books, settings.folder, settings.script, OWN)
    hooks = Hooks()
    hooks.install()
    step = steps.Steps(books, events, settings.most_samples)
    passed = passing.Passing(books, every_batch=settings.every_batch)
    steps.watch(step, passed, hooks)
    hooks.after("llmcompressor.modeling.moe.linear_experts", functools.partial(experts.install, books, passed))
    hooks.after("llmcompressor.modifiers.transform.awq.base", lambda module: grid.install(module, books, passed))
    marks.install(step)
    values.install(settings, books, hooks)
    data.install(settings, events, hooks)
    generation.install(step, passed, hooks)
    linears.install(passed)
    ranks.install(settings, hooks)
    web.install(settings, events, hooks)
    shelf = Shelf(settings, books, events)
    pretrained.install(shelf, step, events, hooks)
    for card in range(torch.cuda.device_count()):
        torch.cuda.reset_peak_memory_stats(card)
    books.watch()
    code = _run(settings, events, step, shelf)
    if any(passing.passed()):
        events.note("rehearsal", PASSED.format(*passing.passed()))
    books.close()
    return code


def _binary(flags: str | None, capability: str) -> int:
    """The architecture whose code a card of this capability runs: of those that were compiled (`sm_80 sm_86`), the
    nearest of its own generation."""
    compiled = [int(digits) for word in (flags or "").split() if (digits := word.partition("_")[2]).isdigit()]
    own = int(capability)
    return max((each for each in compiled if each <= own and each // 10 == own // 10), default=own)


def _run(settings: Settings, events: Events, step: Any, shelf: Any) -> int:
    sys.argv = [settings.script, *settings.arguments]
    sys.path[0] = str(Path(settings.script).parent)
    code: int = 0
    ending: dict[str, Any] = {"how": "end"}
    try:
        runpy.run_path(settings.script, run_name="__main__")
    except SystemExit as stop:
        code, ending = _exit(stop, settings)
    except Refused as refused:
        code, ending = 2, {"how": "refused", "text": str(refused)}
    except KeyboardInterrupt:
        code, ending = 130, {"how": "interrupted"}
    except BaseException as error:
        code, ending = 1, _failure(error, settings)
    if not events.is_ours:
        os._exit(code)
    if "text" in ending:
        ending["text"] = shelf.in_words_of_the_script(ending["text"])
    step.end(partial=code != 0)
    events.write("end", code=code, resident=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, **ending)
    return code


def _exit(stop: SystemExit, settings: Settings) -> tuple[int, dict[str, Any]]:
    """The exit code, and how it came to it: a script may catch running out of memory and end itself."""
    code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    said = "" if isinstance(stop.code, int) else str(stop.code or "")
    memory = _out_of_memory(stop) if code else None
    if memory is not None:
        return code, _ran_out(memory, settings, f"the script ended itself with exit code {code} {said}".strip())
    return code, (_refusal(stop) if code else None) or {"how": "exit", "text": said}


def _failure(error: BaseException, settings: Settings) -> dict[str, Any]:
    refusal = _refusal(error)
    if refusal is not None:
        return refusal
    memory = _out_of_memory(error)
    if memory is error:
        return _ran_out(memory, settings)
    traceback.print_exception(error)
    text = _said(error)
    if error.__cause__ is not None:
        text += f" (from {_said(error.__cause__)})"
    if memory is not None:
        return _ran_out(memory, settings, text)
    return {"how": "failed", "line": _line(error, settings.script), "text": text}


def _said(error: BaseException) -> str:
    """The error in a line. LLM Compressor's own begins with the code that it traced: then where that is from."""
    lines = str(error).strip().splitlines()
    traced = _TRACED.match(lines[0]) if lines else None
    told = f"in the forward of {traced[1]}, as LLM Compressor traced it" if traced else "".join(lines[:1])
    return f"{type(error).__name__}: {told}"


def _ran_out(memory: BaseException, settings: Settings, then: str = "") -> dict[str, Any]:
    """Out of memory, with what came of it."""
    text = str(memory).splitlines()[0] + (f"; then {then}" if then else "")
    return {"how": "out of memory", "line": _line(memory, settings.script), "text": text}


def _refusal(error: BaseException) -> dict[str, Any] | None:
    """Whatever a library made of it: the rehearsal declined."""
    refused = next((each for each in _chain(error, all_of_it=True) if isinstance(each, Refused)), None)
    return None if refused is None else {"how": "refused", "text": str(refused)}


def _out_of_memory(error: BaseException) -> BaseException | None:
    import torch

    return next((each for each in _chain(error) if isinstance(each, torch.OutOfMemoryError)), None)


def _chain(error: BaseException, all_of_it: bool = False) -> list[BaseException]:
    """The error and those that a traceback shows above it; or what `from None` hides too."""
    chain = [error]
    while True:
        last = chain[-1]
        inner = last.__cause__ or (last.__context__ if all_of_it or not last.__suppress_context__ else None)
        if inner is None or inner in chain:
            return chain
        chain.append(inner)


def _line(error: BaseException, script: str) -> str:
    """The script's innermost line in the traceback: `file.py:12`."""
    found = ""
    trace = error.__traceback__
    while trace is not None:
        frame: FrameType = trace.tb_frame
        if frame.f_code.co_filename == script:
            found = f"{Path(script).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def run() -> None:
    """Run what the command line names, and end the process: unloading torch would take another second."""
    faulthandler.enable()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a planner that was killed leaves nobody behind
    gc.set_threshold(50_000, 50, 50)
    result = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(result)
