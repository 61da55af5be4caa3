"""A peer that comes back at another address under its name; run where /etc/hosts may be written to.

Prints how many seconds passed until it was found again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import grpc

from twophase.coordinator.channels import GrpcLink
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.transport import SERVER_OPTIONS
from twophase.v1 import participant_pb2

NAME = "peer.test"


async def handshake(_request: bytes, _context: Any) -> bytes:
    return participant_pb2.HandshakeResponse().SerializeToString()


def name_it(address: str) -> None:
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{address} {NAME}\n", encoding="ascii")


async def serve(address: str, port: int = 0) -> tuple[grpc.aio.Server, int]:
    name_it(address)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    methods: dict[str, Any] = {"Handshake": grpc.unary_unary_rpc_method_handler(handshake)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("twophase.v1.Participant", methods)])
    port = server.add_insecure_port(f"{address}:{port}")
    await server.start()
    return server, port


async def meet(link: GrpcLink) -> None:
    while True:
        with contextlib.suppress(LinkLost):
            await link.handshake(participant_pb2.HandshakeRequest(), timeout=5)
            return
        await asyncio.sleep(0.1)


async def main() -> None:
    server, port = await serve("127.0.0.1")
    link = GrpcLink(f"{NAME}:{port}")
    await meet(link)
    await server.stop(None)
    server, _ = await serve("127.0.0.2", port)
    began = time.monotonic()
    await meet(link)
    print(time.monotonic() - began)  # noqa: T201
    await link.close()
    await server.stop(None)


asyncio.run(main())
