import builtins
import io

import pytest

from flowstream.demo._progress_bar import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Put a terminal in the place of standard error.

    Not a fixture: pytest sets its own standard error between setup and call.
    """
    fake = Terminal()
    monkeypatch.setattr("sys.stderr", fake)
    return fake


def test_a_log_file_gets_one_line(capsys):
    """Where nobody looks at a terminal there is one line and no bar."""
    with progress("Loading", 100) as report:
        report(50)
    assert capsys.readouterr().err == "Loading ...\n"


def test_rich_draws_the_bar_if_it_is_there(monkeypatch):
    """On a terminal the bar has the title and ends at 100 %."""
    pytest.importorskip("rich")
    screen = terminal(monkeypatch)
    with progress("Loading", 200) as report:
        report(200)
    assert "Loading" in screen.getvalue()
    assert "100%" in screen.getvalue()


def test_a_percentage_does_without_rich(monkeypatch):
    """Without the extra there is a percentage, written only when it changes."""
    screen = terminal(monkeypatch)
    real = builtins.__import__

    def without_rich(name, *args):
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    with progress("Loading", 1000) as report:
        for done in range(1001):
            report(done)
    lines = screen.getvalue().split("\r")
    assert lines[0] == ""
    assert lines[1] == "Loading   0 %"
    assert lines[-1] == "Loading 100 %\n"
    assert len(lines) == 102
