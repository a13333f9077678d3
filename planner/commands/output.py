"""Where results go: whole files or stdout, never half a file."""

import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from planner.errors import OutputError
from planner.hints import MAX_PATH_SHOWN, shorten

if TYPE_CHECKING:
    from planner.hardware.demand import Fits


def check_output(output: str | None) -> None:
    """Raise OutputError, before any work is done, where the result could not be written afterwards."""
    if output is None:
        return
    try:
        _check_path(output, Path(output))
    except (OSError, ValueError) as error:  # too long a name, a null byte
        shown = shorten(output, MAX_PATH_SHOWN)
        raise OutputError(f"--output {shown}: {getattr(error, 'strerror', None) or error}") from None


def _check_path(output: str, path: Path) -> None:
    if path.is_dir():
        raise OutputError(f"--output {output}: this is a folder; name a file")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"--output {output}: the folder {folder} does not exist; create it first")
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise OutputError(f"--output {output}: no permission to write to it")
    elif not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"--output {output}: no permission to write in the folder {folder}")


def write_result(content: str | bytes, output: str | None) -> None:
    """Write the result to stdout or to the file; the file is never half-written, but stays old or is replaced whole.

    Bytes are text in UTF-8, or are written to a file.
    """
    if output is None:
        _print(content if isinstance(content, str) else content.decode())
        return
    data = content.encode() if isinstance(content, str) else content
    try:
        if _is_special(Path(output)):
            Path(output).write_bytes(data)
        else:
            _replace(Path(output).resolve(), data)
    except OSError as error:
        raise OutputError(f"--output {output}: {error.strerror or error}") from error


def exit_for_no(check: bool, *answers: "Fits | None") -> None:
    """With `--check`, end with code 1 where one of the answers is a no."""
    if check and "no" in answers:
        raise typer.Exit(1)


def _print(text: str) -> None:
    # A terminal that cannot show a box-drawing character gets a question mark, not a traceback.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(text)
    sys.stdout.flush()


def _is_special(path: Path) -> bool:
    """Whether this is a device or a pipe, such as /dev/null: it must be written to, not replaced."""
    return path.exists() and not path.is_file()


def _replace(path: Path, data: bytes) -> None:
    """Write a temporary file, then rename it over the old one; nothing is left behind, not even on Ctrl-C."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(temporary).chmod(_mode(path))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """The old file's permissions, or those that `open` would have given a new one."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
