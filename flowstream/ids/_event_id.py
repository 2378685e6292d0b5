"""The id of an event: ``<epoch>.<offset>``, such as ``1lgppmf8l75.d1042``. It sorts as text.

The **epoch** says of which life of a topic or run the event is. It has 7 characters of seconds
since 1970 and 4 random ones, in base 32 (``0-9a-v``), so a later one sorts behind. Two epochs of
one process are never equal. Two of different processes may be, so a topic is known by its name or
as an object, and never by its epoch alone.

The **offset** is the number of the event in its epoch, behind a letter for how many digits it has:
``a7``, ``b42``, ``d1042``, up to 18 digits. So the ids of a topic, sorted as bytes or as text, are
in the order in which its events were published. Each event has one spelling; any other is refused.

Two more ids have such a form: ``<epoch>.lost`` stands for a place that a topic does not know, and
``<epoch>.end`` or ``<epoch>.failed`` is the last id of a stream that is over for good.

What a client sends may be anything. Nothing is done with more than `MAX_ID_LENGTH` characters.
"""

from __future__ import annotations

import re
from typing import Literal

from flowstream._clock import stamps

MAX_ID_LENGTH = 2048
"""Characters of an id that a client may send: room for the joined id of some sixty topics."""

_EPOCH_LENGTH = 11
_MAX_ZEROS = 5
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_LETTERS = "_abcdefghijklmnopqr"  # by the number of digits, from 1

_EPOCH = rf"[0-9a-v]{{{_EPOCH_LENGTH}}}0{{0,{_MAX_ZEROS}}}"
_ONE_EPOCH = re.compile(_EPOCH)
_EVENT_ID = re.compile(rf"({_EPOCH})\.([a-r])(0|[1-9][0-9]{{0,17}})")
_LOST_ID = re.compile(rf"({_EPOCH})\.lost")
_FINAL_ID = re.compile(r"[0-9a-z]{1,32}\.(?:end|failed)")


def base32(number: int, length: int) -> str:
    """Return the last `length` digits of a number in base 32, which sort as numbers do."""
    digits = ""
    for _ in range(length):
        digits = _DIGITS[number & 31] + digits
        number >>= 5
    return digits


def new_epoch(last: str = "") -> str:
    """Return a new epoch, which sorts behind `last` and behind all that this process has made.

    Args:
        last: the last epoch of the same topic, if one is known. If the clock has been set back, the
            new one is that with a ``0`` behind it.

    Raises:
        ValueError: `last` is no epoch, or is the last of all, of the year 3058.
    """
    epoch = base32(stamps.draw(), _EPOCH_LENGTH)
    if epoch > last:
        return epoch
    if not _ONE_EPOCH.fullmatch(last):
        raise ValueError(f"an epoch is such as '1lgppmf8l75', not {last[:40]!r}")
    if len(last) < _EPOCH_LENGTH + _MAX_ZEROS:
        return f"{last}0"
    behind = int(last[:_EPOCH_LENGTH], 32) + 1
    if behind >> 5 * _EPOCH_LENGTH:
        raise ValueError(f"no epoch sorts behind {last!r}, the last one of all")
    return base32(behind, _EPOCH_LENGTH)


def event_id(epoch: str, number: int) -> str:
    """Return the id of event `number`, from 0 (before the first event) to 18 digits.

    Raises:
        IndexError: the number has more digits.
    """
    digits = str(number)
    return f"{epoch}.{_LETTERS[len(digits)]}{digits}"


def parse_event_id(id: str) -> tuple[str, int] | None:
    """Return the epoch and the number in an id, or None if it is no id of an event of ours."""
    if len(id) > MAX_ID_LENGTH:
        return None
    match = _EVENT_ID.fullmatch(id)
    if match is None or _LETTERS[len(match[3])] != match[2]:
        return None
    return match[1], int(match[3])


def lost_id(epoch: str) -> str:
    """Return what stands for a place that a topic or run of this epoch does not know."""
    return f"{epoch}.lost"


def epoch_of(id: str) -> str | None:
    """Return the epoch of an event's id, or of a `lost_id`; None for any other id."""
    parsed = parse_event_id(id)
    if parsed is not None:
        return parsed[0]
    match = None if len(id) > MAX_ID_LENGTH else _LOST_ID.fullmatch(id)
    return None if match is None else match[1]


def final_id(epoch: str, word: Literal["end", "failed"]) -> str:
    """Return the id of the last event of a stream that is over for good."""
    return f"{epoch}.{word}"


def is_final(id: str) -> bool:
    """Return whether a client that sends `id` has got such a last event."""
    return len(id) <= MAX_ID_LENGTH and _FINAL_ID.fullmatch(id) is not None


def is_ours(id: str) -> bool:
    """Return whether `id` has a form that flowstream alone gives to ids, in any epoch."""
    return epoch_of(id) is not None or is_final(id)


def check_id(id: str) -> None:
    """Check an id that an app gives to an event.

    Raises:
        ValueError: a client could not come back with it, or would be taken for another.
    """
    if not id:
        raise ValueError(
            "an id must not be empty, because to a client that is no id: leave `id` out, and the "
            "event gets one"
        )
    if len(id) > MAX_ID_LENGTH:
        raise ValueError(
            f"an id must have at most {MAX_ID_LENGTH:,} characters, not {len(id):,}, because no "
            "more are read when a client comes back with it"
        )
    if is_ours(id):
        raise ValueError(
            f"the id {id!r} has the form of flowstream's own ids: leave `id` out, and the event "
            "gets one; to keep the id of another topic's event, put it into the data, or write "
            f"another form, such as id={'from-' + id!r}"
        )
