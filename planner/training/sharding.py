"""Training states over GPUs, CPU memory and NVMe: what the rows of strategies.py add up to on one GPU and one node."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from planner.training.optimizers import SOURCES, Optimizer, state_bytes, states_bytes
from planner.training.schema import Offload, OffloadTo, Part, Precision, Sharding, TrainMethod
from planner.training.states import Copies, Shares, States
from planner.training.strategies import STRATEGIES, TrainingStrategy, Where, temporaries


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where the states of one process lie: bytes of named parts."""

    resident: tuple[Part, ...]
    """On the GPU all the time."""
    gradients: int
    """On the GPU at the end of a backward."""
    growing: bool
    """Gradients come up layer by layer where every backward starts without them."""
    backward: tuple[Part, ...]
    """On the GPU in forward and backward alone."""
    step: tuple[Part, ...]
    """On the GPU in the optimizer's step alone."""
    ram: tuple[Part, ...]
    """In CPU memory."""
    nvme: tuple[Part, ...]


def copies_of(precision: Precision, sharding: Sharding, method: TrainMethod, offload: Offload = "none") -> Copies:
    """Which copies of a trained weight exist."""
    return STRATEGIES[sharding].copies(precision, method, offload)


def refused(sharding: Sharding, offload: Offload, to: OffloadTo, optimizer: Optimizer = "adamw") -> str:
    """Why the libraries do not offer this combination; empty where they do."""
    return "" if offload == "none" else STRATEGIES[sharding].refuses(offload, to, optimizer)


def place(
    states: States, copies: Copies, sharding: Sharding, offload: Offload, to: OffloadTo, gpus: int, ranks: int
) -> Placed:
    """The states of one GPU of `gpus`, and of the `ranks` processes of a node in its CPU memory and NVMe."""
    strategy = STRATEGIES[sharding]
    process = _Process(strategy, Shares(states, copies, gpus))
    on_gpu, params_away = offload == "none", offload == "optimizer+params"
    weights = list(process.weights())
    updated = [*process.master(), *process.optimizer()]
    away = [] if on_gpu else [*updated, process.fp32_gradients()]
    away += weights if params_away else []
    resident = [] if params_away else weights
    resident += updated if on_gpu else list(process.buffers("offloaded gpu"))
    return Placed(
        resident=tuple(resident),
        gradients=process.gradients() if on_gpu or strategy.whole_gradients else 0,
        growing=strategy.whole_gradients,
        backward=tuple(process.buffers("backward")),
        step=tuple(process.step()) if on_gpu else (),
        ram=_times(process.in_ram(away, to, params_away), ranks),
        nvme=_times(away, ranks) if to == "nvme" else (),
    )


def _times(parts: Iterable[Part], ranks: int) -> tuple[Part, ...]:
    return tuple(part.model_copy(update={"bytes": part.bytes * ranks}) for part in parts)


@dataclass(frozen=True, slots=True)
class _Process:
    """What one process keeps under a strategy."""

    strategy: TrainingStrategy
    shares: Shares

    def weights(self) -> Iterator[Part]:
        shares, item = self.shares, self.shares.copies.weight
        trained, frozen, source = shares.states.trained * item, self._frozen(), f"trained: {item} bytes each"
        if not self.strategy.whole_weights:
            trained, frozen, source = shares.shard(trained), shares.shard(frozen), f"{source}, 1/{shares.gpus}"
        yield Part(name="trained weights", bytes=trained, source=source)
        if frozen:
            yield Part(name="frozen weights", bytes=frozen, source="as they are kept for the forward")

    def _frozen(self) -> int:
        """Bytes of all frozen weights; those in 4 bits are never cast."""
        states = self.shares.states
        if not self.strategy.casts_weights:
            return states.frozen_bytes
        others = states.weights - states.trained - states.quantized
        return states.quantized_bytes + others * self.shares.copies.weight

    def master(self) -> Iterator[Part]:
        shares = self.shares
        if shares.copies.master:
            count = shares.trained * shares.copies.master
            yield Part(name="master weights", bytes=count, source=f"DeepSpeed, fp32, 1/{shares.gpus}")

    def optimizer(self) -> Iterator[Part]:
        """Of a flat vector a factored optimizer sees no rows and columns, and bitsandbytes no embedding."""
        shares, states = self.shares, self.shares.states
        if self.strategy.flat_states:
            count = state_bytes(states.optimizer, (shares.trained,), shares.copies.state)
        else:
            count = states_bytes(states.optimizer, states.shapes, shares.copies.state, states.embeddings)
        if count:
            yield Part(name="optimizer states", bytes=count, source=SOURCES[states.optimizer])

    def gradients(self) -> int:
        whole = self.shares.states.trained * self.shares.copies.gradient
        return whole if self.strategy.whole_gradients else self.shares.shard(whole)

    def fp32_gradients(self) -> Part:
        count = self.shares.trained * max(4, self.shares.copies.gradient)
        return Part(name="gradients", bytes=count, source="fp32, for the step on the CPU")

    def buffers(self, where: Where) -> Iterator[Part]:
        """What the library holds there, in the order of the strategy's row."""
        for buffer in self.strategy.buffers:
            if buffer.where == where and buffer.when(self.shares):
                yield Part(name=buffer.name, bytes=buffer.bytes(self.shares), source=buffer.source)

    def step(self) -> Iterator[Part]:
        """The library's buffers and the optimizer's own temporaries."""
        yield from self.buffers("step")
        states = self.shares.states
        count = temporaries(self.shares, self.shares.trained if self.strategy.flat_states else states.largest)
        if count:
            yield Part(name="step temporaries", bytes=count, source=f"{states.optimizer}, its largest tensor")

    def in_ram(self, away: list[Part], to: OffloadTo, params_away: bool) -> Iterator[Part]:
        """What is offloaded to the CPU, or the buffers on its way to NVMe, and what offload pins beside it."""
        if not away:
            return
        if to == "cpu":
            yield from away
        else:
            yield from self.buffers("nvme ram")
            if params_away:
                yield from self.buffers("nvme params ram")
        yield from self.buffers("offloaded ram")
