"""A chat whose answer goes on while its page is reloaded, and stops when its reader says so.

    flowstream serve examples/17_chat.py:app
    # open http://127.0.0.1:8000/, ask, reload in the middle, stop

The answer is a run: it belongs to the chat and not to the connection. A page that comes back
attaches to it again, and gets all of it. If none comes for ten seconds the answer is given up,
and costs nothing more. The page is in 17_chat.html: an EventSource and a few fetches.
"""

import uuid
from pathlib import Path
from pydoc_data.topics import topics

import trio
from quart import request
from quart_trio import QuartTrio

from flowstream import Runs, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)
runs = Runs(grace=10)
page = Path(__file__).with_suffix(".html").read_text()


@app.get("/")
async def chat():
    return page


@app.post("/chats")
async def ask():
    question = (await request.form)["question"]
    id = str(uuid.uuid4())  # who knows it may read the chat, and stop it

    async def answer():
        for word in topics.get(question, f"Nothing is known of {question}.").split(" "):
            await trio.sleep(0.02)
            yield {"type": "token", "data": word + " "}

    runs.start(id, answer)
    return {"id": id}, 201


@app.get("/chats/<id>")
async def read(id):
    return sse(runs[id])


@app.delete("/chats/<id>")
async def stop(id):
    await runs.stop(id)
    return "", 204
