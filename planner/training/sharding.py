"""Training states over GPUs, CPU memory and NVMe: plain data parallelism, ZeRO 1 to 3, FSDP, with offload."""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.training.optimizers import SOURCES, Optimizer, state_bytes, states_bytes, step_bytes
from planner.training.schema import Offload, OffloadTo, Part, Precision, Sharding, TrainMethod

# DeepSpeed runtime/zero/config.py, offload_config.py: defaults, in elements.
REDUCE_BUCKET = 500_000_000
MAX_LIVE_PARAMETERS = 1_000_000_000
SUB_GROUP = 1_000_000_000
PARAM_BUFFERS, PARAM_BUFFER = 5, 100_000_000
PARAMS_IN_CPU = 1_000_000_000
OPTIMIZER_BUFFERS = 4

ZERO = ("zero1", "zero2", "zero3")
FSDP = ("fsdp", "fsdp-grad-op")
# What each process keeps whole, of the trained weights.
_WHOLE_WEIGHTS = ("none", "zero1", "zero2")
_WHOLE_GRADIENTS = ("none", "zero1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Bytes of each copy of one trained weight."""

    weight: int
    """What the forward reads, or is cast from."""
    master: int
    """A second copy that the optimizer updates; 0 where it updates the weight itself."""
    gradient: int
    state: int
    """Of the type that the optimizer sees."""
    gathered: int
    """Of the type that is gathered from shards and computed with."""


def copies_of(precision: Precision, sharding: Sharding, method: TrainMethod, offload: Offload = "none") -> Copies:
    """Which copies of a trained weight exist.

    mixed without DeepSpeed: torch.autocast and FSDP's MixedPrecision keep fp32 weights, gradients and states
    (accelerate upcasts them for FSDP).
    DeepSpeed in 16 bit, mixed or not: 16-bit weights and gradients, fp32 master weights; it casts every weight,
    adapters too (engine.py _cast_module_mixed_precision). Its bf16_master_weights_and_grads is off by default.
    DeepSpeed in fp32: stages 1 and 2 clone the shard all the same (stage_1_and_2.py single_partition_of_fp32_groups),
    stage 3 where it is offloaded (stage3.py _create_fp32_partitions).
    bf16: all 16-bit, no master. peft keeps adapters in fp32 (cast_adapter_dtype).
    """
    if sharding in ZERO:
        if precision != "fp32":
            return Copies(weight=2, master=4, gradient=2, state=4, gathered=2)
        shared = sharding == "zero3" and offload == "none"
        return Copies(weight=4, master=0 if shared else 4, gradient=4, state=4, gathered=4)
    if precision.endswith("mixed"):
        return Copies(weight=4, master=0, gradient=4, state=4, gathered=2)
    if precision == "bf16" and method == "full":
        return Copies(weight=2, master=0, gradient=2, state=2, gathered=2)
    return Copies(weight=4, master=0, gradient=4, state=4, gathered=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """What is sharded: a model's trained weights by shape, and the bytes of the frozen ones."""

    shapes: tuple[tuple[tuple[int, ...], int], ...]
    """(shape, copies) of the trained tensors."""
    trained: int
    frozen_bytes: int
    layer_weights: int
    """Of the largest decoder layer, frozen ones and adapters included."""
    layer_trained: int
    root_weights: int
    """Outside of decoder layers."""
    root_trained: int
    largest: int
    """Elements of the largest trained tensor."""
    optimizer: Optimizer
    layers_weights: int
    """Of all decoder layers."""
    embeddings: tuple[tuple[tuple[int, ...], int], ...] = ()
    """Those of `shapes` that belong to an nn.Embedding."""
    quantized: int = 0
    """Frozen weights in 4 bits, all of them in decoder layers."""
    quantized_bytes: int = 0
    """Theirs, of `frozen_bytes`."""

    @property
    def weights(self) -> int:
        """All, trained and frozen."""
        return self.root_weights + self.layers_weights


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


# accelerate/utils/deepspeed.py map_pytorch_optim_to_deepspeed: CPU Adam for AdamW, CPU Lion for bitsandbytes' Lion.
_STEPS_ON_CPU = ("adamw", "lion")


def refused(sharding: Sharding, offload: Offload, to: OffloadTo, optimizer: Optimizer = "adamw") -> str:
    """Why the libraries do not offer this combination; empty where they do.

    DeepSpeed runtime/zero/offload_config.py ("Valid only with stage 3"), runtime/engine.py _configure_optimizer (it
    raises for what is neither its CPU Adam nor its CPU Lion; accelerate puts CPU Adam in place of any other before
    that), torch FSDP CPUOffload (parameters, and gradients and step with them).
    """
    if offload == "none":
        return ""
    if sharding == "none":
        return "offload needs ZeRO or FSDP"
    if sharding in FSDP:
        return _fsdp_refuses(offload, to)
    if sharding != "zero3" and (offload != "optimizer" or to == "nvme"):
        return "weights and NVMe are offloaded by ZeRO-3 alone"
    if optimizer not in _STEPS_ON_CPU:
        return f"DeepSpeed steps on the CPU with its own Adam or Lion, not with {optimizer}: adamw or lion"
    return ""


def _fsdp_refuses(offload: Offload, to: OffloadTo) -> str:
    if to == "nvme":
        return "FSDP offloads to CPU memory alone"
    return "" if offload == "optimizer+params" else "FSDP offloads weights and optimizer together"


def place(
    states: States, copies: Copies, sharding: Sharding, offload: Offload, to: OffloadTo, gpus: int, ranks: int
) -> Placed:
    """The states of one GPU of `gpus`, and of the `ranks` processes of a node in its CPU memory and NVMe."""
    own = _Own(states, copies, sharding, gpus)
    on_gpu = offload == "none"
    params_away = offload == "optimizer+params"
    resident = [] if params_away else list(own.weights())
    resident += [*own.master(), *own.optimizer()] if on_gpu else list(own.offload_buffer())
    away = [*own.master(), *own.optimizer(), own.fp32_gradients()] if not on_gpu else []
    away += list(own.weights()) if params_away else []
    ram = away if to == "cpu" else list(own.nvme_buffers(params_away))
    ram = [*ram, *own.pinned()] if away else []
    gradients = own.gradients()
    if not on_gpu and sharding not in _WHOLE_GRADIENTS:
        gradients = 0
    return Placed(
        resident=tuple(resident),
        gradients=gradients,
        growing=sharding in _WHOLE_GRADIENTS,
        backward=tuple(own.backward()),
        step=tuple(own.step()) if on_gpu else (),
        ram=_times(ram, ranks),
        nvme=_times(away, ranks) if to == "nvme" else (),
    )


def _times(parts: list[Part], ranks: int) -> tuple[Part, ...]:
    return tuple(part.model_copy(update={"bytes": part.bytes * ranks}) for part in parts)


@dataclass(frozen=True, slots=True)
class _Own:
    """One process's share of the states."""

    states: States
    copies: Copies
    sharding: Sharding
    gpus: int

    def shard(self, count: int) -> int:
        """A process's share; flat shards are padded to equal length."""
        return -(-count // self.gpus)

    def weights(self) -> Iterator[Part]:
        trained, frozen = self.states.trained * self.copies.weight, self.frozen()
        what = f"trained: {self.copies.weight} bytes each"
        if self.sharding not in _WHOLE_WEIGHTS:
            trained, frozen, what = self.shard(trained), self.shard(frozen), f"{what}, 1/{self.gpus}"
        yield Part(name="trained weights", bytes=trained, source=what)
        if frozen:
            yield Part(name="frozen weights", bytes=frozen, source="as they are kept for the forward")

    def frozen(self) -> int:
        """All frozen weights; DeepSpeed casts what is not in 4 bits (engine.py _cast_module_mixed_precision)."""
        states = self.states
        if self.sharding not in ZERO:
            return states.frozen_bytes
        return states.quantized_bytes + (states.weights - states.trained - states.quantized) * self.copies.weight

    def master(self) -> Iterator[Part]:
        if self.copies.master:
            count = self.shard(self.states.trained) * self.copies.master
            yield Part(name="master weights", bytes=count, source=f"DeepSpeed, fp32, 1/{self.gpus}")

    def optimizer(self) -> Iterator[Part]:
        states = self.states
        if self.sharding == "none":
            count = states_bytes(states.optimizer, states.shapes, self.copies.state, states.embeddings)
        else:  # flat: a factored optimizer sees a vector, bitsandbytes no embedding
            count = state_bytes(states.optimizer, (self.shard(states.trained),), self.copies.state)
        if count:
            yield Part(name="optimizer states", bytes=count, source=SOURCES[states.optimizer])

    def gradients(self) -> int:
        whole = self.states.trained * self.copies.gradient
        return whole if self.sharding in _WHOLE_GRADIENTS else self.shard(whole)

    def fp32_gradients(self) -> Part:
        count = self.shard(self.states.trained) * max(4, self.copies.gradient)
        return Part(name="gradients", bytes=count, source="fp32, for the step on the CPU")

    def offload_buffer(self) -> Iterator[Part]:
        """stage_1_and_2.py temp_grad_buffer_for_gpu_offload; stage 3 has none."""
        if self.sharding in ("zero1", "zero2"):
            what = (
                "DeepSpeed temp_grad_buffer_for_gpu_offload: the gradient of the largest weight, on its way to the CPU"
            )
            yield Part(name="offload buffer", bytes=self.states.largest * self.copies.gradient, source=what)

    def pinned(self) -> Iterator[Part]:
        """What offload keeps in CPU memory beside the states, on NVMe or not.

        stage_1_and_2.py param_buffer_of_bit16_for_cpu_offload_groups (the updated shard, on its way to the GPU),
        stage3.py grad_partitions_flat_buffer (the shard's gradients as they come from the GPU).
        """
        share = self.shard(self.states.trained)
        if self.sharding == "zero3":
            what = "DeepSpeed grad_partitions_flat_buffer: the shard's gradients as the GPU makes them"
            yield Part(name="pinned gradients", bytes=share * self.copies.gradient, source=what)
        elif self.sharding in ZERO:
            what = "DeepSpeed param_buffer_of_bit16_for_cpu_offload_groups: the updated shard"
            yield Part(name="pinned weights", bytes=share * self.copies.weight, source=what)

    def backward(self) -> Iterator[Part]:
        """Buffers of forward and backward: buckets, gathered weights, gradients that are not yet sharded."""
        states, item = self.states, self.copies.gathered
        if self.sharding == "none" and self.gpus > 1:
            yield Part(
                name="gradient buckets",
                bytes=self.gradients(),
                source="torch DistributedDataParallel: 25 MiB each, all together the gradients once more "
                "(gradient_as_bucket_view=False)",
            )
        if self.sharding in ZERO:
            yield Part(
                name="gradient buckets",
                bytes=REDUCE_BUCKET * self.copies.gradient,
                source="DeepSpeed reduce_bucket_size 5e8 elements, allocated whole (contiguous_gradients)",
            )
        if self.sharding == "zero3":
            live = min(states.weights, max(MAX_LIVE_PARAMETERS, states.layer_weights))
            yield Part(
                name="gathered weights",
                bytes=self._gathered(live),
                source="DeepSpeed stage3_max_live_parameters 1e9 elements, or the whole model where smaller",
            )
        if self.sharding in FSDP:
            whole = self.sharding == "fsdp-grad-op"
            live = states.weights if whole else min(states.weights, states.root_weights + 2 * states.layer_weights)
            source = "FSDP SHARD_GRAD_OP: all" if whole else "FSDP: all outside of layers, a layer and the next one"
            yield Part(name="gathered weights", bytes=self._gathered(live), source=source)
            unsharded = max(states.layer_trained, states.root_trained) * item
            yield Part(
                name="unsharded gradients", bytes=unsharded, source="FSDP: of the largest unit, before reduction"
            )

    def _gathered(self, live: int) -> int:
        """Bytes of the `live` weights that are gathered at once, all outside of decoder layers first.

        Each in the type of the computation, but 4-bit ones as they are kept.
        """
        states, item = self.states, self.copies.gathered
        root = min(live, states.root_weights)
        if not states.quantized:
            return live * item
        layers = states.quantized_bytes + (states.layers_weights - states.quantized) * item
        return root * item + layers * (live - root) // states.layers_weights

    def step(self) -> Iterator[Part]:
        """stage_1_and_2.py step; stage3.py _prepare_fp32_grad_for_sub_group."""
        states = self.states
        share = self.shard(states.trained)
        if self.sharding in ZERO:
            count = min(share, SUB_GROUP) if self.sharding == "zero3" else share
            yield Part(
                name="fp32 gradients",
                bytes=count * 4,
                source="DeepSpeed copies the shard's gradients into one fp32 tensor for a step",
            )
        largest = states.largest if self.sharding == "none" else share
        temporaries = step_bytes(states.optimizer, largest, self.copies.state)
        if temporaries:
            yield Part(name="step temporaries", bytes=temporaries, source=f"{states.optimizer}, its largest tensor")
        elif self.sharding in ("zero2", "zero3") and self.copies.gradient == 2:
            count = min(share, SUB_GROUP) if self.sharding == "zero3" else share
            # Gone before the optimizer's own temporaries. Stage 1 frees the other shards' gradients before it.
            what = "DeepSpeed flattens the shard's gradients before it makes them fp32"
            yield Part(name="flat gradients", bytes=2 * count, source=what)

    def nvme_buffers(self, params_away: bool) -> Iterator[Part]:
        """offload_config.py buffer_count, buffer_size, max_in_cpu; stage3.py: buffers of the largest sub-group."""
        share = self.shard(self.states.trained)
        yield Part(
            name="optimizer buffers",
            bytes=OPTIMIZER_BUFFERS * min(share, SUB_GROUP) * 4,
            source="DeepSpeed offload_optimizer buffer_count 4, of a sub-group of 1e9 elements",
        )
        if params_away:
            kept = min(PARAMS_IN_CPU, self.shard(self.states.weights))
            yield Part(
                name="weight buffers",
                bytes=(PARAM_BUFFERS * PARAM_BUFFER + kept) * self.copies.gathered,
                source="DeepSpeed offload_param buffer_count 5 of 1e8 elements, and max_in_cpu 1e9",
            )
