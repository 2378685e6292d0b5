"""A language model's answer, from OpenAI or from any server that speaks its API.

    OPENAI_API_KEY=... flowstream serve examples/13_llm_tokens.py:app
    curl -N 'http://127.0.0.1:8000/answer?q=What+is+a+lambda'

Without a key, with a model of your own (this one is Ollama's):

    export OPENAI_BASE_URL=http://127.0.0.1:11434/v1 MODEL=llama3.2

Press Ctrl-C in the curl: the connection to the model's server is closed, and the model stops.
Give it a wrong key: the answer is a 502, and why is in the log.
"""

import os

from openai import AsyncOpenAI
from quart import abort, request
from quart_trio import QuartTrio

from flowstream import ndjson
from flowstream.quart import Flowstream
from flowstream.sources import openai_tokens

app = QuartTrio(__name__)
Flowstream(app)

client = AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY", "none"))
model = os.environ.get("MODEL", "gpt-4o-mini")


@app.get("/answer")
async def answer():
    question = request.args.get("q") or abort(400)
    messages = [{"role": "user", "content": question}]
    return ndjson(openai_tokens(client, model=model, messages=messages), prime=20)
