"""An engine that answers as it is told, behind the real service on a real port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc

from fixtures.streaming import calls_of
from twophase.contract.names import Epoch, Txid
from twophase.contract.status import Problem, from_call
from twophase.coordinator.engine.api import Answer, DeadLetter, Limits, Outcome, Resolution, Submission, View, Which
from twophase.coordinator.engine.diagnosis import Diagnosis
from twophase.coordinator.engine.indoubt import Survey
from twophase.coordinator.journal.events import BranchRef, Happening, Reason, RequestRef, TransactionRecord
from twophase.coordinator.protocol.decisions import COMMIT
from twophase.coordinator.service import CoordinatorService, Guard
from twophase.coordinator.transport import SERVER_OPTIONS
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, types_pb2

JOURNAL = "0123456789abcdef"
EPOCH = Epoch(7, "cafe0001")


def txid(sequence: int) -> Txid:
    return Txid(EPOCH, sequence)


def record(sequence: int = 1, **changes: Any) -> TransactionRecord:
    values: dict[str, Any] = {
        "txid": txid(sequence),
        "request": RequestRef("order-1", 2, bytes(32)),
        "branches": (BranchRef(0, "inventory"), BranchRef(1, "payment")),
        "hearers": frozenset({0, 1}),
        "decision": COMMIT,
        "committed": True,
        "ended": True,
        "reasons": (),
        "votes": {},
        "endings": {},
    }
    return TransactionRecord(**(values | changes))


def view(
    sequence: int = 1,
    outcome: Outcome = Outcome.COMMITTED,
    history: tuple[Happening, ...] = (),
    **changes: Any,
) -> View:
    return View(record(sequence, **changes), outcome, applied=outcome is Outcome.COMMITTED, history=history)


def reason(kind: str, **changes: Any) -> Reason:
    values: dict[str, Any] = {"kind": kind, "code": kind, "message": "because", "retryable": False}
    return Reason(**(values | changes))


@dataclass
class FakeEngine:
    limits: Limits = field(default_factory=Limits)
    answer: Answer | Exception = field(default_factory=lambda: Answer(Outcome.COMMITTED, txid(1), 1, applied=True))
    found: dict[Txid | str, View] = field(default_factory=dict)
    listed: tuple[View, ...] = ()
    submissions: list[Submission] = field(default_factory=list)
    asked: list[tuple[bool, int | None]] = field(default_factory=list)
    whiches: list[Which] = field(default_factory=list)
    registered: list[tuple[str, str]] = field(default_factory=list)
    doubts: Survey = field(default_factory=lambda: Survey((), (), ""))
    diagnosis: Diagnosis = field(default_factory=lambda: Diagnosis((), (), ""))
    letters: tuple[DeadLetter, ...] = ()
    resolution: Resolution = field(default_factory=lambda: Resolution(barred=True, done=False))
    about_letters: list[tuple[Any, ...]] = field(default_factory=list)
    journal: Any = field(default_factory=lambda: SimpleNamespace(journal_id=JOURNAL, epoch=EPOCH))

    async def execute(self, submission: Submission) -> Answer:
        self.submissions.append(submission)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def view(self, key: Txid | str, *, with_events: bool, at: int | None) -> View | None:
        self.asked.append((with_events, at))
        return self.found.get(key)

    async def views(self, *, limit: int, before: Txid | None, which: Which) -> tuple[View, ...]:
        self.whiches.append(which)
        rest = [one for one in self.listed if before is None or one.record.txid < before]
        return tuple(rest[:limit])

    async def register(self, name: str, address: str) -> None:
        self.registered.append((name, address))

    async def dead_letters(self) -> tuple[DeadLetter, ...]:
        return self.letters

    async def retry_dead_letter(self, txid: Txid, step: str) -> None:
        self.about_letters.append((txid, step))

    async def resolve_dead_letter(
        self, txid: Txid, step: str, *, actor: str, reason: str, even_if_away: bool
    ) -> Resolution:
        self.about_letters.append((txid, step, actor, reason, even_if_away))
        return self.resolution

    async def in_doubt(self) -> Survey:
        return self.doubts

    async def diagnose(self) -> Diagnosis:
        return self.diagnosis


@dataclass
class Served:
    """The service over a fake engine, and a stub that speaks to it."""

    engine: FakeEngine
    stub: coordinator_pb2_grpc.CoordinatorAsyncStub
    channel: grpc.aio.Channel

    async def refused(self, call: Any) -> tuple[Problem, grpc.aio.AioRpcError]:
        """The problem of a call that must fail, read from its details."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return from_call(error), error
        raise AssertionError("the call was answered")


@contextlib.asynccontextmanager
async def served(engine: FakeEngine | None = None, *, by_stream: bool = False) -> AsyncIterator[Served]:
    """With `by_stream` the stub's Execute goes by one."""
    engine = engine or FakeEngine()
    server = grpc.aio.server(interceptors=[Guard()], options=SERVER_OPTIONS)
    coordinator_pb2_grpc.add_CoordinatorServicer_to_server(CoordinatorService(engine), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: coordinator_pb2_grpc.CoordinatorAsyncStub = coordinator_pb2_grpc.CoordinatorStub(channel)
        calls = calls_of(stub.Stream, coordinator_pb2.CoordinatorStreamRequest, execute=stub.Execute)
        if by_stream:
            stub.Execute = partial(calls.call, "execute", timeout=30.0)  # type: ignore[assignment]
        yield Served(engine, stub, channel)
        await calls.close()
    await server.stop(None)


def op(participant: str = "inventory", name: str = "reserve", json: str = "{}") -> types_pb2.Operation:
    return types_pb2.Operation(participant=participant, name=name, payload=types_pb2.Payload(json=json))


def request(**changes: Any) -> coordinator_pb2.ExecuteRequest:
    return coordinator_pb2.ExecuteRequest(**({"request_id": "order-1", "operations": [op()]} | changes))
