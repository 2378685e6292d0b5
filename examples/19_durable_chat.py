"""A chat whose answer survives the worker that makes it.

    flowstream serve examples/19_durable_chat.py:app --workers 2
    # open http://127.0.0.1:8000/, ask, and reload: either worker shows the answer

The answer is a run in a log. If its worker is killed, another one goes on with it.
"""

import os
import uuid
from pathlib import Path
from pydoc_data.topics import topics

import trio
from quart import request
from quart_trio import QuartTrio

from flowstream import Runs, sse
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app, log=os.environ.get("FLOWSTREAM_LOG_URL", "sqlite:///chats.db"))
page = Path(__file__).with_name("17_chat.html").read_text()


async def answer(question, done=0):
    for word in topics.get(question, f"Nothing is known of {question}.").split(" ")[done:]:
        await trio.sleep(0.02)
        yield {"type": "token", "data": word + " ", "question": question}


def go_on(lost):
    """Go on behind the words that are in the log; a real app asks its model to."""
    return answer(lost.events[0].data["question"], len(lost.events)) if lost.events else None


runs = Runs("chats", grace=30, on_owner_lost=go_on)


@app.get("/")
async def chat():
    return page


@app.post("/chats")
async def ask():
    id = str(uuid.uuid4())  # who knows it may read the chat, and stop it
    await runs.claim(id, answer((await request.form)["question"]))
    return {"id": id}, 201


@app.get("/chats/<id>")
async def read(id):
    return sse(await runs.open(id))


@app.delete("/chats/<id>")
async def stop(id):
    await runs.stop(id)
    return "", 204
