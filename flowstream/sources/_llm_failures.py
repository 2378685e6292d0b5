"""What the failures of a model's server are to our own client.

The client of the app can do nothing about a wrong key or an unknown model, and must not read
what the upstream has to say about either: such texts name keys, organizations and limits. So
each failure becomes one of a few `UpstreamError`, and the upstream's own words stay in the
log, as its cause. What the client can do something about has a code of its own.

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
import math
import re
import time
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from flowstream._errors import PublicError, UpstreamError

# The types and codes of errors in the middle of a stream: those of Anthropic, then OpenAI's.
_STATUS_OF_WORD = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 402,
    "invalid_api_key": 401,
    "context_length_exceeded": 413,
    "content_filter": 400,
    "content_policy_violation": 400,
    "invalid_prompt": 400,
}
_FILTERED = ("content_filter", "content_policy_violation")
# OpenAI has a code for it; others, vLLM and Anthropic among them, have only words.
_TOO_LONG = re.compile(r"context.?length|context.?window|(prompt|input) is too long", re.IGNORECASE)

# A day: whoever says more than that is not to be believed.
_LONGEST_RETRY_AFTER = 86_400.0


def failure_of(error: Any, sdk: ModuleType) -> PublicError | None:
    """Return what `error`, raised by the SDK, is to our client.

    None if it is none of the upstream's: a wrong argument, credentials that are missing.
    """
    if isinstance(error, sdk.APIStatusError) and error.status_code >= 400:
        headers: Mapping[str, str] = error.response.headers
        return failure_of_status(error.status_code, error.body, retry_after(headers, time.time()))
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
        wait: seconds after which it wants to be asked again.
    """
    words = _words(body)
    if status in (400, 413, 422):
        if status == 413 or any(_TOO_LONG.search(word) for word in words):
            return PublicError(
                "context_too_long", "This is more text than the model can take.", status=413
            )
        if any(word in _FILTERED for word in words):
            return PublicError("content_filter", "The model may not answer this.", status=400)
    if status in (429, 503, 529) and "insufficient_quota" not in words:
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


def failure_in_stream(error: object) -> PublicError:
    """Return the failure that is described by the body of an error in the middle of a stream."""
    words = _words(error)
    # OpenRouter, vLLM and others have the number of an HTTP status for a code.
    numbers = (int(word) for word in words if word.isascii() and word.isdigit() and len(word) == 3)
    status = next((number for number in numbers if 400 <= number <= 599), None)
    if status is None:
        status = next((_STATUS_OF_WORD[word] for word in words if word in _STATUS_OF_WORD), 500)
    failure = failure_of_status(status, error)
    failure.__cause__ = RuntimeError(f"the model's server said: {error!r:.2000}")  # for the log
    return failure


def timed_out() -> UpstreamError:
    """Return the failure of an upstream that let us wait for too long."""
    return UpstreamError(
        "upstream_timeout", "The model's server took too long to answer.", status=504
    )


def broken() -> UpstreamError:
    """Return the failure of an upstream that broke off, or sent what can't be read."""
    return UpstreamError("upstream_broken", "The model's server broke off its answer.")


def failure_of_reading(error: Exception) -> UpstreamError:
    """Return the failure for an error of the connection while an answer was read."""
    # By name: an SDK may run on httpx2, on httpx, or on what else was injected.
    names = (base.__name__ for base in type(error).__mro__)
    return timed_out() if "TimeoutException" in names else broken()


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds after which an upstream wants to be asked again; None if it says none.

    RFC 9110 § 10.2.3: seconds or a date; and what OpenAI has besides, milliseconds.

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


def _words(body: object) -> list[str]:
    """Return what an error's body says of itself: code, type and message, where there are any."""
    error: Any = body
    if isinstance(error, Mapping) and isinstance(error.get("error"), (Mapping, str)):
        error = error["error"]
    if isinstance(error, str):
        return [error]
    if not isinstance(error, Mapping):
        return []
    said = [error.get(name) for name in ("code", "type", "message")]
    return [str(word) for word in said if isinstance(word, (str, int))]
