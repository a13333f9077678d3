"""A plan as one picture for a slide, SVG or PNG, 16:9, drawn by matplotlib (the extra `picture`).

Every step is as wide as every other: a slide shows where in the job memory is high, not how many events that takes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from planner.compress.parts import PART_NAMES
from planner.compress.schema import Plan, Step
from planner.compress.verdicts import verdict
from planner.errors import OutputError
from planner.pictures.reading import LevelAt, on_device
from planner.pictures.schema import DEVICE_NAMES, DeviceKey, Picture
from planner.pictures.series import job_levels
from planner.reports.numbers import gib, gib_short
from planner.reports.summary import answer, job_line
from planner.units import GIB

SlideFormat = Literal["svg", "png"]
MISSING = "needs matplotlib: pip install 'compression-planner[picture]'"
POINTS = 200
"""Moments of a step that are looked at."""
STRETCHES = 700
"""Of the whole axis, of each of which the highest moment is drawn."""
LEAST = 0.004
"""Of the axis: a part that is never higher is not in the legend."""
PADDING = 12
"""Dots between the letters of a callout and what is free."""
INCHES, DPI = (13.333, 7.5), 144
"""A slide of 16:9; as PNG 1920 x 1080."""


LETTERS = 122
"""Of the line that says the verdict; what is longer goes on below it."""
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 12,
    "text.parse_math": False,
    "svg.hashsalt": "planner",
}
"""Of matplotlib; the colours come to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Colours:
    """Those of the page (assets/planner.css)."""

    paper: str
    ink: str
    soft: str
    rule: str
    parts: tuple[str, ...]
    allocated: str
    reserved: str
    limit: str
    verdicts: dict[str, str]


_LIGHT = _Colours(
    paper="#ffffff",
    ink="#1f2328",
    soft="#59636e",
    rule="#e4e4e0",
    parts=("#5b7fd6", "#4fb3a5", "#e2924a", "#d9698b", "#9a7bcf", "#cdb04e", "#a3a9b1"),
    allocated="#8a4b12",
    reserved="#b3261e",
    limit="#7a1fa2",
    verdicts={"fits": "#1a7f37", "tight": "#8a6100", "over": "#b3261e"},
)
_DARK = _Colours(
    paper="#16181c",
    ink="#e6e8eb",
    soft="#9aa4b0",
    rule="#2e333b",
    parts=("#5877c4", "#3f978b", "#c57d3d", "#b9577a", "#8367b5", "#a88f3b", "#737a84"),
    allocated="#f0b27a",
    reserved="#ff8a80",
    limit="#d9a6ff",
    verdicts={"fits": "#6fdd8b", "tight": "#f0c75e", "over": "#ff8a80"},
)
_VERDICTS = {"fits": "FITS", "tight": "TIGHT", "over": "DOES NOT FIT"}


def check_matplotlib() -> None:
    """Raise OutputError, with the way out, where nothing can be drawn."""
    try:
        import matplotlib  # noqa: F401  (asks whether it is there)
    except ImportError:
        raise OutputError(MISSING) from None


def slide(plan: Plan, picture: Picture, form: SlideFormat, *, dark: bool = False) -> bytes:
    """The whole file. The same plan gives the same bytes. Raises OutputError without matplotlib."""
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure

    colours = _DARK if dark else _LIGHT
    style: Any = _style(colours)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=INCHES, dpi=DPI, facecolor=colours.paper)
        heights = [3 if device == "gpu" else 2 for device in picture.devices]
        grid = figure.subplots(len(picture.devices), 1, sharex=True, squeeze=False, height_ratios=heights)
        figure.subplots_adjust(left=0.068, right=0.965, top=0.80, bottom=0.135, hspace=0.24)
        _title(figure, plan, colours)
        panels = [axes[0] for axes in grid]
        seen: set[int] = set()
        for axes, device in zip(panels, picture.devices, strict=True):
            seen |= _panel(axes, plan, picture, device, colours)
        _step_axis(panels[-1], plan)
        _legend(figure, sorted(seen), plan, picture, colours)
        file = BytesIO()
        figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else {"Software": None})
    return file.getvalue()


def _style(colours: _Colours) -> dict[str, Any]:
    return {
        **STYLE,
        "text.color": colours.ink,
        "axes.edgecolor": colours.rule,
        "axes.labelcolor": colours.soft,
        "xtick.color": colours.soft,
        "ytick.color": colours.soft,
    }


def _title(figure: Any, plan: Plan, colours: _Colours) -> None:
    found = verdict(plan)
    figure.text(0.068, 0.935, f"{plan.model.name}  \N{MIDDLE DOT}  {plan.recipe}", size=22, weight="bold")
    figure.text(
        0.955,
        0.938,
        _VERDICTS[found],
        size=14,
        weight="bold",
        ha="right",
        color=colours.paper,
        bbox={"boxstyle": "round,pad=0.45,rounding_size=0.8", "facecolor": colours.verdicts[found], "linewidth": 0},
    )
    said, below = answer(plan)[0], job_line(plan.job)
    if len(said) > LETTERS:
        said, _, rest = said.partition("; ")
        below = f"{rest}  \N{MIDDLE DOT}  {below}" if rest else below
    figure.text(0.068, 0.893, _shortened(said), size=13.5, color=colours.verdicts[found])
    figure.text(0.068, 0.858, _shortened(below, LETTERS + 20), size=12, color=colours.soft)


def _shortened(text: str, most: int = LETTERS) -> str:
    """One line; what does not fit is left away."""
    return text if len(text) <= most else f"{text[: most - 1].rpartition(' ')[0]}\N{HORIZONTAL ELLIPSIS}"


def _panel(axes: Any, plan: Plan, picture: Picture, device: DeviceKey, colours: _Colours) -> set[int]:
    """Draw one device. Returns the parts that a reader sees there."""
    levels = list(_on_axis(job_levels(plan, picture, device, POINTS), picture))
    xs = [x for x, _ in levels]
    series = [[level.parts[part] / GIB for _, level in levels] for part in range(len(picture.parts))]
    shown = [part for part, line in enumerate(series) if any(line)]
    axes.stackplot(
        xs, *(series[part] for part in shown), colors=[colours.parts[part] for part in shown], step="post", linewidth=0
    )
    if any(level.reserved for _, level in levels):
        axes.step(xs, [level.allocated / GIB for _, level in levels], where="post", color=colours.allocated, lw=0.9)
        axes.step(xs, [level.reserved / GIB for _, level in levels], where="post", color=colours.reserved, lw=1.6)
    top = max((max(level.requested, level.reserved) for _, level in levels), default=0) / GIB or 1.0
    top = max(top, _limits(axes, picture, device, top, colours))
    axes.set_xlim(0, len(plan.steps))
    axes.set_ylim(0, top * 1.16)
    _frame(axes, colours)
    axes.set_title(_panel_title(plan, device), loc="left", size=13, weight="bold", color=colours.ink, pad=8)
    _mark_peak(axes, plan, device, levels, top, colours)
    return {part for part in shown if max(series[part]) > LEAST * top}


def _on_axis(steps: Sequence[Sequence[LevelAt]], picture: Picture) -> Iterator[tuple[float, LevelAt]]:
    """Stretches on an axis on which a step is one wide, each with the most that is held in it."""
    stretches = max(2, STRETCHES // max(1, len(steps)))
    for index, levels in enumerate(steps):
        length = picture.steps[index].ticks + 1
        found: dict[int, list[LevelAt]] = {}
        for level in levels:
            found.setdefault(level.tick * stretches // length, []).append(level)
        for stretch, those in found.items():
            highest = max(those, key=lambda level: level.requested)
            allocated, reserved = max(each.allocated for each in those), max(each.reserved for each in those)
            yield index + stretch / stretches, highest._replace(allocated=allocated, reserved=reserved)
    if steps and steps[-1]:
        yield float(len(steps)), steps[-1][-1]


def _limits(axes: Any, picture: Picture, device: DeviceKey, top: float, colours: _Colours) -> float:
    """Draw what there is of the device. Returns the highest line that is drawn: one far above is said, not drawn."""
    highest = 0.0
    for line in (each for each in picture.capacities if each.device == device):
        height, size = line.bytes / GIB, gib_short(line.bytes)
        text = line.label if size in line.label else f"{line.label}: {size}"
        if height <= 2.5 * top:
            axes.axhline(height, color=colours.limit, lw=1.4, ls=(0, (5, 3)))
            highest = max(highest, height)
            where = {"xy": (0, height), "xycoords": ("axes fraction", "data"), "xytext": (6, 4), "ha": "left"}
        else:
            where = {"xy": (1, 1), "xycoords": "axes fraction", "xytext": (0, 8), "ha": "right"}
            text += ", far above"
        box = {"boxstyle": "round,pad=0.15", "facecolor": colours.paper, "linewidth": 0, "alpha": 0.9}
        look = {"size": 10.5, "color": colours.limit, "bbox": box}
        axes.annotate(text, **where, textcoords="offset points", **look)
    return highest


def _frame(axes: Any, colours: _Colours) -> None:
    axes.set_facecolor(colours.paper)
    axes.grid(axis="y", color=colours.rule, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_ylabel("GiB")
    axes.yaxis.get_major_locator().set_params(nbins=5)


def _panel_title(plan: Plan, device: DeviceKey) -> str:
    whole = on_device(plan, device)
    name = DEVICE_NAMES[device]
    assert whole is not None
    reserved = getattr(whole, "peak_reserved_bytes", None)
    more = f", {gib(reserved)} reserved" if reserved else ""
    return f"{name[0].upper()}{name[1:]} memory: {gib(whole.peak_bytes)} of tensors at most{more}"


def _mark_peak(
    axes: Any, plan: Plan, device: DeviceKey, levels: Sequence[tuple[float, LevelAt]], top: float, colours: _Colours
) -> None:
    if not levels:
        return
    x, level = max(levels, key=lambda each: each[1].requested)
    step = plan.steps[min(int(x), len(plan.steps) - 1)]
    planned = on_device(step, device)
    if planned is None or not planned.peak_bytes:
        return
    height = level.requested / GIB
    axes.plot([x], [height], "o", ms=7, mfc=colours.paper, mec=colours.ink, mew=1.8, zorder=5, clip_on=False)
    note = axes.annotate(
        _peak_words(step, planned.peak_bytes),
        (x, height),
        xytext=(0, 0),
        arrowprops={"arrowstyle": "-", "color": colours.soft, "lw": 0.8},
        textcoords="offset points",
        size=11.5,
        zorder=6,
        bbox={"boxstyle": "round,pad=0.35", "facecolor": colours.paper, "edgecolor": colours.rule, "alpha": 0.92},
    )
    places = _places(is_right=x > 0.6 * len(plan.steps), is_high=height > 0.7 * top)
    _put(note, min(places, key=lambda place: _covered(axes, note, place, levels)))


class _Beside(NamedTuple):
    """Where a callout lies beside its point, in points."""

    right: int
    up: int


def _places(*, is_right: bool, is_high: bool) -> list[_Beside]:
    """Where a callout may lie, the nearest first: towards the middle, further off, then on the other side."""
    ups = (-4, -34, -64, -94) if is_high else (10, -34, 40, 70)
    return [_Beside(right, up) for right in ((-12, 12) if is_right else (12, -12)) for up in ups]


def _put(note: Any, place: _Beside) -> None:
    note.set_position(place)
    note.set_ha("right" if place.right < 0 else "left")
    note.set_va("top" if place.up < 0 else "bottom")


def _covered(axes: Any, note: Any, place: _Beside, levels: Sequence[tuple[float, LevelAt]]) -> int:
    """How much of the lines the callout would cover there: stretches of them, and a thousand for each end outside."""
    _put(note, place)
    from matplotlib.text import Text

    renderer = axes.figure._get_renderer()
    note.update_positions(renderer)
    box = Text.get_window_extent(note, renderer).padded(PADDING)  # of the letters, without the line to the point
    (left, low), (right, high) = axes.transData.inverted().transform([(box.x0, box.y0), (box.x1, box.y1)])
    (first, last), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    outside: int = sum((left < first, right > last, low < bottom, high > top))
    limits = [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 2]
    over: int = sum(low <= limit <= high for limit in limits) * len(levels)
    for (x, level), (_, after) in pairwise(levels):
        if left <= x <= right:
            for here, then in ((level.reserved, after.reserved), (level.allocated, after.allocated)):
                over += min(here, then) / GIB <= high and max(here, then) / GIB >= low and here > 0
    return over + 1000 * outside


def _peak_words(step: Step, nbytes: int) -> str:
    where = step.phase if step.phase == step.unit else f"{step.phase} of {step.unit}"
    return f"peak {gib(nbytes)}\n{_shortened(where, 60)}"


def _step_axis(axes: Any, plan: Plan) -> None:
    """Ticks where subgraphs begin, as many as there is room for."""
    begins: dict[int, str] = {}
    seen: set[tuple[str | None, int]] = set()
    for step in plan.steps:
        if step.subgraph is not None and (step.modifier, step.subgraph) not in seen:
            seen.add((step.modifier, step.subgraph))
            begins[step.index] = str(step.subgraph)
    every = max(1, -(-len(begins) // 24))
    places = list(begins)[::every]
    axes.set_xticks(places, [begins[place] for place in places])
    label = "subgraph, in the order in which the job walks them" if begins else "the job's steps"
    axes.set_xlabel(f"{label}; {len(plan.steps)} steps", labelpad=6)


def _legend(figure: Any, parts: Sequence[int], plan: Plan, picture: Picture, colours: _Colours) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    signs: list[Any] = [Patch(color=colours.parts[part], label=PART_NAMES[picture.parts[part]]) for part in parts]
    if plan.gpu.peak_reserved_bytes:
        signs.append(Line2D([], [], color=colours.allocated, lw=1.6, label="allocated"))
        signs.append(Line2D([], [], color=colours.reserved, lw=2, label="reserved"))
    look = {"frameon": False, "fontsize": 11.5, "columnspacing": 1.6, "handlelength": 1.6}
    figure.legend(handles=signs, loc="lower left", bbox_to_anchor=(0.06, 0.008), ncols=len(signs), **look)
