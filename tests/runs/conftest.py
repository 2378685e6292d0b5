import pytest

from flowstream.quart import Flowstream


@pytest.fixture
async def flow():
    """What runs are run in, outside an app."""
    async with Flowstream() as flow:
        yield flow
