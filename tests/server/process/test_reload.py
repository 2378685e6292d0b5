"""``--reload``: new code is served soon after it was saved, and broken code is waited out."""

import signal

import httpx2
import pytest

pytestmark = pytest.mark.chaos

APP = """
    from flowstream import sse
    import trio

    async def feed(out):
        await out.send("first")
        await trio.sleep_forever()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["path"] == "/feed":
            await sse(feed)(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one"})
"""


@pytest.fixture
def reloading(served, tmp_path):
    """Serve APP with --reload; the function rewrites the app."""
    process = served(APP, "--reload")
    path = tmp_path / "served_app.py"
    source = path.read_text()

    def rewrite(old, new):
        assert old in source
        path.write_text(source.replace(old, new))

    return process, rewrite


def test_new_code_is_served(reloading, client, eventually):
    """A change ends streams with a farewell, and refuses nobody until the new code answers."""
    process, rewrite = reloading
    stream = client(process.url)
    stream.get("/feed")
    stream.read_until(b"first")
    rewrite('b"one"', 'b"two"')  # of the same size, in the same second
    eventually(lambda: httpx2.get(process.url, timeout=20).text == "two", "the new code")
    farewell = stream.read_all()
    assert b"event: reconnect" in farewell
    assert b"retry: " in farewell
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def test_broken_code_is_waited_out(reloading, eventually):
    """After a syntax error it waits for the next change, and then serves."""
    process, rewrite = reloading
    rewrite("async def app", "async def def app")
    eventually(lambda: "SyntaxError" in process.log, "the error is shown")
    rewrite('b"one"', 'b"mended"')
    eventually(lambda: httpx2.get(process.url, timeout=20).text == "mended", "it serves again")
    assert "served_app.py" in process.log
    process.signal(signal.SIGINT)
    assert process.wait() == 0


def test_code_that_is_broken_at_the_first_start(command, tmp_path, eventually):
    """Also before it has ever served it waits for code that works."""
    path = tmp_path / "an_app.py"
    path.write_text("import not_there\n")
    process = command("serve", "an_app", "--reload", "-b", "127.0.0.1:0")
    eventually(lambda: "ModuleNotFoundError" in process.log, "the error is shown")
    assert process.process.poll() is None
    (tmp_path / "not_there.py").write_text("async def app(scope, receive, send): pass\n")
    path.write_text("from not_there import app\n")
    process.wait_listening()
