"""Tokens of a language model through flowstream, against the bare loop over the SDK's stream.

The bars, in each of four homes: through flowstream come at least 98 % of the tokens per second
that a bare ``async for chunk in stream`` over the `openai` SDK reads; and the upstream sees its
connection closed within 50 ms of the client's abort, whatever the answer is doing at the time.

How it is measured:

* Three processes and real sockets: an upstream that has its chunks ready made, one chunk of
  HTTP for each token, and sends as fast as it can or at a pace; flowstream's server with
  `openai_tokens` in it, one for each home, of which the others are idle; and this one, which is
  the client. The bare loop is one more, which reads from the same upstream, and does nothing
  with the tokens but look at them.
* Tokens per second of wall time, from the request to the end of the answer. Both sides run in
  each round, in alternating order, after a warm-up; the ratio is taken within a round.
* The SDK brings a hundred thousand objects, and a full garbage collection looks at all of them:
  60 ms in which nothing else runs. The server freezes them once (`gc.freeze`), as it should
  anywhere (see docs/how-to/llm-tokens.md).
* Aborts are resets. The upstream notes on the machine's monotonic clock when its ``recv``
  returns; the client notes when it closes its socket. The bar is for
  99 of 100. How long the machine takes for the same with nobody in between is shown beside it:
  where others work, too, a process may wait for a core for longer than the bar.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import queue
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from _homes import HOME_LABELS, HOMES
from _servers import serve_trio

RESET = struct.pack("ii", 1, 0)
LOOP = "bare loop"
RATIO_BAR, ABORT_BAR = 0.98, 0.05


# -- the upstream --------------------------------------------------------------------------


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """Return one event of a chat completion, as a chunk of HTTP."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {
        "id": "chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG",
        "object": "chat.completion.chunk",
        "created": 1741570283,
        "model": "gpt-4o-2024-08-06",
        "system_fingerprint": "fp_fc9f1d7035",
        "choices": [choice],
        "usage": None,
        **more,
    }
    return http_chunk(b"data: %s\n\n" % json.dumps(body).encode())


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ROLE = chunk({"role": "assistant", "content": ""})
TOKEN = chunk({"content": " token"})
LAST = (
    chunk({}, "stop")
    + chunk({}, choices=[], usage={"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18})
    + http_chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)


def run_upstream() -> None:
    """Answer requests whose model says how: ``tokens:rate``, ``hang`` or ``role``."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=listen, args=(connection,), daemon=True).start()


def listen(connection: socket.socket) -> None:
    """Start an answer to each request; say when the other side closes."""
    data, model = b"", ""
    while True:
        try:
            more = connection.recv(65536)
        except OSError:
            more = b""
        if not more:
            print(json.dumps({"closed": time.monotonic(), "model": model}), flush=True)
            connection.close()
            return
        data += more
        _, mark, body = data.partition(b"\r\n\r\n")
        if mark and body.endswith(b"}"):
            model, data = json.loads(body)["model"], b""
            print(json.dumps({"asked": time.monotonic(), "model": model}), flush=True)
            threading.Thread(target=answer, args=(connection, model), daemon=True).start()


def answer(connection: socket.socket, model: str) -> None:
    with contextlib.suppress(OSError):
        if model == "hang":
            return
        if model == "role":
            connection.sendall(HEAD + ROLE)
            return
        tokens, rate = map(int, model.split(":"))
        connection.sendall(HEAD + ROLE)
        if rate:
            began = time.monotonic()
            for number in range(tokens):
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
                connection.sendall(TOKEN)
        else:
            for _ in range(tokens // 100):
                connection.sendall(TOKEN * 100)
        connection.sendall(LAST)


# -- the sides -----------------------------------------------------------------------------


def run_flowstream(home: str, upstream: str) -> None:
    """Serve the upstream's answers in one home; the query names the model."""
    import openai

    import flowstream
    from flowstream.sources.llm.openai import openai_tokens

    client = openai.AsyncOpenAI(api_key="none", base_url=f"{upstream}/v1")

    async def answer(given: dict[str, str]) -> Any:
        source = openai_tokens(client, model=given["model"], messages=[])
        return flowstream.ndjson(source)

    async def freeze() -> None:
        gc.collect()
        gc.freeze()

    serve_trio(*HOMES[home]({"/": answer}), beside=freeze)


def run_loop(upstream: str) -> None:
    """Read the answer of each model that comes on stdin, in a bare loop; say how long it took."""
    import openai
    import trio

    client = openai.AsyncOpenAI(api_key="none", base_url=f"{upstream}/v1")

    async def read(model: str) -> int:
        count = 0
        async with await client.chat.completions.create(
            model=model, messages=[], stream=True, stream_options={"include_usage": True}
        ) as stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    if choice.delta.content:
                        count += 1
        return count

    async def main() -> None:
        print(json.dumps({"ready": True}), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            began, cpu = time.perf_counter(), time.process_time()
            count = await read(line.strip())
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
            print(json.dumps({"count": count, "took": took, "cpu": cpu}), flush=True)

    trio.run(main)


class Process:
    """One of the processes, and what it says."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.first = self.said.get(timeout=30)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.put(json.loads(line))

    def tell(self, line: str) -> dict[str, Any]:
        """Write a line and return what it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.said.get(timeout=300)

    def wait_for(self, key: str, model: str) -> dict[str, Any]:
        """Return the next thing said that has this key, of a connection asked for this model."""
        while key not in (said := self.said.get(timeout=30)) or said["model"] != model:
            pass
        return said

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[Process]:
    one = Process(*arguments)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


# -- the measurements ----------------------------------------------------------------------


def ask(port: int, model: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"GET /?model={model} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    return connection


def read_through_flowstream(flow: Process, model: str) -> dict[str, Any]:
    """Read an answer to its end; count its tokens."""
    began, cpu = time.perf_counter(), flow.cpu
    count, tail = 0, b""
    with ask(flow.first["port"], model) as connection:
        while b"0\r\n\r\n" not in tail:
            data = connection.recv(1 << 18)
            if not data:
                raise SystemExit(f"the answer ended early: {tail!r}")
            count += (tail[-6:] + data).count(b'"token"')
            tail = (tail + data)[-64:]
    return {"count": count, "took": time.perf_counter() - began, "cpu": flow.cpu - cpu}


def compare(
    flows: dict[str, Process], loop: Process, model: str, rounds: int
) -> list[dict[str, dict[str, float]]]:
    """Return for each round and side tokens per second, CPU, and the ratio to the bare loop."""
    sides: dict[str, Callable[[], dict[str, Any]]] = {LOOP: lambda: loop.tell(model)}
    for home, flow in flows.items():
        sides[home] = partial(read_through_flowstream, flow, model)
    results = []
    for number in range(rounds):
        turn = number % len(sides)
        order = [*sides][turn:] + [*sides][:turn]
        got = {side: sides[side]() for side in order}
        counts = {side: one["count"] for side, one in got.items()}
        if len(set(counts.values())) > 1:
            raise SystemExit(f"the sides have not read the same: {counts}")
        rates = {side: one["count"] / one["took"] for side, one in got.items()}
        results.append(
            {
                side: {
                    "rate": rates[side],
                    "micros": one["cpu"] / one["count"] * 1e6,
                    "ratio": rates[side] / rates[LOOP],
                }
                for side, one in got.items()
            }
        )
    return results


KINDS = {
    "before the head": "hang",
    "before a token": "role",
    "between tokens": "100000:50",
    "client stalled": "10000000:0",
    "nobody in between": "hang",
}


def abort(flow: Process, upstream: Process, kind: str) -> float:
    """Return the seconds from a client's reset to the end of the upstream's connection."""
    model = KINDS[kind]
    if kind == "nobody in between":
        connection = ask_upstream(upstream.first["port"], model)
    else:
        connection = ask(flow.first["port"], model)
    with connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        upstream.wait_for("asked", model)
        if kind == "between tokens":
            seen = b""
            while seen.count(b'"token"') < 3:
                seen += connection.recv(4096)
        elif kind == "client stalled":
            time.sleep(0.5)  # until every buffer on the way is full
        else:
            time.sleep(0.02)
        began = time.monotonic()
    return float(upstream.wait_for("closed", model)["closed"]) - began


def ask_upstream(port: int, model: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    body = json.dumps({"model": model})
    connection.sendall(f"POST / HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    return connection


def table(name: str, values: list[float], unit: str) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{name:<52} {low:>10.3g} {middle:>10.3g} {high:>10.3g} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--tokens", type=int, default=30_000)
    parser.add_argument("--aborts", type=int, default=100, help="of each kind in each home")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    parser.add_argument("--homes", nargs="+", choices=HOMES, default=list(HOMES))
    parser.add_argument("--run", choices=["upstream", "loop", *HOMES], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run == "upstream":
        return run_upstream()
    if options.run == "loop":
        return run_loop(options.url)
    if options.run:
        return run_flowstream(options.run, options.url)
    missed = False
    samples: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(process("--run", "upstream"))
        url = f"http://127.0.0.1:{upstream.first['port']}"
        flows = {
            home: stack.enter_context(process("--run", home, "--url", url))
            for home in options.homes
        }
        loop = stack.enter_context(process("--run", "loop", "--url", url))
        compare(flows, loop, "1000:0", 1)
        print(f"{'':<52} {'min':>10} {'median':>10} {'max':>10}")
        for name, model in [
            (f"flood of {options.tokens} tokens", f"{options.tokens}:0"),
            ("300 tokens, 200 a second", "300:200"),
        ]:
            results = samples[name] = compare(flows, loop, model, options.rounds)
            for side in (LOOP, *flows):

                def values(what: str, side: str = side, results: Any = results) -> list[float]:
                    return [of_round[side][what] for of_round in results]

                title = f"{name}, {HOME_LABELS.get(side, side)}"
                print(table(title, values("rate"), "tokens/s"))
                print(table(title, values("micros"), "µs of CPU a token"))
                if side != LOOP:
                    met = statistics.median(values("ratio")) >= RATIO_BAR
                    missed |= not met
                    verdict = f"bar {RATIO_BAR}: {'met' if met else 'MISSED'}"
                    print(table(f"{title} / {LOOP}", values("ratio"), verdict))
        print(f"{'':<52} {'median':>10} {'99th':>10} {'max':>10}")
        nobody = "nobody in between"
        for kind, home in [*product([one for one in KINDS if one != nobody], flows), (nobody, "")]:
            count = max(1, options.aborts // 5) if kind == "client stalled" else options.aborts
            flow = flows.get(home, upstream)
            delays = sorted(abort(flow, upstream, kind) for _ in range(count))
            samples[f"{kind}, {home}"] = delays
            high = delays[math.ceil(count * 0.99) - 1]
            met = high <= ABORT_BAR
            bar = f"ms, bar {ABORT_BAR * 1000:.0f}: {'met' if met else 'MISSED'}"
            if kind == nobody:
                bar = "ms: what the machine itself does"
            else:
                missed |= not met
            millis = [delay * 1000 for delay in (statistics.median(delays), high, delays[-1])]
            cells = " ".join(f"{one:>10.3g}" for one in millis)
            title = f"abort {kind} ({count})" + (f", {HOME_LABELS[home]}" if home else "")
            print(f"{title:<52} {cells} {bar}")
    if options.json:
        options.json.write_text(json.dumps(samples, indent=1))
    raise SystemExit(1 if missed and options.check else 0)


if __name__ == "__main__":
    main()
