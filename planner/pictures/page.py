"""Writes pictures as a page of their own, one file that needs no network, or as a part of a notebook's page."""

import base64
import gzip
import html
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from planner.pictures.columns import by_columns, by_rows
from planner.pictures.schema import Pictured
from planner.pictures.words import PART_LABELS, parts_of, words

OPENING = '<script type="application/gzip" id="planner-data">'
"""What stands before the data in a page."""
SCRIPTS = ("words.js", "job.js", "chart.js", "report.js", "page.js")


def report_data(pictured: Sequence[Pictured], title: str = "") -> dict[str, Any]:
    """What `plannerReport` of assets/page.js draws: every plan with its picture and its sentences."""
    return {
        "plans": [
            {
                "plan": each.plan.model_dump(mode="json"),
                "picture": each.picture and each.picture.model_dump(mode="json", exclude_defaults=True),
                "words": words(each.plan, each.model, changes=each.changes),
                "parts": parts_of(each.plan),
            }
            for each in pictured
        ],
        "options": {"title": title, "parts": PART_LABELS},
    }


def titled(pictured: Sequence[Pictured]) -> str:
    """A title of model and recipes."""
    recipes = dict.fromkeys(each.plan.recipe for each in pictured)
    return f"{pictured[0].plan.model.name}: {', '.join(recipes)}"


def page(pictured: Sequence[Pictured], title: str) -> str:
    """The whole HTML file. Its data are JSON, packed by gzip: `data_in` reads them again."""
    data = _packed(report_data(pictured, title))
    return str(_template("page.html.j2").render(title=title, data=data, opening=OPENING, **_assets()))


def fragment(pictured: Sequence[Pictured], title: str = "") -> str:
    """The same as an element with its script and style, for a notebook's cell."""
    data = _packed(report_data(pictured, title))
    return str(_template("fragment.html.j2").render(title=title, data=data, **_assets()))


def data_in(text: str) -> dict[str, Any]:
    """The data of a page that `page` wrote. Raises ValueError for any other text."""
    _, opening, rest = text.partition(OPENING)
    if not opening:
        raise ValueError("no page of planner's")
    packed = base64.b64decode(html.unescape(rest.partition("</script>")[0]))
    found: dict[str, Any] = by_rows(json.loads(gzip.decompress(packed)))
    return found


def _packed(data: dict[str, Any]) -> str:
    """JSON by columns, gzip, base64: plans repeat themselves, and this is a twentieth of their text."""
    text = json.dumps(by_columns(data), separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


@cache
def _assets() -> dict[str, str]:
    """Scripts and styles, by what the templates call them."""
    names = {
        "uplot_script": "uPlot.iife.min.js",
        "uplot_style": "uPlot.min.css",
        "style": "planner.css",
        "licence": "uPlot.LICENSE",
    }
    return {name: _without_indents(_asset(file)) for name, file in names.items()} | {"script": script()}


def script() -> str:
    """What draws plans: one script of several files, which see each other's names, and nobody else does."""
    return as_one([_asset(name) for name in SCRIPTS])


def as_one(parts: Sequence[str]) -> str:
    """The parts of a script in a function of their own."""
    return _without_indents("\n".join(['"use strict";', "(() => {", *parts, "})();", ""]))


def _without_indents(text: str) -> str:
    """The same script or style in fewer bytes; none of ours has a text of several lines."""
    return "\n".join(line.strip() for line in text.splitlines())


def _asset(name: str) -> str:
    return files("planner.pictures").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["raw"] = _raw
    return environment.from_string(_asset(name))


def _raw(text: str) -> Any:
    """Text of our own files, which goes into the page as it is."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704  (of files that this package ships, and of base64)
