"""Turns in a pass of the event loop, and HTTP/2's bytes in pieces of like cost."""

import math
from collections import Counter
from itertools import pairwise
from time import perf_counter

import pytest
import trio
from hyperframe.frame import (
    DataFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from flowstream.server import _pass_budget
from flowstream.server._frame_pieces import FramePieces
from flowstream.server._pass_budget import PassBudget, Share

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Passes(trio.abc.Instrument):
    """Counts the passes of the event loop."""

    def __init__(self):
        self.count = 0

    def after_io_wait(self, timeout):
        self.count += 1


@pytest.fixture
async def passes():
    passes = Passes()
    trio.lowlevel.add_instrument(passes)
    yield passes
    trio.lowlevel.remove_instrument(passes)


@pytest.fixture
def spent(monkeypatch):
    """Have no pass any time: then each has one turn, and one for a busy client."""
    monkeypatch.setattr(_pass_budget, "_SECONDS", -math.inf)


@pytest.fixture
async def budget():
    budget = PassBudget()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.run)
        await trio.testing.wait_all_tasks_blocked()
        yield budget
        nursery.cancel_scope.cancel()


def busy():
    share = Share()
    while not share.is_busy(perf_counter()):
        pass
    return share


async def test_while_there_is_time_a_turn_is_no_checkpoint(budget, passes, monkeypatch):
    """A thousand clients have their turns in one pass that has the time."""
    monkeypatch.setattr(_pass_budget, "_SECONDS", math.inf)
    await trio.lowlevel.checkpoint()
    before = passes.count
    for _ in range(1000):
        await budget.turn(Share())
    assert passes.count == before


async def test_without_a_runner_turns_are_unlimited(passes):
    """Nobody waits for somebody who does not run."""
    before = passes.count
    await PassBudget().turn(Share())
    assert passes.count == before


async def test_a_pause_in_a_pass_that_has_time_is_no_checkpoint(budget, passes, monkeypatch):
    """A thousand writes that need not wait are done in one pass that has the time."""
    monkeypatch.setattr(_pass_budget, "_SECONDS", 1e6)
    await trio.lowlevel.checkpoint()
    before = passes.count
    for _ in range(1000):
        await budget.pause()
    assert passes.count == before


async def test_a_pause_in_a_pass_without_time_lets_others_run(budget, passes, spent):
    """Each is a checkpoint, and so it is if nobody runs the budget."""
    await trio.lowlevel.checkpoint()
    for one in (budget, PassBudget()):
        before = passes.count
        for _ in range(10):
            await one.pause()
        assert passes.count == before + 10


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("has_time", [True, False])
async def test_a_loop_of_sends_lets_others_run(
    server, client, passes, monkeypatch, has_time, method
):
    """After each send if the pass has no time left, and not before that; plain request or not."""
    monkeypatch.setattr(_pass_budget, "_SECONDS", 1e6 if has_time else -math.inf)
    took = []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        await send({"type": "http.response.start", "status": 200, "headers": []})
        message = {"type": "http.response.body", "body": b"x", "more_body": True}
        await send(message)
        await trio.lowlevel.checkpoint()
        before = passes.count
        for _ in range(20):
            await send(message)
        took.append(passes.count - before)
        await send({"type": "http.response.body"})

    peer = client(await server(app))
    length = ["Content-Length: 0"] if method == "POST" else []
    await trio.to_thread.run_sync(lambda: peer.get("/", *length, method=method))
    await trio.to_thread.run_sync(peer.read_until, b"\r\n0\r\n\r\n")
    assert took == [0] if has_time else took[0] >= 20


async def test_one_turn_in_a_pass_without_time(budget, passes, spent):
    """When the time is spent each pass has one turn, in the order in which they were asked for."""
    await trio.lowlevel.checkpoint()
    turns = []

    async def client(number):
        for _ in range(number):  # so that they ask in the order of their numbers
            await trio.lowlevel.checkpoint()
        await budget.turn(Share())
        turns.append((passes.count, number))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(client, number)
    assert [number for _, number in turns] == list(range(20))
    assert all(later > earlier for (earlier, _), (later, _) in pairwise(turns))


async def test_busy_clients_do_not_hold_up_the_others(budget, passes, spent):
    """A client with few turns waits for two passes at the most, behind any number of busy ones."""
    await trio.lowlevel.checkpoint()

    async def flood():
        share = busy()
        while True:
            await budget.turn(share)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(flood)
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        for _ in range(10):
            before = passes.count
            await budget.turn(Share())
            assert passes.count - before <= 2
        nursery.cancel_scope.cancel()


async def test_others_do_not_starve_busy_clients(budget, passes, spent):
    """A busy client has a turn in each pass, however many others there are."""
    await trio.lowlevel.checkpoint()

    async def asks():
        while True:
            await budget.turn(Share())

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(asks)
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        share = busy()
        for _ in range(10):
            before = passes.count
            await budget.turn(share)
            assert passes.count - before <= 2
        nursery.cancel_scope.cancel()


async def test_short_turns_share_a_pass(budget, passes, monkeypatch):
    """Turns that take no time go through together: a queue does not cost a pass for each."""
    monkeypatch.setattr(_pass_budget, "_SECONDS", -math.inf)
    await trio.lowlevel.checkpoint()  # so that all of them queue
    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(budget.turn, Share())
        await trio.lowlevel.checkpoint()
        monkeypatch.setattr(_pass_budget, "_SECONDS", 3600)
        before = passes.count
    assert passes.count - before < 30


async def test_who_waits_can_be_cancelled(budget, passes, spent):
    """A cancelled wait takes nobody's turn."""
    await trio.lowlevel.checkpoint()
    with trio.CancelScope() as scope:
        scope.cancel()
        await budget.turn(Share())
    assert scope.cancelled_caught
    with trio.fail_after(5):
        await budget.turn(Share())


async def test_no_passes_while_nobody_waits(budget, passes):
    """The loop sleeps when there is no queue."""
    await trio.testing.wait_all_tasks_blocked()
    before = passes.count
    await trio.sleep(0.05)
    assert passes.count - before <= 3


@pytest.mark.parametrize("connections", [1, 10])
@pytest.mark.parametrize("has_time", [False, True])
async def test_many_requests_at_once(
    server, http2, clean_log, monkeypatch, passes, connections, has_time
):
    """A pass without time begins two requests of all connections; one with time begins many."""
    begun = []

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise NotImplementedError
        begun.append(passes.count)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    each = 100 // connections
    url = await server(app)
    peers = [await http2(url) for _ in range(connections)]
    for peer in peers:
        await peer.fence()
    monkeypatch.setattr(_pass_budget, "_SECONDS", math.inf if has_time else -math.inf)
    for peer in peers:
        for _ in range(each):
            peer.open()
        await peer.flush()
    for peer in peers:
        await peer.until(lambda: len(peer.ended) == each)  # noqa: B023
    most = max(Counter(begun).values())
    assert most > 10 / connections if has_time else most <= 2


def pieces(*frames, size=1 << 16):
    """Cut frames that arrive `size` bytes at a time, behind the preface."""
    cutter = FramePieces(1 << 14)
    data = PREFACE + b"".join(frame.serialize() for frame in frames)
    cut = []
    for start in range(0, len(data), size):
        cut += cutter.cut(data[start : start + size])
    assert b"".join(cut) == data
    assert all(cut)
    return cut


def test_pings_are_few_in_a_piece():
    """A piece has some thirty frames of any kind but DATA."""
    cut = pieces(*[PingFrame(0, opaque_data=b"12345678")] * 3000)
    assert all(len(piece) <= 34 * 17 + len(PREFACE) for piece in cut)


def test_data_is_cut_at_its_frames():
    """Frames of 16 KiB of DATA are a piece each."""
    cut = pieces(*[DataFrame(1, data=b"x" * 16384)] * 10, size=1 << 20)
    assert [len(piece) for piece in cut[1:]] == [16384 + 9] * 9


def test_settings_are_few_in_a_piece():
    """Frames of as many settings as are allowed are a dozen a piece."""
    cut = pieces(*[SettingsFrame(0, settings=dict.fromkeys(range(32), 1))] * 120)
    assert len(cut) >= 10


def test_fields_are_few_in_a_piece():
    """A head of 256 fields, each a byte that names the table, is a piece."""
    block = b"\x82" * 256
    cut = pieces(
        *[HeadersFrame(number, data=block, flags=["END_HEADERS"]) for number in range(1, 19, 2)]
    )
    assert len(cut) >= 9


def test_a_request_is_not_cut_from_its_reset():
    """Each HEADERS is in the same piece as the RST_STREAM behind it, wherever a piece ends."""
    frames = []
    for number in range(1, 1001, 2):
        head = HeadersFrame(number, data=b"\x82", flags=["END_HEADERS"])
        frames += [PingFrame(0, opaque_data=b"12345678")] * (number % 3)
        frames += [head, RstStreamFrame(number, error_code=8)]
    cut = pieces(*frames, size=1 << 20)
    assert len(cut) > 20
    reset = RstStreamFrame(1).serialize()[:4]
    assert not [piece for piece in cut if piece.startswith(reset)]


@pytest.mark.parametrize("size", [1, 2, 8, 9, 10, 100])
def test_frames_may_come_in_any_pieces(size):
    """A frame's head and its payload may be torn, and are counted all the same."""
    frames = [DataFrame(1, data=b"x" * 50), PingFrame(0, opaque_data=b"12345678")] * 100
    whole, torn = pieces(*frames), pieces(*frames, size=size)
    assert len(torn) >= len(whole)
