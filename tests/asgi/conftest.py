"""What the tests of a stream share: its report, its log, and its last words."""

import json
import logging

import pytest


@pytest.fixture
def reports():
    """A list for ``on_close=reports.append``, checked to hold one report a stream."""
    return []


@pytest.fixture(autouse=True)
def _record_all(caplog):
    caplog.set_level(logging.INFO, logger="flowstream")


@pytest.fixture
def logged(caplog):
    """Return the records of the flowstream logger from a level up, as (level, text)."""

    def records(level=logging.WARNING):
        return [
            (record.levelname, record.getMessage())
            for record in caplog.records
            if record.name == "flowstream" and record.levelno >= level
        ]

    return records


@pytest.fixture
def read_events():
    """Return an async function: all events that a client still gets, as (type, value, id)."""

    async def read(client):
        return [(event.type, _value(event.data), event.id) async for event in client]

    return read


def _value(data):
    try:
        return json.loads(data)
    except ValueError:
        return data
