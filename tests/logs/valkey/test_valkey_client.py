"""The client of Valkey and Redis, with real servers of both."""

from __future__ import annotations

import random
import subprocess
import sys
from functools import partial

import pytest
import trio
import trio.lowlevel
from _odd_server import fails_to_open, opened
from real_servers.proxy import Proxy

from flowstream.logs import LogFullError, LogUnavailableError
from flowstream.logs.valkey._server_error import Meaning, ServerError
from flowstream.logs.valkey._valkey_connection import ValkeyTimeouts


@pytest.fixture(params=["valkey", "redis"])
def server(request, own_server):
    return own_server(request.param)


async def test_replies_are_values(broker) -> None:
    """Commands of all kinds of words, and replies of RESP3; errors are in their places."""
    async with opened(broker) as client:
        connection = await client.connection()
        assert await connection.call("SET", "client:k", 1.5) == b"OK"
        found = await connection.call_many(
            [("GET", "client:k"), ("NOPE",), ("HELLO",), ("EVAL", "return {1, false, 'é'}", 0)]
        )
        assert found[0] == b"1.5"
        assert isinstance(found[1], ServerError)
        assert found[2][b"proto"] == 3
        assert found[3] == [1, None, "é".encode()]
        assert connection.info["role"] == "master"
        with pytest.raises(TypeError):
            await connection.call("SET", "k", None)
        assert await connection.call_many([]) == []


async def test_messages_of_channels_are_pushed(broker) -> None:
    """SUBSCRIBE returns when it holds; what is published then comes over the same connection."""
    async with opened(broker) as client:
        connection = await client.connection()
        names = [f"client:{n}" for n in range(1000)]
        assert await connection.call("SUBSCRIBE", *names) is None
        assert await connection.call("PUBLISH", "client:7", b"x") == 1
        await connection.call("UNSUBSCRIBE", *names[:500])
        assert await connection.call("PUBLISH", "client:7", b"y") == 0
        assert client.pushes == [[b"message", b"client:7", b"x"]]


async def test_two_thousand_cancelled_calls_leave_the_connection_usable(broker) -> None:
    """Callers who leave before, while and after their command is sent leave no reply owed, and
    every other caller gets its own reply."""
    chance = random.Random(7)

    async def leave(connection, number):
        with trio.CancelScope() as scope:
            kind = chance.randrange(4)
            if kind == 0:
                scope.cancel()
            elif kind == 1:
                scope.deadline = trio.current_time() + chance.random() / 500
            elif kind == 2:
                nursery.start_soon(later, scope, chance.randrange(4))
            assert await connection.call("ECHO", number) == b"%d" % number

    async def later(scope, turns):
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with opened(broker) as client:
        connection = await client.connection()
        async with trio.open_nursery() as nursery:
            for number in range(2001):
                nursery.start_soon(leave, connection, number)
                if number % 100 == 0:
                    await trio.lowlevel.checkpoint()
        assert await connection.call("ECHO", "end") == b"end"
        assert connection._conversation.owed == 0
        assert not connection._conversation.calls
        assert (connection.lost, client.connections, client.losses) == (None, 1, 0)


async def test_a_blocked_call_may_be_cancelled(broker) -> None:
    """A caller that leaves while the server waits costs only that wait; the next has its reply."""
    async with opened(broker) as client:
        connection = await client.connection()
        for _ in range(10):
            with trio.move_on_after(0.001):
                await connection.call("BLPOP", "client:nothing", 0.01)
        assert await connection.call("ECHO", "end") == b"end"
        assert client.connections == 1


async def test_a_server_that_is_killed_is_found_again(server) -> None:
    """Calls fail when it dies, and go on when it is back, with what it kept."""
    async with opened(server.url) as client:
        connection = await client.connection()
        await connection.call("SET", "k", "v")
        await trio.to_thread.run_sync(server.kill)
        await connection.wait_lost()
        assert client.losses <= 1
        with trio.move_on_after(0.05) as waited:
            await client.connection()
        assert waited.cancelled_caught
        assert client.losses == 1
        assert server.url.partition("//")[2].partition("/")[0] in (client.away or "")
        await trio.to_thread.run_sync(server.start)
        assert await (await client.connection()).call("GET", "k") == b"v"
        assert client.away is None


async def test_a_server_that_is_away_at_the_start_is_a_sentence(own_server) -> None:
    """A server that refuses connections fails with its address, not with a list of attempts."""
    server = own_server("valkey")
    server.kill()
    soon = ValkeyTimeouts(start=0.1)
    why = await fails_to_open(f"valkey://u:s3cret@127.0.0.1:{server.port}", timeouts=soon)
    assert why == f"127.0.0.1:{server.port}: no connection (Connection refused)"


async def test_users_passwords_and_databases(server) -> None:
    """An ACL user with a percent-encoded password comes in, to its database; others do not."""
    server.add_user("ann@x", "p:/?#%@ü", "~*", "&*", "+@all", "-get")
    at = f"127.0.0.1:{server.port}"
    async with opened(f"valkey://ann%40x:p%3A%2F%3F%23%25%40%C3%BC@{at}/7") as client:
        connection = await client.connection()
        await connection.call("SET", "k", 1)
        with pytest.raises(ServerError) as caught:
            await connection.call("GET", "k")
        assert (caught.value.code, caught.value.meaning) == ("NOPERM", Meaning.REFUSED)
        assert server.call("CLIENT", "LIST").count("name=flowstream") == 1
    assert server.call("INFO", "keyspace").count("db7:keys=1") == 1
    assert "does not know this user or password" in await fails_to_open(f"valkey://ann%40x:s3@{at}")
    assert "the server has no database 10000" in await fails_to_open(f"valkey://{at}/10000")
    server.add_user("bob", "pw", "~*", "&*", "+@all", "-info")
    assert "lacks a permission" in await fails_to_open(f"valkey://bob:pw@{at}")
    server.call("ACL", "SETUSER", "default", "off")
    assert "asks for a password" in await fails_to_open(f"valkey://{at}")


async def test_the_client_itself_needs_three_commands(server) -> None:
    """A user that may INFO, SELECT and PING alone comes in, and stays."""
    server.add_user("least", "pw", "-@all", "+info", "+select", "+ping")
    times = ValkeyTimeouts(silence=0.01)
    async with opened(f"valkey://least:pw@127.0.0.1:{server.port}/3", timeouts=times) as client:
        connection = await client.connection()
        await trio.sleep(0.1)
        assert await connection.call("PING") == b"PONG"
        assert (client.connections, client.away) == (1, None)


async def test_a_full_server_is_a_full_log(server) -> None:
    """A write beyond maxmemory is refused as full, inside a script, too."""
    async with opened(server.url) as client:
        connection = await client.connection()
        server.config(maxmemory=1)
        for command in [
            ("SET", "k", 1),
            ("EVAL", "return redis.call('SET', KEYS[1], 1)", 1, "k"),
        ]:
            with pytest.raises(ServerError) as caught:
                await connection.call(*command)
            assert isinstance(caught.value.unavailable("here"), LogFullError)
        assert connection.lost is None


async def test_too_few_replicas_and_forgotten_scripts(server) -> None:
    """NOREPLICAS may pass on the same connection; NOSCRIPT makes a new one."""
    async with opened(server.url) as client:
        connection = await client.connection()
        server.config(min_replicas_to_write=1)
        with pytest.raises(ServerError) as caught:
            await connection.call("SET", "k", 1)
        assert caught.value.meaning is Meaning.LATER
        assert connection.lost is None
        found = await connection.call_many([("GET", "k"), ("WAIT", 1, 10)])
        assert found == [None, 0]
        with pytest.raises(ServerError):
            await connection.call("EVALSHA", "0" * 40, 0)
        assert "forgotten" in (connection.lost or "")
        assert await client.connection() is not connection


async def test_a_server_that_is_made_a_replica_is_left(own_server) -> None:
    """Of two servers in the URL, the client goes where the primary is now."""
    first, second = own_server("valkey"), own_server("valkey")
    await trio.to_thread.run_sync(second.replica_of, first)
    url = f"valkey://127.0.0.1:{second.port},127.0.0.1:{first.port}"
    async with opened(url) as client:
        connection = await client.connection()
        assert connection.where == f"127.0.0.1:{first.port}"
        await connection.call("SET", "k", 1)
        await trio.to_thread.run_sync(second.wait_in_step, first)
        second.promote()
        await trio.to_thread.run_sync(first.replica_of, second)
        with pytest.raises((ServerError, LogUnavailableError)):
            await connection.call("SET", "k", 2)
        connection = await client.connection()
        assert connection.where == f"127.0.0.1:{second.port}"
        assert await connection.call("GET", "k") == b"1"


async def test_replicas_confirm_what_was_written(server, own_server) -> None:
    """A write is confirmed by a replica that runs; by one that stands still it is a maybe."""
    replica = own_server(server.kind)
    await trio.to_thread.run_sync(replica.replica_of, server)
    async with opened(server.url) as client:
        connection = await client.connection()
        confirmed = partial(connection.call_confirmed, "INCR", "k", replicas=1)
        with trio.fail_after(20):  # it counts only once it has told of itself
            while (await connection.call_many([("INCR", "k"), ("WAIT", 1, 500)]))[1] == 0:
                pass
        before = int(await connection.call("GET", "k"))
        assert await confirmed(milliseconds=1900) == before + 1
        replica.freeze()
        with pytest.raises(LogUnavailableError, match="0 of 1 replicas have confirmed") as caught:
            await confirmed(milliseconds=50)
        assert caught.value.maybe
        assert int(await connection.call("GET", "k")) == before + 2
        replica.thaw()
        with pytest.raises(ServerError):
            await connection.call_confirmed("INCR", replicas=1, milliseconds=50)


@pytest.mark.chaos
async def test_cuts_at_any_moment_are_survived(own_server) -> None:
    """Connections that are cut under load: each call ends, with a reply or a LogUnavailableError,
    and what was acknowledged is there."""
    server = own_server("valkey")
    acknowledged: list[int] = []
    ended = 0

    async def write(client, number):
        nonlocal ended
        for turn in range(40):
            connection = await client.connection()
            try:
                await connection.call("SADD", "all", number * 1000 + turn)
                acknowledged.append(number * 1000 + turn)
            except LogUnavailableError:
                pass
            ended += 1

    with Proxy(server.port) as proxy:
        async with opened(f"valkey://127.0.0.1:{proxy.port}") as client:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(write, client, number)
                for _ in range(10):
                    seen = ended
                    while ended < min(seen + 40, 700):
                        await trio.lowlevel.checkpoint()
                    await trio.to_thread.run_sync(proxy.cut)
            assert client.connections > 3
            members = await (await client.connection()).call("SMEMBERS", "all")
    assert ended == 800
    assert {b"%d" % one for one in acknowledged} <= set(members)


async def test_tls_is_verified_with_names_and_clients_certificates(
    own_server, certificates
) -> None:
    """The right authority, name and client's certificate come in; each wrong one is a sentence."""
    server = own_server("redis", certificates=certificates, clients_need_certificates=True)
    port = server.tls_port
    ca = f"ssl_ca_certs={certificates.authority}"
    own = f"ssl_certfile={certificates.client_certificate}&ssl_keyfile={certificates.client_key}"
    for url, arguments in [
        (f"rediss://localhost:{port}?{ca}&{own}", {}),
        (f"valkeys://127.0.0.1:{port}/3?{ca}&{own}", {}),
        (
            f"rediss://localhost:{port}",
            {"ssl_context": certificates.for_clients(with_certificate=True)},
        ),
    ]:
        async with opened(url, settings=arguments) as client:
            connection = await client.connection()
            value = b"x" * 1_000_000
            await connection.call("SET", "k", value)
            assert await connection.call("GET", "k") == value
            for _ in range(40):
                with trio.move_on_after(0.0005):
                    await connection.call("SET", "k", value[:100_000])
            assert await connection.call("ECHO", "end") == b"end"
            assert client.connections == 1
    why = await fails_to_open(f"rediss://localhost:{port}")
    assert "the server's certificate was not accepted" in why
    why = await fails_to_open(f"rediss://127.1:{port}?{ca}&{own}")  # 127.0.0.1 by another name
    assert "certificate is not valid for '127.1'" in why
    why = await fails_to_open(f"rediss://localhost:{port}?{ca}")
    assert "does it ask for ssl_certfile?" in why
    soon = ValkeyTimeouts(start=0.8, connect=0.5)
    why = await fails_to_open(f"rediss://127.0.0.1:{server.port}?{ca}&{own}", timeouts=soon)
    assert "does not answer for 0.5 s; if it has no TLS, write valkey://" in why
    why = await fails_to_open(f"redis://127.0.0.1:{port}", timeouts=soon)
    assert "if it asks for TLS, write valkeys://" in why


async def test_a_cluster_is_refused(own_server) -> None:
    """A server of a Cluster, even of one node, is refused with what to use instead."""
    server = own_server("valkey", cluster_enabled="yes", databases=1)
    assert "use one primary with replicas" in await fails_to_open(server.url)


def test_the_extra_is_named_where_it_is_missing() -> None:
    """Without hiredis, the error says what to install."""
    program = (
        "import sys; sys.modules['hiredis'] = None\n"
        "try: import flowstream.logs.valkey._valkey_client\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "MissingExtraError a log on Valkey or Redis needs the extra 'valkey': "
        "pip install 'flowstream-trio[valkey]'\n"
    )
