"""The server's settings: defaults, files, plain Hypercorn configurations, and what is refused."""

import math
import re

import pytest
from hypercorn.config import Config

import flowstream
from flowstream.server import ServerConfig, streaming_config
from flowstream.server._settings import checked


async def app(scope, receive, send):
    raise AssertionError("nothing is served here")


def test_a_toml_file(tmp_path):
    """A file sets flowstream's settings and Hypercorn's alike."""
    file = tmp_path / "server.toml"
    file.write_text(
        'bind = ["127.0.0.1:1"]\nwrite_timeout = 7\nkeep_alive_probes = [5, 6, 7]\n'
        'readyz = "/ready"\nlame_duck = 1.5\nbacklog = 10\n'
    )
    config = checked(ServerConfig.from_toml(file))
    assert config.bind == ["127.0.0.1:1"]
    assert (config.write_timeout, config.lame_duck, config.backlog) == (7, 1.5, 10)
    assert list(config.keep_alive_probes) == [5, 6, 7]
    assert config.readyz == "/ready"


def test_a_plain_configuration_keeps_what_was_set_on_it():
    """What a Hypercorn Config says counts, and what it does not say is ServerConfig's."""
    plain = Config.from_mapping(bind="127.0.0.1:1", backlog=7, root_path="/a/", write_timeout=3)
    config = checked(plain)
    assert isinstance(config, ServerConfig)
    assert (config.bind, config.backlog, config.root_path) == (["127.0.0.1:1"], 7, "/a")
    assert config.write_timeout == 3
    assert config.graceful_timeout == ServerConfig.graceful_timeout
    assert not hasattr(plain, "lame_duck")


def test_a_configuration_class_of_its_own():
    """What a subclass of Config sets or overrides is kept, methods included."""

    class Own(Config):
        backlog = 7

        def create_ssl_context(self):
            return "its own"

    config = checked(Own.from_mapping(bind="127.0.0.1:1"))
    assert isinstance(config, ServerConfig)
    assert isinstance(config, Own)
    assert (config.backlog, config.bind) == (7, ["127.0.0.1:1"])
    assert config.create_ssl_context() == "its own"
    assert config.write_timeout == ServerConfig.write_timeout


def test_a_server_configuration_is_taken_as_it_is():
    """A ServerConfig is not copied: its log and its sockets' addresses are its own."""
    config = ServerConfig()
    assert checked(config) is config


SECONDS = ["graceful_timeout", "lame_duck", "shutdown_timeout"]


@pytest.mark.parametrize(
    ("setting", "value", "error", "message"),
    [
        *((name, -1, ValueError, "0 or more seconds and finite, not -1") for name in SECONDS),
        *((name, math.inf, ValueError, "0 or more seconds and finite") for name in SECONDS),
        *((name, math.nan, ValueError, "0 or more seconds and finite") for name in SECONDS),
        *((name, "5", TypeError, "must be a number of seconds, not str") for name in SECONDS),
        ("write_timeout", 0, ValueError, "write_timeout must be more than 0 seconds"),
        ("write_timeout", None, TypeError, "write_timeout must be a number of seconds"),
        ("read_timeout", 0, ValueError, "read_timeout must be more than 0 seconds"),
        ("max_requests", 0, ValueError, "max_requests must be at least 1"),
        ("backlog", 0, ValueError, "backlog must be at least 1"),
        ("backlog", "many", TypeError, "backlog must be an int"),
        ("keep_alive_probes", (60, 10), ValueError, "must be three whole numbers above 0"),
        ("keep_alive_probes", (60, 10, 0), ValueError, "not (60, 10, 0)"),
        ("keep_alive_probes", 60, ValueError, "not 60"),
        ("readyz", "readyz", ValueError, "must be a path that begins with /, not 'readyz'"),
        ("readyz", True, ValueError, "must be a path that begins with /, not True"),
        ("certfile", "cert.pem", ValueError, "certfile and keyfile belong together"),
        ("keyfile", "key.pem", ValueError, "certfile and keyfile belong together"),
        ("quic_bind", ["127.0.0.1:0"], ValueError, "quic_bind needs certfile and keyfile"),
    ],
)
async def test_a_bad_setting(setting, value, error, message):
    """serve() says before it listens what it expected."""
    with pytest.raises(error, match=re.escape(message)):
        await flowstream.serve(app, streaming_config(**{setting: value}))


async def test_no_configuration():
    """Something else than a configuration is a TypeError that names what it is."""
    with pytest.raises(TypeError, match="hypercorn Config, not a dict"):
        await flowstream.serve(app, {"bind": "127.0.0.1:0"})


def test_every_setting_of_ours_is_defended():
    """Each default that differs from Hypercorn's, and each setting of ours, has its reason."""
    with open(flowstream.server._settings.__file__) as file:
        body = file.read().partition("class ServerConfig")[2].partition("\ndef ")[0]
    own = [name for name in vars(ServerConfig) if not name.startswith("__")]
    for name in own:
        assert re.search(rf"^    {name}\b[^\n]*\n    \"{{3}}", body, re.MULTILINE), name
