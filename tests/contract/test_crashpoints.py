"""Crash points: they kill at the time they are told to, and cost nothing unarmed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from twophase.contract import crashpoints
from twophase.contract.crashpoints import CrashPoint, UnknownCrashPoint

ROOT = Path(__file__).parents[2]
SCRIPT = """
from twophase.contract.crashpoints import CrashPoint, arm, reach
arm()
for number in range(3):
    reach(CrashPoint.COORDINATOR_BEFORE_DECIDE)
    print("passed", number, flush=True)
"""


def run(value: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env={"TWOPHASE_CRASH": value}, capture_output=True, text=True, check=False
    )


def test_the_process_dies_the_time_it_is_told_to() -> None:
    ended = run("coordinator.before-decide:3")
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == "passed 0\npassed 1\n"
    assert ended.stderr == "crash point coordinator.before-decide reached, time 3: killing this process\n"


@pytest.mark.parametrize("value", ["coordinator.after-decide", ""])
def test_another_point_or_none_kills_nobody(value: str) -> None:
    assert run(value).returncode == 0


@pytest.mark.parametrize("value", ["nowhere", "coordinator.before-decide:0", "coordinator.before-decide:x"])
def test_what_names_no_point_is_refused(value: str) -> None:
    with pytest.raises(UnknownCrashPoint, match="TWOPHASE_CRASH is"):
        crashpoints.arm({"TWOPHASE_CRASH": value})


def test_every_registered_point_is_in_the_code_and_in_the_process_its_name_says() -> None:
    code = {
        side: "".join(path.read_text(encoding="utf-8") for path in (ROOT / side).rglob("*.py"))
        for side in ("coordinator", "participant")
    }
    for point in CrashPoint:
        side = "participant" if point.value.startswith("participant.") else "coordinator"
        assert re.search(rf"CrashPoint\.{point.name}\b", code[side]), f"{point.value} is nowhere in {side}"
