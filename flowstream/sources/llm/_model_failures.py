"""Turn the failures of a model's server into errors for our own client.

The app's client can't mend a wrong key or an unknown model, and must not see the upstream's text
about them, which names keys, organizations and limits. So each failure becomes one of a few
`UpstreamError`, and the upstream's own words go into the log, as its cause. A failure that the
client can do something about has its own code.

=====================================  ======  ========================  =========
upstream                               status  code                      retryable
=====================================  ======  ========================  =========
401, 403, most other 4xx               502     ``upstream_rejected``     no
429 for a quota that is used up        502     ``upstream_rejected``     no
400, 413: too much text for the model  413     ``context_too_long``      no
400: its content filter says no        400     ``content_filter``        no
429, 503, 529                          503     ``upstream_busy``         yes
408, 504, a timeout                    504     ``upstream_timeout``      yes
any other 5xx                          502     ``upstream_failed``       yes
no connection                          502     ``upstream_unreachable``  yes
an answer that breaks off or is none   502     ``upstream_broken``       yes
=====================================  ======  ========================  =========

Servers say the same in the middle of a stream with words instead of a status.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from flowstream._clock import clock
from flowstream._errors import PublicError, UpstreamError

# The types and codes of errors in the middle of a stream, as `_plain` has them: small letters, and
# neither "error" nor "exception" at the end. First those of Anthropic and OpenAI, then those of
# Google, AWS, llama.cpp, vLLM, TGI, LiteLLM and others.
_STATUS_OF_WORD = {
    "invalidrequest": 400,
    "authentication": 401,
    "billing": 402,
    "permission": 403,
    "notfound": 404,
    "requesttoolarge": 413,
    "ratelimit": 429,
    "timeout": 504,
    "overloaded": 529,
    "ratelimitexceeded": 429,
    "insufficientquota": 402,
    "invalidapikey": 401,
    "contextlengthexceeded": 413,
    "contentfilter": 400,
    "contentpolicyviolation": 400,
    "invalidprompt": 400,
    "modelnotfound": 404,
    "invalidargument": 400,
    "failedprecondition": 400,
    "unauthenticated": 401,
    "permissiondenied": 403,
    "resourceexhausted": 429,
    "unavailable": 503,
    "deadlineexceeded": 504,
    "validation": 400,
    "accessdenied": 403,
    "resourcenotfound": 404,
    "throttling": 429,
    "servicequotaexceeded": 402,
    "serviceunavailable": 503,
    "modelnotready": 503,
    "modeltimeout": 504,
    "badrequest": 400,
    "unprocessableentity": 422,
    "exceedcontextsize": 413,
    "contextwindowexceeded": 413,
    "toomanyrequests": 429,
    "insufficientsystemresource": 503,
    "gatewaytimeout": 504,
}
# Reasons for which a model stopped that are failures, of OpenRouter, Mistral, DeepSeek, vLLM,
# SGLang and others, and the status that each is.
_STATUS_OF_REASON = {
    "error": 500,
    "server_error": 500,
    "internal_error": 500,
    "failed": 500,
    "abort": 500,
    "aborted": 500,
    "network_error": 502,
    "insufficient_system_resource": 503,
    "overloaded": 503,
    "timeout": 504,
}
_SAYS_FAILURE = ("error", "exception")
_FILTERED = ("contentfilter", "contentpolicyviolation")
# OpenAI has a code for it; others, vLLM and Anthropic among them, have only words.
_TOO_LONG = re.compile(r"context.?(length|window|size)|(prompt|input) is too long", re.IGNORECASE)

# What an error says of itself, in one member or another.
_MEMBERS = (
    "code",
    "status_code",
    "statusCode",
    "status",
    "error_code",
    "type",
    "error_type",
    "message",
    "error_message",
    "status_msg",
)
# Codes that say that all is well.
_WELL = ("0", "200", "ok", "OK", "success")

# A day. A server that names a longer wait is not believed.
_LONGEST_RETRY_AFTER = 86_400.0


def failure_of(error: Any, sdk: ModuleType) -> PublicError | None:
    """Return the error for our client for an `error` that the SDK raised.

    None if it is not the upstream's error: a wrong argument, missing credentials.
    """
    if isinstance(error, sdk.APIStatusError) and error.status_code >= 400:
        headers: Mapping[str, str] = error.response.headers
        return failure_of_status(
            error.status_code, error.body, retry_after(headers, clock.wall_time())
        )
    if isinstance(error, sdk.APITimeoutError):
        return timed_out()
    if isinstance(error, sdk.APIConnectionError):
        return UpstreamError("upstream_unreachable", "The model's server can't be reached.")
    if isinstance(error, sdk.APIError):  # an event in a stream whose status was 200
        return failure_in_stream(error.body)
    return None


def failure_of_status(status: int, body: object, wait: float | None = None) -> PublicError:
    """Return the failure for a response with an error status.

    Args:
        status: what the upstream answered.
        body: its decoded JSON, if it was any.
        wait: seconds after which to ask again, as the upstream says.
    """
    words = _words(body)
    if status in (400, 413, 422):
        if status == 413 or any(_TOO_LONG.search(word) for word in words):
            return PublicError(
                "context_too_long", "This is more text than the model can take.", status=413
            )
        if any(_plain(word) in _FILTERED for word in words):
            return PublicError("content_filter", "The model may not answer this.", status=400)
    if status in (429, 503, 529) and not any(_plain(word) == "insufficientquota" for word in words):
        return UpstreamError(
            "upstream_busy", "The model's server is busy.", status=503, retry_after=wait
        )
    if status in (408, 504):
        return timed_out()
    if status >= 500:
        return UpstreamError(
            "upstream_failed", "The model's server failed.", status=502, retry_after=wait
        )
    return UpstreamError(
        "upstream_rejected", "The model's server did not accept the request.", retryable=False
    )


def failure_in_stream(error: object, event: str = "error") -> PublicError:
    """Return the failure that is described by the body of an error in the middle of a stream.

    Args:
        error: the body.
        event: the name of the event that it came in, which some servers put the type into.
    """
    words = [*_words(error), event]
    # OpenRouter, vLLM and others have the number of an HTTP status for a code.
    status = next((number for word in words if (number := _status(word)) is not None), None)
    if status is None:
        known = (_STATUS_OF_WORD.get(_plain(word)) for word in words)
        status = next((found for found in known if found is not None), 500)
    return _failure_with_words(status, error)


def failure_of_reason(reason: str, said: object) -> PublicError | None:
    """Return the failure that a model stopped with; None if its reason to stop is none.

    Args:
        reason: why it stopped, in the words of its server.
        said: the text that came with it, for the log.
    """
    status = _STATUS_OF_REASON.get(reason.lower())
    return None if status is None else _failure_with_words(status, said)


def names_failure(event: str) -> bool:
    """Return whether an event's name alone says that its server failed."""
    return event.endswith(("rror", "xception", "ERROR")) and event.lower().endswith(_SAYS_FAILURE)


def error_in(value: object) -> object:
    """Return the description of an error in an event that is not a usual one; None without one.

    It looks for ``error``, ``{"object": "error"}``, ``{"type": "error"}``, FastAPI's ``detail``,
    a bare message or code, AWS's exceptions and MiniMax's ``base_resp``.
    """
    if isinstance(value, list):
        return next((found for one in value if (found := error_in(one)) is not None), None)
    if not isinstance(value, Mapping):
        return None
    if value.get("error") or "error" in (value.get("object"), value.get("type")):
        return value
    response = value.get("base_resp")
    if isinstance(response, Mapping) and response.get("status_code") not in (None, 0, "0"):
        return response
    if value.get("choices"):
        return None
    for name, said in value.items():
        if isinstance(name, str) and name.endswith("Exception") and said:
            more = said if isinstance(said, Mapping) else {"message": said}
            return {"type": name, **more}
    if any(value.get(name) for name in ("detail", "errors", "error_code", "error_message")):
        return value
    codes = [value.get(name) for name in ("code", "status", "status_code", "statusCode")]
    if any(_status(code) is not None for code in codes):
        return value
    message, kind = value.get("message"), value.get("type") or "error"
    if not isinstance(message, str) or not message or any(str(code) in _WELL for code in codes):
        return None
    # An event of a new, unknown type may have a message, too.
    is_failure = names_failure(str(kind)) or _plain(str(kind)) in _STATUS_OF_WORD
    return value if is_failure or any(codes) else None


def said(data: str) -> object:
    """Return the body of an event as JSON, or else as text."""
    try:
        return json.loads(data, strict=False)
    except (ValueError, RecursionError):
        return data


def _failure_with_words(status: int, said: object) -> PublicError:
    failure = failure_of_status(status, said)
    failure.__cause__ = RuntimeError(f"the model's server said: {said!r:.2000}")  # for the log
    return failure


def timed_out() -> UpstreamError:
    """Return the failure of an upstream that took too long."""
    return UpstreamError(
        "upstream_timeout", "The model's server took too long to answer.", status=504
    )


def broken() -> UpstreamError:
    """Return the failure of an upstream that broke off, or sent what can't be read."""
    return UpstreamError("upstream_broken", "The model's server broke off its answer.")


def failure_of_reading(error: Exception) -> UpstreamError:
    """Return the failure for an error of the connection while an answer was read."""
    # By name: an SDK may use httpx2, httpx, or another client that was injected.
    names = (base.__name__ for base in type(error).__mro__)
    return timed_out() if "TimeoutException" in names else broken()


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds after which to ask an upstream again; None if it names none.

    RFC 9110 § 10.2.3: seconds or a date; and OpenAI's own header, in milliseconds.

    Args:
        headers: those of its response, with lower-case names or in any case.
        now: seconds since the epoch.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    given = headers.get("retry-after")
    seconds = _number(given)
    if seconds is None and given is not None:
        try:
            seconds = email.utils.parsedate_to_datetime(given).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return None if seconds is None else _bounded(seconds)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _bounded(seconds: float) -> float | None:
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER) if math.isfinite(seconds) else None


def _status(code: object) -> int | None:
    """Return the HTTP status of an error, if `code` is one: a number, or its text."""
    text = str(code).removesuffix(".0")
    if len(text) == 3 and text.isascii() and text.isdigit() and 400 <= int(text) <= 599:
        return int(text)
    return None


def _plain(word: str) -> str:
    """Return a type or code in the form that the tables here use."""
    letters = "".join(filter(str.isalnum, word[:100].lower()))
    for ending in _SAYS_FAILURE:
        letters = letters.removesuffix(ending)
    return letters


def _words(body: object) -> list[str]:
    """Return the codes, types and messages in the body of an error."""
    error: Any = body
    if isinstance(error, list) and error:  # Google puts the one error into a list
        error = error[0]
    words: list[str] = []
    while isinstance(error, Mapping):
        for name in _MEMBERS:
            word = error.get(name)
            if isinstance(word, (str, int, float)) and not isinstance(word, bool):
                words.append(str(word))
        inner = error.get("error") or error.get("detail") or error.get("errors")
        if isinstance(inner, list) and inner:  # FastAPI has a list of what is wrong
            inner = inner[0]
        error = inner
    if isinstance(error, str):
        words.append(error)
    return words
