"""Joined ids: where a client is in several topics, told apart by name, or not guessed at all."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.ids._event_id import MAX_ID_LENGTH, epoch_of, event_id, lost_id
from flowstream.ids._joined_id import Place, join_parts, name_tag, part_of, split_joined

ONE, TWO, OTHER = "1lgppmf8l75", "1lgppmf8l76", "1lgppmf8l77"
A, B, C = (Place(name_tag("topic", name), ONE) for name in "abc")


def joined(*parts):
    return join_parts(part_of(place.tag, id) for place, id in parts)


def test_a_tag_is_the_same_in_each_process():
    """It is made of the name alone, whatever Python's hashes are seeded with."""
    program = "from flowstream.ids._joined_id import name_tag; print(name_tag('topic', 'a'))"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == A.tag == "61afodmm"


@given(st.text(st.characters(), max_size=300))
def test_a_tag_has_a_length_and_needs_no_escape(name):
    """Any name gives 8 characters, and a run's are others than those of a topic of that name."""
    tag = name_tag("topic", name)
    assert len(tag) == 8
    assert set(tag) <= set("0123456789abcdefghijklmnopqrstuv")
    assert tag != name_tag("run", name)


def test_the_form():
    """A tag, a colon and the id for each topic; nothing for one that the client has nothing of."""
    assert joined((A, event_id(ONE, 7)), (B, None), (C, "5~%")) == (
        f"{A.tag}:{ONE}.a7~~{C.tag}:5%7E%25"
    )


own_ids = (
    st.none()
    | st.integers(0, 10**18 - 1).map(lambda n: event_id(ONE, n))
    | st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
)


@given(st.permutations([A, B, C]), own_ids, own_ids, own_ids)
def test_each_topic_gets_its_own_id_back_in_any_order(order, a, b, c):
    """Topics may have equal epochs, and ids with the signs that joined ids are made of."""
    ids = {A: a, B: b, C: c}
    found = split_joined(joined(*ids.items()), order)
    assert found == [ids[place] for place in order]


def test_a_topic_that_was_restarted_keeps_its_part():
    """Its name is the same, so its former id goes to it alone, and says that it is another's."""
    after = joined((A, event_id(OTHER, 7)), (B, event_id(ONE, 3)))
    assert split_joined(after, [B, A, C]) == [event_id(ONE, 3), event_id(OTHER, 7), None]


def test_a_part_of_a_topic_that_is_not_here():
    """One without a part may have been that one under another name: its place is unknown."""
    after = joined((A, event_id(ONE, 7)), (B, event_id(ONE, 3)))
    assert split_joined(after, [A, C]) == [event_id(ONE, 7), lost_id(ONE)]


@pytest.mark.parametrize("after", ["5c374e83.1~0a1b2c3d.4", "5c374e83.1", event_id(ONE, 7), "own"])
def test_an_id_of_a_former_form_or_of_one_topic_is_a_strangers(after):
    """No topic is taken for the one that it was of, even if the epoch is the same."""
    assert split_joined(after, [A, B]) == [lost_id(ONE), lost_id(ONE)]


@pytest.mark.parametrize("after", [None, "", "~", "~~~~"])
def test_who_has_nothing_is_new(after):
    """No part says anything."""
    assert split_joined(after, [A, B]) == [None, None]


def test_topics_of_one_name_are_told_apart_by_their_epochs():
    """In any order, and if one of them is new in the list."""
    one, two, tag = Place(A.tag, ONE), Place(A.tag, TWO), A.tag
    first, second = event_id(ONE, 5), event_id(TWO, 8)
    after = join_parts([part_of(tag, first), part_of(tag, second)])
    assert split_joined(after, [one, two]) == [first, second]
    assert split_joined(after, [two, one]) == [second, first]
    assert split_joined(after, [two]) == [second]
    assert split_joined(part_of(tag, first), [one, two]) == [first, None]
    assert split_joined(part_of(tag, lost_id(ONE)), [two, one]) == [None, lost_id(ONE)]


def test_what_cannot_be_told_apart_is_unknown():
    """Of one name and one epoch, restarted, with an app's ids, or a part twice: never a guess."""
    one, two, tag = Place(A.tag, ONE), Place(A.tag, TWO), A.tag
    first, second, other = event_id(ONE, 5), event_id(ONE, 8), event_id(OTHER, 2)
    unknown = [lost_id(ONE), lost_id(TWO)]

    def both(*ids):
        return join_parts(part_of(tag, id) for id in ids)

    assert split_joined(both(first, second), [one, one]) == [lost_id(ONE)] * 2
    assert split_joined(both(first), [one, one]) == [lost_id(ONE)] * 2
    assert split_joined(both("5", "6"), [one, two]) == unknown
    assert split_joined(both("5"), [one, two]) == unknown
    assert split_joined(both(first, other), [one, two]) == [first, lost_id(TWO)]
    assert split_joined(both(first, second), [one]) == [lost_id(ONE)]
    assert split_joined(both("5", "6"), [one]) == [lost_id(ONE)]


texts = st.text(st.sampled_from(f"~:!.%{A.tag}a1é\ud800\n"), max_size=200)


@given(texts | st.text() | texts.map(lambda text: f"{A.tag}:{text}"))
def test_anything_can_be_split(after):
    """Whatever a client sends: nothing raises, and there is one answer for each topic."""
    found = split_joined(after, [A, B])
    assert len(found) == 2
    if after.strip("~"):
        assert found != [None, None]


def test_a_long_id_is_not_looked_at():
    """Beyond the bound every place is unknown, even if a part of it could be read."""
    part = part_of(A.tag, event_id(ONE, 7))
    long = part + "~" * (MAX_ID_LENGTH + 1 - len(part))
    assert split_joined(long[:-1], [A, B]) == [event_id(ONE, 7), None]
    assert split_joined(long, [A, B]) == [lost_id(ONE)] * 2


def test_sixty_topics_have_room():
    """The joined id of sixty topics of ten million events each is read in full."""
    places = [Place(name_tag("topic", str(number)), ONE) for number in range(60)]
    after = join_parts(part_of(place.tag, event_id(ONE, 10_000_000)) for place in places)
    assert len(after) <= MAX_ID_LENGTH
    assert {epoch_of(id) for id in split_joined(after, places)} == {ONE}
