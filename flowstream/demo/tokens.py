"""Yield text token by token, as a language model does.

There is no model. The text is the documentation that comes with Python: the topics that
`python3 -m pydoc topics` lists. It has the shape and the pace of an answer, and the tokens joined
are exactly the text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator, Mapping

from ._rate import Rate

# Blanks belong to the word after them, as in the tokens of a model. Long words are cut. Every
# character is in exactly one match.
_TOKEN = re.compile(r"\s*\w{1,8}|\s*[^\w\s]{1,3}|\s+")


@functools.cache
def _topics() -> Mapping[str, str]:
    from pydoc_data.topics import topics  # 700 KB of text, imported only when it is needed

    return topics


def topic_names() -> list[str]:
    """Return the names of the topics, in alphabetical order."""
    return sorted(_topics())


def split(text: str) -> list[str]:
    """Cut `text` into tokens. Joined, they are `text` again."""
    return _TOKEN.findall(text)


async def tokens(topic: str, rate: float | None = 40.0) -> AsyncGenerator[dict[str, str], None]:
    """Yield the tokens of a documentation topic, then ``{"type": "done"}``.

    Args:
        topic: one of `topic_names`.
        rate: tokens a second; None for as fast as the client takes them.

    Raises:
        LookupError: there is no such topic; before anything is yielded.
    """
    text = _topics().get(topic)
    if text is None:
        raise LookupError(f"no documentation topic {topic!r}; topic_names() has those there are")
    pace = Rate(rate)
    for token in split(text):
        await pace.wait()
        yield {"type": "token", "data": token}
    yield {"type": "done"}
