"""The page of a run: one file that needs nothing else, with everything that was wrong on it, escaped."""

from __future__ import annotations

import json
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import typer

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox import drill_cli
from twophase.sandbox.drill.business import Told
from twophase.sandbox.drill.page import html
from twophase.sandbox.drill.run import Outcome, Report
from twophase.sandbox.drill.screen import lines_of
from twophase.sandbox.drill.setting import Setting
from twophase.sandbox.drill.stage import Stage
from twophase.sandbox.drill.timeline import Mark, Sample, Timeline
from twophase.sandbox.drill.values import Drill
from twophase.sandbox.system import System

TIMELINE = Timeline(
    seconds=3.0,
    before={"coordinator": "up", "east": "up", "Postgres east": "up"},
    marks=(
        Mark(1.0, "coordinator", "down"),
        Mark(1.5, "coordinator", "starting"),
        Mark(2.0, "coordinator", "up"),
        Mark(1.0, "clients - coordinator", "cut"),
        Mark(2.0, "clients - coordinator", "whole"),
        Mark(0.5, "east", "frozen"),
        Mark(2.5, "coordinator - east", "whole"),
    ),
    samples=(Sample(0.1, 3, 0), Sample(1.0, 4, 2), Sample(1.2, 4, 4), Sample(2.0, 0, 0)),
    answers=({Told.OK: 3, Told.FAILED: 1}, {}, {Told.UNKNOWN: 2}),
)


async def _act(stage: Stage) -> None: ...


def outcome(name: str, *, wrong: tuple[str, ...] = (), skipped: str = "") -> Outcome:
    told = {"ok": 3, "failed": 1, "unknown": 2}
    return Outcome(Drill(name, "something dies", _act), wrong, told, 3.0, 250.0, skipped, {}, (), TIMELINE)


def report(*outcomes: Outcome) -> Report:
    setting = Setting("2026-01-02T03:04:05+00:00", "Linux, 2 processors", {"Python": "3.11"})
    return Report(outcomes, frozenset(), frozenset(), 0, 9.0, setting)


class _Seen(HTMLParser):
    """What a browser would make of it: every attribute, all text, and which elements are open at the end."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.classes: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.classes += [value for name, value in attrs if name == "class" and value]

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    seen = _Seen(html(report(outcome("one"))))
    assert not {"script", "link", "img", "iframe"} & set(seen.tags)
    outward = [(name, value) for name, value in seen.attributes if name in ("href", "src") and value]
    assert all(value.startswith("#") for _, value in outward if value)
    assert "http" not in "".join(value or "" for _, value in outward)


def test_what_is_wrong_is_on_the_page_and_cannot_become_markup() -> None:
    evil = "</li><script>alert('R1 & R6')</script>"
    page = html(report(outcome("<b>", wrong=(evil,)), outcome("two", skipped="no <strace> here")))
    assert "<script" not in page
    seen = _Seen(page)
    assert evil in seen.text
    assert "no <strace> here" in seen.text
    assert "Something was wrong." in seen.text
    assert "2: 0 passed, 1 failed, 1 skipped" in seen.text


def test_a_run_without_faults_says_so_with_its_setting() -> None:
    text = _Seen(html(report(outcome("one")))).text
    for said in ("Nothing was wrong.", "median 250 ms, longest 250 ms", "Linux, 2 processors", "Python 3.11"):
        assert said in text


def test_a_drill_stands_with_what_happens_then_and_who_finishes_it() -> None:
    text = _Seen(html(report(outcome("kill everything")))).text
    assert "Something dies. " in text
    assert "Prepared branches survive in their databases" in text
    assert "Finished by: the restarted coordinator, as the participants come back." in text


def test_every_process_has_a_lane_and_a_link_only_if_it_failed() -> None:
    text = _Seen(html(report(outcome("one")))).text
    for who in ("coordinator", "east", "Postgres east", "clients - coordinator", "answers per 100 ms", "seconds"):
        assert f"{who} " in text
    assert "coordinator - east" not in text


def test_every_state_is_drawn_in_its_own_filling() -> None:
    """Twice for the legend and the lane."""
    classes = _Seen(html(report(outcome("one")))).classes
    for fill in ("fill-up", "fill-down", "fill-frozen", "fill-between", "fill-link"):
        assert classes.count(fill) >= 2, fill


def test_a_timeline_in_json_has_milliseconds_and_when_branches_were_left_in_doubt() -> None:
    said = TIMELINE.to_json()
    assert said["timeline"][0] == {"at_ms": 1000.0, "who": "coordinator", "what": "down"}
    assert (said["in_doubt_first_ms"], said["in_doubt_last_ms"]) == (1000.0, 1200.0)
    assert said["answers_per_100_ms"] == {"ok": [3, 0, 0], "failed": [1, 0, 0], "unknown": [0, 0, 2]}
    assert Timeline().to_json()["in_doubt_first_ms"] is None


def test_the_screen_names_every_wrong_skipped_and_missed_thing() -> None:
    missed = Report(
        (outcome("one", wrong=("R9: left",)), outcome("two", skipped="no strace")),
        frozenset(),
        frozenset({CrashPoint.COORDINATOR_BEFORE_END}),
        1,
    )
    assert list(lines_of(missed)) == [
        "WRONG: one: R9: left",
        "skipped: two: no strace",
        "2 drills: 0 passed, 1 failed, 1 skipped; 1 violations, 0 by the outside checker; 1 in doubt",
        "0 of 1 crash points of these drills hit",
        "NOT HIT: coordinator.before-end",
        "from ready to nothing of before in doubt: median 250 ms, longest 250 ms",
    ]


def test_a_page_that_cannot_be_written_is_told_after_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(typer.Exit) as ended:
        drill_cli._tell(report(outcome("one")), as_json=True, html=tmp_path / "file" / "page.html")
    assert ended.value.exit_code == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["drills"][0]["name"] == "one"
    assert said.err.startswith("twophase drill: the page could not be written: ")


def _system(tmp_path: Path) -> System:
    (tmp_path / "east.log").write_text("it was so", encoding="utf-8")
    (tmp_path / "log").write_text("it was cold", encoding="utf-8")
    cluster = SimpleNamespace(name="shared", log=tmp_path / "log")
    return cast("System", SimpleNamespace(directory=tmp_path, clusters={"shared": cluster}))


def test_logs_are_kept_where_they_are_wanted_or_if_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = _system(tmp_path)
    drill_cli._keep_logs(system, None, is_right=True)
    assert capsys.readouterr().err == ""
    drill_cli._keep_logs(system, tmp_path / "wanted", is_right=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    drill_cli._keep_logs(system, None, is_right=False)
    (made,) = tmp_path.glob("twophase-drill-*")
    told = capsys.readouterr().err
    assert told == f"the logs of all processes are in {tmp_path / 'wanted'}\nthe logs of all processes are in {made}\n"
    for where in (made, tmp_path / "wanted"):
        assert (where / "east.log").read_text(encoding="utf-8") == "it was so"
        assert (where / "postgres-shared.log").read_text(encoding="utf-8") == "it was cold"


def test_logs_that_cannot_be_kept_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drill_cli._keep_logs(_system(tmp_path), tmp_path / "east.log", is_right=True)
    assert capsys.readouterr().err.startswith("twophase drill: the logs could not be kept: ")
