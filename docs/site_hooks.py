"""Changes to pages on their way into the site: what lies outside of docs/ has no page there."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[(?P<text>[^\]]*)\]\(\.\./(?P<path>[^)#]*)[^)]*\)")


def on_page_markdown(markdown: str, **_page: Any) -> str:
    """Links to files of the repository become their paths."""
    return _OUTSIDE.sub(_as_path, markdown)


def _as_path(link: re.Match[str]) -> str:
    text, path = link["text"].strip("`"), link["path"]
    return f"`{path}`" if path.startswith(text) or not text else f"{link['text']} (`{path}`)"
