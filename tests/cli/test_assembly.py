"""The assembled coordinator in this process: health, reflection, the order of its end, declared participants."""

from __future__ import annotations

import asyncio
import logging
import socket
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from twophase.contract.addresses import Address
from twophase.contract.status import Problem, from_call
from twophase.coordinator import cli, server
from twophase.coordinator.engine.api import Limits, Rejected
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal import schema, sqlite_writer
from twophase.coordinator.journal.ballast import Ballast
from twophase.coordinator.journal.lock import FileLock
from twophase.coordinator.journal.port import JournalFailed, JournalFull
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.journal.sqlite_batch import Written
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, types_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def settings(tmp_path: Path) -> server.Settings:
    return server.Settings(journal=tmp_path / "journal.db", listen=Address("127.0.0.1", 0), grace=1.0, ballast=1 << 20)


async def test_health_and_reflection_are_on(settings: server.Settings) -> None:
    async with server.running(settings) as running, grpc.aio.insecure_channel(running.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "twophase.v1.Coordinator"):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
        reflection: Any = reflection_pb2_grpc
        names: list[str] = []
        ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        async for answer in reflection.ServerReflectionStub(channel).ServerReflectionInfo(ask):
            names = [service.name for service in answer.list_services_response.service]

    assert "twophase.v1.Coordinator" in names


async def test_a_stopping_coordinator_is_not_serving_takes_nothing_new_and_still_answers(
    settings: server.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    stop = Engine.stop

    async def stop_and_look(engine: Engine, grace: float) -> None:
        await stop(engine, grace)
        async with grpc.aio.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            seen.append((await health.Check(health_pb2.HealthCheckRequest())).status)
            operation = types_pb2.Operation(participant="p", name="o")
            request = coordinator_pb2.ExecuteRequest(request_id="r", operations=[operation])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await coordinator_pb2_grpc.CoordinatorStub(channel).Execute(request)
            problem = from_call(caught.value)
            seen.append((problem.code, problem.reason, problem.outcome_known))

    monkeypatch.setattr(Engine, "stop", stop_and_look)
    async with server.running(settings) as running:
        address = running.address

    assert seen == [NOT_SERVING, (grpc.StatusCode.UNAVAILABLE, "STOPPING", True)]


async def test_everything_is_given_back_so_that_the_next_one_can_start(settings: server.Settings) -> None:
    epochs = []
    for _ in range(2):
        async with server.running(settings) as running:
            epochs.append(running.journal.epoch.number)

    assert epochs == [1, 2]


async def test_everything_is_given_back_when_the_start_fails(
    settings: server.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(engine: Engine) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "start", fail)
        with pytest.raises(ZeroDivisionError):
            async with server.running(settings):
                pass
    async with server.running(settings) as running:
        assert running.journal.epoch.number == 2


async def test_r10_a_failed_engine_is_told_at_once(settings: server.Settings) -> None:
    told: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    async with server.running(settings, on_failure=told.set_result) as running:
        running.engine.failed.set_exception(OSError("the disk is gone"))
        assert str(await told) == "the disk is gone"


async def test_r10_a_journal_that_fails_at_the_end_is_told_as_one_that_fails_before(
    settings: server.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[BaseException] = []

    def fail(*_: object, **__: object) -> Written:
        raise sqlite3.OperationalError("database or disk is full")

    async with server.running(settings, on_failure=told.append) as running:
        monkeypatch.setattr(sqlite_writer, "write", fail)
    assert [type(error) for error in told] == [JournalFailed]
    assert "disk is full" in str(told[0])
    assert running.journal.position == 0


async def test_r10_a_journal_that_fails_while_it_starts_is_told_as_one_that_fails_later(
    settings: server.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[BaseException] = []
    monkeypatch.setattr(schema, "EVENTS_OF_UNFINISHED", "SELECT nothing FROM nowhere")
    with pytest.raises(server.CannotStart, match="cannot be read"):
        async with server.running(settings, on_failure=told.append):
            pass
    assert [type(error) for error in told] == [JournalFailed]


async def test_whoever_took_over_waits_for_the_port_of_the_one_that_is_gone(settings: server.Settings) -> None:
    with socket.socket() as leaving:
        leaving.bind(("127.0.0.1", 0))
        leaving.listen()
        port = leaving.getsockname()[1]
        there = replace(settings, listen=Address("127.0.0.1", port))
        asyncio.get_running_loop().call_later(0.2, leaving.close)
        async with server.running(there, lock=FileLock(settings.journal)) as running:
            assert running.port == port


async def test_whoever_took_over_does_not_wait_for_ever(
    settings: server.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_PORT_SECONDS", 0.1)
    with socket.socket() as staying:
        staying.bind(("127.0.0.1", 0))
        staying.listen()
        there = replace(settings, listen=Address("127.0.0.1", staying.getsockname()[1]))
        with pytest.raises(server.CannotStart, match="the port is in use"):
            async with server.running(there, lock=FileLock(settings.journal)):
                pass
    async with server.running(settings) as running:
        assert running.journal.epoch.number == 1


async def execute_somewhere(address: str) -> Problem:
    """What a call for a participant that is not known is refused with."""
    async with grpc.aio.insecure_channel(address) as channel:
        operation = types_pb2.Operation(participant="nobody", name="nothing")
        request = coordinator_pb2.ExecuteRequest(request_id="r", operations=[operation])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await coordinator_pb2_grpc.CoordinatorStub(channel).Execute(request)
        return from_call(caught.value)


async def test_r10_a_coordinator_on_a_full_disk_serves_refuses_new_work_and_goes_on_when_there_is_room(
    settings: server.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast = settings.journal.with_name("journal.db.ballast")
    free = 1 << 19
    monkeypatch.setattr(Ballast, "free", lambda _: free)
    monkeypatch.setattr(server, "LOOK_SECONDS", 0.001)
    ballast.write_bytes(b"given up at the start")
    async with server.running(settings) as running, grpc.aio.insecure_channel(running.address) as channel:
        assert not ballast.exists()
        health: Any = health_pb2_grpc.HealthStub(channel)
        # It still answers, finishes and recalls: an orchestrator that restarted it would help nobody.
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == SERVING
        problem = await execute_somewhere(running.address)
        assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_ROOM")
        assert problem.outcome_known
        free = 1 << 30
        async with asyncio.timeout(10):
            while running.engine.refusal is not None:
                await asyncio.sleep(0.001)
        assert ballast.stat().st_size == settings.ballast
        assert (await execute_somewhere(running.address)).reason == "UNKNOWN_PARTICIPANT"


async def test_r10_a_journal_that_cannot_be_opened_for_want_of_room_gets_that_of_the_ballast(
    settings: server.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server.running(settings):
        pass
    ballast = settings.journal.with_name("journal.db.ballast")
    open_journal = SqliteJournal.open
    tried: list[bool] = []

    async def full_with_the_ballast(*arguments: Any, **named: Any) -> SqliteJournal:
        tried.append(ballast.exists())
        if len(tried) == 1 or (len(tried) > 2 and not ballast.exists()):
            raise JournalFull("database or disk is full")
        return await open_journal(*arguments, **named)

    monkeypatch.setattr(SqliteJournal, "open", full_with_the_ballast)
    async with server.running(settings) as running:
        assert tried == [True, False]
        assert running.engine.refusal is not None
        assert running.journal.epoch.number == 2
    ballast.touch()
    with pytest.raises(server.CannotStart, match="disk is full"):
        async with server.running(replace(settings, ballast=0)):
            pass


class Registry:
    """The part of an engine that registers: refuses as often as it is told."""

    def __init__(self, *refusals: str) -> None:
        self.refusals = list(refusals)
        self.registered: list[tuple[str, str]] = []

    async def register(self, name: str, address: str) -> None:
        if self.refusals:
            raise Rejected(Problem(grpc.StatusCode.FAILED_PRECONDITION, "AWAY", self.refusals.pop(0)))
        self.registered.append((name, address))


async def test_a_declared_participant_is_registered_once_it_answers_and_each_reason_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(server, "LONGEST_WAIT", 0.002)
    registry: Any = Registry("refused", "refused", "refused", "wrong name")

    with caplog.at_level(logging.WARNING):
        await server.register_until_done(registry, "inventory", "127.0.0.1:7001")

    assert registry.registered == [("inventory", "127.0.0.1:7001")]
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["refused", "wrong name"]


async def test_a_coordinator_is_ready_without_its_declared_participants(settings: server.Settings) -> None:
    declared = replace(settings, participants=(("away", "127.0.0.1:1"),))
    async with asyncio.timeout(10), server.running(declared) as running:
        assert running.port > 0


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.0.2.1:1", False),
        ("no-such-host.invalid:1", False),
    ],
)
def test_loopback_is_what_nobody_else_can_reach(text: str, *, loopback: bool) -> None:
    assert Address.parse(text).is_loopback() is loopback
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":1", "host:1x", "host:99999", "http://host:1", "::1:1", "a b:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        Address.parse(text)


async def test_the_limits_reach_the_engine_and_its_pruner(settings: server.Settings) -> None:
    limits = Limits(deadline_cap=5.0, default_deadline=5.0, retention=6.0)
    async with server.running(replace(settings, limits=limits)) as running:
        assert running.engine.limits == limits
        assert (running.engine._pruner._retention, running.engine._pruner._quiet) == (6.0, 6.0)
    long = Limits(deadline_cap=7200.0)
    async with server.running(replace(settings, limits=long)) as running:
        # Everything of before has come home: after an hour, or after the longest deadline if that is longer.
        assert running.engine._pruner._quiet == 7200.0
    async with server.running(settings) as running:
        assert running.engine._pruner._quiet == 3600.0


def test_serve_passes_its_retention_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[server.Settings] = []

    async def serve(settings: server.Settings, announce: object) -> None:
        passed.append(settings)

    monkeypatch.setattr(server, "serve", serve)
    for arguments in ([], ["--retention", "90s"]):
        result = CliRunner().invoke(cli.app, ["serve", "--journal", str(tmp_path / "j.db"), *arguments])
        assert result.exit_code == 0, result.output
    assert [settings.limits.retention for settings in passed] == [7 * 86_400.0, 90.0]
