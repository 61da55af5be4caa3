"""The half of a stream of calls that answers.

Lives here: reading frames, a task for each call, answers in frames, and how a stream ends. Must not live here: what a
call does, and what becomes of one whose caller is gone (it is worked on all the same).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from twophase.contract.status import Problem, to_failure, to_status
from twophase.contract.streams import FRAME_BYTES, FRAME_COUNT
from twophase.contract.streams.departures import Departures
from twophase.v1 import types_pb2

MOST: Final = 4096
"""How many calls of one stream may be under way before such as can be refused are, and how many answers may wait for a
caller who does not read them before no more calls are taken."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(frozen=True, slots=True)
class Service:
    """What streams carry for one service.

    `frame` makes an empty frame of answers. `calls` work on a call each, by kind (as the contract's oneof names it),
    and may raise anything; `failure` is what the caller is told of that. Calls of the kinds `refusable` are refused
    where there is no room; the others are always taken.
    """

    frame: Callable[[], Any]
    calls: Mapping[str, Callable[[Any], Awaitable[Any]]]
    failure: Callable[[str, Exception], types_pb2.CallFailure]
    refusable: frozenset[str]


class Answers:
    """All streams of one service, and the calls that came by them."""

    def __init__(self, service: Service, *, most: int = MOST) -> None:
        self._service = service
        self._most = most
        self._streams: set[_Stream] = set()
        self._ending = False
        self.running: set[asyncio.Task[None]] = set()
        """The calls that are worked on, those whose caller is gone included."""

    async def serve(self, context: Context) -> None:
        """The life of one stream: until every call of it is answered, or gRPC cancels this, the caller being gone."""
        if self._ending:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        stream = _Stream(self._service, context, self.running, self._most)
        reader = stream.reader
        self._streams.add(stream)
        try:
            await asyncio.wait((reader,))
            await stream.finish()
        finally:
            self._streams.discard(stream)
            reader.cancel()
            stream.leave()
        if not reader.cancelled() and (error := reader.exception()) is not None:
            await _refuse(context, error)

    def end(self) -> None:
        """No more calls are taken: those that come are refused. Every stream ends as soon as its calls are answered."""
        self._ending = True
        for stream in self._streams:
            stream.end()


class _Stream:
    """One stream, and the answers that are to leave by it."""

    def __init__(self, service: Service, context: Context, running: set[asyncio.Task[None]], most: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._service = service
        self._context = context
        self._running = running
        self._most = most
        self._open = 0
        self._outbox: deque[tuple[int, str, Any]] = deque()
        self._departures = Departures(self._write, lambda: self._open)
        self._answered = asyncio.Event()
        self._gone = False
        self._ending = False
        self.reader = self._loop.create_task(self._read())

    async def _read(self) -> None:
        """Begins every call at once; returns when the caller has closed its side."""
        while (frame := await self._context.read()) is not grpc.aio.EOF:
            for call in frame.calls:
                self._begin(call)
            while len(self._outbox) > self._most:
                await self._departures.now()

    def _begin(self, call: Any) -> None:
        self._open += 1
        kind = call.WhichOneof("request")
        if kind not in self._service.calls:
            self._send(call.number, "failure", to_failure(_UNKNOWN))
        elif self._ending:
            self._send(call.number, "failure", to_failure(_STOPPING))
        elif self._open > self._most and kind in self._service.refusable:
            self._send(call.number, "failure", to_failure(_NO_ROOM))
        else:
            task = self._loop.create_task(self._work(call.number, kind, getattr(call, kind)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _work(self, number: int, kind: str, request: Any) -> None:
        try:
            answer = await self._service.calls[kind](request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a status, and the log the rest
            kind, answer = "failure", self._service.failure(kind, error)
        self._send(number, kind, answer)

    def _send(self, number: int, kind: str, answer: Any) -> None:
        """Answers one call, if anybody is still there."""
        self._open -= 1
        self._stop_reading_in_the_end()
        if self._gone:
            self._answered.set()
            return
        self._outbox.append((number, kind, answer))
        self._departures.ready()

    def end(self) -> None:
        """No more calls are taken. It is read on while there is something to answer: a call that nobody read would wait
        for that in vain."""
        self._ending = True
        self._stop_reading_in_the_end()

    def _stop_reading_in_the_end(self) -> None:
        if self._ending and not self._open:
            self.reader.cancel()

    async def finish(self) -> None:
        """Returns when everything is answered, and every answer has left."""
        while self._open or self._departures.due:
            self._answered.clear()
            await self._answered.wait()

    def leave(self) -> None:
        """The stream is over; what is answered now is heard by nobody."""
        self._gone = True
        self._outbox.clear()
        self._departures.stop()

    async def _write(self) -> bool:
        try:
            await self._context.write(self._next_frame())
        except grpc.aio.BaseError:
            self._gone = True  # the stream is broken; gRPC is about to cancel who serves it
        finally:
            self._answered.set()
        return bool(self._outbox) and not self._gone

    def _next_frame(self) -> Any:
        frame, size, count = self._service.frame(), 0, 0
        while self._outbox and count < FRAME_COUNT:
            number, kind, answer = self._outbox[0]
            size += answer.ByteSize()
            if count and size > FRAME_BYTES:
                break
            frame.answers.add(number=number, **{kind: answer})
            self._outbox.popleft()
            count += 1
        return frame


async def _refuse(context: Context, error: BaseException) -> None:
    """Ends a stream that carried what is no frame. What came before it is answered, and nothing else was started."""
    if isinstance(error, grpc.aio.BaseError):
        return  # the stream is broken: nobody is there to be told
    if not isinstance(error, DecodeError):
        raise error
    problem = Problem(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="MALFORMED_MESSAGE",
        message=f"what was sent is no message of this stream ({error}); text fields must be UTF-8",
        remedy="build it with code generated from the contract; text fields must be UTF-8",
    )
    status = rpc_status.to_status(to_status(problem))
    await context.abort(problem.code, problem.message, status.trailing_metadata)


_UNKNOWN: Final = Problem(
    code=grpc.StatusCode.UNIMPLEMENTED,
    reason="NOT_OFFERED",
    message="this kind of call is not offered on this stream; send it as a unary call",
    remedy="send it as a unary call",
)
_STOPPING: Final = Problem(
    code=grpc.StatusCode.UNAVAILABLE,
    reason="STOPPING",
    message="the server is stopping; nothing of this call was started; send it again later",
    remedy="send it again later",
)
_NO_ROOM: Final = Problem(
    code=grpc.StatusCode.RESOURCE_EXHAUSTED,
    reason="NO_ROOM",
    message="too many calls of this stream are under way; nothing of this one was started; send it again later",
    remedy="send it again later",
)
