import io

import pytest
from rich.console import Console

from noisy_student.core import progress
from noisy_student.core.progress import meter


def test_without_a_terminal_there_is_one_plain_line_at_the_end(capsys):
    with meter("iter1", 200) as shown:
        for _ in range(4):
            shown.advance(50)
        shown.show({"loss": 0.12345, "validation accuracy": 0.9})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("iter1: 100%  loss 0.123  validation accuracy 0.900  ")
    assert lines[0].endswith(" images/s")


def test_long_work_speaks_now_and_then(capsys, monkeypatch):
    now = iter(range(0, 1000, 4))  # the clock goes on by four seconds whenever it is looked at
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with meter("pool", 10) as shown:
        for _ in range(10):
            shown.advance(1)
    lines = capsys.readouterr().out.splitlines()
    assert 1 < len(lines) < 11
    assert all(line.startswith("pool: ") and "\r" not in line and "\x1b" not in line for line in lines)
    assert "s left" in lines[0]
    assert lines[-1].startswith("pool: 100%")


def test_work_that_fails_is_not_said_to_be_done(capsys):
    with pytest.raises(ZeroDivisionError), meter("pool", 10):
        raise ZeroDivisionError
    assert capsys.readouterr().out == ""


def test_nothing_to_do_is_done(capsys):
    with meter("iter0", 0) as shown:
        shown.show({"validation accuracy": 0.9})
    assert capsys.readouterr().out == "iter0: 100%  validation accuracy 0.900\n"


def test_a_terminal_shows_a_bar_with_the_figures(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "Console", lambda: Console(file=screen, force_terminal=True, width=100))
    with meter("iter1", 100) as shown:
        shown.advance(100)
        shown.show({"loss": 0.5})
    assert "iter1" in screen.getvalue()
    assert "100%" in screen.getvalue()
    assert "loss 0.500" in screen.getvalue()
