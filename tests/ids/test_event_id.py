"""Ids that sort: written, read and compared as values, whatever a client sends."""

import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowstream._clock import clock, stamps
from flowstream.ids._event_id import (
    MAX_ID_LENGTH,
    check_id,
    epoch_of,
    event_id,
    final_id,
    is_final,
    is_ours,
    lost_id,
    new_epoch,
    parse_event_id,
)
from flowstream.testing import simulated

EPOCH = "1lgppmf8l75"
LARGEST = 10**18 - 1
LAST_EPOCH = "vvvvvvvvvvv00000"

# Numbers at which the count of digits changes, and any others.
borders = st.integers(0, 17).map(lambda digits: 10**digits) | st.integers(1, 18).map(
    lambda digits: 10**digits - 1
)
numbers = borders | st.integers(0, LARGEST) | st.just(0)
epochs = st.tuples(st.integers(0, 2**55 - 1), st.integers(0, 5)).map(
    lambda drawn: in_base_32(drawn[0]) + "0" * drawn[1]
)


def in_base_32(number):
    """Return 11 digits, by another way than the one that is tested."""
    digits = ""
    while len(digits) < 11:
        number, digit = divmod(number, 32)
        digits = "0123456789abcdefghijklmnopqrstuv"[digit] + digits
    return digits


@pytest.mark.parametrize(
    ("number", "id"),
    [
        (0, "a0"),
        (7, "a7"),
        (9, "a9"),
        (10, "b10"),
        (42, "b42"),
        (1042, "d1042"),
        (LARGEST, "r999999999999999999"),
    ],
)
def test_the_form(number, id):
    """An offset is a letter for the number of digits, and the digits."""
    assert event_id(EPOCH, number) == f"{EPOCH}.{id}"
    assert parse_event_id(f"{EPOCH}.{id}") == (EPOCH, number)


def test_a_number_of_more_than_18_digits_has_no_id():
    """It raises, and never makes an id that would sort wrongly."""
    with pytest.raises(IndexError):
        event_id(EPOCH, LARGEST + 1)


@given(epochs, numbers)
def test_what_is_written_is_read(epoch, number):
    """Each id gives its epoch and number back, and is short."""
    id = event_id(epoch, number)
    assert parse_event_id(id) == (epoch, number)
    assert epoch_of(id) == epoch_of(lost_id(epoch)) == epoch
    assert len(id) <= 36


@given(st.lists(st.tuples(epochs, numbers), max_size=20))
@example([(EPOCH, number) for number in (9, 10, 99, 100, 999, 1000, 2, 1)])
@example([(EPOCH, 99), (EPOCH + "0", 1), (EPOCH + "00", 0), ("1lgppmf8l76", 0)])
def test_ids_sort_as_events_do(positions):
    """As text and as bytes: by epoch, then by number, across all counts of digits."""
    ids = [event_id(*position) for position in sorted(positions)]
    assert sorted(ids) == ids
    assert sorted(id.encode() for id in ids) == [id.encode() for id in ids]


def test_a_log_that_counts_on_over_many_borders_is_in_the_order_of_its_ids():
    """The ids of 1 to 12,000, in which the letter changes four times, are sorted and all differ."""
    ids = [event_id(EPOCH, number) for number in range(12_001)]
    assert sorted(ids) == ids
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "id",
    [
        "",
        ".",
        EPOCH,
        f"{EPOCH}.",
        f"{EPOCH}.7",
        f"{EPOCH}.a",
        f"{EPOCH}.a07",
        f"{EPOCH}.b07",
        f"{EPOCH}.b7",
        f"{EPOCH}.a77",
        f"{EPOCH}.A7",
        f"{EPOCH}.a7 ",
        f"{EPOCH}.a7\n",
        f" {EPOCH}.a7",
        f"{EPOCH}.a-7",
        f"{EPOCH}.a+7",
        f"{EPOCH}.a\u0667",
        f"{EPOCH}.a\uff17",
        f"{EPOCH}.c1_0",
        f"{EPOCH}.s1234567890123456789",
        f"{EPOCH}.r0123456789012345678",
        f"{EPOCH}.lost",
        f"{EPOCH[:-1]}.a7",
        f"{EPOCH}1.a7",
        f"{EPOCH}000000.a7",
        f"{EPOCH.upper()}.a7",
        f"{EPOCH[:-1]}w.a7",
        f"{EPOCH}.a7~",
        f"abcdefgh:{EPOCH}.a7",
        "5c374e83.7",
        "0123abcd.d1042",
        "\x00",
        "\ud800",
        "\U0001f600" * 500,
        f"{EPOCH}.a7" + "0" * 10_000,
        "0" * 1_000_000,
    ],
)
def test_what_is_no_id_of_an_event_of_ours(id):
    """Another spelling, a former form, or anything else is not read, and raises nothing."""
    assert parse_event_id(id) is None


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_anything_can_be_read(id):
    """Whatever a client sends: nothing raises, and what is read is what would be written."""
    parsed = parse_event_id(id)
    assert parsed is None or event_id(*parsed) == id
    assert is_ours(id) == (epoch_of(id) is not None or is_final(id))


@pytest.mark.parametrize("read", [parse_event_id, epoch_of, is_final, is_ours])
def test_a_long_id_is_left_alone(read, monkeypatch):
    """Beyond the bound its length alone is looked at."""
    import flowstream.ids._event_id as module

    class Never:
        def fullmatch(self, id):
            raise AssertionError(f"{len(id)} characters were searched")

    for name in ("_EVENT_ID", "_LOST_ID", "_FINAL_ID"):
        monkeypatch.setattr(module, name, Never())
    assert not read("0" * (MAX_ID_LENGTH + 1))


# -- epochs --------------------------------------------------------------------------------


def test_an_epoch_says_when_it_began():
    """Its first 7 characters are the second, in base 32."""
    with simulated(0):
        assert int(new_epoch()[:7], 32) == 946684800
    assert abs(int(new_epoch()[:7], 32) - clock.wall_time()) < 600


def test_epochs_follow_from_the_seed():
    """A simulation makes the same epochs again; another seed makes others."""

    def drawn(seed):
        with simulated(seed):
            return [new_epoch() for _ in range(5)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_epochs_of_one_process_ascend():
    """However many are made in a second, and if the clock is set back: all differ and sort."""
    with simulated(3):
        made = [new_epoch() for _ in range(2000)]
        now = clock.wall_time
        clock.wall_time = lambda: now() - 1000.0
        made += [new_epoch() for _ in range(2000)]
    assert sorted(set(made)) == made
    assert {len(epoch) for epoch in made} == {11}


@pytest.mark.parametrize("now", [-5.0, 0.0, 2.0**34, 1e12])
def test_a_clock_that_is_far_off_gives_epochs_all_the_same(now, monkeypatch):
    """Before 1970 or beyond the year 3058: they have the form, and ascend."""
    monkeypatch.setattr(stamps, "last", 0)
    monkeypatch.setattr(clock, "wall_time", lambda: now)
    made = [new_epoch() for _ in range(100)]
    assert sorted(set(made)) == made
    assert all(parse_event_id(event_id(epoch, 1)) == (epoch, 1) for epoch in made)


def test_threads_make_no_epoch_twice():
    """Eight threads that make topics at the same time get different epochs."""
    made = []

    def make():
        made.extend([new_epoch() for _ in range(300)])

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == len(made) == 2400


def test_a_new_epoch_behind_one_of_a_clock_that_was_ahead():
    """It is the last one with a 0 behind it, as long as that is short; then the next number."""
    last = "vggppmf8l75"
    made = [last]
    for _ in range(20):
        made.append(new_epoch(made[-1]))
    assert made[1:6] == [last + "0" * zeros for zeros in range(1, 6)]
    assert made[6] == "vggppmf8l76"
    assert sorted(set(made)) == made
    assert all(epoch_of(event_id(epoch, 10)) == epoch for epoch in made)
    ids = [event_id(epoch, number) for epoch in made for number in (1, 9, 10, 100)]
    assert sorted(ids) == ids


@given(epochs.filter(lambda epoch: epoch != LAST_EPOCH))
@example("vvvvvvvvvvv0000")
def test_a_new_epoch_is_behind_any(last):
    """Whatever the last epoch is, the new one sorts behind it and has the form."""
    epoch = new_epoch(last)
    assert epoch > last
    assert parse_event_id(event_id(epoch, 3)) == (epoch, 3)


def test_an_epoch_that_is_drawn_again_is_not_given_again():
    """Another process may have drawn the same second and the same chance: a 0 comes behind."""
    with simulated(4):
        last = new_epoch()
    with simulated(4):
        assert new_epoch(last) == f"{last}0"


def test_the_last_epoch_of_all_has_none_behind_it():
    """It raises, and never begins again from 0, where new ids would sort before old ones."""
    with pytest.raises(ValueError, match="no epoch sorts behind 'vvvvvvvvvvv00000'"):
        new_epoch(LAST_EPOCH)


def test_what_is_no_epoch_has_none_behind_it():
    """A last epoch that is broken is said, not continued."""
    with pytest.raises(ValueError, match="an epoch is such as '1lgppmf8l75', not 'zzz'"):
        new_epoch("zzz")


# -- ids of an app's own -------------------------------------------------------------------


@pytest.mark.parametrize(
    "id",
    [
        f"{EPOCH}.a7",
        f"{EPOCH}.d1042",
        f"{EPOCH}0.a0",
        "00000000000.a0",
        f"{EPOCH}.lost",
        f"{EPOCH}.end",
        "week.end",
        "0123abcd.failed",
    ],
)
def test_an_app_may_not_give_an_id_of_our_form(id):
    """Of any epoch; the error says what to write instead, and that can be given."""
    with pytest.raises(ValueError, match="leave `id` out") as raised:
        check_id(id)
    instead = str(raised.value).rpartition("id='")[2].rstrip("'")
    assert instead == f"from-{id}"
    check_id(instead)


@pytest.mark.parametrize(
    "id",
    [
        *("1", "7~5", "50%", "2026-11-30", "5c374e83.7", "é", "x" * MAX_ID_LENGTH),
        *(f"{EPOCH}.7", f"{EPOCH}.b7", f"x{EPOCH}.a7", "the.end.", "END.end", "lost", "a.lost"),
    ],
)
def test_an_app_may_give_any_other(id):
    """What only looks like one is the app's own affair."""
    check_id(id)


@pytest.mark.parametrize(
    ("id", "said"), [("", "must not be empty"), ("x" * 2049, "at most 2,048 characters, not 2,049")]
)
def test_an_id_that_no_client_could_come_back_with(id, said):
    """Empty, or longer than what is read of it: it is refused, and the error is short."""
    with pytest.raises(ValueError, match=said) as raised:
        check_id(id)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("epoch", ["a", "0f3a9c21", EPOCH])
def test_the_last_id_of_a_stream(epoch):
    """`<epoch>.end` and `<epoch>.failed` are final, and no event's."""
    for word in ("end", "failed"):
        id = final_id(epoch, word)
        assert is_final(id)
        assert parse_event_id(id) is None
