"""`resumable`: an app's own history, asked where to go on."""

import threading

import pytest
import trio

from flowstream import Event, SourceError, Topic, ndjson, resumable, sse
from flowstream.testing import collect, open_stream


def after_number(after):
    return range(int(after or 0) + 1, 4)


async def generator(after):
    for number in after_number(after):
        yield Event(number, id=str(number))


def in_a_thread(after):
    assert threading.current_thread() is not threading.main_thread()
    for number in after_number(after):
        yield Event(number, id=str(number))


async def a_list(after):
    await trio.lowlevel.checkpoint()
    return [Event(number, id=str(number)) for number in after_number(after)]


def a_plain_list(after):
    return [Event(number, id=str(number)) for number in after_number(after)]


@pytest.mark.parametrize("function", [generator, in_a_thread, a_list, a_plain_list])
async def test_it_goes_on_where_a_client_left_off(function):
    """The function is given None, the header's id, or that of the query."""

    async def numbers(path="/", **headers):
        answer = await collect(ndjson(resumable(function), controls=False), path, headers=headers)
        return [int(line.partition(b'"data":')[2].rstrip(b"}")) for line in answer.body.split()]

    assert await numbers() == [1, 2, 3]
    assert await numbers(**{"last-event-id": "2"}) == [3]
    assert await numbers("/?lastEventId=1") == [2, 3]
    assert await numbers("/?lastEventId=1", **{"last-event-id": "2"}) == [3]


async def test_one_for_all_clients():
    """One `resumable` may be made for the app: each stream is asked where it left off."""
    history = resumable(generator)
    headers = {"last-event-id": "2"}
    async with (
        open_stream(sse(history), headers=headers) as one,
        open_stream(sse(history)) as two,
    ):
        assert (await two.next_event()).data == "1"
        assert (await one.next_event()).data == "3"


async def test_a_stream_that_is_over_stays_over():
    """The id of an ``end`` is a 204 here, too."""
    answer = await collect(sse(resumable(generator)), headers={"last-event-id": "0a.end"})
    assert answer.status == 204


async def test_a_head_calls_nothing():
    """A HEAD is answered without the function, so that nothing is stranded."""

    def never(after):
        raise AssertionError("called")

    assert (await collect(sse(resumable(never)), method="HEAD")).status == 200


@pytest.mark.parametrize("function", [lambda: [], lambda a, b: [], 5, "history"])
def test_what_is_no_function_of_one_argument(function):
    """It is refused at the call, with what was expected."""
    with pytest.raises(SourceError, match=r"resumable\(\) takes a function"):
        resumable(function)


@pytest.mark.parametrize("made", [None, 5, "text", Topic("a")])
async def test_what_it_returns_is_no_source(made, caplog):
    """The stream fails in band, and the log says why."""
    answer = await collect(sse(resumable(lambda after: made)))
    assert b"event: failed" in answer.body
    assert any(isinstance(one.exc_info[1], SourceError) for one in caplog.records if one.exc_info)
    caplog.clear()


async def test_it_is_closed_when_the_client_goes():
    """The generator that was made is closed like any other."""
    closed = []

    async def endless(after):
        try:
            while True:
                yield Event(1, id="1")
                await trio.sleep_forever()
        finally:
            closed.append(after)

    async with open_stream(sse(resumable(endless)), headers={"last-event-id": "x"}) as client:
        await client.next_event()
    assert closed == ["x"]
