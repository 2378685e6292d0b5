"""Bodies that a client makes to hurt: what a view that reads them answers."""

import json
import runpy
from pathlib import Path

import pytest
from quart import request
from quart.json.provider import DefaultJSONProvider
from quart_trio import QuartTrio

from flowstream import ndjson
from flowstream.quart import Flowstream
from flowstream.testing import collect

DEEP = b"[" * 100_000
JSON = {"content-type": "application/json"}


@pytest.fixture
def app():
    app = QuartTrio("app")
    Flowstream(app)

    @app.post("/")
    async def view():
        return ndjson([await request.get_json()], controls=False)

    return app


@pytest.mark.parametrize("body", [DEEP, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000])
async def test_json_that_is_nested_too_deep(app, body, clean_log):
    """JSON that Python cannot read for its depth is a bad request, without a traceback."""
    answer = await collect(app, method="POST", headers=JSON, body=body)
    assert answer.status == 400
    assert b"Traceback" not in answer.body


async def test_json_that_is_fine(app):
    """Other JSON is read as before."""
    answer = await collect(app, method="POST", headers=JSON, body=b'{"a": [1]}')
    assert json.loads(answer.body) == {"a": [1]}


async def test_a_provider_of_the_apps_own(clean_log):
    """An app's own JSON provider is asked, and its client's fault is told apart."""

    class Upper(DefaultJSONProvider):
        def loads(self, text, **options):
            return super().loads(text.upper(), **options)

    class App(QuartTrio):
        json_provider_class = Upper

    app = App("app")
    Flowstream(app)

    @app.post("/")
    async def view():
        return ndjson([await request.get_json()], controls=False)

    assert (await collect(app, method="POST", headers=JSON, body=b'"a"')).body == b'"A"\n'
    assert (await collect(app, method="POST", headers=JSON, body=DEEP)).status == 400


async def test_the_example_that_reads_json(clean_log):
    """The example that speaks OpenAI's protocol answers such a body with 400."""
    (path,) = (Path(__file__).parents[2] / "examples").glob("14_*.py")
    app = runpy.run_path(str(path))["app"]
    answer = await collect(app, "/v1/chat/completions", method="POST", headers=JSON, body=DEEP)
    assert answer.status == 400
