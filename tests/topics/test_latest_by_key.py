"""The newest event of each key: bounded, and encoded once for all who come."""

from __future__ import annotations

import decimal
import json

import msgspec
import pytest
import trio

from flowstream import (
    NDJSON,
    SSE,
    Event,
    EventTypes,
    LatestByKey,
    Topic,
    ndjson,
    sse,
    stream,
)
from flowstream.encoders import Frames, JSONSequence
from flowstream.ids._event_id import event_id
from flowstream.testing import open_stream
from flowstream.topics._snapshots import _MAX_FORMATS, KeptByKey


class Price(msgspec.Struct, tag="price"):
    value: int


class Entry(msgspec.Struct):
    key: str
    data: Price


class Counted:
    """A hook for `encode=` that counts the numbers that it is asked about."""

    def __init__(self) -> None:
        self.numbers = 0

    def __repr__(self):
        return "Counted()"  # a name of a test: the same in each process

    def __call__(self, value):
        if not isinstance(value, decimal.Decimal):
            raise TypeError
        self.numbers += 1
        return f"{value} EUR"


async def fill(topic, keys, start=0):
    for number in range(start, start + keys):
        await topic.publish(decimal.Decimal(number), key=f"k{number}")


async def snapshot_of(response):
    async with open_stream(response) as client:
        event = await client.next_event()
    assert event.type == "snapshot"
    return json.loads(event.data)


async def test_a_client_costs_the_encoding_of_what_is_new(autojump_clock):
    """Whatever was there is copied, though each client needs another snapshot."""
    topic, counted = Topic("t", snapshot=LatestByKey()), Counted()
    await fill(topic, 100)
    assert len(await snapshot_of(sse(topic, encode=counted))) == 100
    assert counted.numbers == 100
    for round in range(1, 11):
        await topic.publish(decimal.Decimal(round), key="k7")
        body = await snapshot_of(sse(topic, encode=counted))
        assert body[-1] == {"key": "k7", "data": f"{round} EUR"}
        assert [entry["key"] for entry in body[:7]] == [f"k{n}" for n in range(7)]
        assert len(body) == 100
        assert counted.numbers == 100 + round


async def test_formats_that_write_json_alike_share_it(autojump_clock):
    """SSE's encoding of a key is NDJSON's; another hook has its own."""
    topic, counted, other = Topic("t", snapshot=LatestByKey()), Counted(), Counted()
    await fill(topic, 10)
    await snapshot_of(sse(topic, encode=counted))
    async with open_stream(ndjson(topic, encode=counted)) as client:
        assert (await client.next_value())["data"][0] == {"key": "k0", "data": "0 EUR"}
    assert counted.numbers == 10
    await snapshot_of(sse(topic, encode=other))
    assert (counted.numbers, other.numbers) == (10, 10)


VALUES = [
    1,
    "two\nlines \u2028 \x1e",
    None,
    1.5,
    [1, {"a": "b"}],
    {"x": msgspec.Raw(b'{"made":\n"before"}')},
    2**60,
    float("nan"),
]


class Derived(SSE):
    """A format of an app's, which wants the values of a snapshot."""

    def control(self, name, body, *, id=None, retry=None):
        if name == "snapshot":
            body = {entry["key"]: entry["data"] for entry in body}
        return super().control(name, body, id=id, retry=retry)


@pytest.mark.parametrize(
    "encoder",
    [
        SSE(),
        SSE(big_integers="string"),
        SSE(names={"snapshot": "state"}),
        NDJSON(),
        NDJSON(encode=Counted()),
        JSONSequence(),
        Frames(),
        Frames(prefix=8, big_integers="string"),
        Derived(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("controls", [True, False])
async def test_the_bytes_are_those_of_the_list(encoder, controls, autojump_clock):
    """What is put together of texts is what the format would write by itself."""
    topic = Topic("t", snapshot=LatestByKey())
    for number, value in enumerate(VALUES):
        await topic.publish(value, key=f"k{number}")
    body = [{"key": f"k{number}", "data": value} for number, value in enumerate(VALUES)]
    id = event_id(topic.epoch, len(VALUES))
    if controls:
        expected = encoder.control("snapshot", body, id=id)
    else:
        expected = encoder.encode(body, id=id, type="snapshot")
    for _ in range(2):  # encoded, and copied
        async with open_stream(stream(topic, encoder=encoder, controls=controls)) as client:
            with trio.fail_after(5):
                while expected not in client.received:
                    await client.read(1)
        topic._publisher.snapshots._made = None


async def test_other_formats_and_subscribers_are_given_the_values(autojump_clock):
    """Typed events check what is in them, and a program gets no JSON."""

    topic = Topic("t", snapshot=LatestByKey())
    await topic.publish(Price(3), key="a")
    events = EventTypes(Price, snapshot=list[Entry])
    body = await snapshot_of(sse(topic, events=events))
    assert body == [{"key": "a", "data": {"type": "price", "value": 3}}]
    async with topic.subscribe() as subscription:
        event = await anext(subscription)
    assert isinstance(event, Event)
    assert event.data == [{"key": "a", "data": Price(3)}]


async def test_bytes_are_bounded(autojump_clock, caplog):
    """The oldest go, with one word in the log; one that is larger is kept alone."""
    topic = Topic("t", snapshot=LatestByKey(bytes=10_000))
    kept = topic._publisher.snapshots
    for number in range(100):
        await topic.publish("x" * 1000, key=number)
        assert kept._size <= 10_000
    body = await snapshot_of(sse(topic))
    assert [entry["key"] for entry in body] == list(range(91, 100))
    assert len([r for r in caplog.records if "more than 10000 bytes" in r.getMessage()]) == 1
    await topic.publish("y", key=95)
    assert [entry["key"] for entry in await snapshot_of(sse(topic))][-2:] == [99, 95]
    await topic.publish("z" * 20_000, key="large")
    assert [entry["key"] for entry in await snapshot_of(sse(topic))] == ["large"]
    await topic.publish("small", key="large")
    await topic.publish("small", key="other")
    assert len(await snapshot_of(sse(topic))) == 2
    assert kept._size == sum(latest.size for latest in kept._latest.values())


async def test_a_hook_for_each_request_is_not_kept(autojump_clock):
    """Encodings are kept for so many hooks, and only of what is in a snapshot."""
    topic = Topic("t", snapshot=LatestByKey(keys=5))
    kept = topic._publisher.snapshots
    assert isinstance(kept, KeptByKey)
    for number in range(50):
        await topic.publish(number, key=number)
        await snapshot_of(sse(topic, encode=Counted()))
        assert len(kept._texts) <= _MAX_FORMATS
    for _ in range(50):  # of one and the same snapshot
        await snapshot_of(sse(topic, encode=Counted()))
        assert len(kept._made._encodings) <= _MAX_FORMATS
    assert all(len(texts) <= 5 for texts in kept._texts.values())


async def test_what_a_format_cannot_carry_is_told_as_before(autojump_clock, caplog):
    """One value without JSON spoils the snapshot, and the client hears so."""
    topic = Topic("t", snapshot=LatestByKey())
    await topic.publish("fine", key="a")
    topic._publisher.snapshots._latest["a"].data = object()
    async with open_stream(sse(topic)) as client:
        event = await client.next_event()
    assert event.type == "failed"
    assert "a snapshot is of no use" in caplog.text


@pytest.mark.parametrize(
    ("given", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_bytes_are_a_whole_number(given, error):
    """Told when it is made."""
    with pytest.raises(error, match="bytes"):
        LatestByKey(bytes=given)


@pytest.mark.parametrize(
    ("bounds", "unit"),
    [(LatestByKey(keys=2), "2 keys"), (LatestByKey(keys=2, bytes=40), "40 bytes")],
)
async def test_the_warning_names_the_bound_that_was_met(bounds, unit, caplog):
    """Too many keys, or as many as there may be that are too large together."""
    topic = Topic("t", snapshot=bounds)
    async with topic.subscribe():
        for key in range(3):
            await topic.publish("x" * 20, key=key)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert f"more than {unit}" in warnings[0]
