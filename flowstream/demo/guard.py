"""The guard: answer the demo's own page and programs of this machine, and no other site.

A page of any site can make a browser send requests to this server, in two ways. A loopback address
does not prevent them:

=====================  ==================================  =====================================
attack                 how                                 what the guard does
=====================  ==================================  =====================================
DNS rebinding          evil.example is made to mean        answers the names of this machine only
                       127.0.0.1, and its page reads all   (`Host`)
cross-site requests    images and fetches of another page  refuses what another site's page sent
                       fill the demo with streams          (`Sec-Fetch-Site`, else `Origin`)
=====================  ==================================  =====================================

A link on another site still opens the page. Programs such as curl send neither header, and get
answers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

from quart import Response, request
from quart_trio import QuartTrio

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d*)?", re.IGNORECASE)


def protect(app: QuartTrio, hosts: Iterable[str], pages: Collection[str]) -> None:
    """Refuse requests under a foreign name or from a foreign site, before any view runs.

    Args:
        app: the app.
        hosts: names of the app besides those of loopback.
        pages: paths that a link on another site may open.
    """
    names = frozenset(name.lower().strip("[]").rstrip(".") for name in hosts)

    @app.before_request
    async def refuse() -> Response | None:
        headers = request.headers
        host = headers.get("Host", "")
        if not answers_to(host, names):
            return _refusal(
                421,
                f"The demo answers to localhost, not to {host[:80]!r}. If that is a name of this"
                " machine, start it with: flowstream demo --host NAME",
            )
        link = request.path in pages and headers.get("Sec-Fetch-Mode") == "navigate"
        if not link and is_foreign(headers.get("Sec-Fetch-Site"), headers.get("Origin"), host):
            return _refusal(403, "The demo's streams are for its own page, not for another site's.")
        return None


def answers_to(host: str, names: Collection[str] = ()) -> bool:
    """Return whether `host`, a request's header, is a name of loopback or one of `names`.

    A browser always sends the header; a request without it comes from a program.
    """
    if not host:
        return True
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower().strip("[]").rstrip(".")
    if name in names or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def is_foreign(site: str | None, origin: str | None, host: str) -> bool:
    """Return whether another site's page sent a request.

    Args:
        site: its ``Sec-Fetch-Site``, which browsers send to loopback and over TLS.
        origin: its ``Origin``, for browsers that send no ``Sec-Fetch-Site``.
        host: its ``Host``.
    """
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc.lower() != host.lower()


def _refusal(status: int, why: str) -> Response:
    return Response(why + "\n", status, content_type="text/plain; charset=utf-8")
