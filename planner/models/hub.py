"""config.json of a Hugging Face Hub repository: the one file that is ever downloaded, never waited for without end."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from planner.errors import ModelError
from planner.hints import shorten

CONNECT_SECONDS = 5.0
PATIENCE_SECONDS = 40.0
"""For the file and the library's own five retries: half a minute (huggingface_hub/utils/_http.py http_backoff)."""
LOG_IN = "log in (`hf auth login`), set HF_TOKEN, or give the path of its config.json"

Hint = Callable[[str], str]
"""Text of a Hub id -> names of presets like it."""


def hub_config(hub_id: str, hint: Hint) -> Path:
    """The file in the local cache, downloaded where it is not there yet.

    Raises ModelError, in one line, for whatever keeps it from coming, at the latest after PATIENCE_SECONDS.
    """
    import huggingface_hub

    try:
        cached = huggingface_hub.try_to_load_from_cache(hub_id, "config.json")
        if isinstance(cached, str):
            return Path(cached)
        _require_hub(hub_id, hint)
        with _quiet():
            return Path(_within_patience(lambda: huggingface_hub.hf_hub_download(hub_id, "config.json"), hub_id))
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # huggingface_hub's own, or whatever the HTTP library raises
        raise ModelError(f"{hub_id}: {_explained(error, hub_id, hint)}") from error


def _explained(error: BaseException, hub_id: str, hint: Hint) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return f"not a path, and not a valid Hub id; {hint(hub_id)}"
    if isinstance(error, errors.GatedRepoError):
        return f"gated; {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"no such path, and not a Hub repository that you can see; if it is private, {LOG_IN}; {hint(hub_id)}"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository holds no config.json, so transformers cannot load it"
    return _of_status(_status(error)) or f"its config.json could not be downloaded: {_first_line(error)}"


def _of_status(status: int | None) -> str:
    if status in (401, 403):
        return f"the Hub refuses it ({status}): private, or your token has no access; {LOG_IN}"
    if status == 429:
        return "the Hub takes no more requests for now (429); wait some minutes, or give the path of its config.json"
    if status is not None and status >= 500:
        return f"the Hub itself fails ({status}); try again later, or give the path of its config.json"
    return ""


def _status(error: BaseException | None) -> int | None:
    """HTTP status of the answer behind an error; huggingface_hub wraps it in errors about its cache."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None


def _within_patience(download: Callable[[], str], hub_id: str) -> str:
    """What the download returns or raises; ModelError where it does neither in time (its thread is left behind)."""
    outcome: list[str | BaseException] = []

    def run() -> None:
        try:
            outcome.append(download())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="planner-hub", daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    if not outcome:
        raise ModelError(
            f"{hub_id}: the Hub has not sent its config.json within {PATIENCE_SECONDS:g} s; try again, or give the "
            "path of its config.json"
        )
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without huggingface_hub's log of each retry: one line says it all when they are over."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _require_hub(hub_id: str, hint: Hint) -> None:
    """Raise ModelError at once where the Hub cannot be reached, which hf_hub_download notices after half a minute."""
    import huggingface_hub

    reason = "HF_HUB_OFFLINE is set"
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        try:
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=CONNECT_SECONDS)
        except Exception as error:  # whatever the HTTP library raises, the Hub is out of reach
            reason = _first_line(error)
        else:
            return
    raise ModelError(
        f"{hub_id}: no such path or preset, not in the local Hub cache, and the Hub cannot be reached ({reason}); "
        + hint(hub_id)
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return shorten(lines[0]) if lines else type(error).__name__
