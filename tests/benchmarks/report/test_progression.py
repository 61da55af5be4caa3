"""What a terminal shows while a run is under way."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.report.made_up import results
from twophase.benchmarks.report.paper.progression import Progression
from twophase.benchmarks.report.values import Results, Section

EXPECTED = {Section.CAPACITY: 30.0, Section.LATENCY: 90.0}


def shown(*, terminal: bool = False) -> tuple[Progression, io.StringIO, list[Results]]:
    written, kept = io.StringIO(), list[Results]()
    console = Console(file=written, width=120 if terminal else 40, force_terminal=terminal)
    return Progression(console, EXPECTED, kept.append), written, kept


def test_it_is_a_line_for_each_section_where_there_is_no_terminal() -> None:
    progress, written, _ = shown()
    with progress.shown():
        for done in range(3):
            progress(Section.CAPACITY, done, 3, "saga, 16 clients")
        progress(Section.LATENCY, 0, 2, "loop, 50 a second")
    assert written.getvalue().splitlines() == [
        "2 sections, about 2 minutes in all",
        "Capacity (1 of 2): 3 measurements, about 30 s; 0 % of the run is done",
        "Latency at an offered rate (2 of 2): 2 measurements, about 2 minutes; 25 % of the run is done",
    ]


def test_a_terminal_has_a_bar_with_what_is_measured_and_how_long_it_will_take() -> None:
    progress, written, _ = shown(terminal=True)
    with progress.shown():
        progress(Section.CAPACITY, 1, 3, "saga, 16 clients")
    assert "Capacity (1 of 2): saga, 16 clients" in written.getvalue()
    assert "of about 2 minutes" in written.getvalue()


def test_a_section_that_fails_is_told_with_where_it_did() -> None:
    progress, written, _ = shown()
    with pytest.raises(ZeroDivisionError) as raised:
        1 / 0  # noqa: B018 - any error, with a trace
    progress.failed(Section.CRASH, raised.value)
    told = written.getvalue()
    assert "ZeroDivisionError: division by zero" in told
    assert "test_progression.py" in told
    assert "A dead coordinator failed and will be missing" in told


def test_results_so_far_are_kept() -> None:
    progress, _, kept = shown()
    progress.so_far(results())
    assert kept == [results()]
