"""The port to participants: what the engine and the supervisor ask of the network.

Lives here: the interface and its one error. Must not live here: channels, sockets, retries.

The messages are the contract's own (`twophase.v1`), so that the in-process links of tests and of the simulation speak
exactly what the gRPC ones do.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from twophase.v1 import participant_pb2


class LinkLost(Exception):
    """The call was not answered: whether it took effect is unknown. The message says where and what."""


class LinkFailed(LinkLost):
    """The call failed where it was worked on: instead of an outcome came a status that says so, the call's own or its
    stream's. Not one that says "not now", as a participant does that has too much to do."""


class LinkRejected(LinkFailed):
    """The participant answered that the call itself is wrong (a status that repeating will not change)."""


class NotOffered(LinkRejected):
    """The participant does not offer this call at all; it may be older than the contract."""


class Link(Protocol):
    """The calls of `twophase.v1.Participant` at one address. What they return raises `LinkLost` when it is awaited, not
    before; `timeout` is in seconds. Those of every transaction may be futures, which cost no task."""

    async def handshake(
        self, request: participant_pb2.HandshakeRequest, *, timeout: float
    ) -> participant_pb2.HandshakeResponse: ...

    def prepare(
        self, request: participant_pb2.PrepareRequest, *, timeout: float
    ) -> Awaitable[participant_pb2.PrepareResponse]: ...

    def apply(
        self, request: participant_pb2.ApplyRequest, *, timeout: float
    ) -> Awaitable[participant_pb2.ApplyResponse]: ...

    def commit(
        self, request: participant_pb2.CommitRequest, *, timeout: float
    ) -> Awaitable[participant_pb2.CommitResponse]: ...

    def abort(
        self, request: participant_pb2.AbortRequest, *, timeout: float
    ) -> Awaitable[participant_pb2.AbortResponse]: ...

    async def list_prepared(
        self, request: participant_pb2.ListPreparedRequest, *, timeout: float
    ) -> participant_pb2.ListPreparedResponse: ...

    async def inspect(
        self, request: participant_pb2.InspectRequest, *, timeout: float
    ) -> participant_pb2.InspectResponse: ...

    async def observe(
        self, request: participant_pb2.ObserveRequest, *, timeout: float
    ) -> participant_pb2.ObserveResponse: ...

    async def diagnose(
        self, request: participant_pb2.DiagnoseRequest, *, timeout: float
    ) -> participant_pb2.DiagnoseResponse: ...

    async def close(self) -> None:
        """Gives the connection back. A second call does nothing."""
        ...


class Links(Protocol):
    """Makes links. One link an address is enough: calls share it."""

    def connect(self, address: str) -> Link:
        """A link to `host:port`; it connects by itself and again after every loss. Never raises for a dead address."""
        ...
