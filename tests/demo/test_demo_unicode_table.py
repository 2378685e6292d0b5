import os
import sqlite3
import stat
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from flowstream.demo import unicode_table
from flowstream.demo.unicode_blocks import NO_BLOCK


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The real table, made once for this module."""
    return unicode_table.load(tmp_path_factory.mktemp("table"))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary directory of this test's own, in place of the machine's."""
    monkeypatch.setattr(unicode_table.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


MAKE = unicode_table.make


def small(path, codepoints=range(0x20, 0x180)):
    MAKE(path, codepoints)
    return path


def test_a_row_says_what_unicodedata_says(tmp_path):
    """Each column of a row is what Python's own database has on the character."""
    rows = {row["character"]: row for row in unicode_table.open_rows(small(tmp_path / "t"))}
    assert rows["½"] == {
        "codepoint": "U+00BD",
        "character": "½",
        "name": "VULGAR FRACTION ONE HALF",
        "category": "No",
        "bidirectional": "ON",
        "combining": 0,
        "east_asian_width": "A",
        "block": "Latin-1 Supplement",
        "decimal": None,
        "numeric": 0.5,
        "mirrored": False,
        "decomposition": "<fraction> 0031 2044 0032",
    }
    assert rows["7"]["decimal"] == 7
    assert rows["("]["mirrored"] is True
    assert "\x7f" not in rows  # a control has no name


def test_the_table_holds_every_named_character_in_order(whole):
    """The real table has all that unicodedata can name, by code point, each in a block."""
    codepoints = []
    for row in unicode_table.open_rows(whole):
        codepoints.append(ord(row["character"]))
        assert row["block"] != NO_BLOCK
        assert row["codepoint"] == f"U+{codepoints[-1]:04X}"
    named = [n for n in range(0x110000) if unicodedata.name(chr(n), None) is not None]
    assert codepoints == named
    assert len(codepoints) > 130_000
    assert not any(0xD800 <= n <= 0xDFFF for n in codepoints)


@pytest.mark.parametrize(
    ("char", "prefix"), [("漢", "CJK UNIFIED"), ("Ω", "GREEK"), ("한", "HANGUL SYLLABLE")]
)
def test_names_and_blocks_agree(whole, char, prefix):
    """A character whose name tells its script is in a block of that script."""
    row = next(row for row in unicode_table.open_rows(whole) if row["character"] == char)
    assert row["name"].startswith(prefix)
    assert row["block"].upper().startswith(prefix.split()[0])


def test_a_limit_ends_the_rows(whole):
    """No more rows come than were asked for, and the cursor is closed after the last."""
    assert len(list(unicode_table.open_rows(whole, limit=3))) == 3
    assert unicode_table.cursors.statistics().open == 0


def test_the_cursor_is_open_while_rows_are_read_and_closed_with_the_generator(tmp_path):
    """Closing the generator halfway closes the cursor at once, in whatever thread."""
    path = small(tmp_path / "t")
    before = unicode_table.cursors.statistics()
    rows = unicode_table.open_rows(path)
    assert unicode_table.cursors.statistics() == before  # nothing is opened before it is needed
    with ThreadPoolExecutor(1) as one:
        first = one.submit(next, rows).result()
    assert first["name"] == "SPACE"
    assert unicode_table.cursors.statistics().open == before.open + 1
    with ThreadPoolExecutor(1) as another:
        assert another.submit(next, rows).result()["name"] == "EXCLAMATION MARK"
        another.submit(rows.close).result()
    assert unicode_table.cursors.statistics().open == before.open
    assert unicode_table.cursors.statistics().opened == before.opened + 1


def test_a_table_can_only_be_read(tmp_path):
    """Rows come through a connection that cannot write."""
    connection = unicode_table._connect(small(tmp_path / "t"))
    with closing(connection), pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM characters")


def test_loading_twice_makes_the_table_once(temporary, monkeypatch):
    """A second load finds the file of the first, in a directory that is this user's alone."""
    made = []

    def make(path):
        made.append(path)
        small(path)

    monkeypatch.setattr(unicode_table, "make", make)
    path = unicode_table.load()
    assert unicode_table.load() == path
    assert made == [path]
    assert unicodedata.unidata_version in path.name
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_concurrent_loads_in_one_process_make_the_table_once(temporary, monkeypatch):
    """Requests that come together wait for one load instead of each making a table."""
    made = []
    together = threading.Barrier(4)

    def make(path):
        made.append(path)
        small(path)

    def load():
        together.wait()
        return unicode_table.load()

    monkeypatch.setattr(unicode_table, "make", make)
    with ThreadPoolExecutor(4) as pool:
        paths = {future.result() for future in [pool.submit(load) for _ in range(4)]}
    assert len(paths) == len(made) == 1


def test_concurrent_makers_leave_one_whole_table(tmp_path):
    """Processes that start together each write a file of their own; any of them will do."""
    path = tmp_path / "t"
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(small, path) for _ in range(4)]:
            future.result()
    assert unicode_table.is_whole(path)
    assert os.listdir(tmp_path) == ["t"]


def test_a_load_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """A table is whole or not there, and no half-made file stays behind."""

    def characters(codepoints):
        yield from [("U+0041", *[None] * 11)] * 10
        raise KeyboardInterrupt

    monkeypatch.setattr(unicode_table, "characters", characters)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "t")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"this is no database, whatever it is called" * 100])
def test_a_file_that_is_no_table_is_made_anew(tmp_path, content, monkeypatch):
    """What an older version or an accident left is not served."""
    path = tmp_path / f"unicode-{unicodedata.unidata_version}.sqlite3"
    path.write_bytes(content)
    monkeypatch.setattr(unicode_table, "make", small)
    assert not unicode_table.is_whole(path)
    assert unicode_table.load(tmp_path) == path
    assert unicode_table.is_whole(path)


def test_a_directory_that_others_may_write_to_is_refused(temporary):
    """Threat: another user makes the directory first and plants a file in it."""
    (temporary / f"flowstream-demo-{os.getuid()}").mkdir(mode=0o777)
    (temporary / f"flowstream-demo-{os.getuid()}").chmod(0o777)
    with pytest.raises(PermissionError, match="TMPDIR"):
        unicode_table.load()


def test_a_link_in_place_of_the_directory_is_refused(temporary):
    """Threat: another user points the name at a directory of the victim's own."""
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / f"flowstream-demo-{os.getuid()}").symlink_to(temporary / "elsewhere")
    with pytest.raises(PermissionError, match="mode 0700"):
        unicode_table.load()
