"""Who may ask the demo: its own page, a link to it, and programs; no other site's page."""

import pytest

from flowstream.demo.app import create_app
from flowstream.demo.guard import answers_to, is_foreign
from flowstream.testing import collect


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "LocalHost:8000",
        "localhost.:8000",
        "demo.localhost:1",
        "127.0.0.1:8000",
        "127.1.2.3",
        "[::1]:8000",
        "[::1]",
    ],
)
def test_it_answers_to_the_names_of_loopback(host):
    """Every name that can only mean this machine is one of its own."""
    assert answers_to(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1:8000",
        "[::2]",
        "localhost:80:80",
        "a@localhost",
        "localhost/",
        "[::1]x",
        ":8000",
        "0.0.0.0:8000",
        "evillocalhost",
    ],
)
def test_it_does_not_answer_to_another_name(host):
    """A name that somebody else may have made to mean this machine is foreign."""
    assert not answers_to(host)


async def test_a_rebound_name_reads_nothing():
    """A page under a foreign name gets neither the page nor a stream, and learns what to type."""
    for path in ("/", "/feed", "/streams", "/docs/index.md", "/nothing"):
        response = await collect(create_app(), path, headers={"host": "evil.example"})
        assert response.status == 421
        assert b"--host NAME" in response.body
    app = create_app(hosts=["Demo.Example", "::2"])
    for host in ("demo.example:80", "[::2]:8000", "localhost"):
        assert (await collect(app, "/topics", headers={"host": host})).status == 200


@pytest.mark.parametrize(
    ("site", "origin", "foreign"),
    [
        ("same-origin", None, False),
        ("none", None, False),
        ("cross-site", None, True),
        ("same-site", None, True),
        ("cross-site", "http://localhost:8000", True),
        (None, None, False),
        (None, "http://localhost:8000", False),
        (None, "http://localhost:9000", True),
        (None, "https://evil.example", True),
        (None, "null", True),
    ],
)
def test_a_foreign_sites_request(site, origin, foreign):
    """What a browser says of the page that asks decides; a program says nothing."""
    assert is_foreign(site, origin, "localhost:8000") is foreign


@pytest.mark.parametrize("path", ["/feed", "/flood", "/rows.csv", "/tokens", "/system", "/streams"])
async def test_another_site_cannot_fill_the_demo(path):
    """An image, a fetch or a window of another site gets a 403, and no stream is made."""
    for mode in ("no-cors", "cors", "navigate"):
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode}
        response = await collect(create_app(), path, headers=headers)
        assert response.status == 403
        assert b"another site" in response.body


async def test_another_site_cannot_start_an_answer():
    """A form or a fetch of another site starts no run."""
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
        response = await collect(create_app(), "/answers", method="POST", headers=headers)
        assert response.status == 403


async def test_a_link_on_another_site_opens_the_page():
    """Who follows a link to the demo or its documentation sees it."""
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    for path in ("/", "/docs/tutorial.md"):
        assert (await collect(create_app(), path, headers=headers)).status == 200
