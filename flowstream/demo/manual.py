"""The manual: serve the pages of docs/, so that the demo's links stay inside the demo.

The pages are Markdown. markdown-it (which comes with `rich`, in the extra ``demo``) makes HTML of
them; without it they are shown as text. A wheel has them inside this package, a checkout beside it.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path

from quart import Response
from quart_trio import QuartTrio

_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · flowstream</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/manual.css">
<nav><a href="/">Demo</a> <a href="/docs/index.md">All pages</a></nav>
<main>{body}</main>
"""


def directory() -> Path | None:
    """Return where the pages are, or None if they are not installed."""
    here = Path(__file__).parent
    for place in (here / "docs", here.parent.parent / "docs"):
        if (place / "index.md").is_file():
            return place
    return None


@cache
def pages() -> dict[str, Path]:
    """Return the file of each path. Other paths lead nowhere."""
    place = directory()
    if place is None:
        return {}
    files = (path for path in sorted(place.rglob("*")) if path.suffix in (".md", *_TYPES))
    return {f"/docs/{path.relative_to(place).as_posix()}": path for path in files}


def add_manual(app: QuartTrio, headers: dict[str, str]) -> None:
    """Add the pages to `app`."""

    @app.get("/docs/<path:name>")
    async def page(name: str) -> Response | tuple[str, int]:
        file = pages().get(f"/docs/{name}")
        if file is None:
            return "There is no such page of the documentation.\n", 404
        if file.suffix != ".md":
            kind = _TYPES[file.suffix]
            return Response(file.read_bytes(), content_type=kind, headers=headers)
        body, media_type = _shown(file.read_text(encoding="utf-8"))
        return Response(body, content_type=media_type, headers=headers)


def _shown(text: str) -> tuple[str, str]:
    """Return the page and its media type: as HTML, or as text without markdown-it."""
    if find_spec("markdown_it") is None:
        return text, "text/plain; charset=utf-8"
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(_COMMENT.sub("", text))
    title = escape(text.partition("\n")[0].lstrip("# "))
    return _PAGE.format(title=title, body=body), "text/html; charset=utf-8"
