"""A picture that the script would fetch from the web is a made-up one: a rehearsal has no network."""

import io
import re
from typing import Any

from planner.rehearse.child.events import Events
from planner.rehearse.child.imports import Hooks
from planner.rehearse.child.settings import Settings

PICTURE = re.compile(r"\.(jpe?g|png|webp|gif|bmp)(\?.*)?$", re.IGNORECASE)
SIZE = 640, 480


class _MadeUpResponse:
    """What the script reads of a response."""

    status_code, ok, headers = 200, True, {"content-type": "image/png"}

    def __init__(self) -> None:
        from PIL import Image  # type: ignore[import-not-found,unused-ignore]  # the script's environment has it

        file = io.BytesIO()
        Image.new("RGB", SIZE).save(file, format="PNG")
        self.content = file.getvalue()
        self.raw = io.BytesIO(self.content)

    def __enter__(self) -> "_MadeUpResponse":
        return self

    def __exit__(self, *_error: object) -> None:
        self.raw.close()

    def raise_for_status(self) -> None:
        """All is well."""

    def iter_content(self, _size: int = 1) -> Any:
        """All of it at once."""
        return iter((self.content,))


def install(settings: Settings, events: Events, hooks: Hooks) -> None:
    """Replace `requests.get` for pictures, unless the script may load real data."""
    if settings.real_data:
        return

    def hook(module: Any) -> None:
        own = module.get

        def get(url: Any, *values: Any, **named: Any) -> Any:
            if not PICTURE.search(str(url)):
                return own(url, *values, **named)
            events.note("data", f"{url}: made up, {SIZE[0]} x {SIZE[1]} pixels.")
            return _MadeUpResponse()

        module.get = get

    hooks.after("requests.api", hook)
