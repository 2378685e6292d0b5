"""Holding a log open, and closing it."""

from __future__ import annotations

import trio

from flowstream.logs._log_run import LogRun


async def test_close_waits_until_what_holds_the_log_has_cleaned_up() -> None:
    """Behind it nothing of the log runs any more, and it can be held again."""
    run = LogRun()
    ended: list[int] = []

    async def hold(task_status: trio.TaskStatus[None]) -> None:
        with run.hold():
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    for _ in range(20):
                        await trio.lowlevel.checkpoint()
                ended.append(1)

    async with trio.open_nursery() as nursery:
        for times in (1, 2):
            await nursery.start(hold)
            await run.close()
            assert len(ended) == times
