"""The connection to a coordinator: one channel, which connects by itself and again after every loss.

Lives here: the channel, the stream on it, and telling "closed" from "cancelled". Must not live here: what is sent,
retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar, cast

import grpc

from twophase.contract.status import readable
from twophase.contract.streams.calling import Calls, Rpc, StreamClosed
from twophase.coordinator.client.execution import Closed
from twophase.coordinator.transport import CHANNEL_OPTIONS, caller_is_cancelled
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc

_Request = TypeVar("_Request")
_Request_contra = TypeVar("_Request_contra", contravariant=True)
_Response = TypeVar("_Response")
_Response_co = TypeVar("_Response_co", covariant=True)


class Method(Protocol[_Request_contra, _Response_co]):
    """A call of the generated stub."""

    def __call__(self, request: _Request_contra, /, *, timeout: float | None = None) -> Awaitable[_Response_co]: ...


class Connection:
    """A channel and its stub; what closes it under a call is told apart from what cancels the caller."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self.stub: coordinator_pb2_grpc.CoordinatorAsyncStub = coordinator_pb2_grpc.CoordinatorStub(self._channel)
        self._closed = asyncio.Event()
        self._calls = Calls(self)

    async def close(self) -> None:
        self._closed.set()
        await self._calls.close()
        await self._channel.close()

    async def ready(self, within: float) -> None:
        if self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return
        # A channel that is closed while somebody waits for it never becomes ready, and does not say so.
        ready = asyncio.ensure_future(self._channel.channel_ready())
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((ready, closed), timeout=within, return_when=asyncio.FIRST_COMPLETED)
            if self._closed.is_set():
                raise Closed
            if not ready.done():
                raise TimeoutError
        finally:
            ready.cancel()
            closed.cancel()
            await asyncio.gather(ready, closed, return_exceptions=True)

    async def execute(
        self, request: coordinator_pb2.ExecuteRequest, *, timeout: float
    ) -> coordinator_pb2.ExecuteResponse:
        return cast(coordinator_pb2.ExecuteResponse, await self._calls.call("execute", request, timeout=timeout))

    # --- what `Calls` asks --------------------------------------------------------------------------------------------

    def open(self) -> Rpc:
        return self.stub.Stream()

    def frame(self) -> coordinator_pb2.CoordinatorStreamRequest:
        return coordinator_pb2.CoordinatorStreamRequest()

    async def unary(self, kind: str, request: Any, timeout: float) -> Any:  # noqa: ARG002 - there is only one
        answer = await self.call(self.stub.Execute, request, timeout=timeout)
        self._calls.offered = answer.streams
        return answer

    def error(self, kind: str, error: grpc.aio.AioRpcError | StreamClosed) -> Exception:  # noqa: ARG002
        return Closed() if isinstance(error, StreamClosed) else error

    async def call(self, method: Method[_Request, _Response], request: _Request, *, timeout: float) -> _Response:
        try:
            return readable(await method(request, timeout=timeout))
        except grpc.aio.UsageError as error:
            raise Closed from error
        except asyncio.CancelledError as error:
            if caller_is_cancelled():
                raise
            raise Closed from error
