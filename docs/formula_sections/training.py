"""What training keeps: copies of weights, states, activations, shards, adapters."""

from itertools import product
from typing import get_args

from worked_examples import real

from formula_sections.text import binary, decimal, table
from planner.serving.engines.facts import PYTORCH_CONTEXT
from planner.serving.rules_of_thumb import training_rule
from planner.training.optimizers import SOURCES, Optimizer, states_bytes
from planner.training.schema import Precision, Sharding, TrainMethod, TrainOptions
from planner.training.sharding import copies_of
from planner.training.trace import Attention, Checkpointing

_MODEL, _TOKENS, _GPUS = "llama-3-8b", 2048, 8
_SHARDED: tuple[Sharding, ...] = ("none", "zero2", "fsdp")
_ADAPTED: tuple[TrainMethod, ...] = ("lora", "qlora")


def section() -> str:
    return "\n".join(["## Training\n", _total(), _copies(), _optimizers(), _activations(), _shards(), _adapters()])


def _total() -> str:
    return f"""`forward and backward = weights + master weights + optimizer states + gradients + buffers
+ activations + context`;
`optimizer step = the same without activations, with all gradients and the step's own temporaries`; a GPU needs the
larger. Gradients of a step without accumulation come up layer by layer while activations go: the highest point of that
walk counts, not the sum of both. The context is {binary(PYTORCH_CONTEXT)} GiB, assumed.
Source: `planner/training/{{train,sharding,strategies,trace}}.py`.
"""


def _copies() -> str:
    rows = []
    for precision, sharding in product(get_args(Precision), _SHARDED):
        c = copies_of(precision, sharding, "full")
        rows.append((precision, sharding, c.weight, c.master or "-", c.gradient, c.state, c.gathered))
    head = ("precision", "sharding", "weight", "master", "gradient", "a state of AdamW", "gathered")
    return (
        "### Copies of a trained weight\n\nBytes of each. Mixed precision is torch.autocast over fp32 weights without "
        "DeepSpeed, 16-bit weights with fp32 master\nweights with it (all ZeRO stages; bf16 is the same there). In "
        "fp32 stages 1 and 2 copy the shard too, stage 3 where it\nis offloaded. LoRA keeps adapters in fp32 "
        "(DeepSpeed: 16 bit and fp32 master).\n"
        "Source: `planner/training/strategies.py torch_copies, cloned_copies, stage3_copies`.\n\n"
        + table(head, rows, left=2)
    )


def _optimizers() -> str:
    states = real.states(_MODEL)
    rows = []
    for name in get_args(Optimizer):
        count = states_bytes(name, states.shapes, 4, states.embeddings)
        rows.append((name, SOURCES[name], f"{count / states.trained:.4f}", decimal(count)))
    return f"""### Optimizer states

For a tensor of n weights, `item` bytes each (the copy that the optimizer sees):

- AdamW: `2 n item + 4`; 8-bit AdamW: `2 (n + 4 ceil(n / 256))`, below 4,096 weights and for embeddings `8 n`
- Adafactor: `4 (rows + columns)` for a matrix, `4 n` for a vector; in shards weights are flat, so `4 n`
- Lion (bitsandbytes): `4 n`; SGD: 0, with momentum `n item`

Source: `planner/training/optimizers.py`. {_MODEL} with fp32 weights:

""" + table(("optimizer", "what it keeps", "bytes per weight", "GB"), rows, left=2)


def _kept(attention: Attention, checkpointing: Checkpointing) -> int:
    options = TrainOptions(
        precision="bf16", seq_len=_TOKENS, attention=attention, checkpointing=checkpointing, optimizer="sgd"
    )
    return real.trained(_MODEL, options).activations.kept_bytes


def _activations() -> str:
    served = real.served(_MODEL)[0]
    heads, hidden, layers = served.attention_heads, served.hidden_size, served.layers
    unit = _TOKENS * hidden * layers
    scores = 5 * heads * _TOKENS * _TOKENS * layers
    closed = {
        ("eager", "none"): 34 * unit + scores,
        ("eager", "selective"): 34 * unit,
        ("flash", "none"): 34 * unit,
        ("eager", "full"): 2 * unit,
        ("flash", "full"): 2 * unit,
    }
    pairs: list[tuple[Attention, Checkpointing]] = [
        ("eager", "none"), ("eager", "selective"), ("eager", "full"), ("flash", "none"), ("flash", "full"),
    ]  # fmt: skip
    rows = [(a, c, binary(_kept(a, c)), binary(closed[a, c])) for a, c in pairs]
    return f"""### Activations that the backward needs

Forward and backward of each kind of layer run on tensors without data; what autograd holds when the forward is over is
what counts (`planner/training/tracing.py`). For a GPT layer (LayerNorm, GELU, MLP of four times the hidden size,
dropout) that gives the closed form of arXiv 2205.05198, and a test holds it to that:

`bytes of a layer = s b h (34 + 5 a s / h)` with s tokens, b samples, h hidden size, a heads, 16-bit activations:
`5 a s^2 b` are the scores, their softmax and its dropout mask. Selective checkpointing recomputes the scores:
`34 s b h`.
Full checkpointing keeps a layer's input: `2 s b h`. Flash attention keeps no scores.

A model of another make keeps something else: no dropout, a gated MLP of another width, norms in fp32, and logits and
loss outside of the layers (`tokens x vocabulary`, 16 bit and fp32). {_MODEL}, {_TOKENS:,} tokens, batch 1, bf16:

""" + table(("attention", "checkpointing", "traced, whole model, GiB", "closed form, layers, GiB"), rows, left=2)


def _shards() -> str:
    plan = real.trained(_MODEL, TrainOptions(seq_len=_TOKENS, gpus=_GPUS, checkpointing="full"))
    rows = []
    for choice in plan.choices:
        if choice.per_gpu_bytes is not None:
            to = choice.offload if choice.offload_to is None else f"{choice.offload} to {choice.offload_to}"
            cells = (
                binary(count or 0) for count in (choice.per_gpu_bytes, choice.node_ram_bytes, choice.node_nvme_bytes)
            )
            rows.append((choice.sharding, to, *cells))
    return f"""### ZeRO and FSDP over N GPUs

A shard is `ceil(weights / N)`, padded to equal length.

| what | split over the GPUs by |
|---|---|
| optimizer states and master weights | all ZeRO stages, FSDP |
| gradients | ZeRO-2, ZeRO-3, FSDP |
| weights | ZeRO-3, FSDP (`fsdp-grad-op` gathers them all for forward and backward) |

Buffers: DeepSpeed's bucket of 5e8 elements; ZeRO-3's gathered weights, the larger of 1e9 elements and a layer; FSDP's
gathered weights (all outside of layers, a layer and the next one) and unsharded gradients of the largest unit; plain
data parallelism's buckets, the gradients once more. Offload moves states (and weights) to CPU memory or NVMe, for all
processes of a node, and DeepSpeed pins a 16-bit copy of the shard in CPU memory.
Source: `planner/training/sharding.py place`, `planner/training/strategies.py`.
{_MODEL}, full, AdamW, bf16-mixed, {_TOKENS:,} tokens, full checkpointing, {_GPUS} GPUs in one node:

""" + table(("sharding", "offload", "per GPU, GiB", "node RAM, GiB", "node NVMe, GiB"), rows, left=2)


def _adapters() -> str:
    rows = []
    for rank in (8, 16, 64):
        for method in _ADAPTED:
            options = TrainOptions(method=method, rank=rank, seq_len=_TOKENS, checkpointing="full")
            plan = real.trained(_MODEL, options)
            rows.append((method, rank, f"{plan.model.trained_parameters:,}", binary(plan.per_gpu.total_bytes)))
    rule = training_rule(2 * real.served(_MODEL)[0].parameters, "adamw")
    return (
        f"""### LoRA and QLoRA

An adapter of rank r on a Linear of `rows x columns` has `r x (rows + columns)` weights, in fp32, with gradients and
states of its own; the base model is frozen, in 16 bit (LoRA) or with its Linears in NF4 with double quantization and
all else in fp32 (QLoRA, with the largest Linear in 16 bit once while it is used; DeepSpeed casts all that is not NF4 to
16 bit). Source:
`planner/training/{{lora,trained}}.py`.
{_MODEL}, AdamW, {_TOKENS:,} tokens, full checkpointing, adapters on all Linears of the layers:

"""
        + table(("method", "rank", "trained weights", "per GPU, GiB"), rows)
        + "\nThe parameter guide's rule for full training beside it (`training_rule`, AdamW, bf16 weights,\n"
        f"no activations): {binary(rule['lower'])} to {binary(rule['upper'])} GiB.\n"
    )
