"""What people hand over by mistake, and what they are told: where they did it, and what to do."""

import io
import sqlite3
from contextlib import closing

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from flowstream import PublicError, Runs, SourceError, Topics, sse
from flowstream.sources import (
    file_chunks,
    merge,
    openai_tokens,
    postgres_rows,
    process_output,
    sqlite_rows,
    throttle,
)

ASKED = {"model": "m", "messages": []}


async def numbers():
    yield 1


def openai(client):
    return openai_tokens(client, **ASKED)


def rows_of_a_cursor():
    with closing(sqlite3.connect(":memory:")) as connection:
        sqlite_rows(connection.cursor(), "SELECT 1")


CASES = {
    "rows of a cursor": (
        rows_of_a_cursor,
        TypeError,
        r"database must be a path or a sqlite3\.Connection, not a Cursor",
    ),
    "rows of nothing": (
        lambda: sqlite_rows(None, "SELECT 1"),
        TypeError,
        r"database must be a path or a sqlite3\.Connection, not a NoneType",
    ),
    "one parameter, bare": (
        lambda: sqlite_rows("a.db", "SELECT ?", "UA1"),
        TypeError,
        r"not a str; one parameter is \[value\]",
    ),
    "SQL for a DSN": (
        lambda: postgres_rows("SELECT 1", "dbname=shop"),
        ValueError,
        r"can't be read: it is \"dbname=shop host=\.\.\.\" or \"postgresql://\.\.\.\"",
    ),
    "a sync client": (
        lambda: openai(OpenAI(api_key="none")),
        TypeError,
        r"must be an openai\.AsyncOpenAI: an? OpenAI can't be awaited",
    ),
    "the class of a client": (
        lambda: openai(AsyncOpenAI),
        TypeError,
        r"must be an openai\.AsyncOpenAI, not the class AsyncOpenAI: pass one",
    ),
    "a key": (
        lambda: openai("sk-secret"),
        TypeError,
        r"must be an openai\.AsyncOpenAI, not a str$",
    ),
    "another vendor's client": (
        lambda: openai(AsyncAnthropic(api_key="none")),
        TypeError,
        r"must be an openai\.AsyncOpenAI, not an? anthropic\.AsyncAnthropic$",
    ),
    "a range of numbers": (
        lambda: file_chunks(__file__, range=(2, 5)),
        TypeError,
        r"range must be a str such as 'bytes=0-499', not \(2, 5\)",
    ),
    "an open file": (
        lambda: file_chunks(io.BytesIO(b"")),
        TypeError,
        "path must be a str or a path, not a BytesIO",
    ),
    "a descriptor": (
        lambda: file_chunks(0),
        TypeError,
        "path must be a str or a path, not a int",
    ),
    "a command line": (
        lambda: process_output("ls -l"),
        TypeError,
        r"no shell to take a command line apart; .* \['ls', '-l'\]",
    ),
    "a command line in a list": (
        lambda: process_output(["ls -l"]),
        FileNotFoundError,
        r"there is no program 'ls -l': .* \['ls', '-l'\]",
    ),
    "one status": (
        lambda: process_output(["ls"], ok=0),
        TypeError,
        r"ok must be a collection of ints, such as \(0, 1\), not 0",
    ),
    "a number for a variable": (
        lambda: process_output(["ls"], env={"COLUMNS": 80}),
        TypeError,
        "env must be a mapping of str to str",
    ),
    "pairs for an environment": (
        lambda: process_output(["ls"], env=["COLUMNS=80"]),
        TypeError,
        "env must be a mapping of str to str",
    ),
    "a list of sources, merged": (
        lambda: merge([numbers, throttle(numbers, per_second=1)]),
        SourceError,
        r"a list of sources: merge\(one, two\)",
    ),
    "a list of sources": (
        lambda: sse([throttle(numbers, per_second=1), numbers]),
        SourceError,
        r"a list of sources: merge\(one, two\)",
    ),
    "all runs": (
        lambda: sse(Runs()),
        SourceError,
        r"Runs is not a source .* one of them, runs\[key\]",
    ),
    "all topics": (lambda: sse(Topics()), SourceError, r"Topics is not a source"),
    "a status as text": (
        lambda: PublicError("quota", "Used up.", status="429"),
        TypeError,
        "status must be an int, not '429'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_at_the_call(case):
    """A mistake raises where it is made, with what was expected in its place."""
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message):
        call()
