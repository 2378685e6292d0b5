"""Text, token by token, in the shape in which language models are streamed.

No model: the text is real and Python ships it, the topics of its own documentation (those
that `python3 -m pydoc topics` lists). What matters here is the shape, the pace, and that
the tokens joined are the text, to the character.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator, Mapping

from ._rate import Rate

# A run of blanks belongs to the word after it, as with the tokens of a model; what
# is long is cut. Every character is in exactly one match.
_TOKEN = re.compile(r"\s*\w{1,8}|\s*[^\w\s]{1,3}|\s+")


@functools.cache
def _topics() -> Mapping[str, str]:
    from pydoc_data.topics import topics  # 700 KB of text: only when it is asked for

    return topics


def topic_names() -> list[str]:
    """Return the topics there are, in alphabetical order."""
    return sorted(_topics())


def split(text: str) -> list[str]:
    """Cut `text` into tokens; joined they give it back."""
    return _TOKEN.findall(text)


async def tokens(topic: str, rate: float | None = 40.0) -> AsyncGenerator[dict[str, str], None]:
    """Yield the tokens of a documentation topic, and at last that it is done.

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
