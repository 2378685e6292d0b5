"""The benchmark of attacks goes on working: every attack is made, and its program measures one."""

import json
import logging
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import trio
import trustme

import flowstream
from flowstream.server import streaming_config

pytestmark = pytest.mark.chaos

HERE = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def attacks(monkeypatch):
    """Return the module that has all attacks."""
    monkeypatch.syspath_prepend(str(HERE))
    return import_module("_attack_run")


def port(url):
    return int(url.rpartition(":")[2].rstrip("/"))


async def test_every_attack_is_made_and_the_server_goes_on(
    attacks, clean_log, aeventually, tmp_path
):
    """All attacks that need no preparation go on at once, on one server, which answers after it."""
    clean_log.set_level(logging.INFO)
    pem = tmp_path / "server.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    config = streaming_config(
        bind=["127.0.0.1:0"],
        insecure_bind=["127.0.0.1:0"],
        certfile=str(pem),
        keyfile=str(pem),
        h2c=True,
        graceful_timeout=0.5,
        websocket_max_message_size=1 << 20,
    )
    wanted = [one for one in attacks.ATTACKS.values() if one.prepares is None]
    tolls = {one.name: attacks.Toll() for one in wanted}
    app = import_module("_attack_app").Site()
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(flowstream.serve, app, config)
        ports = {url.partition(":")[0]: port(url) for url in urls}
        async with trio.open_nursery() as attacking:
            for one in wanted:
                aim = attacks.Aim(ports["http"], ports["https"], tolls[one.name])
                attacking.start_soon(attacks.again_and_again, one, aim)
            await aeventually(lambda: all(toll.begun for toll in tolls.values()), "all begin")
            await trio.sleep(0.5)  # for their floods to arrive
            attacking.cancel_scope.cancel()
        async with await trio.open_tcp_stream("127.0.0.1", ports["http"]) as client:
            await client.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            with trio.fail_after(30):
                async for data in client:
                    answer += data
        assert answer.endswith(b"hello, world\n")
        nursery.cancel_scope.cancel()
    assert len(tolls) > 35


@pytest.mark.timeout(120)
def test_the_benchmark_measures_an_attack(tmp_path):
    """The program starts a server, attacks it, ends it, and writes what it has measured."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(HERE / "attacks.py"), "--attacks", "h2_idle"]
    short = ["--rounds", "1", "--quiet", "0.3", "--seconds", "0.3", "--sides", "flowstream"]
    done = subprocess.run(
        [*command, *short, "--json", str(figures)], capture_output=True, text=True, check=True
    )
    assert "| The preface, and nothing more | 500 |" in done.stdout
    (result,) = json.loads(figures.read_text())
    assert (result["attack"], result["side"], result["tracebacks"]) == ("h2_idle", "flowstream", 0)
    assert 0 < result["before"] <= result["peak"]
    assert result["rounds"][0]["begun"]
    assert all(latency["count"] for latency in result["rounds"][0]["events"])
    assert result["ended"] is not None
