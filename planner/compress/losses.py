"""What a model loses while it is compressed: parameters that give way to smaller ones, modules that are dropped."""

from dataclasses import dataclass, field

from planner.timeline import Handle


@dataclass(slots=True)
class Losses:
    """Of weights that wait on the CPU; what is lost goes with what is onloaded."""

    model: Handle | None = None
    """The weights that wait on the CPU."""
    qparams: Handle | None = None
    """Scales and zero points where the model lies, but for those on the disk."""
    keeps_modules: bool = False
    """A modifier refers to modules that another one drops."""
    draining: set[Handle] = field(default_factory=set)
    """Holdings that each subgraph takes its own part of: all others are the same for equal subgraphs."""
    resized: dict[str, int] = field(default_factory=dict)
    """Bytes of parameters that took the place of ones of another size."""
    outgoing: int = 0
    """Bytes of weights that the model has lost, and that have not gone yet."""

    def replace(self, name: str, new: int, old: int, dropped: int) -> None:
        """A parameter of `old` bytes gives way to one of `new`, and weights of `dropped` bytes leave the model."""
        self.resized[name] = new
        self.outgoing += old + (0 if self.keeps_modules else dropped)

    def leave(self) -> int:
        """Bytes that go now."""
        going, self.outgoing = self.outgoing, 0
        return going
