"""What a job carries between the CPU (or the disk) and the GPU: bytes each way, counted while it is simulated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes that were copied to the GPU and from it."""

    to_gpu: int = 0
    to_cpu: int = 0

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(self.to_gpu + other.to_gpu, self.to_cpu + other.to_cpu)

    def __sub__(self, other: "Moved") -> "Moved":
        return Moved(self.to_gpu - other.to_gpu, self.to_cpu - other.to_cpu)

    def __mul__(self, times: int) -> "Moved":
        return Moved(self.to_gpu * times, self.to_cpu * times)


NOTHING = Moved()


class Traffic:
    """The running sum. A step takes what was moved since the one before (`close_step`)."""

    def __init__(self) -> None:
        self.moved = Moved()

    def onto_gpu(self, nbytes: int) -> None:
        """A weight is onloaded, or a batch fetched."""
        self.moved += Moved(to_gpu=nbytes)

    def off_gpu(self, nbytes: int) -> None:
        """An output goes to the activation cache, or a compressed weight to its place."""
        self.moved += Moved(to_cpu=nbytes)

    def repeat(self, moved: Moved, times: int) -> None:
        """The same again, so many times: batches that are passed over."""
        self.moved += moved * times

    def close_step(self) -> Moved:
        """What was moved since the last call."""
        moved, self.moved = self.moved, Moved()
        return moved
