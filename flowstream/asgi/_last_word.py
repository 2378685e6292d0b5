"""The last word: tell a client why its stream ends, and check that it got everything.

A stream that ends gracefully says why in a last control event, after what is queued. A format
without control events says it by the end of its body: only a complete body gets one.
"""

from __future__ import annotations

from typing import Literal

from flowstream._closing import CloseReason
from flowstream.asgi._writer import Writer, jittered
from flowstream.asgi.plan import Plan
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.ids._event_id import final_id
from flowstream.policies import Block
from flowstream.tasks._failure import public

LAST_WORDS: dict[CloseReason, Literal["end", "reconnect", "failed"]] = {
    CloseReason.COMPLETED: "end",
    CloseReason.STOPPED: "end",
    CloseReason.MAX_DURATION: "reconnect",
    CloseReason.SHUTDOWN: "reconnect",
    CloseReason.MAX_BYTES: "failed",
    CloseReason.ERROR: "failed",
    # An aborted stream says nothing. These words are for an app that closes a topic for such a
    # reason: Topic.aclose(CloseReason.CANCELLED).
    CloseReason.CLIENT_DISCONNECTED: "failed",
    CloseReason.SLOW_CONSUMER: "failed",
    CloseReason.STALLED: "failed",
    CloseReason.RATE_LIMITED: "failed",
    CloseReason.REFUSED: "failed",
    CloseReason.CANCELLED: "failed",
}
"""The control event that ends a stream, by its close reason."""


async def say_last_word(
    writer: Writer,
    plan: Plan,
    reason: CloseReason,
    error: BaseException | None,
    *,
    lacking: int | None,
    epoch: str,
) -> None:
    """Write why the stream ends.

    Args:
        writer: the stream's.
        plan: the stream's.
        reason: why it ends.
        error: what it failed with, or None.
        lacking: how many events of the past the client has not been given yet; None if that is not
            known.
        epoch: the stream's, for the id of a final end.
    """
    word = LAST_WORDS[reason]
    if lacking != 0 and word != "reconnect":
        # It was catching up. A client that reconnects goes on with that; this one will not
        # reconnect.
        await writer.announce(lacking)
    if word == "end":
        await writer.say(word, {"reason": reason.value}, id=final_id(epoch, "end"))
    elif word == "reconnect":
        await writer.say(word, {"reason": reason.value}, retry=jittered(plan.retry))
    else:
        code, message, retryable = public(reason, error)
        id = None if retryable else final_id(epoch, "failed")
        await writer.say(word, {"code": code, "message": message}, id=id)


def has_all(plan: Plan, writer: Writer | None) -> bool:
    """Return whether every byte that the client was promised is written, or being written."""
    return writer is not None and writer.bytes + writer.sending == plan.length


def shortfall(plan: Plan, writer: Writer, buffer: EventBuffer) -> tuple[Exception, str] | None:
    """Return the error of a stream whose source has ended too early, and who failed; else None.

    A body whose length was promised must have exactly that many bytes: the client counts them, and
    knows no other end. And a format without control events can't say that something is missing.
    """
    if plan.length is not None and not has_all(plan, writer):
        made = f"the source made {writer.bytes} bytes, and its length was {plan.length}"
        return ValueError(made), "producer"
    keeps_all = plan.policy.rereads or isinstance(plan.policy, Block)
    if keeps_all and not plan.controls and buffer.queue.gaps > 0:
        return LookupError("the replay has lost events, and this format can't say so"), "feed"
    return None
