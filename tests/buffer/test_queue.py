"""The queue behind a client's buffer: bounded, and exact about what is missing.

Three kinds of proof. `Ledger` keeps the books of one consumer and checks every piece that
leaves. `Plain` is the queue written again the slow way, as one list that is searched; the
ordered queue must do what it does. Small examples show what a policy means.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowstream.abc import Judge, Policy, Verdict
from flowstream.buffer._event_buffer import open_queue
from flowstream.buffer._keyed_queue import KeyedQueue
from flowstream.buffer._ordered_queue import OrderedQueue
from flowstream.buffer._queue import Gap, Outcome
from flowstream.limits import Buffer
from flowstream.policies import Block, Conflate, Disconnect, DropNewest, DropOldest, Sample

ALL = 1 << 20  # a limit that takes everything


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Whims(Judge):
    """Gives verdicts from a list, over and over, and is behind when the list says so."""

    def __init__(self, whims: list[tuple[Verdict, bool]]) -> None:
        self._whims = whims
        self._asked = 0
        self.behind = False

    def arrive(self, now: float, essential: bool) -> Verdict:
        verdict, self.behind = self._whims[self._asked % len(self._whims)]
        self._asked += 1
        return verdict


@dataclass
class Own(Policy):
    """A policy of one's own, as unreasonable as they come."""

    whims: list[tuple[Verdict, bool]]
    keyed: bool = False
    max_age: float | None = None

    def start(self) -> Judge:
        return Whims(self.whims)


@dataclass(frozen=True)
class Offer:
    size: int = 4
    essential: bool = False
    key: str | None = None
    named: bool = True


@dataclass(frozen=True)
class Take:
    limit: int = ALL


@dataclass(frozen=True)
class Pass:
    seconds: float


sizes = st.integers(4, 14) | st.sampled_from([4, 4, 30, 60])
offers = st.builds(
    Offer,
    size=sizes,
    essential=st.sampled_from([False, False, False, True]),
    key=st.sampled_from([None, "a", "b", "c"]),
    named=st.sampled_from([True, True, False]),
)
takes = st.builds(Take, st.integers(1, 40) | st.just(ALL))
steps = st.lists(
    offers | offers | offers | takes | st.builds(Pass, st.sampled_from([0.5, 1.0, 3.0])),
    max_size=60,
)
bounds = st.builds(Buffer, items=st.integers(1, 6), bytes=st.integers(8, 48))
whims = st.lists(
    st.tuples(st.sampled_from(Verdict), st.sampled_from([False, False, True])), min_size=1
)
ages = st.sampled_from([None, None, 0.75, 2.0])
ordered = (
    st.just(Block())
    | st.just(Disconnect())
    | st.builds(DropOldest, max_age=ages)
    | st.builds(DropNewest, max_age=ages)
    | st.builds(Sample, every=st.integers(2, 5), max_age=ages)
    | st.builds(Sample, interval=st.sampled_from([0.5, 1.0, 2.0]), max_age=ages)
    | st.builds(Own, whims, max_age=ages)
)
keyed = st.builds(Conflate, max_age=ages) | st.builds(Own, whims, st.just(True), ages)


class Ledger:
    """The books of one consumer: what was offered, and what became of each item.

    Runs steps on a queue and checks, after each, what holds for queues of both kinds:
    the bounds, the counts, and that the gaps name the pieces they stand between.
    """

    def __init__(self, limits: Buffer, policy: Policy) -> None:
        self.clock = Clock()
        self.limits = limits
        self.queue = open_queue(limits, policy, self.clock)
        self.items: dict[int, Offer] = {}  # by number: all that were admitted or dropped
        self.delivered: list[tuple[int, bool]] = []  # the number, and whether its id went along
        self.announced_before: list[int] = []  # for each of these, all that was announced by then
        self.missed = 0
        self.gaps = 0
        self.last_id: str | None = None

    def run(self, plan: list[Any]) -> None:
        for step in plan:
            if isinstance(step, Offer):
                self.offer(step)
            elif isinstance(step, Take):
                self.take(step.limit)
            else:
                self.clock.now += step.seconds

    def drain(self) -> None:
        while self.take(ALL):
            pass
        assert self.queue.items == self.queue.bytes == 0
        assert len(self.delivered) + self.missed == self.queue.offered == len(self.items)
        assert self.missed == self.queue.dropped

    def id(self, number: int) -> str | None:
        return f"#{number}" if self.items[number].named else None

    def offer(self, item: Offer) -> Outcome:
        queue, number = self.queue, self.queue.offered + 1
        before = self.state()
        payload = f"{number:04}".encode().ljust(item.size, b"+")
        id = f"#{number}" if item.named else None
        bare = payload.replace(b"+", b"-") + b"-" if item.named else None
        outcome = queue.offer(payload, id, essential=item.essential, key=item.key, bare=bare)
        if outcome in (Outcome.WAIT, Outcome.DISCONNECT):
            assert self.state() == before
        else:
            assert queue.offered == number
            assert outcome is Outcome.ADMITTED or not item.essential
            self.items[number] = item
        self.check_bounds()
        return outcome

    def state(self) -> tuple[int, ...]:
        queue = self.queue
        return queue.items, queue.bytes, queue.offered, queue.dropped, queue.gaps

    def check_bounds(self) -> None:
        queue = self.queue
        assert 0 <= queue.items <= self.limits.items
        assert 0 <= queue.bytes <= self.limits.bytes or queue.items == 1
        assert (queue.items == 0) == (queue.bytes == 0)
        assert queue.dropped >= self.missed
        assert queue.gaps == self.gaps

    def take(self, limit: int) -> list[bytes | Gap]:
        pieces = self.queue.take(limit)
        numbers = [int(piece[:4]) for piece in pieces if isinstance(piece, bytes)]
        lengths = [self.items[number].size for number in numbers]
        assert sum(lengths) <= limit or len(lengths) == 1
        for piece, following in zip_longest(pieces, pieces[1:]):
            if isinstance(piece, Gap):
                self.see_gap(piece, following)
            else:
                self.see_item(piece)
        self.check_bounds()
        return pieces

    def see_gap(self, gap: Gap, following: bytes | Gap | None) -> None:
        assert gap.missed > 0
        assert not isinstance(following, Gap), "neighbours are merged"
        assert gap.after == self.last_id
        if following is None:
            assert self.queue.items == 0, "a gap stands before an item, or at the end"
            assert gap.before is None
        else:
            number, named = self.read(following)
            assert gap.before == (self.id(number) if named else None)
        self.missed += gap.missed
        self.gaps += 1

    def see_item(self, payload: bytes) -> None:
        number, named = self.read(payload)
        self.delivered.append((number, named))
        self.announced_before.append(self.missed)
        if named:
            self.last_id = self.id(number)

    def read(self, payload: bytes) -> tuple[int, bool]:
        """Return the number of an item, and whether it says its id (or has none to say)."""
        return int(payload[:4]), not payload.endswith(b"-")


@given(ordered, bounds, steps)
@settings(deadline=None)
def test_an_ordered_queue_delivers_or_announces_each_item_in_its_place(policy, limits, plan):
    """Whatever the policy, items and gaps together count through the numbers without a jump."""
    ledger = Ledger(limits, policy)
    position = 0

    def follow(pieces: list[bytes | Gap]) -> None:
        nonlocal position
        for piece in pieces:
            if isinstance(piece, Gap):
                hole = range(position + 1, position + 1 + piece.missed)
                assert not any(ledger.items[number].essential for number in hole)
                position += piece.missed
            else:
                assert int(piece[:4]) == position + 1
                position += 1
        queue = ledger.queue
        assert queue.dropped == ledger.missed + queue.offered - position - queue.items

    for step in plan:
        if isinstance(step, Take):
            follow(ledger.take(step.limit))
        else:
            ledger.run([step])
    follow(ledger.take(ALL))
    ledger.drain()
    assert position == ledger.queue.offered


class Plain:
    """The ordered queue, written for the eye: one list, searched for what may go."""

    def __init__(self, limits: Buffer, policy: Policy, clock: Clock) -> None:
        self.limits, self.policy, self.clock = limits, policy, clock
        self.judge = policy.start()
        self.cells: list[tuple[int, int, bool, float]] = []  # number, size, essential, since
        self.offered = self.told = 0

    def fits(self, cells: list[Any], size: int) -> bool:
        room = sum(cell[1] for cell in cells) + size <= self.limits.bytes
        return not cells or (len(cells) < self.limits.items and room)

    def offer(self, item: Offer) -> Outcome:
        cells, essential = list(self.cells), item.essential
        if (self.judge.behind and not essential) or not self.fits(cells, item.size):
            verdict = self.judge.arrive(self.clock(), essential)
            if verdict is Verdict.DISCONNECT:
                return Outcome.DISCONNECT
            if verdict is Verdict.WAIT or (verdict is Verdict.DROP_ARRIVING and essential):
                return Outcome.WAIT
            if verdict is Verdict.DROP_ARRIVING:
                self.offered += 1
                return Outcome.DROPPED
            droppable = [cell for cell in cells if not cell[2]]
            if verdict is Verdict.EVICT_NEWEST:
                droppable.reverse()
            if verdict is Verdict.REPLACE_NEWEST and droppable:
                cells.remove(droppable.pop())
            while not self.fits(cells, item.size):
                if not droppable:
                    return Outcome.WAIT
                cells.remove(droppable.pop(0))
        self.offered += 1
        self.cells = [*cells, (self.offered, item.size, essential, self.clock())]
        return Outcome.ADMITTED

    def take(self, limit: int) -> list[int]:
        """Return what leaves: the number of an item, or minus the length of a gap."""
        taken: list[int] = []
        size = 0
        while self.cells:
            number, length, essential, since = self.cells[0]
            too_old = self.policy.max_age is not None
            too_old = too_old and self.clock() - since > self.policy.max_age
            if too_old and not essential:
                self.cells.pop(0)
                continue
            if size and size + length > limit:
                break
            self.tell(number - 1, taken)
            taken.append(number)
            size += length
            self.told = number
            self.cells.pop(0)
        if not self.cells:
            self.tell(self.offered, taken)
        held = sum(cell[1] for cell in self.cells)
        self.judge.drained(max(len(self.cells) / self.limits.items, held / self.limits.bytes))
        return taken

    def tell(self, up_to: int, taken: list[int]) -> None:
        if up_to > self.told:
            taken.append(self.told - up_to)
            self.told = up_to


@given(ordered, bounds, steps)
@settings(max_examples=300, deadline=None)
def test_an_ordered_queue_does_what_a_searched_list_would_do(policy, limits, plan):
    """Two lanes and jumps in the numbers come to the same as one list with holes in it."""
    ledger = Ledger(limits, policy)
    plain = Plain(limits, policy, ledger.clock)
    for step in [*plan, Take()]:
        if isinstance(step, Offer):
            assert ledger.offer(step) is plain.offer(step)
        elif isinstance(step, Take):
            pieces = ledger.take(step.limit)
            shape = [-p.missed if isinstance(p, Gap) else int(p[:4]) for p in pieces]
            assert shape == plain.take(step.limit)
        else:
            ledger.clock.now += step.seconds
        assert ledger.queue.items == len(plain.cells)
        assert ledger.queue.bytes == sum(cell[1] for cell in plain.cells)


@given(keyed, bounds, steps)
@settings(max_examples=500, deadline=None)
@example(  # an essential between an evicted item and its heir must not vouch for it
    Conflate(),
    Buffer(items=2, bytes=48),
    [Offer(key="a"), Offer(key="b", essential=True), Offer(key="c"), Take(4)],
)
@example(  # an older essential of the same key must not come after the newer value
    Conflate(),
    Buffer(items=6, bytes=48),
    [Offer(key="a"), Offer(key="a", essential=True), Offer(key="a")],
)
@example(  # what has to wait must leave the value that it would supersede
    Conflate(),
    Buffer(items=6, bytes=20),
    [Offer(key="a"), Offer(key="b", essential=True, named=False), Offer(key="a", size=20)],
)
@example(  # what was renewed must not vouch for an arrival that was dropped meanwhile
    Own([(Verdict.DROP_ARRIVING, False)], keyed=True),
    Buffer(items=1, bytes=48),
    [Offer(key="a"), Offer(key="b"), Offer(key="a"), Take()],
)
@example(  # the newest goes, and the essential after it announces that
    Own([(Verdict.EVICT_NEWEST, False)], keyed=True),
    Buffer(items=3, bytes=90),
    [Offer(key="a"), Offer(key="b"), Offer(essential=True), Offer(key="c"), Take(8)],
)
def test_a_keyed_queue_keeps_the_books_of_each_key(policy, limits, plan):
    """Delivered and announced make up what was offered, keys never go back, and an id means
    that all before it were delivered or announced and none after it is out."""
    ledger = Ledger(limits, policy)
    ledger.run(plan)
    ledger.drain()
    numbers = [number for number, _ in ledger.delivered]
    assert len(set(numbers)) == len(numbers)
    essentials = {number for number, item in ledger.items.items() if item.essential}
    assert essentials <= set(numbers)
    for key in (None, "a", "b", "c"):
        of_key = [number for number in numbers if ledger.items[number].key == key]
        assert of_key == sorted(of_key)
    for at, (number, named) in enumerate(ledger.delivered):
        if named and ledger.items[number].named:
            assert all(earlier < number for earlier in numbers[:at])
            missing = set(range(1, number)) - set(numbers[:at])
            assert missing.isdisjoint(numbers), "an earlier item is still queued"
            assert len(missing) <= ledger.announced_before[at]


@given(st.lists(st.one_of(st.sampled_from("abcd"), st.none()), max_size=40), st.data())
def test_conflation_delivers_the_newest_of_each_key_in_the_place_of_its_oldest(keys, data):
    """With room for every key, a key's place is that of its first arrival since it was taken,
    what leaves there is its last one, and the gap before it counts the others."""
    ledger = Ledger(Buffer(items=8), Conflate())
    expected: dict[str | None, list[int]] = {}
    for number, key in enumerate(keys, start=1):
        assert ledger.offer(Offer(key=key)) is Outcome.ADMITTED
        expected.setdefault(key, []).append(number)
        if data.draw(st.sampled_from([False, False, True])):
            pieces = ledger.take(4)
            of_key = expected.pop(next(iter(expected)))
            assert int(pieces[-1][:4]) == of_key[-1]
            gaps = [piece.missed for piece in pieces if isinstance(piece, Gap)]
            assert gaps == ([len(of_key) - 1] if len(of_key) > 1 else [])
    start = len(ledger.delivered)
    ledger.drain()
    rest = [number for number, _ in ledger.delivered[start:]]
    assert rest == [of_key[-1] for of_key in expected.values()]


def delivered(queue: Any) -> list[Any]:
    """Take everything; gaps as they are, items as text."""
    return [p if isinstance(p, Gap) else p.decode() for p in queue.take(ALL)]


def filled(policy: Policy, *numbers: int, items: int = 4, clock: Any = lambda: 0.0) -> Any:
    """Return a queue of `items` to which these numbers were offered."""
    queue = open_queue(Buffer(items=items), policy, clock)
    for number in numbers:
        queue.offer(str(number).encode(), f"#{number}")
    return queue


def test_a_policy_with_keys_gets_a_keyed_queue():
    """Only a policy that says `keyed` pays for the keeping of places."""
    assert type(filled(Conflate())) is KeyedQueue
    assert type(filled(DropOldest())) is OrderedQueue


@pytest.mark.parametrize("policy", [Block(), DropOldest(max_age=9), Conflate()])
def test_a_take_is_as_large_as_its_limit_and_no_larger(policy):
    """Of items of three bytes six bytes hold two, five hold one, and two still hold one."""
    queue = open_queue(Buffer(), policy, lambda: 0.0)
    for limit, count in [(6, 2), (5, 1), (2, 1), (12, 4)]:
        for key in range(5):
            queue.offer(b"333", key=key)
        assert queue.take(limit) == [b"333"] * count
        queue.clear()


def test_block_makes_the_arriving_item_wait_and_loses_nothing():
    """A full queue under Block refuses the fifth item and takes it once there is room."""
    queue = filled(Block(), 1, 2, 3, 4)
    assert queue.offer(b"5", "#5") is Outcome.WAIT
    assert queue.take(1) == [b"1"]
    assert queue.offer(b"5", "#5") is Outcome.ADMITTED
    assert delivered(queue) == ["2", "3", "4", "5"]
    assert queue.dropped == queue.gaps == 0


def test_drop_oldest_keeps_the_newest_run():
    """Evictions at the head merge into one gap, which names the item that it stands before."""
    assert delivered(filled(DropOldest(), *range(1, 8))) == [
        Gap(3, None, "#4"), "4", "5", "6", "7",
    ]  # fmt: skip


def test_drop_newest_keeps_the_oldest_run_and_announces_the_tail():
    """The lost tail is announced behind the last item, with nothing known to follow."""
    queue = filled(DropNewest(), *range(1, 8))
    assert queue.dropped == 3
    assert delivered(queue) == ["1", "2", "3", "4", Gap(3, "#4", None)]
    assert delivered(queue) == []
    queue.offer(b"8", "#8")
    assert delivered(queue) == ["8"]


def test_drop_newest_puts_an_essential_in_the_place_of_the_newest():
    """An essential arrival evicts the newest droppable item instead of being dropped."""
    queue = filled(DropNewest(), 1, 2, 3, 4)
    assert queue.offer(b"5", "#5", essential=True) is Outcome.ADMITTED
    assert delivered(queue) == ["1", "2", "3", Gap(1, "#3", "#5"), "5"]


def test_disconnect_says_so_and_leaves_the_queue_alone():
    """A full queue under Disconnect reports the client and changes nothing."""
    queue = filled(Disconnect(), 1, 2, 3, 4)
    assert queue.offer(b"5", "#5") is Outcome.DISCONNECT
    assert (queue.offered, queue.items, queue.dropped) == (4, 4, 0)


@pytest.mark.parametrize("policy", [DropOldest(), DropNewest(), Sample(every=2), Conflate()])
def test_a_queue_full_of_essentials_makes_an_essential_wait(policy):
    """No policy drops an essential to make room for another one."""
    queue = open_queue(Buffer(items=2), policy, lambda: 0.0)
    for number in (b"1", b"2"):
        assert queue.offer(number, essential=True) is Outcome.ADMITTED
    assert queue.offer(b"3", essential=True) is Outcome.WAIT
    assert delivered(queue) == ["1", "2"]


@pytest.mark.parametrize("policy", [DropOldest(), Sample(every=2), Conflate()])
def test_nothing_is_evicted_for_an_item_that_would_not_fit_all_the_same(policy):
    """Where essentials take the bytes that are needed, the droppable ones stay."""
    queue = open_queue(Buffer(bytes=10), policy, lambda: 0.0)
    queue.offer(b"essential", essential=True)
    queue.offer(b"1")
    assert queue.offer(b"23") is Outcome.WAIT
    assert delivered(queue) == ["essential", "1"]


@pytest.mark.parametrize("policy", [Block(), DropOldest(), Conflate()])
def test_an_item_larger_than_the_buffer_is_admitted_alone(policy):
    """One oversized item passes through an empty queue, and nothing joins it."""
    queue = open_queue(Buffer(bytes=4), policy, lambda: 0.0)
    assert queue.offer(b"larger", key="a") is Outcome.ADMITTED
    assert queue.level == 1.5
    assert queue.offer(b"x", key="b") is (Outcome.WAIT if policy == Block() else Outcome.ADMITTED)
    assert queue.items == 1


def test_sample_gives_everything_to_a_client_that_keeps_up():
    """A buffer that never fills is never thinned, though the average load is high."""
    queue = filled(Sample(every=10))
    for number in range(0, 400, 4):
        for each in range(number, number + 4):
            assert queue.offer(str(each).encode()) is Outcome.ADMITTED
        assert delivered(queue) == [str(each) for each in range(number, number + 4)]


def test_sample_keeps_one_in_n_while_the_client_is_behind():
    """From the full buffer on each third arrival stays, at the cost of the oldest."""
    queue = filled(Sample(every=3), *range(1, 14))
    assert delivered(queue) == [
        Gap(3, None, "#4"), "4", Gap(2, "#4", "#7"), "7",
        Gap(2, "#7", "#10"), "10", Gap(2, "#10", "#13"), "13",
    ]  # fmt: skip


def test_sample_goes_on_thinning_until_the_buffer_is_half_empty():
    """Room alone does not end the sampling: level 3/4 does not, level 2/4 does."""
    queue = filled(Sample(every=3), *range(1, 8))  # 5, 6 and 7 came too late: 7 is kept
    assert queue.take(1) == [Gap(1, None, "#2"), b"2"]
    for number in (8, 9):  # there is room for 8, and 9 takes its place
        queue.offer(str(number).encode(), f"#{number}")
    assert queue.take(1) == [b"3"]
    assert queue.take(1) == [b"4"]
    for number in (10, 11):
        queue.offer(str(number).encode(), f"#{number}")
    assert delivered(queue) == [
        Gap(2, "#4", "#7"), "7", Gap(1, "#7", "#9"), "9", "10", "11",
    ]  # fmt: skip


def test_sample_by_interval_keeps_the_newest_of_each():
    """While behind, the last arrival of each second stays and the others give way to it."""
    clock = Clock()
    queue = filled(Sample(interval=1.0), 1, 2, 3, 4, clock=clock)
    for number in range(5, 15):
        queue.offer(str(number).encode(), f"#{number}")
        clock.now += 0.3  # 5 to 8 are in the first second, 9 to 12 in the second
    items = [piece for piece in delivered(queue) if isinstance(piece, str)]
    assert items == ["4", "8", "12", "14"]


@given(
    st.builds(Sample, every=st.integers(2, 6)) | st.builds(Sample, interval=st.just(1.0)),
    st.integers(1, 6),
    st.lists(st.sampled_from([Offer(), Offer(), Offer(), Take(4), Take(8), Pass(0.4)])),
)
def test_sample_always_delivers_the_last_arrival(policy, items, plan):
    """Whenever the source falls silent, the newest item is among those that are queued."""
    ledger = Ledger(Buffer(items=items), policy)
    ledger.run(plan)
    last = ledger.queue.offered
    ledger.drain()
    assert not last or ledger.delivered[-1][0] == last


def test_conflate_without_keys_is_latest_only():
    """Items without a key share one place: the newest is delivered, the others announced."""
    assert delivered(filled(Conflate(), 1, 2, 3)) == [Gap(2, None, "#3"), "3"]


def test_a_full_conflating_buffer_loses_its_oldest_key():
    """The fifth key evicts the first, and the gap stands where that was."""
    queue = open_queue(Buffer(items=4), Conflate(), lambda: 0.0)
    for key in "abcde":
        queue.offer(key.encode(), key, key=key)
    assert delivered(queue) == [Gap(1, None, "b"), "b", "c", "d", "e"]


def test_the_gap_of_an_evicted_key_stands_before_whatever_came_next():
    """Key or essential, the oldest that is left behind the hole announces it."""
    for second, third in [("b", None), (None, "b")]:
        queue = open_queue(Buffer(items=3), Conflate(), lambda: 0.0)
        for key in ("a", second, third, "d"):
            queue.offer(str(key).encode(), key, essential=key is None, key=key)
        assert delivered(queue) == [Gap(1, None, second), str(second), str(third), "d"]


def test_an_id_is_withheld_while_an_earlier_item_is_queued_or_a_later_one_is_out():
    """A renewed item goes out bare before what it overtook, and so does what was overtaken."""
    queue = open_queue(Buffer(), Conflate(), lambda: 0.0)
    for number, key in [(1, "a"), (2, "b"), (3, "a"), (4, "c")]:
        queue.offer(f"{number}+id".encode(), f"#{number}", key=key, bare=str(number).encode())
    assert delivered(queue) == [Gap(1, None, None), "3", "2", "4+id"]


def test_a_key_that_is_evicted_as_the_newest_leaves_its_gap_at_the_end():
    """Nothing that is still queued came after it, so nothing announces it early."""
    policy = Own([(Verdict.EVICT_NEWEST, False)], keyed=True)
    queue = open_queue(Buffer(items=2), policy, lambda: 0.0)
    for key in "abc":
        queue.offer(key.encode(), key, key=key)
    assert delivered(queue) == ["a", Gap(1, "a", "c"), "c"]


def test_a_value_that_outgrows_the_buffer_in_its_place_goes_to_the_end():
    """It gives up its old place and only then do others have to go."""
    queue = open_queue(Buffer(bytes=8), Conflate(), lambda: 0.0)
    for payload, key in [(b"bb", "b"), (b"cc", "c"), (b"aaaa", "a"), (b"AAAAAA", "a")]:
        assert queue.offer(payload, payload.decode(), key=key) is Outcome.ADMITTED
    assert delivered(queue) == [Gap(2, None, "cc"), "cc", "AAAAAA"]


def test_a_newer_value_is_not_delivered_before_an_essential_of_its_key():
    """The essential keeps its place, and the newer value goes behind it."""
    queue = open_queue(Buffer(), Conflate(), lambda: 0.0)
    for payload, essential in [(b"1", False), (b"2", True), (b"3", False)]:
        queue.offer(payload, payload.decode(), essential=essential, key="a")
    assert delivered(queue) == [Gap(1, None, "2"), "2", "3"]


@pytest.mark.parametrize("policy", [DropOldest(max_age=1), Conflate(max_age=1)])
def test_what_is_too_old_is_dropped_when_its_turn_comes_but_essentials_never(policy):
    """After two seconds only the essential and the young item are delivered."""
    clock = Clock()
    queue = open_queue(Buffer(), policy, clock)
    queue.offer(b"1", "1", key="a")
    queue.offer(b"2", "2", key="b", essential=True)
    queue.offer(b"3", "3", key="c")
    clock.now += 2
    queue.offer(b"4", "4", key="d")
    assert delivered(queue) == [Gap(1, None, "2"), "2", Gap(1, "2", "4"), "4"]
    queue.offer(b"5", "5", key="e")
    clock.now += 2
    assert delivered(queue) == [Gap(1, "4", None)]


@pytest.mark.parametrize("policy", [DropOldest(), DropNewest(), Conflate(), Conflate(max_age=1)])
def test_what_is_cleared_is_counted_and_not_announced(policy):
    """A cleared queue has nothing to say, not even of what it dropped before."""
    clock = Clock()
    queue = open_queue(Buffer(items=2), policy, clock)
    for number in range(5):
        clock.now += 1
        queue.offer(b"x", key=number)
    queue.offer(b"y", essential=True)
    queue.clear()
    assert (queue.items, queue.bytes, queue.dropped) == (0, 0, 6)
    assert delivered(queue) == []
    assert queue.offer(b"z") is Outcome.ADMITTED
    assert delivered(queue) == ["z"]


def test_a_cleared_keyed_queue_forgets_what_it_had_still_to_announce():
    """Also a loss that no queued item announces is gone with the queue."""
    queue = open_queue(Buffer(items=1), Own([(Verdict.DROP_ARRIVING, False)], True), lambda: 0.0)
    queue.offer(b"1", key="a")
    assert queue.offer(b"2", key="b") is Outcome.DROPPED
    queue.clear()
    assert delivered(queue) == []


def test_replacing_the_newest_where_all_are_essential_replaces_nothing():
    """An own policy's REPLACE_NEWEST among essentials admits the arrival beside them."""
    policy = Own([(Verdict.REPLACE_NEWEST, True)])
    queue = open_queue(Buffer(bytes=4), policy, lambda: 0.0)
    queue.offer(b"1")
    queue.offer(b"222", essential=True)
    assert queue.offer(b"33") is Outcome.WAIT  # asks, and is behind from now on
    assert queue.take(1) == [b"1"]
    assert queue.offer(b"3") is Outcome.ADMITTED
    assert delivered(queue) == ["222", "3"]


@pytest.mark.parametrize("policy", [Block(), Conflate()])
def test_what_passes_a_queue_by_and_what_is_lost_take_numbers(policy):
    """What passes by is the last that was delivered; what is lost counts as dropped."""
    queue = open_queue(Buffer(), policy, lambda: 0.0)
    assert queue.last_id is None
    queue.pass_by(3, "#3")
    assert (queue.offered, queue.dropped, queue.last_id) == (3, 0, "#3")
    assert queue.lose(4) == Gap(4, "#3", None)
    assert (queue.offered, queue.dropped) == (7, 4)
    assert queue.lose(None) == Gap(None, "#3", None)
    assert (queue.offered, queue.dropped) == (7, 4)
    queue.offer(b"8", "#8")
    assert delivered(queue) == ["8"]
    assert (queue.offered, queue.last_id) == (8, "#8")


@pytest.mark.parametrize("policy", [DropNewest(), Conflate()])
def test_room_for_essentials_comes_back_when_they_are_taken(policy):
    """However many were taken before, a queue holds as many as its bound says, and not one more."""
    queue = open_queue(Buffer(items=2), policy, lambda: 0.0)
    for _ in range(5):
        assert queue.offer(b"1", essential=True) is Outcome.ADMITTED
        assert queue.offer(b"2", essential=True) is Outcome.ADMITTED
        assert queue.offer(b"3", essential=True) is Outcome.WAIT
        assert delivered(queue) == ["1", "2"]
    # One that may be dropped makes room for one that may not.
    queue.offer(b"1", essential=True)
    queue.offer(b"2")
    assert queue.offer(b"3", essential=True) is Outcome.ADMITTED
    pieces = delivered(queue)
    assert pieces[-1] == "3"
    assert [piece for piece in pieces if isinstance(piece, str)] == ["1", "3"]


def test_the_last_that_is_queued_has_its_id_though_it_was_renewed():
    """Nothing before it is left, so its id claims nothing that the client lacks."""
    queue = open_queue(Buffer(), Conflate(), lambda: 0.0)
    for number in (1, 2, 3):
        text = str(number)
        queue.offer(text.encode(), f"#{text}", key="a", bare=b"bare")
        if number == 1:
            assert delivered(queue) == ["1"]
    assert delivered(queue) == [Gap(1, "#1", "#3"), "3"]
