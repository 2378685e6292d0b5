from contextlib import aclosing
from pydoc_data.topics import topics

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from flowstream.demo.tokens import split, tokens, topic_names


@pytest.mark.parametrize("topic", ["lambda", "class", "formatstrings"])
async def test_the_tokens_joined_are_the_text(topic):
    """Nothing of the text is lost or changed, and `done` comes once, at the end."""
    got = [token async for token in tokens(topic, None)]
    assert got[-1] == {"type": "done"}
    assert all(token["type"] == "token" for token in got[:-1])
    assert "".join(token["data"] for token in got[:-1]) == topics[topic]


@given(st.text())
def test_any_text_survives_being_cut(text):
    """Joined tokens are the text, whatever the text."""
    assert "".join(split(text)) == text


def test_tokens_are_small():
    """A token is a short word with the blanks before it, as those of models are."""
    assert split("Lambda expressions (sometimes)") == [
        "Lambda",
        " expressi",
        "ons",
        " (",
        "sometime",
        "s",
        ")",
    ]


async def test_tokens_come_at_their_rate(autojump_clock):
    """Ten tokens at 5 a second take two seconds."""
    async with aclosing(tokens("lambda", 5)) as stream:
        for _ in range(10):
            await anext(stream)
    assert trio.current_time() == pytest.approx(2)


async def test_a_producer_that_was_held_up_does_not_rush(autojump_clock):
    """After a client did not read for a minute, the next tokens come at the old rate."""
    async with aclosing(tokens("lambda", 5)) as stream:
        await anext(stream)
        await trio.sleep(60)
        await anext(stream)
        start = trio.current_time()
        for _ in range(5):
            await anext(stream)
    assert trio.current_time() - start == pytest.approx(1, abs=0.06)


async def test_an_unknown_topic_fails_before_the_first_token():
    """A topic that Python's documentation has not is a LookupError that names it."""
    with pytest.raises(LookupError, match="no-such-topic"):
        await anext(tokens("no-such-topic"))


def test_the_topics_are_those_of_pydoc():
    """Every topic of `pydoc topics` can be asked for, in order."""
    assert topic_names() == sorted(topics)
