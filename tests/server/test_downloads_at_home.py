"""Downloads in each home, on a real socket: named, compressed, and cut when they fail."""

import gzip
import zlib

import pytest
import trio
from _homes import HOMES

from flowstream import csv

ROWS = [{"n": n, "name": f"name {n}"} for n in range(500)]
NAME = "Städte – 都市.csv"


@pytest.fixture
def curl(program, server):
    """Fetch from an app with curl, to its end."""
    path = program("curl")

    async def run(app, *arguments):
        url = await server(app)
        with trio.fail_after(20):
            return await trio.run_process(
                [path, "-sS", "-N", *arguments, url],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )

    return run


def table():
    return csv(ROWS, filename=NAME, compress="gzip")


@pytest.mark.parametrize("home", HOMES)
async def test_curl_unpacks_the_same_table(curl, home, clean_log):
    """With the name in its headers; who does not ask gets it plain."""
    app = HOMES[home](table)
    packed = await curl(app, "-D", "-", "-H", "Accept-Encoding: gzip")
    head, _, body = packed.stdout.partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head.lower()
    assert b"filename*=UTF-8''St%C3%A4dte%20%E2%80%93%20%E9%83%BD%E5%B8%82.csv" in head
    plain = await curl(app)
    assert gzip.decompress(body) == plain.stdout
    assert plain.stdout.endswith(b"499,name 499\r\n")
    unpacked = await curl(app, "--compressed")
    assert (unpacked.returncode, unpacked.stdout) == (0, plain.stdout)


@pytest.mark.parametrize("home", HOMES)
async def test_a_table_that_fails_does_not_look_whole(curl, home):
    """curl says so by its exit status, compressed or not, and has the rows that came."""

    async def failing():
        for row in ROWS[:100]:
            yield row
        raise OSError("the database has gone")

    app = HOMES[home](lambda: csv(failing(), compress="gzip"))
    assert (await curl(app)).returncode == 18
    packed = await curl(app, "-H", "Accept-Encoding: gzip")
    assert packed.returncode == 18
    assert b"99,name 99" in zlib.decompressobj(31).decompress(packed.stdout)
