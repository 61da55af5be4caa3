"""The links to participants: what fails fast, what is lost, what is rejected, and that a link comes back by itself.

Whether a participant offers streams or not changes nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from fixtures.streaming import streams_of
from twophase.contract.streams.calling import LARGE
from twophase.coordinator.channels import GrpcLink, GrpcLinks
from twophase.coordinator.engine.links import Link, LinkFailed, LinkLost, LinkRejected, NotOffered
from twophase.coordinator.transport import SERVER_OPTIONS
from twophase.v1 import participant_pb2, participant_pb2_grpc

COMMIT = participant_pb2.CommitRequest(gid="g")


class Scripted(participant_pb2_grpc.ParticipantServicer):
    """Answers every call, or fails with `code`, or hangs; by streams, too, if it offers them."""

    def __init__(self, *, offers_streams: bool = True) -> None:
        self.offers_streams = offers_streams
        self.streams = 0
        self._answers = streams_of(
            participant_pb2.StreamResponse,
            prepare=self.Prepare,
            apply=self.Apply,
            commit=self.Commit,
            abort=self.Abort,
        )
        self.code: grpc.StatusCode | None = None
        self.hang = False
        self.arrived = asyncio.Event()
        self.calls: list[str] = []

    def hang_from_now_on(self) -> None:
        self.hang = True
        self.arrived.clear()

    async def _answer(self, name: str, context: Any, response: Any) -> Any:
        self.calls.append(name)
        self.arrived.set()
        if self.hang:
            await asyncio.sleep(60)
        if self.code is not None:
            await context.abort(self.code, "as told")
        return response

    async def Stream(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        if not self.offers_streams:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")
        self.streams += 1
        await self._answers.serve(context)

    async def Handshake(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("Handshake", context, participant_pb2.HandshakeResponse(streams=self.offers_streams))

    async def Prepare(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("Prepare", context, participant_pb2.PrepareResponse())

    async def Apply(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("Apply", context, participant_pb2.ApplyResponse())

    async def Commit(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("Commit", context, participant_pb2.CommitResponse())

    async def Abort(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("Abort", context, participant_pb2.AbortResponse())

    async def ListPrepared(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("ListPrepared", context, participant_pb2.ListPreparedResponse())

    async def Inspect(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("Inspect", context, participant_pb2.InspectResponse())

    async def Observe(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("Observe", context, participant_pb2.ObserveResponse())

    async def Diagnose(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("Diagnose", context, participant_pb2.DiagnoseResponse())


@contextlib.asynccontextmanager
async def serving(participant: Scripted, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    participant_pb2_grpc.add_ParticipantServicer_to_server(participant, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@pytest_asyncio.fixture
async def links() -> AsyncIterator[GrpcLinks]:
    links = GrpcLinks()
    yield links
    await links.close()


@pytest.fixture(params=[True, False], ids=["by stream", "unary"])
def offers_streams(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest_asyncio.fixture
async def participant(*, offers_streams: bool) -> Scripted:
    return Scripted(offers_streams=offers_streams)


@pytest_asyncio.fixture
async def address(participant: Scripted) -> AsyncIterator[str]:
    async with serving(participant) as port:
        yield f"127.0.0.1:{port}"


async def met(links: GrpcLinks, address: str) -> Link:
    """A link that has shaken hands, so that it knows about streams; tries until somebody is there."""
    link = links.connect(address)
    while True:
        with contextlib.suppress(LinkLost):
            await link.handshake(participant_pb2.HandshakeRequest(), timeout=5)
            return link
        await asyncio.sleep(0)


async def test_every_call_reaches_its_method(links: GrpcLinks, participant: Scripted, address: str) -> None:
    p = participant_pb2
    link = await met(links, address)
    await link.prepare(p.PrepareRequest(), timeout=5)
    await link.apply(p.ApplyRequest(), timeout=5)
    await link.commit(p.CommitRequest(), timeout=5)
    await link.abort(p.AbortRequest(), timeout=5)
    await link.list_prepared(p.ListPreparedRequest(), timeout=5)
    await link.inspect(p.InspectRequest(), timeout=5)
    await link.observe(p.ObserveRequest(), timeout=5)
    await link.diagnose(p.DiagnoseRequest(), timeout=5)

    phases = ["Handshake", "Prepare", "Apply", "Commit", "Abort"]
    assert participant.calls == [*phases, "ListPrepared", "Inspect", "Observe", "Diagnose"]
    assert participant.streams == (1 if participant.offers_streams else 0)


async def test_one_link_an_address_until_it_is_closed(links: GrpcLinks, address: str) -> None:
    link = links.connect(address)
    assert links.connect(address) is link
    await link.close()
    await link.close()

    assert links.connect(address) is not link
    with pytest.raises(LinkLost, match="closed"):
        await link.commit(COMMIT, timeout=5)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_a_status_is_lost_or_rejected_and_never_an_outcome(
    links: GrpcLinks, participant: Scripted, address: str, code: grpc.StatusCode
) -> None:
    link = await met(links, address)
    participant.code = code
    repeating_may_help = {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }

    with pytest.raises(LinkLost) as caught:
        await link.commit(COMMIT, timeout=5)

    assert isinstance(caught.value, LinkRejected) is (code not in repeating_may_help)
    failed = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
    assert isinstance(caught.value, LinkFailed) is (code in failed or code not in repeating_may_help)
    assert isinstance(caught.value, NotOffered) is (code is grpc.StatusCode.UNIMPLEMENTED)
    assert f"Commit at {address}: {code.name}: as told" in str(caught.value)


async def test_r13_a_dead_participant_fails_fast_and_not_at_the_timeout(
    links: GrpcLinks, participant: Scripted
) -> None:
    async with serving(participant) as port:
        link = await met(links, f"127.0.0.1:{port}")
    began = time.monotonic()

    for _ in range(3):
        with pytest.raises(LinkLost, match="UNAVAILABLE"):
            await link.prepare(participant_pb2.PrepareRequest(), timeout=30)

    assert time.monotonic() - began < 5


async def test_a_participant_that_is_back_is_found_again_by_itself(links: GrpcLinks, participant: Scripted) -> None:
    async with serving(participant) as port:
        link = await met(links, f"127.0.0.1:{port}")
        await link.commit(COMMIT, timeout=5)
    with pytest.raises(LinkLost):
        await link.commit(COMMIT, timeout=5)
    async with serving(Scripted(offers_streams=participant.offers_streams), port):
        began = time.monotonic()
        while True:
            with contextlib.suppress(LinkLost):
                await link.commit(COMMIT, timeout=5)
                break
            await asyncio.sleep(0)

    assert time.monotonic() - began < 5


async def test_a_participant_that_does_not_answer_is_lost_at_the_timeout(
    links: GrpcLinks, participant: Scripted, address: str
) -> None:
    link = await met(links, address)
    participant.hang = True

    with pytest.raises(LinkLost, match="DEADLINE_EXCEEDED"):
        await link.commit(COMMIT, timeout=0.1)


async def test_a_connection_cut_under_a_call_is_lost(links: GrpcLinks, participant: Scripted) -> None:
    async with serving(participant) as port:
        link = await met(links, f"127.0.0.1:{port}")
        participant.hang_from_now_on()
        call = asyncio.ensure_future(link.commit(COMMIT, timeout=30))
        await participant.arrived.wait()

    with pytest.raises(LinkLost):
        await call


async def test_closing_a_link_under_a_call_is_lost_and_no_cancellation(
    links: GrpcLinks, participant: Scripted, address: str
) -> None:
    link = await met(links, address)
    participant.hang_from_now_on()
    call = asyncio.ensure_future(link.commit(COMMIT, timeout=30))
    await participant.arrived.wait()
    await links.close()

    with pytest.raises(LinkLost, match="closed under the call"):
        await call


async def test_cancelling_the_caller_stays_a_cancellation(
    links: GrpcLinks, participant: Scripted, address: str
) -> None:
    link = await met(links, address)
    participant.hang_from_now_on()
    call = asyncio.ensure_future(link.commit(COMMIT, timeout=30))
    await participant.arrived.wait()
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call


async def test_streams_are_used_from_the_handshake_on_that_tells_of_them(links: GrpcLinks) -> None:
    older, newer = Scripted(offers_streams=False), Scripted()
    async with serving(older) as port:
        link = await met(links, f"127.0.0.1:{port}")
        await link.commit(COMMIT, timeout=5)
    async with serving(newer, port):
        await met(links, f"127.0.0.1:{port}")
        await link.commit(COMMIT, timeout=5)

    assert (older.calls, older.streams) == (["Handshake", "Commit"], 0)
    assert (newer.calls, newer.streams) == (["Handshake", "Commit"], 1)


async def test_a_participant_that_offers_streams_no_more_costs_no_commit_its_answer(links: GrpcLinks) -> None:
    newer, older = Scripted(), Scripted(offers_streams=False)
    async with serving(newer) as port:
        link = await met(links, f"127.0.0.1:{port}")
        await link.commit(COMMIT, timeout=5)
    async with serving(older, port):
        while not older.calls:
            with contextlib.suppress(LinkLost):
                await link.commit(COMMIT, timeout=5)
        await link.commit(COMMIT, timeout=5)

    assert older.calls == ["Commit", "Commit"]


async def test_a_large_request_goes_beside_the_stream(links: GrpcLinks) -> None:
    participant = Scripted()
    large = participant_pb2.PrepareRequest(fingerprint=bytes(LARGE))
    async with serving(participant) as port:
        link = await met(links, f"127.0.0.1:{port}")
        await link.prepare(large, timeout=5)
        assert participant.streams == 0
        await link.prepare(participant_pb2.PrepareRequest(), timeout=5)
        assert participant.streams == 1


async def test_calls_made_together_leave_in_one_message(links: GrpcLinks) -> None:
    participant = Scripted()
    async with serving(participant) as port:
        link = await met(links, f"127.0.0.1:{port}")
        assert isinstance(link, GrpcLink)
        await asyncio.gather(*(link.commit(COMMIT, timeout=5) for _ in range(10)))

    assert (link.frames, participant.calls.count("Commit")) == (1, 10)


async def test_an_answer_that_nobody_can_read_is_lost(links: GrpcLinks) -> None:
    async def garbage(_request: bytes, _context: Any) -> bytes:
        return b"\xff\xff\xff"

    names = ("Handshake", "Prepare", "Apply", "Commit", "Abort", "ListPrepared", "Inspect", "Observe", "Diagnose")
    methods: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(garbage) for name in names}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("twophase.v1.Participant", methods)])
    link = links.connect(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    await server.start()
    p = participant_pb2
    for call in (
        link.handshake(p.HandshakeRequest(), timeout=30),
        link.prepare(p.PrepareRequest(), timeout=30),
        link.apply(p.ApplyRequest(), timeout=30),
        link.commit(p.CommitRequest(), timeout=30),
        link.abort(p.AbortRequest(), timeout=30),
        link.list_prepared(p.ListPreparedRequest(), timeout=30),
        link.inspect(p.InspectRequest(), timeout=30),
        link.observe(p.ObserveRequest(), timeout=30),
        link.diagnose(p.DiagnoseRequest(), timeout=30),
    ):
        with pytest.raises(LinkLost, match="INTERNAL: the answer is no message of this call"):
            await call
    await server.stop(None)
