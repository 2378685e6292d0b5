"""Passwords of a Valkey URL reach no error, no log line and no repr."""

from __future__ import annotations

import gc
import logging
import traceback

import pytest
import trio
from _odd_server import bulk, fails_to_open, hello, odd_server, opened, polite

from flowstream.logs import LogUnavailableError, open_log
from flowstream.logs.valkey import _greeting, _primary, _valkey_client, _valkey_connection
from flowstream.logs.valkey._conversation import Conversation, PendingCall
from flowstream.logs.valkey._valkey_log import ValkeyLog
from flowstream.logs.valkey._valkey_settings import ServerLogin, ValkeySettings

KINDS = (
    Conversation,
    PendingCall,
    ServerLogin,
    ValkeySettings,
    _greeting.Greeting,
    _primary.Primary,
    _valkey_client.ValkeyClient,
    _valkey_connection.ValkeyConnection,
    _valkey_connection.ValkeyTimeouts,
)
SECRETS = ("s3cret", "0ther", "s3/cret", "s3%2Fcret")


def assert_no_secret(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


def everything_written(error: BaseException | None) -> str:
    """Return all that Python writes of an error, its causes and its group."""
    return "" if error is None else "".join(traceback.format_exception(error)) + repr(error)


ECHO = b"-ERR unknown command 'HELLO', with args beginning with: 'AUTH' 'u' 's3/cret' '0ther'\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        ECHO,
        ECHO.replace(b"ERR", b"s3/cret"),
        b"-s3/cret\r\n",
        b"-S3/CRET s3/cret 0ther\r\n",
        b"-WRONGPASS s3/cret\r\n",
        b"-LOADING s3/cret 0ther\r\n",
        b"$7\r\ns3/cret\r\n",
        b"s3/cret\r\n",
        hello(mode="cluster", version="s3/cret"),
        hello(version="0.s3/cret"),
        hello(role="s3/cret"),
        None,
        b"",
    ],
)
@pytest.mark.parametrize("to", [b"HELLO", b"SELECT", b"INFO", b"SENTINEL", b"SET"])
async def test_a_server_that_repeats_what_it_heard_gives_nothing_away(
    reply, to, autojump_clock, caplog
) -> None:
    """Whatever a server replies to the login and what follows: no error, line or object that
    belongs to the client shows a password."""
    caplog.set_level(logging.DEBUG)
    sentinel = to == b"SENTINEL"

    async def answer(command, stream):
        if command[0] == to:
            return reply
        if command[0] == b"HELLO" and sentinel:
            return hello(mode="sentinel")
        return polite(command)

    written = ""
    async with odd_server(answer) as server:
        url = f"valkey://u:s3%2Fcret@127.0.0.1:{server.port}/3"
        if sentinel:
            url = (
                f"valkey+sentinel://u:s3%2Fcret@127.0.0.1:{server.port}/main/3"
                "?sentinel_username=v&sentinel_password=0ther"
            )
        try:
            async with opened(url) as client:
                connection = await client.connection()
                written += repr(client) + repr(vars(client))
                written += repr(connection) + repr(vars(connection))
                with trio.move_on_after(1):
                    await connection.call("SET", "k", "v")
        except BaseExceptionGroup as error:
            if to != b"SET":  # what a server replies to the log's own command is for the log
                written += everything_written(error)
        written += caplog.text
        if reply is None:  # all objects look the same each time
            found = [one for one in gc.get_objects() if type(one) in KINDS]
            written += "".join(repr(one) + str(one) for one in found)
    assert_no_secret(written)


async def test_an_address_from_a_sentinel_is_no_secret_and_may_be_nonsense(
    autojump_clock,
) -> None:
    """A sentinel that gives no address, or one of no host, is one sentence."""
    said = b"*2\r\n" + bulk(b"a b\xff") + bulk(b"1")

    async def answer(command, stream):
        if command[0] == b"HELLO":
            return hello(mode="sentinel")
        return said if command[0] == b"SENTINEL" else polite(command)

    for reply, why in [
        (b"_\r\n", "knows no service 'main'"),
        (b"*1\r\n+x\r\n", "makes no sense"),
        (said, "makes no sense"),
        (b"*2\r\n" + bulk(b"h..x") + bulk(b"1"), "h..x:1"),
        (b"*2\r\n" + bulk(b"127.0.0.1") + bulk(b"99999999"), "127.0.0.1:99999999"),
        (b"*2\r\n" + bulk(b"127.0.0.1") + bulk(b"-1"), "127.0.0.1:-1"),
        (b"-IDONTKNOW I have not yet\r\n", "IDONTKNOW"),
    ]:
        said = reply
        async with odd_server(answer) as server:
            url = f"valkey+sentinel://127.0.0.1:{server.port}/main"
            assert why in await fails_to_open(url)


@pytest.mark.parametrize(
    "url",
    [
        "valkey://u:s3cret@127.0.0.1:1/0",
        "valkey+sentinel://u:s3cret@127.0.0.1:1/main?sentinel_password=0ther",
        "valkey://u:s3cret@127.0.0.1:1/0?wait_replicas=0ther",
        "valkey://u:s3cret@127.0.0.1:1/0?never_rolls_back=0ther",
        "valkey://u:s3cret@127.0.0.1:1/0?s3cret=0ther",
        "valkey://u:s3/cret@127.0.0.1:1/0",
        "valkeyy://u:s3cret@127.0.0.1:1/0",
        "VALKEY://u:s3cret@[127.0.0.1:1/0",
        "http://u:s3cret@127.0.0.1:1/0",
    ],
)
async def test_a_log_keeps_the_secrets_of_its_url(url, autojump_clock, caplog) -> None:
    """Neither a log that can't be opened nor a URL that can't be read shows a password."""
    caplog.set_level(logging.DEBUG)
    written = ""
    try:
        async with open_log(url, namespace="n") as log:
            raise AssertionError(log)
    except (ValueError, LogUnavailableError) as error:
        written += everything_written(error) + caplog.text
        if isinstance(error, LogUnavailableError):
            log = ValkeyLog(url)
            written += repr(log) + str(log) + repr(vars(log))
    assert written
    assert_no_secret(written)
