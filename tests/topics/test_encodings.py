"""The encodings of a topic, joined in segments: always the bytes that each event has by itself."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowstream.topics._history
import flowstream.topics._segments
from flowstream import NDJSON, SSE, Event, Raw, Replay
from flowstream.topics._history import History
from flowstream.topics._segments import Segments

FORMATS = [SSE(), NDJSON(), SSE(names={"gap": "lost"})]


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self):
        return self.now


def publish(history, text, format=FORMATS[0]):
    published = history.make(Event(text))
    published.encode_first(format)
    history.append(published)
    return published


def segments_of(history):
    return [one for format in history._encodings._formats.values() for one in format._segments]


formats = st.sampled_from(FORMATS)
steps = st.lists(
    st.tuples(st.just("publish"), st.integers(0, 60), formats)
    | st.tuples(st.just("publish many"), st.integers(1, 12), formats)
    | st.tuples(st.just("deliver"), st.integers(0, 5), formats)
    | st.tuples(st.just("pass"), st.integers(1, 3), formats)
    | st.tuples(st.just("read"), st.integers(0, 400), formats)
    | st.tuples(st.just("read all"), st.integers(1, 400), formats)
    | st.tuples(st.just("pick"), st.integers(0, 30), formats),
    max_size=60,
)


@given(
    steps,
    st.integers(0, 40),
    st.sampled_from([2.0, float("inf")]),
    st.sampled_from([50, 500, 2000, 1 << 20]),
    st.sampled_from([1, 100, 300]),
    st.sampled_from([1, 3, 4096]),
)
@settings(max_examples=500, deadline=None)
def test_joined_bytes_are_those_of_the_events(plan, items, seconds, size, bytes, most):
    """In any order of publishes, trims, formats and reads; and no read changes what is kept."""
    clock = Clock()
    history = History(Replay(items=items, seconds=seconds, bytes=size), clock)
    model = []  # number, time, bytes in the first format
    texts = {}
    with (
        patch.object(flowstream.topics._history, "SEGMENT_BYTES", bytes),
        patch.object(flowstream.topics._history, "SEGMENT_ITEMS", most),
        patch.object(flowstream.topics._segments, "SEGMENT_BYTES", bytes),
        patch.object(flowstream.topics._segments, "SEGMENT_ITEMS", most),
        patch.object(flowstream.topics._history, "_FILL_ITEMS", 3),
    ):
        for what, amount, format in plan:
            if what == "pass":
                clock.now += amount / 2
            elif what == "deliver":
                history.delivered = max(history.delivered, history.head - amount)
            elif what.startswith("publish"):
                for length in range(amount) if what == "publish many" else [amount]:
                    published = publish(history, "x" * length, format)
                    model.append((published.number, clock.now, published.size))
                    texts[published.number] = published
            history.trim()
            while model and model[0][0] <= history.delivered:
                too_large = sum(entry[2] for entry in model) > size
                too_old = clock.now - model[0][1] > seconds
                if not (len(model) > items or too_large or too_old):
                    break
                model.pop(0)
            if what == "pick" and model:
                published = texts[model[amount % len(model)][0]]
                assert history.encoded(published, format) == published.encode(format)
            elif what.startswith("read") and model:
                number = model[0][0] - 1
                if what == "read":
                    number += amount % len(model)
                limit = max(amount, 1)
                while number < history.head:
                    piece = history.read(number, limit, format)
                    numbers = range(number + 1, number + 1 + piece.items)
                    assert 1 <= piece.items <= most
                    assert piece.items == 1 or len(piece.data) <= limit
                    assert piece.data == b"".join(texts[n].encode(format) for n in numbers)
                    number += piece.items
                    if what == "read":
                        break
            assert [one.number for one in history.after(history.first - 1, 10_000)] == [
                entry[0] for entry in model
            ]
            check(history, size)


def check(history, size):
    """Check that the counts are right, and that memory is bounded."""
    encodings = history._encodings
    formats = list(encodings._formats.values())
    for format in formats:
        spare = [one for one in format._segments if one.is_spare]
        assert format.spare == sum(one.size for one in spare)
        assert format._spares == len(spare)
        numbers = [n for one in format._segments for n in range(one.first, one.next)]
        assert numbers == sorted(set(numbers))
        assert all(one.next > history.first for one in format._segments)
        # What is held of the first encodings of events that are gone: less than a segment.
        first = [one for one in format._segments if not one.is_spare]
        gone = sum(len(one[n]) for one in first for n in range(one.first, history.first))
        assert gone <= flowstream.topics._segments.SEGMENT_BYTES
    assert encodings.has_spare or not encodings.spare
    assert encodings.spare <= max(size - history._size, 0)
    assert encodings.expires <= min((one.expires for one in formats), default=float("inf"))


def test_an_event_is_encoded_once_for_any_number_of_readers():
    """In a further format, too, while it has room."""
    made = []

    class Counted(Raw):
        def encode(self, data, **fields):
            made.append(data)
            return super().encode(data, **fields)

        def __eq__(self, other):
            return type(other) is Counted

        __hash__ = object.__hash__

    counted = Counted()
    history = History(Replay(), Clock())
    for n in range(1000):
        publish(history, f"{n};")
    history.delivered = history.head
    for _ in range(5):
        number, data = 0, b""
        while number < history.head:
            piece = history.read(number, 1 << 16, counted)
            number += piece.items
            data += piece.data
        assert data == b"".join(b"%d;" % n for n in range(1000))
    assert len(made) == 1000


def test_what_was_first_encoded_is_what_all_read():
    """An app that changes a value after it was published does not change what is replayed."""
    history = History(Replay(bytes=100_000), Clock())
    value = {"n": 1}
    published = publish(history, value)
    value["n"] = 2
    for n in range(500):
        publish(history, n)
        history.delivered = history.head
    for format in (NDJSON(), SSE()):
        history.read(0, 1 << 16, format)
    assert history.first == 1
    assert b'{"n":1}' in history.read(0, 1, SSE()).data
    assert b'{"n":1}' in history.encoded(published, SSE())


def test_the_least_recently_read_format_goes_first():
    """When events come and there is no more room, and before any event goes."""
    history = History(Replay(bytes=60_000), Clock())
    for _ in range(100):
        publish(history, "x" * 100)
    history.delivered = history.head
    one, two = NDJSON(), SSE(names={"gap": "lost"})
    for format in (one, two, one):
        history.read(0, 1 << 16, format)
    assert history._encodings.find(two, 1) is not None
    while history._encodings.find(two, 1) is not None:
        publish(history, "x" * 100)
        history.delivered = history.head
        assert history.head < 1000
    assert history._encodings.find(one, 1) is not None
    assert history.first == 1


def test_an_event_that_a_format_cannot_carry_comes_after_those_before_it():
    """They are read first; then the error is raised, again and again."""
    history = History(Replay(), Clock())
    for data in ("a", "b", object, "c"):
        published = history.make(Event(data))
        published.encode_first(Anything())
        history.append(published)
    strict = NDJSON()
    assert history.read(0, 1 << 16, strict).items == 2
    for _ in range(2):
        with pytest.raises(TypeError):
            history.read(2, 1 << 16, strict)
    assert history.read(3, 1 << 16, strict).items == 1
    assert history.read(0, 1 << 16, Anything()).items == 4


class Anything(Raw):
    """Writes anything."""

    def encode(self, data, **fields):
        return repr(data).encode()

    def __eq__(self, other):
        return type(other) is Anything

    def __hash__(self):
        return 1


def test_a_topic_that_keeps_little_takes_little():
    """Segments end early where a topic keeps ten events, though it is read all the time."""
    history = History(Replay(items=10), Clock())
    for _ in range(3000):
        publish(history, "x" * 100)
        history.delivered = history.head
        history.trim()
        history.read(history.head - 1, 1 << 16, FORMATS[0])
        assert sum(one.size for one in segments_of(history)) < 6000


def test_events_without_a_byte_have_a_bound():
    """A segment has no more than 4,096 of them, and so has one read."""
    history = History(Replay(items=10_000), Clock())
    for _ in range(5000):
        publish(history, b"", Raw())
        history.delivered = history.head
    assert history.read(0, 1 << 16, Raw()) == (4096, b"")
    assert history.read(4096, 1 << 16, Raw()) == (904, b"")


def test_a_read_of_many_events_is_one_slice():
    """And the same object for all who read a whole segment."""
    history = History(Replay(items=10_000), Clock())
    for _ in range(2000):
        publish(history, "x" * 100)
        history.delivered = history.head
    first = history.read(0, 1 << 16, FORMATS[0])
    assert first.items > 450
    assert len(first.data) <= 1 << 16
    assert history.read(0, 1 << 16, FORMATS[0]).data is first.data


def test_formats_have_a_bound():
    """If each reader comes with a format of its own, eight are kept."""
    history = History(Replay(), Clock())
    for n in range(10):
        publish(history, n)
    for n in range(50):
        history.read(0, 1 << 16, SSE(names={"gap": f"gap{n}"}))
    assert len(history._encodings._formats) <= 8
    assert history._encodings.find(FORMATS[0], 1) is not None


def test_a_hole_is_filled():
    """Events that were encoded in another format in between are put where they belong."""
    segments = Segments(Raw())
    segments.add(1, [b"a", b"b"], is_spare=False, oldest=1)
    segments.add(5, [b"e"], is_spare=False, oldest=1)
    assert segments.room_before(3) == 2
    segments.add(3, [b"c", b"d"], is_spare=True, oldest=1)
    found = [segments.find(number) for number in range(1, 7)]
    assert found[5] is None
    assert b"".join(one[number] for number, one in enumerate(found[:5], 1)) == b"abcde"
    segments.drop_spare()
    assert segments.find(3) is None
    assert segments.find(5) is not None
