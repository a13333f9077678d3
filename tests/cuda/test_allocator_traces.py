"""The allocator beside PyTorch's own: the same segments taken and given back, at the same requests, to the byte."""

from pathlib import Path

import pytest

from planner.cuda.allocator import CachingAllocator, OutOfMemory
from planner.cuda.allocators import allocator
from planner.cuda.settings import AllocatorSettings
from tests.cuda.record_traces import recordings
from tests.cuda.traces import FOLDER, Trace

TRACES = {path.stem: path for path in sorted(FOLDER.glob("*.xz"))}


class Replay:
    """A trace, asked of the planner's allocator again."""

    def __init__(self, trace: Trace) -> None:
        settings = AllocatorSettings.parse(trace.settings)
        self.allocator: CachingAllocator = allocator(trace.total, trace.context, settings)
        self.held: list[tuple[int, int, int, int]] = []
        self.stream = 0
        self.ooms = 0
        self.seen = 0
        """Segments that were compared."""

    def run(self, words: tuple[str, ...]) -> None:
        """Everything in order; the words before a request say what the driver saw because of it."""
        expected: list[int] = []
        for at, word in enumerate(words):
            match word[0]:
                case "+" | "-":
                    expected.append(int(word))
                    continue
                case "s":
                    self.stream = int(word[1:])
                    continue
                case "f":
                    self.allocator.free(self.held.pop(-1 - int(word[1:])))
                case "o":
                    self._fail(word)
                case _:
                    self.held.append(self.allocator.malloc(int(word), self.stream))
            assert self.allocator.segments[self.seen :] == expected, f"word {at}, {word}"
            self.seen, expected = len(self.allocator.segments), []
        assert not expected

    def _fail(self, word: str) -> None:
        asked, _, free = word[1:].partition("/")
        with pytest.raises(OutOfMemory) as raised:
            self.allocator.malloc(int(asked), self.stream)
        assert raised.value.free == int(free)
        self.ooms += 1


@pytest.mark.parametrize("path", TRACES.values(), ids=TRACES)
def test_segments_are_taken_and_given_back_as_by_the_real_one(path: Path) -> None:
    trace = Trace.read(path)
    replay = Replay(trace)
    replay.run(trace.words)
    assert replay.seen == sum(word[0] in "+-" for word in trace.words) > 0
    assert replay.allocator.use.reserved == sum(int(word) for word in trace.words if word[0] in "+-")


def test_every_recording_is_there_and_says_how_it_was_made() -> None:
    expected = {recording.name: recording.command for recording in recordings()}
    assert {name: Trace.read(path).command for name, path in TRACES.items()} == expected


def test_the_recordings_meet_what_is_rare() -> None:
    """Segments given back, out of memory and several streams: in jobs, not in random streams alone."""
    jobs = [Trace.read(path).words for name, path in TRACES.items() if not name.startswith("random")]
    assert len(jobs) >= 10
    for mark in "-os":
        assert any(word.startswith(mark) for words in jobs for word in words), mark
