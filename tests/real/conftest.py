import logging

import pytest


@pytest.fixture
def clean_log(caplog):
    """Fail the test if anything at ERROR or above, or a traceback, was logged."""
    yield caplog
    bad = [
        record
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR or record.exc_info
    ]
    assert not bad, [record.getMessage() for record in bad]
