"""Recorded streams of requests: what PyTorch's real caching allocator was asked, and what it asked of the driver.

A file is xz-compressed text: a line of JSON (the command that made it, the card, the settings), then words, in the
order in which things happened.

| word | meaning |
|---|---|
| `4096` | a block of so many bytes was asked for, on the stream of the request before |
| `s2` | the requests that follow come on this stream; at first on 0 |
| `f0` | the block that was got last of those still held is freed; `f1` the one before it, and so on |
| `+2097152` | a segment of so many bytes was taken from the driver |
| `-2097152` | one was given back |
| `o4096/512` | out of memory: so many bytes (rounded) were asked for in vain, with so many left to the driver |

Streams are numbered in the order of their addresses, by which the real allocator sorts its blocks; 0 is the default.
"""

import json
import lzma
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "recorded" / "traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One recorded stream."""

    command: str
    torch: str
    total: int
    """Bytes of the card."""
    context: int
    settings: str
    """PYTORCH_ALLOC_CONF."""
    words: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Into a compressed file."""
        head = {name: getattr(self, name) for name in ("command", "torch", "total", "context", "settings")}
        text = json.dumps(head) + "\n" + " ".join(self.words) + "\n"
        path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))

    @classmethod
    def read(cls, path: Path) -> "Trace":
        """From a compressed file."""
        head, _, words = lzma.decompress(path.read_bytes()).decode().partition("\n")
        return cls(**json.loads(head), words=tuple(words.split()))


def words_of(events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """From the events of CUDAMETER_TRACE (tests/cudameter/README.md)."""
    events = list(events)
    streams = {
        address: number for number, address in enumerate(sorted({0, *(e["stream"] for e in events if "stream" in e)}))
    }
    held: list[int] = []
    stream = 0
    for event in events:
        kind = event["event"]
        if kind in ("alloc", "oom") and streams[event["stream"]] != stream:
            stream = streams[event["stream"]]
            yield f"s{stream}"
        if kind == "alloc":
            held.append(event["address"])
            yield str(event["bytes"])
        elif kind == "freed" and event["address"] in held:
            back = held[::-1].index(event["address"])
            del held[len(held) - 1 - back]
            yield f"f{back}"
        elif kind == "segment":
            yield f"+{event['bytes']}"
        elif kind == "segment_free":
            yield f"-{event['bytes']}"
        elif kind == "oom":
            yield f"o{event['bytes']}/{event.get('free', event.get('address'))}"
