"""An endpoint that any client of OpenAI's API reads: give it this base_url.

    flowstream serve examples/14_openai_compatible.py:app
    python -c '
    from openai import OpenAI
    ask = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="any").chat.completions.create
    messages = [{"role": "user", "content": "lambda"}]
    for chunk in ask(model="pydoc", messages=messages, stream=True):
        print(chunk.choices[0].delta.content or "", end="", flush=True)'

The model knows Python's own help topics. A producer that wraps a real one (`openai_tokens`,
`anthropic_tokens`, `local_tokens`) yields the same events. Press Ctrl-C half-way: the producer
is cancelled where it is.
"""

from pydoc_data.topics import topics

import trio
from quart import request
from quart_trio import QuartTrio

from flowstream import NotFoundError, stream
from flowstream.encoders import OpenAIChunks
from flowstream.llm import Done, Token, Usage
from flowstream.quart import Flowstream

app = QuartTrio(__name__)
Flowstream(app)


async def answer(question, limit):
    if question not in topics:  # with `prime`, a 404 instead of an answer that fails
        raise NotFoundError("No help on that. Try lambda, yield or with.")
    words = topics[question].split(" ")
    for word in words[:limit]:
        await trio.sleep(0.02)
        yield Token(word + " ")
    yield Usage(input_tokens=1, output_tokens=len(words[:limit]))
    yield Done("stop" if len(words) <= limit else "length")


@app.post("/v1/chat/completions")
async def completions():
    asked = await request.get_json()
    if not asked.get("stream"):
        error = {"message": "only with stream=True", "type": "invalid_request_error"}
        return {"error": error}, 400
    usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    encoder = OpenAIChunks("pydoc", include_usage=usage)
    question = asked["messages"][-1]["content"].strip()
    limit = asked.get("max_completion_tokens") or 500
    return stream(answer(question, limit), encoder=encoder, prime=2.0)


@app.get("/v1/models")
async def models():
    model = {"id": "pydoc", "object": "model", "created": 0, "owned_by": "python"}
    return {"object": "list", "data": [model]}
