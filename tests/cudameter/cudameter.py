#!/usr/bin/env python3
"""tests/meter/meter.py on PyTorch's own CUDA build. Started by run.sh, which preloads the pretended driver."""

import os
import pathlib
import sys

here = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(here), str(here.parent / "meter")]  # fakecuda is ours, everything else the meter's
if not {"--verbose", "--progress-bars"} & set(sys.argv):
    os.environ["TQDM_DISABLE"] = "1"

import fakecuda
import meter
import operators
import steps

fakecuda.torch.backends.cudnn.enabled = False  # its stub cannot plan; convolutions take PyTorch's own kernels

if "--loss-mask" in sys.argv:
    fakecuda.mark_all()  # dense models: a mixture's routing asks nonzero, too
if "--audios" in sys.argv:
    fakecuda.hear_all()

_mark = steps.Recorder.mark


def _mark_in_trace(recorder, phase) -> None:
    _mark(recorder, phase)
    fakecuda.mark_step(" ".join(str(word) for word in (recorder.modifier, recorder.subgraph, phase) if word))


steps.Recorder.mark = _mark_in_trace
_report = meter.report


def _report_with_reserved(args, about_model, steps, seconds) -> dict:
    result = _report(args, about_model, steps, seconds)
    result["gpu"]["peak_reserved_bytes"] = max(s["gpu"]["peak_reserved_bytes"] for s in steps)
    return result


meter.report = _report_with_reserved
if os.environ.get("CUDAMETER_OPERATORS"):
    operators.watch_job()
try:
    meter.main()
finally:  # of a job that ran out of memory too
    if fakecuda.LOG:
        fakecuda.write_trace()
