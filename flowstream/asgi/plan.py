"""Plan: what is delivered, and how; checked as a whole before there is a client.

A plan says nothing about the transport. `ResponsePlan` has the status and the headers of an HTTP
response.

A wrong argument of `stream()` is found at the call, in the view. There it is still an ordinary
error of the app.
"""

from __future__ import annotations

import contextvars
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from flowstream._closing import StreamReport
from flowstream._event import Where, check_retry
from flowstream.abc import Encoder, Policy
from flowstream.event_types import EventTypes
from flowstream.limits import Buffer, Limits, check_positive
from flowstream.policies import Block
from flowstream.sources import Resumable, Source, as_source
from flowstream.sources._feed import Feed
from flowstream.topics._subscription import Subscription, SubscriptionManager, check_policy

OnClose = Callable[[StreamReport], object]

# The bounds of a buffer by default.
_ITEMS = 256
_BUFFER = Buffer(_ITEMS)


class DeliveryOptions(TypedDict, total=False):
    """The keywords of `stream` that say what is delivered, and how."""

    buffer: int | Buffer
    policy: Policy | None
    heartbeat: float | None
    limits: Limits
    controls: bool
    retry: int | None
    on_close: OnClose | None
    where: Where | None
    events: EventTypes | None
    direct: bool | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is delivered, and how."""

    source: Source | Feed
    encoder: Encoder
    buffer: Buffer
    policy: Policy
    heartbeat: float | None
    limits: Limits
    controls: bool
    retry: int | None
    on_close: OnClose | None
    where: Where | None
    direct: bool | None
    """Whether publishers may write past middleware; None to check the middleware first."""
    after: str | None
    """The event id to begin after, for a client that does not say what it saw last."""
    length: int | None
    """The size of the body in bytes, if it is promised; see `Source.length`."""
    is_feed: bool
    """Whether the source is a topic or a run."""
    resumes: bool
    """Whether a client that comes back gets only what it missed, and not everything again."""
    context: contextvars.Context
    """The context variables where the plan was made: in the view, inside its spans."""


def make_plan(
    source: Any,
    encoder: Encoder,
    *,
    buffer: int | Buffer = _ITEMS,
    policy: Policy | None = None,
    heartbeat: float | None = 15.0,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    controls: bool = True,
    retry: int | None = None,
    on_close: OnClose | None = None,
    where: Where | None = None,
    events: EventTypes | None = None,
    direct: bool | None = None,
) -> Plan:
    """Return the plan of one delivery; `stream` says what the arguments mean.

    Raises:
        SourceError: `source` is not a source of items.
        TypeError, ValueError: another argument is not what it should be.
    """
    if not isinstance(encoder, Encoder):
        raise TypeError(f"encoder must be an Encoder such as SSE(), not {described(encoder)}")
    if events is not None:
        if not isinstance(events, EventTypes):
            raise TypeError(f"events must be an EventTypes(...), not {described(events)}")
        encoder = events.encoder(encoder)
    if policy is not None and not isinstance(policy, Policy):
        raise TypeError(f"policy must be a Policy such as DropOldest(), not {described(policy)}")
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be a Limits, not {described(limits)}")
    if heartbeat is not None:
        check_positive("heartbeat", heartbeat, unit="seconds")
    if retry is not None:
        check_retry(retry)
    if not isinstance(controls, bool):
        raise TypeError(f"controls must be True or False, not {described(controls)}")
    if direct is not None and not isinstance(direct, bool):
        raise TypeError(f"direct must be True, False or None, not {described(direct)}")
    if on_close is not None:
        _check_on_close(on_close)
    after = None
    if isinstance(source, SubscriptionManager):
        if policy is not None or where is not None:
            raise TypeError("a subscription has its policy= and where= already: give them to it")
        policy, where, after = source.terms.policy, source.terms.where, source.terms.after
        buffer = source.buffer if buffer == _ITEMS else buffer
        source = source.feed
    found = as_source(source)
    is_feed = isinstance(found, Feed)
    if isinstance(found, Source) and found.typed and not encoder.in_band:
        raise TypeError(
            f"{type(encoder).__name__} has no room for the events of progress(): write "
            "progress(..., tell=function), which calls the function with each report instead"
        )
    if isinstance(source, Subscription) and policy is not None:
        raise TypeError("a subscription has its policy already: give it to subscribe()")
    if isinstance(found, Feed):
        policy = check_policy(policy, found)
    elif policy is not None and policy.rereads:
        raise TypeError("CatchUp is for topics and runs: a source of one client has no replay")
    elif where is not None:
        raise TypeError("where= is for topics: a source of one client can leave out items itself")
    elif direct:
        raise TypeError("direct=True is for topics and runs: other sources have no publisher")
    if where is not None and not callable(where):
        raise TypeError(f"where must be a function of an event, not {described(where)}")
    policy = Block() if policy is None else policy
    return Plan(
        source=found,
        encoder=encoder,
        buffer=_BUFFER if buffer is _ITEMS else Buffer.of(buffer),
        policy=policy,
        heartbeat=heartbeat,
        limits=limits,
        controls=controls and encoder.in_band,
        retry=retry,
        on_close=on_close,
        where=where,
        direct=direct,
        after=after,
        length=_length(found, encoder, policy),
        is_feed=is_feed,
        # A subscription was made with the position to begin at.
        resumes=is_feed or isinstance(found, Resumable) or isinstance(source, Subscription),
        context=contextvars.copy_context(),
    )


def _check_on_close(on_close: OnClose) -> None:
    if not callable(on_close):
        raise TypeError(f"on_close must be a function, not {described(on_close)}")
    if any(map(inspect.iscoroutinefunction, (on_close, type(on_close).__call__))):
        raise TypeError(
            "on_close must be a plain function: the stream is over, nobody would await it; "
            "to await something, send the report into a channel with send_nowait"
        )


def _length(source: Source | Feed, encoder: Encoder, policy: Policy) -> int | None:
    whole = encoder.verbatim and isinstance(policy, Block)
    return source.length if whole and isinstance(source, Source) else None


def described(value: object) -> str:
    """Return in words what `value` is, for an error that names what was expected."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
