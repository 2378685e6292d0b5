"""Pages of a log: a thousand clients that come back share what is read for one of them."""

import trio
from trio.testing import wait_all_tasks_blocked

from flowstream import Event
from flowstream._errors import LogUnavailableError
from flowstream.abc import Head, Record
from flowstream.encoders import NDJSON, SSE
from flowstream.topics._log_pages import LogPages, encoded_once
from flowstream.topics._log_reader import PAGE_ITEMS
from flowstream.topics._published import Published

E1, E2 = "1lgppmf8l75", "1lgppmf9aaa"


class Reads:
    """A log of some numbers, in one or two epochs, as far as pages ask for it.

    Attributes:
        asked: each position that was read behind.
        most: records of a page at most; less than what is asked for if they are large.
    """

    def __init__(self, *numbers, cut=None, size=10):
        self.numbers, self.cut, self.size = list(numbers), cut, size
        self.asked = []
        self.most = PAGE_ITEMS
        self.failures = 0
        self.seconds = 1.0

    @property
    def head(self):
        last = self.numbers[-1]
        if self.cut is None:
            return Head(((E1, 1),), last, self.numbers[0])
        return Head(((E1, 1), (E2, self.cut)), last, self.numbers[0])

    async def read(self, topic, after, limit, *, mine=False):
        assert not mine, "a client's id is no evidence"
        self.asked.append(after)
        await trio.sleep(self.seconds)
        if self.failures:
            self.failures -= 1
            raise LogUnavailableError("away")
        epoch, number = after
        end = self.cut - 1 if self.cut and epoch == E1 else None
        first = self.cut if epoch == E2 else 1
        if (
            epoch not in (E1, E2)
            or number < first - 1
            or (end is None and number > self.head.number)
        ):
            return self.head, False, []
        if end is not None:
            number = min(number, end)
        found = [
            Record(E2 if self.cut and one >= self.cut else E1, one, b"x" * self.size)
            for one in self.numbers
            if one > number
        ]
        return self.head, True, found[: min(limit, self.most)]


class Reader:
    """Pages of such a log, and how often their events are decoded."""

    def __init__(self, log):
        self.log, self.pages, self.decoded = log, LogPages(log), 0

    def decode(self, record):
        self.decoded += 1
        return None if record.number == 666 else Published(0, Event(record.number), 0.0)

    async def after(self, number, epoch=E1, topic="topic:news"):
        return await self.pages.after(topic, (epoch, number), self.decode)

    async def numbers(self, number, epoch=E1):
        page = await self.after(number, epoch)
        return [at[1] for at, _ in page.events]


async def test_a_page_has_what_follows(autojump_clock):
    """From the middle of an aligned page, to its end."""
    reader = Reader(Reads(*range(1, 2001)))
    assert await reader.numbers(700) == list(range(701, 1025))
    assert reader.log.asked == [(E1, 512)]
    assert await reader.numbers(1024) == list(range(1025, 1537))
    assert await reader.numbers(0) == list(range(1, 513))
    page = await reader.after(100)
    assert page.known
    assert page.head.number == 2000
    assert page.end == (E1, 2000)
    assert page.events[0].published.event.data == 101


async def test_clients_at_many_places_share_pages(autojump_clock):
    """A thousand come at once: each page is read once, and each event decoded once."""
    reader = Reader(Reads(*range(1, 1025)))
    got = []

    async def client(number):
        at = number
        while at < 1024:
            found = await reader.numbers(at)
            assert found[0] == at + 1
            at = found[-1]
        got.append(at)

    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(client, number)
    assert len(got) == 1000
    assert sorted(reader.log.asked) == [(E1, 0), (E1, 512)]
    assert reader.pages.read == 2
    assert reader.pages.shared == 1000 + 512 - 2
    assert reader.decoded == 1024


async def test_clients_share_pages_that_are_cut_short(autojump_clock):
    """Large events make small pages. Each goes on where that ended, and so does the next one."""
    log = Reads(*range(1, 101))
    log.most = 10
    reader = Reader(log)

    async def client(number):
        at = (await reader.numbers(number))[-1]
        while at < 100:
            page = await reader.pages.after("topic:news", (E1, at), reader.decode, goes_on=True)
            at = page.events[-1].position[1]

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(client, number)
    assert log.asked == [(E1, number) for number in range(0, 100, 10)]


async def test_a_page_that_ends_at_the_head_does_not_hide_what_is_new(autojump_clock):
    """It is kept for two seconds; who has come to its end reads on."""
    log = Reads(1, 2, 3)
    reader = Reader(log)
    assert await reader.numbers(1) == [2, 3]
    log.numbers += [4, 5]
    assert await reader.numbers(1) == [2, 3]
    assert await reader.numbers(3) == [4, 5]
    assert await reader.numbers(4) == [5]
    assert log.asked == [(E1, 0), (E1, 3), (E1, 4)]


async def test_an_empty_page_is_not_kept(autojump_clock):
    """At the head every client has the news when it asks again."""
    log = Reads(1, 2, 3)
    reader = Reader(log)
    assert await reader.numbers(3) == []
    log.numbers.append(4)
    assert await reader.numbers(3) == [4]


async def test_a_page_is_kept_for_a_moment(autojump_clock):
    """Later its events might have expired."""
    reader = Reader(Reads(1, 2, 3))
    await reader.after(0)
    await trio.sleep(1.9)
    await reader.after(0)
    assert reader.pages.read == 1
    await trio.sleep(0.2)
    await reader.after(0)
    assert reader.pages.read == 2


async def test_pages_are_bounded(autojump_clock):
    """8 MiB for all topics; the oldest goes first."""
    log = Reads(*range(1, 513), size=2048)  # a page of 1 MiB
    log.seconds = 0.0
    reader = Reader(log)
    for topic in range(9):
        await reader.after(0, topic=f"{topic}")
    assert reader.pages._size <= 8 << 20
    assert len(reader.pages._pages) == 8
    before = reader.pages.read
    await reader.after(0, topic="8")
    await reader.after(0, topic="1")
    assert reader.pages.read == before
    await reader.after(0, topic="0")
    assert reader.pages.read == before + 1
    await trio.sleep(3)
    reader.pages._expire()
    assert reader.pages._size == 0


async def test_a_page_that_is_too_large_to_keep_is_still_shared(autojump_clock):
    """By those who waited for it."""
    log = Reads(1, 2, 3, size=5 << 20)
    reader = Reader(log)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(reader.after, 0)
    assert reader.pages.read == 1


async def test_a_failure_is_one_clients_and_another_one_reads(autojump_clock):
    """Who waited tries for itself; who read hears of it."""
    log = Reads(1, 2, 3)
    log.failures = 2
    reader = Reader(log)
    told = []

    async def client():
        try:
            told.append(len((await reader.after(0)).events))
        except LogUnavailableError:
            told.append("away")

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(client)
    assert sorted(told, key=str) == [3, 3, "away", "away"]
    assert len(log.asked) == 3


async def test_a_client_that_leaves_takes_no_page_with_it(autojump_clock):
    """The next one that waits reads it."""
    reader = Reader(Reads(1, 2, 3))
    got = []

    async def client():
        got.append(await reader.numbers(0))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            async with trio.open_nursery() as leaving:
                leaving.start_soon(client)
                await wait_all_tasks_blocked()
                nursery.start_soon(client)
                await trio.sleep_forever()
    assert got == [[1, 2, 3]]
    assert reader.pages._flights == {}


async def test_where_an_epoch_ends(autojump_clock):
    """What an epoch lost is cut; the page goes on with the next one."""
    log = Reads(*range(1, 101), cut=96)
    reader = Reader(log)
    page = await reader.after(90)
    assert [at for at, _ in page.events][:6] == [
        *((E1, number) for number in range(91, 96)),
        (E2, 96),
    ]
    assert await reader.numbers(95) == [96, 97, 98, 99, 100]
    assert log.asked == [(E1, 0)]
    assert (await reader.after(98)).events[0].position == (E2, 96)  # the log has to cut it
    assert log.asked == [(E1, 0), (E1, 98)]
    assert (await reader.after(97, E2)).events[0].position == (E2, 98)  # begins in mid-page
    assert log.asked[2:] == [(E2, 0), (E2, 97)]


async def test_positions_that_the_log_does_not_know(autojump_clock):
    """An unknown epoch is asked for once; a number beyond the head, with itself."""
    log = Reads(*range(1, 101), cut=96)
    reader = Reader(log)
    page = await reader.after(700, "0123456789a")
    assert (page.known, page.events) == (False, ())
    assert log.asked == [("0123456789a", 512)]
    assert not (await reader.after(200, E2)).known
    assert not (await reader.after(50, E2)).known
    assert (await reader.after(96, E2)).known


async def test_events_that_cannot_be_read_have_their_place(autojump_clock):
    """None stands for them."""
    page = await Reader(Reads(665, 666, 667)).after(665)
    assert page.events[0] == ((E1, 666), None)
    assert page.events[1].published.event.data == 667


async def test_trimmed_events_are_a_hole(autojump_clock):
    """The page begins with what is left."""
    assert await Reader(Reads(50, 51, 52)).numbers(3) == [50, 51, 52]


def test_an_event_is_encoded_once_for_the_first_format(monkeypatch):
    """For another format it is made again for each: pages must not grow."""
    published = Published(0, Event("text", id=f"{E1}.a1"), 0.0)
    published.size = 100
    made = []
    encode = Published.encode

    def counting(self, encoder, **options):
        made.append(type(encoder))
        return encode(self, encoder, **options)

    monkeypatch.setattr(Published, "encode", counting)
    sse, ndjson = SSE(), NDJSON()
    assert encoded_once(published, sse) == encoded_once(published, sse)
    assert b"text" in encoded_once(published, sse)
    assert made == [SSE]
    assert encoded_once(published, ndjson) == encoded_once(published, ndjson)
    assert made == [SSE, NDJSON, NDJSON]
    assert encoded_once(published, sse) is published.encoding
