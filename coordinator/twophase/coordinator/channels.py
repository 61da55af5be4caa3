"""The links to participants over gRPC: `engine.links.Links` on `grpc.aio` channels.

Lives here: channels and what their errors mean. Must not live here: retries, timeouts, decisions.

A call fails fast: while the participant cannot be reached it raises at once instead of waiting for it to come back, so
that a dead participant costs a transaction nothing but its abort. Phase two, which waits, has the engine's own retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, Protocol, TypeVar

import grpc

from twophase.contract.status import readable
from twophase.contract.streams.calling import Calls, Rpc, StreamClosed
from twophase.coordinator.engine.links import LinkFailed, LinkLost, LinkRejected, NotOffered
from twophase.coordinator.transport import CHANNEL_OPTIONS, caller_is_cancelled
from twophase.v1 import participant_pb2, participant_pb2_grpc

_REJECTIONS: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)

_FAILURES: Final = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS})

_Request_contra = TypeVar("_Request_contra", contravariant=True)
_Response = TypeVar("_Response")
_Response_co = TypeVar("_Response_co", covariant=True)


class _Method(Protocol[_Request_contra, _Response_co]):
    def __call__(
        self, request: _Request_contra, /, *, timeout: float | None = None, wait_for_ready: bool | None = None
    ) -> Awaitable[_Response_co]: ...


class _Participant:
    """The peer at one address, as `Calls` asks it: by stream or unary, and what its failures mean."""

    def __init__(self, address: str, stub: participant_pb2_grpc.ParticipantAsyncStub) -> None:
        self._address = address
        self._stub = stub
        self._methods: dict[str, _Method[Any, Any]] = {
            "prepare": stub.Prepare,
            "apply": stub.Apply,
            "commit": stub.Commit,
            "abort": stub.Abort,
        }

    def open(self) -> Rpc:
        return self._stub.Stream(wait_for_ready=False)

    def frame(self) -> participant_pb2.StreamRequest:
        return participant_pb2.StreamRequest()

    async def unary(self, kind: str, request: Any, timeout: float) -> Any:
        return await self.ask(kind, self._methods[kind], request, timeout)

    async def ask(
        self, kind: str, method: _Method[_Request_contra, _Response], request: _Request_contra, timeout: float
    ) -> _Response:
        """One unary call."""
        try:
            return readable(await method(request, timeout=timeout, wait_for_ready=False))
        except grpc.aio.AioRpcError as error:
            raise self.error(kind, error) from error
        except grpc.aio.UsageError as error:
            raise LinkLost(f"{self._where(kind)}: the link is closed") from error
        except asyncio.CancelledError as error:
            if caller_is_cancelled():
                raise
            raise self.error(kind, StreamClosed()) from error

    def error(self, kind: str, error: grpc.aio.AioRpcError | StreamClosed) -> LinkLost:
        if isinstance(error, StreamClosed):
            return LinkLost(f"{self._where(kind)}: the link was closed under the call")
        return _kind_of(error.code())(f"{self._where(kind)}: {error.code().name}: {error.details()}")

    def _where(self, kind: str) -> str:
        return f"{kind.title().replace('_', '')} at {self._address}"


class GrpcLink:
    """The calls of `twophase.v1.Participant` at one address, over one channel that connects again by itself.

    The calls that transactions are made of share a stream where the participant offers one, and return futures.
    """

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub: participant_pb2_grpc.ParticipantAsyncStub = participant_pb2_grpc.ParticipantStub(self._channel)
        self._participant = _Participant(address, self._stub)
        self._calls = Calls(self._participant)
        self.closed = False

    @property
    def frames(self) -> int:
        """How many messages were sent on streams."""
        return self._calls.frames

    def prepare(
        self, request: participant_pb2.PrepareRequest, *, timeout: float
    ) -> asyncio.Future[participant_pb2.PrepareResponse]:
        return self._calls.call("prepare", request, timeout=timeout)

    def apply(
        self, request: participant_pb2.ApplyRequest, *, timeout: float
    ) -> asyncio.Future[participant_pb2.ApplyResponse]:
        return self._calls.call("apply", request, timeout=timeout)

    def commit(
        self, request: participant_pb2.CommitRequest, *, timeout: float
    ) -> asyncio.Future[participant_pb2.CommitResponse]:
        return self._calls.call("commit", request, timeout=timeout)

    def abort(
        self, request: participant_pb2.AbortRequest, *, timeout: float
    ) -> asyncio.Future[participant_pb2.AbortResponse]:
        return self._calls.call("abort", request, timeout=timeout)

    async def handshake(
        self, request: participant_pb2.HandshakeRequest, *, timeout: float
    ) -> participant_pb2.HandshakeResponse:
        answer = await self._participant.ask("handshake", self._stub.Handshake, request, timeout)
        self._calls.offered = answer.streams
        return answer

    async def list_prepared(
        self, request: participant_pb2.ListPreparedRequest, *, timeout: float
    ) -> participant_pb2.ListPreparedResponse:
        return await self._participant.ask("list_prepared", self._stub.ListPrepared, request, timeout)

    async def inspect(
        self, request: participant_pb2.InspectRequest, *, timeout: float
    ) -> participant_pb2.InspectResponse:
        return await self._participant.ask("inspect", self._stub.Inspect, request, timeout)

    async def observe(
        self, request: participant_pb2.ObserveRequest, *, timeout: float
    ) -> participant_pb2.ObserveResponse:
        return await self._participant.ask("observe", self._stub.Observe, request, timeout)

    async def diagnose(
        self, request: participant_pb2.DiagnoseRequest, *, timeout: float
    ) -> participant_pb2.DiagnoseResponse:
        return await self._participant.ask("diagnose", self._stub.Diagnose, request, timeout)

    async def close(self) -> None:
        """Gives the connection back; calls under way raise `LinkLost`. A second call does nothing."""
        if not self.closed:
            self.closed = True
            await self._calls.close()
            await self._channel.close()


def _kind_of(code: grpc.StatusCode) -> type[LinkLost]:
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotOffered
    if code in _REJECTIONS:
        return LinkRejected
    return LinkFailed if code in _FAILURES else LinkLost


class GrpcLinks:
    """Makes links, one for each address. Use it inside a running event loop; `close` ends them all."""

    def __init__(self) -> None:
        self._links: dict[str, GrpcLink] = {}

    def connect(self, address: str) -> GrpcLink:
        """The link to `host:port`; the same one for the same address, unless it was closed."""
        link = self._links.get(address)
        if link is None or link.closed:
            self._links = {where: one for where, one in self._links.items() if not one.closed}
            link = self._links[address] = GrpcLink(address)
        return link

    async def close(self) -> None:
        """Closes every link. A second call does nothing."""
        links = tuple(self._links.values())
        self._links.clear()
        for link in links:
            await link.close()
