"""The id of several topics on one connection: where a client is in each of them.

It has a part for each topic, joined by ``~``. A part is ``<tag>:<id>``: the tag is a hash of the
topic's name, and the id is that of the last event that the client has of it. So the order of the
parts does not matter, and a topic that was restarted is known to be the same one. A part is empty
if the client has not got its first snapshot yet.

Topics may have the same name, and names the same hash. Then the epochs in the ids tell them apart,
and what they can't tell apart is unknown: its client gets a gap, and is never assumed to have
events that it may have missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import unquote

from flowstream.ids._event_id import MAX_ID_LENGTH, base32, epoch_of, lost_id

_SEPARATOR = "~"
_TAG_LENGTH = 8


class Place(NamedTuple):
    """How a topic or run is known in a joined id."""

    tag: str
    """The hash of its name."""
    epoch: str
    """What its own ids begin with; tells two of the same tag apart."""


def name_tag(kind: str, name: str) -> str:
    """Return the hash of a name: 8 characters, the same in each process.

    Args:
        kind: what has the name, since a topic and a run may have the same.
        name: any text.
    """
    text = f"{kind}:{name}".encode("utf-8", "surrogatepass")
    digest = blake2b(text, digest_size=_TAG_LENGTH * 5 // 8).digest()
    return base32(int.from_bytes(digest), _TAG_LENGTH)


def part_of(tag: str, id: str | None) -> str:
    """Return a topic's part of a joined id; None for a client that has nothing of it yet."""
    if id is None:
        return ""
    if "%" in id or _SEPARATOR in id:  # an app's own
        id = id.replace("%", "%25").replace(_SEPARATOR, "%7E")
    return f"{tag}:{id}"


def join_parts(parts: Iterable[str]) -> str:
    """Return the joined id."""
    return _SEPARATOR.join(parts)


def split_joined(after: str | None, places: Sequence[Place]) -> list[str | None]:
    """Return, for each place, the last id that a client has of it; None if it has nothing of it.

    Where that can't be told it is the place's `lost_id`, which says so. Raises nothing: `after`
    comes from a client, and may be anything.
    """
    if after is None:
        return [None] * len(places)
    seen: dict[str, list[str]] = {place.tag: [] for place in places}
    strange = len(after) > MAX_ID_LENGTH
    for part in () if strange else after.split(_SEPARATOR):
        tag, _, id = part.partition(":")
        if tag in seen and tag != part:
            seen[tag].append(unquote(id))
        elif part:
            strange = True
    found: list[str | None] = [None] * len(places)
    for tag, ids in seen.items():
        group = {index: place for index, place in enumerate(places) if place.tag == tag}
        if len(group) == len(ids) == 1:
            found[next(iter(group))] = ids[0]
            continue
        told = _told_apart(ids, group)
        for index, id in told.items():
            found[index] = id
        if len(told) < len(ids):  # one of them is of a topic of this name, but of which?
            for index in group.keys() - told.keys():
                found[index] = lost_id(places[index].epoch)
    if strange:
        # A part of a topic that is not here: one of those without a part may have been that one.
        # Or no joined id at all, but that of one topic, or of an older form.
        return [
            lost_id(place.epoch) if id is None else id
            for id, place in zip(found, places, strict=True)
        ]
    return found


def _told_apart(ids: Sequence[str], group: Mapping[int, Place]) -> dict[int, str]:
    """Return the ids whose epoch is that of one place alone, by the index of the place."""
    by_epoch: dict[str | None, list[str]] = {}
    for id in ids:
        by_epoch.setdefault(epoch_of(id), []).append(id)
    epochs = Counter(place.epoch for place in group.values())
    return {
        index: by_epoch[place.epoch][0]
        for index, place in group.items()
        if epochs[place.epoch] == len(by_epoch.get(place.epoch, ())) == 1
    }
