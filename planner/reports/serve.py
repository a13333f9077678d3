"""What serving takes: a table for people, markdown to paste, JSON for programs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.compress.schema import CardSupport
from planner.reports.drawing import draw, pairs, ruled_table
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import decimals_for, gib, gib_short, smallest_shown
from planner.serving.schema import GpuFacts, Serving
from planner.units import GB, GIB, KIB, MIB, format_bytes

_TITLES = ("part, in GiB", "GPU", "all GPUs", "rule", "")
PART_TITLES = {
    "cuda-context": "CUDA context",
    "cuda-graphs": "CUDA graphs",
    "not-vllm": "left to others",
    "flat": "overhead",
}
_LEGEND = "rule: a second opinion, what most guides print: hidden size x layers for each token   1 GiB is 2^30 bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """Bytes of one part on the fullest GPU (`each`), and on all GPUs together (`every`)."""

    name: str
    each: int | None
    every: int | None = None
    rule: int | None = None
    detail: str = ""
    total: bool = False


def render(serving: Serving, *, width: int | None = None, color: bool = False) -> str:
    """Header, a table of the parts, what fits and how fast it can be."""
    content: list[RenderableType] = [pairs(_header(serving)), Text(), _table(serving)]
    if _has_rule(serving):
        content.append(Text(_LEGEND, style="dim"))
    return draw(Group(*content, Text(), _summary(serving)), width=width, color=color)


def render_markdown(serving: Serving) -> str:
    """The same in markdown."""
    columns = _columns(serving)
    head = "\n".join(f"- {name}: {escape(text)}" if name else f"  {escape(text)}" for name, text in _header(serving))
    body = [[escape(cells[column]) for column in columns] for _, cells in _cells(serving)]
    right = [0 < column < len(_TITLES) - 1 for column in columns]
    table = markdown_table([_TITLES[column] for column in columns], right, body)
    last = "\n".join(f"- {name}: {text}" if name else f"- {text}" for name, text in _answers(serving))
    notes = "\n".join(f"- note: {note}" for note in serving.notes)
    title = f"### {escape(serving.model.name)}, {escape(serving.weights.format)}"
    return "\n\n".join(part for part in (title, head, table, last, notes) if part) + "\n"


# Header


def _header(serving: Serving) -> list[tuple[str, str]]:
    model, weights = serving.model, serving.weights
    name = f"{model.name} ({model.architecture})" if model.architecture else model.name
    lines = [("model", name)]
    if model.architecture:
        active = model.active_parameters or 0
        read = f", {active:,} read for one token" if active < model.parameters // 2 else ""
        lines.append(("", f"{model.parameters:,} parameters{read}"))
    lines += [
        ("weights", f"{weights.format}, {weights.bits_per_weight:.5g} bits per weight, {_both(weights.file_bytes)}"),
        ("serving", _serving_words(serving)),
        ("on", _hardware(serving)),
    ]
    return lines


def _both(count: int) -> str:
    return f"{format_bytes(count, 'GB')} = {gib(count)} on disk"


def _serving_words(serving: Serving) -> str:
    served = f"{_sequences(serving.batch)} of {serving.context:,} tokens, KV cache in {serving.kv_cache.dtype}"
    return f"{serving.engine}, {served}" if serving.kv_cache.bytes is not None else serving.engine


def _hardware(serving: Serving) -> str:
    split = serving.split
    if serving.gpu is None:
        text = f"{split.gpus} GPU{'s' * (split.gpus > 1)} of any size"
    else:
        rate = f", {serving.gpu.bandwidth / GB:,.0f} GB/s" if serving.gpu.bandwidth else ""
        text = f"{split.gpus} x {serving.gpu.name} ({gib_short(serving.gpu.memory_bytes)}{rate})"
    if split.gpus > 1 and split.mode:
        text += {"tensor": ", tensor-parallel", "expert": ", expert-parallel", "layer": ", split by layer"}[split.mode]
    if split.gpu_layers is not None and split.gpu_layers != split.layers:
        text += f", {split.gpu_layers} of {split.layers} layers on the GPU"
    return text


def _sequences(count: int) -> str:
    return f"{count:,} sequence{'s' * (count != 1)}"


# Table


def _rows(serving: Serving) -> Iterator[_Row]:
    fullest, cache, forward = serving.per_gpu, serving.kv_cache, serving.activations
    copies = serving.weights.replicated_bytes
    yield _Row(
        name="weights",
        each=fullest.weights_bytes,
        every=serving.weights.bytes,
        detail=f"{gib(copies)} of all are copies" if copies >= smallest_shown(3) else "",
    )
    yield _Row(
        name="KV cache",
        each=fullest.kv_cache_bytes,
        every=cache.bytes,
        rule=cache.rule_bytes,
        detail="" if cache.bytes_per_token is None else f"{_small(cache.bytes_per_token)} per token",
    )
    yield _Row(
        name="activations",
        each=fullest.activations_bytes,
        every=forward.bytes,
        rule=forward.rule_bytes,
        detail=_step(serving),
    )
    for part in serving.overhead.parts:
        title = PART_TITLES.get(part.name, part.name)
        yield _Row(name=title, each=part.bytes, every=part.bytes * serving.split.gpus, detail=_short(part.source))
    total = sum(gpu.total_bytes for gpu in serving.gpus)
    yield _Row(name="total", each=fullest.total_bytes, every=total, total=True)


def _step(serving: Serving) -> str:
    forward = serving.activations
    if forward.tokens is None:
        return ""
    shared = f" x {_sequences(forward.sequences)}" if forward.sequences and forward.sequences > 1 else ""
    return f"prefill of {forward.tokens:,} tokens{shared}, {serving.options.attention} attention"


def _short(source: str) -> str:
    return source.split(":")[0] if source.startswith("assumed") else source


def _small(count: int) -> str:
    if count >= MIB:
        return format_bytes(count, "MiB")
    return format_bytes(count, "KiB") if count >= KIB else f"{count} B"


def _cells(serving: Serving) -> list[tuple[_Row, list[str]]]:
    rows = list(_rows(serving))
    decimals = decimals_for(max(row.each or 0 for row in rows))

    def text(count: int | None) -> str:
        return "?" if count is None else f"{count / GIB:,.{decimals}f}"

    return [
        (row, [row.name, text(row.each), text(row.every), "" if row.rule is None else text(row.rule), row.detail])
        for row in rows
    ]


def _columns(serving: Serving) -> list[int]:
    """Indices of the columns to show: `all GPUs` only for several GPUs, `rule` only where a rule applies."""
    shown = [True, True, serving.split.gpus > 1, _has_rule(serving), True]
    return [column for column, is_shown in enumerate(shown) if is_shown]


def _has_rule(serving: Serving) -> bool:
    return serving.kv_cache.rule_bytes is not None


def _table(serving: Serving) -> Table:
    table, columns = ruled_table(), _columns(serving)
    for column in columns:
        right, style = 0 < column < len(_TITLES) - 1, "dim" if column > 1 else ""
        table.add_column(_TITLES[column], justify="right" if right else "left", no_wrap=column < 4, style=style)
    for row, cells in _cells(serving):
        table.add_row(*(cells[column] for column in columns), style="bold" if row.total else "")
    return table


# What to take from it


def _summary(serving: Serving) -> Table:
    grid = pairs([])
    style = {True: "green", False: "bold red", None: ""}[serving.fits]
    for name, text in _answers(serving):
        grid.add_row(name, Text(text, style=style if name == "verdict" else ""))
    for position, note in enumerate(serving.notes):
        grid.add_row("" if position else "notes", Text(note))
    return grid


def _answers(serving: Serving) -> Sequence[tuple[str, str]]:
    answers = [("verdict", fit_line(serving))]
    if serving.card_support is not None and serving.gpu is not None:
        answers.append(("kernels", kernels_line(serving.card_support, serving.gpu)))
    if serving.fits is not None and serving.max_context is not None:
        answers.append(("context", _context(serving)))
        answers.append(("batch", _batch(serving)))
    if cpu := cpu_line(serving):
        answers.append(("CPU", cpu))
    if serving.model.architecture:
        answers.append(("speed", speed_line(serving)))
    return answers


def fit_line(serving: Serving) -> str:
    """Whether it fits, with what is left or missing."""
    each = " on each GPU" if serving.split.gpus > 1 else ""
    beside = ", without KV cache and activations" if serving.kv_cache.bytes is None else ""
    if serving.gpu is None or serving.spare_bytes is None:
        return f"needs {gib(serving.per_gpu.total_bytes)}{each}{beside}; --gpu tells whether that fits"
    size = gib_short(serving.gpu.memory_bytes)
    if serving.fits:
        return f"fits in {size}{each}: {gib(serving.spare_bytes)} to spare"
    if serving.fits is None:
        return f"leaves {gib(serving.spare_bytes)} of {size}{each} to KV cache and activations"
    return f"DOES NOT FIT in {size}{each}{beside}: {gib(-serving.spare_bytes)} too much"


def kernels_line(found: CardSupport, gpu: GpuFacts) -> str:
    """Whether vLLM runs the format on the card, and whose word that is."""
    words = {
        "yes": f"vLLM has them for {found.format} on {gpu.name}",
        "weights alone": f"vLLM runs {found.format} on {gpu.name} with activations in 16 bits",
        "no": f"NONE: vLLM has no kernels for {found.format} on {gpu.name}, whatever fits",
        "not known": f"not known for {found.format} on {gpu.name}",
    }
    return f"{words[found.support]} ({found.source})"


def _context(serving: Serving) -> str:
    if not serving.max_context:
        return f"no context fits with {_sequences(serving.batch)}"
    return f"at most {serving.max_context:,} tokens with {_sequences(serving.batch)}"


def _batch(serving: Serving) -> str:
    if not serving.max_batch and not serving.max_users:
        return f"no sequence of {serving.context:,} tokens fits"
    text = f"at most {_sequences(serving.max_batch or 0)} of {serving.context:,} tokens at the same time"
    if serving.max_users == serving.max_batch:
        return f"{text}, one for each user"
    return f"{text}; {serving.max_users:,} users where prompts are prefilled one by one"


def cpu_line(serving: Serving) -> str:
    """What lies in CPU memory, which the GPU figures never include; empty where nothing does."""
    weights, cache = serving.weights.cpu_bytes, serving.kv_cache.cpu_bytes or 0
    if not weights + cache:
        return ""
    cache_text = f", KV cache {gib(cache)}" if cache else ""
    return f"needs {gib(weights + cache)} of CPU memory besides: weights {gib(weights)}{cache_text}"


def speed_line(serving: Serving) -> str:
    """The highest possible speed of decoding, or which option is missing to compute it."""
    ceiling = serving.speed
    if ceiling is None:
        return "not known without memory bandwidth; --gpu with a name, or --bandwidth"
    each = f"at most {ceiling.tokens_per_second_per_user:,.1f} tokens/s"
    if serving.batch > 1:
        each += f" for each of {serving.batch:,}, {ceiling.tokens_per_second:,.0f} together"
    read = f"{gib(ceiling.bytes_per_step)} read for each token" if serving.batch == 1 else ""
    read = read or f"{gib(ceiling.bytes_per_step)} read in each step"
    if ceiling.cpu_bandwidth and ceiling.cpu_bytes_per_step >= smallest_shown(3):
        read += f", {gib(ceiling.cpu_bytes_per_step)} of CPU memory at {ceiling.cpu_bandwidth / GB:,.1f} GB/s"
    word = "if it fitted" if serving.fits is False else ceiling.word
    return f"{each}: {word} ({read})"


FORMATS: Formats[Serving] = {"table": render, "json": as_json, "markdown": everywhere(render_markdown)}
