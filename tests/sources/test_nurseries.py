"""Tasks beside a source's own: what comes out of them, and what a stream makes of it."""

from __future__ import annotations

import pytest
import trio

from flowstream import CloseReason, ndjson
from flowstream._errors import NotFoundError
from flowstream.sources import follow, process_output
from flowstream.sources._nurseries import run_with_tasks
from flowstream.testing import open_stream


async def fail(error: Exception) -> None:
    raise error


async def test_what_fails_in_a_task_comes_out_as_itself():
    """The body is cancelled for it, and neither a group nor that Cancelled comes out."""
    seen = []

    async def body(nursery):
        nursery.start_soon(fail, NotFoundError("gone"))
        try:
            await trio.sleep_forever()
        finally:
            seen.append("cleaned up")

    with pytest.raises(NotFoundError):
        await run_with_tasks(body)
    assert seen == ["cleaned up"]


async def test_what_fails_in_the_body_comes_out_as_itself():
    """And its tasks, which end with it, are no reason to wait."""

    async def body(nursery):
        nursery.start_soon(trio.sleep_forever)
        await fail(NotFoundError("gone"))

    with pytest.raises(NotFoundError):
        await run_with_tasks(body)


async def test_a_cleanup_that_fails_hides_nothing():
    """What failed first is the context of what failed because of it."""

    async def body(nursery):
        nursery.start_soon(fail, OSError("first"))
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("then")

    with pytest.raises(ValueError, match="then") as caught:
        await run_with_tasks(body)
    context = caught.value.__context__
    assert isinstance(context, ExceptionGroup)
    assert str(context.exceptions[0]) == "first"


async def test_a_cancellation_from_outside_is_one():
    """It reaches the body and the tasks, and is caught where it belongs."""

    async def body(nursery):
        nursery.start_soon(trio.sleep_forever)
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.cancel()
        await run_with_tasks(body)
    assert scope.cancelled_caught


def numbers():
    yield from range(1000)


@pytest.mark.parametrize(
    ("make", "nth"),
    [
        pytest.param(lambda _: numbers(), 1, id="no thread for the first items"),
        pytest.param(lambda _: numbers(), 2, id="no thread for the next"),
        pytest.param(lambda path: follow(path, poll=0.01), 1, id="no thread for a file"),
        pytest.param(lambda _: process_output(["true"]), 1, id="no thread for a program"),
    ],
)
async def test_a_process_that_can_have_no_more_threads(monkeypatch, tmp_path, caplog, make, nth):
    """The stream has failed, which client and log are told: it is not just cut."""
    path = tmp_path / "log"
    path.write_text("line\n")
    reports = []
    real, calls = trio.to_thread.run_sync, 0

    async def run_sync(*args, **options):
        nonlocal calls
        calls += 1
        if calls == nth:
            raise RuntimeError("can't start new thread")
        return await real(*args, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    async with open_stream(ndjson(make(path), on_close=reports.append)) as client:
        body = await client.read_all()
    assert body.splitlines()[-1].startswith(b'{"type":"failed"')
    assert reports[0].reason is CloseReason.ERROR
    assert "can't start new thread" in caplog.text
