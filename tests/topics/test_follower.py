"""A follower: hints that fit go into the window, any other one leads to a read."""

import pytest
import trio
from shared_log import FINE, Weather, open_workers, reading
from trio.testing import wait_all_tasks_blocked

from flowstream import Event, Replay
from flowstream._errors import LogUnavailableError
from flowstream.abc import Head, Record
from flowstream.ids._event_id import event_id
from flowstream.topics._envelope import wrap
from flowstream.topics._fanout import Fanout
from flowstream.topics._follower import Follower
from flowstream.topics._log_reader import PAGE_ITEMS
from flowstream.topics._window import Window

E1, E2 = "1lgppmf8l75", "1lgppmf9aaa"


def record(number, epoch=E1, age=0.0):
    return Record(epoch, number, wrap(Event(f"{epoch[-1]}{number}")), age)


def records(low, high, epoch=E1):
    return [record(number, epoch) for number in range(low, high + 1)]


def head(number, *epochs):
    return Head(epochs or ((E1, 1),), number, 1)


class Reads:
    """A log of which a test plays the answers: a head, whether it knows the place, records."""

    def __init__(self):
        self.answers = []
        self.asked = []
        self.during = lambda: None
        """Called while a read is on its way."""

    async def read(self, topic, after, limit, *, mine=False):
        assert topic == "topic:news"
        self.asked.append((after, limit, mine))
        await trio.lowlevel.checkpoint()
        self.during()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Bench:
    """A follower and what it does."""

    def __init__(self):
        self.log = Reads()
        self.window = Window(Replay(), trio.current_time)
        self.entered = []
        self.told = 0
        self.follower = Follower(
            "topic:news",
            self.log,
            self.window,
            Fanout(self.window, lambda change: None),
            lambda published: self.entered.append(published.event.data),
            self.tell,
        )

    def tell(self, follower):
        assert follower is self.follower
        self.told += 1

    async def catch_up(self, *answers):
        self.log.answers = list(answers)
        await self.follower.catch_up()
        assert not self.log.answers


@pytest.fixture
async def bench(autojump_clock):
    bench = Bench()
    bench.follower.begin(head(10))
    return bench


async def test_a_hint_that_follows_on_enters_the_window(bench, autojump_clock):
    """No read; the ids are the log's, and the age is known."""
    await trio.sleep(100)
    bench.follower.hear(10, [record(11, age=30.0), record(12)])
    assert bench.entered == ["511", "512"]
    assert bench.window.position == (E1, 12)
    assert [one.id for one in bench.window.after(10, 9)] == [event_id(E1, 11), event_id(E1, 12)]
    assert [one.stamp for one in bench.window.after(10, 9)] == [70.0, 100.0]
    assert bench.window.delivered == bench.window.head  # nobody is there
    assert bench.told == 0


async def test_a_hint_that_overlaps_brings_what_is_new(bench, autojump_clock):
    """A doubled one brings nothing."""
    bench.follower.hear(10, records(11, 12))
    bench.follower.hear(10, records(11, 13))
    bench.follower.hear(11, records(12, 13))
    bench.follower.hear(8, records(9, 14))
    assert bench.entered == ["511", "512", "513", "514"]
    assert bench.told == 0


@pytest.mark.parametrize(
    ("before", "hint"),
    [
        (11, records(12, 12)),
        (10, [record(11), record(13)]),
        (10, [record(12)]),
        (10, [record(11), record(12, E2)]),
        (10, records(11, 12, E2)),
        (10, [record(12), record(11)]),
    ],
    ids=["later", "a hole", "not what it follows", "two epochs", "another epoch", "disordered"],
)
async def test_any_other_hint_leads_to_a_read(bench, autojump_clock, before, hint):
    """It is told once that there is something to read; nothing enters."""
    for _ in range(3):
        bench.follower.hear(before, hint)
    assert bench.entered == []
    assert bench.told == 1
    assert bench.follower.is_stale
    assert bench.follower.seams == 0


async def test_an_empty_hint_is_nothing(bench, autojump_clock):
    """It says nothing."""
    bench.follower.hear(50, [])
    assert not bench.follower.is_stale


async def test_a_hint_before_the_window_is_open_is_remembered(autojump_clock):
    """If the head that it begins with is older than the hint, it reads."""
    for heard, started, stale in (
        (records(11, 12), head(12), False),
        (records(11, 13), head(12), True),
        (records(8, 8, E2), head(12), True),
        (records(11, 13), head(8, (E1, 1), (E2, 9)), False),
    ):
        bench = Bench()
        bench.follower.hear(heard[0].number - 1, heard)
        assert (bench.entered, bench.told) == ([], 0)
        bench.follower.begin(started)
        assert bench.follower.is_stale == stale, heard
        assert bench.told == stale


async def test_a_hint_to_a_closed_window_is_forgotten_when_it_closes_again(bench, autojump_clock):
    """Each opening has a head of its own."""
    bench.follower.close()
    bench.follower.hear(10, records(11, 20))
    bench.follower.close()
    bench.follower.begin(head(10))
    assert not bench.follower.is_stale


async def test_it_is_begun_twice(bench, autojump_clock):
    """The second time the head says only whether there is something to read."""
    bench.follower.hear(10, records(11, 12))
    bench.follower.begin(head(12))
    assert not bench.follower.is_stale
    bench.follower.begin(head(14))
    assert bench.window.position == (E1, 12)
    assert bench.window.items == 2
    assert bench.follower.is_stale


async def test_it_reads_until_the_head(bench, autojump_clock):
    """Page after page, each from where it is, as evidence of its own."""
    bench.follower.mark_stale()
    await bench.catch_up((head(14), True, records(11, 12)), (head(15), True, records(13, 15)))
    assert bench.log.asked == [((E1, 10), PAGE_ITEMS, True), ((E1, 12), PAGE_ITEMS, True)]
    assert bench.window.position == (E1, 15)
    assert not bench.follower.is_stale
    assert bench.follower.seams == 0
    await bench.follower.catch_up()  # nothing to read
    assert len(bench.log.asked) == 2


async def test_a_hint_during_a_read_is_not_lost(bench, autojump_clock):
    """What it speaks of may not be in the page, so it reads once more, and is not told again."""
    bench.follower.mark_stale()
    hints = [records(13, 13)]

    def during():
        if hints:
            bench.follower.hear(12, hints.pop())

    bench.log.during = during
    await bench.catch_up((head(12), True, records(11, 12)), (head(13), True, records(13, 13)))
    assert bench.window.position == (E1, 13)
    assert bench.told == 1
    bench.follower.mark_stale()
    assert bench.told == 2


async def test_what_a_hint_brought_during_a_read_comes_once(bench, autojump_clock):
    """The page has it, too."""
    bench.follower.mark_stale()
    bench.log.during = lambda: bench.follower.hear(10, records(11, 12))
    await bench.catch_up((head(11), True, records(11, 11)))
    assert bench.entered == ["511", "512"]
    bench.follower.mark_stale()
    bench.log.during = lambda: bench.follower.hear(12, records(13, 14))
    await bench.catch_up((head(13), True, []))
    assert bench.window.position == (E1, 14)
    assert bench.follower.seams == 0


async def test_a_log_that_is_away_stays_to_be_read(bench, autojump_clock):
    """The error is the caller's, who tries again; a hint meanwhile tells nobody twice."""
    bench.follower.mark_stale()
    with pytest.raises(LogUnavailableError):
        await bench.catch_up(LogUnavailableError("away"))
    assert bench.follower.is_stale
    bench.follower.mark_stale()
    assert bench.told == 1
    await bench.catch_up((head(11), True, records(11, 11)))
    assert bench.entered == ["511"]


async def test_events_that_were_trimmed_make_a_seam(bench, autojump_clock):
    """Their number is known, whether later ones are left or not."""
    bench.follower.mark_stale()
    await bench.catch_up((head(20), True, records(18, 20)))
    assert bench.window.position == (E1, 20)
    assert bench.window.head - 10 == 10
    assert bench.follower.seams == 1
    assert not bench.window.crosses(10, bench.window.head)
    bench.follower.mark_stale()
    await bench.catch_up((head(30), True, []))
    assert bench.window.position == (E1, 30)
    assert bench.follower.seams == 2
    assert not bench.window.crosses(10, bench.window.head)


async def test_a_new_epoch_makes_a_seam(bench, autojump_clock):
    """What was lost is not known; events go on where the epoch begins."""
    bench.follower.mark_stale()
    new = (E1, 1), (E2, 8)
    await bench.catch_up((head(9, *new), True, records(8, 9, E2)))
    assert bench.window.position == (E2, 9)
    assert bench.entered == ["a8", "a9"]
    assert bench.window.crosses(10, bench.window.head)
    assert bench.follower.seams == 1


async def test_a_new_epoch_without_events_makes_a_seam_at_once(bench, autojump_clock):
    """Its clients need not wait for the next event to hear that some were lost."""
    bench.follower.mark_stale()
    await bench.catch_up((head(7, (E1, 1), (E2, 8)), True, []))
    assert bench.window.position == (E2, 7)
    assert bench.window.crosses(10, bench.window.head)
    bench.follower.compare(head(7, (E1, 1), (E2, 8)))
    assert not bench.follower.is_stale


async def test_a_log_that_knows_nothing_of_it_is_another_one(bench, autojump_clock):
    """It goes on with the newest of that log, a page at most."""
    bench.follower.mark_stale()
    await bench.catch_up((head(2, (E2, 1)), False, []), (head(2, (E2, 1)), True, records(1, 2, E2)))
    assert bench.log.asked[1][0] == (E2, 0)
    assert bench.entered == ["a1", "a2"]
    assert bench.window.crosses(10, bench.window.head)
    bench.follower.mark_stale()
    far = head(10_000, ("1lgppmgaaaa", 1))
    late = 10_000 - PAGE_ITEMS
    await bench.catch_up((far, False, []), (far, True, records(late + 1, 10_000, "1lgppmgaaaa")))
    assert bench.window.position == ("1lgppmgaaaa", 10_000)


async def test_it_was_closed_during_a_read(bench, autojump_clock):
    """What was read is nobody's."""
    bench.follower.mark_stale()
    bench.log.during = bench.follower.close
    await bench.catch_up((head(12), True, records(11, 12)))
    assert bench.entered == []
    assert not bench.follower.is_stale


async def test_it_was_closed_and_opened_in_another_epoch_during_a_read(bench, autojump_clock):
    """The page is of the time before; it reads again."""
    bench.follower.mark_stale()

    def during():
        bench.log.during = lambda: None
        bench.follower.close()
        bench.follower.begin(head(8, (E1, 1), (E2, 9)))

    bench.log.during = during
    await bench.catch_up(
        (head(12), True, records(11, 12)), (head(9, (E1, 1), (E2, 9)), True, records(9, 9, E2))
    )
    assert bench.entered == ["a9"]
    assert bench.window.position == (E2, 9)


async def test_a_head_that_is_ahead_leads_to_a_read(bench, autojump_clock):
    """The sweep compares heads: further on, or of another epoch; not what is here already."""
    for number, epochs, stale in (
        (10, (), False),
        (9, (), False),
        (11, (), True),
        (10, ((E1, 1), (E2, 11)), True),
    ):
        bench.follower.close()
        bench.follower.begin(head(10))
        bench.follower.compare(head(number, *epochs))
        assert bench.follower.is_stale == stale, (number, epochs)
    bench.follower.close()
    bench.follower.compare(head(50))
    assert not bench.follower.is_stale


async def test_it_waits_until_the_window_has_come_to_a_position(bench, autojump_clock, nursery):
    """Or until it has gone on without it, or is closed."""
    told = {}

    async def wait(name, position):
        told[name] = await bench.follower.until(position)

    await wait("here", (E1, 10))
    await wait("older", (E1, 5))
    await wait("a stranger", ("0lgppmf8l75", 5))
    assert told == {"here": 10, "older": 5, "a stranger": None}
    nursery.start_soon(wait, "next", (E1, 11))
    nursery.start_soon(wait, "later", (E1, 15))
    nursery.start_soon(wait, "in E2", (E2, 9))
    nursery.start_soon(wait, "far in E2", (E2, 99))
    await wait_all_tasks_blocked()
    assert len(told) == 3
    assert bench.told == 1  # the log is further, they say
    bench.follower.is_stale = False
    bench.follower.hear(10, records(11, 11))
    await wait_all_tasks_blocked()
    assert told["next"] == 11
    assert len(told) == 4
    bench.follower.mark_stale()
    await bench.catch_up((head(9, (E1, 1), (E2, 9)), True, records(9, 9, E2)))
    await wait_all_tasks_blocked()
    assert told["later"] == 11  # all there ever was of it
    assert told["in E2"] == bench.window.head
    assert "far in E2" not in told
    await wait("before it began here", (E2, 7))
    assert told["before it began here"] is None
    bench.follower.close()
    await wait_all_tasks_blocked()
    assert told["far in E2"] is None


async def test_who_waits_for_the_window_to_open(autojump_clock, nursery):
    """They go on when it opens, and at once if it is open."""
    bench = Bench()
    opened = []

    async def wait():
        await bench.follower.until_open()
        opened.append(trio.current_time())

    nursery.start_soon(wait)
    await trio.sleep(5)
    assert opened == []
    bench.follower.begin(head(0))
    await wait_all_tasks_blocked()
    await wait()
    assert opened == [5, 5]
    assert await bench.follower.until((E1, 0)) == 0


async def test_events_are_counted_with_what_the_log_has_of_them(bench, autojump_clock):
    """So the window is bounded even where nothing is encoded, because all read in the program."""
    big = [Record(E1, number, wrap(Event("x" * 300_000))) for number in range(11, 21)]
    bench.follower.hear(10, big)
    bench.window.trim()
    assert bench.window.items == 3
    assert bench.window.size <= 1 << 20


class TestFaults:
    """Whatever becomes of hints, what is published comes, once and in order."""

    @pytest.mark.parametrize(
        ("weather", "seconds"),
        [
            (Weather(lost=1.0), 11),
            (Weather(lost=0.5), 11),
            (Weather(doubled=1.0), 1),
            (Weather(late=5.0), 6),
            (Weather(late=0.5, doubled=0.5, lost=0.2), 13),
            (Weather(latency=1.0, late=3.0), 15),
        ],
        ids=str,
    )
    async def test_hints(self, autojump_clock, weather, seconds):
        """Lost ones are found by the sweep, within ten seconds; the others cost nothing."""
        async with open_workers(2, seed=3) as (_, one, other), reading(other.topic) as client:
            await trio.sleep(1)
            other.view.weather = weather
            for n in range(40):
                await one.publish(n)
                await trio.sleep(0.1)
            await trio.sleep(seconds)
            assert client.got == list(range(40))

    async def test_a_reconnect(self, autojump_clock):
        """After `stale` it reads at once, without waiting for the sweep."""
        async with open_workers(2) as (broker, one, other), reading(other.topic) as client:
            await trio.sleep(1.05)
            other.view.weather = Weather(lost=1.0)
            await one.publish(0)
            other.view.weather = FINE
            assert client.got == []
            broker.tell_stale()
            await wait_all_tasks_blocked()
            assert client.got == [0]

    async def test_a_log_that_cannot_be_read_for_a_while(self, autojump_clock):
        """Silence; then all of it, and no gap."""
        async with open_workers(2) as (_, one, other), reading(other.topic) as client:
            await trio.sleep(1)
            other.view.weather = Weather(lost=1.0, away=frozenset({"read", "heads"}))
            for n in range(600):
                await one.publish(n)
            await trio.sleep(60)
            assert client.got == []
            other.view.weather = FINE
            await trio.sleep(15)
            assert client.got == list(range(600))

    async def test_a_worker_that_cannot_follow_yet(self, autojump_clock):
        """Its client waits, and then gets what is published from then on."""
        async with open_workers(1) as (_, one):
            one.view.weather = Weather(away=frozenset({"watch", "heads"}))
            async with reading(one.topic) as client:
                await trio.sleep(20)
                with pytest.raises(LogUnavailableError) as raised:
                    await one.publish("nobody would hear of it")
                assert raised.value.maybe is False
                one.view.weather = FINE
                await trio.sleep(5)
                await one.publish(1)
                await wait_all_tasks_blocked()
                assert client.got == [1]

    async def test_a_publisher_whose_own_window_cannot_follow(self, autojump_clock):
        """Its event is in the log, so it has its id, and its own clients get it later."""
        async with open_workers(2) as (_, one, other), reading(other.topic) as client:
            await trio.sleep(1)
            other.view.weather = Weather(lost=1.0, away=frozenset({"read", "heads"}))
            await one.publish(0)
            before = trio.current_time()
            id = await other.publish(1)
            assert trio.current_time() - before == 5.0  # its patience
            assert client.got == []
            other.view.weather = FINE
            await trio.sleep(15)
            assert client.got == [0, 1]
            assert client.ids[1] == id

    async def test_trimming_under_a_reader(self, autojump_clock):
        """What was trimmed before it was read is a gap, and its count is exact."""
        async with open_workers(2) as (broker, one, other), reading(other.topic) as client:
            await trio.sleep(1)
            await one.publish(0)
            other.view.weather = Weather(lost=1.0)
            for n in range(1, 11):
                await one.publish(n)
            await broker.trim(one.name, 3)
            other.view.weather = FINE
            await trio.sleep(15)
            await one.publish(11)
            await trio.sleep(1)
            assert client.got == [0, ("gap", 7), 8, 9, 10, 11]

    async def test_a_lost_tail(self, autojump_clock):
        """Acknowledged events vanish; the same numbers come in a new epoch, behind a gap."""
        async with open_workers(2) as (broker, one, other), reading(other.topic) as client:
            await trio.sleep(1)
            await one.publish(0)
            picture = broker.photograph()
            lost = await one.publish("lost")
            await trio.sleep(1)
            broker.restore(picture)
            after = await one.publish(1)
            await trio.sleep(15)
            assert client.got == [0, "lost", ("gap", None), 1]
            assert after > lost

    async def test_the_log_of_a_publisher_that_never_heard(self, autojump_clock):
        """A rollback that only a watcher can know of: its read is the evidence."""
        async with open_workers(2) as (broker, one, other), reading(other.topic) as client:
            await trio.sleep(1)
            await one.publish(0)
            picture = broker.photograph()
            await one.publish("lost")
            await trio.sleep(1)
            broker.rolls_back = True
            broker.restore(picture)  # and says nothing
            broker.rolls_back = False
            broker.tell_stale()
            await trio.sleep(1)
            await one.publish(1)
            await trio.sleep(15)
            assert client.got == [0, "lost", ("gap", None), 1]

    async def test_deletion_and_a_whole_new_log(self, autojump_clock):
        """A gap of unknown size, then what is published in the next life."""
        async with open_workers(2) as (broker, one, other), reading(other.topic) as client:
            await trio.sleep(1)
            await one.publish(0)
            await trio.sleep(1)
            await broker.delete(one.name)
            await trio.sleep(15)
            await one.publish(1)
            await trio.sleep(1)
            assert client.got == [0, ("gap", None), 1]
            broker.replace()
            await trio.sleep(15)
            await one.publish(2)
            await trio.sleep(1)
            assert client.got == [0, ("gap", None), 1, ("gap", None), 2]

    async def test_a_burst_of_another_worker(self, autojump_clock):
        """More at once than a client's buffer holds: it reads at its own pace, without a gap."""
        async with open_workers(2) as (_, one, other), reading(other.topic) as client:
            await trio.sleep(1)
            await one.publisher.publish_many([Event(n) for n in range(300)])
            await trio.sleep(15)
            assert client.got == list(range(300))

    async def test_a_freeze(self, autojump_clock):
        """A worker that stands still for a minute then gets all of it, and no gap."""
        async with open_workers(2) as (_, one, other), reading(other.topic) as client:
            await trio.sleep(1)
            other.view.weather = Weather(frozen=True)
            for n in range(700):
                await one.publish(n)
            await trio.sleep(60)
            assert client.got == []
            other.view.weather = FINE
            await trio.sleep(15)
            assert client.got == list(range(700))
