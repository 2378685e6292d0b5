"""Tokens as NDJSON: what a language model's answer looks like on its way.

    flowstream serve examples/01_tokens.py:app
    curl -N 'http://127.0.0.1:8000/answer?topic=lambda'

Press Ctrl-C in the curl: the generator is cancelled in its sleep, and says so.
"""

from pydoc_data.topics import topics

import trio
from quart import abort, request
from quart_trio import QuartTrio

from flowstream import ndjson
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)


async def tokens(text):
    sent = 0
    try:
        for word in text.split():
            yield {"type": "token", "data": word}
            sent += 1
            await trio.sleep(0.02)
        yield {"type": "done"}
    finally:
        print(f"{sent} tokens were sent")


@app.get("/answer")
async def answer():
    topic = request.args.get("topic", "lambda")
    if topic not in topics:
        abort(404)
    return ndjson(tokens(topics[topic]))
