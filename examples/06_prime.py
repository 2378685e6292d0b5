"""A producer that may be refused: a proper 403 or 404, although it streams.

    flowstream serve examples/06_prime.py:app
    curl -i http://127.0.0.1:8000/documents/mine
    curl -i http://127.0.0.1:8000/documents/yours
    curl -i http://127.0.0.1:8000/documents/nobodys

`prime=2.0` waits up to two seconds for the first item before the status line goes out. What the
producer raises by then is for the app's own error handlers.
"""

import trio
from quart import jsonify
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound

from flowstream import PublicError, ndjson
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)


class NotYoursError(Exception):
    """Somebody asks for what belongs to somebody else."""


@app.errorhandler(NotYoursError)
async def not_yours(error):
    return jsonify(error=str(error)), 403


async def lines(name):
    await trio.sleep(0.1)  # asks the upstream, which knows
    if name == "yours":
        raise NotYoursError("this document is not yours")
    if name != "mine":
        raise NotFound
    yield {"line": 1, "text": "What is here was allowed."}
    # After the status line there is only the stream to tell it in.
    raise PublicError("upstream_lost", "The rest of the document is not to be had now.")


@app.get("/documents/<name>")
async def document(name):
    return ndjson(lines(name), prime=2.0)
