"""The most bits per weight that fit: a table for people, markdown to paste, JSON for programs."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.reports.drawing import draw, pairs, ruled_table
from planner.reports.formats import cache_words, grid, markdown_rows
from planner.reports.forms import Formats, as_json, everywhere
from planner.reports.markdown import escape, markdown_table
from planner.reports.numbers import gib, gib_short
from planner.reports.serve import kernels_line
from planner.serving.fit_schema import BitsPlan
from planner.units import GB, GIB, human_bytes

_TITLES = ("tensors", "layers", "kept as", "bits", "GPU GiB")
_RIGHT = (False, False, False, True, True)


def render(plan: BitsPlan, *, width: int | None = None, color: bool = False) -> str:
    """Header, budget, answer, the formats below that answer, and a mixture of formats."""
    content: list[RenderableType] = [pairs(_header(plan)), Text(), pairs(_budget(plan)), Text()]
    content += [Text(_answer(plan), style="bold"), *(Text(line) for line in _counted(plan)), Text()]
    if plan.below:
        content += [Text("Formats that fit, the largest of each family", style="bold"), grid(plan.below, True)]
        content += [Text("* all that the config allows", style="dim"), Text()]
    content += [Text("A mixture that uses it up", style="bold"), _table(plan), Text(), pairs(list(_remarks(plan)))]
    return draw(Group(*content), width=width, color=color)


def render_markdown(plan: BitsPlan) -> str:
    """The same in markdown."""
    parts = [f"### {escape(plan.model.name)}"]
    parts += ["\n".join(f"- {name}: {escape(text)}" for name, text in (*_header(plan), *_budget(plan)) if text)]
    parts += ["\n".join([f"**{_answer(plan)}**", *_counted(plan)])]
    if plan.below:
        parts += ["Formats that fit, the largest of each family:", markdown_rows(plan.below, True)]
    body = [[escape(cell) for cell in line] for line in _rows(plan)]
    parts += ["A mixture that uses it up:", markdown_table(_TITLES, _RIGHT, body)]
    parts += ["\n".join(f"- {name}: {text}" if name else f"- {text}" for name, text in _remarks(plan))]
    return "\n\n".join(parts) + "\n"


def _header(plan: BitsPlan) -> list[tuple[str, str]]:
    served = (
        f"{plan.context:,} tokens, batch {plan.batch}, KV cache in {cache_words(plan.options.kv_dtype)}, {plan.engine}"
    )
    return [
        ("model", f"{plan.model.name} ({plan.model.architecture}), {plan.model.parameters:,} parameters"),
        ("serving", served),
        ("GPU", f"{plan.gpu.name}, {gib_short(plan.gpu.memory_bytes)}"),
    ]


def _budget(plan: BitsPlan) -> list[tuple[str, str]]:
    budget = plan.budget
    kept = [f"{row.unit} {row.type} {human_bytes(row.gpu_bytes)}" for row in plan.kept if row.gpu_bytes]
    on_cpu = [f"{row.unit} {human_bytes(row.cpu_bytes)} in CPU memory" for row in plan.kept if row.cpu_bytes]
    return [
        ("memory", gib(budget.memory_bytes)),
        ("- overhead", gib(budget.overhead_bytes)),
        ("- KV cache", gib(budget.kv_cache_bytes)),
        ("- activations", gib(budget.activations_bytes)),
        ("- kept", f"{gib(budget.kept_bytes)} ({', '.join((*kept, *on_cpu)) or 'nothing'})"),
        ("= weights", f"{gib(budget.quantizable_bytes)} for {plan.quantizable_weights:,} quantizable weights"),
    ]


def _answer(plan: BitsPlan) -> str:
    most = plan.choices[-1].bits_per_weight
    if plan.bits_per_weight > most:
        return f"Every quantizable weight can keep the most there is, {most:.2f} bits, scales included"
    return f"At most {plan.bits_per_weight:.3f} bits per quantizable weight, scales included"


def _counted(plan: BitsPlan) -> Iterator[str]:
    low, high = plan.choices[0], plan.choices[-1]
    yield (
        f"quantizable: what the choices ({', '.join(choice.name for choice in plan.choices)}) keep differently, "
        f"{low.bits_per_weight:.2f} to {high.bits_per_weight:.2f} bits"
    )


def _table(plan: BitsPlan) -> Table:
    table = ruled_table()
    for title, right in zip(_TITLES, _RIGHT, strict=True):
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "layers", overflow="fold")
    for line in _rows(plan):
        table.add_row(*line)
    return table


def _rows(plan: BitsPlan) -> Iterator[list[str]]:
    for row in plan.mixture.rows:
        count = f"{row.tensors:,} x " if row.tensors > 1 else ""
        yield [count + row.role, row.layers, row.choice, f"{row.bits_per_weight:.2f}", f"{row.gpu_bytes / GIB:,.2f}"]
    mixture = plan.mixture
    yield ["together", "", "", f"{mixture.bits_per_weight:.2f}", f"{mixture.gpu_bytes / GIB:,.2f}"]


def _remarks(plan: BitsPlan) -> Iterator[tuple[str, str]]:
    mixture = plan.mixture
    model = f"{mixture.model_bits_per_weight:.2f} bits over all weights, {mixture.model_file_bytes / GB:,.2f} GB file"
    yield ("mixture", f"{model}, {human_bytes(mixture.left_bytes)} left over")
    if mixture.max_context:
        speed = f", at most {mixture.tokens_per_second:,.1f} tokens/s" if mixture.tokens_per_second else ""
        yield ("", f"at most {mixture.max_context:,} tokens of context{speed}")
    if plan.card_support is not None:
        yield ("kernels", kernels_line(plan.card_support, plan.gpu))
    yield ("order", "; ".join(mixture.order))
    for place, note in enumerate(plan.notes):
        yield ("notes" if place == 0 else "", note)


FORMATS: Formats[BitsPlan] = {"table": render, "json": as_json, "markdown": everywhere(render_markdown)}
