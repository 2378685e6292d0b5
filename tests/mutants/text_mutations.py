"""Small mistakes in Lua and SQL, made by rules about text: there is no parser for them here.

A comparison is moved or flipped, ``and`` becomes ``or``, ``+`` becomes ``-``, a number moves by
one, a ``not`` goes, a statement that has a line of its own is left out. In SQL only the bodies of
functions are changed, and ``=`` only where a condition stands.

What these rules can't do: negate a condition as a whole, leave out a statement of several lines,
change a text, a table, an index or a right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mutations import Mutation

_TOKEN = re.compile(
    r"""(?P<skip>--[^\n]*|\s+)
    |(?P<text>'(?:[^'\n]|'')*')
    |(?P<number>\d+(?![\w.]))
    |(?P<word>[$@]?[A-Za-z_0-9]\w*@?(?:\.\w+)*)
    |(?P<operator><=|>=|<>|==|~=|:=|::|\.\.|\|\||<<|>>|->>?|\$\$|.)""",
    re.VERBOSE,
)
_FLIPPED = {
    "<": ["<=", ">="],
    "<=": ["<", ">"],
    ">": [">=", "<="],
    ">=": [">", "<"],
    "==": ["~="],
    "~=": ["=="],
    "<>": ["="],
    "+": ["-"],
    "-": ["+"],
    "and": ["or"],
    "or": ["and"],
    "true": ["false"],
    "false": ["true"],
}
# What stands in front of an `=` of SQL that compares, and of one that sets.
_ASKS = {"where", "and", "or", "if", "elsif", "when", "on", "while", "not", "having"}
_SETS = {"set", ";", "declare", "default", "using"}
_KEYWORDS = {"and", "or", "not", "return", "then", "select", "case", "when", "else"}

_LUA_FUNCTION = re.compile(r"^local function (\w+)")
_SQL_FUNCTION = re.compile(r"^create or replace function (?:flowstream\.)?(\w+)")
_LUA_STATEMENT = re.compile(
    r"^\s++(?!local |return |for |if |else|while )(?:\w+\(.*\)|[\w.\[\]# +]+ = .*[^,({])$"
)
_SQL_STATEMENT = re.compile(
    r"^\s+(?:perform .*|[\w.]+ := .*|return|return next|exit|delete from .*|update .*|insert .*);$"
)
_LUA_GOES_ON = re.compile(r"^\s*(?:and|or|\.\.|[-+*/,)}])")
_LUA_OPEN = re.compile(r"(?:[,({=+]|\.\.|\band|\bor)$")
_SQL_BEGINS_BEHIND = re.compile(r"(?:;|\bthen|\bloop|\bbegin|\belse)$")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int  # in characters


def text_mutations(file: str, source: bytes) -> list[Mutation]:
    """Return all changes that can be made to a file of Lua or SQL, in the order of its text."""
    text = source.decode()
    is_sql = file.endswith(".sql")
    found = [*_token_changes(text, is_sql), *_statement_changes(text, is_sql)]
    lines = _Lines(text, _SQL_FUNCTION if is_sql else _LUA_FUNCTION, is_sql)
    seen: Counter[str] = Counter()
    mutations = []
    for start, end, instead in sorted(found):
        one = lines.mutation(file, start, end, instead)
        if is_sql and not one.function:
            continue
        seen[one.name] += 1
        mutations.append(replace(one, nth=seen[one.name]))
    return mutations


def _tokens(text: str) -> list[_Token]:
    return [
        _Token(str(one.lastgroup), one[0], one.start())
        for one in _TOKEN.finditer(text)
        if one.lastgroup != "skip"
    ]


def _token_changes(text: str, is_sql: bool) -> Iterator[tuple[int, int, str]]:
    tokens = _tokens(text)
    nothing = _Token("", "", 0)
    asks = between = catches = False
    for place, token in enumerate(tokens):
        before = tokens[place - 1] if place else nothing
        after = tokens[place + 1] if place + 1 < len(tokens) else nothing
        end = token.start + len(token.text)
        if token.text in _ASKS:
            asks = True
        elif token.text in _SETS:
            asks = False
        between = between or token.text == "between"
        catches = (catches or token.text == "exception") and token.text not in ("then", ";")
        changes: list[str] = []
        if token.kind == "number":
            value = int(token.text)
            changes = [str(value + 1)] + ([str(value - 1)] if value else [])
        elif token.text == "not":
            if after.text not in ("null", "exists") or before.text == "is":
                yield token.start, after.start, ""
        elif token.text == "=" and is_sql:
            changes = ["<>"] if asks else []
        elif token.text in "+-" and not (_is_operand(before) and _is_number(after)):
            pass
        elif token.text == "-" and is_sql and "extract(" in _line_of(text, token.start):
            pass  # times can't be added
        elif token.text in ("and", "or") and catches:
            pass
        elif token.text == "and" and between:
            between = False
        elif (before.text, token.text) != ("create", "or"):
            changes = _FLIPPED.get(token.text, [])
        for instead in changes:
            yield token.start, end, instead


def _is_operand(token: _Token) -> bool:
    """Whether a plus behind it adds."""
    kind = "keyword" if token.text in _KEYWORDS else token.kind
    return kind in ("number", "word", "text") or token.text in (")", "]")


def _is_number(token: _Token) -> bool:
    """Whether what begins with it may be added."""
    return token.kind != "text"


def _line_of(text: str, place: int) -> str:
    return text[text.rfind("\n", 0, place) + 1 : text.find("\n", place)]


def _statement_changes(text: str, is_sql: bool) -> Iterator[tuple[int, int, str]]:
    """Leave out each statement that has a line of its own."""
    at = 0
    lines = text.splitlines(keepends=True)
    plain = [re.sub(r"\s*--.*", "", line).rstrip() for line in lines]
    for number, line in enumerate(lines):
        code = plain[number]
        previous = next((one for one in reversed(plain[:number]) if one), "")
        following = next((one for one in plain[number + 1 :] if one), "")
        if is_sql:
            alone = _SQL_STATEMENT.match(code) and _SQL_BEGINS_BEHIND.search(previous)
        else:
            alone = (
                _LUA_STATEMENT.match(code)
                and code.count("(") == code.count(")")
                and not _LUA_OPEN.search(previous)
                and not _LUA_GOES_ON.match(following)
            )
        if alone:
            begin = len(code) - len(code.lstrip())
            yield at + begin, at + len(code), "null;" if is_sql else "do end"
        at += len(line)


class _Lines:
    """The lines of a file, and in which function each is."""

    def __init__(self, text: str, begins: re.Pattern[str], is_sql: bool) -> None:
        self._text = text
        self._lines = text.splitlines(keepends=True)
        self._functions: list[str] = []
        function, inside = "", not is_sql
        for line in self._lines:
            if found := begins.match(line):
                function, inside = found[1], not is_sql
            marks = line.count("$$")
            # The signature of an SQL function is not in it.
            self._functions.append(function if inside and marks != 1 else "")
            if is_sql and marks == 2:
                self._functions[-1] = function
            elif is_sql and marks == 1:
                inside = not inside
            elif not is_sql and line.startswith("end"):
                function = ""

    def mutation(self, file: str, start: int, end: int, instead: str) -> Mutation:
        """Return a change of what is between two places."""
        first = self._text.count("\n", 0, start)
        begin = len("".join(self._lines[:first]))
        last = self._text.count("\n", 0, max(start, end - 1))
        whole = "".join(self._lines[first : last + 1])
        changed = whole[: start - begin] + instead + whole[end - begin :]
        return Mutation(
            file,
            self._functions[first],
            _one_line(whole),
            _one_line(changed),
            1,
            tuple(range(first + 1, last + 2)),
            len(self._text[:start].encode()),
            len(self._text[:end].encode()),
            instead,
        )


def _one_line(text: str) -> str:
    """Return a piece of text as one line, without the comment at its end."""
    return " ".join(re.sub(r"\s*--.*", "", line).strip() for line in text.splitlines())
