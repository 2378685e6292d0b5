"""Check an app's arguments for a token source at the call, in its view."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flowstream.sources.llm._model_body import bound_responses


def check_client(client: object, kinds: tuple[type, ...], wanted: str) -> None:
    """Raise unless `client` is an asynchronous client of the right SDK.

    Args:
        client: what the app passed.
        kinds: the classes that it may be of.
        wanted: their name, for the message.

    Raises:
        TypeError: it is not such a client.
    """
    if isinstance(client, kinds):
        return
    if inspect.iscoroutine(client):
        client.close()  # else Python warns later that it was never awaited
        raise TypeError(
            f"client must be an {wanted}, not a coroutine: pass the client itself; the "
            "request is made when the stream runs"
        )
    if isinstance(client, type):
        name = client.__qualname__
        raise TypeError(f"client must be an {wanted}, not the class {name}: pass one of them")
    kind = type(client)
    name, package = kind.__qualname__, kind.__module__.partition(".")[0]
    if package == wanted.partition(".")[0]:
        raise TypeError(f"client must be an {wanted}: a {name} can't be awaited")
    given = name if package == "builtins" else f"{package}.{name}"
    raise TypeError(f"client must be an {wanted}, not a {given}")


def check_params(create: Callable[..., Any], params: dict[str, Any]) -> None:
    """Raise unless `create` can be called with `params`.

    Raises:
        TypeError: it can't, or `params` have a ``stream``.
    """
    if "stream" in params:
        raise TypeError("stream= is not yours to give: a source of tokens always streams")
    try:
        inspect.signature(create).bind(**params)
    except TypeError as error:
        raise TypeError(f"{create.__qualname__}: {error}") from None


def for_one_stream(client: Any) -> Any:
    """Return a copy of `client` that makes the request for a stream.

    It makes no retries of its own, which would sleep for minutes. It asks for no compression:
    tokens are a few bytes each, and would wait in the compressor for others. Its HTTP client, which
    is the app's, gets a hook that bounds the answers to us (see `_model_body`).
    """
    bound_responses(getattr(client, "_client", None))  # the SDKs have no public name for it
    return client.with_options(max_retries=0, default_headers={"Accept-Encoding": "identity"})
