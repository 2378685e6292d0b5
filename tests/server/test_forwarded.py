"""Trusted proxies: what of ``X-Forwarded-For`` and ``X-Forwarded-Proto`` is taken, from whom."""

import ipaddress
import logging

import pytest
import trio
import trio.testing
from _homes import HOMES
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

import flowstream
from flowstream import Topic, sse
from flowstream.server import ServerConfig, _forwarded, streaming_config
from flowstream.server._forwarded import TrustedProxies
from flowstream.server._settings import checked, trusted_proxies

PEER = ("10.0.0.1", 4711)
PRIVATE = "10.0.0.0/8,127.0.0.1,fd00::/8"


def ask(trusted, *headers, peer=PEER, path="", tls=False):
    """Return what is known of a request with these headers; a text is ``X-Forwarded-For``."""
    fields = [(b"host", b"x")]
    for header in headers:
        if isinstance(header, str):
            header = (b"x-forwarded-for", header.encode("latin-1"))
        fields.append(header)
    return TrustedProxies(trusted).origin(fields, peer, path, tls=tls)


# -- who the client is -------------------------------------------------------------------------

LISTS = {
    "one address": ("1.2.3.4", ("1.2.3.4", 0)),
    "the client may have made up what stands to the left": ("9.9.9.9, 1.2.3.4", ("1.2.3.4", 0)),
    "a trusted proxy is passed over": ("1.2.3.4, 10.9.9.9", ("1.2.3.4", 0)),
    "so are several": ("6.6.6.6, 1.2.3.4, 10.1.1.1,127.0.0.1", ("1.2.3.4", 0)),
    "all are trusted": ("10.3.3.3, 10.2.2.2", ("10.3.3.3", 0)),
    "IPv6": ("2001:db8::1", ("2001:db8::1", 0)),
    "IPv6 in capitals": ("2001:DB8:0::1", ("2001:db8::1", 0)),
    "IPv6 in brackets": ("[2001:db8::1]", ("2001:db8::1", 0)),
    "IPv6 with a port": ("[2001:db8::1]:443", ("2001:db8::1", 443)),
    "IPv4 with a port": ("1.2.3.4:5678", ("1.2.3.4", 5678)),
    "a trusted proxy with a port": ("1.2.3.4, 10.2.2.2:80", ("1.2.3.4", 0)),
    "a trusted network of IPv6": ("1.2.3.4, fd00::7", ("1.2.3.4", 0)),
    "IPv4 inside IPv6": ("1.2.3.4, ::ffff:10.2.2.2", ("1.2.3.4", 0)),
    "nothing": ("", PEER),
    "blanks and commas": (" , ,\t", PEER),
    "an empty entry is none": ("1.2.3.4, ,", ("1.2.3.4", 0)),
    "no address": ("unknown", PEER),
    "no address, behind one that is made up": ("9.9.9.9, unknown", PEER),
    "no address before a trusted proxy": ("9.9.9.9, _x, 10.2.2.2", ("10.2.2.2", 0)),
    "no address before the client": ("<script>, 1.2.3.4", ("1.2.3.4", 0)),
    "an interface": ("fe80::1%eth0", PEER),
    "too large a port": ("1.2.3.4:65536", PEER),
    "no number for a port": ("1.2.3.4:x", PEER),
    "a bracket that is open": ("[::1", PEER),
    "digits that are not ASCII": ("\xb2.1.1.1", PEER),
    "a name": ("localhost", PEER),
    "a socket that is not trusted": ("1.2.3.4, unix:", PEER),
    "1,000 that are made up": ("9.9.9.9," * 1000 + "1.2.3.4", ("1.2.3.4", 0)),
    "99 proxies": ("1.2.3.4" + ",10.2.2.2" * 99, ("1.2.3.4", 0)),
    "more proxies than there are": ("1.2.3.4" + ",10.2.2.2" * 1000, ("10.2.2.2", 0)),
    "a very long one": ("1" * 16_000, PEER),
    "colons": (":" * 16_000, PEER),
}


@pytest.mark.parametrize("name", LISTS)
def test_the_client(name):
    """It is the first from the right that is no trusted proxy."""
    value, client = LISTS[name]
    assert ask(PRIVATE, value) == (client, False)
    assert ask(PRIVATE, *value.split(",", 1)) == (client, False)  # in two headers it is the same


@pytest.mark.parametrize("name", LISTS)
def test_others_are_not_believed(name):
    """Whatever comes from a peer that is no trusted proxy changes nothing."""
    headers = [LISTS[name][0], (b"x-forwarded-proto", b"https")]
    for trusted in ("", "127.0.0.1", "11.0.0.0/8", "unix:"):
        assert ask(trusted, *headers) == (PEER, False)
    for trusted in ("", "0.0.0.0/0,::/0", "unix:/b"):
        assert ask(trusted, *headers, peer=None, path="/a") == (None, False)


def test_anybody():
    """With ``*`` the first entry is the client, as with uvicorn: whoever asks can make it up."""
    assert ask("*", "1.2.3.4, 5.6.7.8") == (("1.2.3.4", 0), False)
    assert ask("*", "nonsense, 5.6.7.8") == (PEER, False)
    assert ask(["*"], "1.2.3.4", peer=None) == (("1.2.3.4", 0), False)


@pytest.mark.parametrize(
    ("trusted", "peer", "path", "believed"),
    [
        ("127.0.0.1", ("127.0.0.1", 1), "", True),
        ("127.0.0.1", ("::ffff:127.0.0.1", 1), "", True),
        ("::ffff:127.0.0.1", ("127.0.0.1", 1), "", True),
        ("::1", ("::1", 1), "", True),
        ("0:0::1", ("::1", 1), "", True),
        ("127.0.0.1", ("::1", 1), "", False),
        ("10.0.0.0/8", ("10.255.0.1", 1), "", True),
        ("10.0.0.0/8", ("11.0.0.1", 1), "", False),
        ("::ffff:10.0.0.0/104", ("10.255.0.1", 1), "", True),
        ("::ffff:10.0.0.0/104", ("11.0.0.1", 1), "", False),
        ("fe80::/10", ("fe80::1%eth0", 1), "", True),
        (" 10.0.0.1 , 10.0.0.2,", ("10.0.0.2", 1), "", True),
        (["10.0.0.1", "10.0.0.2"], ("10.0.0.2", 1), "", True),
        ("127.0.0.1", None, "/run/a.sock", False),
        ("unix:", None, "/run/a.sock", True),
        ("unix:", None, "", True),
        ("unix:/run/a.sock", None, "/run/a.sock", True),
        ("/run/a.sock", None, "/run/a.sock", True),
        ("unix:/run/b.sock", None, "/run/a.sock", False),
        ("unix:", ("10.0.0.1", 1), "", False),
        ("", ("127.0.0.1", 1), "", False),
        ([], ("127.0.0.1", 1), "", False),
    ],
)
def test_who_is_trusted(trusted, peer, path, believed):
    """Addresses, networks and UNIX sockets, in whichever way they are written."""
    found = ask(trusted, "1.2.3.4", (b"x-forwarded-proto", b"https"), peer=peer, path=path)
    assert found == ((("1.2.3.4", 0), True) if believed else (peer, False))


def test_a_socket_on_the_way():
    """An entry that is a trusted socket is passed over, as a trusted address is."""
    assert ask("10.0.0.1,unix:", "1.2.3.4, unix:").client == ("1.2.3.4", 0)
    assert ask("10.0.0.1,unix:/a", "1.2.3.4, unix:/a").client == ("1.2.3.4", 0)


@pytest.mark.parametrize(
    ("value", "before", "after"),
    [
        (b"https", False, True),
        (b"http", True, False),
        (b"wss", False, True),
        (b"ws", True, False),
        (b" HTTPS ", False, True),
        (b"", True, True),
        (b"https,http", False, False),
        (b"javascript", False, False),
        (b"\xff", True, True),
    ],
)
def test_the_scheme(value, before, after):
    """One of four words is taken, of anything else nothing."""
    assert ask(PRIVATE, (b"x-forwarded-proto", value), tls=before) == (PEER, after)


def test_the_last_scheme_counts():
    """As with uvicorn."""
    fields = [(b"x-forwarded-proto", b"http"), (b"x-forwarded-proto", b"https")]
    assert ask(PRIVATE, *fields, "1.2.3.4") == (("1.2.3.4", 0), True)


def test_without_the_headers_nothing_is_read(monkeypatch):
    """A request that has none costs no look at any address."""

    def ip_address(text):
        raise AssertionError("an address was looked at")

    proxies = TrustedProxies(PRIVATE)
    monkeypatch.setattr(_forwarded, "ip_address", ip_address)
    headers = [(b"host", b"x"), (b"x-forwarded-hos", b"a"), (b"accept", b"*/*")]
    assert proxies.origin(headers, PEER, "", tls=True) == (PEER, True)


# -- whatever is sent --------------------------------------------------------------------------

ADDRESSES = st.one_of(
    st.sampled_from(["10.0.0.7", "127.0.0.1", "fd00::1", "1.2.3.4", "2001:db8::1"]),
    # uvicorn does not take ::ffff:10.0.0.1 for 10.0.0.1.
    st.ip_addresses().filter(lambda one: not getattr(one, "ipv4_mapped", None)).map(str),
)
NETWORKS = st.sampled_from(["10.0.0.0/8", "127.0.0.1", "fd00::/8", "1.2.3.4", "::/0", "*"])


@given(st.lists(ADDRESSES, min_size=1, max_size=6), st.lists(NETWORKS, unique=True, max_size=3))
def test_as_uvicorn(entries, trusted):
    """Whoever is trusted: of addresses uvicorn makes the same client, of each scheme the same."""
    if "*" in trusted:
        trusted = ["*"]
    headers = [(b"x-forwarded-for", ", ".join(entries).encode()), (b"x-forwarded-proto", b"https")]
    for peer in [PEER, ("1.2.3.4", 1), ("::1", 1)]:
        scopes = []

        async def app(scope, receive, send, scopes=scopes):
            scopes.append(scope)

        scope = {"type": "http", "headers": headers, "client": peer, "scheme": "http"}
        with pytest.raises(StopIteration):
            ProxyHeadersMiddleware(app, trusted)(scope, None, None).send(None)
        (theirs,) = scopes
        ours = TrustedProxies(trusted).origin(headers, peer, "", tls=False)
        assert ours.client == (plain(theirs["client"][0]), theirs["client"][1])
        assert ours.tls == (theirs["scheme"] == "https")


def plain(text):
    """Return an address in its shortest form."""
    return str(ipaddress.ip_address(text))


@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(max_size=9))
def test_whatever_is_sent(values, scheme):
    """Nothing is raised, and the client has an address that is one."""
    headers = [(b"x-forwarded-for", value) for value in values]
    headers.append((b"x-forwarded-proto", scheme))
    for trusted in (PRIVATE, "*", "0.0.0.0/0,::/0,unix:", "unix:"):
        for peer in (PEER, None):
            client, tls = TrustedProxies(trusted).origin(headers, peer, "/a", tls=False)
            assert client is peer or (ipaddress.ip_address(client[0]) and 0 <= client[1] < 65536)
            assert isinstance(tls, bool)


@given(st.text("0123456789abcdef.:, []%xun", max_size=60), ADDRESSES)
def test_nothing_to_the_left_matters(left, right):
    """Whatever stands before the first address that is not trusted, it is the same client."""
    if plain(right) != "127.0.0.1":
        found = ask("127.0.0.1", f"{left},{right}", peer=("127.0.0.1", 1))
        assert found.client == (plain(right), 0)


# -- the setting -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            "nginx",
            ValueError,
            "forwarded_allow_ips: 'nginx' is not a proxy to trust: expected an IP",
        ),
        ("10.0.0.1/8", ValueError, "forwarded_allow_ips: '10.0.0.1/8' is not a proxy to trust"),
        ("10.0.0.0/99", ValueError, "'10.0.0.0/99' is not a proxy"),
        ("127.0.0.1,*", ValueError, r"'\*' trusts anybody: write it alone"),
        (7, TypeError, "as a string with commas or as a list of strings, not 7"),
        ([b"::1"], TypeError, "as a list of strings, not"),
    ],
)
def test_a_bad_setting(given, error, message):
    """It is refused before the server starts, in a sentence that names it."""
    with pytest.raises(error, match=message):
        checked(streaming_config(forwarded_allow_ips=given))


def test_the_environment(monkeypatch):
    """Without the setting the environment's counts, and without that the loopback addresses do."""
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    proxies = trusted_proxies(ServerConfig())
    assert [proxies.trusts(peer) for peer in ("127.0.0.1", "::1", "127.0.0.2", "unix:/a")] == [
        *(True, True),
        *(False, False),
    ]
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.0/8")
    assert trusted_proxies(ServerConfig()).trusts("10.1.1.1")
    assert not trusted_proxies(ServerConfig()).trusts("127.0.0.1")
    assert not trusted_proxies(streaming_config(forwarded_allow_ips="")).trusts("10.1.1.1")
    assert not trusted_proxies(streaming_config(proxy_headers=False)).trusts("10.1.1.1")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "nginx")
    with pytest.raises(ValueError, match=r"^FORWARDED_ALLOW_IPS: 'nginx'"):
        checked(ServerConfig())


# -- served ------------------------------------------------------------------------------------

HEADERS = "X-Forwarded-For: 6.6.6.6, 9.9.9.9\r\nX-Forwarded-Proto: https\r\n"


class App:
    """Notes from where it is asked."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        self.seen.append((scope["client"], scope["scheme"]))
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})


REQUESTS = {
    "plain": "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
    "by h11": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{}\r\n",
    "HTTP/1.0": "GET / HTTP/1.0\r\nHost: x\r\n{}\r\n",
    "WebSocket": "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{}\r\n",
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("raw", [False, True], ids=["", "raw names"])
async def test_each_kind_of_request(kind, raw, server, connect):
    """A trusted proxy is believed, another peer is not, and the scheme is the request's kind's."""
    secure, clear = ("wss", "ws") if kind == "WebSocket" else ("https", "http")
    for trusted, expected in (
        (None, (("9.9.9.9", 0), secure)),
        ("10.0.0.1", (("127.0.0.1", 0), clear)),
    ):
        app = App()
        url = await server(app, forwarded_allow_ips=trusted, h11_pass_raw_headers=raw)
        stream = await connect(url)
        await stream.send_all(REQUESTS[kind].format(HEADERS).encode())
        await stream.receive_some()
        ((client, scheme),) = app.seen
        assert (client if trusted is None else (client[0], 0), scheme) == expected


async def test_over_http_2_each_stream_has_its_own(server, http2, certificate):
    """The streams of one connection may come from different clients; TLS ends at the proxy."""
    app = App()
    peer = await http2(await server(app, **certificate))
    for address, scheme in (("1.1.1.1", "https"), ("2.2.2.2", "http")):
        await peer.finished(
            await peer.get("/", ("x-forwarded-for", address), ("x-forwarded-proto", scheme))
        )
    assert app.seen == [(("1.1.1.1", 0), "https"), (("2.2.2.2", 0), "http")]


async def test_requests_of_one_connection(server, connect):
    """What one request on a connection says is not the next one's."""
    app = App()
    stream = await connect(await server(app))
    for headers in (HEADERS, "", HEADERS.replace("9.9.9.9", "8.8.8.8")):
        await stream.send_all(REQUESTS["plain"].format(headers).encode())
        await stream.receive_some()
    assert [client[0] for client, _ in app.seen] == ["9.9.9.9", "127.0.0.1", "8.8.8.8"]
    assert [scheme for _, scheme in app.seen] == ["https", "http", "https"]


async def test_over_a_unix_socket(tmp_path):
    """A peer without an address is trusted by its socket, and only if that is said."""
    path = str(tmp_path / "app.sock")
    for trusted, expected in ((None, (None, "http")), ("unix:", (("9.9.9.9", 0), "https"))):
        app = App()
        config = streaming_config(bind=[f"unix:{path}"], forwarded_allow_ips=trusted, errorlog=None)
        async with trio.open_nursery() as nursery:
            await nursery.start(flowstream.serve, app, config)
            stream = await trio.open_unix_socket(path)
            await stream.send_all(REQUESTS["plain"].format(HEADERS).encode())
            await stream.receive_some()
            await stream.aclose()
            nursery.cancel_scope.cancel()
        assert app.seen == [expected]


HOSTILE = {name: value for name, (value, _) in LISTS.items() if value.isascii()}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_lists_are_answered(name, server, connect, clean_log):
    """Whatever a proxy passes on, its request has an answer and the log no traceback."""
    app = App()
    stream = await connect(await server(app))
    await stream.send_all(
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %b\r\n\r\n" % HOSTILE[name].encode()
    )
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 204")
    assert len(app.seen) == 1


async def test_the_access_log_has_the_client(server, connect, caplog, aeventually):
    """Also of what the server answers itself; a proxy's own address where nothing is said."""
    caplog.set_level("INFO", "tests.access")
    log = logging.getLogger("tests.access")
    url = await server(App(), accesslog=log, access_log_format="%(h)s")

    def lines():
        return [one.getMessage() for one in caplog.records if one.name == "tests.access"]

    for request in (
        REQUESTS["plain"].format(HEADERS),
        REQUESTS["plain"].format(HEADERS.replace("9.9.9.9", "7.7.7.7")).replace("GET", "CONNECT"),
        REQUESTS["plain"].format(""),
    ):
        stream = await connect(url)
        await stream.send_all(request.encode())
        await stream.receive_some()
    await aeventually(lambda: len(lines()) == 3, "three lines")
    assert [line.partition(":")[0] for line in lines()] == ["9.9.9.9", "7.7.7.7", "127.0.0.1"]


@pytest.mark.parametrize("home", HOMES)
async def test_direct_writes_behind_a_proxy(home, server, client, aeventually):
    """In each home every event is written directly, as without a proxy: no scope is copied."""
    topic = Topic("t")
    peer = client(await server(HOMES[home](lambda: sse(topic))))
    peer.get("/", *HEADERS.strip().split("\r\n"))
    await aeventually(lambda: topic.subscribers, "the client has subscribed")
    await trio.testing.wait_all_tasks_blocked(0.02)
    for number in range(20):
        await topic.publish(f"<{number}>")
        await trio.lowlevel.checkpoint()
    statistics = topic.statistics()
    assert statistics.direct_deliveries == statistics.deliveries == 20
    await topic.aclose()
