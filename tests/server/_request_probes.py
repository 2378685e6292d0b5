"""Requests that servers read in different ways, with what nginx answers and what flowstream does.

nginx is 1.22.1, with one location that answers 200 to everything. Where the two differ, the row
says why. 0 is for no answer: the stream or the connection is reset or closed.
"""

from typing import NamedTuple


class Probe(NamedTuple):
    """One request."""

    name: str
    request: object
    """The bytes; with HTTP/2 the header fields, and whether the stream ends with them."""
    nginx: int
    ours: int
    why: str = ""
    """Why flowstream answers otherwise than nginx."""


def line(first, *fields):
    """Return a request of HTTP/1.1 with this first line, a host and these fields."""
    return head(first, b"Host: x", *fields)


def head(first, *fields):
    """Return a request of HTTP/1.1 with nothing but this."""
    return b"\r\n".join([first, *fields, b"Connection: close", b"", b""])


def get(target):
    return line(b"GET " + target + b" HTTP/1.1")


def host(value):
    return head(b"GET / HTTP/1.1", b"Host: " + value)


def post(*fields, body=b""):
    return line(b"POST / HTTP/1.1", *fields) + body


CHUNKED = b"Transfer-Encoding: chunked"

APP = "the application may answer it"
TUNNEL = "501 says that there are no tunnels"
H11 = "h11's own verdict"
FRAGMENT = "an application would have it in its path; nginx cuts it off"
ASCII = "as with HTTP/1.1"
SCHEME = "no client asks a server of HTTP for it"
VERSION = "505 says which versions there are"
HOST = "no name or address looks like that"
SAME = "RFC 9113 § 8.3.1 allows it"

HTTP1 = [
    # Methods
    Probe("GET", line(b"GET / HTTP/1.1"), 200, 200),
    Probe("HEAD", line(b"HEAD / HTTP/1.1"), 200, 200),
    Probe("OPTIONS", line(b"OPTIONS / HTTP/1.1"), 200, 200),
    Probe("PATCH", line(b"PATCH / HTTP/1.1"), 200, 200),
    Probe("PROPFIND", line(b"PROPFIND / HTTP/1.1"), 200, 200),
    Probe("VERSION-CONTROL", line(b"VERSION-CONTROL / HTTP/1.1"), 200, 200),
    Probe("an unknown method", line(b"FOO / HTTP/1.1"), 200, 200),
    Probe("TRACE", line(b"TRACE / HTTP/1.1"), 405, 200, APP),
    Probe("CONNECT", line(b"CONNECT x:80 HTTP/1.1"), 400, 501, TUNNEL),
    Probe("CONNECT with a path", line(b"CONNECT / HTTP/1.1"), 405, 501, TUNNEL),
    Probe("a method in lower case", line(b"post / HTTP/1.1"), 400, 400),
    Probe("a method in both", line(b"Get / HTTP/1.1"), 400, 400),
    Probe("a digit in the method", line(b"G3T / HTTP/1.1"), 400, 400),
    Probe("punctuation in the method", line(b"G!T / HTTP/1.1"), 400, 400),
    Probe("no method", line(b" / HTTP/1.1"), 400, 400),
    Probe("a method beyond ASCII", line(b"G\xc9T / HTTP/1.1"), 400, 400),
    Probe("NUL in the method", line(b"G\0T / HTTP/1.1"), 400, 400),
    Probe("a space before it", line(b" GET / HTTP/1.1"), 400, 400),
    Probe("empty lines before it", b"\r\n\r\n" + line(b"GET / HTTP/1.1"), 200, 400, H11),
    # Targets
    Probe("a query", get(b"/p?q=1&r=%20%zz"), 200, 200),
    Probe("an empty query", get(b"/p?"), 200, 200),
    Probe("two question marks", get(b"/p?a?b"), 200, 200),
    Probe("no slash", get(b"p"), 400, 400),
    Probe("an asterisk", get(b"*"), 400, 400),
    Probe("an asterisk for OPTIONS", line(b"OPTIONS * HTTP/1.1"), 400, 400),
    Probe("host and port", get(b"x:80"), 400, 400),
    Probe("a query alone", get(b"?q"), 400, 400),
    Probe("no target", line(b"GET  HTTP/1.1"), 400, 400),
    Probe("a space in the target", get(b"/a b"), 400, 400),
    Probe("a tab in the target", get(b"/a\tb"), 400, 400),
    Probe("NUL in the target", get(b"/a\0b"), 400, 400),
    Probe("DEL in the target", get(b"/a\x7fb"), 400, 400),
    Probe("a control character in the target", get(b"/a\x01b"), 400, 400),
    Probe("a target beyond ASCII", get(b"/\xc3\xa9"), 200, 400, H11),
    Probe("a fragment", get(b"/a#b"), 200, 400, FRAGMENT),
    Probe("a fragment in the query", get(b"/a?b#c"), 200, 400, FRAGMENT),
    Probe("a backslash", get(b"/a\\b"), 200, 200),
    Probe("quotes and brackets", get(b'/a"<>[]{}|^`'), 200, 200),
    Probe("an escaped letter", get(b"/%61"), 200, 200),
    Probe("an escaped slash", get(b"/a%2fb"), 200, 200),
    Probe("an escaped NUL", get(b"/a%00b"), 400, 400),
    Probe("an escaped NUL in the query", get(b"/a?%00"), 200, 200),
    Probe("an escaped line end", get(b"/a%0d%0ab"), 200, 200),
    Probe("a percent sign alone", get(b"/100%"), 400, 400),
    Probe("one digit behind it", get(b"/%4"), 400, 400),
    Probe("no digits behind it", get(b"/%zz"), 400, 400),
    Probe("a percent sign in the query", get(b"/p?100%"), 200, 200),
    Probe("two slashes", get(b"//p"), 200, 200),
    Probe("dots within the root", get(b"/a/../b"), 200, 200),
    Probe("dots above the root", get(b"/../b"), 400, 400),
    Probe("dots above the root, later", get(b"/a/../../b"), 400, 400),
    Probe("dots above the root at the end", get(b"/.."), 400, 400),
    Probe("escaped dots above the root", get(b"/%2e%2e/b"), 400, 400),
    Probe("an escaped slash above the root", get(b"/..%2fb"), 400, 400),
    Probe("three dots", get(b"/.../b"), 200, 200),
    # Absolute targets
    Probe("absolute", get(b"http://a.example/p?q"), 200, 200),
    Probe("absolute without a path", get(b"http://a.example"), 200, 200),
    Probe("absolute with a query alone", get(b"http://a.example?q"), 200, 200),
    Probe("absolute with a port", get(b"http://a.example:8080/p"), 200, 200),
    Probe("absolute with an address", get(b"http://[::1]:80/p"), 200, 200),
    Probe("absolute, a scheme in capitals", get(b"HTTP://a.example/p"), 200, 200),
    Probe("absolute, https", get(b"https://a.example/p"), 200, 200),
    Probe("absolute, another scheme", get(b"ftp://a.example/p"), 200, 400, SCHEME),
    Probe("absolute with a user", get(b"http://user@a.example/p"), 400, 400),
    Probe("absolute without a host", get(b"http:///p"), 400, 400),
    Probe("absolute with one slash", get(b"http:/p"), 400, 400),
    Probe("absolute with a strange host", get(b"http://a_b!/p"), 400, 400),
    # Versions
    Probe("HTTP/1.0", line(b"GET / HTTP/1.0"), 200, 200),
    Probe("HTTP/1.0 without a host", head(b"GET / HTTP/1.0"), 200, 200),
    Probe("HTTP/1.2", line(b"GET / HTTP/1.2"), 200, 505, VERSION),
    Probe("HTTP/1.9", line(b"GET / HTTP/1.9"), 200, 505, VERSION),
    Probe("HTTP/1.10", line(b"GET / HTTP/1.10"), 200, 400, H11),
    Probe("HTTP/0.9", line(b"GET / HTTP/0.9"), 400, 505, VERSION),
    Probe("HTTP/2.0", line(b"GET / HTTP/2.0"), 505, 505),
    Probe("HTTP/9.9", line(b"GET / HTTP/9.9"), 505, 505),
    Probe("a preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 505, VERSION),
    Probe("http in lower case", line(b"GET / http/1.1"), 400, 400),
    Probe("no minor version", line(b"GET / HTTP/1"), 400, 400),
    Probe("another protocol", line(b"GET / HTPP/1.1"), 400, 400),
    Probe("a space behind the version", line(b"GET / HTTP/1.1 "), 200, 400, H11),
    # Hosts
    Probe("no host", head(b"GET / HTTP/1.1"), 400, 400),
    Probe("an empty host", host(b""), 400, 400),
    Probe("two hosts", line(b"GET / HTTP/1.1", b"Host: y"), 400, 400),
    Probe("the same host twice", line(b"GET / HTTP/1.1", b"Host: x"), 400, 400),
    Probe("a port", host(b"a.example:8000"), 200, 200),
    Probe("an empty port", host(b"a.example:"), 200, 200),
    Probe("a port in letters", host(b"a.example:http"), 200, 400, HOST),
    Probe("an address of IPv6", host(b"[::1]:8000"), 200, 200),
    Probe("an address without its end", host(b"[::1"), 200, 400, HOST),
    Probe("an underscore", host(b"a_b"), 200, 200),
    Probe("a dot at the end", host(b"a.example."), 200, 200),
    Probe("two dots", host(b"a..example"), 400, 400),
    Probe("a dot alone", host(b"."), 400, 400),
    Probe("a slash in the host", host(b"a/b"), 400, 400),
    Probe("a space in the host", host(b"a b"), 400, 400),
    Probe("a user in the host", host(b"user@a"), 200, 400, HOST),
    Probe("all of these", host(b"a b/c@d"), 400, 400),
    Probe("a comma in the host", host(b"a,b"), 200, 400, HOST),
    Probe("a host beyond ASCII", host(b"\xc3\xa9"), 200, 400, HOST),
    # Lengths
    Probe("a length", post(b"Content-Length: 1", body=b"x"), 200, 200),
    Probe("chunks", post(CHUNKED, body=b"1\r\nx\r\n0\r\n\r\n"), 200, 200),
    Probe("both", post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n"), 400, 400),
    Probe("both, the other way", post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n"), 400, 400),
    Probe("chunks with HTTP/1.0", line(b"POST / HTTP/1.0", CHUNKED) + b"0\r\n\r\n", 400, 400),
    Probe("two lengths", post(b"Content-Length: 1", b"Content-Length: 2", body=b"xx"), 400, 400),
    Probe("a length twice", post(b"Content-Length: 1", b"Content-Length: 1", body=b"x"), 400, 400),
    Probe("a list of lengths", post(b"Content-Length: 1, 1", body=b"x"), 400, 400),
    Probe("a length with a sign", post(b"Content-Length: +1", body=b"x"), 400, 400),
    Probe("a length in hex", post(b"Content-Length: 0x1", body=b"x"), 400, 400),
    Probe("another coding", post(b"Transfer-Encoding: gzip", body=b"0\r\n\r\n"), 501, 501),
    Probe("two codings", post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501, 501),
    Probe("chunked twice", post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 400, 501, H11),
    Probe("CR in a chunk's extension", post(CHUNKED, body=b"1;a\rb\r\nx\r\n0\r\n\r\n"), 400, 400),
    Probe("LF in a chunk's extension", post(CHUNKED, body=b"1;a\nx\r\n0\r\n\r\n"), 200, 400, H11),
    Probe("a chunk with a sign", post(CHUNKED, body=b"+1\r\nx\r\n0\r\n\r\n"), 400, 400),
    # Fields
    Probe("a field on two lines", line(b"GET / HTTP/1.1", b"A: b", b" c"), 400, 400),
    Probe("a space before the colon", line(b"GET / HTTP/1.1", b"A : b"), 400, 400),
    Probe("no colon", line(b"GET / HTTP/1.1", b"A"), 200, 400, H11),
    Probe("no name", line(b"GET / HTTP/1.1", b": b"), 400, 400),
    Probe("NUL in a value", line(b"GET / HTTP/1.1", b"A: b\0c"), 400, 400),
    Probe("CR in a value", line(b"GET / HTTP/1.1", b"A: b\rc"), 400, 400),
    Probe("LF for a line's end", b"GET / HTTP/1.1\nHost: x\nConnection: close\n\n", 200, 200),
]


def fields(*more, method=b"GET", path=b"/", scheme=b"http", authority=b"x", ended=True):
    """Return the header fields of a request of HTTP/2; what is None is left out."""
    pseudo = {b"method": method, b"path": path, b"scheme": scheme, b"authority": authority}
    head = [(b":" + name, value) for name, value in pseudo.items() if value is not None]
    return [*head, *more], ended


def tunnel(protocol):
    if protocol is None:
        return fields(method=b"CONNECT", path=None, scheme=None, ended=False)
    head, _ = fields(method=b"CONNECT")
    return [*head, (b":protocol", protocol), (b"sec-websocket-version", b"13")], False


AT_ONCE = "h2 finds it malformed: the stream is reset, as RFC 9113 § 8.1.1 allows"

HTTP2 = [
    Probe("GET", fields(), 200, 200),
    Probe("HEAD", fields(method=b"HEAD"), 200, 200),
    Probe("POST", fields(method=b"POST", ended=False), 200, 200),
    Probe("an unknown method", fields(method=b"FOO"), 200, 200),
    Probe("a method in lower case", fields(method=b"get"), 400, 400),
    Probe("no method", fields(method=None), 400, 0, AT_ONCE),
    Probe("an empty method", fields(method=b""), 400, 400),
    Probe("a space in the method", fields(method=b"GET /x"), 400, 400),
    Probe("a method beyond ASCII", fields(method=b"G\xc9T"), 400, 400),
    Probe("a method twice", fields((b":method", b"GET")), 400, 0, AT_ONCE),
    Probe("TRACE", fields(method=b"TRACE"), 405, 200, APP),
    Probe("CONNECT", tunnel(None), 400, 501, TUNNEL),
    Probe("CONNECT with a path", fields(method=b"CONNECT", ended=False), 405, 0, AT_ONCE),
    Probe("a tunnel for UDP", tunnel(b"connect-udp"), 400, 501, TUNNEL),
    Probe("an empty protocol", tunnel(b""), 400, 501, TUNNEL),
    Probe("a protocol for GET", fields((b":protocol", b"websocket")), 400, 0, AT_ONCE),
    Probe("a query", fields(path=b"/p?q=1"), 200, 200),
    Probe("no path", fields(path=None), 400, 0, AT_ONCE),
    Probe("an empty path", fields(path=b""), 400, 0, AT_ONCE),
    Probe("no slash", fields(path=b"p"), 400, 400),
    Probe("an asterisk", fields(path=b"*"), 400, 400),
    Probe("an asterisk for OPTIONS", fields(method=b"OPTIONS", path=b"*"), 400, 400),
    Probe("an absolute path", fields(path=b"http://evil/p"), 400, 400),
    Probe("a space in the path", fields(path=b"/a b"), 400, 400),
    Probe("a line in the path", fields(path=b"/ HTTP/1.1\r\nA: b"), 0, 0),
    Probe("NUL in the path", fields(path=b"/a\0b"), 0, 0),
    Probe("a control character in the path", fields(path=b"/a\x01b"), 400, 400),
    Probe("a path beyond ASCII", fields(path=b"/\xc3\xa9"), 200, 400, ASCII),
    Probe("a fragment", fields(path=b"/a#b"), 200, 400, FRAGMENT),
    Probe("a percent sign alone", fields(path=b"/100%"), 400, 400),
    Probe("an escaped NUL", fields(path=b"/%00"), 400, 400),
    Probe("dots above the root", fields(path=b"/../b"), 400, 400),
    Probe("https", fields(scheme=b"https"), 200, 200),
    Probe("no scheme", fields(scheme=None), 400, 0, AT_ONCE),
    Probe("an empty scheme", fields(scheme=b""), 400, 400),
    Probe("another scheme", fields(scheme=b"ftp"), 200, 400, SCHEME),
    Probe("no scheme at all", fields(scheme=b"http://evil/"), 400, 400),
    Probe("no authority", fields(authority=None), 400, 0, AT_ONCE),
    Probe("a host alone", fields((b"host", b"x"), authority=None), 200, 200),
    Probe("an empty authority", fields(authority=b""), 400, 400),
    Probe("a user in the authority", fields(authority=b"user@x"), 200, 400, HOST),
    Probe("a slash in the authority", fields(authority=b"a/b"), 400, 400),
    Probe("a space in the authority", fields(authority=b"a b"), 400, 400),
    Probe("a port", fields(authority=b"a.example:8000"), 200, 200),
    Probe("the same host", fields((b"host", b"x")), 400, 200, SAME),
    Probe("another host", fields((b"host", b"y")), 400, 0, AT_ONCE),
    Probe("a length without a body", fields((b"content-length", b"5")), 400, 400),
    Probe("a length of 0", fields((b"content-length", b"0")), 200, 200),
    Probe("a length with a sign", fields((b"content-length", b"+5"), ended=False), 400, 0, AT_ONCE),
    Probe(
        "two lengths",
        fields((b"content-length", b"0"), (b"content-length", b"5"), ended=False),
        400,
        0,
        AT_ONCE,
    ),
    Probe("a coding", fields((b"transfer-encoding", b"chunked"), ended=False), 200, 0, AT_ONCE),
    Probe("connection", fields((b"connection", b"close")), 200, 0, AT_ONCE),
    Probe("a name in capitals", fields((b"Accept", b"a")), 0, 0),
    Probe("a line in a value", fields((b"a", b"b\r\nc: d")), 0, 0),
    Probe("a pseudo-header behind a header", ([(b"a", b"b"), *fields()[0]], True), 200, 0, AT_ONCE),
    Probe("an unknown pseudo-header", fields((b":odd", b"a")), 400, 0, AT_ONCE),
]
