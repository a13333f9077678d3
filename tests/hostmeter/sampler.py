"""A process of its own that reads another's resident memory every 10 ms.

    sampler.py PID OUT.csv [SECONDS]

OUT.csv gets one line a reading: CLOCK_MONOTONIC, resident, anonymous and file bytes (statm: resident = anonymous + file
+ shared, shared = file + shared). With SECONDS, every so often /proc/PID/smaps too, summed by kind of mapping, as one
JSON line in OUT.csv.smaps. Ends with the process that it watches.
"""

import json
import os
import sys
import time
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
PERIOD = 0.01


def main(pid: str, out: str, every: str = "0") -> None:
    """Read until the watched process is gone or whoever started this one is."""
    period, last = float(every), 0.0
    with Path(out).open("w", encoding="utf-8") as lines:
        while os.getppid() != 1:
            try:
                now = time.monotonic()  # before the reading, so that it belongs to the phase that has begun
                _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
                if period and now - last > period:
                    _append(out + ".smaps", [now, smaps(pid)])
                    last = time.monotonic()
            except (OSError, ValueError):
                return
            if resident == "0":
                return
            total, files = int(resident) * PAGE, int(shared) * PAGE
            lines.write(f"{now:.4f},{total},{total - files},{files}\n")
            lines.flush()
            time.sleep(PERIOD)


def _append(path: str, value: object) -> None:
    with Path(path).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(value) + "\n")


def smaps(pid: str) -> dict[str, list[int]]:
    """Resident, anonymous and huge-page bytes of the process by kind of mapping."""
    sums: dict[str, list[int]] = {}
    fields = {"Rss:": 0, "Anonymous:": 1, "AnonHugePages:": 2}
    counts = [0, 0, 0]
    with Path(f"/proc/{pid}/smaps").open() as lines:
        for line in lines:
            head = line.split(None, 5)
            if "-" in head[0] and not head[0].endswith(":"):  # a mapping's first line: its addresses
                counts = sums.setdefault(_kind(head[5].strip() if len(head) > 5 else ""), [0, 0, 0])
            elif head[0] in fields:
                counts[fields[head[0]]] += int(head[1]) * 1024
    return sums


def _kind(path: str) -> str:
    if not path:
        return "anonymous"
    if path.startswith("["):
        return path
    if path.endswith(".safetensors"):
        return "safetensors"
    if ".so" in path:
        _, found, package = path.partition("/site-packages/")
        return "so:" + (package.split("/")[0] if found else "system")
    return "other-file:" + path


if __name__ == "__main__":
    main(*sys.argv[1:])
