import pytest
from quart_trio import QuartTrio

from flowstream.quart import Flowstream


@pytest.fixture
def app():
    """A Quart-Trio app with the extension, and a session."""
    app = QuartTrio("app")
    app.secret_key = "a secret of this test"
    Flowstream(app)
    return app
