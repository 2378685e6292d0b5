"""A test's own Valkey and Redis do what they are told, and come back as they were."""

from __future__ import annotations

import pytest

from real_servers.own_process import free_port
from real_servers.proxy import Proxy
from real_servers.sentinels import Sentinels
from real_servers.wire import WireError, call


@pytest.fixture(params=["valkey", "redis"])
def kind(request):
    return request.param


def test_the_shared_ones_answer(broker):
    """Each is there, at a URL that names its kind."""
    scheme, _, rest = broker.partition("://127.0.0.1:")
    assert scheme in ("valkey", "redis")
    assert call(int(rest.partition("/")[0]), "PING") == "PONG"


def test_what_was_acknowledged_outlives_a_kill(own_server, kind):
    """Killed and started again at the same port, it has its data; cut short, it has less."""
    server = own_server(kind, appendfsync="always")
    for number in range(100):
        server.call("SET", f"key {number}", "x" * 50)
    life = server.info("server")["run_id"]
    server.restart()
    assert server.call("DBSIZE") == 100
    assert server.info("server")["run_id"] != life
    server.kill()
    assert server.cut_aof(1000) == 1000
    server.start()
    assert 0 < server.call("DBSIZE") < 100
    server.kill()
    server.lose_all()
    server.start()
    assert server.call("DBSIZE") == 0


def test_a_frozen_one_says_nothing_until_it_thaws(own_server, kind):
    """The kernel takes the connection; no reply comes."""
    server = own_server(kind)
    server.freeze()
    with pytest.raises(TimeoutError):
        call(server.port, "PING", timeout=0.05)
    server.thaw()
    assert server.call("PING") == "PONG"


def test_a_replica_is_promoted(own_server, kind):
    """It copies its master, refuses writes until it is one, and back again."""
    one, other = own_server(kind), own_server(kind)
    one.call("SET", "here", "one")
    other.replica_of(one)
    other.wait_in_step(one)
    assert not other.is_master
    with pytest.raises(WireError, match="READONLY"):
        other.call("SET", "here", "other")
    other.promote()
    other.call("SET", "here", "other")
    one.replica_of(other)
    one.wait_in_step(other)
    assert one.call("GET", "here") == "other"


def test_a_user_may_do_what_its_rules_say(own_server, kind):
    """Also in the server's next life."""
    server = own_server(kind)
    server.add_user("reader", "secret word", "~*", "+get")
    server.restart()
    assert call(server.port, "GET", "x", user=("reader", "secret word")) is None
    with pytest.raises(WireError, match="NOPERM"):
        call(server.port, "SET", "x", 1, user=("reader", "secret word"))
    with pytest.raises(WireError, match="WRONGPASS"):
        call(server.port, "GET", "x", user=("reader", "wrong"))


def test_tls_of_redis_itself(own_server, certificates):
    """A client that trusts the authority gets in; with a certificate of its own where it must."""
    server = own_server("redis", certificates=certificates, clients_need_certificates=True)
    known = certificates.for_clients(with_certificate=True)
    assert call(server.tls_port, "PING", tls=known) == "PONG"
    with pytest.raises(OSError):
        call(server.tls_port, "PING", tls=certificates.for_clients())


def test_a_proxy_speaks_tls_is_cut_held_and_points_elsewhere(own_server, certificates):
    """In front of a server that has no TLS itself."""
    one, other = own_server(), own_server()
    one.call("SET", "who", "one")
    other.call("SET", "who", "other")
    client = certificates.for_clients()
    with Proxy(one.port, tls=certificates.for_servers()) as proxy:
        assert call(proxy.port, "GET", "who", tls=client) == "one"
        proxy.point_at(other.port)
        assert call(proxy.port, "GET", "who", tls=client) == "other"
        proxy.hold()
        with pytest.raises(TimeoutError):
            call(proxy.port, "GET", "who", tls=client, timeout=0.05)
        proxy.release()
        proxy.refuse()
        with pytest.raises(OSError):
            call(proxy.port, "GET", "who", tls=client)
        proxy.allow()
        assert call(proxy.port, "GET", "who", tls=client) == "other"


def test_an_address_moves_to_another_server(own_server, kind):
    """The first one lets it go; a server that was given a port has it in its next life, too."""
    one, other = own_server(kind), own_server(kind)
    port = one.port
    one.take_port(free_port())
    other.take_port(port)
    other.call("SET", "who", "other")
    assert call(port, "GET", "who") == "other"
    other.kill()
    other.take_port(free_port())
    other.start()
    assert other.port != port
    assert other.call("GET", "who") == "other"
    one.take_port(port)
    assert call(port, "GET", "who") is None


@pytest.mark.chaos
def test_sentinels_promote_a_replica(own_server, kind):
    """When they are told to, and when the master is killed; the old one comes back as a replica."""
    one, other = own_server(kind), own_server(kind)
    other.replica_of(one)
    other.wait_in_step(one)
    with Sentinels(one) as sentinels:
        assert sentinels.master_port() == one.port
        sentinels.failover()
        assert sentinels.master_port() == other.port
        one.wait_in_step(other)
        other.kill()
        assert sentinels.wait_for_master(other) == one.port
