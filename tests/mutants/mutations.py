"""Small mistakes in a module, made by rule: what can be changed, and which changes are chosen.

Text in, text out. A mutation changes one condition, one constant or one statement. What only people
read, or only a type checker, is left alone: docstrings, annotations, the text of errors and log
lines, assertions, ``__repr__``.

A mutation is named by its file, its function and the line before and after. Which ones are chosen
depends on the seed and on these names alone: an edit of one function leaves the choice among all
others as it is.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

_FLIPPED: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
_SWAPPED: dict[type[ast.operator], type[ast.operator]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}
_FOR_PEOPLE = ("__repr__", "__str__")
_FOR_PYTHON = ("__slots__", "__all__", "__match_args__")
_TELLS = ("log", "logger", "warnings", "cast", "TypeVar")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of one file."""

    file: str
    """From the package's folder."""
    function: str
    """With its class; "" for the module itself."""
    before: str
    """The line, or the lines joined."""
    after: str
    nth: int
    """1, or more if the function has the same line several times."""
    lines: tuple[int, ...]
    """Numbers of the lines it is in: of a statement, all of them."""
    start: int
    """Where what is replaced begins, in bytes."""
    end: int
    text: str
    """What comes in its place."""

    @property
    def name(self) -> str:
        """What a list of mutations calls it."""
        again = f" ({self.nth})" if self.nth > 1 else ""
        return f"{self.file} {self.function or 'module'}: {self.before} => {self.after}{again}"


def mutated(source: bytes, mutation: Mutation) -> bytes:
    """Return the text of a file with the change made."""
    return source[: mutation.start] + mutation.text.encode() + source[mutation.end :]


def mutations(file: str, source: bytes) -> list[Mutation]:
    """Return all changes that can be made to a file, in the order of its text."""
    finder = _Finder(source)
    finder.body(ast.parse(source).body, "")
    seen: Counter[str] = Counter()
    found = []
    for one in sorted(finder.found, key=lambda one: (one.start, one.end, one.text)):
        named = replace(one, file=file)
        seen[named.name] += 1
        found.append(replace(named, nth=seen[named.name]))
    return found


def chosen(candidates: Iterable[Mutation], seed: int, count: int) -> list[Mutation]:
    """Return `count` of the candidates, as `seed` has it, in the order of files and lines."""

    def lot(one: Mutation) -> bytes:
        return hashlib.sha256(f"{seed} {one.name}".encode()).digest()

    return sorted(sorted(candidates, key=lot)[:count], key=lambda one: (one.file, one.start))


class _Finder:
    """Walks the tree of one module."""

    def __init__(self, source: bytes) -> None:
        self.found: list[Mutation] = []
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    # -- statements ------------------------------------------------------------------------

    def body(self, statements: list[ast.stmt], function: str) -> None:
        for statement in statements:
            self._statement(statement, function)

    def _statement(self, node: ast.stmt, function: str) -> None:
        match node:
            case ast.ClassDef():
                self.body(node.body, f"{function}.{node.name}".strip("."))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if node.name not in _FOR_PEOPLE and not _has_no_body(node):
                    name = f"{function}.{node.name}".strip(".")
                    for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
                        self._expression(default, name)
                    self.body(node.body, name)
            case ast.Assert() | ast.Import() | ast.ImportFrom() | ast.Pass():
                pass
            case ast.Raise() | ast.Break() | ast.Continue() | ast.Delete():
                self._replace(node, "pass", function)
            case ast.Return(value=None):
                self._replace(node, "pass", function)
            case ast.Return(value=ast.expr() as value):
                if not isinstance(value, ast.Constant):
                    self._replace(node, "return None", function)
                self._expression(value, function)
            case ast.Expr(value=value):
                if not isinstance(value, ast.Constant) and not _tells(value):
                    if isinstance(value, ast.Call | ast.Await):
                        self._replace(node, "pass", function)
                    self._expression(value, function)
            case ast.AugAssign():
                self._replace(node, "pass", function)
                if (swapped := _SWAPPED.get(type(node.op))) is not None:
                    other = ast.AugAssign(node.target, swapped(), node.value)
                    self._replace(node, ast.unparse(other), function)
                self._expression(node.value, function)
            case ast.Assign() | ast.AnnAssign():
                self._assignment(node, function)
            case ast.If() if ast.unparse(node.test) == "TYPE_CHECKING":
                pass
            case _:
                self._compound(node, function)

    def _assignment(self, node: ast.Assign | ast.AnnAssign, function: str) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is None or any(ast.unparse(one) in _FOR_PYTHON for one in targets):
            return
        # Where an attribute or a name is made first, any test would miss it.
        if not function.endswith("__init__") and any(
            isinstance(one, ast.Attribute | ast.Subscript) for one in targets
        ):
            self._replace(node, "pass", function)
        self._expression(node.value, function)

    def _compound(self, node: ast.stmt, function: str) -> None:
        """Look into a statement that has others in it."""
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.expr) and name != "target":
                if name == "test":
                    self._condition(value, function)
                self._expression(value, function)
            elif isinstance(value, list):
                for one in value:
                    if isinstance(one, ast.stmt):
                        self._statement(one, function)
                    elif isinstance(one, ast.ExceptHandler):
                        self.body(one.body, function)
                    elif isinstance(one, ast.withitem):
                        self._expression(one.context_expr, function)
                    elif isinstance(one, ast.match_case):
                        self.body(one.body, function)

    # -- expressions -----------------------------------------------------------------------

    def _condition(self, node: ast.expr, function: str) -> None:
        """Negate a condition that is a name or a call: others have changes of their own."""
        if not isinstance(node, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            self._replace(node, f"(not {ast.unparse(node)})", function)

    def _expression(self, node: ast.expr, function: str) -> None:
        match node:
            case ast.JoinedStr():
                return
            case ast.Call() if _tells(node):
                return
            case ast.Compare():
                for index, operator in enumerate(node.ops):
                    for other in _FLIPPED[type(operator)]:
                        ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
                        text = ast.unparse(ast.Compare(node.left, ops, node.comparators))
                        self._replace(node, f"({text})", function)
            case ast.BoolOp():
                other_op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
                text = ast.unparse(ast.BoolOp(other_op, node.values))
                self._replace(node, f"({text})", function)
                for value in node.values:
                    self._condition(value, function)
            case ast.UnaryOp(op=ast.Not()):
                self._replace(node, f"({ast.unparse(node.operand)})", function)
            case ast.IfExp():
                self._condition(node.test, function)
            case ast.BinOp() if (swapped := _SWAPPED.get(type(node.op))) is not None:
                text = ast.unparse(ast.BinOp(node.left, swapped(), node.right))
                self._replace(node, f"({text})", function)
            case ast.Constant():
                self._constant(node, function)
        for child in _parts(node):
            self._expression(child, function)

    def _constant(self, node: ast.Constant, function: str) -> None:
        match node.value:
            case bool(value):
                self._replace(node, str(not value), function)
            case int(value):
                self._replace(node, str(value + 1), function)
                if value > 0:
                    self._replace(node, str(value - 1), function)
            case float(value):
                self._replace(node, str(value * 2 if value else 1.0), function)

    def _replace(self, node: ast.expr | ast.stmt, text: str, function: str) -> None:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        first, last = node.lineno, node.end_lineno
        start = self._starts[first - 1] + node.col_offset
        end = self._starts[last - 1] + node.end_col_offset
        line = self._source[self._starts[first - 1] : self._starts[last]]
        changed = self._source[self._starts[first - 1] : start] + text.encode()
        changed += self._source[end : self._starts[last]]
        before, after = _one_line(line), _one_line(changed)
        lines = tuple(range(first, last + 1))
        self.found.append(Mutation("", function, before, after, 1, lines, start, end, text))


def _one_line(text: bytes) -> str:
    """Return a piece of text as one line, without the comment at its end."""
    return " ".join(line.split("  #")[0].strip() for line in text.decode().splitlines())


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the expressions that an expression is made of."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.keyword):
            yield child.value
        elif isinstance(child, ast.comprehension):
            yield child.iter
            yield from child.ifs
        elif isinstance(child, ast.expr):
            yield child


def _tells(node: ast.expr) -> bool:
    """Whether it is a call that tells people, or a type checker, something."""
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    return name.split(".")[0].lstrip("_") in _TELLS or name.lstrip("_").startswith(("log_", "warn"))


def _has_no_body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function is a docstring or an ellipsis: an abstract one, or an overload."""
    return all(
        isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) for one in node.body
    )
