"""Contracts of leases: one owner at a time, tokens that are never given twice, beats."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from flowstream.abc import Lease, Log
from flowstream.testing._lease_bench import (
    LONG,
    SHORT,
    data_of,
    end_run,
    fenced_append,
    is_fenced,
    lapsed_lease,
    lease_of,
)
from flowstream.testing._log_contract import LogBench, cancelled_after, contract

# Steps of the event loop after which a call is cancelled: from before it began to behind its end.
_CANCELLATIONS = 40
# Leases of one beat: more than go into one round trip.
_MANY = 600


@contract("a topic has no lease until it is claimed, also if it has events")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("old", b"a")
        assert await one.log.leases(["run", "old"]) == {"run": None, "old": None}
        lease = await one.log.claim("run", "ada", seconds=LONG)
        assert lease.owner == "ada"
        assert not lease.ended
        assert 0 < lease.seconds <= LONG
        found = await lease_of(one.log)
        assert found is not None
        assert found[:2] == lease[:2]
        assert 0 < found.seconds <= LONG


@contract("of several who claim a topic at once, one gets the lease, and all are told whose it is")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        found: list[Lease] = []

        async def claim(owner: str) -> None:
            found.append(await one.log.claim("run", owner, seconds=LONG))

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(claim, f"owner {number}")
        assert len(found) == 20
        assert len({(lease.owner, lease.token) for lease in found}) == 1


@contract("of several processes that claim a topic at once, one gets the lease", several=True)
async def _(bench: LogBench) -> None:
    async with bench.open() as one, bench.open() as other:
        for topic in ("a", "b", "c", "d", "e"):
            found: list[Lease] = []

            async def claim(
                log: Log, owner: str, topic: str = topic, found: list[Lease] = found
            ) -> None:
                found.append(await log.claim(topic, owner, seconds=LONG))

            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(claim, one.log, f"ada {number}")
                    nursery.start_soon(claim, other.log, f"bob {number}")
            assert len({(lease.owner, lease.token) for lease in found}) == 1
            assert await lease_of(one.log, topic) is not None


@contract("a claim can be made again: its owner gets the same lease, renewed")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await lapsed_lease(one)
        again = await one.log.claim("run", "ada", seconds=LONG)
        assert again[:2] == lease[:2]
        assert again.seconds > SHORT
        assert not again.ended


@contract("a claim that is cancelled at any moment happens once or not at all")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        for steps in range(_CANCELLATIONS):
            topic = f"run {steps}"

            async def claim(topic: str = topic) -> Lease:
                return await one.log.claim(topic, "ada", seconds=LONG)

            await cancelled_after(steps, claim)
            lease = await claim()
            assert (await claim())[:2] == lease[:2]
            assert (await one.log.claim(topic, "bob", seconds=LONG))[:2] == lease[:2]


@contract("each claim of any topic gets a larger token than all before, also after a restart")
async def _(bench: LogBench) -> None:
    tokens: list[int] = []
    for _ in range(2):
        async with bench.open() as one:
            for topic in ("a", "b", "c"):
                lease = await one.log.claim(topic, "ada", seconds=LONG)
                tokens.append(lease.token)
                await one.log.delete(topic)
    assert tokens == sorted(set(tokens))
    assert all(0 < token < 1 << 53 for token in tokens)  # JSON and Lua can carry it


@contract("the owner appends with its token; with another token nothing is appended")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await fenced_append(one, lease.token, b"a", b"b")
        await is_fenced(lambda: fenced_append(one, lease.token - 1, b"x"))
        await is_fenced(lambda: fenced_append(one, lease.token + 1, b"x"))
        await fenced_append(one, lease.token, b"c")
        assert await data_of(one) == [b"a", b"b", b"c"]


@contract("a topic without a lease takes no append with a token, and is not made by one")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await is_fenced(lambda: fenced_append(one, 7, b"x"))
        assert await one.log.topics() == ([], None)
        await one.append("run", b"a")
        await is_fenced(lambda: fenced_append(one, 7, b"x"))
        assert await data_of(one) == [b"a"]


@contract("an append of the owner that is made again with its token is one append")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await fenced_append(one, lease.token, b"a", token="same")
        await fenced_append(one, lease.token, b"b")
        await fenced_append(one, lease.token, b"a", token="same")
        assert await data_of(one) == [b"a", b"b"]


@contract("an append that is fenced harms no other append at the same time")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        fenced = 0

        async def owner(number: int) -> None:
            await fenced_append(one, lease.token, b"%d" % number)

        async def stranger() -> None:
            nonlocal fenced
            await is_fenced(lambda: fenced_append(one, lease.token - 1, b"x"))
            fenced += 1

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(owner, number)
                nursery.start_soon(stranger)
        assert fenced == 10
        assert sorted(await data_of(one)) == [b"%d" % number for number in range(10)]


@contract("a claim deletes what a topic without a lease has, and its next event has a new epoch")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        await one.append("run", b"old", b"old")
        epoch, _ = await one.position("run")
        lease = await one.log.claim("run", "ada", seconds=LONG)
        assert await data_of(one) == []
        await fenced_append(one, lease.token, b"new")
        (record,) = await one.everything("run")
        assert record.data == b"new"
        assert record.epoch > epoch


@contract("a lease that has lapsed is still its owner's until somebody ends it")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await lapsed_lease(one)
        await fenced_append(one, lease.token, b"a")
        other = await one.log.claim("run", "bob", seconds=LONG)
        assert other[:2] == lease[:2]
        beaten = await one.log.beat("ada", {"run": lease.token}, seconds=LONG)
        found = beaten["run"]
        assert found is not None
        assert found.seconds > SHORT
        await fenced_append(one, lease.token, b"b")
        assert await data_of(one) == [b"a", b"b"]


@contract("a beat renews its owner's leases alone, and says how each is")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        log = one.log
        mine = await log.claim("mine", "ada", seconds=100.0)
        theirs = await log.claim("theirs", "bob", seconds=100.0)
        old = await log.claim("old", "ada", seconds=100.0)
        tokens = {
            "mine": mine.token,
            "theirs": theirs.token,
            "old": old.token - 1,
            "none": mine.token,
        }
        found = await log.beat("ada", tokens, seconds=LONG)
        assert found.keys() == tokens.keys()
        assert found["none"] is None
        for name, lease, renewed in (
            ("mine", mine, True),
            ("theirs", theirs, False),
            ("old", old, False),
        ):
            now = found[name]
            assert now is not None
            assert now[:2] == lease[:2]
            assert not now.ended
            assert (now.seconds > 100.0) is renewed
        assert await log.leases(["none"]) == {"none": None}


@contract("a beat renews many leases at once")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        tokens: dict[str, int] = {}

        async def claim(start: int) -> None:
            for number in range(start, start + _MANY // 10):
                name = f"run {number}"
                tokens[name] = (await one.log.claim(name, "ada", seconds=100.0)).token

        async with trio.open_nursery() as nursery:
            for start in range(0, _MANY, _MANY // 10):
                nursery.start_soon(claim, start)
        assert len(set(tokens.values())) == _MANY
        await one.log.beat("ada", tokens, seconds=LONG)
        found = await one.log.leases(tokens)
        assert found.keys() == tokens.keys()
        for name, lease in found.items():
            assert lease is not None
            assert lease.token == tokens[name]
            assert lease.seconds > 100.0
        assert await one.log.beat("ada", {}, seconds=LONG) == {}
        assert await one.log.leases([]) == {}


@contract("a lease outlives the process that claimed it")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        lease = await one.log.claim("run", "ada", seconds=LONG)
        await fenced_append(one, lease.token, b"a")
    async with bench.open() as one:
        found = await lease_of(one.log)
        assert found is not None
        assert found[:2] == lease[:2]
        assert not found.ended
        await fenced_append(one, lease.token, b"b")
        assert await data_of(one) == [b"a", b"b"]


@contract("wrong arguments of leases are refused, and nothing is changed")
async def _(bench: LogBench) -> None:
    async with bench.open() as one:
        log = one.log
        wrong: list[Callable[[], Awaitable[object]]] = [
            lambda: log.claim("", "ada", seconds=1.0),
            lambda: log.claim("run", "", seconds=1.0),
            lambda: log.claim("run", "ada", seconds=0.0),
            lambda: log.claim("run", "ada", seconds=float("inf")),
            lambda: log.beat("ada", {"run": "1"}, seconds=1.0),  # type: ignore[dict-item]
            lambda: log.beat("ada", {"run": 1}, seconds=-1.0),
            lambda: log.leases("run"),
            lambda: fenced_append(one, "1", b"x"),  # type: ignore[arg-type]
            lambda: end_run(one, True),
            lambda: end_run(one, 1, seconds=0.0),
        ]
        for call in wrong:
            try:
                await call()
            except (ValueError, TypeError):
                continue
            raise AssertionError("a wrong argument was taken")
        assert await lease_of(log) is None
