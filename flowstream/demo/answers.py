"""Answers: text that is made token by token, in a run, so that it goes on while its page reloads.

`POST /answers` starts an answer. `GET /answers/<id>` reads it from its beginning; any number of
pages may read it. `DELETE` stops it for all of them. A page that only leaves does not stop it. An
answer without a reader ends after a while.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterable, Callable, Mapping

from quart import request
from quart_trio import QuartTrio

from flowstream import Runs, StreamResponse, sse
from flowstream.sources import Source

from . import _query
from . import model as language_model
from .model import LanguageModel
from .tokens import tokens, topic_names

GRACE = 60.0
"""Seconds that an answer goes on without a reader."""

RUNNING = 8
"""Answers at a time. A client that asks for one more is told to wait."""

Show = Callable[[StreamResponse, str], StreamResponse]
"""Puts a stream into the gallery, under the name of its policy."""


def add_answers(app: QuartTrio, show: Show, model: LanguageModel | None) -> None:
    """Add the views of answers to `app`."""
    runs = Runs(grace=GRACE, max_running=RUNNING, max_kept=4 * RUNNING)

    @app.post("/answers")
    async def start() -> tuple[Mapping[str, str], int]:
        source = text_of(request.args, model)
        id = str(uuid.uuid4())  # anybody who knows it may read the answer, and stop it
        runs.start(id, source)
        return {"id": id}, 201

    @app.get("/answers/<id>")
    async def read(id: str) -> StreamResponse:
        return show(sse(runs[id]), "catch_up")

    @app.delete("/answers/<id>")
    async def stop(id: str) -> tuple[str, int]:
        await runs.stop(id)
        return "", 204


class NoTopicError(LookupError):
    """The documentation has no such topic; the view answers 404."""


def text_of(
    arguments: _query.Arguments, model: LanguageModel | None
) -> Source | AsyncIterable[object]:
    """Return the text that a query asks for, as a source of tokens.

    Raises:
        BadParameterError: a parameter is unknown or wrong.
        NoTopicError: there is no such topic.
    """
    if model is not None and "topic" not in arguments:
        return _continuation(arguments, model)
    if model is None and "prompt" in arguments:
        expected = "left out where there is no model (flowstream demo --model has one)"
        raise _query.BadParameterError("prompt", arguments["prompt"], expected)
    _query.known(arguments, ("topic", "rate", "client"))
    topic = arguments.get("topic", "lambda")
    if topic not in topic_names():
        raise NoTopicError(f"there is no documentation topic {topic[:80]!r}; /topics lists them")
    rate = _query.number(
        arguments, "rate", 40, low=0, high=100_000, unit="tokens a second (0: no limit)"
    )
    return tokens(topic, rate or None)


def _continuation(arguments: _query.Arguments, model: LanguageModel) -> Source:
    _query.known(arguments, ("prompt", "max_tokens", "client"))
    beginning = arguments.get("prompt", language_model.BEGINNING)
    if len(beginning) > language_model.LONGEST_BEGINNING:
        expected = f"at most {language_model.LONGEST_BEGINNING} characters"
        raise _query.BadParameterError("prompt", beginning, expected)
    low, high = 1, language_model.MAX_TOKENS
    usual = language_model.USUAL_TOKENS
    size = _query.whole(arguments, "max_tokens", usual, low=low, high=high, unit="tokens")
    return model.go_on(beginning, size)
