"""Serve HTTP/3 with aioquic and Hypercorn, if it is asked for.

Not all promises hold here: what an app sends is kept without bound, a client that reads nothing is
not closed, and streams are not told of a shutdown. What clients may do is bounded as elsewhere
(`_http3`).
"""

from __future__ import annotations

import logging
from typing import Any

import trio

from flowstream._errors import MissingExtraError
from flowstream.server._hypercorn import ASGIWrapper, ConnectionState
from flowstream.server._settings import ServerConfig
from flowstream.server._trouble import QUIET, Trouble, times

logger = logging.getLogger("flowstream.server")

# Seconds before a server that failed is started again, and between two checks whether the last
# connection has ended, for which there is no event.
_PAUSE = 0.1


def check_quic() -> None:
    """Warn of what HTTP/3 lacks.

    Raises:
        MissingExtraError: aioquic is not installed.
    """
    try:
        import aioquic  # noqa: F401  # is it installed?
    except ImportError as error:
        raise MissingExtraError(
            "quic_bind needs aioquic for HTTP/3: pip install 'flowstream-trio[http3]'"
        ) from error
    logger.warning(
        "HTTP/3 has no backpressure: what an app sends to a slow client is kept without "
        "bound, a stalled client is not closed, and streams get no farewell at a shutdown"
    )


async def serve_quic(sock: Any, app: Any, config: ServerConfig, context: Any, state: Any) -> None:
    """Serve HTTP/3 on `sock` until the server shuts down and the last client has left."""
    from flowstream.server.http3._datagrams import Datagrams  # which imports aioquic

    wrapped = ASGIWrapper(app)
    trouble = Trouble()
    with sock:
        while not context.terminated.is_set():
            try:
                await _serve_until_told(
                    Datagrams(wrapped, config, context, ConnectionState(dict(state)), sock),
                    context,
                    trouble,
                )
            except* Exception as group:
                if count := trouble.fail(trio.current_time()):
                    logger.info("HTTP/3 starts again after %r%s", group.exceptions[0], times(count))
                logger.debug("what ended it", exc_info=group)
                await trio.sleep(_PAUSE)


async def _serve_until_told(server: Any, context: Any, trouble: Trouble) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        if trouble.is_on:
            nursery.start_soon(_tell_of_the_end, trouble)
        await context.terminated.wait()
        while not server.protocol.idle:  # noqa: ASYNC110  # see _PAUSE
            await trio.sleep(_PAUSE)
        nursery.cancel_scope.cancel()


async def _tell_of_the_end(trouble: Trouble) -> None:
    await trio.sleep(QUIET)  # a server that runs for this long works
    trouble.work()
    if over := trouble.end(trio.current_time()):
        logger.info("HTTP/3 works again, after %d failures in %.0f s", *over)
