"""The URL of a server of Valkey or Redis: what it says, and that it keeps its secrets."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream.logs.valkey._valkey_connection import ValkeyTimeouts
from flowstream.logs.valkey._valkey_log import ValkeyLog
from flowstream.logs.valkey._valkey_settings import ValkeySettings, written


@pytest.mark.parametrize("scheme", ["valkey", "redis", "VALKEY"])
def test_a_plain_url(scheme: str) -> None:
    """Both schemes are one; port and database have the field's defaults."""
    settings = ValkeySettings.from_url(f"{scheme}://host")
    assert settings == ValkeySettings((("host", 6379),))
    assert settings.login.words == ()


@pytest.mark.parametrize("scheme", ["valkeys", "rediss", "rediss+sentinel"])
def test_tls_is_verified(scheme: str) -> None:
    """With TLS, certificates and names are checked, without a parameter that says so."""
    settings = (
        ValkeySettings.from_url(f"{scheme}://host/main")
        if "+" in scheme
        else (ValkeySettings.from_url(f"{scheme}://host/1"))
    )
    context = settings.login.tls
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert settings.sentinel_login.tls is (context if settings.service else None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        (":pw@", (b"AUTH", b"default", b"pw")),
        ("ann:pw@", (b"AUTH", b"ann", b"pw")),
        ("ann@", (b"AUTH", b"ann", b"")),
        ("ann:@", (b"AUTH", b"ann", b"")),
        ("a%40b:p%3A%2F%3F%23%25%40%00%FF@", (b"AUTH", b"a@b", b"p:/?#%@\x00\xff")),
        ("ann:p@w@", (b"AUTH", b"ann", b"p@w")),
        ("ann:a+b%2Bc@", (b"AUTH", b"ann", b"a+b+c")),
        ("ann:ü@", (b"AUTH", b"ann", "ü".encode())),
    ],
)
def test_the_login(text: str, words: tuple[bytes, ...]) -> None:
    """User and password are percent-decoded to bytes, any of them."""
    assert ValkeySettings.from_url(f"valkey://{text}host:1").login.words == words


@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        ("a,b:1,c", [("a", 6379), ("b", 1), ("c", 6379)]),
        ("[::1]", [("::1", 6379)]),
        ("[::1]:7,127.0.0.1:65535", [("::1", 7), ("127.0.0.1", 65535)]),
    ],
)
def test_several_hosts(hosts: str, addresses: list[tuple[str, int]]) -> None:
    """Hosts are a list with commas; those of IPv6 are in brackets."""
    assert list(ValkeySettings.from_url(f"valkey://u:p@{hosts}/2").addresses) == addresses
    again = ",".join(map(written, addresses))
    assert list(ValkeySettings.from_url(f"valkey://{again}").addresses) == addresses


@pytest.mark.parametrize("number", ["0", "00", "7", "123456789"])
def test_a_database_is_a_number_of_up_to_nine_digits(number: str) -> None:
    """Behind the host, or as ``db``; a longer one is refused."""
    for url in (f"valkey://host/{number}", f"valkey://host?db={number}"):
        assert ValkeySettings.from_url(url).database == int(number)
    with pytest.raises(ValueError, match="by its number"):
        ValkeySettings.from_url("valkey://host/1234567890")


@pytest.mark.parametrize("query", ["%", "%zz=", "&&=", "=;=&", "ü=%FF%00", "a=b;c=d", "=" * 5000])
def test_any_query_is_read_or_one_sentence(query: str) -> None:
    """What follows the question mark has no form that can't be read."""
    with suppress(ValueError):
        ValkeySettings.from_url(f"valkey://host?{query}")


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ({"timeouts": 3}, TypeError, r"ValkeyTimeouts\(\), not int"),
        ({"timeouts": ValkeyTimeouts}, TypeError, "ValkeyTimeouts"),
        ({"patience": 0}, ValueError, "patience"),
        ({"wait_replicas": True}, TypeError, "wait_replicas must be an int, not bool"),
        ({"wait_replicas": "1"}, TypeError, "wait_replicas must be an int, not str"),
        ({"wait_replicas": -1}, ValueError, "at least 0, not -1"),
        ({"url": "valkey://host?wait_replicas=x"}, ValueError, "number of replicas"),
        ({"url": "valkey://host?wait_replicas=-1"}, ValueError, "number of replicas"),
        ({"url": "valkey://host?wait_replicas=٣"}, ValueError, "number of replicas"),
        ({"never_rolls_back": 1}, TypeError, "never_rolls_back must be a bool"),
        ({"url": "valkey://host?never_rolls_back=1"}, ValueError, "true or false"),
    ],
)
def test_a_log_says_which_argument_is_wrong(
    arguments: dict[str, Any], error: type[Exception], why: str
) -> None:
    """At once, and what it should be."""
    url = arguments.pop("url", "valkey://host")
    with pytest.raises(error, match=why):
        ValkeyLog(url, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeouts": ValkeyTimeouts()},
        {"timeouts": None, "wait_replicas": 0},
        {"wait_replicas": 2, "never_rolls_back": False, "patience": 0.1},
        {"url": "valkey://host/3?wait_replicas=2&never_rolls_back=true"},
    ],
)
def test_a_log_takes_what_is_right(arguments: dict[str, Any]) -> None:
    """And says where its server is."""
    url = arguments.pop("url", "valkey://host/3")
    assert ValkeyLog(url, **arguments).where == "host:6379 (database 3)"


def test_sentinels_have_a_login_of_their_own() -> None:
    """User and password in front of the hosts are the servers'; parameters are the sentinels'."""
    settings = ValkeySettings.from_url(
        "redis+sentinel://u:p@a,b:1/my%2Fmain/4?sentinel_username=s&sentinel_password=q%2B%26%FF"
        "&sentinel_ssl=true&wait_replicas=1",
        options={"wait_replicas"},
    )
    assert settings.addresses == (("a", 26379), ("b", 1))
    assert (settings.service, settings.database) == ("my/main", 4)
    assert settings.login.words == (b"AUTH", b"u", b"p")
    assert settings.sentinel_login.words == (b"AUTH", b"s", b"q+&\xff")
    assert (settings.login.tls, settings.sentinel_login.tls is None) == (None, False)
    assert settings.options == {"wait_replicas": "1"}


def test_files_and_contexts_of_certificates(certificates) -> None:
    """Certificates come from files or from an object; those for sentinels may differ."""
    files = f"ssl_ca_certs={certificates.authority}"
    own = f"&ssl_certfile={certificates.client_certificate}&ssl_keyfile={certificates.client_key}"
    found = ValkeySettings.from_url(f"valkeys://host?{files}{own}").login.tls
    assert found is not None
    assert len(found.get_ca_certs()) == 1
    context = certificates.for_clients()
    settings = ValkeySettings.from_url(
        f"valkeys+sentinel://host/main?sentinel_{files}", ssl_context=context
    )
    assert settings.login.tls is context
    assert settings.sentinel_login.tls not in (None, context)
    settings = ValkeySettings.from_url("rediss+sentinel://host/main?sentinel_ssl=false")
    assert settings.sentinel_login.tls is None
    settings = ValkeySettings.from_url("redis+sentinel://host/main", sentinel_ssl_context=context)
    assert (settings.login.tls, settings.sentinel_login.tls) == (None, context)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host", "begins with valkey"),
        ("host:6379", "begins with valkey"),
        ("valkey:host", "begins with valkey"),
        ("valkey://", "names no host"),
        ("valkey://u:s3cret@", "names no host"),
        ("valkey://u:s3cret@a,,b", "names no host"),
        ("valkey://u:s3/cret@host", "a / in front of its @"),
        ("valkey+sentinel://u:12/s3cret@host", "a / in front of its @"),
        ("valkey://u:12/s3cret@host", "a / in front of its @"),
        ("valkey://u:s3?cret@host", "parameter that is not known"),
        ("valkey://u:s3cret#x@host", "no #fragment"),
        ("valkey://u:s3 cret@host", "a space or a control character"),
        ("valkey://u:s3cret@host:0", "its port is no number"),
        ("valkey://u:s3cret@host:65536", "its port is no number"),
        ("valkey://u:s3cret@host:६", "its port is no number"),
        ("valkey://u:s3cret@[::1", "names no host"),
        ("valkey://u:s3cret@::1", "its port is no number"),
        ("valkey://u:s3cret@host/s3cret", "by its number"),
        ("valkey://u:s3cret@host/-1", "by its number"),
        ("valkey://u:s3cret@host/1/2", "more than a database's number"),
        ("valkey://u:s3cret@host/1?db=2", "more than a database's number"),
        ("valkey://u:s3cret@host?s3cret=1", "parameter that is not known"),
        ("valkey://u:s3cret@host?db=1&db=2", "twice"),
        ("valkey://u:s3cret@host?sentinel_password=s3cret", "parameter that is not known"),
        ("valkey://u:s3cret@host?ssl_ca_certs=/s3cret", "write valkeys://"),
        ("valkeys://u:s3cret@host?ssl_cert_reqs=none", "always verified"),
        ("valkeys://u:s3cret@host?ssl_ca_certs=/nowhere", "can't be read"),
        ("valkeys://u:s3cret@host?ssl_keyfile=/nowhere", "give both"),
        ("valkey+sentinel://u:s3cret@host", "names the service"),
        ("valkey+sentinel://u:s3cret@host/main/x", "by its number"),
        ("valkey+sentinel://u:s3cret@host/main?sentinel_ssl=s3cret", "true or false"),
        ("valkey://u:s3cret\udcff@host", "control character"),
    ],
)
def test_a_wrong_url_is_a_sentence_without_its_secrets(url: str, why: str) -> None:
    """What is wrong is said, and no part of the URL that may be a secret is repeated."""
    with pytest.raises(ValueError) as caught:
        ValkeySettings.from_url(url)
    error: BaseException | None = caught.value
    assert why in str(error)
    while error is not None:
        assert "s3" not in str(error) + repr(error)
        assert "cret" not in (str(error) + repr(error)).replace("secret", "")
        error = error.__cause__


def test_wrong_arguments() -> None:
    """What is no URL, and contexts that are none or have no use, are errors."""
    context = ssl.create_default_context()
    with pytest.raises(TypeError):
        ValkeySettings.from_url(b"valkey://host")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ValkeySettings.from_url("valkeys://host", ssl_context="yes")  # type: ignore[arg-type]
    for url, arguments in [
        ("valkey://host", {"ssl_context": context}),
        ("valkeys://host", {"sentinel_ssl_context": context}),
        ("valkeys://host?ssl_ca_certs=/x", {"ssl_context": context}),
    ]:
        with pytest.raises(ValueError):
            ValkeySettings.from_url(url, **arguments)  # type: ignore[arg-type]


@given(st.text(max_size=60), st.sampled_from(["valkey://", "redis+sentinel://h/m?"]))
def test_any_text_is_settings_or_one_sentence(text: str, scheme: str) -> None:
    """No text behind a scheme raises anything but ValueError."""
    with suppress(ValueError):
        assert ValkeySettings.from_url(scheme + text).addresses
