"""`python -m planner` is the `planner` command: Ctrl-C ends it without a word from its first instant on."""

import os
import signal
from typing import NoReturn


def run() -> NoReturn:
    """Import the command line, during which Ctrl-C has nothing to clean up, and run it."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        from planner import cli
    except MemoryError:
        os.write(2, b"planner: error: too little memory for the planner itself (see `ulimit -v`)\n")
        os._exit(1)
    cli.run()


if __name__ == "__main__":
    run()
