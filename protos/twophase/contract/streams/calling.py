"""The half of a stream of calls that asks.

Lives here: numbers, frames, timeouts, what a broken stream means, and the way back to unary calls. Must not live here:
retries, and what an error means to who asked.

A call is a future and nothing else: no task waits for it. It ends by its answer, at its timeout, or with the stream;
who cancels it has it forgotten, and an answer that comes too late is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, cast

import grpc
from google.protobuf.message import Message

from twophase.contract.status import failed_call, of_failure, readable
from twophase.contract.streams import FRAME_BYTES, FRAME_COUNT
from twophase.contract.streams.departures import Departures

LARGE: Final = 32 << 10
"""In bytes. A request above this is sent as a unary call, beside the stream: no small one waits behind it."""

IDLE_SECONDS: Final = 4.0
"""A stream that carried nothing for this long, and at most twice as long, is closed. That is before the first keepalive
ping (10 s): servers that punish pings over idle connections never see one."""

Rpc: TypeAlias = "grpc.aio.StreamStreamCall[Any, Any]"
Unary: TypeAlias = Callable[[str, Any, float], Coroutine[Any, Any, Any]]


class StreamClosed(Exception):
    """Whoever asked has closed the stream, before the call or under it."""


class Peer(Protocol):
    """What `Calls` needs to know of the service and of the application."""

    def open(self) -> Rpc:
        """Opens a stream. It fails at once if there is no connection."""
        ...

    def frame(self) -> Any:
        """An empty frame, whose `calls` are to be added to."""
        ...

    async def unary(self, kind: str, request: Any, timeout: float) -> Any:
        """The same call beside the stream. Raises what the application is to see."""
        ...

    def error(self, kind: str, error: grpc.aio.AioRpcError | StreamClosed) -> Exception:
        """What the application is to see of a call that failed."""
        ...


@dataclass(eq=False, slots=True)
class _Call:
    """One call under way. `deadline` is a moment of the loop's clock."""

    number: int
    kind: str
    request: Message
    size: int
    deadline: float
    answer: asyncio.Future[Any]


class Calls:
    """The calls to one peer, over one stream that is opened when there is something to say.

    A broken stream fails the calls on it at once; the next call opens another. Until a peer is known to offer streams
    it is sent unary calls. One that offers them no more is sent by unary calls what was on the stream, too: it has not
    seen that.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._stream: _Stream | None = None
        self._closed = False
        self._beside: set[asyncio.Task[Any]] = set()
        self.offered = False
        """Whether the peer offers streams: set by who has been told."""
        self.frames = 0
        """How many were sent."""

    def call(self, kind: str, request: Message, *, timeout: float) -> asyncio.Future[Any]:
        """Sends one call; the future is its answer, or the error that `Peer.error` or `Peer.unary` makes of its
        failure: DEADLINE_EXCEEDED after `timeout` seconds. Raises nothing itself.
        """
        size = request.ByteSize()
        if self._closed or not self.offered or size > LARGE:
            return self._alone(kind, request, timeout)
        stream = self._stream
        if stream is None:
            stream = self._stream = _Stream(self, self._peer, self._loop)
        answer = self._loop.create_future()
        stream.send(kind, request, size, self._loop.time() + timeout, answer)
        return answer

    async def close(self) -> None:
        """Fails the calls under way with `StreamClosed`, and all that come later."""
        self._closed = True
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    def over(self, stream: _Stream) -> None:
        """The stream is no more."""
        if self._stream is stream:
            self._stream = None

    def not_offered(self, unseen: tuple[_Call, ...]) -> None:
        """The peer takes no streams; `unseen` are calls that were on one."""
        self.offered = False
        for call in unseen:
            left = max(0.0, call.deadline - self._loop.time())
            self._alone(call.kind, call.request, left).add_done_callback(partial(_hand_over, call.answer))

    def _alone(self, kind: str, request: Message, timeout: float) -> asyncio.Future[Any]:
        if self._closed:
            failed = self._loop.create_future()
            failed.set_exception(self._peer.error(kind, StreamClosed()))
            return failed
        task = self._loop.create_task(self._peer.unary(kind, request, timeout))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task


class _Stream:
    """One stream, from its opening to its end."""

    def __init__(self, owner: Calls, peer: Peer, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._peer = peer
        self._loop = loop
        self._rpc = peer.open()
        self._numbers = 0
        self._pending: dict[int, _Call] = {}
        self._outbox: deque[_Call] = deque()
        self._heard = False
        self._broke = False
        self._departures = Departures(self._write, lambda: len(self._pending) - len(self._outbox))
        self._reader = loop.create_task(self._read())
        self._alarm: asyncio.TimerHandle | None = None
        self._idle = loop.call_later(IDLE_SECONDS, self._rest, 0)

    def send(self, kind: str, request: Message, size: int, deadline: float, answer: asyncio.Future[Any]) -> None:
        self._numbers += 1
        call = _Call(self._numbers, kind, request, size, deadline, answer)
        self._pending[call.number] = call
        self._outbox.append(call)
        self._departures.ready()
        # One timer for all: it is set for the earliest deadline, and looks for the next one when it goes off. Setting
        # and clearing one for each call would cost more than the call's share of a frame.
        if self._alarm is None or deadline < self._alarm.when():
            self._set_alarm(deadline)

    async def close(self) -> None:
        self._end(StreamClosed())
        await asyncio.gather(self._reader, return_exceptions=True)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _write(self) -> bool:
        frame = self._next_frame()
        if frame is not None:
            self._owner.frames += 1
            try:
                await self._rpc.write(frame)
            except asyncio.InvalidStateError:
                return False  # the stream is over, and its reader learns why
            except grpc.aio.AioRpcError:
                self._broke = True
                return False
        return bool(self._outbox)

    def _next_frame(self) -> Any | None:
        """What is ready, without calls that nobody waits for any more."""
        frame, size, count = self._peer.frame(), 0, 0
        while self._outbox and count < FRAME_COUNT:
            call = self._outbox[0]
            if not call.answer.done():
                size += call.size
                if count and size > FRAME_BYTES:
                    break
                frame.calls.add(number=call.number, **{call.kind: call.request})
                count += 1
            self._outbox.popleft()
        return frame if count else None

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        error: grpc.aio.AioRpcError | StreamClosed
        try:
            while (frame := cast(Any, await self._rpc.read())) is not grpc.aio.EOF:
                self._heard = True
                for answer in self._readable(frame).answers:
                    self._take(answer)
            error = failed_call(grpc.StatusCode.UNAVAILABLE, "the stream ended before the answer came")
        except grpc.aio.AioRpcError as broken:
            error = self._why(broken)
        except asyncio.CancelledError:
            error = StreamClosed()  # the channel was closed, or the stream was: then this finds nothing to fail
        self._end(error)

    def _readable(self, frame: Any) -> Any:
        """A frame as it came. One that nobody can read breaks the stream; from then on calls are unary, until the peer
        says again that it offers streams, so that an answer that is always unreadable is the failure of its own call.
        """
        try:
            return readable(frame)
        except grpc.aio.AioRpcError:
            self._owner.not_offered(())
            raise

    def _why(self, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """How the stream ended. Of one that was over before a frame could be written gRPC has lost the status, and
        shows INTERNAL. That may have been UNIMPLEMENTED, but nobody knows: the calls count as unanswered, and the next
        ones are unary until the peer says again that it offers streams.
        """
        if not self._broke:
            return error
        if not self._heard:
            self._owner.not_offered(())
        return failed_call(grpc.StatusCode.UNAVAILABLE, "the stream broke under what was written")

    def _take(self, answer: Any) -> None:
        call = self._pending.pop(answer.number, None)
        if call is None or call.answer.done():
            return
        kind = answer.WhichOneof("answer")
        if kind == call.kind:
            call.answer.set_result(getattr(answer, kind))
        elif kind == "failure":
            self._fail(call, of_failure(answer.failure))
        else:
            self._fail(
                call, failed_call(grpc.StatusCode.INTERNAL, f"{call.kind} was answered with {kind or 'nothing'}")
            )

    # --- ending -------------------------------------------------------------------------------------------------------

    def _fail(self, call: _Call, error: grpc.aio.AioRpcError | StreamClosed) -> None:
        if not call.answer.done():
            call.answer.set_exception(self._peer.error(call.kind, error))

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._loop.time()
        for call in [call for call in self._pending.values() if call.deadline <= now or call.answer.done()]:
            del self._pending[call.number]
            self._fail(call, failed_call(grpc.StatusCode.DEADLINE_EXCEEDED, "the answer did not come in time"))
        if self._pending:
            self._set_alarm(min(call.deadline for call in self._pending.values()))

    def _rest(self, numbers: int) -> None:
        if numbers == self._numbers and not self._pending:
            self._end(StreamClosed())
        else:
            self._idle = self._loop.call_later(IDLE_SECONDS, self._rest, self._numbers)

    def _end(self, error: grpc.aio.AioRpcError | StreamClosed) -> None:
        """Fails what is left. A second call finds nothing."""
        pending, self._pending = tuple(self._pending.values()), {}
        self._outbox.clear()
        self._idle.cancel()
        if self._alarm is not None:
            self._alarm.cancel()
        self._departures.stop()
        self._rpc.cancel()
        self._owner.over(self)
        waiting = tuple(call for call in pending if not call.answer.done())
        if not self._heard and not isinstance(error, StreamClosed) and error.code() is grpc.StatusCode.UNIMPLEMENTED:
            self._owner.not_offered(waiting)
        else:
            for call in waiting:
                self._fail(call, error)


def _hand_over(answer: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
    if answer.done():
        if not done.cancelled():
            done.exception()  # seen: nobody else will look
    elif done.cancelled():
        answer.cancel()
    elif (error := done.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
