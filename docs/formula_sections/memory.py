"""What a GPU holds while a model is served: cache, activations, overhead, and their sum."""

from worked_examples import real

from formula_sections.text import binary, table
from planner.hardware import find_gpu
from planner.serving.cache import KV_DTYPES, CacheGroup, cache_size
from planner.serving.engines import ENGINES, chunk_of
from planner.serving.engines.vllm import UTILIZATION, VLLM
from planner.serving.overhead import overhead_parts
from planner.serving.rules_of_thumb import activation_rule, kv_cache_rule
from planner.serving.schema import ServeOptions

_CACHED = ("llama-2-7b", "llama-3-8b", "llama-2-70b", "deepseek-r1", "gemma-3-27b", "gpt-oss-20b")
_CONTEXT = 8192


def section() -> str:
    return "\n".join(["## Memory while serving\n", _cache(), _blocks(), _activations(), _overhead(), _total()])


def _cache() -> str:
    rows = [_cached(model) for model in _CACHED]
    head = ("model", "layers", "bytes per token", "GiB", "multi-head rule, GiB", "rule / model")
    types = ", ".join(f"{name} {float(bits):g}" for name, bits in KV_DTYPES.items())
    return f"""### Cache

Bytes of one layer for one sequence; layers and sequences add up.

| kind | bytes | tokens kept |
|---|---|---|
| full (multi-head, grouped, multi-query) | `tokens x kv_heads x (key_dim + value_dim) x bits / 8` | all |
| sliding, chunked | the same | `min(context, window)`; while a prompt is read more, see below |
| latent (MLA) | `tokens x (kv_lora_rank + qk_rope_head_dim) x bits / 8`, no heads, no values of their own | all |
| recurrent (state space, linear attention) | a state of constant size, in the types that the model keeps it in | none |
| cross | as full | those of the encoder or image |
| shared | 0: another layer's cache is read | none |

Kinds, heads, sizes and windows are read from transformers' own cache objects, filled once on tensors without data
(`planner/serving/cache_layers.py`). `bits` of an element, scales included: {types}.
Source: `planner/serving/cache.py`.

One sequence of {_CONTEXT:,} tokens in bf16, unpadded, beside the rule with the hidden size (`kv_cache_rule`):

""" + table(head, rows, left=2)


def _cached(model: str) -> tuple[str, ...]:
    served = real.served(model)[0]
    size = cache_size(served.cache, _CONTEXT, block=1)
    rule = kv_cache_rule(1, _CONTEXT, served.hidden_size, served.layers)
    layers = "; ".join(_group(group) for group in size.groups)
    share = f"{rule / size.bytes:.2f}"
    return (model, layers, f"{size.bytes_per_token:,}", binary(size.bytes), binary(rule), share)


def _group(group: CacheGroup) -> str:
    if group.kind == "latent":
        return f"{group.layers} latent of {group.key_dim}"
    window = f" of {group.window:,}" if group.window is not None else ""
    sizes = f"{group.key_dim}" if group.key_dim == group.value_dim else f"{group.key_dim} + {group.value_dim}"
    return f"{group.layers} {group.kind}{window}, {group.heads} x {sizes}"


def _blocks() -> str:
    llama = real.served("llama-3-8b")[0].cache
    rows = [(e.name, e.block, f"{cache_size(llama, 1000, block=e.block).bytes:,}") for e in ENGINES.values()]
    return (
        "### Paged blocks\n\nEngines keep whole blocks: `tokens = ceil(context / block) x block`. A window may begin "
        "inside a block, so it needs\n`(ceil((window - 1) / block) + 1) x block` tokens at most.\n\n"
        "While a prompt is read in steps of `chunk` tokens, a sliding layer has room for more: vLLM for\n"
        "`(ceil(min(window - 1 + chunk, context) / block) + 1) x block` tokens of that one sequence (a chunked layer\n"
        "for `min(window + chunk, context)`, in blocks), llama.cpp for `min(window + chunk, context)` cells of every\n"
        "sequence, in 256s; ExLlamaV2 keeps the whole context in every layer.\n"
        "Source: `planner/serving/cache.py`, `planner/serving/engines/*.py`.\n\n"
        + table(("engine", "tokens of a block", "llama-3-8b, 1,000 tokens, bytes"), rows)
    )


def _activations() -> str:
    rows = []
    for model in ("llama-3-8b", "llama-2-70b"):
        served, trace = real.served(model)
        for tokens in (512, 2048, 8192):
            rule = activation_rule(1, tokens, served.hidden_size, served.layers)
            rows.append((model, f"{tokens:,}", binary(trace(tokens, tokens)), binary(rule)))
    eager = real.served("llama-3-8b")[1](2048, 2048, attention="eager")
    chunks = ", ".join(f"{engine.name} {chunk_of(engine, ServeOptions(), None):,}" for engine in ENGINES.values())
    large = chunk_of(VLLM, ServeOptions(), find_gpu("H100"))
    return f"""### Activations

No closed form: the model's forward runs on tensors without data, and the highest sum of what is alive is taken, in
blocks of 512 bytes as PyTorch hands them out. Attention is one kernel as servers run it (output, and an fp32
logsumexp per head and token) or eager (scores, and their softmax, of heads x tokens x context); keys and values go to
the cache; the head sees the last token of each sequence. `activations = max(prefill step, decoding step)`:

- a prefill step has the engine's chunk of tokens ({chunks}; vLLM {large:,} on cards of 70 GiB and more
  that are no A100), whole prompts with `--prefill-chunk 0`;
- with eager attention the chunk is equal parts of as many sequences as fill it, none longer than the context; vLLM
  sets the whole chunk aside all the same, without scores (`profile_run`);
- a decoding step has one token of each sequence;
- llama.cpp makes room for the fp32 logits of every token of a step: `tokens x (vocabulary + hidden) x 4`.

Source: `planner/serving/prefill.py`, `planner/serving/need.py`. A whole prompt at once, flash attention, beside the
rule `batch x tokens x hidden x layers x 2`. Layers are never alive together, which the rule takes them to be.
llama-3-8b with 2,048 tokens takes {binary(eager)} GiB with eager attention.

""" + table(("model", "tokens", "traced, GiB", "rule, GiB"), rows)


def _overhead() -> str:
    rows = []
    for engine in ENGINES.values():
        for part in overhead_parts(engine, ServeOptions(), weights=0, memory=80 * 2**30):
            rows.append((engine.name, part.name, part.source, binary(part.bytes)))
    return (
        "### Overhead\n\nNamed parts on every GPU, each replaced with `--reserve NAME=SIZE`; `--overhead 20%` "
        "(a share of the weights) or\n`--overhead 2GiB` puts one flat part in their place. vLLM leaves "
        f"`1 - {UTILIZATION:g}` of the card to others; the context lies in that share.\n"
        "Source: `planner/serving/overhead.py`. On a card of 80 GiB:\n\n"
        + table(("engine", "part", "source", "GiB"), rows, left=3)
    )


def _total() -> str:
    rows = []
    for model, kept, context in (
        ("llama-3-8b", "W4A16", 8192),
        ("llama-3-8b", "Q4_K_M", 8192),
        ("llama-2-70b", "exl2:2.55", 2048),
    ):
        share = real.serving(model, kept, context).per_gpu
        parts = (share.weights_bytes, share.kv_cache_bytes, share.activations_bytes, share.overhead_bytes)
        cells = (binary(part or 0) for part in parts)
        rows.append((f"{model}, {kept}, {context:,} tokens", *cells, binary(share.total_bytes)))
    head = ("one GPU, one sequence, GiB", "weights", "cache", "activations", "overhead", "total")
    return """### Total and what fits

`total of a GPU = weights + cache + activations + overhead`, all of that GPU; `fits = total <= memory` on every GPU.
The largest context for a batch, the largest batch for a context and the number of users (sequences in the cache,
prefilled one at a time where prompts are not cut into chunks) are the largest numbers that still fit, found by
halving; no formula is turned around. Contexts stop at what the config allows unless `--beyond-positions` is given.
A card's memory is what CUDA has of it (`planner/hardware/gpus.json`), not the number on the box.
Source: `planner/serving/{need,search,serve}.py`.

""" + table(head, rows)
