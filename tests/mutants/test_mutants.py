"""Mistakes that are made mechanically, and what becomes of them: on a project of two files."""

import ast
import re
from pathlib import Path

import psycopg
import pytest
from mutations import chosen, mutated, mutations
from run import PARTS, PROJECT, Sandbox, candidates, harmless, reaching, report, usable
from text_mutations import text_mutations

from flowstream.logs.postgres._schema import schema_sql
from flowstream.logs.valkey._valkey_scripts import PARTS as VALKEY_SCRIPTS

PACKAGE = b'''
"""Not changed: 1 < 2."""

from typing import cast

MOST = 2
__slots__ = (1,)


def clamp(value: int, spare: int = 0) -> int:
    """Return it: 1 < 2."""
    assert value != 7, "not changed"
    if value > MOST:
        value = MOST
    return cast("int", value) + spare


class Box:
    def __init__(self) -> None:
        self.items = []

    def __repr__(self) -> str:
        return str(len(self.items) + 1)

    def put(self, item):
        if item is None:
            raise ValueError(f"{1 + 1}")
        self.items.append(item)
        self.last = item
        while item and not self.items:
            break


def unreached():
    return [1]
'''

TESTS = b"""
import pytest
from flowstream.box import Box, clamp


def test_clamp():
    assert clamp(1) == 1
    assert clamp(5) == 2


def test_put():
    box = Box()
    box.put("a")
    assert box.items == ["a"]
    with pytest.raises(ValueError):
        box.put(None)


def test_that_fails_without_a_mistake():
    assert clamp(1) == 7
"""


@pytest.fixture
def project(tmp_path):
    """A package of one module, with its tests."""
    for name, text in {
        "flowstream/__init__.py": b"",
        "flowstream/box.py": PACKAGE,
        "tests/test_box.py": TESTS,
    }.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return tmp_path / "project"


def test_each_rule_finds_its_mistakes_and_what_people_read_stays():
    """Conditions, constants and statements are changed; texts, types and assertions are not."""
    names = [one.name.removeprefix("box.py ") for one in mutations("box.py", PACKAGE)]
    assert sorted(names) == [
        "Box.put: break => pass",
        "Box.put: if item is None: => if (item is not None):",
        'Box.put: raise ValueError(f"{1 + 1}") => pass',
        "Box.put: self.items.append(item) => pass",
        "Box.put: self.last = item => pass",
        "Box.put: while item and not self.items: => while (item or not self.items):",
        "Box.put: while item and not self.items: => while (not item) and not self.items:",
        "Box.put: while item and not self.items: => while item and (self.items):",
        "clamp: def clamp(value: int, spare: int = 0) -> int: "
        "=> def clamp(value: int, spare: int = 1) -> int:",
        "clamp: if value > MOST: => if (value <= MOST):",
        "clamp: if value > MOST: => if (value >= MOST):",
        "clamp: return cast(\"int\", value) + spare => return (cast('int', value) - spare)",
        'clamp: return cast("int", value) + spare => return None',
        "module: MOST = 2 => MOST = 1",
        "module: MOST = 2 => MOST = 3",
        "unreached: return [1] => return None",
        "unreached: return [1] => return [0]",
        "unreached: return [1] => return [2]",
    ]


def test_a_seed_always_chooses_the_same_and_an_edit_elsewhere_changes_nothing():
    """What is chosen depends on the seed and on the mistakes' names, not on where they stand."""
    every = mutations("box.py", PACKAGE)
    first = [one.name for one in chosen(every, 1, 6)]
    assert first == [one.name for one in chosen(reversed(every), 1, 6)]
    assert first != [one.name for one in chosen(every, 2, 6)]
    longer = mutations("box.py", b"import math\n" + PACKAGE)
    assert first == [one.name for one in chosen(longer, 1, 6)]


LUA = b"""
-- Not changed: 1 < 2.
local most = 2  -- not changed: 1
local function clamp(topic, value)
  if value > most and not topic.free then
    call('HSET', topic.key, 'value', most)
    value = most
  end
  return value
end
return clamp(ARGV[1],
  -1)
"""

SQL = b"""
create table if not exists t(a int not null default 1);
create or replace function flowstream.clamp(p_value int default 0) returns int
language plpgsql as $$
declare v_most int := 2;
begin
  if p_value > v_most or p_value is not null and p_value = 7 then
    perform flowstream.note(p_value);
    update t set a = p_value where a between 1 and 3;
  end if;
  return v_most - extract(epoch from now() - now());
exception when others or no_data then
  raise exception 'not changed: 1' using errcode = 'x';
end $$;
"""


def test_lua_and_sql_are_changed_by_rules_about_text():
    """Conditions, numbers and statements; texts, comments, tables and times are left alone."""
    names = [one.name.removeprefix("x.lua ") for one in text_mutations("x.lua", LUA)]
    assert sorted(names) == [
        "clamp: call('HSET', topic.key, 'value', most) => do end",
        "clamp: if value > most and not topic.free then "
        "=> if value <= most and not topic.free then",
        "clamp: if value > most and not topic.free then => if value > most and topic.free then",
        "clamp: if value > most and not topic.free then => if value > most or not topic.free then",
        "clamp: if value > most and not topic.free then "
        "=> if value >= most and not topic.free then",
        "clamp: value = most => do end",
        "module: -1) => -0)",
        "module: -1) => -2)",
        "module: local most = 2 => local most = 1",
        "module: local most = 2 => local most = 3",
        "module: return clamp(ARGV[1], => return clamp(ARGV[0],",
        "module: return clamp(ARGV[1], => return clamp(ARGV[2],",
    ]
    names = [one.name.removeprefix("x.sql clamp: ") for one in text_mutations("x.sql", SQL)]
    condition = "if p_value > v_most or p_value is not null and p_value = 7 then"
    assert sorted(names) == [
        "declare v_most int := 2; => declare v_most int := 1;",
        "declare v_most int := 2; => declare v_most int := 3;",
        *sorted(
            f"{condition} => {condition.replace(before, after, 1)}"
            for before, after in [
                (">", "<="),
                (">", ">="),
                (" or ", " and "),
                ("not ", ""),
                (" and ", " or "),
                ("= 7", "<> 7"),
                ("7", "6"),
                ("7", "8"),
            ]
        ),
        "perform flowstream.note(p_value); => null;",
        "update t set a = p_value where a between 1 and 3; => null;",
        "update t set a = p_value where a between 1 and 3; "
        "=> update t set a = p_value where a between 0 and 3;",
        "update t set a = p_value where a between 1 and 3; "
        "=> update t set a = p_value where a between 1 and 2;",
        "update t set a = p_value where a between 1 and 3; "
        "=> update t set a = p_value where a between 1 and 4;",
        "update t set a = p_value where a between 1 and 3; "
        "=> update t set a = p_value where a between 2 and 3;",
    ]


def test_changed_lua_is_still_lua(own_server):
    """A script with a mistake is one that the server takes."""
    folder = PROJECT / "flowstream/logs/valkey/lua"
    texts = {path.stem: path.read_bytes() for path in folder.glob("*.lua")}
    users = {part: name for name, parts in VALKEY_SCRIPTS.items() for part in (*parts, name)}
    server = own_server("redis", appendonly="no")
    for one in chosen(candidates(["logs/valkey/lua/*.lua"]), 7, 40):
        part = Path(one.file).stem
        changed = {**texts, part: mutated(texts[part], one)}
        name = users[part]
        whole = b"\n".join(changed[piece] for piece in (*VALKEY_SCRIPTS[name], name))
        assert server.call("SCRIPT", "LOAD", re.sub(rb"@[A-Z_]+@", b"1", whole)), one.name


def test_changed_sql_is_still_sql(postgres_database):
    """A schema with a mistake is one that can be made."""
    folder = PROJECT / "flowstream/logs/postgres/sql"
    with psycopg.connect(postgres_database) as connection:
        connection.execute(schema_sql())
        connection.commit()
        for one in chosen(candidates(["logs/postgres/sql/[!o]*.sql"]), 7, 40):
            text = mutated((folder / Path(one.file).name).read_bytes(), one)
            connection.execute(b"set local search_path = pg_catalog, flowstream, pg_temp;" + text)
            connection.rollback()


@pytest.mark.parametrize("part", PARTS)
def test_every_mistake_that_can_be_made_in_the_targets_changes_the_code(part):
    """Each has a name of its own; those of a seed are still Python, and not what they were."""
    every = candidates(PARTS[part].targets)
    assert len({one.name for one in every}) == len(every) > 1000
    for one in chosen(every, 7, 50):
        source = (PROJECT / "flowstream" / one.file).read_bytes()
        assert mutated(source, one) != source
        if not one.file.endswith(".py"):
            continue
        was, is_now = ast.parse(source), ast.parse(mutated(source, one))
        assert ast.dump(is_now) != ast.dump(was), one.name


@pytest.fixture
def sandbox(project, tmp_path):
    """A copy of it."""
    (tmp_path / "copy").mkdir()
    with Sandbox(tmp_path / "copy", project) as sandbox:
        yield sandbox


def test_a_planted_mistake_is_seen_and_one_that_no_test_looks_at_is_not(project, sandbox, capsys):
    """The whole way: learn what tests reach, make the mistake, tell; and 1 for a survivor."""
    reach = usable(sandbox.learn(["tests/test_box.py"]))
    assert reach.keys() == {"", "tests/test_box.py::test_clamp", "tests/test_box.py::test_put"}
    named = {one.name.split("py ")[1]: one for one in candidates(["box.py"], project)}

    def attempt(name):
        one = named[name]
        return one, sandbox.attempt(one, reaching(one, reach), reach)

    seen = attempt("Box.put: self.items.append(item) => pass")
    assert seen[1].seen
    assert seen[1].by == "tests/test_box.py::test_put"
    equal = attempt("clamp: if value > MOST: => if (value >= MOST):")
    assert (equal[1].seen, equal[1].by) == (False, "1 tests")
    lonely = attempt("unreached: return [1] => return None")
    assert (lonely[1].seen, lonely[1].by) == (False, "no test reaches it")
    assert (sandbox.folder / "flowstream" / "box.py").read_bytes() == PACKAGE
    sandbox.check([name for name in reach if name])

    assert report([seen, equal], {equal[0].name: "the same value"}, project) == 0
    assert report([seen, equal], {}, project) == 1
    assert "-    if value > MOST:\n+    if (value >= MOST):" in capsys.readouterr().out


def test_a_test_that_fails_by_chance_sees_nothing(project, sandbox):
    """It must fail again when it runs alone; and a mistake may be seen by the next test."""
    (sandbox.folder / "tests" / "test_box.py").write_text(
        """
import pathlib
from flowstream.box import clamp

def test_chance():  # fails at the second of its runs
    runs = pathlib.Path("runs.txt")
    runs.write_text((runs.read_text() if runs.exists() else "") + "x")
    assert clamp(5)
    assert len(runs.read_text()) != 2

def test_clamp():
    assert clamp(5) == 2
"""
    )
    reach = usable(sandbox.learn(["tests/test_box.py"]))
    named = {one.name.split("py ")[1]: one for one in candidates(["box.py"], project)}
    equal = named["clamp: if value > MOST: => if (value >= MOST):"]
    tests = ["tests/test_box.py::test_chance", "tests/test_box.py::test_clamp"]
    outcome = sandbox.attempt(equal, tests, reach)
    assert (outcome.seen, outcome.by) == (False, "1 tests")
    assert (sandbox.folder / "runs.txt").read_text() == "xxx"
    (sandbox.folder / "runs.txt").write_text("x")
    wrong = sandbox.attempt(named["clamp: if value > MOST: => if (value <= MOST):"], tests, reach)
    assert (wrong.seen, wrong.by) == (True, "tests/test_box.py::test_clamp")


def test_each_reason_is_a_sentence():
    """What is listed as harmless says why."""
    for name, reason in harmless().items():
        assert reason.endswith("."), name
        assert len(reason.split()) > 3, name
