"""The meter's device, here PyTorch's own CUDA build over a pretended driver.

Takes the place of tests/meter/fakecuda.py: the same names, answered by the real caching allocator. Figures are
requested (sizes asked for), allocated (rounded blocks, unsplit remainders included) and reserved (segments taken
from the driver). CPU tensors are not counted: use tests/meter for them.
"""

import contextlib
import json
import os
from pathlib import Path

import torch

CPU, GPU = 0, 1
KINDS = ["other"]
# PyTorch's names of what its allocator does, and the trace's.
TRACED = {
    "alloc": "alloc",
    "free_requested": "free",
    "free_completed": "freed",
    "segment_alloc": "segment",
    "segment_free": "segment_free",
    "oom": "oom",
}
HERE = Path(__file__).resolve().parent
LOG = os.environ.get("CUDAMETER_TRACE")
WITH_ORIGIN = bool(os.environ.get("CUDAMETER_ORIGIN"))
_state = {"seen": 0, "live": {}, "phase_peak": 0, "now": 0, "at_peak": {}, "hears": False}


class ext:  # noqa: N801  (it stands for a module)
    """What meter.py, models.py and steps.py ask of the extension; the pretended driver needs none of the hints."""

    set_selected_share = set_unknown = staticmethod(lambda *_: None)

    @staticmethod
    def set_trace(wanted: bool) -> None:
        if wanted or LOG:
            torch.cuda.memory._record_memory_history(max_entries=20_000_000, stacks="python")

    @staticmethod
    def reset_peak(device: int) -> None:
        if device == GPU:
            for card in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(card)
            _state["phase_peak"] = 0

    @staticmethod
    def top_at_peak(count: int):
        """The largest live blocks at the step's highest moment: (bytes, kind, where)."""
        _catch_up()
        largest = sorted(_state["at_peak"].values(), key=lambda e: -e["size"])[:count]
        return [(e["size"], 0, _where(e)) for e in largest]


def _events():
    return torch.cuda.memory._snapshot()["device_traces"][0]


def _catch_up() -> None:
    """Replay the allocator's events since the last call; keep what was alive at the highest moment."""
    events = _events()
    for e in events[_state["seen"] :]:
        if e["action"] == "alloc":
            _state["live"][e["addr"]] = e
            _state["now"] += e["size"]
        elif e["action"] == "free_completed" and (gone := _state["live"].pop(e["addr"], None)):
            _state["now"] -= gone["size"]
        if _state["now"] > _state["phase_peak"]:
            _state["phase_peak"], _state["at_peak"] = _state["now"], dict(_state["live"])
    _state["seen"] = len(events)


def _where(event) -> str:
    frames = [
        f
        for f in event["frames"]
        if Path(f["filename"]).parent != HERE and not f["filename"].endswith("/meter/steps.py")
    ]
    return " < ".join(f"{Path(f['filename']).name}:{f['line']} {f['name']}" for f in frames[:4])


_marks = []


def mark_step(name: str) -> None:
    """A step ends here; the trace says so."""
    if LOG:
        _marks.append((len(_events()), name))


def write_trace() -> None:
    """One JSON object a line: what was asked of the allocator and what it asked of the driver, in time order."""
    marks = iter([*_marks, (float("inf"), "")])
    at, name = next(marks)
    with Path(LOG).open("w", encoding="utf-8") as out:
        for number, event in enumerate(_events()):
            while number >= at:
                out.write(json.dumps({"event": "step", "name": name}) + "\n")
                at, name = next(marks)
            if (action := TRACED.get(event["action"])) is not None:
                line = {"event": action, "bytes": event["size"], "stream": event["stream"]}
                if action == "oom":
                    line["free"] = event["device_free"]
                else:
                    line["address"] = event["addr"]
                if WITH_ORIGIN and action == "alloc":
                    line["origin"] = _where(event)
                out.write(json.dumps(line) + "\n")


def install(shape: bool, total_bytes: int, small_bytes: int = 0) -> None:
    """Start PyTorch's CUDA on the pretended driver, whose size is the environment's (run.sh sets it)."""
    if not shape:
        raise SystemExit("cudameter: only --mode shape; no kernel runs here")
    torch.cuda.init()
    torch.Tensor.all, torch.all, torch.Tensor.__eq__ = (
        _healthy(torch.Tensor.all),
        _healthy(torch.all),
        _healthy(torch.Tensor.__eq__),
    )


def _healthy(function):
    """A verdict over a device tensor (`all`, `==` of one element) reads zeros here, so False; truly it is True."""

    def verdict(*args, **kwargs):
        result = function(*args, **kwargs)
        if _state["hears"] and args[1:] == (0,):
            return result
        return (
            torch.tensor(True) if isinstance(result, torch.Tensor) and result.is_cuda and result.dim() == 0 else result
        )

    return verdict


def mark_all() -> None:
    """`nonzero` finds every entry, as in a loss mask of ones: what it takes beside its result is the kernel's own."""
    own = torch.library.get_kernel("aten::nonzero", "CUDA")

    def nonzero(keys, mask):
        own.call_boxed(keys, mask)
        return torch.empty((mask.dim(), mask.numel()), dtype=torch.int64, device=mask.device).t()

    _state["library"] = torch.library.Library("aten", "IMPL")
    _state["library"].impl("nonzero", nonzero, "CUDA", with_keyset=True)


def hear_all() -> None:
    """Whole audio clips, each of whose placeholders gets a feature: what a model counts on the device reads zero here.

    A count that is held against zero is more (transformers modeling_qwen2_audio.py `legacy_processing`), a mask has
    every entry, and the check of tokens against features (torch_compilable_check) is left out.
    """
    mark_all()
    _state["hears"] = True
    os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"


def stats(device: int) -> dict:
    """Bytes of one device now and at its peak, as the real caching allocator counts them; the CPU is not counted."""
    if device == CPU:
        return {"live": 0, "peak": 0, "live_512": 0, "peak_512": 0, "live_by_kind": {}, "peak_by_kind": {}}
    figures = _of_card(0)
    if torch.cuda.device_count() > 1:
        second = _of_card(int(os.environ.get("CUDAMETER_SECOND", "1")))
        figures["second"] = {
            "peak_bytes": second["peak"],
            "peak_allocated_bytes": second["peak_512"],
            "peak_reserved_bytes": second["reserved"],
            "alloc_retries": second["retries"],
            "end_bytes": second["live"],
        }
    return figures


def _of_card(number: int) -> dict:
    s = torch.cuda.memory_stats(number)
    return {
        "live": s.get("requested_bytes.all.current", 0),
        "peak": s.get("requested_bytes.all.peak", 0),
        "live_512": s.get("allocated_bytes.all.current", 0),
        "peak_512": s.get("allocated_bytes.all.peak", 0),
        "reserved": s.get("reserved_bytes.all.peak", 0),
        "retries": s.get("num_alloc_retries", 0),
        "live_by_kind": {},
        "peak_by_kind": {},
    }


@contextlib.contextmanager
def kind(name: str):
    """Nothing: the allocator knows no kinds."""
    yield


uncounted = contextlib.nullcontext
