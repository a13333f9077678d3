"""What a training job keeps of a model between steps, before anybody says how it is shared out."""

from dataclasses import dataclass

from planner.training.optimizers import Optimizer

Shapes = tuple[tuple[tuple[int, ...], int], ...]
"""(shape, copies) of tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Bytes of each copy of one trained weight."""

    weight: int
    """The copy that the forward reads, or casts from."""
    master: int
    """A second copy that the optimizer updates; 0 where it updates the weight itself."""
    gradient: int
    state: int
    """One element of an optimizer state, in the type that the optimizer sees."""
    gathered: int
    """The copy that is gathered from shards and computed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """A model's trained weights by shape, and the sizes of its frozen ones. Sizes are numbers of weights, not bytes."""

    shapes: Shapes
    """The trained tensors."""
    trained: int
    frozen_bytes: int
    layer_weights: int
    """Weights of the largest decoder layer, frozen ones and adapters included."""
    layer_trained: int
    root_weights: int
    """Weights outside of decoder layers."""
    root_trained: int
    largest: int
    """The largest trained tensor."""
    optimizer: Optimizer
    layers_weights: int
    """Weights of all decoder layers together."""
    embeddings: Shapes = ()
    """Those of `shapes` that belong to an nn.Embedding."""
    quantized: int = 0
    """Frozen weights in 4 bits, all of them in decoder layers."""
    quantized_bytes: int = 0
    """The part of `frozen_bytes` that the weights in 4 bits take."""

    @property
    def weights(self) -> int:
        """All, trained and frozen."""
        return self.root_weights + self.layers_weights


@dataclass(frozen=True, slots=True)
class Shares:
    """The states of a job on one of its processes, one process for each GPU."""

    states: States
    copies: Copies
    gpus: int

    def shard(self, count: int) -> int:
        """A process's part of `count`; flat shards are padded to equal length."""
        return -(-count // self.gpus)

    @property
    def trained(self) -> int:
        """Trained weights whose shard this process has."""
        return self.shard(self.states.trained)

    def gathered_bytes(self, live: int) -> int:
        """Bytes of the `live` weights that are gathered at once, all outside of decoder layers first.

        Each in the type of the computation, but 4-bit ones as they are kept.
        """
        states, item = self.states, self.copies.gathered
        root = min(live, states.root_weights)
        if not states.quantized:
            return live * item
        layers = states.quantized_bytes + (states.layers_weights - states.quantized) * item
        return root * item + layers * (live - root) // states.layers_weights
