"""The client finds the primary by Sentinels, when it freezes or is moved."""

from __future__ import annotations

import pytest
import trio
from _odd_server import fails_to_open, opened
from real_servers.sentinels import Sentinels

from flowstream.logs import LogUnavailableError
from flowstream.logs.valkey._server_error import ServerError
from flowstream.logs.valkey._valkey_connection import ValkeyTimeouts

pytestmark = pytest.mark.chaos


async def set_until_done(client, key: str) -> None:
    """Write a key until it is acknowledged."""
    while True:
        connection = await client.connection()
        try:
            await connection.call("SET", key, 1)
            return
        except (LogUnavailableError, ServerError):
            await trio.sleep(0.01)


@pytest.mark.parametrize("kind", ["valkey", "redis"])
@pytest.mark.timeout(120)
async def test_the_primary_is_followed(kind, own_server) -> None:
    """It is moved, then frozen with a Sentinel dead: the client is where the Sentinels say."""
    servers = [own_server(kind), own_server(kind), own_server(kind)]
    for other in servers[1:]:
        await trio.to_thread.run_sync(other.replica_of, servers[0])
    by_port = {server.port: server for server in servers}
    with Sentinels(servers[0], password="s3/cret") as sentinels:
        hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels.ports)
        url = f"{kind}+sentinel://{hosts}/main/2?sentinel_password=s3%2Fcret"
        wrong = f"valkey+sentinel://{hosts}/other?sentinel_password=s3%2Fcret"
        soon = ValkeyTimeouts(start=1)
        assert "knows no service 'other'" in await fails_to_open(wrong, timeouts=soon)
        assert "does not know this user or password" in await fails_to_open(
            f"valkey+sentinel://{hosts}/main?sentinel_password=x", timeouts=soon
        )
        assert "this is a sentinel" in await fails_to_open(
            f"valkey://:s3%2Fcret@{hosts}", timeouts=soon
        )
        port = servers[1].port
        assert "this is no sentinel" in await fails_to_open(
            f"valkey+sentinel://127.0.0.1:{port}/main", timeouts=soon
        )
        async with opened(url) as client:
            await set_until_done(client, "a")
            first = sentinels.master_port()
            assert (await client.connection()).where == f"127.0.0.1:{first}"

            await trio.to_thread.run_sync(sentinels.failover)
            second = sentinels.master_port()
            with trio.fail_after(30):
                while (await client.connection()).where != f"127.0.0.1:{second}":
                    await set_until_done(client, "b")
                    await trio.sleep(0.05)

            sentinels.kill(0)
            by_port[second].freeze()
            await trio.to_thread.run_sync(sentinels.wait_for_master, by_port[second])
            third = sentinels.master_port()
            with trio.fail_after(30):
                await set_until_done(client, "c")
                assert (await client.connection()).where == f"127.0.0.1:{third}"
            assert client.connections >= 3


@pytest.mark.timeout(60)
async def test_sentinels_have_tls_and_users_of_their_own(own_server, certificates) -> None:
    """TLS to the Sentinels alone, or to both, and a user for the servers that they do not know."""
    server = own_server("redis", certificates=certificates)
    server.add_user("ann", "s3/cret")
    ca = f"ssl_ca_certs={certificates.authority}"
    with Sentinels(server, count=1, password="0ther", certificates=certificates) as sentinels:
        [port] = sentinels.tls_ports
        login = "sentinel_username=default&sentinel_password=0ther"
        url = (
            f"redis+sentinel://ann:s3%2Fcret@localhost:{port}/main"
            f"?{login}&sentinel_ssl=true&sentinel_{ca}"
        )
        async with opened(url) as client:
            assert await (await client.connection()).call("ACL", "WHOAMI") == b"ann"
        why = await fails_to_open(
            f"redis+sentinel://localhost:{port}/main?{login}&sentinel_ssl=true",
            timeouts=ValkeyTimeouts(start=1),
        )
        assert "certificate was not accepted" in why
