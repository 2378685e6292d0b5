"""The envelope of an event in a log: what goes in comes out, here and in another release."""

import logging

import msgspec
import pytest
import trio
from shared_log import open_workers, reading

import flowstream.topics._envelope as envelope
from flowstream import EncodingError, Event
from flowstream.llm import Token
from flowstream.topics._envelope import UnknownEnvelopeError, check_key, key_text, unwrap, wrap

ID = "1lgppmf8l75.a5"


def there_and_back(data, **options):
    return unwrap(wrap(Event(data, **options)), ID)


@pytest.mark.parametrize(
    ("data", "back"),
    [
        ("text", "text"),
        ("", ""),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (None, None),
        (True, True),
        (5, 5),
        (1.5, 1.5),
        ([1, "a", None], [1, "a", None]),
        ({"a": {"b": [1]}}, {"a": {"b": [1]}}),
        ((1, 2), [1, 2]),
    ],
)
def test_data_comes_back(data, back):
    """Text and bytes as themselves, the rest as plain values of JSON."""
    event = there_and_back(data)
    assert event.data == back
    assert event.data.__class__ is back.__class__
    assert event.id == ID


def test_an_event_of_a_model_comes_back_as_its_class():
    """Typed events of `flowstream.llm` are the same on every worker."""
    made = Token("hello")
    assert there_and_back(made).data == made
    assert type(there_and_back(made).data) is Token


def test_all_fields_come_back():
    """Type, key, essential and retry."""
    event = there_and_back(1, type="tick", key="k", essential=True, retry=3000)
    assert (event.type, event.key, event.essential, event.retry) == ("tick", "k", True, 3000)
    assert there_and_back(1, key=7).key == 7
    assert there_and_back(1).key is None


@pytest.mark.parametrize("data", [object(), {1, 2, object()}, "half \ud800 a surrogate"])
def test_what_json_cannot_carry_is_refused(data):
    """Nothing is published."""
    with pytest.raises(EncodingError):
        wrap(Event(data))


def test_data_that_nests_too_deep_is_refused():
    """On the way in, and, if somebody else has written it, on the way out."""
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(EncodingError):
        wrap(Event(deep))
    text = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(UnknownEnvelopeError):
        unwrap(msgspec.msgpack.encode((1, 2, text, None, None, False, None)), ID)
    while deep:  # Python can't free it in one go
        deep = deep[0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"not msgpack",
        msgspec.msgpack.encode("text"),
        msgspec.msgpack.encode({"a": 1}),
        msgspec.msgpack.encode([1, 0, "x"]),
        msgspec.msgpack.encode([1, 4, "x", None, None, False, None]),
        msgspec.msgpack.encode([2, "new", "x", None, None, False, None]),
        msgspec.msgpack.encode([1, 2, "{", None, None, False, None]),
        msgspec.msgpack.encode([1, 3, "{}", None, None, False, None]),
        msgspec.msgpack.encode([1, 2, 5, None, None, False, None]),
        msgspec.msgpack.encode([1, 0, 5, None, None, False, None]),
        msgspec.msgpack.encode([1, 1, "x", None, None, False, None]),
        msgspec.msgpack.encode([1, 0, "x", 5, None, False, None]),
        msgspec.msgpack.encode([1, 0, "x", "a\nb", None, False, None]),
        msgspec.msgpack.encode([1, 0, "x", None, [1], False, None]),
        msgspec.msgpack.encode([1, 0, "x", None, None, False, -1]),
    ],
)
def test_what_no_release_wrote_is_unknown(data):
    """Whoever can write to the log can't make a worker fail, or run code."""
    with pytest.raises(UnknownEnvelopeError):
        unwrap(data, ID)


def test_keys_are_text_or_whole_numbers():
    """What the log can keep, and tell apart."""
    for key in (None, "a", "", 0, -(1 << 63), (1 << 63) - 1):
        check_key(key)
        assert there_and_back(1, key=key).key == key
    for key in (1.5, True, ("a",), b"a"):
        with pytest.raises(TypeError, match="write key=str"):
            check_key(key)
    for key in (1 << 63, -(1 << 63) - 1):
        with pytest.raises(ValueError, match="64 bits"):
            check_key(key)
    assert key_text(None) is None
    assert key_text(1) != key_text("1") != key_text("i1")


class Newer:
    """A release that writes the next version: one more field, and perhaps a kind of its own."""

    def __init__(self, kind=None):
        self.kind = kind

    def __call__(self, event):
        fields = msgspec.msgpack.decode(wrap(event))
        fields[0] = envelope.VERSION + 1
        if self.kind is not None:
            fields[1] = self.kind
        return msgspec.msgpack.encode([*fields, {"a new": "field"}])


async def test_two_releases_share_a_log_during_a_deploy(autojump_clock, monkeypatch):
    """The newer one adds a field: the clients of the older one lose nothing, and conversely."""
    async with open_workers(2) as (_, older, newer):
        publish_newer = newer.publisher._entry

        def entry(event, *rest):
            made = publish_newer(event, *rest)
            return made._replace(data=Newer()(Event(event.data)))

        monkeypatch.setattr(newer.publisher, "_entry", entry)
        async with reading(older.topic) as one, reading(newer.topic) as other:
            await trio.sleep(1)
            ids = []
            for n in range(10):
                worker = (older, newer)[n % 2]
                ids.append(await worker.publish(n))
            await trio.sleep(20)
            assert one.got == other.got == list(range(10))
            async with reading(older.topic, after=ids[0]) as late:
                await trio.sleep(20)
                assert late.got == list(range(1, 10))


async def test_a_kind_of_a_newer_release_is_a_gap_of_one(autojump_clock, monkeypatch, caplog):
    """What can't be read is missing, and counted; one line says so; the rest comes."""
    async with open_workers(2) as (_, older, newer):
        publish_newer = newer.publisher._entry

        def entry(event, *rest):
            made = publish_newer(event, *rest)
            return made._replace(data=Newer("odd")(Event(event.data)))

        monkeypatch.setattr(newer.publisher, "_entry", entry)
        async with reading(older.topic) as one:
            await trio.sleep(1)
            first = await older.publish(0)
            await newer.publish(1)
            await older.publish(2)
            await newer.publish(3)
            await newer.publish(4)
            await older.publish(5)
            await trio.sleep(20)
            one_by_one = [0, ("gap", 1), 2, ("gap", 1), ("gap", 1), 5]
            assert one.got == one_by_one
        async with reading(older.topic, after=first) as late:
            await newer.publish(6)
            await trio.sleep(20)
            assert late.got == [("gap", 1), 2, ("gap", 2), 5, ("gap", 1)]
        lines = [one for one in caplog.records if one.levelno >= logging.ERROR]
        assert len(lines) == 1
        assert "newer release" in lines[0].message
