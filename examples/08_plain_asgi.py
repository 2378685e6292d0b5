"""No framework: a StreamResponse is an ASGI application. Here it upper-cases an upload.

    flowstream serve examples/08_plain_asgi.py:app
    curl -NT README.md http://127.0.0.1:8000/

The producer reads the request's body while its stream is written, at the pace at which the client
reads. Both need `receive`, the stream to hear that the client has gone; hence `SharedReceive`.
"""

from flowstream import SharedReceive, raw


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError(f"only HTTP here, not {scope['type']}")
    receive = SharedReceive(receive)

    async def upper():
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            yield message["body"].upper()
            more = message["more_body"]

    response = raw(upper, media_type="text/plain; charset=latin-1")
    await response(scope, receive, send)
