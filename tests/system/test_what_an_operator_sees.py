"""A participant that dies after its vote, as an operator sees it with `twophase indoubt` and `twophase doctor`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fixtures.two_banks import SECONDS, send, two_banks, until
from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.sandbox.system import System

pytestmark = pytest.mark.integration


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with two_banks() as system:
        yield system


async def twophase(system: System, *arguments: str, password: str = "") -> tuple[int, Any]:
    """The exit code, and the JSON object."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "twophase.coordinator", *arguments, "--json"],
        env={**os.environ, "TWOPHASE_COORDINATOR": system.address, "PGPASSWORD": password},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.stderr == ""
    return ended.returncode, json.loads(ended.stdout)


def waiting(system: System) -> bool:
    with system.connect("east") as connection:
        row = connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    return row is not None and row[0] > 0


async def test_a_participant_that_dies_after_its_vote_is_shown_until_it_is_back(system: System) -> None:
    assert await twophase(system, "indoubt") == (
        0,
        {
            "in_doubt": 0,
            "oldest_s": None,
            "branches": [],
            "unanswered": [],
            "quarantine": "",
            "heuristic": [],
            "database": None,
        },
    )
    east = system.participants["east"]
    await east.stop()
    east.environment[VARIABLE] = CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED.value
    await east.start()
    del east.environment[VARIABLE]
    running = asyncio.create_task(send(system, request_id="order/4711"))
    await east.wait(timeout=SECONDS)  # told to commit, it dies: so it is decided
    with system.connect("east") as rival:
        rivals = asyncio.create_task(asyncio.to_thread(rival.execute, "UPDATE account SET balance = balance"))
        await until(lambda: waiting(system))

        code, seen = await twophase(system, "indoubt")
        [branch] = seen["branches"]
        assert (code, branch["participant"], branch["observed"]) == (4, "east", False)
        assert (branch["request_id"], branch["state"], branch["decision"]) == ("order/4711", "PREPARED", "COMMIT")
        assert branch["doing"].startswith("commits it")
        assert branch["attempts"] >= 1
        assert "UNAVAILABLE" in branch["last_error"]
        assert [one["participant"] for one in seen["unanswered"]] == ["east"]

        cluster = system.cluster_of("east")
        dsn = cluster.public_dsn("east", user="east")
        code, inside = await twophase(system, "indoubt", "--dsn", dsn, "--older-than", "0", password=cluster.password)
        assert (code, [one["gid"] for one in inside["branches"]]) == (4, [branch["gid"]])
        [waiter] = inside["branches"][0]["waiters"]
        assert (waiter["pid"], waiter["query"]) == (rival.info.backend_pid, "UPDATE account SET balance = balance")

        code, examined = await twophase(system, "doctor")
        checks = {
            (one["participant"], check["subject"]): check["result"]
            for one in examined["participants"]
            for check in one["checks"]
        }
        assert (code, checks["east", "reachable"], checks["west", "reachable"]) == (1, "PROBLEM", "OK")
        assert checks["west", "ledger"] == "OK"

        await east.start()
        await running
        await rivals
    code, seen = await twophase(system, "indoubt", "--older-than", "0")
    assert (code, seen["branches"], seen["unanswered"]) == (0, [], [])
