"""Several devices, the ceiling of decoding, and bits per weight for a budget."""

from worked_examples import real

from formula_sections.text import binary, decimal, table
from planner.formats.mixed import default_order
from planner.formats.registry import find_format
from planner.hardware import find_gpu
from planner.serving.bit_budget import budget_of, make_ladder, most_bits
from planner.serving.engines import LLAMA_CPP, VLLM
from planner.serving.schema import ServeOptions, Serving, SplitMode
from planner.serving.serve import size, size_stored
from planner.serving.speed import CPU_BANDWIDTH, experts_read
from planner.serving.split import place

_CARD = "RTX 4090"


def section() -> str:
    return "\n".join(["## Several devices, speed, budgets\n", _parallel(), _layers(), _speed(), _bits()])


def _split(model: str, kept: str, mode: SplitMode, gpus: int) -> str:
    served = real.served(model)[0]
    placed = place(served, real.stored(model, kept), VLLM, ServeOptions(gpus=gpus, split=mode))
    return decimal(max(share.bytes for share in placed.gpus))


def _parallel() -> str:
    cases: tuple[tuple[str, str, SplitMode], ...] = (
        ("llama-3-8b", "bf16", "tensor"),
        ("deepseek-r1", "fp8_block", "tensor"),
        ("deepseek-r1", "fp8_block", "expert"),
    )
    rows = [(*case, *(_split(*case, gpus) for gpus in (2, 4, 8, 16))) for case in cases]
    return """### Tensor and expert parallelism (vLLM)

The part of a tensor that one of N GPUs holds:

| tensor | part |
|---|---|
| q, gate, up and other matrices split by outputs, with their biases; o, down and others split by inputs | 1/N |
| k, v | `1 / min(N, kv_heads)`: with fewer heads than GPUs they are repeated |
| fused qkv | `(heads / N + 2 x kv_heads x part of k) / (heads + 2 x kv_heads)` |
| embedding, head | `ceil(rows padded to 64 / N) / rows` |
| MLA's q_a and kv_a, routers, norms, biases of matrices split by inputs | 1, repeated on every GPU |
| routed experts | 1/N of each; with `--split expert` whole ones: `experts // N`, one more on the first GPUs |
| cache | heads as k and v; a latent is whole on every GPU |
| activations | traced on a model of that many heads and that width |

Attention heads must divide by N, and a matrix into whole quantization blocks and groups (groups of experts: a note);
what no rule names is counted whole on every GPU, with a note.
Source: `planner/serving/{tensor_parallel,split}.py`. Weights of the fullest GPU, GB:

""" + table(("model", "format", "split", "2 GPUs", "4", "8", "16"), rows, left=3)


def _layers() -> str:
    served, stored = real.served("llama-3-8b")[0], real.stored("llama-3-8b", "Q4_K_M")
    rows = []
    for count in (0, 1, 16, 33):
        placed = place(served, stored, LLAMA_CPP, ServeOptions(gpu_layers=count))
        rows.append((f"-ngl {count}", placed.gpu_layers, decimal(placed.bytes), decimal(placed.cpu.bytes)))
    return """### Split by layer, and -ngl

vLLM's pipeline gives `layers // N` to each GPU, the rest one by one to those before the last; llama.cpp gives equal
shares of layers and output. `-ngl n` puts the output and the last `n - 1` layers on the GPUs; the other layers stay in
CPU memory with their cache. llama.cpp and ExLlamaV2 keep the token embedding in CPU memory in any case, vLLM never.
Source: `planner/serving/split.py`. llama-3-8b in Q4_K_M:

""" + table(("", "layers on the GPU", "GPU weights, GB", "CPU weights, GB"), rows)


def _decoding(model: str, kept: str, batch: int, bandwidth: int) -> Serving:
    options = ServeOptions(context=4096, batch=batch, bandwidth=bandwidth, beyond_positions=True)
    return size(*real.served(model), find_format(kept), options)


def _speed() -> str:
    card = find_gpu(_CARD)
    assert card.bandwidth is not None
    rows = []
    for model, kept, batch in (("llama-3-8b", "bf16", 1), ("llama-3-8b", "Q4_K_M", 1), ("llama-3-8b", "Q4_K_M", 16)):
        speed = _decoding(model, kept, batch, card.bandwidth).speed
        assert speed is not None
        each, word = f"{speed.tokens_per_second_per_user:.1f}", speed.word
        rows.append(
            (f"{model}, {kept}", batch, decimal(speed.bytes_per_step), each, f"{speed.tokens_per_second:.0f}", word)
        )
    r1 = real.served("deepseek-r1")[0]
    shares = ", ".join(f"{n} at once {100 * float(experts_read(r1, n)):.1f} %" for n in (1, 16, 64))
    head = ("one GPU, 4,096 tokens", "batch", "GB of a step", "tokens/s of a user", "of all", "reads as")
    return f"""### The ceiling of decoding

`seconds of a step = bytes read on the GPUs / bandwidth + bytes read by the CPU / its bandwidth`,
`tokens per second of a user = 1 / seconds of a step`. Tensor parallel GPUs read at the same time, the slowest sets
the pace; layers on several GPUs and on the CPU are read one after the other.

- Weights are read once a step whatever the batch; of the token embedding one row for each token, of vision
  towers nothing.
- Of E routed experts, k chosen for a token: the part `1 - (1 - k/E)^tokens`. DeepSeek-R1: {shares}.
- The cache of every sequence is read once; states are read and written.
- CPU bandwidth is {CPU_BANDWIDTH / 1e9:.1f} GB/s unless given (two channels of DDR5-5600).
- Below 10 tokens/s: too slow for a conversation; 10 to 20: readable; above: smooth.

No engine reaches it: it knows of no computation. Source: `planner/serving/speed.py`. On an {_CARD},
{card.bandwidth / 1e9:,.0f} GB/s:

""" + table(head, rows)


def _bits() -> str:
    model, card = "llama-2-70b", "24GiB"
    served, trace = real.served(model)
    options = ServeOptions(context=2048, gpu=card)
    ladder = make_ladder(served, None)
    lowest = size_stored(served, trace, ladder.formats[0], ladder.stored[0], options)
    budget = budget_of(ladder, lowest)
    order = "; ".join(str(step) for step in default_order(served))
    parts = (
        ("memory of the GPU", budget.memory_bytes),
        ("- cache", budget.kv_cache_bytes),
        ("- activations", budget.activations_bytes),
        ("- overhead", budget.overhead_bytes),
        ("- weights that have no choice", budget.kept_bytes),
        ("= budget", budget.quantizable_bytes),
    )
    return f"""### Bits per weight for a budget

`budget = memory - cache - activations - overhead - weights that the choices keep alike`;
`bits = 8 x (budget - bytes on the GPU beside the file) / quantizable weights`, scales included.
A mixture starts with the smallest choice for every tensor and raises them in an order of thumb, round by round,
while the budget lasts. For {model}: {order}.
The order follows llama.cpp's mixtures; ExLlama's converters measure instead. Source:
`planner/serving/bit_budget.py`, `planner/formats/mixed.py`. {model}, {card}, 2,048 tokens, choices of EXL2: at most
**{most_bits(ladder, budget):.3f} bits** for {ladder.weights:,} weights.

""" + table(("part", "GiB"), [(name, binary(count)) for name, count in parts])
