"""What a topic keeps, and where in it a client left off: against a plain list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import NDJSON, SSE, Event, Replay
from flowstream.topics._history import History, Missing

ENCODER = SSE()


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self):
        return self.now


def publish(history, text="x", id=None):
    published = history.make(Event(text, id=id))
    published.encode_first(ENCODER)
    history.append(published)
    return published


def kept(history):
    return [published.number for published in history.after(history.first - 1, 10_000)]


steps = st.lists(
    st.tuples(st.just("publish"), st.integers(0, 60))
    | st.tuples(st.just("publish"), st.integers(0, 60))
    | st.tuples(st.just("pass"), st.sampled_from([0.5, 1, 3]))
    | st.tuples(st.just("deliver"), st.integers(0, 5)),
    max_size=60,
)


@given(
    steps,
    st.integers(0, 8),
    st.sampled_from([1.0, 2.0, float("inf")]),
    st.sampled_from([50, 200, 1 << 20]),
)
def test_it_keeps_what_the_tightest_of_three_bounds_allows(plan, items, seconds, size):
    """And what is yet to be delivered besides; as a list that is searched would have it."""
    clock = Clock()
    history = History(Replay(items=items, seconds=seconds, bytes=size), clock)
    model = []  # number, time, bytes
    for what, amount in plan:
        if what == "pass":
            clock.now += amount
        elif what == "deliver":
            history.delivered = max(history.delivered, history.head - amount)
        else:
            published = publish(history, "x" * amount)
            model.append((published.number, clock.now, published.size))
        history.trim()
        while model and model[0][0] <= history.delivered:
            too_many = len(model) > items
            too_large = sum(entry[2] for entry in model) > size
            if not (too_many or too_large or clock.now - model[0][1] > seconds):
                break
            model.pop(0)
        assert kept(history) == [entry[0] for entry in model]
        assert history.size == sum(entry[2] for entry in model)
        assert history.items == len(model)


def test_what_waits_to_be_delivered_has_a_bound(monkeypatch):
    """Nobody delivers: the newest 1,024 are kept, and of any size the last."""
    history = History(Replay(items=5, bytes=1000), Clock())
    for _ in range(1100):
        publish(history)
    assert history.items == 1024
    assert history.first == 77
    publish(history, "x" * (2 << 20))
    assert kept(history) == [1101]


def test_what_waits_to_be_delivered_has_the_room_of_the_replay_too():
    """Nobody delivers: what the replay has room for is kept, beyond 1,024 events and 1 MiB."""
    many = History(Replay(items=1500), Clock())
    for _ in range(1600):
        publish(many)
    assert (many.items, many.first) == (1500, 101)
    large = History(Replay(items=5), Clock())
    for _ in range(6):
        publish(large, "x" * (1 << 20))
    assert kept(large) == [2, 3, 4, 5, 6]


def test_it_is_full_when_one_more_would_push_out_what_waits():
    """It is full exactly if the oldest event is not delivered, and would go."""
    history = History(Replay(items=5, bytes=1000), Clock())
    for number in range(1, 1025):
        assert not history.is_full(10)
        publish(history)
        assert history.first == 1, number
    assert history.is_full(10)
    history.delivered = 1
    assert not history.is_full(10)
    publish(history)
    assert history.first == 2
    assert history.is_full(10)


@given(st.text() | st.from_regex(r"\A[0-9a-v]{0,16}\.[a-s]?[0-9]{0,30}\Z"))
def test_any_id_that_a_client_may_send_is_located(id):
    """Anything gives a position that replay can start from, or is missing; nothing raises."""
    history = History(Replay(items=3), Clock())
    for number in range(6):
        publish(history, id=f"own{number}")
        history.delivered = history.head
    found = history.locate(id)
    if not isinstance(found, Missing):
        assert id in ("own2", "own3", "own4", "own5", *(f"{history.epoch}.a{n}" for n in (3, 4, 5)))
        history.after(found, 10)


def test_each_id_of_its_own_is_located():
    """In the replay by its number; before it, with the count of what was missed; else nothing."""
    history = History(Replay(items=3), Clock())
    for _ in range(8):
        publish(history)
        history.delivered = history.head
    history.trim()
    epoch = history.epoch
    assert [history.locate(f"{epoch}.a{n}") for n in range(5)] == [Missing(8 - n) for n in range(5)]
    assert [history.locate(f"{epoch}.a{number}") for number in (5, 6, 7, 8)] == [5, 6, 7, 8]
    for strange in ("a9", "8", "08", "b08", "b8", "a8 ", "lost", "end", ""):
        assert history.locate(f"{epoch}.{strange}") == Missing(None)
    assert history.locate("00000000000.a5") == Missing(None)
    assert history.locate(f"{epoch}0.a5") == Missing(None)
    assert history.locate("00000000.5") == Missing(None)


@given(st.lists(st.integers(0, 13), min_size=1, max_size=3), st.integers(0, 40))
def test_sorted_ids_are_in_the_order_of_publishing(digits, more):
    """Across all borders between counts of digits, and from one history to the next."""
    ids = []
    for count in digits:
        history = History(Replay(items=3), Clock())
        history.head = 10**count - 1 - min(more, 10**count - 1)  # as if so many had been published
        history.first = history.head + 1
        for _ in range(2 * more + 3):
            ids.append(publish(history).id)
            history.delivered = history.head
            assert history.locate(ids[-1]) == history.head
    assert sorted(ids) == ids
    assert len(set(ids)) == len(ids)


def test_an_id_of_the_apps_own_that_is_too_long_to_be_asked_for_is_not_looked_up():
    """Beyond the bound nothing is hashed or searched, whoever asks."""

    class Never(str):
        __slots__ = ()

        def __hash__(self):
            raise AssertionError

    history = History(Replay(), Clock())
    publish(history)
    assert history.locate(Never("x" * 2049)) == Missing(None)


def test_an_id_that_is_used_again_stands_for_the_first_event_that_is_kept():
    """What a client may not have seen is never passed over, however often an id comes."""
    history = History(Replay(items=4), Clock())
    for id in ("a", "b", "b", "c", "b"):
        publish(history, id=id)
        history.delivered = history.head
    history.trim()
    assert history.locate("b") == 2
    for first in (3, 5):
        while history.first <= first - 1:
            publish(history)
            history.delivered = history.head
            history.trim()
        assert history.locate("b") == first
    for _ in range(4):
        publish(history)
        history.delivered = history.head
    history.trim()
    assert history.locate("b") == Missing(None)
    assert not history._own_ids
    assert not history._repeats


@pytest.mark.parametrize(
    "id",
    ["", "week.end", "0123.failed", "EPOCH.a3", "EPOCH.lost", "1lgppmf8l75.d1042", "x" * 2049],
)
def test_an_id_that_a_client_could_not_come_back_with_is_refused(id):
    """Empty, too long, that of a stream's last event, or of flowstream's own form in any epoch."""
    history = History(Replay(), Clock())
    with pytest.raises(ValueError, match=r"\bid "):
        history.make(Event("x", id=id.replace("EPOCH", history.epoch)))
    assert history.head == 0


def test_after_what_is_no_longer_kept():
    """It raises, and never gives a list with a hole in front."""
    history = History(Replay(items=2), Clock())
    for _ in range(5):
        publish(history)
        history.delivered = history.head
    history.trim()
    with pytest.raises(LookupError):
        history.after(2, 10)
    assert [published.number for published in history.after(3, 10)] == [4, 5]
    assert [published.number for published in history.after(3, 1)] == [4]
    assert history.after(5, 10) == []


@given(
    st.builds(Replay, items=st.integers(0, 8), bytes=st.integers(1, 200)),
    st.lists(st.integers(0, 60), min_size=1, max_size=20),
)
def test_it_is_known_what_the_next_event_takes_the_place_of(replay, lengths):
    """The last that goes when an event comes is the one that was foretold."""
    history = History(replay, Clock())
    for length in lengths:
        event = history.make(Event("x" * length))
        foretold = history.last_dropped_for(len(event.encode_first(ENCODER)))
        history.append(event)
        history.delivered = history.head
        history.trim()
        assert history.first == foretold + 1 or history.first == history.head + 1


def test_a_further_format_takes_nobodys_place():
    """Where there is no room for its bytes they are made again, and what is kept stays."""
    history = History(Replay(bytes=120), Clock())
    first = publish(history, "x" * 30)
    publish(history, "x" * 30)
    history.delivered = 2
    before = history.size
    assert history.encoded(first, NDJSON()) == history.encoded(first, NDJSON())
    assert history.read(0, 1 << 16, NDJSON()).items == 2
    history.trim()
    assert (history.size, history.items) == (before, 2)


def test_encodings_count_in_the_bytes_for_all_formats():
    """A second format adds to what an event weighs, if the event is still kept."""
    history = History(Replay(items=1), Clock())
    first = publish(history, "abc")
    assert history.size == first.size
    before = history.size
    added = history.encoded(first, NDJSON())
    assert history.size == before + len(added)
    assert history.encoded(first, NDJSON()) == added
    assert history.size == before + len(added)  # kept once, for all equal encoders
    history.delivered = 1
    publish(history)
    history.delivered = 2
    history.trim()
    left = history.size
    history.encoded(first, SSE(names={"gap": "lost"}))
    assert history.size == left


def test_bytes_that_wait_to_be_delivered_have_a_bound():
    """Nobody delivers: as many of the newest are kept as one MiB holds."""
    history = History(Replay(items=5), Clock())
    for _ in range(30):
        publish(history, "x" * 100_000)
    assert history.items == 10
    assert history.size <= 1 << 20


def test_what_stands_for_a_position_is_the_id_of_its_event():
    """One of the app's own, for the first, the last and any other; else the topic's."""
    history = History(Replay(), Clock())
    for id in ("one", None, "three"):
        publish(history, id=id)
    assert [history.id_of(number) for number in range(5)] == [
        f"{history.epoch}.a0",
        "one",
        f"{history.epoch}.a2",
        "three",
        f"{history.epoch}.a4",
    ]
