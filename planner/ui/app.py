"""The server's routes: the page, its files, what it may choose from, and the one question that it asks."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from planner.errors import PlannerError, UiError
from planner.fields import JOB_FIELDS
from planner.hardware.machine import MAX_RAM
from planner.job import MAX_BATCH, MAX_SAMPLES, MAX_TOKENS
from planner.models.source import list_presets
from planner.pictures.page import as_one, script
from planner.recipe.files import list_recipes
from planner.ui.desk import Desk
from planner.ui.guard import Guard
from planner.ui.lines import line
from planner.ui.question import START, PageQuestion, one_line, read_question
from planner.ui.stops import STOPS, cards, gib
from planner.units import GIB
from planner.upstream import LLMCOMPRESSOR_VERSION

ASSETS = Path(__file__).parent / "assets"
TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
ON_FORM = ("samples", "seq_len", "batch_size", "images", "image_size", "ranks", "weights", "offload_device")
PICTURES = ASSETS.parent.parent / "pictures" / "assets"
FILES = {
    **{name: ASSETS / name for name in ("ui.css", "icon.svg")},
    **{name: PICTURES / name for name in ("planner.css", "uPlot.iife.min.js", "uPlot.min.css")},
}
"""What can be read through the server as it is, by name: nothing of a request becomes a path."""
SCRIPTS = ("form.js", "ask.js", "answer.js", "start.js")
"""The page's own parts, sent as one: ui.js."""


def make_app(desk: Desk, hosts: Iterable[str]) -> Guard:
    """The app behind its guard. `hosts`: what it may be called, port included."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        desk.open()
        try:
            yield
        finally:
            desk.close()

    async def ask(request: Request) -> Response:
        try:
            question = read_question(await request.body())
        except PlannerError as error:
            return _refused(error)
        return StreamingResponse(_lines(desk, question), media_type="application/x-ndjson")

    async def health(_request: Request) -> Response:
        return JSONResponse(desk.state())

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name in ("planner.js", "ui.js"):
            return Response(_script(name), media_type=TYPES["js"])
        path = FILES.get(name)
        return _file(path) if path else JSONResponse({"error": "there is nothing here"}, 404)

    async def missing(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return JSONResponse({"error": "there is nothing here" if status == 404 else "not so"}, status)

    routes = [
        Route("/", lambda _request: _file(ASSETS / "index.html")),
        Route("/assets/{name}", file),
        Route("/api/choices", lambda _request: JSONResponse(choices())),
        Route("/api/health", health),
        Route("/api/plan", ask, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: missing})
    return Guard(app, hosts)


async def _lines(desk: Desk, question: PageQuestion) -> AsyncIterator[bytes]:
    try:
        async for each in desk.answers(question):
            yield each
    except UiError as error:
        yield line("error", text=one_line(error))


def _file(path: Path) -> Response:
    return Response(path.read_bytes(), media_type=TYPES[path.suffix.removeprefix(".")])


def _script(name: str) -> str:
    """The page's own script, or the report's, each of several files."""
    return script() if name == "planner.js" else as_one([(ASSETS / part).read_text("utf-8") for part in SCRIPTS])


def _refused(error: PlannerError) -> Response:
    return JSONResponse({"error": one_line(error)}, 422)


def choices() -> dict[str, Any]:
    """What the page offers: models, recipes, cards, where its sliders stop, and the limits of its fields."""
    return {
        "llmcompressor": LLMCOMPRESSOR_VERSION,
        "models": [
            {"name": preset.name, "title": preset.title, "parameters": preset.parameters} for preset in list_presets()
        ],
        "recipes": [{"name": info.name, "summary": info.summary} for info in list_recipes()],
        "gpus": [{"name": card.name, "gib": gib(card)} for card in cards()],
        "start": {**START, **{field.name: field.default for field in JOB_FIELDS if field.name in ON_FORM}},
        "stops": {field: list(stops) for field, stops in STOPS.items()},
        "limits": {"samples": MAX_SAMPLES, "seq_len": MAX_TOKENS, "batch_size": MAX_BATCH, "ram": MAX_RAM // GIB},
    }
