"""The table of threats is complete in each row, and each row is shown by a test that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "explanation" / "threats.md").read_text()
COLUMNS = ["attack or fault", "what is done", "default", "why", "shown by"]


def table():
    """Return the cells of each row."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert rows.pop(0) == COLUMNS
    assert set(rows.pop(0)) == {"---"}
    return rows


@pytest.mark.parametrize("number", range(len(table())))
def test_a_row(number):
    """It says what is done, by default, why, and which test functions show it; these exist."""
    row = table()[number]
    assert len(row) == len(COLUMNS), row[0]
    assert all(row), f"a cell is empty: {row[0]}"
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1])
    assert named, f"no test shows it: {row[0]}"
    for path, function in named:
        text = (ROOT / path).read_text()
        assert re.search(rf"^ *(?:async )?def {function}\(", text, re.MULTILINE), row[-1]


def test_no_attack_has_two_rows():
    """Each is told once."""
    attacks = [row[0] for row in table()]
    assert len(attacks) == len(set(attacks))
    assert len(attacks) > 40
