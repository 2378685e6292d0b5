"""Servers that break off, stall, lie or change: the client ends each call, and finds back."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing
from _odd_server import INFO, bulk, fails_to_open, hello, odd_server, opened, polite

from flowstream.abc import LogEntry
from flowstream.limits import Replay
from flowstream.logs import LogUnavailableError, open_log
from flowstream.logs.valkey import _conversation
from flowstream.logs.valkey._server_error import ServerError
from flowstream.logs.valkey._valkey_connection import ValkeyConnection, ValkeyTimeouts
from flowstream.logs.valkey._valkey_log import ValkeyLog


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (None, "the server closed the connection"),
        (b"$100\r\nhalf", "the server closed the connection"),
        (b"what?\r\n", "it sent what is not RESP3"),
        (b"+one\r\n+two\r\n+three\r\n", None),
        (b"%1\r\n*0\r\n:1\r\n", "it sent what is not RESP3"),
    ],
)
async def test_a_call_ends_when_the_server_breaks_off(said, why, autojump_clock) -> None:
    """A server that closes, closes inside a reply, or says nonsense: the call may have been done,
    and the next connection works."""
    broken = True

    async def answer(command, stream):
        nonlocal broken
        if command[0] == b"GET" and broken:
            broken = False
            if said:
                await stream.send_all(said)
            return b"" if said and not said.startswith(b"$") else None
        return b"$1\r\nv\r\n" if command[0] == b"GET" else polite(command)

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        connection = await client.connection()
        if why is None:  # one reply too many: the first belongs to the call
            assert await connection.call("GET", "k") == b"one"
            await connection.wait_lost()
            why = "it sent a reply that nobody asked for"
        else:
            with pytest.raises(LogUnavailableError) as caught:
                await connection.call("GET", "k")
            assert caught.value.maybe
            assert str(caught.value) == f"127.0.0.1:{server.port}: {why}"
        assert connection.lost == f"127.0.0.1:{server.port}: {why}"
        with pytest.raises(LogUnavailableError) as caught:
            await connection.call("GET", "k")
        assert not caught.value.maybe
        assert await (await client.connection()).call("GET", "k") == b"v"
        assert (client.losses, client.connections) == (1, 2)


async def test_a_silent_server_is_given_up_after_a_ping(autojump_clock) -> None:
    """A server that falls silent is asked after 1 s, and given up 2 s later."""
    silent = False

    async def answer(command, stream):
        nonlocal silent
        silent = silent or command[0] == b"GET"
        return b"" if silent else polite(command)

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        await trio.sleep(30)  # while it answers PING, nothing happens
        assert client.connections == 1
        connection = await client.connection()
        await connection.call_many([("PING",)])
        begin = trio.current_time()
        with pytest.raises(LogUnavailableError, match="says nothing for 3 s") as caught:
            await connection.call("GET", "k")
        assert caught.value.maybe
        assert trio.current_time() - begin == pytest.approx(3, abs=0.01)


async def test_a_process_that_stood_still_reads_first_what_has_come(mock_clock) -> None:
    """Who was stopped for longer than a server may be silent finds the answer, and stays."""
    ours, theirs = trio.testing.memory_stream_pair()
    connection = ValkeyConnection(ours, "memory", ValkeyTimeouts(), lambda push: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        for _ in range(50):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(1.5)
            assert await theirs.receive_some() == b"*1\r\n$4\r\nPING\r\n"
            await trio.testing.wait_all_tasks_blocked()
            ours.receive_stream.put_data(b"+PONG\r\n")
            mock_clock.jump(100)
        await trio.testing.wait_all_tasks_blocked()
        assert connection.lost is None
        mock_clock.jump(1.5)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(2.5)
        await connection.wait_lost()
        nursery.cancel_scope.cancel()


async def test_a_server_that_pushes_and_never_answers_is_given_up(autojump_clock) -> None:
    """News are a sign of life, but a reply that is owed for 10 s is not coming."""

    async def answer(command, stream):
        if command[0] != b"GET":
            return polite(command)
        while True:
            await trio.sleep(0.5)
            await stream.send_all(b">3\r\n+message\r\n+a\r\n+x\r\n")

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        begin = trio.current_time()
        with pytest.raises(LogUnavailableError, match="owes a reply for 10 s"):
            await (await client.connection()).call("GET", "k")
        assert trio.current_time() - begin == pytest.approx(10, abs=0.6)
        assert client.pushes[0] == [b"message", b"a", b"x"]


async def test_a_slow_large_reply_is_waited_for(autojump_clock) -> None:
    """A reply that comes in pieces for a minute is neither silence nor late."""

    async def answer(command, stream):
        if command[0] != b"GET":
            return polite(command)
        await stream.send_all(b"$60\r\n")
        for _ in range(60):
            await trio.sleep(0.9)
            await stream.send_all(b"x")
        return b"\r\n"

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        assert await (await client.connection()).call("GET", "k") == b"x" * 60
        assert client.connections == 1


async def test_a_server_that_does_not_read_is_given_up(autojump_clock) -> None:
    """A large command that the server does not take ends as silence does."""

    async def answer(command, stream):
        if command[0] == b"STALL":
            await trio.sleep_forever()
        return polite(command)

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        connection = await client.connection()
        with pytest.raises(LogUnavailableError, match="says nothing for 3 s"):
            await connection.call_many([("STALL",), ("SET", "k", b"x" * (60 << 20))])


async def test_a_reply_without_end_is_cut(monkeypatch, autojump_clock) -> None:
    """A header that promises a gigabyte is harmless, and its bytes are taken up to the bound."""
    monkeypatch.setattr(_conversation, "REPLY_BYTES", 1 << 20)
    sent = 0

    async def answer(command, stream):
        nonlocal sent
        if command[0] != b"GET":
            return polite(command)
        await stream.send_all(b"$1073741824\r\n")
        while True:
            await stream.send_all(b"x" * 65536)
            sent += 65536

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        with pytest.raises(LogUnavailableError, match="a reply of more than 1 MiB"):
            await (await client.connection()).call("GET", "k")
    assert sent < 32 << 20  # what the sockets hold besides


async def test_pushes_unasked_disturb_nothing(autojump_clock) -> None:
    """Pushes of any kind between replies go to the hearer, an empty one, too."""

    async def answer(command, stream):
        if command[0] == b"GET":
            return b">0\r\n>2\r\n+invalidate\r\n*0\r\n$1\r\nv\r\n>1\r\n+odd\r\n"
        return polite(command)

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        connection = await client.connection()
        assert [await connection.call("GET", "k") for _ in range(3)] == [b"v"] * 3
        assert client.pushes == [[], [b"invalidate", []], [b"odd"]] * 3


async def test_a_server_that_loads_is_waited_for(autojump_clock) -> None:
    """While a server says LOADING it is asked again; then it is used."""
    asked = 0

    async def answer(command, stream):
        nonlocal asked
        if command[0] == b"INFO":
            asked += 1
            if asked == 1:
                return b"-LOADING the dataset\r\n"
            if asked == 2:
                return bulk(INFO + b"loading:1\r\n")
        return polite(command)

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        assert (asked, server.accepted, client.connections) == (3, 3, 1)
        assert client.away is None


async def test_a_server_that_becomes_a_replica_is_left(autojump_clock) -> None:
    """READONLY ends the connection, and the server that is the primary now is found."""
    primary = "a"

    def server_named(name):
        async def answer(command, stream):
            if command[0] == b"HELLO":
                return hello(role="master" if primary == name else "replica")
            if command[0] == b"SET":
                return b"+OK\r\n" if primary == name else b"-READONLY You can't write\r\n"
            return polite(command)

        return odd_server(answer)

    async with server_named("a") as a, server_named("b") as b:
        url = f"valkey://127.0.0.1:{a.port},127.0.0.1:{b.port}/3"
        async with opened(url) as client:
            connection = await client.connection()
            await connection.call("SET", "k", 1)
            primary = "b"
            with pytest.raises(ServerError) as caught:
                await connection.call("SET", "k", 2)
            assert caught.value.code == "READONLY"
            connection = await client.connection()
            assert connection.where == f"127.0.0.1:{b.port}"
            assert await connection.call("SET", "k", 2) == b"OK"


async def test_a_replica_is_left_by_who_only_listens(autojump_clock) -> None:
    """A client that asks nothing leaves a server that became a replica within 5 s."""
    role = b"master"

    async def answer(command, stream):
        if command[0] == b"HELLO":
            return hello(role="master" if role == b"master" else "replica")
        if command == [b"INFO", b"replication"]:
            return bulk(b"role:%s\r\n" % role)
        return polite(command)

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        await trio.sleep(60)
        assert client.connections == 1
        role = b"slave"
        begin = trio.current_time()
        await (await client.connection()).wait_lost()
        assert trio.current_time() - begin <= 5
        await trio.sleep(10)
        assert client.away == f"127.0.0.1:{server.port}: the server is a replica"
        role = b"master"
        await client.connection()


async def test_no_primary_is_a_sentence(autojump_clock) -> None:
    """Servers that are all replicas are asked for 5 s, and then named."""

    async def answer(command, stream):
        return hello(role="replica") if command[0] == b"HELLO" else polite(command)

    async with odd_server(answer) as server:
        begin = trio.current_time()
        why = await fails_to_open(f"valkey://127.0.0.1:{server.port}")
        assert why == f"127.0.0.1:{server.port}: the server is a replica"
        assert trio.current_time() - begin >= 5
        assert server.accepted > 5


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"-ERR unknown command `HELLO`, with args beginning with: `secret`\r\n", "is too old"),
        (b"-NOPROTO unsupported protocol version\r\n", "does not speak RESP3"),
        (b"-WRONGPASS invalid username-password pair\r\n", "does not know this user"),
        (b"-NOAUTH HELLO must be called with AUTH\r\n", "asks for a password"),
        (b"-DENIED protected mode\r\n", "protected mode"),
        (b"-ODD secret\r\n", r"refused HELLO 3 \(ODD\)"),
        (hello(mode="cluster"), "part of a Cluster"),
        (hello(mode="sentinel"), "this is a sentinel"),
        (hello(version="6.0.16"), "Redis 6.0: use Valkey, or Redis 6.2"),
    ],
)
async def test_a_server_that_can_not_be_used_is_refused_at_once(
    reply, why, autojump_clock, caplog
) -> None:
    """What only a person can change is said at once, in a sentence without secrets."""

    async def answer(command, stream):
        return reply if command[0] == b"HELLO" else polite(command)

    async with odd_server(answer) as server:
        begin = trio.current_time()
        said = await fails_to_open(f"valkey://user:secret@127.0.0.1:{server.port}")
        assert trio.current_time() - begin < 1
        assert server.accepted == 1
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(said)
    assert "secret" not in said + caplog.text


async def test_a_server_without_room_or_words_is_asked_again(autojump_clock) -> None:
    """Too many clients pass; a server that never says hello fails at last, with its address."""
    asked = 0

    async def answer(command, stream):
        nonlocal asked
        asked += 1
        return b"-ERR max number of clients reached\r\n" if asked < 3 else polite(command)

    async def mute(command, stream):
        return b""

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}"):
        assert server.accepted == 3
    async with odd_server(mute) as server:
        why = await fails_to_open(f"valkey://127.0.0.1:{server.port}")
        assert why == f"127.0.0.1:{server.port}: the server does not answer for 3 s"


async def test_settings_that_lose_events_are_refused_at_the_start_and_told_later(
    autojump_clock, caplog
) -> None:
    """A server that evicts is refused at first; a change while the app runs is a warning."""
    policy = b"allkeys-lru"

    async def answer(command, stream):
        if command[0] == b"INFO":
            return bulk(b"maxmemory:100\r\nmaxmemory_policy:%s\r\naof_enabled:0\r\n" % policy)
        return None if command[0] == b"QUIT" else polite(command)

    async with odd_server(answer) as server:
        url = f"valkey://127.0.0.1:{server.port}"
        assert "set maxmemory-policy noeviction" in await fails_to_open(url)
        policy = b"noeviction"
        async with opened(url) as client:
            assert caplog.text.count("has no append-only file") == 1
            policy = b"volatile-lru"
            for _ in range(3):
                with pytest.raises(LogUnavailableError):
                    await (await client.connection()).call("QUIT")
                await client.connection()
            assert caplog.text.count("maxmemory-policy is volatile-lru") == 1
            assert caplog.text.count("has no append-only file") == 1


async def test_a_refusal_while_the_app_runs_is_told_once_and_tried_again(
    autojump_clock, caplog
) -> None:
    """A password that is changed is one error line; once it is right again, calls go on."""
    wrong = False

    async def answer(command, stream):
        if command[0] == b"HELLO" and wrong:
            return b"-WRONGPASS invalid username-password pair\r\n"
        return None if command[0] == b"QUIT" else polite(command)

    async with (
        odd_server(answer) as server,
        opened(f"valkey://:old@127.0.0.1:{server.port}") as client,
    ):
        wrong = True
        with pytest.raises(LogUnavailableError):
            await (await client.connection()).call("QUIT")
        await trio.sleep(60)
        assert "does not know this user or password" in (client.away or "")
        errors = [one for one in caplog.records if one.levelno == logging.ERROR]
        assert len(errors) == 1
        assert 30 < server.accepted < 400  # with jitter, a second apart at the most
        wrong = False
        assert await (await client.connection()).call("PING") == b"PONG"
        assert client.away is None


async def test_callers_wait_for_room(monkeypatch, autojump_clock) -> None:
    """Beyond the bound callers wait in their order; nothing of them is in memory or sent."""
    monkeypatch.setattr(_conversation, "OWED_ITEMS", 4)
    open_gate = trio.Event()
    seen: list[bytes] = []

    async def answer(command, stream):
        if command[0] != b"GET":
            return polite(command)
        seen.append(command[1])
        await open_gate.wait()
        return bulk(command[1])

    done: list[int] = []

    async def get(connection, number, scope):
        with scope:
            assert await connection.call("GET", number) == b"%d" % number
            done.append(number)

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        connection = await client.connection()
        scopes = [trio.CancelScope() for _ in range(10)]
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(get, connection, number, scopes[number])
                await trio.testing.wait_all_tasks_blocked()
            assert connection._conversation.owed == 4
            scopes[1].cancel()  # sent: its reply comes, and is thrown away
            scopes[4].cancel()  # waits at the door, first
            scopes[6].cancel()  # waits behind it
            open_gate.set()
        assert done == [0, 2, 3, 5, 7, 8, 9]
        assert seen == [b"%d" % n for n in (0, 1, 2, 3, 5, 7, 8, 9)]
        assert connection._conversation.owed == 0


async def test_callers_that_wait_for_room_are_told_of_the_loss(monkeypatch, autojump_clock) -> None:
    """Those whose command was never sent know that it was not."""
    monkeypatch.setattr(_conversation, "OWED_ITEMS", 2)
    close = trio.Event()

    async def answer(command, stream):
        if command[0] != b"GET":
            return polite(command)
        await close.wait()
        return None

    maybes: list[bool] = []

    async def get(connection, number):
        with pytest.raises(LogUnavailableError) as caught:
            await connection.call("GET", number)
        maybes.append(caught.value.maybe)

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        connection = await client.connection()
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(get, connection, number)
                await trio.testing.wait_all_tasks_blocked()
            close.set()
        assert sorted(maybes) == [False] * 4 + [True] * 2


async def test_ready_may_fail_and_is_tried_again(autojump_clock) -> None:
    """A connection whose preparation fails is never lent out, and the next is prepared anew."""
    tries = 0

    async def ready(connection):
        nonlocal tries
        tries += 1
        if tries == 1:
            connection.give_up("a test")
        if tries == 2:
            raise LogUnavailableError("a test")
        await connection.call("PING")

    async with odd_server(lambda command, stream: _now(polite(command))) as server:
        url = f"valkey://127.0.0.1:{server.port}"
        async with opened(url, ready=ready) as client:
            assert (tries, server.accepted, client.connections, client.losses) == (3, 3, 1, 0)

        async def refused(connection):
            raise ServerError(
                "NOPERM this user has no permissions to run the 'script|load' command"
            )

        why = await fails_to_open(url, ready=refused)
        assert "the user lacks a permission" in why


async def _now(value: bytes) -> bytes:
    return value


async def test_waiting_for_replicas_ends_with_the_role(autojump_clock) -> None:
    """A server that becomes a replica while it waits for others may have written."""

    async def answer(command, stream):
        if command[0] == b"WAIT":
            return b"-UNBLOCKED force unblock from blocking operation\r\n"
        return b"+OK\r\n" if command[0] == b"SET" else polite(command)

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        connection = await client.connection()
        with pytest.raises(LogUnavailableError, match="became a replica") as caught:
            await connection.call_confirmed("SET", "k", 1, replicas=1, milliseconds=9)
        assert caught.value.maybe
        assert connection.lost is not None


async def test_what_the_kernel_does_not_take_of_a_lone_call_follows(autojump_clock) -> None:
    """A command larger than the socket's room arrives whole, and in order with what comes next."""
    seen: list[bytes] = []

    async def answer(command, stream):
        if command[0] == b"SET":
            seen.append(command[1])
            assert command[2] == b"x" * len(command[2])
            await trio.sleep(0.01)
            return b":%d\r\n" % len(command[2])
        return polite(command)

    async def put(connection, number, size):
        assert await connection.call("SET", number, b"x" * size) == size

    async with odd_server(answer) as server, opened(f"valkey://127.0.0.1:{server.port}") as client:
        connection = await client.connection()
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                for number, size in enumerate([30 << 20, 1, 200_000, 7, 0]):
                    nursery.start_soon(put, connection, number, size)
                    await trio.lowlevel.checkpoint()
        assert sorted(seen) == sorted([b"0", b"1", b"2", b"3", b"4"] * 3)


async def test_reads_go_to_the_server_that_is_written_to() -> None:
    """Behind one address two servers may answer, as in a failover: a read over the connection to
    the other one is asked again over a new connection."""
    seen: dict[int, list[bytes]] = {}
    names = [b"1", b"2", b"2", b"1"]  # of the servers that take one connection after the other

    async def answer(command, stream):
        number = list(seen).index(id(stream)) if id(stream) in seen else len(seen)
        seen.setdefault(id(stream), []).append(command[0])
        match command[0]:
            case b"INFO":
                return bulk(INFO.replace(b"run_id:1", b"run_id:" + names[number]))
            case b"SCRIPT":
                return bulk(b"0" * 40)
            case b"SUBSCRIBE":
                return b">3\r\n" + bulk(b"subscribe") + bulk(command[1]) + b":1\r\n"
            case b"EVALSHA":
                reads = number > 0 and len(command) > 9
                return b"*1\r\n" + bulk(b"server " + names[number]) if reads else bulk(b"e")
        return polite(command)

    async with (
        odd_server(answer) as server,
        open_log(ValkeyLog(f"valkey://127.0.0.1:{server.port}", patience=10)) as log,
    ):
        assert await log.topics() == (["server 1"], None)
        assert server.accepted == 4
        assert await log.topics() == (["server 1"], None)
        assert server.accepted == 4


@pytest.mark.parametrize(
    ("said", "confirmed", "maybe"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", b":1\r\n", False),
        (b"-BUSY Redis is busy running a script\r\n", b":1\r\n", False),
        (bulk(b"e"), b"-UNBLOCKED force unblock from blocking operation\r\n", True),
    ],
)
async def test_an_append_that_was_refused_to_the_end_was_not_made(
    said, confirmed, maybe, mock_clock
) -> None:
    """A server that is too busy has done nothing; one that became a replica may have."""

    async def answer(command, stream):
        match command[0]:
            case b"SCRIPT":
                return bulk(b"0" * 40)
            case b"SUBSCRIBE":
                return b">3\r\n" + bulk(b"subscribe") + bulk(command[1]) + b":1\r\n"
            case b"WAIT":
                return confirmed
            case b"EVALSHA" if len(command) > 10:
                refused.set()
                return said
            case b"EVALSHA":
                return bulk(b"e")
        return polite(command)

    refused, ended = trio.Event(), trio.Event()

    async def append(log):
        with pytest.raises(LogUnavailableError, match=r"not answered for 0\.01 s") as caught:
            await log.append("a", [LogEntry(b"x")], keep=Replay(), token="t")
        assert caught.value.maybe is maybe
        ended.set()

    async with odd_server(answer) as server, trio.open_nursery() as nursery:
        log = ValkeyLog(f"valkey://127.0.0.1:{server.port}", patience=0.01, wait_replicas=1)
        async with open_log(log):
            nursery.start_soon(append, log)
            await refused.wait()
            # The clock stands still: once the refusal has come, the append waits to ask again.
            for _ in range(20):
                await trio.testing.wait_all_tasks_blocked(0.002)
            mock_clock.jump(0.015)
            await ended.wait()
