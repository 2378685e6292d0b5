"""Length-prefixed frames: round trips, cuts, and bytes that claim to be what they are not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstream import Event, stream
from flowstream._errors import DecodingError
from flowstream.decoders import Frame, FramesDecoder
from flowstream.encoders import Frames
from flowstream.testing import collect

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
values = st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
items = st.builds(Frame, values, texts | st.none(), texts | st.none())


def encode(item: Frame, frames: Frames) -> bytes:
    return frames.encode(item.data, type=item.type, id=item.id)


def test_the_bytes_are_those_of_the_table():
    """Length, kind and body stand as the module's table says."""
    frames = Frames()
    assert frames.media_type == "application/vnd.flowstream.frames; prefix=4"
    assert frames.encode(b"\x00\xff") == b"\0\0\0\x03B\x00\xff"
    assert frames.encode(bytearray(b"a")) == frames.encode(memoryview(b"a")) == b"\0\0\0\x02Ba"
    assert frames.encode({"a": 1}) == b'\0\0\0\x08J{"a":1}'
    assert frames.encode(b"x", id="7", key="k", retry=1) == b'\0\0\0\x0bE{"id":"7"}\0\0\0\x02Bx'
    assert frames.heartbeat() == b"\0\0\0\0"
    assert Frames(prefix=2).encode(b"x") == b"\0\x02Bx"
    assert Frames(prefix=8).encode(b"x") == b"\0\0\0\0\0\0\0\x02Bx"


def test_a_control_event_is_a_kind_of_its_own():
    """No item can be taken for one, whatever is in it."""
    frames, decoder = Frames(names={"end": "bye"}), FramesDecoder()
    end = frames.control("end", {"reason": "completed"}, id="1.end", retry=7)
    item = frames.encode({"type": "bye", "data": {"reason": "completed"}})
    assert decoder.feed(item + end) == [
        Frame({"type": "bye", "data": {"reason": "completed"}}),
        Frame({"reason": "completed"}, "bye", "1.end", True, 7),
    ]


def test_values_that_are_equal_write_the_same():
    """Prefix, media type and names make an encoder what it is."""
    assert Frames() == Frames()
    assert hash(Frames()) == hash(Frames())
    others = [Frames(prefix=2), Frames(media_type="audio/x"), Frames(names={"gap": "lost"})]
    assert all(Frames() != other for other in others)
    assert Frames() != 1
    assert repr(Frames(prefix=8)).startswith("Frames(prefix=8")


@pytest.mark.parametrize(
    "wrong", [{"prefix": 1}, {"prefix": 3}, {"media_type": ""}, {"media_type": "a\nb"}]
)
def test_wrong_arguments_are_refused(wrong):
    """A prefix that is no size, and a media type that would forge headers, raise at once."""
    with pytest.raises(ValueError, match=r"prefix|media_type"):
        Frames(**wrong)


def test_an_item_that_the_prefix_cannot_tell_is_refused():
    """Two bytes say up to 65,535, the kind counted."""
    frames = Frames(prefix=2)
    assert len(frames.encode(bytes(65534))) == 65537
    with pytest.raises(ValueError, match="too long for a length of 2 bytes"):
        frames.encode(bytes(65535))


async def test_a_stream_of_frames_is_read_back_to_its_end():
    """Items, an event with an envelope, and the `end` that a cut stream does not have."""
    source = [b"\x01\x02", Event(b"\x03", type="chunk", id="9"), {"n": 1}]
    answer = await collect(stream(source, encoder=Frames()))
    decoder = FramesDecoder()
    *received, end = decoder.feed(answer.body)
    decoder.flush()
    assert received == [Frame(b"\x01\x02"), Frame(b"\x03", "chunk", "9"), Frame({"n": 1})]
    assert (end.control, end.type, end.data) == (True, "end", {"reason": "completed"})


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_the_reader_that_the_documentation_shows_reads_them(program, tmp_path, step):
    """The page's JavaScript, run by Node on a stream in pieces, gives what was sent."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "binary-frames.md"
    script = page.read_text().partition("```js\n")[2].partition("```")[0]
    frames = Frames()
    whole = b"".join(
        [
            frames.heartbeat(),
            frames.encode({"a": "\u00fc"}),
            frames.encode(b"\x00\xff", type="audio", id="7"),
            frames.encode(b""),
            frames.control("end", {"reason": "completed"}, id="1.end"),
        ]
    )
    (tmp_path / "frames.mjs").write_text(
        f"""{script}
        const whole = Buffer.from("{whole.hex()}", "hex");
        const pieces = [];
        for (let at = 0; at < whole.length; at += {step}) pieces.push(whole.slice(at, at + {step}));
        const items = [];
        for await (const item of frames(pieces)) {{
          if (item.data instanceof Uint8Array) item.data = [...item.data];
          items.push(item);
        }}
        console.log(JSON.stringify(items));"""
    )
    done = subprocess.run(
        [program("node", "nodejs"), tmp_path / "frames.mjs"], capture_output=True, check=True
    )
    assert json.loads(done.stdout) == [
        {"control": False, "data": {"a": "\u00fc"}},
        {"control": False, "type": "audio", "id": "7", "data": [0, 255]},
        {"control": False, "data": []},
        {"control": True, "type": "end", "id": "1.end", "data": {"reason": "completed"}},
    ]


@given(st.lists(items | st.none()), st.sampled_from([2, 4, 8]), st.data())
def test_what_is_encoded_is_what_a_client_gets(given_items, prefix, data):
    """Any items come back in order, heartbeats between them, however the bytes are cut."""
    frames, decoder = Frames(prefix=prefix), FramesDecoder(prefix=prefix)
    whole = b"".join(
        frames.heartbeat() if item is None else encode(item, frames) for item in given_items
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        received += decoder.feed(whole[start:end])
    decoder.flush()
    assert received == [item for item in given_items if item is not None]
    assert decoder.heartbeats == given_items.count(None)


@given(st.lists(items, min_size=1, max_size=4))
def test_a_cut_after_any_byte_is_seen(given_items):
    """A prefix of the bytes gives a prefix of the items, and flush() raises inside of one."""
    frames = Frames()
    encoded = [encode(item, frames) for item in given_items]
    whole = b"".join(encoded)
    ends = [sum(map(len, encoded[:n])) for n in range(len(encoded) + 1)]
    for cut in range(len(whole) + 1):
        decoder = FramesDecoder()
        received = decoder.feed(whole[:cut])
        assert received == given_items[: len(received)]
        assert ends[len(received)] <= cut
        if cut in ends:
            decoder.flush()
        else:
            with pytest.raises(DecodingError, match="was cut"):
                decoder.flush()


@given(st.binary(max_size=80), st.integers(1, 9))
def test_any_bytes_are_frames_or_an_error(data, step):
    """Nothing but DecodingError comes out, and how the bytes are cut decides nothing."""

    def run(step: int) -> tuple[list[Frame], str | None]:
        decoder, received = FramesDecoder(prefix=2, max_frame=20), []
        try:
            for start in range(0, len(data), step):
                received += decoder.feed(data[start : start + step])
            decoder.flush()
        except DecodingError as error:
            return [], str(error)
        return received, None

    assert run(step) == run(len(data) + 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xff\xff\xff", "frame 1 is longer than 1048576 bytes"),
        (b"\0\0\0\0\0\0\0\x01Q", "frame 2 is of an unknown kind, b'Q'"),
        (b"\0\0\0\x02J{", "frame 1 is not what its kind b'J' says"),
        (b'\0\0\0\x04J"\xff"', "frame 1 is not what its kind b'J' says"),
        (b"\0\0\0\x05E[]\n ", "frame 1 is not what its kind b'E' says"),
        (b'\0\0\0\x09E{"id":7}', "frame 1 is not what its kind b'E' says"),
        (b"\0\0\0\x03E{}\0\0\0\x03E{}", "frame 2 is no item"),
        (b'\0\0\0\x08E{"x":1}', "frame 1 is not what its kind b'E' says"),
        (b"\0\0\0\x03C{}", "frame 1 is not what its kind b'C' says"),
        (b"\0\x01\x00\x00J" + b"[" * 65535, "frame 1 is not what its kind b'J' says"),
    ],
)
def test_what_is_no_frame_is_an_error_with_its_number(data, message):
    """And nothing is decoded behind it."""
    decoder = FramesDecoder()
    with pytest.raises(DecodingError, match=message):
        decoder.feed(data)
    with pytest.raises(DecodingError, match=message):
        decoder.feed(b"\0\0\0\x01B")
    with pytest.raises(DecodingError, match=message):
        decoder.flush()


def test_a_long_frame_is_refused_by_its_length_alone():
    """Not a byte of it is kept; one of just the bound passes."""
    decoder = FramesDecoder(max_frame=3)
    assert decoder.feed(b"\0\0\0\x03Bab") == [Frame(b"ab")]
    with pytest.raises(DecodingError, match="frame 2 is longer than 3 bytes"):
        decoder.feed(b"\0\0\0\x04")


@pytest.mark.parametrize("wrong", [{"prefix": 1}, {"max_frame": 0}])
def test_wrong_bounds_are_refused(wrong):
    """The decoder's arguments are checked."""
    with pytest.raises(ValueError, match="must be"):
        FramesDecoder(**wrong)
