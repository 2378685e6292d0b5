"""The chaos ledger's verdict over a log that forgot its end: what that excuses, and what not.

Events 0 to 9 were acknowledged in epoch ``A``. The log then lost the last three of them, and began
``B`` at number 8, which has events 10 to 14.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from chaos.account import Account
from chaos.texts import key_of, make_text
from chaos.truth import LedgerError, Place, TopicTruth, name_of

A, B = "0000000000a", "0000000000b"
TEXTS = [make_text("p0-1", 0, number, 0) for number in range(30)]
PLACES = [Place(A, number + 1) for number in range(10)] + [Place(B, 8 + n) for n in range(5)]
KEPT = PLACES[:7] + PLACES[10:]


def make_truth(name: str = "plain") -> TopicTruth:
    truth = TopicTruth(name, rolls_back=True)
    truth.sent |= {name_of(text) for text in TEXTS}
    for place, text in zip(PLACES, TEXTS, strict=False):
        truth.note(place, name_of(text))
        truth.acknowledged[name_of(text)] = truth.last = place
    truth.note_epochs([Place(A, 1), Place(B, 8)])
    return truth


def make_account(truth: TopicTruth, *, keeps_up: bool = True) -> Account:
    account = Account("0", truth, Place(A, 0), filtered=False, keeps_up=keeps_up)
    account.begin(came_with=None, wrong=False)
    return account


def read(account: Account, places: list[Place]) -> None:
    for place in places:
        digits = str(place.number)
        account.event(f"{place.epoch}.{'.ab'[len(digits)]}{digits}", TEXTS[PLACES.index(place)])


def tell(account: Account, missed: int | None) -> None:
    account.gap({"missed": missed, "after": None, "before": None})


def verify(account: Account) -> int:
    account.topic.verify()
    account.topic.prepare()
    account.close()
    return account.topic.verify_account(account)


def test_a_gap_between_two_epochs_excuses_what_was_lost() -> None:
    """Also a client that keeps up, whether it has seen what was lost or not."""
    for seen in (7, 8, 10):
        account = make_account(make_truth())
        read(account, PLACES[:seen])
        tell(account, None)
        read(account, PLACES[10:])
        assert verify(account) == 10 - seen


def test_a_lost_end_without_a_gap_is_found() -> None:
    """A client that goes on from one epoch to the next must be told."""
    account = make_account(make_truth())
    read(account, PLACES[:7])
    with pytest.raises(LedgerError, match="not told of an end of its epoch"):
        read(account, PLACES[10:])


def test_a_gap_within_an_epoch_is_no_excuse_for_one_that_keeps_up() -> None:
    """It was told of an unknown loss, and nothing was lost."""
    account = make_account(make_truth())
    read(account, PLACES[:4])
    tell(account, None)
    with pytest.raises(LedgerError, match="keeps up"):
        read(account, PLACES[5:6])


def test_an_id_that_stands_for_two_events_is_found() -> None:
    """As a log does that goes on in the same epoch after it has lost its end."""
    truth = make_truth()
    with pytest.raises(LedgerError, match="one id for two events"):
        truth.note(Place(A, 9), name_of(TEXTS[20]))


def test_an_event_has_two_ids_only_if_the_first_was_lost() -> None:
    """Its publisher was not told of the first, and published again."""
    truth, other = make_truth(), name_of(make_text("p0-1", 1, 0, 0))
    truth.sent.add(other)
    for place in (Place(A, 11), Place(B, 13)):
        truth.note(place, other)
    truth.verify()
    truth = make_truth()
    truth.note(Place(B, 13), name_of(TEXTS[3]))
    with pytest.raises(LedgerError, match="two ids for one event"):
        truth.verify()
    with pytest.raises(LedgerError, match="two ids for one event"):
        make_truth().note(Place(B, 13), name_of(TEXTS[12]))


def test_a_snapshot_has_what_is_left() -> None:
    """Of a key whose newest event was lost, it has the one before; as of then, the lost one."""
    for of, number, right in ((B, 12, False), (A, 10, True)):
        truth = make_truth("keyed")
        newest = {}
        for place, text in zip(PLACES, TEXTS, strict=False):
            if place <= Place(of, number) and (of == A or place in KEPT):
                newest[f"key {TEXTS.index(text)}"] = name_of(text)
        truth.snapshot(Place(of, number), list(newest.items()))
        truth.verify()
        newest["key 8"] = name_of(TEXTS[8])
        truth.snapshot(Place(of, number), list(newest.items()))
        if right:
            truth.verify()
        else:
            with pytest.raises(LedgerError, match="a snapshot of keyed"):
                truth.verify()


def test_an_epoch_begins_at_one_number() -> None:
    """Two servers that both began it would not agree."""
    with pytest.raises(LedgerError, match="begins at 8 and at 9"):
        make_truth().note_epochs([Place(B, 9)])


def test_a_client_that_goes_back_in_a_split_brain_keeps_up() -> None:
    """It was told that its place is unknown to the other server, and goes on in its older epoch."""
    truth = make_truth()
    truth.splits = True
    account = make_account(truth)
    read(account, PLACES[:7])
    tell(account, None)
    read(account, PLACES[10:12])
    tell(account, None)
    read(account, PLACES[8:10])
    tell(account, None)
    read(account, PLACES[12:])
    assert account.counts["went back"] == 1
    assert verify(account) == 1  # PLACES[7]


def test_a_client_that_goes_back_is_told_of_it() -> None:
    """Two servers or not: an older epoch needs a gap in front, and in one no number is skipped."""
    truth = make_truth()
    truth.splits = True
    account = make_account(truth)
    read(account, PLACES[:7])
    tell(account, None)
    read(account, PLACES[10:12])
    with pytest.raises(LedgerError, match="twice, or out of order"):
        read(account, PLACES[8:9])
    account = make_account(truth)
    read(account, PLACES[:8])
    tell(account, None)
    with pytest.raises(LedgerError, match="keeps up"):
        read(account, PLACES[9:10])


def snapshot(account: Account, place: Place) -> None:
    """Have it get the state as of a place; all events here have keys of their own."""
    names = [name_of(TEXTS[number]) for number, one in enumerate(PLACES) if one <= place]
    entries = [{"key": key_of(name), "data": TEXTS[at]} for at, name in enumerate(names)]
    account.snapshot(f"{place.epoch}.a{place.number}", entries)


def test_a_client_may_be_set_back_to_what_the_log_still_has() -> None:
    """Its worker came new to the log. It must be told, and what it had must be lost."""
    for told, seen, fault in (
        (None, 10, ""),
        (0, 10, "snapshot of the past"),
        (None, 7, "is there, and a client was set back"),
    ):
        account = make_account(make_truth("keyed"), keeps_up=False)
        read(account, PLACES[:seen])
        with pytest.raises(LedgerError, match=fault) if fault else nullcontext():
            if told is None:
                tell(account, told)
            snapshot(account, PLACES[5])
            if seen == 10:
                read_on = PLACES[6:7]
                read(account, read_on)
                tell(account, None)
                read(account, PLACES[10:])
            verify(account)
