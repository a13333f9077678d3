"""The ways to share a training job's states out over GPUs: one row each, with its buffers and where they come from.

A strategy says which copies each process keeps whole and which in shards, and what its library holds beside them
(`Buffer`). sharding.py adds up; it asks rows, never names. A new strategy is one more row of STRATEGIES, and its name
in `schema.Sharding` and the command line's, which a test holds to the table.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from planner.training.optimizers import Optimizer, step_bytes
from planner.training.schema import Offload, OffloadTo, Precision, Sharding, TrainMethod
from planner.training.states import Copies, Shares

# DeepSpeed runtime/zero/config.py, offload_config.py: defaults, in elements.
REDUCE_BUCKET = 500_000_000
MAX_LIVE_PARAMETERS = 1_000_000_000
SUB_GROUP = 1_000_000_000
PARAM_BUFFERS, PARAM_BUFFER = 5, 100_000_000
PARAMS_IN_CPU = 1_000_000_000
OPTIMIZER_BUFFERS = 4

Where = Literal["backward", "step", "offloaded gpu", "offloaded ram", "nvme ram", "nvme params ram"]
"""On the GPU in forward and backward alone, or in the step alone; where something is offloaded: on the GPU all the
time, or in CPU memory; in CPU memory where the states, or the weights too, lie on NVMe."""


def always(_shares: Shares) -> bool:
    """For a buffer that is there whatever the job is."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """Something that a library holds on one process beside the states."""

    name: str
    bytes: Callable[[Shares], int]
    where: Where
    source: str
    when: Callable[[Shares], bool] = always


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStrategy:
    """One way to share states out."""

    name: Sharding
    copies: Callable[[Precision, TrainMethod, Offload], Copies]
    """Which copies of a trained weight exist."""
    whole_weights: bool
    """Every process keeps all weights; else its shard."""
    whole_gradients: bool
    """Every process keeps all gradients, which come up layer by layer in a backward; else its shard."""
    flat_states: bool
    """Master weights and optimizer states are shards of one flat vector."""
    casts_weights: bool = False
    """All weights that are not in 4 bits, frozen ones too, are cast to the copies' type, and no autocast is used."""
    buffers: tuple[Buffer, ...]
    refuses: Callable[[Offload, OffloadTo, Optimizer], str]
    """Why the library does not offer this offload; empty where it does."""


# ---------------------------------------------------------------------- copies
def torch_copies(precision: Precision, method: TrainMethod, _offload: Offload) -> Copies:
    """Without DeepSpeed.

    mixed: torch.autocast and FSDP's MixedPrecision keep fp32 weights, gradients and states (accelerate upcasts them
    for FSDP). bf16: all 16-bit, no master. peft keeps adapters in fp32 (cast_adapter_dtype).
    """
    if precision.endswith("mixed"):
        return Copies(weight=4, master=0, gradient=4, state=4, gathered=2)
    if precision == "bf16" and method == "full":
        return Copies(weight=2, master=0, gradient=2, state=2, gathered=2)
    return Copies(weight=4, master=0, gradient=4, state=4, gathered=4)


def cloned_copies(precision: Precision, _method: TrainMethod, _offload: Offload) -> Copies:
    """DeepSpeed: in 16 bit, mixed or not, 16-bit weights and gradients and fp32 master weights; it casts every weight,
    adapters too (engine.py _cast_module_mixed_precision). Its bf16_master_weights_and_grads is off by default.

    In fp32 stages 1 and 2 clone the shard all the same (stage_1_and_2.py single_partition_of_fp32_groups).
    """
    if precision != "fp32":
        return Copies(weight=2, master=4, gradient=2, state=4, gathered=2)
    return Copies(weight=4, master=4, gradient=4, state=4, gathered=4)


def stage3_copies(precision: Precision, method: TrainMethod, offload: Offload) -> Copies:
    """In fp32 stage 3 clones the shard only where it is offloaded (stage3.py _create_fp32_partitions)."""
    copies = cloned_copies(precision, method, offload)
    return replace(copies, master=0) if precision == "fp32" and offload == "none" else copies


# ---------------------------------------------------------------------- offloads
# accelerate/utils/deepspeed.py map_pytorch_optim_to_deepspeed: CPU Adam for AdamW, CPU Lion for bitsandbytes' Lion.
_STEPS_ON_CPU = ("adamw", "lion")


def refuses_all(_offload: Offload, _to: OffloadTo, _optimizer: Optimizer) -> str:
    """Plain data parallelism has no offload."""
    return "offload needs ZeRO or FSDP"


def refuses_stage_1_and_2(offload: Offload, to: OffloadTo, optimizer: Optimizer) -> str:
    """DeepSpeed runtime/zero/offload_config.py ("Valid only with stage 3")."""
    if offload != "optimizer" or to == "nvme":
        return "weights and NVMe are offloaded by ZeRO-3 alone"
    return refuses_stage_3(offload, to, optimizer)


def refuses_stage_3(_offload: Offload, _to: OffloadTo, optimizer: Optimizer) -> str:
    """DeepSpeed runtime/engine.py _configure_optimizer raises for what is neither its CPU Adam nor its CPU Lion;
    accelerate puts CPU Adam in place of any other before that."""
    if optimizer not in _STEPS_ON_CPU:
        return f"DeepSpeed steps on the CPU with its own Adam or Lion, not with {optimizer}: adamw or lion"
    return ""


def refuses_fsdp(offload: Offload, to: OffloadTo, _optimizer: Optimizer) -> str:
    """torch FSDP CPUOffload: parameters, and gradients and step with them."""
    if to == "nvme":
        return "FSDP offloads to CPU memory alone"
    return "" if offload == "optimizer+params" else "FSDP offloads weights and optimizer together"


# ---------------------------------------------------------------------- buffers
def temporaries(shares: Shares, largest: int) -> int:
    """What the optimizer's step works with on a tensor of so many weights."""
    return step_bytes(shares.states.optimizer, largest, shares.copies.state)


def _is_flattened(shares: Shares) -> bool:
    """16-bit gradients are gone before the optimizer's own temporaries, so these hide them."""
    return shares.copies.gradient == 2 and not temporaries(shares, shares.trained)


DDP_BUCKETS = Buffer(
    name="gradient buckets",
    where="backward",
    when=lambda shares: shares.gpus > 1,
    bytes=lambda shares: shares.states.trained * shares.copies.gradient,
    source="torch DistributedDataParallel: 25 MiB each, all together the gradients once more "
    "(gradient_as_bucket_view=False)",
)
DEEPSPEED_BUCKETS = Buffer(
    name="gradient buckets",
    where="backward",
    bytes=lambda shares: REDUCE_BUCKET * shares.copies.gradient,
    source="DeepSpeed reduce_bucket_size 5e8 elements, allocated whole (contiguous_gradients)",
)
MAX_LIVE = Buffer(
    name="gathered weights",
    where="backward",
    bytes=lambda shares: shares.gathered_bytes(
        min(shares.states.weights, max(MAX_LIVE_PARAMETERS, shares.states.layer_weights))
    ),
    source="DeepSpeed stage3_max_live_parameters 1e9 elements, or the whole model where smaller",
)
TWO_LAYERS = Buffer(
    name="gathered weights",
    where="backward",
    bytes=lambda shares: shares.gathered_bytes(
        min(shares.states.weights, shares.states.root_weights + 2 * shares.states.layer_weights)
    ),
    source="FSDP: all outside of layers, a layer and the next one",
)
ALL_WEIGHTS = Buffer(
    name="gathered weights",
    where="backward",
    bytes=lambda shares: shares.gathered_bytes(shares.states.weights),
    source="FSDP SHARD_GRAD_OP: all",
)
UNSHARDED = Buffer(
    name="unsharded gradients",
    where="backward",
    bytes=lambda shares: max(shares.states.layer_trained, shares.states.root_trained) * shares.copies.gathered,
    source="FSDP: of the largest unit, before reduction",
)
# stage_1_and_2.py step; stage3.py _prepare_fp32_grad_for_sub_group
FP32_GRADIENTS = Buffer(
    name="fp32 gradients",
    where="step",
    bytes=lambda shares: shares.trained * 4,
    source="DeepSpeed copies the shard's gradients into one fp32 tensor for a step",
)
# stage_1_and_2.py, stage3.py; stage 1 frees the other shards' gradients before it
FLAT_GRADIENTS = Buffer(
    name="flat gradients",
    where="step",
    when=_is_flattened,
    bytes=lambda shares: 2 * shares.trained,
    source="DeepSpeed flattens the shard's gradients before it makes them fp32",
)
GRADIENT_BUFFER = Buffer(
    name="offload buffer",
    where="offloaded gpu",
    bytes=lambda shares: shares.states.largest * shares.copies.gradient,
    source="DeepSpeed temp_grad_buffer_for_gpu_offload: the gradient of the largest weight, on its way to the CPU",
)
# stage_1_and_2.py: the updated shard, on its way to the GPU
PINNED_WEIGHTS = Buffer(
    name="pinned weights",
    where="offloaded ram",
    bytes=lambda shares: shares.trained * shares.copies.weight,
    source="DeepSpeed param_buffer_of_bit16_for_cpu_offload_groups: the updated shard",
)
# stage3.py: the shard's gradients as they come from the GPU
PINNED_GRADIENTS = Buffer(
    name="pinned gradients",
    where="offloaded ram",
    bytes=lambda shares: shares.trained * shares.copies.gradient,
    source="DeepSpeed grad_partitions_flat_buffer: the shard's gradients as the GPU makes them",
)
# offload_config.py buffer_count, buffer_size, max_in_cpu; stage3.py: buffers of the largest sub-group
OPTIMIZER_BUFFER = Buffer(
    name="optimizer buffers",
    where="nvme ram",
    bytes=lambda shares: OPTIMIZER_BUFFERS * min(shares.trained, SUB_GROUP) * 4,
    source="DeepSpeed offload_optimizer buffer_count 4, of a sub-group of 1e9 elements",
)
WEIGHT_BUFFER = Buffer(
    name="weight buffers",
    where="nvme params ram",
    bytes=lambda shares: (
        (PARAM_BUFFERS * PARAM_BUFFER + min(PARAMS_IN_CPU, shares.shard(shares.states.weights)))
        * shares.copies.gathered
    ),
    source="DeepSpeed offload_param buffer_count 5 of 1e8 elements, and max_in_cpu 1e9",
)

# ---------------------------------------------------------------------- the rows
NONE = TrainingStrategy(
    name="none",
    copies=torch_copies,
    whole_weights=True,
    whole_gradients=True,
    flat_states=False,
    buffers=(DDP_BUCKETS,),
    refuses=refuses_all,
)
ZERO1 = TrainingStrategy(
    name="zero1",
    copies=cloned_copies,
    whole_weights=True,
    whole_gradients=True,
    flat_states=True,
    casts_weights=True,
    buffers=(DEEPSPEED_BUCKETS, FP32_GRADIENTS, GRADIENT_BUFFER, PINNED_WEIGHTS),
    refuses=refuses_stage_1_and_2,
)
ZERO2 = replace(ZERO1, name="zero2", whole_gradients=False, buffers=(*ZERO1.buffers, FLAT_GRADIENTS))
ZERO3 = TrainingStrategy(
    name="zero3",
    copies=stage3_copies,
    whole_weights=False,
    whole_gradients=False,
    flat_states=True,
    casts_weights=True,
    buffers=(
        DEEPSPEED_BUCKETS,
        MAX_LIVE,
        # stage 3 steps sub-group by sub-group
        replace(FP32_GRADIENTS, bytes=lambda shares: min(shares.trained, SUB_GROUP) * 4),
        replace(FLAT_GRADIENTS, bytes=lambda shares: min(shares.trained, SUB_GROUP) * 2),
        PINNED_GRADIENTS,
        OPTIMIZER_BUFFER,
        WEIGHT_BUFFER,
    ),
    refuses=refuses_stage_3,
)
FSDP = TrainingStrategy(
    name="fsdp",
    copies=torch_copies,
    whole_weights=False,
    whole_gradients=False,
    flat_states=True,
    buffers=(TWO_LAYERS, UNSHARDED),
    refuses=refuses_fsdp,
)
FSDP_GRAD_OP = replace(FSDP, name="fsdp-grad-op", buffers=(ALL_WEIGHTS, UNSHARDED))

STRATEGIES: dict[Sharding, TrainingStrategy] = {
    strategy.name: strategy for strategy in (NONE, ZERO1, ZERO2, ZERO3, FSDP, FSDP_GRAD_OP)
}
