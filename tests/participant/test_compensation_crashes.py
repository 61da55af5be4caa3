"""A process that is killed on each side of what a compensation makes durable; another one is asked again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest

from fixtures.clusters import Database
from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import participant_pb2_grpc, types_pb2

TWOPHASE = Path(sys.executable).with_name("twophase")
HERE = Path(__file__).parent
GID = "tp-0123456789abcdef-00000003-aabbccdd-000000000007-0001"
WORK, COMPENSATION = types_pb2.BRANCH_KIND_WORK, types_pb2.BRANCH_KIND_COMPENSATION

Start: TypeAlias = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def purse(database: Database) -> Database:
    with database.connect() as connection:
        connection.execute("CREATE TABLE purse (funds integer NOT NULL)")
        connection.execute("INSERT INTO purse VALUES (10)")
    return database


@pytest.fixture
def start(purse: Database) -> Iterator[Start]:
    """Starts the participant as a process that is gone after the test; returns it with its address."""
    started: list[subprocess.Popen[str]] = []

    def start(crash: str = "") -> tuple[subprocess.Popen[str], str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TWOPHASE_", "PG"))}
        process = subprocess.Popen(
            [TWOPHASE, "participant", "undoing:payment"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env={**kept, "TWOPHASE_DSN": purse.dsn, VARIABLE: crash},
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().split()[6]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ask(address: str, kind: types_pb2.BranchKind.ValueType) -> pb.ApplyResponse:
    operation = pb.BranchOperation(name="charge", payload=types_pb2.Payload(json="4"))
    with grpc.insecure_channel(address) as channel:
        stub = participant_pb2_grpc.ParticipantStub(channel)
        return stub.Apply(
            pb.ApplyRequest(gid=GID, kind=kind, operations=[operation], fingerprint=bytes(32)), timeout=20
        )


def seen(purse: Database) -> tuple[int, list[tuple[Any, ...]]]:
    with purse.connect() as connection:
        [(funds,)] = connection.execute("SELECT funds FROM purse").fetchall()
        return funds, connection.execute("SELECT kind, outcome FROM twophase.ledger ORDER BY kind DESC").fetchall()


@pytest.mark.parametrize(
    ("point", "funds", "left"),
    [
        (CrashPoint.PARTICIPANT_BEFORE_CLAIM, 10, []),
        (CrashPoint.PARTICIPANT_AFTER_CLAIM, 10, [("work", "tombstone")]),
        (CrashPoint.PARTICIPANT_BEFORE_COMPENSATION, 6, [("work", "applied")]),
        (CrashPoint.PARTICIPANT_AFTER_COMPENSATION, 10, [("work", "applied"), ("compensation", "applied")]),
    ],
    ids=lambda value: value.value if isinstance(value, CrashPoint) else "",
)
def test_r8_killed_at_any_point_a_compensation_takes_effect_once(
    start: Start, purse: Database, point: CrashPoint, funds: int, left: list[tuple[Any, ...]]
) -> None:
    done = "compensation" in point.value
    process, address = start(crash=point.value)
    if done:
        assert ask(address, WORK).outcome == pb.APPLY_OUTCOME_APPLIED
    with pytest.raises(grpc.RpcError):
        ask(address, COMPENSATION)
    _, told = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    assert f"crash point {point.value} reached" in told
    assert seen(purse) == (funds, left)

    _, address = start()
    for _ in range(2):
        assert ask(address, COMPENSATION).outcome == (pb.APPLY_OUTCOME_APPLIED if done else pb.APPLY_OUTCOME_TOMBSTONE)
        # A late copy of the work.
        assert ask(address, WORK).outcome == (pb.APPLY_OUTCOME_APPLIED if done else pb.APPLY_OUTCOME_TOMBSTONE)
    rows = [("work", "applied"), ("compensation", "applied")] if done else [("work", "tombstone")]
    assert seen(purse) == (10, rows)
