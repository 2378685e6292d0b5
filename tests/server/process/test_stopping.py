"""How a server's process is told to end, at every moment, and the bound by which it has ended."""

import re
import signal
import threading
from pathlib import Path

import pytest
import trio
from hypercorn.utils import LifespanFailureError

import flowstream
from flowstream.server import streaming_config
from flowstream.server.process._stopping import Deadline, StopSignals, shutdown_bound

KINDS = {"one process": (), "two workers": ("-w", "2"), "reload": ("--reload",)}
SUPERVISED = [
    kind if kind == "one process" else pytest.param(kind, marks=pytest.mark.chaos) for kind in KINDS
]

STARTS = {
    "Quart": """
        import sys, trio
        from quart_trio import QuartTrio
        from flowstream.quart import Flowstream

        app = QuartTrio("app")
        Flowstream(app)

        @app.before_serving
        async def connect():
            print("startup has begun", file=sys.stderr, flush=True)
            try:
                await trio.sleep(60)
            finally:
                print("startup was cleaned up", file=sys.stderr, flush=True)
    """,
    "Starlette": """
        import contextlib, sys, trio
        from starlette.applications import Starlette

        @contextlib.asynccontextmanager
        async def lifespan(app):
            print("startup has begun", file=sys.stderr, flush=True)
            try:
                await trio.sleep(60)
                yield
            finally:
                print("startup was cleaned up", file=sys.stderr, flush=True)

        app = Starlette(lifespan=lifespan)
    """,
}

BLOCKED_START = """
    import sys, time
    from quart_trio import QuartTrio

    app = QuartTrio("app")

    @app.before_serving
    async def connect():
        print("startup has begun", file=sys.stderr, flush=True)
        time.sleep(60)
"""

HOLDS_ON = """
    import sys, time, trio
    from quart_trio import QuartTrio
    from flowstream import ndjson
    from flowstream.quart import Flowstream

    app = QuartTrio(__name__)
    Flowstream(app)

    def hold_on():
        print("holds on", file=sys.stderr, flush=True)
        time.sleep(60)

    @app.get("/view")
    def view():
        hold_on()
        return "done"

    @app.get("/blocks")
    async def blocks():
        hold_on()
        return "done"

    @app.get("/thread")
    async def thread():
        async def answer():
            yield 1
            yield await trio.to_thread.run_sync(hold_on)

        return ndjson(answer)

    @app.get("/shield")
    async def shield():
        with trio.CancelScope(shield=True):
            print("holds on", file=sys.stderr, flush=True)
            await trio.sleep(60)
        return "done"
"""

SHORT = ("-c", "short.toml", "--graceful-timeout", "0.2")


def hears(server, number):
    """Whether the process has a handler of its own for a signal."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1)


@pytest.fixture
def starts(command, tmp_path, eventually):
    """Start the command line on an app whose startup does not end; return its process."""

    def start(source, *options):
        (tmp_path / "served_app.py").write_text(re.sub("(?m)^    ", "", source))
        server = command("serve", "served_app", "-b", "127.0.0.1:0", *options)
        eventually(lambda: "startup has begun" in server.log, "its startup has begun", timeout=30)
        return server

    return start


@pytest.mark.parametrize("kind", SUPERVISED)
@pytest.mark.parametrize("framework", STARTS)
def test_a_signal_during_startup(starts, kind, framework):
    """It cancels the startup, which cleans up, and the process ends in order with status 0."""
    server = starts(re.sub("(?m)^    ", "", STARTS[framework]), *KINDS[kind])
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert "startup was cleaned up" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("one process", -signal.SIGINT),
        pytest.param("two workers", 1, marks=pytest.mark.chaos),
    ],
)
def test_a_second_signal_during_a_startup_that_blocks(starts, eventually, kind, status):
    """It ends the process at once, although the event loop is stuck in the app's own code."""
    server = starts(BLOCKED_START, *KINDS[kind], "--graceful-timeout", "300")
    server.signal(signal.SIGTERM)
    if kind == "one process":  # where two that come at the same time are one
        eventually(lambda: not hears(server, signal.SIGINT), "it has heard the first")
    server.signal(signal.SIGINT)
    assert server.wait(20) == status


@pytest.mark.parametrize("paths", [["/view", "/thread", "/shield"], ["/blocks"]])
@pytest.mark.parametrize("kind", SUPERVISED[:2])
def test_what_holds_on_is_named(served, client, tmp_path, eventually, paths, kind):
    """A process that can't end in time is ended, with status 1, and says which requests it was."""
    (tmp_path / "short.toml").write_text("shutdown_timeout = 0.2\n")
    server = served(HOLDS_ON, *SHORT, *KINDS[kind])
    for path in paths:
        client(server.url).get(f"{path}?token=secret")
    eventually(lambda: server.log.count("holds on") == len(paths), "all have begun to hold on")
    server.signal(signal.SIGTERM)
    assert server.wait(20) == 1, server.log
    for path in paths:
        named = rf"it waits for .*GET {path} from 127\.0\.0\.1:\d+, for \d+\.\d s"
        assert re.search(named, server.log)
    assert "secret" not in server.log


def test_an_apps_own_thread(served, client, tmp_path):
    """A thread that the app has started and left holds the process up no longer than the bound."""
    (tmp_path / "short.toml").write_text("shutdown_timeout = 0.2\n")
    server = served(
        """
        import threading, time

        threading.Thread(target=time.sleep, args=(60,)).start()

        async def app(scope, receive, send):
            if scope["type"] == "http":
                threading.Thread(target=time.sleep, args=(60,)).start()
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body"})
        """,
        *SHORT,
    )
    asking = client(server.url)
    asking.get("/", "Connection: close")
    asking.read_all()
    server.signal(signal.SIGTERM)
    assert server.wait() == 1
    assert "it waits for the app's startup or shutdown, or a thread of the app's" in server.log


# -- in a program of one's own -----------------------------------------------------------------


async def slow_start(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    await trio.sleep(25)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def test_the_trigger_counts_from_the_beginning(autojump_clock):
    """`serve` that is told to stop while the app starts returns then, and has no addresses."""

    async def after_three_seconds():
        await trio.sleep(3)

    config = streaming_config(bind=["127.0.0.1:0"])
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(
                lambda task_status: flowstream.serve(
                    slow_start,
                    config,
                    shutdown_trigger=after_three_seconds,
                    task_status=task_status,
                )
            )
    assert addresses == []
    assert trio.current_time() == pytest.approx(3)


async def test_a_startup_that_fails_still_does(autojump_clock):
    """The watch for the trigger takes nothing away from a startup's own failure."""

    async def fails(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.RaisesGroup(
        pytest.RaisesExc(LifespanFailureError, match="no database"), flatten_subgroups=True
    ):
        await flowstream.serve(fails, shutdown_trigger=trio.sleep_forever)


# -- the pieces --------------------------------------------------------------------------------


async def test_a_deadline_that_is_met():
    """Nothing happens when the process has ended in time; the second start changes nothing."""
    called, asked = [], threading.Event()

    def bound():
        called.append("asked")
        asked.set()
        return 60

    deadline = Deadline(bound, lambda: called.append("overdue"))
    deadline.start()
    deadline.start()
    deadline.met()
    assert await trio.to_thread.run_sync(asked.wait, 5)
    assert called == ["asked"]


async def test_the_signals_do_again_what_they_did():
    """Inside the context the second signal is the kernel's; behind it all is as it was."""
    before = signal.getsignal(signal.SIGUSR1)
    deadline = Deadline(lambda: 60, lambda: None)
    with StopSignals([signal.SIGUSR1], deadline, final=True) as stop:
        signal.raise_signal(signal.SIGUSR1)
        with trio.fail_after(5):
            await stop.wait()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR1) is before
    deadline.met()


async def test_only_the_first_signal_counts_in_a_worker():
    """Not final, a second one does no more than the first."""
    deadline = Deadline(lambda: 60, lambda: None)
    with StopSignals([signal.SIGUSR1], deadline, final=False) as stop:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        with trio.fail_after(5):
            await stop.wait()
    deadline.met()


def test_the_bound_is_the_sum():
    """It is what the stages of a shutdown have, and a second."""
    config = streaming_config(lame_duck=1, graceful_timeout=2, shutdown_timeout=4)
    assert shutdown_bound(config) == 8
