"""Values that are nested too deep for any format, or that contain themselves."""

import pytest

from flowstream._errors import unencodable
from flowstream.encoders import NDJSON, SSE
from flowstream.sources.rows._postgres_values import _DEPTH, _is_deep


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def endless():
    value = {}
    value["itself"] = value
    return value


@pytest.mark.parametrize("make", [lambda: nested(200_000), endless])
@pytest.mark.parametrize("encoder", [SSE(), NDJSON(), NDJSON(encode=lambda value: value)])
def test_a_value_that_is_too_deep(encoder, make):
    """It is an error of this item, in words, and the process goes on."""
    value = make()
    with pytest.raises(RecursionError) as raised:
        encoder.encode(value)
    error = str(unencodable(value, raised.value))
    assert error.endswith("cannot be encoded: it is nested too deep, or contains itself")


@pytest.mark.parametrize(
    ("text", "deep"),
    [
        ("[" * _DEPTH + "]" * _DEPTH, False),
        ("[" * (_DEPTH + 1) + "]" * (_DEPTH + 1), True),
        ('{"a":' * _DEPTH + "1" + "}" * _DEPTH, False),
        ('{"a":[' * _DEPTH + "1" + "]}" * _DEPTH, True),
        ("[" + "{}," * 10_000 + "{}]", False),
        ('["' + "[" * 10_000 + '\\"[", "\\\\"]', False),
    ],
)
def test_how_deep_json_of_a_database_may_be(text, deep):
    """Brackets in each other count, in whatever order, and not those in strings."""
    assert _is_deep(text.encode()) is deep
