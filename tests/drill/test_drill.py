"""Drills on real processes: a few here, `twophase drill --quick` runs one of each kind, `make drill` all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox.drill.business import Business
from twophase.sandbox.drill.catalogue import catalogue
from twophase.sandbox.drill.undoing import is_of_sagas

TWOPHASE = (sys.executable, "-m", "twophase.coordinator")
CHOSEN = (
    "coordinator.after-decide",
    "saga.after-turn",
    "participant.after-prepare",
    "kill everything",
)


def test_every_registered_point_has_a_drill_and_names_are_unique() -> None:
    drills = catalogue()
    assert {point for drill in drills for point in drill.points} == set(CrashPoint)
    assert len({drill.name for drill in drills}) == len(drills)


def test_what_is_reached_in_sagas_alone_is_drilled_among_sagas_and_within_their_bound() -> None:
    among_sagas = [drill for drill in catalogue() if drill.business is Business.SAGAS]
    drills = [drill for drill in among_sagas if any(map(is_of_sagas, drill.points))]
    assert {point for drill in drills for point in drill.points} >= set(filter(is_of_sagas, CrashPoint))
    assert {drill.within for drill in drills} == {3.0}
    assert all(drill.name.endswith(", in sagas") for drill in among_sagas if drill not in drills)


@pytest.mark.integration
@pytest.mark.timeout(400)
def test_nothing_is_lost_and_nothing_stays_in_doubt(tmp_path: Path) -> None:
    page, logs = tmp_path / "pages" / "drill.html", tmp_path / "logs"
    chosen = [word for name in CHOSEN for word in ("--only", name)]
    options = ["--json", "--html", str(page), "--keep-logs", str(logs)]
    ended = subprocess.run([*TWOPHASE, "drill", *chosen, *options], capture_output=True, text=True, check=False)
    report = json.loads(ended.stdout)
    assert {drill["name"] for drill in report["drills"]} == set(CHOSEN)
    assert report["violations"] == 0, [drill for drill in report["drills"] if drill["violations"]]
    assert report["outside_violations"] == 0
    assert report["points_missed"] == []
    assert report["in_doubt_left"] == 0
    assert all(drill["ok"] > 0 for drill in report["drills"]), "a drill without committed work tries nothing"
    assert ended.returncode == 0, ended.stderr
    assert "Nothing was wrong." in page.read_text(encoding="utf-8")
    assert {"coordinator.log", "east.log", "postgres-shared.log"} <= {log.name for log in logs.iterdir()}
    assert ended.stderr == f"the logs of all processes are in {logs}\nthe timelines are in {page}\n"
    for drill in report["drills"]:
        seen = {mark["who"] for mark in drill["timeline"]}
        assert seen, f"{drill['name']}: nothing happened to anybody"
        assert sum(drill["answers_per_100_ms"]["ok"]) <= drill["ok"]


def test_a_pattern_that_matches_nothing_is_told() -> None:
    options = ["--only", "kill", "--only", "nothing"]
    ended = subprocess.run([*TWOPHASE, "drill", *options], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == "twophase drill: no drill matches 'nothing'; see twophase drill --list\n"


def test_several_patterns_choose_all_that_match_one_of_them_and_a_whole_name_only_itself() -> None:
    options = ["--only", "kill everything", "--only", "coordinator.after-d*", "--list"]
    ended = subprocess.run([*TWOPHASE, "drill", *options], capture_output=True, text=True, check=True)
    names = [line.partition("  ")[0] for line in ended.stdout.splitlines()]
    among_all = [drill.name for drill in catalogue()]
    assert names == [name for name in among_all if name == "kill everything" or name.startswith("coordinator.after-d")]
    assert any(name.startswith("kill everything,") for name in among_all)


def test_the_list_names_every_drill() -> None:
    ended = subprocess.run([*TWOPHASE, "drill", "--list"], capture_output=True, text=True, check=True)
    assert [line.partition("  ")[0] for line in ended.stdout.splitlines()] == [drill.name for drill in catalogue()]
