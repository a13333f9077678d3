"""What optimizers keep and what their step works with, tensor by tensor, as the real ones do."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Literal

Optimizer = Literal["adamw", "adamw8bit", "adafactor", "lion", "sgd", "sgd-momentum"]

BLOCK = 256  # bitsandbytes optim/optimizer.py Optimizer2State.init_state: blocksize
SMALLEST_8BIT = 4096  # the same: min_8bit_size
STEP = 4  # torch/optim/adam.py _init_group: `step`, an fp32 scalar for each tensor

# What transformers' Trainer makes of --optim (trainer_optimizer.py), and what each keeps.
SOURCES: Mapping[Optimizer, str] = {
    "adamw": "torch AdamW, fused: exp_avg and exp_avg_sq in the weight's type",
    "adamw8bit": "bitsandbytes AdamW8bit: two bytes a weight, fp32 scales of blocks of 256; fp32 states for embeddings "
    "and under 4096 weights",
    "adafactor": "transformers Adafactor without momentum: fp32 row and column of a matrix, the whole of a vector",
    "lion": "bitsandbytes Lion: one fp32 moment",
    "sgd": "torch SGD without momentum: nothing",
    "sgd-momentum": "torch SGD: one buffer in the weight's type",
}


def state_bytes(optimizer: Optimizer, shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes kept for one tensor of weights of `itemsize` bytes each.

    torch/optim/adam.py, sgd.py; transformers/optimization.py Adafactor.step (gradients in 16 bit are made fp32
    first, and states follow them); bitsandbytes optim/optimizer.py Optimizer2State, Optimizer1State.
    """
    count = prod(shape)
    if optimizer == "adamw":
        return 2 * count * itemsize + STEP
    if optimizer == "adamw8bit":
        return 8 * count if count < SMALLEST_8BIT else 2 * (count + 4 * -(-count // BLOCK))
    if optimizer == "adafactor":
        return 4 * count if len(shape) < 2 else 4 * (count // shape[-1] + count // shape[-2])
    if optimizer == "lion":
        return 4 * count
    return count * itemsize if optimizer == "sgd-momentum" else 0


def states_bytes(
    optimizer: Optimizer,
    shapes: Iterable[tuple[tuple[int, ...], int]],
    itemsize: int,
    embeddings: Iterable[tuple[tuple[int, ...], int]] = (),
) -> int:
    """Bytes kept for all (shape, copies); `embeddings`: those of `shapes` that nn.Embedding owns.

    transformers/trainer.py Trainer.create_optimizer: every nn.Embedding is registered with optim_bits 32 where the
    optimizer is a bitsandbytes one of 8 bits.
    """
    total = sum(copies * state_bytes(optimizer, shape, itemsize) for shape, copies in shapes)
    if optimizer != "adamw8bit":
        return total
    return total + sum(
        copies * (8 * prod(shape) - state_bytes(optimizer, shape, itemsize)) for shape, copies in embeddings
    )


def step_bytes(optimizer: Optimizer, largest: int, itemsize: int) -> int:
    """Bytes that the step works with, beside weights, gradients and states; `largest`: weights of the largest tensor.

    Fused AdamW (the Trainer's default since torch 2.8) and bitsandbytes' kernels take none. foreach AdamW would take
    the weights once more (torch/optim/adam.py _multi_tensor_adam exp_avg_sq_sqrt). Adafactor goes tensor by tensor:
    `grad**2` and `update` in fp32, and fp32 copies of weight and gradient where these have 16 bits.
    """
    if optimizer != "adafactor":
        return 0
    return largest * 4 * (2 if itemsize == 4 else 4)
