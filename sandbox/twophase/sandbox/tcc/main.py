"""The process: one store, one gRPC server, one registration with the coordinator.

    python -m twophase.sandbox.tcc --data theatre.sqlite --coordinator 127.0.0.1:7400 --category stalls=100

Lives here: options, start and end. Must not live here: what a call does (`service`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from twophase.sandbox.tcc.service import Participant
from twophase.sandbox.tcc.store import MOMENTS, Store, StoreUnusable
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, participant_pb2_grpc

NAME: Final = "theatre"
VARIABLE: Final = "TCC_CRASH"
"""For drills: `within-confirm:2` kills this process the second time that it is there. `store.MOMENTS` are the names."""

_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_GRACE: Final = 5.0
_CALL_SECONDS: Final = 10.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_SERVER: Final = [
    ("grpc.so_reuseport", 0),
    # A coordinator pings to notice a frozen participant; by default the third ping in five minutes ends the connection.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
_CLIENT: Final = [("grpc.max_reconnect_backoff_ms", 1_000)]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Options:
    """The command line, checked."""

    data: Path
    listen: str
    coordinator: str
    categories: dict[str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = _options(arguments)
    try:
        store = Store(options.data, options.categories, passing=_killer(os.environ.get(VARIABLE, "")))
    except StoreUnusable as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return 1
    return asyncio.run(_serve(options, store))


async def _serve(options: _Options, store: Store) -> int:
    participant = Participant(NAME, store, database=options.data.name)
    server = grpc.aio.server(options=_SERVER)
    participant_pb2_grpc.add_ParticipantServicer_to_server(participant, server)
    try:
        port = server.add_insecure_port(options.listen)
    except RuntimeError:
        sys.stderr.write(f"{NAME}: cannot listen on {options.listen}: the port is in use; name another one\n")
        return 1
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    await server.start()
    address = f"{options.listen.rpartition(':')[0]}:{port}"
    sys.stdout.write(f"twophase participant '{NAME}' is ready on {address} (data {options.data})\n")
    sys.stdout.flush()
    registering = asyncio.create_task(_register(options.coordinator, address))
    await told_to_stop.wait()
    registering.cancel()
    await asyncio.wait([registering])
    await server.stop(_GRACE)
    participant.close()
    return 0


async def _register(coordinator: str, address: str) -> None:
    """Makes itself known, again and again until the coordinator has taken it. At every start: it may have moved."""
    request = coordinator_pb2.RegisterRequest(participant=NAME, address=address)
    async with grpc.aio.insecure_channel(coordinator, options=_CLIENT) as channel:
        stub = coordinator_pb2_grpc.CoordinatorStub(channel)
        for tried in itertools.count():
            try:
                await stub.Register(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                _log.warning("not registered at %s yet: %s %s", coordinator, error.code().name, error.details())
            else:
                _log.info("registered at %s as %s at %s", coordinator, NAME, address)
                return
            longest = min(_FIRST_PAUSE * 2**tried, _LONGEST_PAUSE)
            await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - jitter, no secret


def _killer(armed: str) -> Callable[[str], None]:
    """What the store tells of every moment; it kills this process at the armed one. Raises `SystemExit`."""
    name, _, times = armed.partition(":")
    if name and name not in MOMENTS:
        raise SystemExit(f"{VARIABLE} is {armed!r}; use one of {', '.join(MOMENTS)}")
    passed = itertools.count(1)
    last = int(times or 1)

    def passing(moment: str) -> None:
        if moment == name and next(passed) == last:
            os.write(2, f"{moment} reached, time {last}: killing this process\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    return passing


def _options(arguments: Sequence[str] | None) -> _Options:
    parser = argparse.ArgumentParser(prog="python -m twophase.sandbox.tcc", description="Seats of a show, by TCC.")
    parser.add_argument("--data", type=Path, required=True, help="the SQLite file; it is made if it is not there")
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port; port 0 takes a free one")
    parser.add_argument("--coordinator", required=True, help="where it registers itself, host:port")
    parser.add_argument("--category", type=_category, action="append", default=[], metavar="NAME=SEATS")
    given = parser.parse_args(arguments)
    if given.listen.rpartition(":")[0] not in _LOOPBACK:
        parser.error(f"will not listen on {given.listen}: other machines could reach it, and nothing is encrypted")
    return _Options(given.data, given.listen, given.coordinator, dict(given.category))


def _category(text: str) -> tuple[str, int]:
    name, _, seats = text.partition("=")
    if not name or not seats.isascii() or not seats.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=SEATS, such as stalls=100")
    return name, int(seats)
