"""What is said to a server of Valkey or Redis and what it owes, as values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.logs.valkey import _conversation
from flowstream.logs.valkey._conversation import Conversation, PendingCall
from flowstream.logs.valkey._server_error import ServerError

ALL = 1 << 30


def test_commands_are_written_as_arrays_of_bytes() -> None:
    """Bytes, text and numbers are written by their length, so nothing in them is taken for RESP."""
    talk = Conversation(lambda push: None)
    talk.put([("SET", b"k\r\n", "é"), (b"ADD", 1, 2.5, "")])
    assert talk.take(ALL) == (
        b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n\xc3\xa9\r\n"
        b"*4\r\n$3\r\nADD\r\n$1\r\n1\r\n$3\r\n2.5\r\n$0\r\n\r\n"
    )


@pytest.mark.parametrize("word", [None, True, ["a"], bytearray(b"a")])
def test_a_word_that_can_not_be_written_puts_nothing(word: Any) -> None:
    """A call with a wrong word leaves nothing to send, and nothing owed."""
    talk = Conversation(lambda push: None)
    with pytest.raises(TypeError):
        talk.put([("GET", "a"), ("SET", "k", word)])
    assert (talk.take(ALL), talk.owed, len(talk.calls)) == (b"", 0, 0)


VALUES = st.recursive(
    st.one_of(
        st.binary(max_size=40),
        st.integers(-(2**63), 2**63 - 1),
        st.none(),
        st.booleans(),
        st.floats(allow_nan=False),
    ),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def resp(value: Any, *, push: bool = False) -> bytes:
    """Return a value as a server writes it in RESP3."""
    if isinstance(value, list):
        return b"%s%d\r\n" % (b">" if push else b"*", len(value)) + b"".join(map(resp, value))
    if isinstance(value, bytes):
        return b"$%d\r\n%s\r\n" % (len(value), value)
    if isinstance(value, bool):
        return b"#t\r\n" if value else b"#f\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, float):
        return b",%s\r\n" % repr(value).encode()
    return b"_\r\n"


@given(st.data())
def test_replies_and_pushes_may_be_cut_between_any_two_bytes(data: st.DataObject) -> None:
    """However the bytes come in pieces, each call has its own replies, and pushes keep order."""
    heard: list[Any] = []
    talk = Conversation(heard.append)
    said, wanted, pushes = b"", [], []
    for replies in data.draw(st.lists(st.lists(VALUES, min_size=1, max_size=3), max_size=6)):
        call = talk.put([("PING",)] * len(replies))
        wanted.append((call, replies))
        for reply in replies:
            said += resp(reply)
            news = data.draw(st.none() | st.lists(st.binary(max_size=9), min_size=1, max_size=3))
            if news is not None:
                said += resp(news, push=True)
                pushes.append(news)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=8)))
    finished: list[PendingCall] = []
    for begin, end in zip([0, *cuts], [*cuts, len(said)], strict=True):
        finished += talk.receive(said[begin:end])
    assert [(call, call.results) for call in finished] == wanted
    assert [list(push) for push in heard] == pushes
    assert (talk.owed, talk.owed_bytes, talk.fault) == (0, 0, None)


@given(st.binary(max_size=60), st.integers(0, 3))
def test_garbage_is_a_fault_or_waits_for_more(garbage: bytes, owed: int) -> None:
    """No bytes raise an error, and no call gets more replies than it asked for."""
    talk = Conversation(lambda push: None)
    calls = [talk.put([("PING",)]) for _ in range(owed)]
    for n in range(len(garbage)):
        if talk.fault is None:
            talk.receive(garbage[n : n + 1])
    assert all(len(call.results) + call.owed == 1 for call in calls)
    assert talk.owed == sum(call.owed for call in calls)


def test_what_was_answered_before_the_garbage_counts() -> None:
    """A reply that came whole is given to its call, though garbage follows in the same piece."""
    talk = Conversation(lambda push: None)
    first, second = talk.put([("A",)]), talk.put([("B",)])
    assert talk.receive(b"+ok\r\nwhat?\r\n") == [first]
    assert (first.results, second.owed, talk.fault) == ([b"ok"], 1, "it sent what is not RESP3")


@pytest.mark.parametrize(
    "said",
    [b"+unasked\r\n", b"%1\r\n*0\r\n:1\r\n", b":99999999999999999999\r\n", b"*4294967295\r\n"],
)
def test_what_no_server_may_say_is_a_fault(said: bytes) -> None:
    """A reply to nothing, a list as a key, a number beyond 64 bits, a list beyond the memory."""
    talk = Conversation(lambda push: None)
    if not said.startswith(b"+"):
        talk.put([("A",)])
    assert talk.receive(said) == []
    assert talk.fault is not None


def test_a_reply_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that grows beyond the bound is a fault; many small ones in one piece are none."""
    monkeypatch.setattr(_conversation, "REPLY_BYTES", 1 << 20)
    talk = Conversation(lambda push: None)
    talk.put([("PING",)] * 200_000)
    talk.receive(b"+12345678901\r\n" * 200_000)
    assert (talk.fault, talk.owed) == (None, 0)
    talk.put([("GET", "k")])
    talk.receive(b"$1073741824\r\n")
    while talk.fault is None:
        talk.receive(b"x" * 65536)
    assert talk.amid
    assert talk.fault == "it sent a reply of more than 1 MiB"


def test_a_subscription_is_answered_by_its_pushes() -> None:
    """SUBSCRIBE is done when each channel is confirmed; a message between goes to its hearer."""
    heard: list[Any] = []
    talk = Conversation(heard.append)
    before, call = talk.put([("PING",)]), talk.put([("GET", "k"), ("subscribe", "a", b"b")])
    after = talk.put([("PING",)])
    confirm = b">3\r\n$9\r\nsubscribe\r\n$1\r\n%s\r\n:1\r\n"
    message = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n"
    assert talk.receive(b"+PONG\r\n$1\r\nv\r\n" + confirm % b"a" + message) == [before]
    assert talk.receive(confirm % b"z" + confirm % b"b" + b"+PONG\r\n") == [call, after]
    assert call.results == [b"v", None]
    assert [push[1] for push in heard] == [b"a", b"z"]


def test_a_refused_subscription_is_an_error_in_its_place() -> None:
    """An error instead of the confirmations belongs to the SUBSCRIBE, not to what follows."""
    talk = Conversation(lambda push: None)
    call = talk.put([("SUBSCRIBE", "a", "b"), ("PING",)])
    assert talk.receive(b"-NOPERM no\r\n+PONG\r\n") == [call]
    error, pong = call.results
    assert isinstance(error, ServerError)
    assert (error.code, pong) == ("NOPERM", b"PONG")


def test_who_may_have_been_heard_is_known() -> None:
    """Of commands that were put, those of which no byte was taken are known not to be sent."""
    talk = Conversation(lambda push: None)
    first, second, third = (talk.put([("SET", "k", "v" * 100)]) for _ in range(3))
    talk.take(first.size + 1)
    assert [talk.was_sent(call) for call in (first, second, third)] == [True, True, False]
    assert talk.abandon() == [first, second, third]
    assert (talk.owed, talk.owed_bytes, talk.take(ALL)) == (0, 0, b"")


def test_much_that_is_owed_is_full() -> None:
    """Replies are counted, and the bytes of the commands, until the replies are there."""
    talk = Conversation(lambda push: None)
    talk.put([("PING",)] * _conversation.OWED_ITEMS)
    assert talk.full
    talk.receive(b"+PONG\r\n")
    assert not talk.full
    large = Conversation(lambda push: None)
    large.put([("SET", "k", b"x" * _conversation.OWED_BYTES)])
    large.take(ALL)
    assert large.full
    large.receive(b"+OK\r\n")
    assert not large.full
