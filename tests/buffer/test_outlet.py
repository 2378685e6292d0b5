"""The outlet: when a producer waits, in what order, and what it is told at the end."""

from __future__ import annotations

import itertools
from contextlib import aclosing, suppress

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from flowstream._clock import clock
from flowstream._errors import EncodingError
from flowstream._event import Event
from flowstream.abc import Encoder, Judge, Policy, Verdict
from flowstream.buffer._buffer_outlet import BufferOutlet
from flowstream.buffer._event_buffer import EventBuffer
from flowstream.buffer._outlet import Outlet
from flowstream.buffer._queue import Gap
from flowstream.limits import Buffer
from flowstream.policies import Block, Conflate, Disconnect, DropNewest, DropOldest, Sample


class Words(Encoder):
    """Writes `id type key data`, with a dash for what is not there; refuses numbers."""

    def __init__(self, *, automatic_ids: bool = True) -> None:
        self.automatic_ids = automatic_ids

    def encode(self, data, *, id=None, type=None, key=None, retry=None):
        if not isinstance(data, str):
            raise TypeError("only words")
        fields = (id, type, key, retry, data)
        return " ".join("-" if field is None else str(field) for field in fields).encode()


class Line:
    """An outlet with its buffer, and whether the client was given up."""

    def __init__(self, policy: Policy, *, items: int = 2, automatic_ids: bool = True) -> None:
        self.buffer = EventBuffer(Buffer(items=items), policy, "e." if automatic_ids else None)
        self.given_up = 0
        self.out = BufferOutlet(
            self.buffer,
            Words(automatic_ids=automatic_ids),
            timeout=policy.timeout,
            keyed=policy.keyed,
            give_up=self.give_up,
        )

    def give_up(self) -> None:
        self.given_up += 1
        self.out.close()
        self.buffer.abandon()

    def end(self) -> None:
        self.out.close()
        self.buffer.finish()

    def take(self, limit: int = 1 << 20) -> list[Gap | str]:
        return [p if isinstance(p, Gap) else p.decode() for p in self.buffer.take(limit)]

    def words(self, limit: int = 1 << 20) -> list[str]:
        return [p.split()[-1] for p in self.take(limit) if isinstance(p, str)]


async def test_send_does_not_wait_while_there_is_room(autojump_clock):
    """Items go into the buffer until it is full, and the next one waits for the writer."""
    line = Line(Block())
    start = trio.current_time()
    await line.out.send("a")
    await line.out.send("b")
    assert trio.current_time() == start
    with trio.move_on_after(60) as scope:
        await line.out.send("c")
    assert scope.cancelled_caught
    assert line.words() == ["a", "b"]


async def test_a_waiting_send_goes_on_when_the_writer_takes():
    """Room for one item lets one sender on."""
    line, sent = Line(Block(), items=1), []

    async def produce():
        for word in "abc":
            await line.out.send(word)
            sent.append(word)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for count in (1, 2, 3):
            await wait_all_tasks_blocked()
            assert "".join(sent) == "abc"[:count]
            assert line.words() == [sent[-1]]


@pytest.mark.parametrize(
    "policy", [DropOldest(), DropNewest(), Sample(every=2), Sample(interval=1), Conflate()]
)
async def test_a_policy_that_drops_never_makes_the_producer_wait(policy, autojump_clock):
    """A hundred items go through a buffer of two with no time passing."""
    line = Line(policy)
    start = trio.current_time()
    for number in range(100):
        await line.out.send(f"w{number}")
    assert trio.current_time() == start
    assert line.out.statistics().offered == 100
    assert line.out.statistics().dropped >= 98


async def test_a_buffer_full_of_essentials_makes_every_policy_wait(autojump_clock):
    """Nothing may go, so the producer does not go on either."""
    for policy in (DropOldest(), DropNewest(), Sample(every=2), Conflate()):
        line = Line(policy)
        for word in ("a", "b"):
            await line.out.send(Event(word, essential=True))
        with trio.move_on_after(1) as scope:
            await line.out.send(Event("c", essential=True))
        assert scope.cancelled_caught
        assert line.words() == ["a", "b"]


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.lists(st.integers(1, 3), max_size=8),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_waiting_senders_take_turns_in_the_order_they_came(batches, takes, items):
    """Whatever the writer takes, items leave in the order in which their sends began, and
    the items of one task in the order it sent them."""

    async def main() -> None:
        line, begun, left = Line(Block(), items=items), [], []

        async def produce(name: int, count: int) -> None:
            for number in range(count):
                word = f"{name}:{number}"
                begun.append(word)
                await line.out.send(word)

        async with trio.open_nursery() as nursery:
            for name, count in enumerate(batches):
                nursery.start_soon(produce, name, count)
                await wait_all_tasks_blocked()
            for count in itertools.chain(takes, itertools.repeat(1)):
                for _ in range(count):
                    left.extend(line.words(1))
                    await wait_all_tasks_blocked()
                if len(left) == sum(batches):
                    break
        assert left == begun

    trio.run(main)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_a_cancelled_sender_leaves_no_hole_in_the_ids_and_no_lost_turn(stays, data):
    """Whichever waiting senders are cancelled, and in whatever order, the others' items
    leave in order with the numbers 1, 2, 3 and so on."""

    async def main() -> None:
        line = Line(Block(), items=1)
        await line.out.send("first")
        scopes = [trio.CancelScope() for _ in stays]

        async def produce(number: int) -> None:
            with scopes[number]:
                await line.out.send(f"w{number}")

        async with trio.open_nursery() as nursery:
            for number in range(len(stays)):
                nursery.start_soon(produce, number)
                await wait_all_tasks_blocked()
            leaving = [number for number, stay in enumerate(stays) if not stay]
            for number in data.draw(st.permutations(leaving)):
                scopes[number].cancel()
                if data.draw(st.booleans()):
                    await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            taken = []
            while pieces := line.take(1):
                taken += pieces
                await wait_all_tasks_blocked()
        words = ["first", *(f"w{number}" for number, stay in enumerate(stays) if stay)]
        assert taken == [f"e.{number} - - - {word}" for number, word in enumerate(words, 1)]
        assert line.out.statistics().offered == len(words)
        await line.out.send("last")  # the way is free again, without a turn
        assert line.take() == [f"e.{len(words) + 1} - - - last"]

    trio.run(main)


async def test_a_sender_that_is_cancelled_as_it_gets_room_hands_its_turn_on():
    """The ring was for it, but the next in the line looks for room by itself."""
    line = Line(Block(), items=1)
    await line.out.send("a")
    scope = trio.CancelScope()

    async def produce(word: str) -> None:
        with scope if word == "b" else trio.CancelScope():
            await line.out.send(word)

    async with trio.open_nursery() as nursery:
        for word in "bc":
            nursery.start_soon(produce, word)
            await wait_all_tasks_blocked()
        scope.cancel()
        assert line.words() == ["a"]
    assert line.words() == ["c"]


async def test_block_gives_the_client_up_at_its_timeout(autojump_clock):
    """After five seconds without room the client goes, and the sender learns of it."""
    line = Line(Block(timeout=5), items=1)
    await line.out.send("a")
    start = trio.current_time()
    with pytest.raises(trio.BrokenResourceError, match="the stream is over"):
        await line.out.send("b")
    assert trio.current_time() == start + 5
    assert line.given_up == 1


async def test_the_timeout_is_of_one_item_and_begins_anew_with_the_next(autojump_clock):
    """A writer that takes one item every four seconds keeps a timeout of five at bay."""
    line = Line(Block(timeout=5), items=1)

    async def write():
        for _ in range(5):
            await trio.sleep(4)
            line.take(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for word in "abcdef":
            await line.out.send(word)
    assert not line.given_up


async def test_at_the_timeout_those_behind_in_the_line_put_nothing(autojump_clock):
    """The client is gone: their items do not go into the buffer that was just emptied."""
    line = Line(Block(timeout=5), items=1)
    await line.out.send("a")
    refused = []

    async def produce(word: str) -> None:
        try:
            await line.out.send(word)
        except trio.BrokenResourceError:
            refused.append(word)

    async with trio.open_nursery() as nursery:
        for word in "bcd":
            nursery.start_soon(produce, word)
            await wait_all_tasks_blocked()
    assert sorted(refused) == ["b", "c", "d"]
    assert line.given_up == 1
    statistics = line.out.statistics()
    assert (statistics.items, statistics.offered, statistics.dropped) == (0, 1, 1)


async def test_disconnect_gives_the_client_up_at_once(autojump_clock):
    """Neither `send` nor `send_nowait` waits for room under Disconnect."""
    line = Line(Disconnect())
    await line.out.send("a")
    await line.out.send("b")
    start = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await line.out.send("c")
    assert (line.given_up, trio.current_time()) == (1, start)
    line = Line(Disconnect(), items=1)
    line.out.send_nowait("a")
    with pytest.raises(trio.BrokenResourceError, match="too slow"):
        line.out.send_nowait("b")
    assert line.given_up == 1


async def test_send_nowait_puts_what_fits():
    """It takes plain values and events, and wakes the writer."""
    line = Line(Block())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.buffer.filled.wait)
        await wait_all_tasks_blocked()
        line.out.send_nowait("a")
    line.out.send_nowait(Event("b", id="own", type="t"))
    assert line.take() == ["e.1 - - - a", "own t - - b"]


@pytest.mark.parametrize("policy", [Block(), Block(timeout=1)])
async def test_send_nowait_would_block_and_leaves_nothing(policy):
    """Not an item, not a number, not a drop."""
    line = Line(policy, items=1)
    line.out.send_nowait("a")
    before = line.out.statistics()
    for _ in range(3):
        with pytest.raises(trio.WouldBlock):
            line.out.send_nowait("b")
    assert line.out.statistics() == before
    assert line.take() == ["e.1 - - - a"]
    line.out.send_nowait("c")
    assert line.take() == ["e.2 - - - c"]


async def test_send_nowait_does_not_overtake_those_that_wait():
    """While others wait for their turn it would block, even if there is room by now."""
    line = Line(Block(), items=1)
    await line.out.send("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.out.send, "b")
        await wait_all_tasks_blocked()
        line.take()
        with pytest.raises(trio.WouldBlock):
            line.out.send_nowait("c")
    assert line.words() == ["b"]


async def test_send_nowait_that_would_block_leaves_the_value_it_would_supersede():
    """A conflated value that would not fit leaves the queued value of its key alone."""
    line = Line(Conflate())
    line.buffer = EventBuffer(Buffer(bytes=60), Conflate(), "e.")
    line.out = BufferOutlet(line.buffer, Words(), timeout=None, keyed=True, give_up=line.give_up)
    line.out.send_nowait(Event("x" * 20, essential=True))
    with pytest.raises(trio.WouldBlock):
        line.out.send_nowait(Event("y" * 40, key="k"))
    assert line.words() == ["x" * 20]


async def test_an_item_that_cannot_be_encoded_names_its_type():
    """Whether sent plain or as an event, by `send` or by `send_nowait`."""
    line = Line(Block())
    message = r"an item of type int cannot be encoded: only words"
    for item in (7, Event(7)):
        with pytest.raises(EncodingError, match=message) as caught:
            await line.out.send(item)
        assert isinstance(caught.value.__cause__, TypeError)
        with pytest.raises(EncodingError, match=message):
            line.out.send_nowait(item)
    with pytest.raises(EncodingError, match=r"type .*<locals>\.Own cannot"):
        await line.out.send(type("Own", (), {"__qualname__": "f.<locals>.Own"})())
    await line.out.send("a")
    assert line.take() == ["e.1 - - - a"]


async def test_an_item_that_cannot_be_encoded_in_its_turn_hands_the_turn_on():
    """The sender behind it is not left waiting."""
    line = Line(Block(), items=1)
    await line.out.send("a")
    refused = []

    async def produce(item: object) -> None:
        try:
            await line.out.send(item)
        except EncodingError:
            refused.append(item)

    async with trio.open_nursery() as nursery:
        for item in ("b", 7, "c"):
            nursery.start_soon(produce, item)
            await wait_all_tasks_blocked()
        assert line.words() == ["a"]
        await wait_all_tasks_blocked()
        assert line.words() == ["b"]
    assert line.words() == ["c"]
    assert refused == [7]


async def test_a_closed_outlet_refuses_with_broken_resource():
    """At once, whether it has room or not, in a task that was not cancelled with it."""
    line = Line(Block())
    line.end()
    with assert_checkpoints(), pytest.raises(trio.BrokenResourceError, match="is over"):
        await line.out.send("a")
    with pytest.raises(trio.BrokenResourceError, match="is over"):
        line.out.send_nowait("a")
    assert line.out.statistics().offered == 0


async def test_a_closed_outlet_cancels_a_task_that_is_cancelled_with_it():
    """A producer of the stream sees its cancellation, not an error it would have to catch."""
    line = Line(Block())
    line.end()
    with trio.CancelScope() as scope:
        scope.cancel()
        await line.out.send("a")
    assert scope.cancelled_caught


async def test_closing_releases_all_that_wait():
    """The one at the buffer and those in line behind it learn that the stream is over."""
    line, over = Line(Block(), items=1), 0
    await line.out.send("a")

    async def produce(word: str) -> None:
        nonlocal over
        with pytest.raises(trio.BrokenResourceError):
            await line.out.send(word)
        over += 1

    async with trio.open_nursery() as nursery:
        for word in "bcd":
            nursery.start_soon(produce, word)
            await wait_all_tasks_blocked()
        line.end()
    assert over == 3
    assert line.words() == ["a"]


@given(
    st.sampled_from([DropOldest(), DropNewest(), Sample(every=2), Conflate()]),
    st.lists(st.sampled_from(["plain", "other", Event("event"), Event("own", id="own")])),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_to_send_each_of_an_iterator_is_to_send_them_one_by_one(policy, items, automatic_ids):
    """The loop in line puts the same bytes and the same gaps into the buffer."""

    async def main() -> None:
        async def generate():
            for item in items:
                yield item

        each = Line(policy, automatic_ids=automatic_ids)
        one = Line(policy, automatic_ids=automatic_ids)
        await each.out.send_each(generate())
        for item in items:
            await one.out.send(item)
        assert each.take() == one.take()
        assert each.out.statistics() == one.out.statistics()

    trio.run(main)


async def test_send_each_waits_where_send_does_and_wakes_the_writer():
    """With room for one, a hundred items pass from the iterator to a writer that waits."""
    line, words = Line(Block(), items=1), []

    async def generate():
        for number in range(100):
            yield f"w{number}"

    async def write():
        while len(words) < 100:
            words.extend(line.words())
            if len(words) < 100:
                await line.buffer.filled.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await line.out.send_each(generate())
    assert words == [f"w{number}" for number in range(100)]


async def test_send_each_names_the_type_of_what_cannot_be_encoded():
    """And asks its iterator for no more."""
    asked = []

    async def generate():
        for item in ("a", 7, "b"):
            asked.append(item)
            yield item

    line = Line(Block())
    async with aclosing(generate()) as items:
        with pytest.raises(EncodingError, match="type int"):
            await line.out.send_each(items)
    assert line.words() == ["a"]
    assert asked == ["a", 7]


async def test_send_each_ends_when_the_outlet_is_closed():
    """In the midst of an iterator that never ends."""
    line = Line(DropOldest())

    async def generate():
        yield "a"
        line.end()
        while True:
            yield "b"

    async with aclosing(generate()) as items:
        with pytest.raises(trio.BrokenResourceError):
            await line.out.send_each(items)
    assert line.words() == ["a"]


async def test_send_each_of_a_flood_lets_others_run():
    """An iterator that never awaits leaves the others a turn in 64 items at least."""
    line, turns = Line(DropOldest()), 0

    async def generate():
        for _ in range(6400):
            yield "w"

    async def another() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(another)
        await line.out.send_each(generate())
        nursery.cancel_scope.cancel()
    assert turns >= 95


@given(st.lists(st.sampled_from(["plain", "event", "own", "bad", "take"]), max_size=30))
@settings(max_examples=60, deadline=None)
def test_automatic_ids_are_the_numbers_of_the_items(kinds):
    """Each admitted item counts, also one with an id of its own; a refused one does not."""

    async def main() -> None:
        line, expected, number = Line(DropOldest(), items=100), [], 0
        for kind in kinds:
            if kind == "bad":
                with pytest.raises(EncodingError):
                    await line.out.send(7)
                continue
            if kind == "take":
                assert [piece.split()[0] for piece in line.take()] == expected
                expected.clear()
                continue
            number += 1
            expected.append("own" if kind == "own" else f"e.{number}")
            await line.out.send(
                {"plain": "w", "event": Event("w"), "own": Event("w", id="own")}[kind]
            )
        assert [piece.split()[0] for piece in line.take()] == expected

    trio.run(main)


async def test_a_gap_names_automatic_ids_and_those_of_the_app():
    """The item before a hole and the one behind it are named as they are on the wire."""
    line = Line(DropOldest())
    await line.out.send("a")
    assert line.take() == ["e.1 - - - a"]
    for item in ("b", "c", "d", "e"):
        await line.out.send(item)
    assert line.take() == [Gap(2, "e.1", "e.4"), "e.4 - - - d", "e.5 - - - e"]
    for item in (Event("f"), Event("g"), Event("h", id="own")):
        await line.out.send(item)
    assert line.take() == [Gap(1, "e.5", "e.7"), "e.7 - - - g", "own - - - h"]
    for item in "ijk":
        line.out.send_nowait(item)
    assert line.take(1) == [Gap(1, "own", "e.10"), "e.10 - - - j"]


async def test_an_encoder_without_automatic_ids_gets_only_those_of_the_app():
    """A format that has no place for ids is not given any."""
    line = Line(Block(), items=3, automatic_ids=False)
    await line.out.send("a")
    await line.out.send(Event("b", id="own", retry=5))
    assert line.take() == ["- - - - a", "own - - 5 b"]


async def test_an_event_of_an_apps_own_class_is_an_event():
    """A subclass of Event is taken out of its envelope like Event itself."""

    class Price(Event):
        pass

    line = Line(Block())
    await line.out.send(Price("1.08", type="price"))
    line.out.send_nowait(Price("1.09", type="price"))
    assert line.take() == ["e.1 price - - 1.08", "e.2 price - - 1.09"]


async def test_conflated_items_are_also_encoded_without_their_id():
    """What goes out before an earlier item of another key goes out bare."""
    line = Line(Conflate(), items=5)
    for word, key in [("a", "x"), ("b", "y"), ("c", "x")]:
        await line.out.send(Event(word, key=key))
    await line.out.send("plain")
    assert line.take() == [Gap(1, None, None), "- - x - c", "- - y - b", "e.4 - - - plain"]


async def test_conflated_items_without_an_id_are_encoded_once():
    """There is nothing to withhold."""
    line = Line(Conflate(), automatic_ids=False)
    await line.out.send(Event("a", key="x"))
    await line.out.send("b")
    assert line.take() == ["- - x - a", "- - - - b"]


@pytest.mark.parametrize("policy", [Block(), DropOldest(), Conflate()])
async def test_a_flooding_producer_lets_others_run_every_64_items(policy, monkeypatch):
    """With the stopwatch held still and room for all, others get one turn in 64 items."""
    monkeypatch.setattr(clock, "perf_counter", lambda: 0.0)
    turns = await turns_of_another(Line(policy, items=6400), 6400, keys=6400)
    assert 99 <= turns <= 101  # Trio shuffles who runs first in a pass


@pytest.mark.parametrize("policy", [DropOldest(), DropNewest(), Conflate()])
async def test_a_flood_that_is_dropped_lets_others_run_eight_times_as_often(policy, monkeypatch):
    """Items that go nowhere are in nobody's way."""
    monkeypatch.setattr(clock, "perf_counter", lambda: 0.0)
    turns = await turns_of_another(Line(policy), 6400)
    assert 780 <= turns <= 810


async def test_a_flooding_producer_of_slow_items_lets_others_run_every_millisecond(monkeypatch):
    """With 0.4 ms an item, others get a turn every third item."""
    ticks = itertools.count()
    monkeypatch.setattr(clock, "perf_counter", lambda: next(ticks) * 0.0004)
    passes = await turns_of_another(Line(DropOldest(), items=300), 300)
    assert 75 <= passes <= 150


async def test_a_flood_of_waiting_senders_lets_others_run_too(monkeypatch):
    """Items that get room in their turn count for the burst like the others."""
    monkeypatch.setattr(clock, "perf_counter", lambda: 0.0)
    line = Line(Block(), items=1)

    async def write() -> None:
        while True:
            if not line.take():
                await line.buffer.filled.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        assert await turns_of_another(line, 640) >= 10
        nursery.cancel_scope.cancel()


async def turns_of_another(line: Line, items: int, *, keys: int = 1) -> int:
    """Return how often another task ran while this many items of so many keys were sent."""
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(another)
        await trio.lowlevel.checkpoint()
        turns = 0
        for n in range(items):
            await line.out.send(Event("w", key=n % keys))
        nursery.cancel_scope.cancel()
    return turns


class _Once(Judge):
    """Makes the producer wait, and says how often it was asked."""

    asked = 0

    def arrive(self, now: float, essential: bool) -> Verdict:
        type(self).asked += 1
        return Verdict.WAIT


class Own(Policy):
    timeout = 3.0

    def start(self) -> Judge:
        return _Once()


async def test_an_own_policy_that_waits_gives_up_at_its_own_timeout(autojump_clock):
    """`Policy.timeout` is read from the policy that the app wrote."""
    line = Line(Own(), items=1)
    await line.out.send("a")
    start = trio.current_time()
    with suppress(trio.BrokenResourceError):
        await line.out.send("b")
    assert (trio.current_time(), line.given_up) == (start + 3, 1)
    assert _Once.asked


async def test_an_outlet_that_only_sends_can_be_put_into():
    """What has no faster way to put an item in sends it."""
    sent = []

    class Sending(Outlet):
        async def send(self, item):
            sent.append(item)

        def send_nowait(self, item):
            raise NotImplementedError

        def statistics(self):
            raise NotImplementedError

    await Sending()._put("a")
    assert sent == ["a"]
