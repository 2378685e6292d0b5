"""The table of a stream's ending, as values: each state with each trigger, and any sequence."""

from __future__ import annotations

import re
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from draw_ending import draw, parts
from hypothesis import assume, given
from hypothesis import strategies as st

from flowstream import CloseReason
from flowstream.asgi._ending import (
    CUT_OFF,
    GOES_ON,
    OVER,
    REPORT,
    WRITER,
    Action,
    Ending,
    ReportState,
    Trigger,
    WriterState,
)
from flowstream.asgi._last_word import LAST_WORDS

ABORTS = (
    Trigger.LEFT,
    Trigger.LEFT_WITH_ALL,
    Trigger.GIVEN_UP,
    Trigger.STALLED,
    Trigger.BROKEN_OFF,
)
UNANSWERED = (WriterState.HEAD, WriterState.HEAD_ALONE, WriterState.UNANSWERED)
EVERY = list(product(WriterState, Trigger))

# Where each trigger leads from each state; "." is to stay.
NEXT = """
                HEAD        BODY        LAST_CHUNK        HEAD_ALONE  LAST_CHUNK_ALONE  TAKEN  UNANSWERED  CUT    RESET
ANSWERED        BODY        .           .                 CUT         .                 .      CUT         .      .
ALL_WRITTEN     .           LAST_CHUNK  .                 .           .                 .      .           .      .
PRODUCER_ENDED  .           .           .                 .           .                 .      .           .      .
CLOSED          .           .           .                 .           .                 .      .           .      .
OVERFULL        .           .           .                 .           .                 .      .           .      .
LEFT            UNANSWERED  CUT         LAST_CHUNK_ALONE  UNANSWERED  .                 .      .           .      .
LEFT_WITH_ALL   HEAD_ALONE  TAKEN       .                 .           .                 .      .           .      .
GIVEN_UP        HEAD_ALONE  RESET       RESET             .           RESET             RESET  .           RESET  .
STALLED         UNANSWERED  RESET       RESET             UNANSWERED  RESET             RESET  .           RESET  .
BROKEN_OFF      UNANSWERED  CUT         CUT               UNANSWERED  CUT               CUT    .           .      .
WRITER_OVER     .           .           .                 .           .                 .      .           .      .
FINISHED        .           .           .                 .           .                 .      .           .      .
"""  # noqa: E501


def after(state: WriterState, trigger: Trigger) -> tuple[WriterState, tuple[Action, ...]]:
    return WRITER[state].get(trigger, (state, ()))


def expected() -> dict[tuple[WriterState, Trigger], WriterState]:
    head, *lines = NEXT.split("\n")[1:-1]
    states = [WriterState[name] for name in head.split()]
    found = {}
    for line in lines:
        name, *cells = line.split()
        for state, cell in zip(states, cells, strict=True):
            found[state, Trigger[name]] = state if cell == "." else WriterState[cell]
    return found


# -- each state with each trigger --------------------------------------------------------------


def test_every_state_has_a_row() -> None:
    """No state is forgotten in a table."""
    assert list(WRITER) == list(WriterState)
    assert list(REPORT) == list(ReportState)
    assert sorted(expected(), key=str) == sorted(EVERY, key=str)


@pytest.mark.parametrize(("state", "trigger"), EVERY)
def test_where_it_leads(state: WriterState, trigger: Trigger) -> None:
    """Each trigger leads from each state to where it should."""
    assert after(state, trigger)[0] is expected()[state, trigger]


@pytest.mark.parametrize(("state", "trigger"), EVERY)
def test_what_is_done(state: WriterState, trigger: Trigger) -> None:
    """What is done follows from where it leads, and is done in one order."""
    new, actions = after(state, trigger)
    done: list[Action] = []
    drops = state in GOES_ON and new not in GOES_ON
    if drops or (state, trigger) == (WriterState.BODY, Trigger.OVERFULL):
        done += [Action.STOP_PRODUCER, Action.DROP_QUEUE]
    elif state in (WriterState.HEAD, WriterState.BODY) and trigger is Trigger.CLOSED:
        done += [Action.STOP_PRODUCER, Action.FINISH_QUEUE]
    elif state in (WriterState.HEAD, WriterState.BODY) and trigger is Trigger.PRODUCER_ENDED:
        done += [Action.FINISH_QUEUE]
    if trigger in ABORTS and new in CUT_OFF and state not in CUT_OFF:
        done.append(Action.CUT_WRITER)
    if new is WriterState.RESET and state is not new:
        done.append(Action.RESET_CLIENT)
    assert list(actions) == done


@pytest.mark.parametrize(("state", "trigger"), EVERY)
def test_an_abort_is_for_good(state: WriterState, trigger: Trigger) -> None:
    """What was aborted does not go on, and what was cut off is never written again."""
    new, _ = after(state, trigger)
    if state not in GOES_ON:
        assert new not in GOES_ON
    if state in CUT_OFF:
        assert new in CUT_OFF
    if state in OVER:
        assert new in OVER


@pytest.mark.parametrize(("state", "trigger"), EVERY)
def test_no_client_is_reset_before_it_was_answered(state: WriterState, trigger: Trigger) -> None:
    """A client that has no status line yet may still get an answer of somebody else."""
    if state in UNANSWERED:
        assert Action.RESET_CLIENT not in after(state, trigger)[1]


# -- the words of an ending --------------------------------------------------------------------


def test_the_first_reason_stands() -> None:
    """A second reason changes neither the reason nor its detail nor its error."""
    ending = Ending()
    ending.close(CloseReason.STOPPED, "one")
    assert not ending.fail(ValueError(), "two")
    ending.abort(CloseReason.CLIENT_DISCONNECTED, "three")
    assert (ending.reason, ending.detail, ending.error) == (CloseReason.STOPPED, "one", None)


def test_a_source_that_has_ended_is_complete() -> None:
    """A stop that comes when the producer has ended is no reason; a bound in bytes still is."""
    ending = Ending()
    ending.producer_ended()
    assert Action.FINISH_QUEUE in ending.close(CloseReason.SHUTDOWN, "late")
    assert ending.reason is None
    ending.answered()
    ending.overfull("max_bytes 10")
    assert (ending.reason, ending.detail) == (CloseReason.MAX_BYTES, "max_bytes 10")


def test_what_a_feed_failed_with_is_logged_by_others() -> None:
    """A feed says why it ended, and its own line has the error; a late one changes nothing."""
    ending, late, error = Ending(), Ending(), ValueError()
    ending.producer_ended(CloseReason.ERROR, error, "run: ValueError")
    assert (ending.reason, ending.error, ending.logged_elsewhere) == ("error", error, True)
    late.close(CloseReason.STOPPED)
    late.producer_ended(CloseReason.ERROR, error, "run: ValueError")
    assert (late.reason, late.error, late.logged_elsewhere) == ("stopped", None, False)


@pytest.mark.parametrize("has_all", [False, True])
def test_who_leaves_with_all_of_it_has_completed(has_all: bool) -> None:
    """A client that leaves with the last byte it was promised is no disconnect."""
    ending = Ending()
    ending.answered()
    ending.abort(CloseReason.CLIENT_DISCONNECTED, "http.disconnect", has_all=has_all)
    assert ending.reason is (CloseReason.COMPLETED if has_all else CloseReason.CLIENT_DISCONNECTED)
    assert ending.detail == ("" if has_all else "http.disconnect")
    assert ending.is_cut_off is not has_all


def test_who_leaves_a_stopped_stream_with_all_of_it_is_cut_off() -> None:
    """Only a stream that has no reason yet completes so."""
    ending = Ending()
    ending.answered()
    ending.close(CloseReason.STOPPED)
    ending.abort(CloseReason.CLIENT_DISCONNECTED, has_all=True)
    assert (ending.writer, ending.reason) == (WriterState.CUT, CloseReason.STOPPED)


@pytest.mark.parametrize("reason", CloseReason)
def test_which_reason_resets_a_client(reason: CloseReason) -> None:
    """A client that takes nothing is reset; any other abort leaves the connection to the server."""
    ending = Ending()
    ending.answered()
    resets = Action.RESET_CLIENT in ending.abort(reason)
    assert resets == (reason in (CloseReason.STALLED, CloseReason.SLOW_CONSUMER))
    assert ending.is_cut_off
    assert ending.reason is reason


@pytest.mark.parametrize("reason", CloseReason)
def test_the_page_has_the_last_word_of_each_reason(reason: CloseReason) -> None:
    """What a client gets at the end, by the page on close reasons, is what it gets."""
    page = Path(__file__).parents[2] / "docs" / "reference" / "close-reasons.md"
    row = re.search(rf"^\| `{reason}` \|[^|]*\|([^|]*)\|", page.read_text("utf-8"), re.MULTILINE)
    assert row
    told = re.findall(r"`(\w+)`", row[1])
    aborted = reason in ("client_disconnected", "slow_consumer", "stalled", "cancelled", "refused")
    assert told == ([] if aborted or reason == "rate_limited" else [LAST_WORDS[reason]])
    assert not aborted or LAST_WORDS[reason] == "failed"


# -- the report --------------------------------------------------------------------------------


def test_the_report_waits_for_both() -> None:
    """It comes with the producer's end or the writer's, whichever is the later."""
    first, second = Ending(), Ending()
    assert Action.REPORT not in first.abort(CloseReason.CANCELLED)
    assert first.producer_ended() == (Action.REPORT,)
    second.answered()
    assert second.producer_ended() == (Action.FINISH_QUEUE,)
    assert second.all_written() == ()
    assert second.abort(CloseReason.CLIENT_DISCONNECTED)[-1] is Action.REPORT
    assert second.finish() == ()


def test_a_last_write_is_counted() -> None:
    """The report of a client that left with all of it waits for the write, as its host does."""
    ending = Ending()
    ending.answered()
    ending.producer_ended()
    actions = ending.abort(CloseReason.CLIENT_DISCONNECTED, has_all=True)
    assert actions == (Action.STOP_PRODUCER, Action.DROP_QUEUE)
    assert ending.all_written() == ()
    assert ending.finish() == (Action.REPORT,)


# -- any sequence ------------------------------------------------------------------------------

details = st.sampled_from(["a", "b", "c"])
reasons = st.sampled_from(list(CloseReason))
steps = st.one_of(
    st.tuples(st.just("close"), reasons, details),
    st.tuples(st.just("abort"), reasons, details, st.booleans()),
    st.tuples(st.just("fail"), details),
    st.tuples(st.just("producer_ended"), reasons, details),
    st.tuples(st.sampled_from(["answered", "all_written", "finish"])),
    st.tuples(st.just("overfull"), details),
)


def take(ending: Ending, step: tuple[Any, ...]) -> tuple[Action, ...]:
    name, *rest = step
    if name == "fail":
        ending.fail(ValueError(), *rest)
        return ()
    if name == "abort":
        return ending.abort(rest[0], rest[1], has_all=rest[2])
    if name == "producer_ended":
        return ending.producer_ended(rest[0], ValueError(), rest[1])
    done: tuple[Action, ...] = getattr(ending, name)(*rest)
    return done


@given(st.lists(steps, max_size=12))
def test_any_sequence_has_one_report_and_one_reason(sequence: list[tuple[Any, ...]]) -> None:
    """Whatever happens in whatever order, what was said once stands and is done once."""
    ending = Ending()
    done: Counter[Action] = Counter()
    ended = finished = aborted = answered = False
    for step in sequence:
        if step[0] == "finish":
            assume(ending.reason is not None)  # a host aborts what has no reason yet
        before = (ending.reason, ending.detail, ending.error, ending.logged_elsewhere)
        actions = take(ending, step)
        done.update(actions)
        ended |= step[0] == "producer_ended"
        finished |= step[0] == "finish"
        aborted |= step[0] == "abort"
        answered |= step[0] == "answered"
        if before[0] is not None:
            assert before == (ending.reason, ending.detail, ending.error, ending.logged_elsewhere)
        assert done[Action.REPORT] <= 1
        assert done[Action.CUT_WRITER] <= 1
        assert done[Action.RESET_CLIENT] <= answered
        assert ending.goes_on is not aborted
        assert not (aborted and ending.reason is None)
        if Action.REPORT in actions:
            assert actions[-1] is Action.REPORT
            assert ending.reason is not None
            assert finished or (ended and aborted)
        if ended and ending.is_cut_off:
            assert done[Action.REPORT] == 1
        if done[Action.CUT_WRITER]:
            assert ending.is_cut_off
            assert done[Action.DROP_QUEUE]
    assert done[Action.REPORT] == (ending.report is ReportState.MADE)
    assert not finished or done[Action.REPORT] == 1


# -- the page ----------------------------------------------------------------------------------


def test_the_drawing_is_made_from_the_table() -> None:
    """The page shows the table as it is: else run ``python tests/draw_ending.py``."""
    assert parts()[1] == draw()
