"""Runs the server until Ctrl-C: a socket on a loopback address, uvicorn, and the browser."""

import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable

from planner.errors import UiError

LOOPBACK = {"127.0.0.1": socket.AF_INET, "localhost": socket.AF_INET, "::1": socket.AF_INET6}
CONNECTIONS = 64
HTTP = 80


def serve(host: str, port: int, *, browser: bool, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. Raises UiError for another machine's address, and for a port that is taken."""
    listening = listen(host, port)
    import uvicorn

    from planner.ui.app import make_app
    from planner.ui.desk import Desk

    port = listening.getsockname()[1]
    app = make_app(Desk(), hosts_of(port))
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        server_header=False,
        http="h11",
        ws="none",
        lifespan="on",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=64 * 1024,
    )
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    say(f"planner ui: {url}  (Ctrl-C ends it)")
    if browser and _has_screen():
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises the signal again once all is closed
        return
    finally:
        listening.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UiError where it cannot, or may not."""
    family = LOOPBACK.get(host)
    if family is None:
        raise UiError(f"--host {host}: the page is for this machine alone; give {', '.join(LOOPBACK)}, or nothing")
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1" if family == socket.AF_INET else host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UiError(f"--port {port}: {error.strerror}; --port 0 takes a free one") from None
    return listening


def hosts_of(port: int) -> tuple[str, ...]:
    """What the server answers to: its loopback names with its port, which browsers leave out where it is HTTP's."""
    names = ("127.0.0.1", "localhost", "[::1]")
    return (*(f"{name}:{port}" for name in names), *(names if port == HTTP else ()))


def _has_screen() -> bool:
    """Whether a browser would show a window, and not take the terminal."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
