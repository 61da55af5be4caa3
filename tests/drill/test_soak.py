"""The soak: its plan is the seed's, and a small one on real processes; `make soak` runs ten thousand sagas."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from typing import cast

import pytest

from twophase.coordinator.client import Outcome
from twophase.sandbox.bank import NAMES
from twophase.sandbox.drill.business import Told
from twophase.sandbox.drill.soak import Plan, Soak, Soaked
from twophase.sandbox.drill.stage import COORDINATOR, Stage
from twophase.sandbox.soak_cli import lines_of

TWOPHASE = (sys.executable, "-m", "twophase.coordinator")


def soaked(*, violations: tuple[str, ...] = (), outside: tuple[str, ...] = ()) -> Soaked:
    return Soaked(
        plan=Plan(100, 2),
        outcomes=Counter({Outcome.COMMITTED: 70, Outcome.COMPENSATED: 20, Outcome.ABORTED: 10}),
        told=Counter({Told.OK: 70, Told.FAILED: 29, Told.UNKNOWN: 1}),
        doomed=20,
        undone=31,
        kills=Counter({"east": 1, COORDINATOR: 2}),
        seconds=20.0,
        to_the_end=0.25,
        violations=violations,
        outside=outside,
    )


def test_the_same_seed_makes_the_same_plan() -> None:
    first, second, other = (Plan(1_000, 10, seed=seed).strokes() for seed in (1, 1, 2))
    assert first == second != other
    assert len(first) == 10


def test_kills_fall_anywhere_before_the_last_answer_and_hit_everybody_one_or_several() -> None:
    strokes = Plan(1_000, 500).strokes()
    moments = [stroke.answered for stroke in strokes]
    assert moments == sorted(moments)
    assert min(moments) < 100
    assert 900 < max(moments) < 1_000
    dead = Counter(name for stroke in strokes for name in stroke.victims)
    assert dead.keys() == {COORDINATOR, *NAMES}
    assert dead[COORDINATOR] == max(dead.values())
    assert {len(stroke.victims) for stroke in strokes} == {1, 2, 1 + len(NAMES)}


def test_what_a_soak_came_to_is_told() -> None:
    assert list(lines_of(soaked())) == [
        (
            "100 sagas: 70 done, 20 undone, 10 not begun, 1 unknown to their clients; 20 were made to be undone;"
            " 31 compensations"
        ),
        "3 kills (coordinator 2, east 1), seed 1",
        "20 s, 5 sagas a second; 0.25 s after the last answer every one had ended",
        "0 violations, 0 by the outside checker",
    ]
    assert soaked().passed


def test_what_is_wrong_is_told_first_and_fails_the_soak() -> None:
    wrong = soaked(violations=tuple(f"R1: {number}" for number in range(30)), outside=("money is gone",))
    said = list(lines_of(wrong))
    assert said[0] == "WRONG: R1: 0"
    assert said[20] == "WRONG: and 11 more; --json has them all"
    assert said[-1] == "30 violations, 1 by the outside checker"
    assert not wrong.passed
    assert not soaked(outside=("money is gone",)).passed
    assert not soaked(violations=("R1: one",)).passed


async def test_a_process_that_ends_by_itself_is_wrong_and_does_not_stop_the_soak() -> None:
    started: list[str] = []

    def program(name: str) -> SimpleNamespace:
        async def start() -> None:
            started.append(name)

        return SimpleNamespace(is_running=name != "west" or name in started, start=start)

    soak = Soak(cast("Stage", SimpleNamespace(program=program)), Plan(1, 0))
    await soak._look_for_the_dead()
    await soak._look_for_the_dead()
    assert started == ["west"]
    assert soak.wrong == ["R10: west ended by itself"]


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.timeout(300)
def test_r7_every_saga_ends_and_every_compensation_is_applied_once_whoever_is_killed() -> None:
    options = ["--sagas", "200", "--kills", "4", "--seed", "1", "--json"]
    ended = subprocess.run([*TWOPHASE, "soak", *options], capture_output=True, text=True, check=False)
    report = json.loads(ended.stdout)
    assert (report["violations"], report["outside_violations"]) == ([], [])
    assert ended.returncode == 0, ended.stderr
    assert report["completed"] + report["compensated"] + report["not_begun"] == 200
    assert report["compensated"] >= report["made_to_be_undone"] / 2 > 0
    assert report["compensations"] > 0
    assert report["unknown"] == 0
    assert report["kills_by_process"].keys() == {COORDINATOR, *NAMES}
    assert "200 of 200 sagas answered" in ended.stderr
