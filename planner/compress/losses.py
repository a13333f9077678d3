"""What a model loses while it is compressed: parameters that give way to smaller ones, modules that are dropped, what
is trained elsewhere than it lies."""

from dataclasses import dataclass, field

from planner.compress.parts import EXPERTS
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
    trained: Handle | None = None
    """Of weights that lie on the GPU, those of layers that are trained, and"""
    trained_experts: Handle | None = None
    """experts that the library made Linears of."""
    matrices: dict[str, Handle] = field(default_factory=dict)
    """Matrices of transforms that lie on the GPU and are shared by hooks, by what the books call them."""
    taken: set[str] = field(default_factory=set)
    """Those of them that lie on the CPU since a layer was trained, and"""
    trained_layers: set[str] = field(default_factory=set)
    """such layers, whose hooks have each its own on the GPU."""
    outgoing: int = 0
    """Bytes of weights that the model has lost, and that have not gone yet."""

    def replace(self, name: str, new: int, old: int, dropped: int) -> None:
        """A parameter of `old` bytes gives way to one of `new`, and weights of `dropped` bytes leave the model."""
        self.resized[name] = new
        self.outgoing += old + (0 if self.keeps_modules else dropped)

    def home_of(self, trained: str) -> Handle | None:
        """Where this weight of a layer that is trained is counted while the layer lies on the GPU."""
        is_made = self.trained_experts is not None and EXPERTS in trained
        return self.trained_experts if is_made else self.trained

    def is_taken(self, matrix: str, module: str) -> bool:
        """The module's hook finds this matrix on the CPU, though it was made on the GPU."""
        return matrix in self.taken and not any(f"{module}.".startswith(f"{layer}.") for layer in self.trained_layers)

    def leave(self) -> int:
        """Bytes that go now."""
        going, self.outgoing = self.outgoing, 0
        return going
