"""Whether the server is ready, for a load balancer to ask."""

from __future__ import annotations

from typing import Any


class Readiness:
    """ASGI middleware that answers one path: 200 until `stop`, 503 from then on.

    Args:
        app: the application around which it is put.
        path: the path, or None for none.
    """

    def __init__(self, app: Any, path: str | None) -> None:
        self._app = app
        self._path = path
        self._ready = True

    def stop(self) -> None:
        """Say from now on that the server is not ready."""
        self._ready = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer the path, or call the application."""
        if self._path is None or scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        body = b"ready\n" if self._ready else b"shutting down\n"
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        status = 200 if self._ready else 503
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
