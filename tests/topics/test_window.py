"""The window: its numbers, the log's positions, and the seams between."""

import pytest

from flowstream import Event, Replay
from flowstream.abc import Head
from flowstream.ids._event_id import event_id
from flowstream.topics._history import Missing
from flowstream.topics._published import Published
from flowstream.topics._window import Window

E1, E2, E3 = "1lgppmf8l75", "1lgppmf9aaa", "1lgppmfabcd"


class Time:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def window(time):
    return Window(Replay(items=100, seconds=60, bytes=1 << 20), time)


def put(window, count=1, *, size=10, age=0.0):
    """Have the log's next events enter the window, each of `size` bytes."""
    for _ in range(count):
        epoch, number = window.position
        event = Event(number + 1, id=event_id(epoch, number + 1))
        published = Published(0, event, window._clock() - age)
        published.size = size
        window.receive((epoch, number + 1), published)
        window.append(published)
        window.delivered = window.head


def log_numbers(window):
    return [one.event.data for one in window.after(window.first - 1, 1 << 20)]


def head(number, *epochs):
    return Head(epochs or ((E1, 1),), number, 1)


def test_it_begins_at_the_head_of_the_log(window):
    """It has nothing of what was before, and knows where it is."""
    assert not window.is_open
    window.begin(head(1042))
    assert window.is_open
    assert window.position == (E1, 1042)
    assert window.items == 0
    assert window.opened == window.head
    assert window.epoch == E1
    put(window, 3)
    assert window.position == (E1, 1045)
    assert log_numbers(window) == [1043, 1044, 1045]
    assert window.opened == window.head - 3


def test_numbers_and_positions_through_several_seams(window):
    """As in the picture: each stretch shifts the numbers, and a seam is one number of its own."""
    window.begin(head(1041))
    put(window, 9)  # 1042 … 1050
    window.break_off((E2, 1047))
    put(window, 2)  # 1048, 1049
    window.break_off((E3, 1048))
    put(window, 1)  # 1049
    numbers = {
        (E1, 1041): 1041,
        (E1, 1050): 1050,
        (E2, 1047): 1051,  # the seam
        (E2, 1048): 1052,
        (E2, 1049): 1053,
        (E3, 1048): 1054,
        (E3, 1049): 1055,
    }
    assert {position: window.number_of(position) for position in numbers} == numbers
    assert {window.position_of(number): number for number in numbers.values()} == numbers
    assert window.position == (E3, 1049)
    assert window.epoch == E3
    assert log_numbers(window) == [1049]


def test_what_an_epoch_lost_is_cut_to_its_end(window):
    """A position that the window never came to is that of the last event before the seam."""
    window.begin(head(10))
    put(window, 2)
    window.break_off((E2, 11))
    assert window.number_of((E1, 99)) == window.number_of((E1, 12)) == 12
    assert window.number_of((E2, 10)) is None  # of E2, before it began here
    assert window.number_of((E3, 5)) is None
    assert window.number_of((E1, 3)) == 3
    assert window.number_of((E2, 99)) == window.head + 88


def test_older_epochs_of_the_log_have_numbers_from_the_first(window):
    """The head names them, so that a position of an older epoch is found, and crosses a seam."""
    window.begin(head(150, (E1, 1), (E2, 96), (E3, 120)))
    assert window.position == (E3, 150)
    assert window.number_of((E1, 95)) == 95
    assert window.number_of((E1, 100)) == 95  # what was lost
    assert window.number_of((E2, 95)) == 96
    assert window.number_of((E2, 119)) == 120
    assert window.number_of((E3, 119)) == 121
    assert window.head == 152
    for number in (1, 95, 96, 120, 121, 152):
        assert window.number_of(window.position_of(number)) == number
    assert window.crosses(95, 152)
    assert window.crosses(120, 152)
    assert not window.crosses(121, 152)


def test_events_that_are_not_to_be_had_are_counted(window):
    """In one epoch the numbers say how many: no stretch begins, and what was kept goes."""
    window.begin(head(10))
    put(window, 5)
    seen = window.head
    window.skip_to((E1, 25))
    assert window.position == (E1, 25)
    assert window.head - seen == 10
    assert not window.crosses(seen, window.head)
    assert window.items == window.size == 0
    assert window.delivered == window.head
    put(window, 1)
    assert window.locate(event_id(E1, 15)) == Missing(11)
    assert window.locate(event_id(E1, 25)) == window.head - 1


def test_a_seam_makes_the_count_unknown(window):
    """Between two epochs nobody knows how many events were lost."""
    window.begin(head(10))
    put(window, 5)
    seen = window.head
    window.break_off((E2, 12))
    put(window, 2)
    assert window.crosses(seen, window.head)
    assert not window.crosses(seen + 1, window.head)
    assert not window.crosses(seen - 2, seen)
    assert window.locate(event_id(E1, 15)) == Missing(None)
    assert window.locate(event_id(E2, 12)) == seen + 1
    assert window.locate(event_id(E2, 14)) == window.head


@pytest.mark.parametrize("id", ["", "nonsense", f"{E1}.lost", f"{E1}.b99", f"{E3}.a1", f"{E1}.c12"])
def test_ids_of_strangers_are_missing(window, id):
    """An id of another epoch, of the future, or of no form is unknown."""
    window.begin(head(10))
    put(window, 5)
    assert window.locate(id) == Missing(None)


def test_it_has_what_follows_on_its_first(window):
    """A place between before the oldest event and the newest."""
    window.begin(head(10))
    put(window, 3)
    assert [window.has(number) for number in range(9, 15)] == [False, True, True, True, True, False]


def test_an_event_that_has_expired_is_not_there(window, time):
    """The age counts from when it was appended, not from when this process read it."""
    window.begin(head(10))
    put(window, 1, age=50)
    put(window, 1)
    assert window.oldest_stamp == 940
    assert window.has(10)
    time.now += 11
    assert not window.has(10)
    assert window.has(11)
    assert window.locate(event_id(E1, 10)) == Missing(2)


def test_it_is_small(time):
    """At most 1,000 events and 1 MiB, whatever the log keeps; and less if that keeps less."""
    window = Window(Replay(items=100_000, seconds=60, bytes=1 << 30), time)
    window.begin(head(0))
    put(window, 1200)
    assert window.items == 1000
    put(window, 20, size=100_000)
    assert window.items == 10
    assert window.size <= 1 << 20
    put(window, 1, size=2 << 20)
    window.trim()
    assert window.items == 0
    small = Window(Replay(items=3, seconds=60, bytes=100), time)
    small.begin(head(0))
    put(small, 5)
    assert small.items == 3
    put(small, 1, size=95)
    assert small.items == 1


def test_ids_of_numbers_kept_or_not(window):
    """What a client comes back with that has an event, or has come to a seam."""
    window.begin(head(10))
    put(window, 2)
    assert window.id_of(11) == event_id(E1, 11)
    assert window.id_of(10) == event_id(E1, 10)
    window.break_off((E2, 9))
    assert window.id_of(12) == event_id(E1, 12)
    assert window.id_of(window.head) == event_id(E2, 9)


class TestOpenedAgain:
    """It was closed, since nobody read, and is opened again."""

    def test_where_nothing_has_happened(self, window):
        """It keeps what it had: nothing was missed."""
        window.begin(head(10))
        put(window, 3)
        window.end()
        assert not window.is_open
        window.begin(head(13))
        assert window.is_open
        assert log_numbers(window) == [11, 12, 13]
        assert window.opened == window.head

    def test_where_events_came_meanwhile(self, window):
        """It goes on at the head; how many lie between is known."""
        window.begin(head(10))
        put(window, 3)
        window.end()
        window.begin(head(20))
        assert window.position == (E1, 20)
        assert window.items == 0
        assert window.locate(event_id(E1, 13)) == Missing(7)
        assert window.opened == window.head

    def test_where_epochs_came_meanwhile(self, window):
        """Each is a seam, and a position of any of them is found."""
        window.begin(head(10))
        put(window, 3)
        before = window.head
        window.end()
        window.begin(head(40, (E1, 1), (E2, 12), (E3, 30)))
        assert window.position == (E3, 40)
        assert window.epoch == E3
        assert window.head > before
        assert window.position_of(window.number_of((E2, 20))) == (E2, 20)
        assert window.position_of(window.number_of((E2, 11))) == (E2, 11)
        assert window.number_of((E2, 10)) is None
        assert window.crosses(window.number_of((E2, 29)), window.head)

    def test_where_its_epoch_is_forgotten(self, window):
        """It knows nothing of what lies between."""
        window.begin(head(10))
        put(window, 3)
        seen = window.head
        window.end()
        window.begin(head(7, (E2, 3), (E3, 6)))
        assert window.position == (E3, 7)
        assert window.crosses(seen, window.head)
        assert window.number_of((E2, 4)) is None

    def test_where_the_log_is_behind(self, window):
        """It stays where it was: the next read is the evidence that the log has lost events."""
        window.begin(head(10))
        put(window, 3)
        window.end()
        window.begin(head(11))
        assert window.position == (E1, 13)
        assert log_numbers(window) == [11, 12, 13]


def test_it_remembers_as_many_stretches_as_a_log_has_epochs(window):
    """A slow client is found behind seven seams, and forgotten behind more."""
    window.begin(head(10))
    put(window, 2)
    for place in range(7):
        window.break_off((f"1lgppmg000{place}", 10))
        put(window, 1)
    assert window.number_of((E1, 12)) == 12
    window.break_off(("1lgppmg0009", 10))
    assert window.number_of((E1, 12)) is None
    assert len(window._stretches) == 8


def test_an_event_that_does_not_follow_on_is_refused(window):
    """Whoever reads the log makes a seam first."""
    window.begin(head(10))
    event = Published(0, Event(1, id=event_id(E1, 12)), 0.0)
    with pytest.raises(AssertionError):
        window.receive((E1, 12), event)
