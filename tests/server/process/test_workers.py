"""What a worker is told, and how a supervisor keeps its places filled, with stand-ins for it."""

import logging
import os
import signal
import ssl
import sys
from datetime import date
from pathlib import Path

import httpx2
import psutil
import pytest
import trio

import flowstream.server.process._supervisor as supervisor_module
import flowstream.server.process._worker_process as child_module
from flowstream.asgi._carrier import WORKERS_KEY
from flowstream.server import ServerConfig, streaming_config
from flowstream.server._config_file import _types
from flowstream.server.process._assignment import Assignment, settings_of
from flowstream.server.process._supervisor import Supervisor, WorkersError

pytestmark = pytest.mark.chaos

# A worker that starts in a few milliseconds.
STAND_IN = """
import json, os, signal, sys
job = json.load(sys.stdin)
{first}
os.write(job["report"], {report!r})
os.close(job["report"])
{then}
signal.sigwait([signal.SIGTERM])
"""


def job_of(settings):
    return Assignment(
        app="a", settings=settings, sockets=([1], [2, 3], []), lifeline=4, report=5, reload=True
    )


def values():
    """Return a value for each setting, other than its default."""
    examples = {str: "/text", int: 7, float: 2.5, bool: True, list: ["a"], dict: {"a": {"b": [1]}}}
    found = {}
    for name, types in _types().items():
        default = getattr(ServerConfig(), name)
        kind = float if float in types else types[-1]
        found[name] = (not default) if kind is bool else examples[kind]
    return found | {
        "keep_alive_probes": (1, 2, 3),
        "verify_mode": ssl.VerifyMode.CERT_REQUIRED,
        "verify_flags": ssl.VerifyFlags.VERIFY_X509_STRICT,
        "certfile": Path("a.pem"),
    }


def test_every_setting_reaches_the_worker():
    """A configuration with everything set is the same one in the worker."""
    given = values()
    config = streaming_config(**given)
    job = Assignment.from_json(job_of(settings_of(config)).to_json())
    assert (job.app, job.lifeline, job.report, job.reload) == ("a", 4, 5, True)
    assert job.descriptors == [1, 2, 3, 4, 5]
    there = job.config()
    travelled = {"keep_alive_probes": [1, 2, 3], "certfile": "a.pem"}
    assert {name: getattr(there, name) for name in given} == given | travelled
    assert isinstance(there.verify_mode, ssl.VerifyMode)
    assert isinstance(there.verify_flags, ssl.VerifyFlags)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("errorlog", logging.getLogger("a"), "Logger"),
        ("logger_class", logging.Logger, "type"),
        ("server_names", ["a", date(2026, 1, 1)], "date"),
        ("logconfig_dict", {1: "a"}, "dict"),
    ],
)
def test_a_setting_that_cannot_travel(name, value, kind):
    """It is a TypeError that names it, before anything is started."""
    with pytest.raises(TypeError, match=f"setting '{name}' cannot be .* a {kind}; write strings"):
        Supervisor("a", streaming_config(**{name: value}))


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"workers": 0}, ValueError, "workers must be 1 or more"),
        (
            {"workers": 2, "quic_bind": ["a"], "certfile": "a", "keyfile": "b"},
            ValueError,
            "HTTP/3 needs workers = 1",
        ),
    ],
)
def test_settings_that_workers_cannot_have(settings, error, match):
    """What several processes cannot do is refused in one sentence."""
    with pytest.raises(error, match=match):
        Supervisor("a", streaming_config(**settings))


def test_a_configuration_with_a_class_of_its_own():
    """Methods don't travel, so a class that has some is refused."""

    class Own(ServerConfig):
        pass

    with pytest.raises(TypeError, match=r"a .*Own cannot be passed to a worker"):
        Supervisor("a", Own())


async def test_an_app_in_one_process_is_told_so(server):
    """The state says one worker where there is one, in the lifespan and in requests."""
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["state"][WORKERS_KEY])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async with httpx2.AsyncClient() as client:
        await client.get(await server(app))
    assert seen == [1, 1]


@pytest.fixture
async def supervise(monkeypatch, caplog):
    """Run a supervisor of stand-ins in this process: ``await supervise(then="...")``."""
    OTHERS.update(children())
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(supervisor_module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervisor_module, "_LONGEST_PAUSE", 0.04)
    outcome = {}
    async with trio.open_nursery() as nursery:

        def start(*, workers=2, first="", report=b"+", then="", **settings):
            set_stand_in(first, report, then)
            config = streaming_config(
                bind=["127.0.0.1:0"],
                workers=workers,
                errorlog=logging.getLogger("tests.server"),
                **settings,
            )
            monkeypatch.setattr(supervisor_module, "settings_of", lambda config: {})
            supervisor = Supervisor("an_app", config)

            async def run():
                try:
                    await supervisor.run(supervisor.open_sockets())
                except* WorkersError as group:
                    outcome["error"] = str(group.exceptions[0])
                outcome["over"] = True

            nursery.start_soon(run)
            return outcome

        def set_stand_in(first="", report=b"+", then=""):
            text = STAND_IN.format(first=first, report=report, then=then)
            monkeypatch.setattr(child_module, "_COMMAND", [sys.executable, "-I", "-S", "-c", text])

        start.becomes = set_stand_in
        start.outcome = outcome
        yield start
        if not outcome.get("over"):
            os.kill(os.getpid(), signal.SIGTERM)


OTHERS = set()


def children():
    """Return the children that live, but for those of other tests: a database, say."""
    living = {process.pid for process in psutil.Process().children() if alive(process)}
    return living - OTHERS


def alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_twenty_replacements_leave_nothing_behind(supervise, caplog, aeventually):
    """After 20 SIGHUPs there are as many descriptors and processes as before, and no zombie."""
    supervise()
    await aeventually(lambda: "Running on" in caplog.text, "it runs")
    me = psutil.Process()
    before, first = me.num_fds(), children()
    for count in range(1, 21):
        os.kill(os.getpid(), signal.SIGHUP)
        await aeventually(
            lambda count=count: caplog.text.count("have been replaced") == count,
            "replaced",
            timeout=30,
        )
    await aeventually(
        lambda: len({child.pid for child in me.children()} - OTHERS) == 2,
        "the old ones are gone, and reaped",
    )
    # At the start a worker's report may still be on its way, in a pipe that is closed after it.
    await aeventually(lambda: me.num_fds() <= before, "no more descriptors than before")
    assert not first & children()


async def test_a_worker_that_dies_young_is_started_ever_more_slowly(supervise, caplog, aeventually):
    """The pause before a start doubles up to a bound."""
    supervise(workers=1)
    await aeventually(lambda: "Running on" in caplog.text, "it runs")
    supervise.becomes(then="os._exit(3)")
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    await aeventually(lambda: caplog.text.count("another one starts in") >= 5, "five deaths")
    found = [
        (record.args[1], record.args[2], record.levelname)
        for record in caplog.records
        if "another one starts" in record.message
    ]
    assert found[0] == ("was killed by SIGKILL", 0.01, "ERROR")
    assert found[1:4] == [
        ("has ended with status 3", pause, "ERROR") for pause in (0.02, 0.04, 0.04)
    ]


async def test_a_second_sighup_begins_anew(supervise, caplog, aeventually):
    """A successor that never gets ready does not stand in the way of the next one."""
    supervise(workers=1)
    await aeventually(lambda: "Running on" in caplog.text, "it runs")
    old = children()
    supervise.becomes(first="signal.sigwait([signal.SIGTERM]); sys.exit()")
    os.kill(os.getpid(), signal.SIGHUP)
    await aeventually(lambda: len(children()) == 2, "a successor that hangs")
    supervise.becomes()
    os.kill(os.getpid(), signal.SIGHUP)
    await aeventually(lambda: "have been replaced" in caplog.text, "replaced")
    await aeventually(
        lambda: len({child.pid for child in psutil.Process().children()} - OTHERS) == 1,
        "both are gone",
    )
    assert not old & children()


async def test_no_process_to_be_had(supervise, monkeypatch, aeventually):
    """If no process can be started at all, that is the error."""
    supervise(workers=1, first="")
    monkeypatch.setattr(child_module, "_COMMAND", ["/no/such/python"])
    await aeventually(lambda: supervise.outcome.get("over"), "it ends")
    assert "No such file or directory" in supervise.outcome["error"]


async def test_a_program_that_a_worker_leaves_behind(supervise, caplog, aeventually):
    """A worker is replaced when it dies, although a process that it has forked lives on."""
    forks = "child = os.fork()\nif not child: time.sleep(20); os._exit(0)"
    supervise(workers=1, first="import time")
    supervise.becomes()
    await aeventually(lambda: "Running on" in caplog.text, "it runs")
    supervise.becomes(first=f"import time\n{forks}")
    os.kill(os.getpid(), signal.SIGHUP)
    await aeventually(lambda: "have been replaced" in caplog.text, "one that forks")
    await aeventually(lambda: len(children()) == 1, "the old one is gone")
    (worker,) = children()
    (left,) = psutil.Process(worker).children()
    os.kill(worker, signal.SIGKILL)
    try:
        await aeventually(lambda: "another one starts" in caplog.text, "it is replaced", timeout=5)
    finally:
        left.kill()
