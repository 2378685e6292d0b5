"""The scripts of the log in Valkey, each by what it returns and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _lua_log import PREFIX, LuaLog

MIB = 1 << 20
HOUR = 3600 * 1_000_000


@pytest.fixture
def log(broker: str) -> Iterator[LuaLog]:
    """The scripts on a Valkey, then on a Redis, in an empty database."""
    log = LuaLog(broker)
    yield log
    log.close()


# -- append, read -----------------------------------------------------------------------------


def test_results_are_runs(log: LuaLog) -> None:
    """Neighbours of one kind are one run, and a token returns all of them again."""
    first = log.append("a", b"1", b"2", asked=["x", "y"])
    epoch = first.partition(":")[0]
    assert first == f"{epoch}:1:0:2"
    mixed = log.append("a", *b"12345", asked=["x", "y", "", "z", "x"], token="m")  # type: ignore[arg-type]
    assert mixed == f"{epoch}:1:1:2 {epoch}:3:0:2 {epoch}:1:1:1"
    assert log.append("a", b"-", b"-", token="m") == mixed
    assert log.append("a", b"6", b"7", b"8") == f"{epoch}:5:0:3"
    assert [number for number, _ in log.events("a")] == [1, 2, 3, 4, 5, 6, 7]
    # The last event and a duplicate of the one that follows it in number are no neighbours.
    assert log.append("a", b"9", b"-", asked=["q", "q"]) == f"{epoch}:8:0:1 {epoch}:8:1:1"
    assert log.append("a", b"-", b"10", asked=["q", ""]) == f"{epoch}:8:1:1 {epoch}:9:0:1"


def test_an_idempotency_key_is_of_an_epoch(log: LuaLog) -> None:
    """A duplicate of an older epoch keeps its place there, and is no neighbour of a new event."""
    old = log.append("a", b"1", asked=["x"]).partition(":")[0]
    log.call("adopt", "1")
    mixed = log.append("a", b"-", b"2", asked=["x", ""])
    new = log.epoch("a")
    assert new > old
    assert mixed == f"{old}:1:1:1 {new}:2:0:1"


@pytest.mark.parametrize(
    ("sizes", "whole"), [([1, 0, 3], True), ([3 * MIB, MIB], True), ([3 * MIB, MIB, 1], False)]
)
def test_a_hint_has_the_events_unless_they_are_large(
    log: LuaLog, sizes: list[int], whole: bool
) -> None:
    """Up to 4 MiB of them go with it; else those who watch read them."""
    log.append("a", b"before")
    wire = log.listening("a")
    data = [b"x" * size for size in sizes]
    log.append("a", *data)
    topic, payload = wire.heard()
    assert topic == "a"
    if not whole:
        assert payload == b"E"
        return
    line, _, bodies = payload.partition(b"\n")
    kind, epoch, first, stamp, *said = line.split(b" ")
    assert (kind, epoch.decode(), first) == (b"A", log.epoch("a"), b"2")
    assert abs(int(stamp) - log.now()) < HOUR
    assert [int(size) for size in said] == sizes
    assert bodies == b"".join(data)


def test_nothing_new_is_no_hint(log: LuaLog) -> None:
    """Neither a token of before nor a known key is told."""
    log.append("a", b"1", token="t", asked=["x"])
    wire = log.listening("a")
    log.append("a", b"1", token="t")
    log.append("a", b"1", asked=["x"])
    log.append("a", b"2")
    assert wire.heard()[1].endswith(b"\n2")


def test_a_page_has_so_many_events(log: LuaLog) -> None:
    """All of many, as many as were asked for, and those behind a position."""
    data = [b"%d" % number for number in range(1, 1001)]
    log.append("a", *data)
    epoch = log.epoch("a")
    everything = list(enumerate(data, start=1))
    assert log.read("a", epoch, 0, 2000)[4] == everything
    for limit in (1, 7, 8, 9, 264, 265, 999):
        assert log.read("a", epoch, 0, limit)[4] == everything[:limit]
    assert log.read("a", epoch, 990, 2000)[4] == everything[990:]
    assert log.read("a", epoch, 1000, 2000)[1:] == [1000, 1, 1, []]
    assert log.read("a", epoch, 1001, 2000)[3:] == [0, []]
    assert log.read("a", "0123456789a", 0, 2000)[3:] == [0, []]


def test_a_page_has_so_many_bytes(log: LuaLog) -> None:
    """A page ends in front of the event that would make it larger than 1 MiB, if it has one."""
    log.append("a", b"x" * (MIB // 2), b"y" * (MIB // 2), b"z")
    epoch = log.epoch("a")
    assert [number for number, _ in log.read("a", epoch, 0)[4]] == [1, 2]
    assert [number for number, _ in log.read("a", epoch, 1)[4]] == [2, 3]
    log.append("b", b"x" * (2 * MIB), b"y")
    epoch = log.epoch("b")
    assert [number for number, _ in log.read("b", epoch, 0)[4]] == [1]
    assert [number for number, _ in log.read("b", epoch, 1)[4]] == [2]
    log.append("c", *[b"x" * 100_000] * 40)
    epoch = log.epoch("c")
    assert [number for number, _ in log.read("c", epoch, 0)[4]] == list(range(1, 11))
    assert [number for number, _ in log.read("c", epoch, 25)[4]] == list(range(26, 36))


def test_heads_are_in_the_order_asked(log: LuaLog) -> None:
    """Of topics that are there, and of those that are not."""
    log.append("a", b"1", b"2", b"3", keep="2 999 0")
    log.append("b", b"1")
    heads = log.call("heads", "b", "none", "a")
    epoch = log.call("adopt", "0")
    assert [[epochs.decode(), *rest] for epochs, *rest in heads] == [
        [log.read("b")[0], 1, 1],
        [f"{epoch.decode()}:1", 0, 1],
        [log.read("a")[0], 3, 2],
    ]


def test_the_tokens_of_the_last_thousand_events_are_known(log: LuaLog) -> None:
    """A call that is made again within so many events appends nothing; later ones are forgotten."""
    first = log.append("a", b"1", token="first")
    log.append("a", *[b"x"] * 1022)
    log.append("a", b"x", token="last")
    assert log.append("a", b"again", token="first") == first
    for _ in range(3):
        log.append("a", *[b"x"] * 1024)
    assert log.append("a", b"again", token="first") != first
    # Two hashes hold them, whose sizes are bounded.
    for _ in range(2200):
        log.append("a", b"x")
    kept = sum(log.ask("HLEN", f"{PREFIX}{name}:a") for name in ("tokens", "tokens-before"))
    assert 1024 <= kept <= 2 * 1024 + 2


# -- the newest event of each key -------------------------------------------------------------


def latest(log: LuaLog, topic: str, cursor: str = "") -> tuple[list[tuple[str, bytes]], str | None]:
    _, _, _, _, found, more = log.call("latest", topic, cursor)
    pairs = [(key.decode(), value.split(b" ", 3)[3]) for key, value in found]
    return pairs, more.decode() if more else None


def check_latest(log: LuaLog, topic: str) -> int:
    """Make sure that what is stored of the newest events fits together; return their number."""
    names = [f"{PREFIX}{name}:{topic}" for name in ("latest", "keys", "written")]
    count = log.ask("HLEN", names[0])
    assert [log.ask("ZCARD", names[1]), log.ask("ZCARD", names[2])] == [count, count]
    values = log.ask("HVALS", names[0])
    assert sum(map(len, values)) == int(log.field(topic, "latest") or 0)
    return int(count)


def test_so_many_keys_are_kept(log: LuaLog) -> None:
    """10,000; the one written longest ago goes, and nothing of it stays."""
    names = [f"k{number:05}" for number in range(10_050)]
    log.append("a", *[b"x"] * len(names), keys=names)
    assert check_latest(log, "a") == 10_000
    log.append("a", b"again", keys=[names[50]])
    log.append("a", b"new", keys=["z"])
    assert check_latest(log, "a") == 10_000
    kept = {key.decode() for key in log.ask("HKEYS", f"{PREFIX}latest:a")}
    assert {names[50], "z"} <= kept
    assert names[51] not in kept


def test_so_many_bytes_of_them_are_kept(log: LuaLog) -> None:
    """8 MiB; those written longest ago go."""
    for number in range(12):
        log.append("a", b"x" * MIB, keys=[f"k{number:02}"])
        assert check_latest(log, "a") == min(number + 1, 7)
    log.append("a", b"small", keys=["k11"])
    assert check_latest(log, "a") == 7
    kept = sorted(key.decode() for key in log.ask("HKEYS", f"{PREFIX}latest:a"))
    assert kept == [f"k{number:02}" for number in range(5, 12)]


def test_they_come_in_pages(log: LuaLog) -> None:
    """A page has about 1 MiB, and one key at least; the next one begins behind its last key."""
    names = [f"k{number:03}" for number in range(100)]
    log.append("a", *[b"%d" % number for number in range(100)], keys=names)
    assert latest(log, "a") == ([(name, b"%d" % place) for place, name in enumerate(names)], None)
    assert latest(log, "a", "k097") == ([("k098", b"98"), ("k099", b"99")], None)
    for number in range(5):
        log.append("b", b"x" * (400_000 if number else 2 * MIB), keys=[f"l{number}"])
    found: list[str] = []
    pages = 0
    cursor: str | None = ""
    while cursor is not None:
        page, cursor = latest(log, "b", cursor)
        found += [key for key, _ in page]
        pages += 1
    assert (found, pages) == ([f"l{number}" for number in range(5)], 3)


# -- what is forgotten ------------------------------------------------------------------------


def test_what_is_stored_is_within_an_eighth_of_the_bounds(log: LuaLog) -> None:
    """Readers see the bound of items exactly; the size is that of what is stored."""
    for _ in range(300):
        log.append("a", b"x" * 10, keep="80 99999999 0")
        assert len(log.stored("a")) <= 80 + 64
        assert int(log.field("a", "size") or 0) == 10 * len(log.stored("a"))
    assert [number for number, _ in log.events("a")] == list(range(221, 301))
    for _ in range(100):
        log.append("b", b"x" * 100, keep="1000 1000 0")
        assert len(log.stored("b")) <= 11
        assert int(log.field("b", "size") or 0) == 100 * len(log.stored("b"))
    assert len(log.events("b")) >= 8


def test_a_topic_that_keeps_nothing_stores_nothing(log: LuaLog) -> None:
    """Not even what it had; and what it keeps then is counted from nothing."""
    log.append("a", b"1", b"2")
    log.append("a", b"3", b"4", keep="0 999 0")
    assert (log.stored("a"), log.field("a", "size")) == ([], "0")
    assert log.read("a")[1:3] == [4, 5]
    log.append("a", b"5")
    assert (log.events("a"), log.field("a", "size")) == ([(5, b"5")], "1")


def test_trim_says_how_many_were_forgotten(log: LuaLog) -> None:
    """Of those that could be read; by items, bytes and age; and whether there is more to do."""
    log.append("a", *[b"x" * 100] * 10)
    assert log.call("trim", "a", "8 999999 0") == [2, 0]
    assert log.call("trim", "a", "1000 500 0") == [3, 0]
    assert log.stored("a") == [6, 7, 8, 9, 10]
    assert log.call("trim", "a", "") == [0, 0]
    assert log.call("trim", "none", "") == [0, 0]
    assert log.call("trim", "a", "0 0 0") == [5, 0]
    assert (log.stored("a"), log.field("a", "size")) == ([], "0")
    log.append("b", *[b"x"] * 5040, keep="6000 999999 0")
    assert log.call("trim", "b", "0 0 0")[1] == 1
    while log.call("trim", "b", "0 0 0")[1]:
        pass
    assert log.stored("b") == []


def test_what_is_too_old_is_neither_read_nor_kept(log: LuaLog) -> None:
    """Its age is that of the topic's clock, which never goes back."""
    keep = f"1000 999999 {HOUR}"
    for number in range(20):
        log.append("a", b"%d" % number, keep=keep)
        log.set_times("a", 600, "touched")
    # The clock of the topic is 200 minutes ahead: those of less than an hour are left.
    epoch = log.epoch("a")
    assert log.read("a")[2] == 16
    assert log.read("a", epoch, 0)[4][0] == (16, b"15")
    assert log.call("heads", "a")[0][2] == 16
    assert log.call("trim", "a", "") == [0, 0]
    assert log.stored("a") == list(range(16, 21))
    log.set_times("a", 7200, "touched")
    assert log.read("a")[1:3] == [20, 21]
    assert log.call("trim", "a", f"1000 999999 {HOUR}") == [0, 0]
    assert log.stored("a") == []


def test_the_sweep_deletes_what_is_too_old(log: LuaLog) -> None:
    """Once the oldest event's time is over; then it looks again when the next one's is."""
    keep = f"1000 999999 {HOUR}"
    log.append("a", b"1", keep=keep)
    due = int(log.field("a", "due") or 0)
    assert 0 < due - log.now() <= HOUR
    assert log.call("sweep", 9) == 0
    log.set_times("a", 1800, "touched")
    log.append("a", b"2", keep=keep)
    log.set_times("a", 2400, "touched")
    log.set_times("a", -3601, "due")
    assert log.call("sweep", 9) == 1
    assert log.stored("a") == [2]
    assert log.call("sweep", 9) == 0
    [(_, (_, stamp, _, _))] = log.ask("XRANGE", f"{PREFIX}events:a", "-", "+")
    assert int(log.field("a", "due") or 0) == int(stamp) + HOUR


def test_a_topic_is_forgotten_after_a_week(log: LuaLog) -> None:
    """Nothing of it is left, it is counted no more, and what is made then sorts behind it."""
    log.append("a", b"1", b"2", keys=["k", "l"], token="t", keep="0 0 0")
    log.append("b", b"1")
    epoch = log.epoch("a")
    wire = log.listening("a")
    log.set_times("a", -6 * 86400, "touched")
    log.set_times("a", -8 * 86400, "due")
    assert log.call("sweep", 9) == 1
    assert log.read("a")[1] == 2
    log.set_times("a", -86400 - 60, "touched")
    log.set_times("a", -8 * 86400, "due")
    assert log.call("sweep", 9) == 1
    assert log.counted() == (1, 1)
    assert [key for key in log.stored_keys() if key.endswith(":a")] == []
    assert log.ask("ZRANGE", f"{PREFIX}names", 0, -1) == [b"b"]
    assert wire.heard() == ("a", b"E")
    assert log.read("a")[1:] == [0, 1, 0, []]
    assert log.epoch("a") > epoch
    assert log.append("a", b"1") == f"{log.epoch('a')}:1:0:1"
    assert log.counted() == (2, 2)


def test_delete_leaves_a_number(log: LuaLog) -> None:
    """Events, tokens and keys go; numbers go on in a new epoch; the name is listed no more."""
    first = log.append("a", b"1", b"2", token="t", keys=["k", ""], asked=["x", ""])
    log.append("b", b"1")
    epoch = log.epoch("a")
    wire = log.listening("a")
    log.call("delete", "a")
    assert wire.heard() == ("a", b"E")
    assert [key for key in log.stored_keys() if key.endswith(":a")] == ["topic:a"]
    assert log.ask("ZRANGE", f"{PREFIX}names", 0, -1) == [b"b"]
    assert (log.read("a")[1:3], latest(log, "a")) == ([2, 3], ([], None))
    later = log.epoch("a")
    assert later > epoch
    log.call("delete", "a")
    log.call("delete", "none")
    assert log.epoch("a") == later
    assert log.counted() == (2, 2)
    again = log.append("a", b"1", token="t", asked=["x"])
    assert (again, first) == (f"{later}:3:0:1", f"{epoch}:1:0:2")
    assert log.ask("ZRANGE", f"{PREFIX}names", 0, -1) == [b"a", b"b"]
    check_latest(log, "a")


def test_a_topic_is_counted_whatever_is_lost(log: LuaLog) -> None:
    """A list of topics that was lost is made again, one touch after the other."""
    log.append("a", b"1")
    log.append("b", b"1")
    log.ask("DEL", f"{PREFIX}due", f"{PREFIX}names")
    log.append("c", b"1")
    assert log.counted() == (1, 1)
    log.append("a", b"2")
    log.read("b")
    assert log.counted() == (3, 3)
    assert log.ask("ZRANGE", f"{PREFIX}names", 0, -1) == [b"a", b"b", b"c"]
    log.ask("DEL", f"{PREFIX}topic:a")
    log.read("a")
    assert log.counted() == (2, 2)


# -- epochs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest", "made", "epoch"),
    [
        ("1lgppmf8l75", "1lgppmf8l76", "1lgppmf8l76"),
        ("1lgppmf8l75", "1lgppmf8l75", "1lgppmf8l750"),
        ("1lgppmf8l75", "0lgppmf8l75", "1lgppmf8l750"),
        ("1lgppmf8l7", "1lgppmf8l75", "1lgppmf8l75"),
        ("1lgppmf8l7500000", "0", "1lgppmf8l76"),
        ("1lgppmf8l7900000", "0", "1lgppmf8l7a"),
        ("1lgppmf8lvvzzzzz", "0", "1lgppmf8m00"),
        ("1lgppmfvvvv00000", "0", "1lgppmg0000"),
    ],
)
def test_an_epoch_sorts_behind_the_last(log: LuaLog, newest: str, made: str, epoch: str) -> None:
    """If the clock was set back, it is the last one with a 0, up to five of them."""
    log.call("adopt", "0")
    log.ask("HSET", f"{PREFIX}log", "newest", newest)
    assert log.call("adopt", "1", epoch=made).decode() == epoch
    assert log.ask("HGET", f"{PREFIX}log", "newest").decode() == epoch
    assert epoch > newest


def test_eight_epochs_are_kept(log: LuaLog) -> None:
    """In their order, with the numbers that they begin with; the events of the oldest one go."""
    log.append("a", b"0")
    epochs = [log.epoch("a")]
    for number in range(1, 12):
        log.call("adopt", "1")
        log.append("a", b"%d" % number)
        text, head, _, _, _ = log.read("a")
        kept = [one.split(":") for one in text.split(",")]
        epochs.append(kept[-1][0])
        assert head == number + 1
        assert [epoch for epoch, _ in kept] == epochs[-8:]
        assert [int(begin) for _, begin in kept] == [*range(max(0, number - 7) + 1, number + 2)]
        assert epochs == sorted(set(epochs))
        # A position beyond the end of its epoch is the end of it; in the last one it is unknown.
        assert log.read("a", epochs[-2], number)[3:] == [1, [(number + 1, b"%d" % number)]]
        assert log.read("a", epochs[-2], number + 5)[3:] == [1, [(number + 1, b"%d" % number)]]
        assert log.read("a", epochs[-1], number)[3] == 1
        assert log.read("a", epochs[-1], number - 1)[3] == 0
        assert log.read("a", epochs[-1], number + 5)[3] == 0


def test_a_reader_that_has_more_is_evidence(log: LuaLog) -> None:
    """Only if it says that its position is proof, and the log has less than that."""
    log.append("a", b"1", b"2")
    log.append("b", b"1")
    epoch, wire = log.epoch("a"), log.listening("b")
    log.call("read", "a", epoch, 2, 9, "1")
    log.call("read", "a", epoch, 3, 9, "0")
    log.call("read", "a", "0" * 11, 9, 9, "1")
    log.call("read", "none", log.epoch("none"), 0, 9, "1")
    assert (log.epoch("a"), log.epoch("b")) == (epoch, epoch)
    log.call("read", "a", epoch, 3, 9, "1")
    assert log.epoch("a") > epoch
    assert log.epoch("b") > epoch
    assert [wire.heard(), wire.heard()] == [("", b"L"), ("b", b"E")]
    empty = log.epoch("none")
    log.call("read", "none", empty, 1, 9, "1")
    assert log.epoch("none") > empty
    log.call("read", "b", "vvvvvvvvvv5", 0, 9, "1")
    assert log.epoch("b") > "vvvvvvvvvv5"


# -- leases -----------------------------------------------------------------------------------


def lease(reply: list[bytes | int]) -> tuple[str, str, float, int]:
    owner, token, left, ended = reply
    assert isinstance(owner, bytes)
    assert isinstance(token, bytes)
    return owner.decode(), token.decode(), int(left) / 1e6, int(ended)


def claim(log: LuaLog, owner: str, instead: str = "", seconds: float = 10) -> tuple[str, str]:
    return lease(log.call("claim", "r", owner, int(seconds * 1e6), instead))[:2]


def end(log: LuaLog, token: str, seconds: float = 60, *, lapsed: bool = False) -> object:
    words = f"end {token} {seconds}", "9 999 0", token, max(1, int(seconds * 1e6))
    return log.call("end", "r", *words, "1" if lapsed else "0", 1, 0, b"end")


def test_a_claim_is_one_owner_s(log: LuaLog) -> None:
    """The second owner gets the first one's lease; the first one its own, renewed."""
    mine = claim(log, "me")
    assert mine[0] == "me"
    assert claim(log, "you") == mine
    log.set_times("r", -5, "until")
    assert 4 < lease(log.call("leases", "r")[0])[2] <= 5
    assert claim(log, "you") == mine
    assert lease(log.call("claim", "r", "me", 10_000_000, ""))[2] > 9
    assert log.ask("ZRANGE", f"{PREFIX}names", 0, -1) == []
    assert log.call("leases", "none", "r")[0] is None
    assert lease(log.call("leases", "none", "r")[1])[3] == 0


def test_a_token_is_the_clock_s_or_the_next(log: LuaLog) -> None:
    """Tokens grow with each claim of any topic, also on a server whose clock was set back."""
    before = log.now()
    token = int(claim(log, "me")[1])
    assert before <= token <= log.now()
    log.ask("HSET", f"{PREFIX}log", "fence", token + 10**12)
    log.call("delete", "r")
    assert int(claim(log, "me")[1]) == token + 10**12 + 1
    log.call("delete", "r")
    assert int(claim(log, "me")[1]) == token + 10**12 + 2


def test_a_lease_is_taken_over(log: LuaLog) -> None:
    """A lapsed one with its events and its epoch, an ended one without; a live one is not."""
    _, token = claim(log, "me")
    log.append("r", b"1", fence=token)
    epoch = log.epoch("r")
    assert claim(log, "you", token)[0] == "me"
    log.set_times("r", -11, "until")
    assert claim(log, "you")[0] == "me"
    _, taken = claim(log, "you", token)
    assert taken > token
    assert claim(log, "third", token)[0] == "you"
    assert log.append("r", b"2", fence=token) == "FENCED"
    log.append("r", b"3", fence=taken)
    assert [data for _, data in log.events("r")] == [b"1", b"3"]
    assert log.epoch("r") == epoch
    assert end(log, taken, 60)
    assert claim(log, "third", taken)[0] == "third"
    assert log.events("r") == []
    assert log.epoch("r") > epoch


def test_the_end_is_one_step(log: LuaLog) -> None:
    """The last event and the mark; a second end changes nothing; another token is fenced."""
    _, token = claim(log, "me")
    log.append("r", b"1", fence=token)
    assert end(log, "1") == b"FENCED"
    found = end(log, token, lapsed=True)  # it has not
    assert lease(found)[3] == 0  # type: ignore[arg-type]
    assert [data for _, data in log.events("r")] == [b"1"]
    for _ in range(2):
        found = end(log, token)
        assert lease(found)[1:2] + lease(found)[3:] == (token, 1)  # type: ignore[arg-type]
        assert lease(found)[2] > 50  # type: ignore[arg-type]
    assert [data for _, data in log.events("r")] == [b"1", b"end"]
    assert log.append("r", b"2", fence=token) == "FENCED"
    assert log.call("end", "none", "t", "9 9 0", "1", 1, "0", 1, 0, b"end") is None


def test_a_lapsed_lease_is_reaped(log: LuaLog) -> None:
    """Who ends it with `lapsed` does so after its time; the old owner is fenced then."""
    _, token = claim(log, "me")
    log.set_times("r", -11, "until")
    found = end(log, token, lapsed=True)
    assert lease(found)[3] == 1  # type: ignore[arg-type]
    assert log.append("r", b"2", fence=token) == "FENCED"


def test_an_ended_lease_is_swept_when_its_time_is_over(log: LuaLog) -> None:
    """Its topic goes with it, at once and not a week later."""
    _, token = claim(log, "me")
    log.append("r", b"1", fence=token)
    end(log, token, 3600)
    assert log.call("sweep", 9) == 0
    assert 3590 < (int(log.field("r", "due") or 0) - log.now()) / 1e6 <= 3600
    log.set_times("r", -3601, "until", "due")
    assert log.call("leases", "r") == [None]
    assert log.counted() == (0, 0)
    _, token = claim(log, "me")
    end(log, token, 0)
    while log.now() <= int(log.field("r", "until") or 0):
        pass
    assert log.call("sweep", 9) == 1
    assert [key for key in log.stored_keys() if key.endswith(":r")] == []


def test_a_beat_renews_what_is_the_owner_s(log: LuaLog) -> None:
    """A lapsed one, too; not another's, not with another token, not an ended one."""
    _, token = claim(log, "me")
    log.set_times("r", -20, "until")

    def left(owner: str, beaten: str) -> float:
        none, mine = log.call("beat", owner, 10_000_000, "none", "1", "r", beaten)
        assert none is None
        return lease(mine)[2]

    assert left("you", token) < 0
    assert left("me", str(int(token) + 1)) < 0
    assert left("me", token) > 9
    assert int(log.field("r", "due") or 0) <= int(log.field("r", "until") or 0) + 7 * 24 * HOUR
    end(log, token)
    assert left("me", token) > 50


# -- what an operator sees --------------------------------------------------------------------


def test_inspection_counts_what_is_there(log: LuaLog) -> None:
    """Events that are stored and that are kept, holes between them, and which lists it is in."""
    log.append("a", *[b"xy"] * 650, keep="600 999999 0")
    found = log.call("inspect", "a")
    stamp = log.ask("XRANGE", f"{PREFIX}events:a", "-", "+", "COUNT", 1)[0][1][1]
    rest = [found[0], found[1].decode(), *found[2:]]
    assert rest[1:] == [
        log.read("a")[0],
        650,
        51,
        600,
        1200,
        stamp,
        b"600 999999 0",
        0,
        650,
        0,
        1300,
        1300,
        1,
        1,
    ]
    assert abs(int(found[0]) - log.now()) < HOUR
    log.ask("XDEL", f"{PREFIX}events:a", "300", "301", "600", "2")
    log.ask("ZREM", f"{PREFIX}names", "a")
    log.ask("ZREM", f"{PREFIX}due", "a")
    holes = log.call("inspect", "a")
    assert (holes[10], holes[11], holes[13], holes[14]) == (3, 2 * 646, 0, 0)
    log.call("delete", "b")
    log.append("b", b"1")
    log.call("delete", "b")
    assert log.call("inspect", "b")[8] == 1
    assert log.call("inspect", "none") is None
