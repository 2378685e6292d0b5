"""The first lock of direct writes, as a value: what arrives decides whether one is in order."""

import copy
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.asgi._direct_write import DirectWrite, NotDirect, direct_write_of

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"x/y")]}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def body(data, more=True):
    return {"type": "http.response.body", "body": data, "more_body": more}


def piece(text):
    """Return bytes that are no other object's."""
    return bytes(bytearray(text.encode()))


class Response:
    """A response on a socket of which one end is a pipe's."""

    def __init__(self):
        self.reader, self._writer = os.pipe()
        self.kept = []
        self.direct_write = DirectWrite(self._writer, self.kept.append)
        self.direct_write.free()

    def pass_on(self, message):
        self.direct_write.arrive(message)
        self.direct_write.arrived(message)

    def send(self, data):
        self.direct_write.hand_over(data)
        self.pass_on(body(data))

    @property
    def is_direct(self):
        return self.direct_write.write(b"!")

    def close(self):
        os.close(self.reader)
        os.close(self._writer)


@pytest.fixture
def response():
    response = Response()
    yield response
    response.close()


def begun(response):
    response.pass_on(START)
    response.send(piece("first"))
    assert response.is_direct
    return response


def test_some_of_the_body_has_to_arrive_first(response):
    """Nothing is written before the head, nor right behind it: that may not be written yet."""
    assert not response.is_direct
    response.pass_on(START)
    assert not response.is_direct
    first = piece("first")
    response.direct_write.hand_over(first)
    assert not response.is_direct
    response.direct_write.arrive(body(first))
    assert not response.is_direct
    response.direct_write.arrived(body(first))
    assert response.is_direct
    assert response.direct_write.why_not is None


def test_what_is_held_back_holds_direct_writes_back(response):
    """While one message of several is on its way there is none, and then there is again."""
    begun(response)
    one, two = piece("one"), piece("two")
    response.direct_write.hand_over(one)
    response.direct_write.hand_over(two)
    response.pass_on(body(one))
    assert not response.is_direct
    response.pass_on(body(two))
    assert response.is_direct


def test_several_that_are_being_written_at_once(response):
    """A message that was written does not speak for the one behind it, which still is."""
    begun(response)
    one, two = body(piece("one")), body(piece("two"))
    for message in (one, two):
        response.direct_write.hand_over(message["body"])
        response.direct_write.arrive(message)
    response.direct_write.arrived(one)
    assert not response.is_direct
    response.direct_write.arrived(two)
    assert response.is_direct


def test_a_message_that_could_not_be_written(response):
    """After a write that failed half-way nothing is written any more."""
    begun(response)
    data = piece("fails")
    response.direct_write.hand_over(data)
    response.direct_write.arrive(body(data))  # and `arrived` is never called
    response.send(piece("next"))
    assert not response.is_direct


CHANGES = {
    "an equal copy": lambda data: [body(bytearray(data))],
    "other bytes": lambda data: [body(data.upper())],
    "an addition": lambda data: [body(data), body(b"<!-- -->")],
    "an addition in front": lambda data: [body(b"<!-- -->"), body(data)],
    "an empty addition": lambda data: [body(data), body(b"")],
    "a part": lambda data: [body(data[:2]), body(data[2:])],
    "twice": lambda data: [body(data), body(data)],
    "another head": lambda data: [START, body(data)],
    "another kind": lambda data: [{"type": "http.response.debug"}, body(data)],
    "a body without a body": lambda data: [{"type": "http.response.body", "more_body": True}],
    "no type": lambda data: [{}],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_message_ends_direct_writes(change, response):
    """For good, however much arrives unchanged afterwards."""
    begun(response)
    data = piece("secret")
    response.direct_write.hand_over(data)
    for message in CHANGES[change](data):
        response.pass_on(message)
    assert response.direct_write.why_not is NotDirect.CHANGED
    response.send(piece("unchanged"))
    assert not response.is_direct


def test_what_changes_places_or_is_swallowed_ends_direct_writes(response):
    """A message that arrives before an earlier one was held back or is lost."""
    begun(response)
    one, two = piece("one"), piece("two")
    response.direct_write.hand_over(one)
    response.direct_write.hand_over(two)
    response.pass_on(body(two))
    assert response.direct_write.why_not is NotDirect.CHANGED


def test_what_swallows_everything_ends_direct_writes(response):
    """So many messages are not on their way but lost; they are not remembered for ever."""
    begun(response)
    for number in range(40):
        response.direct_write.hand_over(piece(str(number)))
        assert not response.is_direct
    assert response.direct_write.why_not is NotDirect.CHANGED
    assert not response.direct_write._due


@pytest.mark.parametrize("last", [END, body(b"bye", more=False), {"type": "http.response.body"}])
def test_the_end_ends_direct_writes(last, response):
    """From the moment at which the final message arrives, whoever has sent it."""
    begun(response)
    response.direct_write.arrive(last)
    assert not response.is_direct
    response.direct_write.arrived(last)
    assert not response.is_direct
    assert response.direct_write.why_not is NotDirect.ENDED
    response.send(piece("more"))
    assert not response.is_direct


HEADS = {
    "a length": {"headers": [(b"Content-Length", b"100")]},
    "another framing": {"headers": [(b"transfer-encoding", b"gzip, chunked")]},
    "a coding": {"headers": ((b"content-encoding", b"gzip"),)},
    "no content": {"status": 204},
    "not modified": {"status": 304},
    "trailers": {"trailers": True},
    "headers that can be read once": {"headers": iter([(b"a", b"b")])},
}


@pytest.mark.parametrize("what", HEADS)
def test_a_head_with_another_body(what, response):
    """A body that is not sent in chunks as it was made has no room for another chunk."""
    response.pass_on({**START, **HEADS[what]})
    response.send(piece("first"))
    assert not response.is_direct
    assert response.direct_write.why_not is NotDirect.OTHER_BODY


def test_a_head_with_more_headers(response):
    """Headers that leave the framing alone leave direct writes alone, too; so does a status."""
    headers = [*START["headers"], (b"set-cookie", b"a=b"), (b"vary", b"origin")]
    response.pass_on({**START, "headers": headers, "status": 201})
    response.send(piece("first"))
    assert response.is_direct


def test_while_somebody_else_writes_to_the_socket(response):
    """A block by the connection holds until it frees it, and outlasts what arrives."""
    begun(response)
    response.direct_write.block()
    assert not response.is_direct
    response.send(piece("next"))
    assert not response.is_direct
    response.direct_write.free()
    assert response.is_direct


def test_freeing_is_not_permission(response):
    """To be free is not enough while something is on its way."""
    begun(response)
    response.direct_write.hand_over(piece("on its way"))
    response.direct_write.free()
    assert not response.is_direct


def test_after_its_end_nothing_reaches_the_socket(response):
    """The number of a closed socket is used again: nobody may write to it any more."""
    begun(response)
    response.direct_write.end()
    for act in (response.direct_write.free, lambda: response.send(piece("more"))):
        act()
        assert not response.is_direct
    assert response.direct_write.why_not is NotDirect.ENDED


def test_what_the_kernel_does_not_take(response):
    """What is left of a chunk is kept, and what nothing is taken of is refused."""
    begun(response)
    os.set_blocking(response._writer, False)
    size = 1 << 21
    assert response.direct_write.write(bytes(size))
    assert 0 < len(response.kept[0]) < size
    assert not response.direct_write.write(bytes(1 << 17))
    assert len(response.kept) == 1


def test_a_copy_is_the_same(response):
    """Middleware that copies the scope, deeply or not, has the same one in it."""
    scope = {"state": {"flowstream.direct_write": response.direct_write}}
    assert direct_write_of(copy.deepcopy(scope)) is response.direct_write
    assert copy.copy(response.direct_write) is response.direct_write


@pytest.mark.parametrize("scope", [{}, {"state": None}, {"state": {}}])
def test_under_another_server_there_are_none(scope):
    """A request without one says that its server is another; handing over is harmless there."""
    none = direct_write_of(scope)
    none.hand_over(piece("any"))
    none.free()
    assert none.why_not is NotDirect.OTHER_SERVER
    assert not none.write(b"!")


STEPS = st.lists(
    st.sampled_from(["hand over", "arrive", "arrived", "extra", "block", "free", "end", "write"]),
    max_size=60,
)


@given(STEPS)
def test_a_direct_write_is_never_out_of_order(steps):
    """Whatever happens in whatever order, a direct write finds all that was handed over written,
    nothing being written, the socket free, and nothing that was added or that ended it.
    """
    response = Response()
    try:
        response.pass_on(START)
        waiting, writing, spoilt, free = [], [], False, True
        written_any = False
        for step in steps:
            if step == "hand over":
                waiting.append(piece("data"))
                response.direct_write.hand_over(waiting[-1])
                spoilt = spoilt or len(waiting) > 16
            elif step == "arrive" and waiting:
                writing.append(body(waiting.pop(0)))
                response.direct_write.arrive(writing[-1])
            elif step == "arrived" and writing:
                response.direct_write.arrived(writing.pop(0))
                written_any = True
            elif step == "extra":
                response.pass_on(body(piece("extra")))
                spoilt = True
            elif step == "end":
                response.pass_on(END)
                spoilt = True
            elif step == "block":
                response.direct_write.block()
                free = False
            elif step == "free":
                response.direct_write.free()
                free = True
            in_order = not (waiting or writing or spoilt) and free and written_any
            assert response.is_direct == in_order
    finally:
        response.close()
