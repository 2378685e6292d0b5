"""Typed events: what is checked in the producer, and that the schemas say what is really sent."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from typing import Annotated, Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, OpenAPIV32SpecValidator
from trio.testing import wait_all_tasks_blocked

from flowstream import (
    CSV,
    NDJSON,
    SSE,
    DropOldest,
    EncodingError,
    Event,
    Limits,
    PublicError,
    Raw,
    Runs,
    Topic,
    ndjson,
    sse,
    stream,
)
from flowstream.decoders import FramesDecoder, JSONSequenceDecoder, NDJSONDecoder, SSEDecoder
from flowstream.encoders import Frames, JSONSequence
from flowstream.event_types import EventTypes
from flowstream.quart import Flowstream
from flowstream.sources import Progress, checked, progress
from flowstream.sources._relay import Relay
from flowstream.testing import collect, open_stream


class Token(msgspec.Struct, tag="token"):
    """A piece of the answer."""

    data: str


class Usage(msgspec.Struct, tag="usage"):
    tokens: Annotated[int, msgspec.Meta(ge=0)]
    cost: float = 0.0
    place: tuple[int, str] = (1, "a")


class Untagged(msgspec.Struct):
    x: int


class Numbered(msgspec.Struct, tag=7):
    x: int


answer = EventTypes(Token, Usage)

wrong_items = pytest.mark.parametrize(
    ("item", "message"),
    [
        (Untagged(1), r"an item of type Untagged .* expected Token \('token'\), Usage \('usage'\)"),
        ("text", r"an item of type str .* expected Token"),
        (Token(5), r"Expected `str`, got `int` - at `\$.data`; expected Token"),
        (Usage(-1), r"Expected `int` >= 0 - at `\$.tokens`"),
        (Usage(1, cost=float("nan")), r"Expected `float`, got `null` - at `\$.cost`"),
        (Usage(1, cost=object()), "no form for an object"),
        ({"type": "other"}, r"Invalid value 'other' - at `\$.type`"),
        ({"data": "x"}, "missing required field `type`"),
        (Event(Token("x"), type="usage"), "its type is 'usage', but its tag is 'token'"),
    ],
)


@wrong_items
async def test_what_is_not_among_the_events_fails_in_the_producer(item, message):
    """The producer gets an EncodingError that names what was expected; the client is told."""
    errors = []

    async def produce(out):
        await out.send(Token("first"))
        try:
            await out.send(item)
        except EncodingError as error:
            errors.append(error)
            raise

    response = await collect(sse(produce, events=answer))
    assert '"code":"encoding"' in response.body.decode()
    (error,) = errors
    with pytest.raises(EncodingError, match=message):
        raise error


def test_a_publisher_can_check_by_itself():
    """`check` returns what is right, and raises for what is not."""
    token = Token("x")
    assert answer.check(token) is token
    assert answer.check({"type": "token", "data": "x"}) == {"type": "token", "data": "x"}
    with pytest.raises(EncodingError, match="expected Token"):
        answer.check(Untagged(1))


@wrong_items
async def test_a_source_can_be_checked_without_a_format(item, message):
    """`checked` raises in the producer what `events=` would; what is right passes unchanged."""
    sent, right = (
        [],
        [Token("x"), Event(Usage(1), id="7", type="usage"), {"type": "token", "data": ""}],
    )

    async def take(one):
        sent.append(one)

    async def produce(out):
        for one in right:
            await out.send(one)
        out.send_nowait(right[0])
        with pytest.raises(EncodingError, match=message):
            out.send_nowait(item)
        await out.send(item)

    with pytest.raises(EncodingError, match=message):
        await checked(produce, answer).run(Relay(take, dict, sent.append))
    assert list(map(id, sent)) == list(map(id, [*right, right[0]]))
    with pytest.raises(TypeError, match="events must be"):
        checked([1], Token)


async def test_in_sse_the_tag_is_the_name():
    """A page listens with addEventListener("token", ...)."""
    source = [Token("Hel"), {"type": "usage", "tokens": 2}, Event(Token("x"), id="7", retry=3)]
    response = await collect(sse(source, events=answer))
    events = SSEDecoder().feed(response.body)
    assert [event.type for event in events] == ["token", "usage", "token", "end"]
    assert json.loads(events[0].data) == {"type": "token", "data": "Hel"}
    assert events[0].id.endswith(".1")
    assert events[2].id == "7"
    assert b"retry: 3\n" in response.body


async def test_in_ndjson_an_event_without_an_envelope_has_none():
    """It says itself what it is; where there is an envelope that says it, too."""
    source = [
        Token("Hel"),
        Event(Token("x"), id="7"),
        Event(Token("y"), key="k"),
        Event(Token("z")),
    ]
    response = await collect(ndjson(source, events=answer))
    assert NDJSONDecoder().feed(response.body)[:4] == [
        {"type": "token", "data": "Hel"},
        {"type": "token", "id": "7", "data": {"type": "token", "data": "x"}},
        {"type": "token", "data": {"type": "token", "data": "y"}},
        {"type": "token", "data": "z"},
    ]


async def test_other_formats_are_checked_as_well():
    """Frames have the tag in the envelope; CSV has columns; what is wrong is refused in both."""
    frames = await collect(stream([Event(Token("x"), id="7")], encoder=Frames(), events=answer))
    first, _ = FramesDecoder().feed(frames.body)
    assert (first.type, first.id, first.data) == ("token", "7", {"type": "token", "data": "x"})
    table = await collect(stream([Token("x"), Token("y")], encoder=CSV(), events=answer))
    assert table.body == b"data\r\nx\r\ny\r\n"
    assert table.complete
    cut = await collect(stream([Token("x"), Untagged(1)], encoder=CSV(), events=answer))
    assert not cut.complete


async def test_a_topic_has_typed_events(autojump_clock):
    """Its subscribers share what is encoded, and who publishes something else is told."""
    topic = Topic("answers")
    response = {"first": ndjson(topic, events=answer), "second": ndjson(topic, events=answer)}
    async with (
        open_stream(response["first"]) as one,
        open_stream(response["second"]) as two,
    ):
        await wait_all_tasks_blocked()
        await topic.publish(Token("x"))
        with pytest.raises(EncodingError, match="expected Token"):
            await topic.publish(Untagged(1))
        await topic.publish(answer.check(Usage(1)))
        for client in (one, two):
            first, second = await client.next_value(), await client.next_value()
            assert (first["type"], first["data"]) == ("token", {"type": "token", "data": "x"})
            assert second["type"] == "usage"
            assert first["id"]
    assert topic.statistics().published == 2


@pytest.mark.parametrize("encoder", [SSE(), NDJSON()], ids=repr)
async def test_a_run_has_typed_events(encoder, autojump_clock):
    """Who attaches gets them by the schema; a wrong item fails the run, whoever reads it."""
    runs = Runs()

    async def produce():
        yield Token("x")
        yield Usage(1)

    async def wrong():
        yield Token("x")
        yield Untagged(1)

    async with Flowstream():
        run = runs.start("right", produce())
        response = await collect(stream(run, encoder=encoder, events=answer))
        items = items_of(response.body, encoder)
        assert [item.get("event", item.get("type")) for item in items] == ["token", "usage", "end"]
        check(items, answer.json_schema(encoder))
        run = runs.start("wrong", checked(wrong, answer))
        response = await collect(ndjson(run))
        assert b'"code":"encoding"' in response.body
        response = await collect(stream(run, encoder=encoder, events=answer))
        items = items_of(response.body, encoder)
        assert [item.get("event", item.get("type")) for item in items] == ["token", "failed"]
        assert '"code\\":\\"encoding' in json.dumps(items[-1]) or "encoding" in str(items[-1])
        check(items, answer.json_schema(encoder))


async def test_a_snapshot_is_checked_if_its_type_is_given(autojump_clock):
    """A board that is none fails the stream; without a type, anything is a snapshot."""
    for typed, told in ((EventTypes(Token, snapshot=list[int]), "failed"), (answer, "snapshot")):

        async def board():
            return {"no": "list"}

        async with open_stream(sse(Topic("board", snapshot=board), events=typed)) as client:
            assert (await client.next_event()).type == told


def test_as_a_value_it_is_what_it_would_write():
    """Of the same Structs and the same format, two encoders are equal, and no others are."""
    first = answer.encoder(SSE())
    assert first == EventTypes(Token, Usage).encoder(SSE())
    assert hash(first) == hash(EventTypes(Token, Usage).encoder(SSE()))
    others = [EventTypes(Token).encoder(SSE()), answer.encoder(NDJSON()), SSE()]
    assert all(first != other for other in others)
    assert first.start() is first
    assert answer.encoder(CSV()).start() is not answer.encoder(CSV())
    assert EventTypes(Token, snapshot=int) != EventTypes(Token)
    assert repr(first) == "EventTypes(Token, Usage).encoder(SSE())"
    plain = SSE()
    assert (first.media_type, first.in_band) == (plain.media_type, plain.in_band)
    assert (first.opening(5), first.heartbeat()) == (plain.opening(5), plain.heartbeat())
    assert first.header() == plain.header()


@pytest.mark.parametrize(
    ("snapshot", "is_json"),
    [(None, False), (str, False), (str | None, False), (list[int], True), (Token, True)],
)
def test_a_snapshot_in_sse_is_json_unless_it_may_be_text(snapshot, is_json):
    """A text is sent as it is; the schema promises JSON only where there is nothing else."""
    schema = EventTypes(Token, snapshot=snapshot).json_schema(SSE())
    (kind,) = [one for one in schema["anyOf"] if one["properties"]["event"]["const"] == "snapshot"]
    assert ("contentSchema" in kind["properties"]["data"]) == is_json


class Gap(msgspec.Struct, tag="gap"):
    x: int


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (EventTypes, ValueError, "at least one"),
        (lambda: EventTypes(dict), TypeError, "msgspec Structs"),
        (lambda: EventTypes(Token("x")), TypeError, "msgspec Structs"),
        (lambda: EventTypes(Untagged), TypeError, 'class Untagged.*tag="..."'),
        (lambda: EventTypes(Numbered), TypeError, "no tag that names it"),
        (
            lambda: EventTypes(Token, msgspec.defstruct("T", [], tag="token")),
            ValueError,
            "two events",
        ),
        (lambda: EventTypes(msgspec.defstruct("T", [], tag="a\nb")), ValueError, "CR, LF or NUL"),
        (lambda: EventTypes(msgspec.defstruct("T", [], tag="")), ValueError, "empty"),
        (
            lambda: EventTypes(Token, msgspec.defstruct("T", [], tag="t", tag_field="kind")),
            TypeError,
            "tag_field",
        ),
        (lambda: sse([1], events=Token), TypeError, "events must be"),
        (lambda: answer.encoder("sse"), TypeError, "Encoder"),
        (lambda: sse([1], events=EventTypes(Gap)), ValueError, "'gap' is the name"),
        (lambda: answer.json_schema(CSV()), TypeError, "CSV"),
        (lambda: answer.openapi(Raw()), TypeError, "Raw"),
        (lambda: answer.openapi(version="3.0"), ValueError, "version"),
        (lambda: answer.asyncapi("an answer", "/"), ValueError, "a channel's name"),
    ],
)
def test_what_cannot_be_is_refused_at_the_call(make, error, message):
    """Types without a name of their own, clashing names, and formats that have no schema."""
    with pytest.raises(error, match=message):
        make()


def test_a_clash_is_settled_by_another_name():
    """Flowstream's own event steps aside."""
    encoder = EventTypes(Gap).encoder(SSE(names={"gap": "lost"}))
    assert encoder.encode(Gap(1)).startswith(b"event: gap\n")


# -- the schemas, against what streams really send ---------------------------------------------

FORMATS = {
    "SSE": SSE(),
    "NDJSON": NDJSON(),
    "JSONSequence": JSONSequence(),
    "renamed": SSE(names={"gap": "lost", "end": "bye"}),
}
every_format = pytest.mark.parametrize("encoder", FORMATS.values(), ids=FORMATS)


def items_of(body: bytes, encoder: Any) -> list[Any]:
    """Return a body's items as the schema speaks of them, and each SSE event's own data."""
    if isinstance(encoder, JSONSequence):
        return JSONSequenceDecoder().feed(body)
    if isinstance(encoder, NDJSON):
        return NDJSONDecoder().feed(body)
    items = []
    for block in body.decode().split("\n\n"):
        fields = [line.partition(": ")[::2] for line in block.splitlines() if line[0] != ":"]
        item: dict[str, Any] = {name: value for name, value in fields if name != "data"}
        data = [value for name, value in fields if name == "data"]
        if "retry" in item:
            item["retry"] = int(item["retry"])
        if data:  # else it is not dispatched
            items.append({**item, "data": "\n".join(data)})
    return items


def check(items: list[Any], schema: dict[str, Any]) -> None:
    """Assert that `schema` describes `items`: all, and each by one kind of event only."""
    Draft202012Validator.check_schema(schema)
    for item in items:
        Draft202012Validator(schema).validate(item)
        if "event" in item:
            kinds = [
                kind
                for kind in schema["anyOf"]
                if kind["properties"]["event"]["const"] == item["event"]
            ]
            (kind,) = kinds
            content = kind["properties"]["data"].get("contentSchema")
            if content is not None:
                inner = {**content, "$defs": schema["$defs"]}
                Draft202012Validator(inner).validate(json.loads(item["data"]))


SOURCE = [Token("a\nb"), Event(Usage(1), id="7", retry=5), Event(Token("c"), key="k")]


@every_format
async def test_the_schema_describes_a_stream_that_completes(encoder):
    """Events with and without an envelope, and the end."""
    response = await collect(stream(SOURCE, encoder=encoder, events=answer))
    items = items_of(response.body, encoder)
    assert len(items) == 4
    check(items, answer.json_schema(encoder))


@every_format
async def test_the_schema_describes_gaps_warnings_failures_and_reconnects(encoder, autojump_clock):
    """Every event of flowstream's own that a stream of one client can have."""

    async def failing():
        for n in range(40):
            yield Token(str(n))
        await trio.sleep(100)
        raise PublicError("gone", "It has gone.")

    async def endless(out):
        await out.send(Token("x"))
        await trio.sleep_forever()

    bodies = []
    for response in (
        stream(failing, encoder=encoder, events=answer, buffer=4, policy=DropOldest()),
        stream(endless, encoder=encoder, events=answer, limits=Limits(max_duration=2)),
    ):
        async with open_stream(response, window=0) as client:
            await trio.sleep(1)
            client.resume()
            await client.wait_finished()
            bodies.append(client.received)
    items = items_of(b"".join(bodies), encoder)
    names = {item.get("event", item.get("type")) for item in items}
    gap = encoder.wire_name("gap")
    assert names >= {"token", gap, "failed", "reconnect"}
    check(items, answer.json_schema(encoder))


@every_format
@pytest.mark.parametrize("typed", [answer, EventTypes(Token, Usage, snapshot=list[int])])
async def test_the_schema_describes_a_topics_events_and_snapshot(encoder, typed, autojump_clock):
    """With ids and envelopes, and the snapshot of the app's."""

    async def board():
        return [1, 2]

    topic = Topic("t", snapshot=board)
    async with open_stream(stream(topic, encoder=encoder, events=typed)) as client:
        await wait_all_tasks_blocked()
        await topic.publish(Token("x"))
        topic.publish_nowait(Usage(2))
        await topic.aclose()
        await client.wait_finished()
        items = items_of(client.received, encoder)
    names = [item.get("event", item.get("type")) for item in items]
    assert names == ["snapshot", "token", "usage", encoder.wire_name("end")]
    check(items, typed.json_schema(encoder))


async def test_progress_is_a_type_like_the_apps_own(autojump_clock):
    """Among the events it has a schema as well."""
    typed = EventTypes(Token, Progress)
    source = progress([Token("x"), Token("y")], total=2)
    response = await collect(sse(source, events=typed))
    items = items_of(response.body, SSE())
    assert [item["event"] for item in items] == ["token", "token", "progress", "end"]
    check(items, typed.json_schema(SSE()))


@pytest.mark.parametrize(
    "item",
    [
        {"type": "token"},
        {"type": "token", "data": 5},
        {"type": "usage", "tokens": -1},
        {"type": "gap", "data": {"missed": 1}},
        {"type": "end", "data": {"reason": "because"}},
        {"type": "other", "data": {}},
        {"type": "lost", "data": {"missed": 1, "after": None, "before": None}},
        5,
    ],
)
def test_the_schema_describes_nothing_else(item):
    """What no stream would send is not valid."""
    assert not Draft202012Validator(answer.json_schema()).is_valid(item)


def test_without_controls_the_schema_has_none():
    """For a stream with controls=False."""
    schema = answer.json_schema(controls=False)
    assert len(schema["anyOf"]) == 2
    assert set(schema["$defs"]) == {"Token", "Usage"}
    assert not Draft202012Validator(schema).is_valid({"type": "end", "data": {"reason": "stopped"}})


values = st.one_of(
    st.builds(Token, st.text(st.characters(exclude_categories=["Cs"])) | st.integers()),
    st.builds(
        Usage,
        st.integers(-5, 2**53) | st.text(max_size=3, alphabet="ab"),
        st.floats() | st.none(),
        st.tuples(st.integers(0, 9), st.sampled_from("ab")) | st.just((1,)),
    ),
)


@given(values)
def test_what_passes_the_check_is_what_the_schema_allows(value):
    """The two say the same of any Struct, right or wrong."""
    schema = answer.json_schema(controls=False)
    try:
        answer.check(value)
        passed = True
    except EncodingError:
        passed = False
    sent = json.loads(msgspec.json.encode(value))
    assert Draft202012Validator(schema).is_valid(sent) == passed


# -- the documents, against their official schemas ---------------------------------------------


@pytest.mark.parametrize("encoder", [SSE(), NDJSON(), JSONSequence()], ids=repr)
@pytest.mark.parametrize(
    ("version", "validator"),
    [("3.1", OpenAPIV31SpecValidator), ("3.2", OpenAPIV32SpecValidator)],
)
def test_an_openapi_document_takes_the_fragment(encoder, version, validator):
    """`content` and `components` in their places make a valid document."""
    fragment = answer.openapi(encoder, version=version)
    document = {
        "openapi": f"{version}.0",
        "info": {"title": "An app", "version": "1"},
        "paths": {
            "/answer": {
                "get": {"responses": {"200": {"description": "ok", "content": fragment["content"]}}}
            }
        },
        "components": fragment["components"],
    }
    assert list(validator(document).iter_errors()) == []
    (media_type,) = fragment["content"]
    assert encoder.media_type.startswith(media_type)
    assert list(fragment["content"][media_type]) == ["schema" if version == "3.1" else "itemSchema"]


def test_the_openapi_fragment_says_the_same_as_the_schema():
    """Items are valid by both, or by neither."""
    fragment = answer.openapi(SSE(), version="3.2")
    item = fragment["content"]["text/event-stream"]["itemSchema"]
    text = json.dumps({**item, "$defs": fragment["components"]["schemas"]})
    schema = json.loads(text.replace("#/components/schemas/", "#/$defs/"))
    own = answer.json_schema(SSE())
    assert schema["anyOf"] == own["anyOf"]
    assert schema["$defs"] == own["$defs"]


ASYNCAPI = "@asyncapi/specs@6.11.1"
ASYNCAPI_DIGEST = "01af8744dc33c0c7eb2e908f6a955319ee58b70ecadc9387d1aeb16c0cd28928"


@pytest.fixture
def asyncapi_schema(program, downloads, tmp_path):
    """The official schema of AsyncAPI 3.0 documents: published for npm, fetched once."""
    archive = downloads("asyncapi") / "asyncapi-specs-6.11.1.tgz"
    if not archive.exists():
        pack = [program("npm"), "pack", ASYNCAPI]
        subprocess.run(pack, cwd=tmp_path, check=True, capture_output=True)
        shutil.move(tmp_path / archive.name, archive)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == ASYNCAPI_DIGEST
    with tarfile.open(archive) as files, files.extractfile("package/schemas/3.0.0.json") as file:
        return json.load(file)


@pytest.mark.parametrize("encoder", [SSE(), NDJSON()], ids=repr)
@pytest.mark.parametrize("typed", [answer, EventTypes(Token, snapshot=list[int])])
def test_an_asyncapi_document_takes_the_fragment(asyncapi_schema, encoder, typed):
    """Channels, operations and components in their places make a valid document."""
    fragment = typed.asyncapi("answer", "/answer", encoder=encoder)
    document = {"asyncapi": "3.0.0", "info": {"title": "An app", "version": "1"}, **fragment}
    Draft7Validator(asyncapi_schema).validate(document)
    messages = fragment["components"]["messages"]
    assert [message["name"] for message in messages.values()][:1] == ["token"]
    for reference in fragment["channels"]["answer"]["messages"].values():
        assert reference["$ref"].removeprefix("#/components/messages/") in messages
    broken = {**document, "operations": {"x": {"action": "shout"}}}
    assert not Draft7Validator(asyncapi_schema).is_valid(broken)


def test_a_message_in_sse_is_what_is_in_its_data():
    """A client of a channel parses the data; id and retry are beside it."""
    fragment = answer.asyncapi("answer", "/answer", encoder=SSE())
    token = fragment["components"]["messages"]["answer.token"]
    assert token["payload"] == {"$ref": "#/components/schemas/Token"}
    assert set(token["headers"]["properties"]) == {"id", "retry"}
    assert fragment["components"]["schemas"]["Token"]["description"] == "A piece of the answer."


def test_a_tag_may_have_any_characters():
    """In a document's keys, which may not, each has another form, and none is lost."""
    odd = EventTypes(
        msgspec.defstruct("A", [], tag="a/b c"), msgspec.defstruct("B", [], tag="a.b c")
    )
    fragment = odd.asyncapi("odd", "/odd", controls=False)
    names = [message["name"] for message in fragment["components"]["messages"].values()]
    assert names == ["a/b c", "a.b c"]
    keys = [*fragment["components"]["messages"], *fragment["channels"]["odd"]["messages"]]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", key) for key in keys)
    assert len(set(keys)) == 4


class Price(msgspec.Struct, tag="price"):
    amount: str
    ticks: int = 0


def test_what_the_apps_hook_writes_is_what_is_checked():
    """A value of the app's own is checked as what `encode=` makes of it, a snapshot likewise."""

    class Money:
        pass

    def money(value):
        if isinstance(value, Money):
            return "1.50 EUR"
        raise TypeError(value)

    events = EventTypes(Price, snapshot=list[str])
    encoder = events.encoder(NDJSON(encode=money, big_integers="string"))
    line = encoder.encode(Price(Money(), 2**60))
    assert line == b'{"type":"price","amount":"1.50 EUR","ticks":"1152921504606846976"}\n'
    assert b'["1.50 EUR"]' in encoder.control("snapshot", [Money()])
    assert events.check(Price(Money()), encode=money).ticks == 0
    with pytest.raises(ValueError, match="Expected `int`"):
        encoder.encode(Price("1.50 EUR", Money()))
    for encode in (None, lambda value: 5):
        with pytest.raises(EncodingError):
            events.check(Price(Money()), encode=encode)
