"""The command line: what it serves, how it ends, and what it says when it cannot."""

import gc
import signal
import socket
import sys
import textwrap
import warnings
from importlib import import_module

import httpx2
import pytest
from click.testing import CliRunner

from flowstream import __version__
from flowstream.cli import main

APP = """
    from flowstream import sse

    async def hello():
        yield "hello"

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await sse(hello)(scope, receive, send)
"""

ENDLESS = """
    import sys
    from flowstream import raw, sse

    async def waits(out):
        await out.send("a")
        try:
            import trio
            await trio.sleep_forever()
        finally:
            print("producer ended", file=sys.stderr)

    async def endless():
        while True:
            yield bytes(10_000)

    async def app(scope, receive, send):
        if scope["type"] == "http":
            response = raw(endless) if scope["path"] == "/endless" else sse(waits)
            await response(scope, receive, send)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command line in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    modules = set(sys.modules)
    yield lambda *arguments: CliRunner().invoke(main, [str(part) for part in arguments])
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


@pytest.fixture
def module(tmp_path):
    """Write a module that the command line can find."""

    def write(text, name="a_module.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def without_sockets(run, *arguments):
    """Run it, and drop the socket that Hypercorn leaves open where it cannot be bound."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        result = run(*arguments)
        code, output = result.exit_code, result.output
        del result
        gc.collect()
    return code, output


# An app that tells its own server to stop as soon as it has started.
STOPS = """
import signal

log = []

async def app(scope, receive, send):
    while True:
        message = await receive()
        log.append(message["type"])
        if message["type"] == "lifespan.startup":
            signal.raise_signal(signal.{signal})
        await send({{"type": message["type"] + ".complete"}})
        if message["type"] == "lifespan.shutdown":
            return

class Holder:
    app = staticmethod(app)

def create_app():
    return app
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_it_in_order(run, module, number):
    """SIGINT, SIGTERM and SIGHUP shut down: the app's lifespan ends, and the exit code is 0."""
    module(STOPS.format(signal=number))
    result = run("serve", "a_module:app", "-b", "127.0.0.1:0")
    assert result.exit_code == 0, result.output
    assert sys.modules["a_module"].log == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize(
    "target",
    [
        "a_module",
        "a_module:Holder.app",
        "a_module:create_app()",
        "a_module.py",
        "a_module.py:app",
        "./a_module:app",
        "sub/other_module.py:app",
        "sub/other_module:app",
    ],
)
def test_ways_to_name_an_app(run, module, target):
    """A module, a file, an attribute of an attribute, a function that makes the app."""
    module(STOPS.format(signal="SIGTERM"))
    module(STOPS.format(signal="SIGTERM"), "sub/other_module.py")
    result = run("serve", target, "-b", "127.0.0.1:0")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_module", "there is no module 'no_module' in "),
        ("no_module:app", "there is no module 'no_module' in "),
        ("no_package.module:app", "there is no module 'no_package.module' in "),
        ("..:app", "'..' is not a module's name"),
        ("none.py:app", "there is no file 'none.py'"),
        ("none/at_all:app", "there is no file 'none/at_all.py'"),
        ("json.py", "has the name of another module"),
        ("a_module:other", "there is no 'other' in 'a_module'"),
        ("a_module:app.other", "there is no 'app.other' in 'a_module'"),
        ("a_module:1 +", "there is no '1 +' in 'a_module'"),
        ("a_module:app:app", "there is no 'app:app' in 'a_module'"),
        ("a_module:number", "'a_module:number' is not an ASGI app but a int"),
        ("a_module:create_app", "if it is a function that makes the app, put () behind its name"),
        ("a_module:on_asyncio", "make it a QuartTrio"),
        (":app", "expected MODULE:APP"),
        ("", "expected MODULE:APP"),
    ],
)
def test_a_wrong_name(run, module, target, message):
    """What names no app is refused in one sentence, with exit code 2 and no traceback."""
    module(
        "import quart\nnumber = 1\non_asyncio = quart.Quart('a')\n"
        "async def app(scope, receive, send): pass\n"
        "def create_app(): return app\n"
    )
    module("app = 1", "json.py")
    result = run("serve", target)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert message in " ".join(result.output.split())


def test_a_builtin_may_be_an_app(run, module):
    """What has no signature to look at is taken at its word."""
    module("app = type")
    code, output = without_sockets(run, "serve", "a_module", "-b", "127.0.0.1:x")
    assert code == 1
    assert "cannot listen" in output


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("def go():\n    1 / 0\ngo()", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("from flowstream import sse\nsse('a')", "flowstream.SourceError: a str"),
    ],
)
def test_a_module_that_fails_to_import(run, module, text, error):
    """A bug in the module is its own traceback, without our lines above it, and exit code 1."""
    module(text)
    result = run("serve", "a_module:app")
    assert result.exit_code == 1
    first, *_, last = result.output.splitlines()
    assert last.startswith(f"Error: 'a_module:app' cannot be served: {error}")
    assert "a_module.py" in result.output
    assert "cli.py" not in result.output
    assert "importlib" not in result.output
    assert first.startswith(("Traceback", "  File"))


def test_an_error_of_our_own_keeps_its_traceback(run, monkeypatch):
    """What never came to the app's code is shown whole."""

    def broken(target):
        raise RuntimeError("a bug")

    monkeypatch.setattr("flowstream.cli.load_app", broken)
    result = run("serve", "a_module")
    assert result.exit_code == 1
    assert "cli.py" in result.output


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--workers", "0"], "0 is not in the range x>=1", 2),
        (["--write-timeout", "0"], "Invalid value for '--write-timeout'", 2),
        (["--readyz", "readyz"], "readyz must be a path that begins with /", 2),
        (["--certfile", "a.pem"], "certfile and keyfile belong together", 2),
        (["--certfile", "a.pem", "--keyfile", "b.pem"], "cannot read 'a.pem': No such file", 1),
        (
            ["--certfile", "a_module.py", "--keyfile", "a_module.py"],
            "cannot use certificate 'a_module.py' with key 'a_module.py': ",
            1,
        ),
        (["--access-log", "no/such/dir/log"], "cannot set up logging: ", 1),
        (["--config", "none.toml"], "cannot read 'none.toml': No such file", 2),
        (["-w", "2", "-b", "127.0.0.1:x"], "cannot listen on 127.0.0.1:x: ", 1),
        (["--port", "80"], "there is no --port here: write --bind HOST:PORT", 2),
        (["--host=0.0.0.0"], "there is no --host here: write --bind HOST:PORT", 2),
        (["-p", "80"], "there is no -p here: write --bind HOST:PORT", 2),
        (["-k", "trio"], "there is no -k here: leave it out, all workers run on Trio", 2),
        (["--factory"], "write MODULE:create_app(), with the parentheses", 2),
        (["--wokers", "2"], "Did you mean '--workers'?", 2),
    ],
)
def test_wrong_options(run, module, arguments, message, code):
    """A value that cannot be used is one sentence and no traceback."""
    module("app = type")
    exit_code, output = without_sockets(run, "serve", "a_module", *arguments)
    assert exit_code == code, output
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers = ", "'c.toml' is not TOML: "),
        ("grateful_timeout = 3", "there is no server setting 'grateful_timeout'"),
        ("from_toml = 1", "there is no server setting 'from_toml'"),
        ("_bind = 'a'", "there is no server setting '_bind'"),
        ("workers = 'two'", "workers cannot be 'two': expected a whole number"),
        ("workers = true", "workers cannot be True: expected a whole number"),
        ("workers = 0", "workers must be 1 or more"),
        ("workers = -1", "workers must be 1 or more"),
        ("bind = 8000", "bind cannot be 8000: expected a list or a string"),
        ("forwarded_allow_ips = 'nginx'", "forwarded_allow_ips: 'nginx' is not a proxy to trust"),
        ("forwarded_allow_ips = 7", "forwarded_allow_ips cannot be 7: expected a list or a string"),
        ("bind = [8000]", "bind cannot be [8000]: expected a list or a string"),
        ("graceful_timeout = 'a'", "graceful_timeout cannot be 'a': expected a number"),
        ("graceful_timeout = -1", "graceful_timeout must be 0 or more seconds"),
        ("keep_alive_probes = [1]", "keep_alive_probes must be three whole numbers"),
        ("worker_class = 'asyncio'", "worker_class must be 'trio'"),
        ("daemon = true", "the setting 'daemon' has no effect under flowstream serve"),
        (
            "loglevel = 'LOUD'",
            "loglevel must be one of debug, info, warning, error, critical, not 'LOUD'",
        ),
    ],
)
def test_a_wrong_configuration_file(run, module, text, message):
    """What is misspelt, of the wrong type or without effect is one sentence, and no traceback."""
    module("app = type")
    module(text, "c.toml")
    result = run("serve", "a_module", "-c", "c.toml")
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_options_win_over_the_configuration_file(run, module, monkeypatch):
    """A setting is that of the option, else that of the file, else the default."""
    module("app = type")
    module(
        "bind = ['127.0.0.1:1', '127.0.0.1:2']\ngraceful_timeout = 7\nwrite_timeout = 2.5\n"
        "worker_class = 'trio'\nkeep_alive_probes = [1, 2, 3]\nworkers = 1\nh2c = true\n"
        "forwarded_allow_ips = ['10.0.0.0/8']\nproxy_headers = false\n",
        "c.toml",
    )
    configs = []
    monkeypatch.setattr("flowstream.cli._run", lambda app, config: configs.append(config))
    run("serve", "a_module", "-c", "c.toml", "--graceful-timeout", "0", "--readyz", "/readyz")
    run("serve", "a_module", "-c", "c.toml", "-b", "127.0.0.1:3")
    run("serve", "a_module")
    run("serve", "a_module", "-c", "c.toml", "--no-h2c")
    run("serve", "a_module", "--h2c")
    run("serve", "a_module", "--forwarded-allow-ips", "10.0.0.1,unix:", "--no-proxy-headers")
    run("serve", "a_module", "-c", "c.toml", "--proxy-headers")
    of_both, of_bind, default, of_none, of_h2c, *of_proxies = configs
    assert [one.forwarded_allow_ips for one in of_proxies] == ["10.0.0.1,unix:", ["10.0.0.0/8"]]
    assert [one.proxy_headers for one in of_proxies] == [False, True]
    assert (of_both.proxy_headers, default.proxy_headers) == (False, True)
    assert (of_both.forwarded_allow_ips, default.forwarded_allow_ips) == (["10.0.0.0/8"], None)
    assert of_both.bind == ["127.0.0.1:1", "127.0.0.1:2"]
    assert (of_both.graceful_timeout, of_both.write_timeout) == (0, 2.5)
    assert (of_both.readyz, of_both.keep_alive_probes) == ("/readyz", [1, 2, 3])
    assert of_bind.bind == ["127.0.0.1:3"]
    assert default.bind == ["127.0.0.1:8000"]
    assert [config.h2c for config in configs[:5]] == [True, True, False, False, True]
    assert of_none.bind == of_both.bind
    assert of_h2c.bind == default.bind


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:x", "127.0.0.1:99999", "256.1.1.1:80", "unix:no/such/dir", "192.0.2.1:80"]
)
def test_an_address_that_cannot_be_listened_on(run, module, bind):
    """A bad address is one line with exit code 1, naming it."""
    module("async def app(scope, receive, send): pass")
    code, output = without_sockets(run, "serve", "a_module", "-b", bind)
    assert code == 1
    assert output.splitlines()[-1].startswith(f"Error: cannot listen on {bind}: ")
    assert "Traceback" not in output


def test_a_port_in_use(run, module):
    """A port that somebody else listens on is one line with exit code 1."""
    module("async def app(scope, receive, send): pass")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        code, output = without_sockets(run, "serve", "a_module", "-b", bind)
    assert code == 1
    assert f"cannot listen on {bind}" in output
    assert "in use" in output


def test_a_startup_that_fails(run, module):
    """An app that says that its startup failed is one line with exit code 1."""
    module(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    result = run("serve", "a_module", "-b", "127.0.0.1:0")
    assert result.exit_code == 1
    assert "no database" in result.output.splitlines()[-1]


QUART = """
from quart_trio import QuartTrio
from flowstream.quart import Flowstream
app = QuartTrio(__name__)
Flowstream(app, log={url!r})
"""
STARLETTE = """
from starlette.applications import Starlette
from flowstream.starlette import lifespan
app = Starlette(lifespan=lifespan(log={url!r}))
"""
FROM_THE_ENVIRONMENT = """
from starlette.applications import Starlette
from flowstream.starlette import lifespan
app = Starlette(lifespan=lifespan)
"""


@pytest.mark.parametrize("code", [QUART, STARLETTE, FROM_THE_ENVIRONMENT])
def test_a_log_that_cannot_be_opened(run, module, tmp_path, monkeypatch, code):
    """It is one sentence with exit code 1, on each framework, without a traceback."""
    url = f"sqlite:///{tmp_path}/missing/events.db"
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", url)
    module(code.format(url=url))
    result = run("serve", "a_module", "-b", "127.0.0.1:0")
    assert result.exit_code == 1
    assert f"{tmp_path}/missing" in result.output.splitlines()[-1]
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) <= 2


def test_an_error_of_the_server_is_not_dressed_up(run, module, monkeypatch):
    """What is neither the address nor the app comes out as it is."""
    module("async def app(scope, receive, send): pass")

    async def broken(*args, task_status, **kwargs):
        task_status.started()
        raise OSError("the disk is on fire")

    monkeypatch.setattr("flowstream.cli.serve", broken)
    result = run("serve", "a_module")
    assert isinstance(result.exception, ExceptionGroup)


def test_the_demo_command(run, module, monkeypatch):
    """`flowstream demo` says where it is to be seen, and serves the demo's app there."""
    module(STOPS.format(signal="SIGTERM"))
    monkeypatch.syspath_prepend(".")
    monkeypatch.setattr("flowstream.demo.app.create_app", lambda **_: import_module("a_module").app)
    result = run("demo", "-b", "127.0.0.1:0")
    assert result.exit_code == 0, result.output
    assert "open http://127.0.0.1:0/ in a browser" in result.output
    assert sys.modules["a_module"].log == ["lifespan.startup", "lifespan.shutdown"]


def test_help_and_version(run):
    """--help names the commands and their options, --version the version."""
    assert all(word in run("--help").output for word in ("serve", "demo"))
    assert "--graceful-timeout" in run("serve", "-h").output
    assert "--bind" in run("demo", "--help").output
    assert run("--version").output == f"flowstream, version {__version__}\n"
    assert run("nonsense").exit_code == 2


def test_it_serves_from_a_process(served):
    """`flowstream serve module` finds the module in the current directory, and serves it."""
    process = served(APP)
    response = httpx2.get(process.url)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "data: hello\n" in response.text
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert "Traceback" not in process.log


def test_open_streams_are_ended_after_the_grace(served, client):
    """A signal gives streams --graceful-timeout seconds, then cancels them; exit code 0."""
    process = served(ENDLESS, "--graceful-timeout", "0.2")
    reader = client(process.url)
    reader.get()
    reader.read_until(b"data: a")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "producer ended" in process.log
    assert "Traceback" not in process.log


def test_a_second_signal_ends_it_at_once(served, client, eventually):
    """A client that reads nothing can hold up the first signal, but not the second."""
    process = served(ENDLESS, "--graceful-timeout", "0.1")
    reader = client(process.url, receive_buffer=4096)
    reader.get("/endless")
    reader.read_until(b"\r\n\r\n")
    process.signal(signal.SIGINT)
    eventually(lambda: refuses(process.url), "the server has stopped listening")
    process.signal(signal.SIGINT)
    assert process.wait(5) in (0, -signal.SIGINT)


def refuses(url):
    try:
        httpx2.get(url, timeout=1)
    except httpx2.ConnectError:
        return True
    return False


def test_the_demo_starts(command):
    """`flowstream demo` says where to look, and answers there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = command("demo", "--bind", f"127.0.0.1:{port}")
    process.wait_listening()
    assert httpx2.get(process.url).status_code == 200
    process.signal(signal.SIGINT)
    assert process.wait() == 0


ASYNCIO_LIFESPANS = {
    "Quart": """
        import asyncio
        from quart_trio import QuartTrio
        from flowstream.quart import Flowstream

        app = QuartTrio("app")
        Flowstream(app)
        app.before_serving(lambda: asyncio.get_running_loop())
    """,
    "Starlette": """
        import asyncio, contextlib
        from starlette.applications import Starlette

        @contextlib.asynccontextmanager
        async def lifespan(app):
            asyncio.get_running_loop()
            yield

        app = Starlette(lifespan=lifespan)
    """,
}


@pytest.mark.parametrize("framework", ASYNCIO_LIFESPANS)
def test_an_asyncio_library_in_the_lifespan(run, module, framework):
    """The server does not start, and says that the library needs asyncio and what to use."""
    module(textwrap.dedent(ASYNCIO_LIFESPANS[framework]))
    result = run("serve", "a_module", "-b", "127.0.0.1:0")
    assert result.exit_code == 1
    assert "This library needs asyncio, and flowstream runs on Trio." in result.output
