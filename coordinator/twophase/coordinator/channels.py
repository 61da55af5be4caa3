"""The links to participants over gRPC: `engine.links.Links` on `grpc.aio` channels.

Lives here: channels and what their errors mean. Must not live here: retries, timeouts, decisions.

A call fails fast: while the participant cannot be reached it raises at once instead of waiting for it to come back, so
that a dead participant costs a transaction nothing but its abort. Phase two, which waits, has the engine's own retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol, TypeVar

import grpc

from twophase.coordinator.engine.links import Link, LinkLost, LinkRejected, NotOffered
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

_Request_contra = TypeVar("_Request_contra", contravariant=True)
_Response = TypeVar("_Response")
_Response_co = TypeVar("_Response_co", covariant=True)


class _Method(Protocol[_Request_contra, _Response_co]):
    def __call__(
        self, request: _Request_contra, /, *, timeout: float | None = None, wait_for_ready: bool | None = None
    ) -> Awaitable[_Response_co]: ...


class GrpcLink:
    """The calls of `twophase.v1.Participant` at one address, over one channel that connects again by itself."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub = participant_pb2_grpc.ParticipantStub(self._channel)
        self.closed = False

    async def handshake(
        self, request: participant_pb2.HandshakeRequest, *, timeout: float
    ) -> participant_pb2.HandshakeResponse:
        return await self._call("Handshake", self._stub.Handshake, request, timeout)

    async def prepare(
        self, request: participant_pb2.PrepareRequest, *, timeout: float
    ) -> participant_pb2.PrepareResponse:
        return await self._call("Prepare", self._stub.Prepare, request, timeout)

    async def apply(self, request: participant_pb2.ApplyRequest, *, timeout: float) -> participant_pb2.ApplyResponse:
        return await self._call("Apply", self._stub.Apply, request, timeout)

    async def commit(self, request: participant_pb2.CommitRequest, *, timeout: float) -> participant_pb2.CommitResponse:
        return await self._call("Commit", self._stub.Commit, request, timeout)

    async def abort(self, request: participant_pb2.AbortRequest, *, timeout: float) -> participant_pb2.AbortResponse:
        return await self._call("Abort", self._stub.Abort, request, timeout)

    async def list_prepared(
        self, request: participant_pb2.ListPreparedRequest, *, timeout: float
    ) -> participant_pb2.ListPreparedResponse:
        return await self._call("ListPrepared", self._stub.ListPrepared, request, timeout)

    async def inspect(
        self, request: participant_pb2.InspectRequest, *, timeout: float
    ) -> participant_pb2.InspectResponse:
        return await self._call("Inspect", self._stub.Inspect, request, timeout)

    async def observe(
        self, request: participant_pb2.ObserveRequest, *, timeout: float
    ) -> participant_pb2.ObserveResponse:
        return await self._call("Observe", self._stub.Observe, request, timeout)

    async def diagnose(
        self, request: participant_pb2.DiagnoseRequest, *, timeout: float
    ) -> participant_pb2.DiagnoseResponse:
        return await self._call("Diagnose", self._stub.Diagnose, request, timeout)

    async def close(self) -> None:
        """Gives the connection back; calls under way raise `LinkLost`. A second call does nothing."""
        if not self.closed:
            self.closed = True
            await self._channel.close()

    async def _call(
        self, name: str, method: _Method[_Request_contra, _Response], request: _Request_contra, timeout: float
    ) -> _Response:
        where = f"{name} at {self._address}"
        try:
            return await method(request, timeout=timeout, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            failed = f"{where}: {error.code().name}: {error.details()}"
            raise _kind_of(error.code())(failed) from error
        except grpc.aio.UsageError as error:
            raise LinkLost(f"{where}: the link is closed") from error
        except asyncio.CancelledError as error:
            if caller_is_cancelled():
                raise
            raise LinkLost(f"{where}: the link was closed under the call") from error


def _kind_of(code: grpc.StatusCode) -> type[LinkLost]:
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotOffered
    return LinkRejected if code in _REJECTIONS else LinkLost


class GrpcLinks:
    """Makes links, one for each address. Use it inside a running event loop; `close` ends them all."""

    def __init__(self) -> None:
        self._links: dict[str, GrpcLink] = {}

    def connect(self, address: str) -> Link:
        """The link to `host:port`; the same one for the same address, unless it was closed."""
        link = self._links.get(address)
        if link is None or link.closed:
            link = self._links[address] = GrpcLink(address)
        return link

    async def close(self) -> None:
        """Closes every link. A second call does nothing."""
        links = tuple(self._links.values())
        self._links.clear()
        for link in links:
            await link.close()
