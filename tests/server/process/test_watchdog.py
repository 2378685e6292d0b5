"""The watchdog: what counts as hung, as values; and workers that hang, as processes."""

import contextlib
import re
import signal

import httpx2
import psutil
import pytest

from flowstream.server.process._watchdog import Silence, beat_interval, stacks, told

pytestmark = pytest.mark.chaos

APP = """
    import os, time
    import trio

    async def hangs_in_python():
        while True:
            pass

    async def hangs_in_a_call():
        time.sleep(600)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await trio.sleep(float(os.environ.get("SLOW", 0)))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] == "/loop":
            await hangs_in_python()
        if scope["path"] == "/sleep":
            await hangs_in_a_call()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""


def pid_of(process):
    return int(httpx2.get(process.url, timeout=20).text)


def replaced(process, pid):
    """Return the log once another worker answers in place of `pid`."""
    with contextlib.suppress(httpx2.HTTPError):
        return pid_of(process) != pid and process.log


# -- values ------------------------------------------------------------------------------------


def test_a_worker_hangs_when_no_beat_came_for_so_long():
    """The bound is never undercut, although a beat may have been due just before."""
    silence = Silence(30, 100)
    looks = [silence.look(100 + second) for second in range(1, 33)]
    assert looks == [False] * 31 + [True]
    assert silence.seconds == 32


def test_a_beat_begins_anew():
    """Whoever beats once in a while is never taken for hung."""
    silence = Silence(2, 0)
    for second in range(1, 20):
        assert not silence.look(second / 5)
        if second % 5 == 0:
            silence.end()


@pytest.mark.parametrize("asleep", [60, 86_400])
def test_the_supervisors_own_sleep_does_not_count(asleep):
    """After a suspend of both the worker has nearly all of its time again."""
    silence = Silence(30, 0)
    assert not silence.look(1)
    assert not silence.look(1 + asleep)
    assert silence.seconds == 3
    assert not any(silence.look(1 + asleep + second) for second in range(1, 28))


@pytest.mark.parametrize(("timeout", "interval"), [(30, 1), (60, 1), (2, 0.2), (0.5, 0.05)])
def test_the_interval(timeout, interval):
    """There are ten beats in the time that a worker may be silent, and one a second at most."""
    assert beat_interval(timeout) == interval


DUMP = """Fatal Python error: Aborted

Thread 0x1 (most recent call first):
  File "b.py", line 2 in waits

Current thread 0x2 (most recent call first):
  File "app.py", line 7 in view

Extension modules: _cffi_backend (total: 1)
"""


def test_the_stack_that_blocks_comes_first():
    """What the log shows begins with the main thread, and has nothing but stacks."""
    first, _, second = stacks(DUMP).partition("\nThread")
    assert first.splitlines()[1] == '  File "app.py", line 7 in view'
    assert second.endswith("in waits")
    assert told("worker 7", 30.04, DUMP).startswith("worker 7 is killed: ")
    assert "for 30.0 s (worker_timeout)" in told("worker 7", 30.04, DUMP)
    assert "SIGSTOP" in told("worker 7", 30.0, "")


# -- processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "options", "where"),
    [
        ("/loop", ["--workers", "1"], "in hangs_in_python"),
        ("/sleep", ["--workers", "2", "--log-format", "json"], "in hangs_in_a_call"),
        ("/sleep", ["--reload"], "in hangs_in_a_call"),
    ],
)
def test_a_hung_worker_is_replaced(served, client, eventually, path, options, where):
    """Its stack is in the log, with what blocks first, and another one answers."""
    process = served(APP, "--worker-timeout", "0.5", *options)
    client(process.url).get(path)
    found = eventually(
        lambda: re.search(r"(worker \d+) is killed: its event loop has not run", process.log),
        "it is killed",
        timeout=30,
    )
    log = eventually(lambda: "another one starts" in process.log and process.log, "the log says so")
    assert where in log.partition("at the top of the first stack")[2].split(" in app")[0]
    assert f"{found[1]} was killed by SIGABRT: another one starts" in log
    pid = int(found[1].split()[1])
    eventually(lambda: replaced(process, pid), "another one answers", timeout=30)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_a_stopped_worker_is_replaced(served, eventually):
    """SIGSTOP: it does not answer SIGABRT, and is killed all the same."""
    process = served(APP, "--worker-timeout", "0.5", "--workers", "1")
    pid = pid_of(process)
    psutil.Process(pid).suspend()
    eventually(lambda: f"worker {pid} was killed by SIGKILL" in process.log, "killed", timeout=30)
    assert "there is no stack" in process.log
    eventually(lambda: replaced(process, pid), "another one answers", timeout=30)


def test_a_worker_that_starts_slowly_is_left_alone(served, monkeypatch):
    """A start-up that takes longer than the bound is no hang."""
    monkeypatch.setenv("SLOW", "1.5")
    process = served(APP, "--worker-timeout", "0.5", "--workers", "1")
    assert "is killed" not in process.log
    pid_of(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_shutdown_of_a_hung_worker(tmp_path, served, client, eventually, number):
    """A worker that hangs when the server is told to end is killed at the bound."""
    (tmp_path / "c.toml").write_text("graceful_timeout = 0.1\nshutdown_timeout = 0.1\n")
    process = served(APP, "--worker-timeout", "60", "-w", "1", "-c", "c.toml")
    worker = psutil.Process(pid_of(process))
    client(process.url).get("/loop")
    before = worker.cpu_times().user
    eventually(lambda: worker.cpu_times().user > before + 0.1, "it hangs", timeout=20)
    process.signal(number)
    assert process.wait() == 1
    assert "did not end in time: killed" in process.log
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_crash_is_told_with_its_stack(served, eventually):
    """What `faulthandler` writes of a worker that crashes comes into the supervisor's log."""
    process = served(APP, "--workers", "1")
    pid = pid_of(process)
    psutil.Process(pid).send_signal(signal.SIGSEGV)
    eventually(lambda: "was killed by SIGSEGV" in process.log, "it has crashed", timeout=20)
    assert f"worker {pid} has crashed:\nCurrent thread" in process.log


@pytest.mark.parametrize("where", ["option", "file"])
def test_without_a_supervisor_it_is_refused(command, tmp_path, where):
    """Nobody would watch a single process: that is an error, not a setting without effect."""
    (tmp_path / "c.toml").write_text("worker_timeout = 5\n")
    options = ["--worker-timeout", "5"] if where == "option" else ["-c", "c.toml"]
    process = command("serve", "an_app", *options)
    assert process.wait() == 2
    assert "worker_timeout needs a supervisor" in process.log


def test_other_servers_names_for_it(command):
    """Who writes gunicorn's option is told ours."""
    process = command("serve", "an_app", "--timeout", "5")
    assert process.wait() == 2
    assert "there is no --timeout here: write --worker-timeout SECONDS" in process.log
