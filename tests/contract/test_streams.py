"""Both halves of a stream of calls, against each other over a real connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from fixtures.streaming import PlainPeer, calls_of
from twophase.contract.status import Problem, from_call, to_failure
from twophase.contract.streams import FRAME_BYTES, FRAME_COUNT, calling
from twophase.contract.streams.answering import Answers, Service
from twophase.contract.streams.calling import Calls, StreamClosed
from twophase.v1 import participant_pb2, participant_pb2_grpc, types_pb2

METHOD = "/twophase.v1.Participant/Stream"
Answer = participant_pb2.CommitResponse


def commit(gid: str) -> participant_pb2.CommitRequest:
    return participant_pb2.CommitRequest(gid=gid)


@dataclass
class Desk:
    """Answers commits as it is told by their GIDs: `hold` waits for `gates`, `fail` fails, the others are answered."""

    most: int = 4096
    answers: Answers = field(init=False)
    begun: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    contexts: list[Any] = field(default_factory=list)
    over: int = 0

    def __post_init__(self) -> None:
        calls: dict[str, Any] = {"commit": self._commit, "prepare": self._prepare}
        service = Service(self._frame, calls, self._failure, frozenset({"prepare"}))
        self.answers = Answers(service, most=self.most)

    def gate(self, gid: str) -> asyncio.Event:
        return self.gates.setdefault(gid, asyncio.Event())

    async def stream(self, _requests: Any, context: Any) -> None:
        self.contexts.append(context)
        try:
            await self.answers.serve(context)
        finally:
            self.over += 1

    async def until_begun(self, count: int) -> None:
        while len(self.begun) < count:
            await asyncio.sleep(0)

    def _frame(self) -> participant_pb2.StreamResponse:
        return participant_pb2.StreamResponse()

    async def _commit(self, request: participant_pb2.CommitRequest) -> Answer:
        self.begun.append(request.gid)
        if request.gid.startswith("hold"):
            await self.gate(request.gid).wait()
        if request.gid.startswith("fail"):
            raise RuntimeError(request.gid)
        self.done.append(request.gid)
        identity = types_pb2.DatabaseIdentity(database=request.gid)
        return Answer(outcome=participant_pb2.COMMIT_OUTCOME_COMMITTED, identity=identity)

    async def _prepare(self, request: participant_pb2.PrepareRequest) -> participant_pb2.PrepareResponse:
        self.begun.append(request.gid)
        if request.gid.startswith("hold"):
            await self.gate(request.gid).wait()
        results = [types_pb2.Payload(json="x" * int(request.journal_position))]
        return participant_pb2.PrepareResponse(vote=types_pb2.VOTE_YES, results=results)

    def _failure(self, kind: str, error: Exception) -> types_pb2.CallFailure:
        message = f"{kind}: {error}"
        return to_failure(Problem(grpc.StatusCode.FAILED_PRECONDITION, "TOLD", message, outcome_known=False))


@contextlib.asynccontextmanager
async def serving(
    handler: Any, *, write: Callable[[Any], bytes] = participant_pb2.StreamResponse.SerializeToString
) -> AsyncIterator[tuple[grpc.aio.Server, str]]:
    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(
        handler, request_deserializer=participant_pb2.StreamRequest.FromString, response_serializer=write
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("twophase.v1.Participant", {"Stream": method})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def calling_at(address: str) -> AsyncIterator[Calls]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: participant_pb2_grpc.ParticipantAsyncStub = participant_pb2_grpc.ParticipantStub(channel)
        calls = calls_of(stub.Stream, participant_pb2.StreamRequest)
        yield calls
        await calls.close()


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.fixture
async def calls(desk: Desk) -> AsyncIterator[Calls]:
    async with serving(desk.stream) as (_, address), calling_at(address) as calls:
        yield calls


def ask(calls: Calls, gid: str, timeout: float = 30.0) -> asyncio.Future[Answer]:
    return calls.call("commit", commit(gid), timeout=timeout)


async def test_every_answer_finds_its_call_whatever_the_order(calls: Calls, desk: Desk) -> None:
    held = [ask(calls, f"hold-{number}") for number in range(3)]
    swift = [ask(calls, f"swift-{number}") for number in range(3)]
    assert [(await call).identity.database for call in swift] == ["swift-0", "swift-1", "swift-2"]
    for number in (2, 0, 1):
        desk.gate(f"hold-{number}").set()
        assert (await held[number]).identity.database == f"hold-{number}"
    assert desk.done[3:] == ["hold-2", "hold-0", "hold-1"]


async def test_what_is_ready_together_leaves_together(calls: Calls) -> None:
    await ask(calls, "first")
    await asyncio.gather(*(ask(calls, str(number)) for number in range(FRAME_COUNT)))
    assert calls.frames == 2
    await asyncio.gather(*(ask(calls, str(number)) for number in range(FRAME_COUNT + 1)))
    assert calls.frames == 4


async def test_a_frame_is_bounded_in_bytes(calls: Calls) -> None:
    gid = "x" * (FRAME_BYTES // 4)
    await asyncio.gather(*(ask(calls, gid) for _ in range(9)))
    assert calls.frames == 3


async def test_large_answers_arrive(calls: Calls) -> None:
    def work(size: int) -> asyncio.Future[participant_pb2.PrepareResponse]:
        return calls.call("prepare", participant_pb2.PrepareRequest(journal_position=size), timeout=30)

    sizes = [10, 3 * FRAME_BYTES, 10, FRAME_BYTES, FRAME_BYTES]
    answers = await asyncio.gather(*map(work, sizes))
    assert [len(answer.results[0].json) for answer in answers] == sizes


async def test_an_error_is_told_as_the_unary_call_would(calls: Calls) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await ask(calls, "fail-1")
    assert from_call(failed.value) == Problem(
        grpc.StatusCode.FAILED_PRECONDITION, "TOLD", "commit: fail-1", outcome_known=False
    )
    assert (await ask(calls, "next")).identity.database == "next"


async def test_a_kind_that_is_not_offered_is_unimplemented_and_breaks_nothing(calls: Calls) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await calls.call("abort", participant_pb2.AbortRequest(), timeout=30)
    problem = from_call(failed.value)
    assert (problem.code, problem.outcome_known) == (grpc.StatusCode.UNIMPLEMENTED, True)
    assert (await ask(calls, "next")).identity.database == "next"


async def test_a_call_ends_at_its_timeout_and_the_others_go_on(calls: Calls, desk: Desk) -> None:
    patient = ask(calls, "hold-patient")
    hasty = [ask(calls, f"hold-{number}", timeout=0.02 * number) for number in (3, 1, 2)]
    for call in hasty:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    for gate in desk.gates.values():
        gate.set()  # what comes too late is dropped
    assert (await patient).identity.database == "hold-patient"
    await desk.until_begun(4)


async def test_r13_who_hangs_up_cancels_nothing(calls: Calls, desk: Desk) -> None:
    call = ask(calls, "hold-1")
    await desk.until_begun(1)
    call.cancel()
    desk.gate("hold-1").set()
    await ask(calls, "next")
    assert desk.done == ["hold-1", "next"]


async def test_r13_what_runs_when_the_stream_breaks_is_worked_on_all_the_same(desk: Desk) -> None:
    async with serving(desk.stream) as (_, address):
        async with calling_at(address) as calls:
            call = ask(calls, "hold-1")
            await desk.until_begun(1)
        with pytest.raises(StreamClosed):
            await call
        assert len(desk.answers.running) == 1
        desk.gate("hold-1").set()
        await asyncio.wait(desk.answers.running)
        assert desk.done == ["hold-1"]


async def test_what_was_given_up_before_it_left_never_leaves(calls: Calls, desk: Desk) -> None:
    ask(calls, "cancelled").cancel()
    await ask(calls, "sent")
    assert desk.begun == ["sent"]


async def test_a_broken_stream_fails_its_calls_and_the_next_call_opens_another(desk: Desk) -> None:
    async def one_frame(_requests: Any, context: Any) -> None:
        if not desk.contexts:
            desk.contexts.append(context)
            await context.read()
            return
        await desk.stream(_requests, context)

    async with serving(one_frame) as (_, address), calling_at(address) as calls:
        lost = [ask(calls, "one"), ask(calls, "two")]
        for call in lost:
            with pytest.raises(grpc.aio.AioRpcError, match="ended before the answer") as failed:
                await call
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await ask(calls, "three")).identity.database == "three"


async def test_a_server_that_ends_answers_what_it_has_begun(desk: Desk) -> None:
    async with serving(desk.stream) as (server, address), calling_at(address) as calls:
        call = ask(calls, "hold-1")
        await desk.until_begun(1)
        desk.answers.end()
        stopping = asyncio.create_task(server.stop(30))
        desk.gate("hold-1").set()
        assert (await call).identity.database == "hold-1"
        await stopping  # no stream keeps it
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ask(calls, "later")
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_is_ending_refuses_what_comes_while_it_answers_what_it_has_begun(desk: Desk) -> None:
    async with serving(desk.stream) as (_, address), calling_at(address) as calls:
        call = ask(calls, "hold-1")
        await desk.until_begun(1)
        desk.answers.end()
        for late in (
            ask(calls, "late"),
            calls.call("prepare", participant_pb2.PrepareRequest(gid="later"), timeout=30),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await late
            problem = from_call(failed.value)
            assert (problem.code, problem.outcome_known) == (grpc.StatusCode.UNAVAILABLE, True)
        desk.gate("hold-1").set()
        assert (await call).identity.database == "hold-1"
        while not desk.over:
            await asyncio.sleep(0.01)
    assert desk.begun == ["hold-1"]


async def test_a_server_that_is_ending_opens_no_stream(desk: Desk) -> None:
    desk.answers.end()
    async with serving(desk.stream) as (_, address), calling_at(address) as calls:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await ask(calls, "late")
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert desk.begun == []


async def test_r13_work_without_room_is_refused_and_what_finishes_a_branch_is_not() -> None:
    desk = Desk(most=2)
    async with serving(desk.stream) as (_, address), calling_at(address) as calls:
        held = [
            calls.call("prepare", participant_pb2.PrepareRequest(gid=f"hold-{number}"), timeout=30)
            for number in range(2)
        ]
        await desk.until_begun(2)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await calls.call("prepare", participant_pb2.PrepareRequest(gid="more"), timeout=30)
        problem = from_call(failed.value)
        assert (problem.code, problem.outcome_known) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        assert (await ask(calls, "finish")).identity.database == "finish"
        for gate in desk.gates.values():
            gate.set()
        await asyncio.gather(*held)
        await calls.call("prepare", participant_pb2.PrepareRequest(gid="room"), timeout=30)


async def test_a_caller_that_reads_no_answers_is_sent_no_more_than_there_is_room_for() -> None:
    desk = Desk(most=3)
    async with serving(desk.stream) as (_, address), grpc.aio.insecure_channel(address) as channel:
        stub: participant_pb2_grpc.ParticipantAsyncStub = participant_pb2_grpc.ParticipantStub(channel)
        stream: Any = stub.Stream()
        large = participant_pb2.PrepareRequest(journal_position=1 << 20)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                calls = [participant_pb2.StreamCall(number=sent + 1, commit=commit("x" * 20_000))]
                calls.append(participant_pb2.StreamCall(number=sent + 2, prepare=large))
                await stream.write(participant_pb2.StreamRequest(calls=calls))
                sent += 2

        flooding = asyncio.create_task(flood())
        begun = -1
        while begun < len(desk.begun):
            begun = len(desk.begun)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(flooding), 0.3)
        assert not flooding.done()
        answered = 0
        while answered < begun:
            answered += len((await stream.read()).answers)
        flooding.cancel()
        stream.cancel()


async def test_bytes_that_are_no_frame_end_the_stream_after_what_came_before(desk: Desk) -> None:
    async with serving(desk.stream) as (_, address), grpc.aio.insecure_channel(address) as channel:
        stream: Any = channel.stream_stream(METHOD, response_deserializer=participant_pb2.StreamResponse.FromString)()
        good = participant_pb2.StreamRequest(calls=[participant_pb2.StreamCall(number=7, commit=commit("hold-1"))])
        await stream.write(good.SerializeToString())
        await desk.until_begun(1)
        await stream.write(b"\xff\xff\xff")
        desk.gate("hold-1").set()
        answers: Any = await stream.read()
        assert [answer.number for answer in answers.answers] == [7]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.read()
    problem = from_call(failed.value)
    assert (problem.code, problem.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_a_caller_that_closes_its_side_gets_the_answers_that_are_left(desk: Desk) -> None:
    async with serving(desk.stream) as (_, address), grpc.aio.insecure_channel(address) as channel:
        stub: participant_pb2_grpc.ParticipantAsyncStub = participant_pb2_grpc.ParticipantStub(channel)
        stream: Any = stub.Stream()
        one = participant_pb2.StreamCall(number=1, commit=commit("hold-1"))
        await stream.write(participant_pb2.StreamRequest(calls=[one]))
        await stream.done_writing()
        await desk.until_begun(1)
        desk.gate("hold-1").set()
        [answer] = (await stream.read()).answers
        assert (answer.number, answer.commit.identity.database) == (1, "hold-1")
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("kind", ["prepare", ""])
async def test_an_answer_of_another_kind_is_none(kind: str) -> None:
    async def wrong(_requests: Any, context: Any) -> None:
        frame = await context.read()
        answer = participant_pb2.StreamAnswer(number=frame.calls[0].number)
        if kind:
            getattr(answer, kind).SetInParent()
        stranger = participant_pb2.StreamAnswer(number=999, commit=Answer())
        await context.write(participant_pb2.StreamResponse(answers=[stranger, answer]))
        await context.read()

    async with serving(wrong) as (_, address), calling_at(address) as calls:
        with pytest.raises(grpc.aio.AioRpcError, match="commit was answered with") as failed:
            await ask(calls, "x")
        assert failed.value.code() is grpc.StatusCode.INTERNAL


async def test_an_idle_stream_is_closed_before_anybody_pings_over_it(
    calls: Calls, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "IDLE_SECONDS", 0.05)
    await ask(calls, "first")
    while not desk.over:
        await asyncio.sleep(0.01)
    waiting = ask(calls, "hold-second")  # what waits for an answer is not idle
    await desk.until_begun(2)
    await asyncio.sleep(0.2)
    desk.gate("hold-second").set()
    assert (await waiting).identity.database == "hold-second"
    assert (len(desk.contexts), desk.over) == (2, 1)


async def test_after_it_is_closed_every_call_fails_as_closed(calls: Calls) -> None:
    call = ask(calls, "hold-1")
    await calls.close()
    for late in (call, ask(calls, "late")):
        with pytest.raises(StreamClosed):
            await late
    await calls.close()


class Older(PlainPeer):
    """A peer whose unary calls are answered, and whose streams may not be."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.alone: list[str] = []

    async def unary(self, kind: str, request: Any, timeout: float) -> Any:
        assert 0 <= timeout <= 30
        self.alone.append(f"{kind} {request.gid}")
        if request.gid.startswith("fail"):
            raise RuntimeError(request.gid)
        if request.gid.startswith("hold"):
            await asyncio.Event().wait()
        return Answer()


async def test_a_peer_without_streams_is_sent_unary_calls_those_under_way_included() -> None:
    async def refuse(_requests: Any, context: Any) -> None:
        await context.read()  # so that the frame was written: see `_why`
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")

    async with serving(refuse) as (_, address), grpc.aio.insecure_channel(address) as channel:
        stub: participant_pb2_grpc.ParticipantAsyncStub = participant_pb2_grpc.ParticipantStub(channel)
        peer = Older(stub.Stream, participant_pb2.StreamRequest)
        calls = Calls(peer)
        calls.offered = True
        one, two, given_up = ask(calls, "one"), ask(calls, "fail-two"), ask(calls, "hold-three")
        assert await one == Answer()
        with pytest.raises(RuntimeError, match="fail-two"):
            await two
        given_up.cancel()
        assert not calls.offered
        assert await ask(calls, "later") == Answer()
        await calls.close()
    assert peer.alone == ["commit one", "commit fail-two", "commit hold-three", "commit later"]


async def test_nothing_goes_by_a_stream_until_one_is_offered() -> None:
    def unexpected() -> Any:
        raise AssertionError("a stream was opened")

    peer = Older(unexpected, participant_pb2.StreamRequest)
    calls = Calls(peer)
    assert await ask(calls, "one") == Answer()
    await calls.close()


async def test_an_answer_that_nobody_can_read_breaks_the_stream_and_the_next_calls_are_unary() -> None:
    async def garbage(_requests: Any, context: Any) -> None:
        await context.read()
        await context.write(b"\xff\xff\xff")
        await context.read()

    async with serving(garbage, write=bytes) as (_, address), grpc.aio.insecure_channel(address) as channel:
        stub: participant_pb2_grpc.ParticipantAsyncStub = participant_pb2_grpc.ParticipantStub(channel)
        calls = Calls(Older(stub.Stream, participant_pb2.StreamRequest))
        calls.offered = True
        for call in (ask(calls, "one"), ask(calls, "two")):
            with pytest.raises(grpc.aio.AioRpcError, match="no message of this call") as failed:
                await call
            problem = from_call(failed.value)
            assert (problem.code, problem.outcome_known) == (grpc.StatusCode.INTERNAL, False)
        assert await ask(calls, "three") == Answer()
        await calls.close()
