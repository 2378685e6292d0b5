"""A sender: one append in flight, in the order of the calls, and what a caller is told."""

import pytest
import trio
from shared_log import FINE, Weather, open_workers
from trio.testing import wait_all_tasks_blocked

from flowstream import Replay
from flowstream._errors import LogFullError, LogUnavailableError
from flowstream.abc import Appended, LogEntry
from flowstream.topics._sender import Sender

EPOCH = "1lgppmf8l75"


class Appends:
    """A log of which a test plays the answers.

    Attributes:
        batches: the data of each append.
        tokens: its token.
        answers: for the next appends: an error to raise, or seconds to wait; then they succeed.
        refused: data that it takes in no append.
    """

    def __init__(self):
        self.batches, self.tokens, self.answers = [], [], []
        self.refused = set()
        self.number = 0

    async def append(self, topic, entries, *, keep, token):
        assert topic == "topic:news"
        self.batches.append([entry.data.decode() for entry in entries])
        self.tokens.append(token)
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0) if self.answers else 0
        if isinstance(answer, Exception):
            raise answer
        await trio.sleep(answer)
        if self.refused & set(self.batches[-1]):
            raise ValueError("too large")
        results = [
            Appended(EPOCH, self.number + place, False) for place in range(1, len(entries) + 1)
        ]
        self.number += len(entries)
        return results


class Bench:
    """A sender, its log, and what it has told.

    Attributes:
        committed: data and number of what it said is in the log.
        lost: of what it said is not.
    """

    def __init__(self, nursery, patience=5.0):
        self.log = Appends()
        self.nursery = nursery
        self.committed, self.lost = [], []
        self.told = {}
        self.sender = Sender("topic:news", self.log, Replay(), self.start, self.note, patience)

    def start(self, work):
        self.nursery.start_soon(work)

    def note(self, entries, appended):
        assert entries
        self.committed += [
            (entry.data.decode(), one.number) for entry, one in zip(entries, appended, strict=True)
        ]

    async def send(self, *data):
        """Send; note under the first text what came of it, and when."""
        try:
            told = await self.sender.send([LogEntry(text.encode()) for text in data])
            told = [one.number for one in told]
        except Exception as error:  # noqa: BLE001  # whatever it is told
            told = error
        self.told[data[0]] = told, trio.current_time()

    def soon(self, text):
        def lost(error):
            self.lost.append((text, error))
            self.lost_at = trio.current_time()

        self.sender.send_soon(LogEntry(text.encode()), lost)

    def maybe(self, text):
        error, _ = self.told[text]
        assert isinstance(error, LogUnavailableError), error
        return error.maybe


@pytest.fixture
async def bench(nursery, autojump_clock):
    return Bench(nursery)


def away(*, maybe=False):
    return LogUnavailableError("nobody there", maybe=maybe)


async def test_what_comes_during_an_append_is_the_next_one(autojump_clock, bench):
    """One append in flight, in the order of the calls; a call's events stay together."""
    bench.log.answers = [1.0]
    for data in (["a"], ["b", "c"], ["d"], ["e"]):
        bench.nursery.start_soon(bench.send, *data)
        await wait_all_tasks_blocked()
    await trio.sleep(5)
    assert bench.log.batches == [["a"], ["b", "c", "d", "e"]]
    assert bench.committed == [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]
    assert {key: told for key, (told, _) in bench.told.items()} == {
        "a": [1],
        "b": [2, 3],
        "d": [4],
        "e": [5],
    }
    assert bench.sender.queued == 0


async def test_a_lone_event_is_sent_at_once(autojump_clock, bench):
    """No timer gathers events."""
    await bench.send("a")
    assert bench.told["a"] == ([1], 0.0)


async def test_an_append_without_an_answer_is_repeated_as_it_was(autojump_clock, bench):
    """The retry has the same entries and the same token, so the log appends them once."""
    bench.log.answers = [away(maybe=True), away()]
    bench.nursery.start_soon(bench.send, "a")
    await wait_all_tasks_blocked()
    await bench.send("b")
    assert bench.log.batches == [["a"], ["a"], ["a"], ["b"]]
    assert len(set(bench.log.tokens[:3])) == 1
    assert bench.log.tokens[3] != bench.log.tokens[0]
    assert bench.sender.retries == 2
    assert bench.committed == [("a", 1), ("b", 2)]


async def test_a_caller_waits_as_long_as_its_patience_for_a_log_that_is_away(autojump_clock, bench):
    """Then it hears that its events are not in the log, and they never are."""
    bench.log.answers = [away() for _ in range(50)]
    await bench.send("a")
    assert bench.maybe("a") is False
    assert 3.9 <= bench.told["a"][1] <= 5.0
    bench.log.answers = []
    await bench.send("b")
    assert bench.committed == [("b", 1)]


async def test_a_caller_of_an_append_that_hangs_hears_that_it_may_appear(autojump_clock, bench):
    """Sent and not answered is not the same as not sent: who waits behind it was withdrawn."""
    bench.log.answers = [60.0]
    bench.nursery.start_soon(bench.send, "a")
    await wait_all_tasks_blocked()
    await bench.send("b")
    await wait_all_tasks_blocked()
    assert (bench.maybe("a"), bench.maybe("b")) == (True, False)
    assert [at for _, at in bench.told.values()] == [5.0, 5.0]
    assert bench.sender.queued == 0
    await trio.sleep(100)
    assert bench.committed == [("a", 1)]
    assert bench.log.batches == [["a"]]


async def test_a_cancelled_call_is_withdrawn_unless_it_was_sent(autojump_clock, bench):
    """The one on its way may appear; the one that waited does not."""
    bench.log.answers = [3.0]
    with trio.move_on_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.send, "a")
            await wait_all_tasks_blocked()
            nursery.start_soon(bench.send, "b")
    assert bench.sender.queued == 0
    await trio.sleep(10)
    assert bench.committed == [("a", 1)]


async def test_who_left_during_a_wait_is_left_out_of_the_next_try(autojump_clock, bench):
    """As long as no try may have succeeded; the others are appended."""
    bench.log.answers = [away(), away(), away(), away()]
    with trio.move_on_after(0.001):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.send, "a")
            nursery.start_soon(bench.send, "b")
            await wait_all_tasks_blocked()
            bench.nursery.start_soon(bench.send, "c")
            await wait_all_tasks_blocked()
    await trio.sleep(20)
    assert bench.committed == [("c", 1)]
    assert [] not in bench.log.batches


async def test_who_leaves_between_two_tries_hears_what_is_certain(autojump_clock, bench):
    """Others wait longer. No try has succeeded so far, and the next one is without it."""
    bench.log.answers = [4.0, *(away() for _ in range(100))]
    bench.nursery.start_soon(bench.send, "a")
    await wait_all_tasks_blocked()
    bench.nursery.start_soon(bench.send, "b")
    await trio.sleep(3.9)
    await bench.send("c")
    assert bench.told["b"][1] == 5.0
    assert (bench.maybe("b"), bench.maybe("c")) == (False, False)
    assert bench.log.batches[-1] == ["c"]


async def test_an_append_for_which_nobody_waits_is_given_up(autojump_clock, bench):
    """It was sent, and may be in the log; it is not repeated for ever."""
    bench.log.answers = [away(maybe=True) for _ in range(100)]
    await bench.send("a")
    assert bench.maybe("a") is True
    await trio.sleep(60)
    tries = len(bench.log.batches)
    await trio.sleep(60)
    assert len(bench.log.batches) == tries
    bench.log.answers = []
    await bench.send("b")
    assert bench.committed == [("b", 1)]


async def test_a_try_that_failed_after_one_that_may_have_succeeded_may_have_succeeded(
    autojump_clock, bench
):
    """Its caller is told so, even if the last try surely failed."""
    bench.log.answers = [away(maybe=True), *(away() for _ in range(100))]
    await bench.send("a")
    assert bench.maybe("a") is True


@pytest.mark.parametrize("refusal", [ValueError("odd"), LogFullError("no room")])
async def test_a_refusal_behind_a_maybe_does_not_split_the_batch(autojump_clock, bench, refusal):
    """The first try may have succeeded. So nothing is tried anew, which could double events."""
    bench.log.answers = [0.5, away(maybe=True), refusal]
    bench.nursery.start_soon(bench.send, "a")
    await wait_all_tasks_blocked()
    for text in "bc":
        bench.nursery.start_soon(bench.send, text)
        await wait_all_tasks_blocked()
    await trio.sleep(10)
    if isinstance(refusal, LogFullError):  # there may be room again
        assert bench.committed == [("a", 1), ("b", 2), ("c", 3)]
        assert bench.log.tokens[1] == bench.log.tokens[2] == bench.log.tokens[3]
    else:
        assert (bench.maybe("b"), bench.maybe("c")) == (True, True)
    assert all(batch == ["b", "c"] for batch in bench.log.batches[1:])


async def test_a_batch_that_is_refused_is_tried_one_by_one(autojump_clock, bench):
    """Only the call whose events the log does not take fails; the order stays."""
    bench.log.answers = [0.5]
    bench.log.refused = {"b2"}
    for data in (["a"], ["b1", "b2"], ["c"], ["d"]):
        bench.nursery.start_soon(bench.send, *data)
        await wait_all_tasks_blocked()
    await trio.sleep(5)
    assert bench.log.batches == [["a"], ["b1", "b2", "c", "d"], ["b1", "b2"], ["c"], ["d"]]
    assert len(set(bench.log.tokens)) == 5
    assert bench.committed == [("a", 1), ("c", 2), ("d", 3)]
    assert isinstance(bench.told["b1"][0], ValueError)


async def test_a_call_that_leaves_after_its_batch_was_refused_is_not_appended(
    autojump_clock, bench
):
    """Nothing of it was taken, so it hears that it was not appended."""
    bench.log.answers = [4.0, LogFullError("no room"), 3.0]
    for text in "abc":
        bench.nursery.start_soon(bench.send, text)
        await wait_all_tasks_blocked()
    await trio.sleep(60)
    assert bench.told["a"] == ([1], 4.0)
    assert bench.maybe("b") is True  # alone on its way when its patience ended
    assert bench.maybe("c") is False
    assert bench.committed == [("a", 1), ("b", 2)]
    assert ["c"] not in bench.log.batches


async def test_a_log_without_room_is_not_tried_again(autojump_clock, bench):
    """LogFullError comes at once, and says so."""
    bench.log.answers = [LogFullError("no room")]
    await bench.send("a")
    error, at = bench.told["a"]
    assert isinstance(error, LogFullError)
    assert at == 0.0
    assert bench.committed == []


async def test_what_waits_is_bounded_and_who_finds_no_room_waits(autojump_clock, bench):
    """1,024 events or 1 MiB; one call larger than that goes alone."""
    bench.log.answers = [1.0]
    bench.nursery.start_soon(bench.send, "a")
    await wait_all_tasks_blocked()
    for n in range(1024):
        bench.soon(f"{n}")
    assert bench.sender.queued == 1024
    with pytest.raises(trio.WouldBlock):
        bench.soon("1024")
    await bench.send("late")
    assert [len(batch) for batch in bench.log.batches] == [1, 1024, 1]
    bench.log.answers = [1.0]
    bench.nursery.start_soon(bench.send, "b")
    await wait_all_tasks_blocked()
    half = "x" * (1 << 19)
    bench.soon(half)
    bench.soon(half)
    with pytest.raises(trio.WouldBlock):
        bench.soon("y")
    await trio.sleep(2)
    bench.soon("z" * (2 << 20))  # alone
    await trio.sleep(2)
    assert bench.sender.queued == 0


async def test_who_finds_no_room_in_time_was_not_sent(autojump_clock, bench):
    """Its patience counts from the call, not from when there was room."""
    bench.log.answers = [60.0]
    bench.nursery.start_soon(bench.send, "a")
    await wait_all_tasks_blocked()
    for n in range(1024):
        bench.soon(f"{n}")
    await bench.send("late")
    assert bench.maybe("late") is False
    assert bench.told["late"][1] == 5.0
    await trio.sleep(100)
    assert ("late", 1026) not in bench.committed
    assert len(bench.committed) == 1025


async def test_what_is_lost_later_is_told_once(autojump_clock, bench, caplog):
    """`send_soon` waits for nobody; if that fails, its function hears, even one that fails."""
    bench.log.answers = [away() for _ in range(100)]
    bench.soon("a")
    bench.sender.send_soon(LogEntry(b"b"), lambda error: 1 / 0)
    await trio.sleep(60)
    assert [text for text, _ in bench.lost] == ["a"]
    assert bench.lost[0][1].maybe is False
    assert 3.9 <= bench.lost_at <= 5.0  # not later than its patience
    assert bench.sender.lost == 2
    assert "ZeroDivisionError" in caplog.text
    bench.log.answers = []
    bench.soon("c")
    await trio.sleep(1)
    assert bench.committed == [("c", 1)]
    assert len(bench.lost) == 1


async def test_the_end_of_the_log_loses_nothing_in_silence(autojump_clock):
    """On its way, refused with its batch, or still waiting: each is told, and which may appear."""
    async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
        bench = Bench(nursery)
        bench.log.answers = [0.5, LogFullError("no room"), 60.0]
        bench.nursery = outer
        bench.sender._start = nursery.start_soon
        bench.soon("a")
        await wait_all_tasks_blocked()
        for text in "bcd":
            bench.soon(text)
        outer.start_soon(bench.send, "e")
        await trio.sleep(1)
        bench.soon("f")
        outer.start_soon(bench.send, "g")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert bench.committed == [("a", 1)]
    lost = {text: error.maybe for text, error in bench.lost}
    assert lost == {"b": True, "c": False, "d": False, "f": False}
    assert (bench.maybe("e"), bench.maybe("g")) == (False, False)
    assert bench.told["e"][1] == 1.0
    assert bench.sender.queued == 0


async def test_a_sender_of_a_closed_log_takes_nothing(autojump_clock, bench):
    """The error is that of the log, and nothing is left in the queue."""

    def start(work):
        raise RuntimeError("not open")

    bench.sender._start = start
    with pytest.raises(RuntimeError, match="not open"):
        await bench.sender.send([LogEntry(b"a")])
    with pytest.raises(RuntimeError, match="not open"):
        bench.soon("b")
    assert bench.sender.queued == 0


async def test_a_publisher_of_a_worker_waits_for_its_patience(autojump_clock):
    """Through a topic: away says not appended, unsure appends once, full says no room."""
    async with open_workers(1) as (broker, one):
        one.view.weather = Weather(away=frozenset({"append"}))
        with pytest.raises(LogUnavailableError) as raised:
            await one.publish(1)
        assert raised.value.maybe is False
        one.view.weather = Weather(unsure=0.7)
        for n in range(20):
            await one.publish(n)
        one.view.weather = Weather(full=True)
        with pytest.raises(LogFullError):
            await one.publish(1)
        one.view.weather = FINE
        await one.publish(20)
        assert broker.number(one.name) == 21
