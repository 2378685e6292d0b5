"""The guard: the demo answers its own page and people at this machine, and no other site.

A page of any site can have a browser ask this server, by two ways that a loopback address does
not prevent:

=====================  ==================================  =====================================
attack                 how                                 what the guard does
=====================  ==================================  =====================================
DNS rebinding          evil.example is made to mean        answers the names of this machine only
                       127.0.0.1, and its page reads all   (`Host`)
cross-site requests    images and fetches of another page  refuses what another site's page sent
                       fill the demo with streams          (`Sec-Fetch-Site`, else `Origin`)
=====================  ==================================  =====================================

A link from elsewhere still opens the page. Programs such as curl send neither header, and
are answered.
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
    """Refuse what is asked under a foreign name or by a foreign site, before any view runs.

    Args:
        app: the app.
        hosts: names that it has besides those of loopback.
        pages: paths that a link on another site may lead to.
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

    A browser always sends one; a request without is a program's.
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
        origin: its ``Origin``, for those that don't.
        host: its ``Host``.
    """
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc.lower() != host.lower()


def _refusal(status: int, why: str) -> Response:
    return Response(why + "\n", status, content_type="text/plain; charset=utf-8")
