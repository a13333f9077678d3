"""planner ui: a web page of this machine, to size jobs by moving sliders."""

from importlib.util import find_spec
from typing import Annotated

import typer

from planner.commands.options import FLAG
from planner.errors import UiError

EPILOG = """[bold]Examples[/bold]

planner ui
planner ui --port 0 --no-browser"""

NEEDS = ("starlette", "uvicorn")


def ui(
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="127.0.0.1, localhost or ::1: this machine alone.")
    ] = "127.0.0.1",
    no_browser: Annotated[
        bool, typer.Option("--no-browser", metavar=FLAG, help="Print the address alone, and open no browser.")
    ] = False,
) -> None:
    r"""Open a page on which verdict, chart and arguments follow as you move sliders. Ctrl-C ends it.

    It is served to this machine alone, reads no file of it, and needs the extra `ui`:
    pip install 'compression-planner\[ui]'.
    """
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise UiError(f"this needs {' and '.join(missing)}: pip install 'compression-planner[ui]'")
    from planner.ui.serve import serve

    serve(host, port, browser=not no_browser, say=lambda text: typer.echo(text))
