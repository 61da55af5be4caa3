"""Every drill is spoken of, once, and the document says what the table and a run say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from twophase.sandbox.drill.catalogue import catalogue
from twophase.sandbox.drill.failure import Failure, Group
from twophase.sandbox.drill.failures import FAILURES
from twophase.sandbox.drill.matrix import Measured, measured_by, measured_in, render

DOCUMENT = Path(__file__).parents[2] / "docs" / "failure-matrix.md"
FAILURE = Failure(Group.DISK, "It is full", "Nothing.", "nobody", "1 s", ("one", "two"))


def report(*drills: dict[str, object]) -> dict[str, object]:
    return {
        "started": "2026-01-02T03:04:05+00:00",
        "machine": "Linux",
        "versions": {"Python": "3.11"},
        "drills_passed": 1,
        "drills_failed": 0,
        "drills_skipped": 1,
        "points_hit": 1,
        "points_registered": 2,
        "violations": 0,
        "outside_violations": 0,
        "in_doubt_left": 0,
        "recovery_ms_median": 200.4,
        "recovery_ms_max": 300.0,
        "drills": drills,
    }


def test_every_drill_belongs_to_exactly_one_failure_and_every_failure_to_drills() -> None:
    named = Counter(name for failure in FAILURES for name in failure.drills)
    drills = {drill.name for drill in catalogue()}
    assert drills - named.keys() == set(), "name them in a row of drill/failures_inside.py or drill/failures_outside.py"
    assert named.keys() - drills == set(), "these drills are gone; take them out of there"
    assert [name for name, times in named.items() if times > 1] == []
    assert all(failure.drills for failure in FAILURES)


def test_rows_of_a_group_stand_together() -> None:
    groups = [failure.group for failure in FAILURES]
    assert groups == sorted(groups, key=list(Group).index)


def test_the_document_says_what_the_table_says() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == render(FAILURES, measured_in(text)), "run tests/tools/write_failure_matrix.py"


def test_a_row_has_the_median_and_the_longest_of_its_drills() -> None:
    one = {"name": "one", "outcome": "passed", "recovery_ms": 100.4}
    two = {"name": "two", "outcome": "passed", "recovery_ms": 300.0}
    text = render([FAILURE], measured_by([FAILURE], report(one, two)))
    assert "| It is full | Nothing. | nobody | 1 s | 200 ms, 300 ms | `one`, `two` |" in text
    assert "median 200 ms, longest 300 ms" in text
    assert render([FAILURE], measured_in(text)) == text


def test_what_was_skipped_or_failed_or_not_run_is_told() -> None:
    one: dict[str, object] = {"name": "one", "outcome": "skipped", "recovery_ms": None}
    two: dict[str, object] = {"name": "two", "outcome": "failed", "recovery_ms": 3.0}
    found = measured_by([FAILURE], report(one, two)).cells[FAILURE.what]
    assert found == "3 ms, 3 ms; 1 skipped on this machine; **1 failed**"
    assert measured_by([FAILURE], report(two)).cells[FAILURE.what] == "3 ms, 3 ms; **1 failed**; 1 not measured yet"
    assert "| 1 s | not measured yet | `one`, `two` |" in render([FAILURE], Measured("", {}))
