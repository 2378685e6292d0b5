"""Draw how a stream ends, from the tables of its ending: ``python tests/draw_ending.py``.

Writes the section "The states" of docs/explanation/pipeline.md: a drawing (Mermaid, which GitHub
shows) and the same as a table, with what is done on the way. The words are the values of the enums,
so the page says what the code says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flowstream.asgi._ending import REPORT, WRITER, Action, ReportState, Trigger, WriterState

PAGE = Path(__file__).parent.parent / "docs" / "explanation" / "pipeline.md"
BEGIN = "### The states\n\n"
END = "\n## "

Arrow = tuple[str, str, str]  # from, to, what leads there


def arrows() -> Iterator[Arrow]:
    """Yield the arrows between the states of the writer; what leads the same way is one."""
    for state, row in WRITER.items():
        after = dict.fromkeys(new for new, _ in row.values() if new is not state)
        for new in after:
            why = [words(trigger) for trigger, (to, _) in row.items() if to is new]
            yield state.name, new.name, ", ".join(why)


def report_arrows() -> Iterator[Arrow]:
    """Yield the arrows between the states of the report."""
    for state, row in REPORT.items():
        after = dict.fromkeys(row.values())
        for new in after:
            why = [words(trigger) for trigger, to in row.items() if to is new]
            yield state.name, new.name, ", ".join(why)


def words(trigger: Trigger) -> str:
    return trigger.name.lower().replace("_", " ")


def diagram(first: WriterState | ReportState, found: Iterator[Arrow]) -> list[str]:
    return [
        "```mermaid",
        "stateDiagram-v2",
        f"    [*] --> {first.name}",
        *(f"    {before} --> {after}: {why}" for before, after, why in found),
        "```",
    ]


def rows() -> Iterator[str]:
    """Yield the rows of the table: each state with what changes it or has something done."""
    for state, row in WRITER.items():
        for new, actions in dict.fromkeys(row.values()):
            why = ", ".join(words(trigger) for trigger in row if row[trigger] == (new, actions))
            to = "" if new is state else f"`{new.name}`"
            done = "; ".join(action.value for action in actions)
            yield f"| `{state.name}` | {why} | {to} | {done} |"


def draw() -> str:
    """Return what the page is to have in its section."""
    lines = [
        *diagram(WriterState.HEAD, arrows()),
        "",
        "| the writer | means |",
        "| --- | --- |",
        *(f"| `{state.name}` | {state.value} |" for state in WriterState),
        "",
        "| what happens | means |",
        "| --- | --- |",
        *(f"| {words(trigger)} | {trigger.value} |" for trigger in Trigger),
        "",
        "| the writer | what happens | goes to | and this is done, in this order |",
        "| --- | --- | --- | --- |",
        *rows(),
        "",
        "The report waits for both of them, the producer and the writer:",
        "",
        *diagram(ReportState.AWAITS_PRODUCER, report_arrows()),
        "",
        "| the report | means |",
        "| --- | --- |",
        *(f"| `{state.name}` | {state.value} |" for state in ReportState),
        "",
        f"On the way to `{ReportState.MADE.name}`: {Action.REPORT.value}.",
    ]
    return "\n".join([*lines, ""])


def parts() -> tuple[str, str, str]:
    """Return the page: what is before, what is made, what is behind."""
    before, begin, rest = PAGE.read_text("utf-8").partition(BEGIN)
    made, end, behind = rest.partition(END)
    assert begin, f"{PAGE.name} has no section {BEGIN}"
    assert end, f"{PAGE.name} has no section behind that one"
    return before + begin, made, end + behind


if __name__ == "__main__":
    before, _, behind = parts()
    PAGE.write_text(before + draw() + behind, "utf-8")
