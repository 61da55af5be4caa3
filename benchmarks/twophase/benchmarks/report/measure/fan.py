"""The process of the many banks: all of them in one, since only the coordinator's work with each of them is measured.

Lives here: their start. Must not live here: what a bank does (`bank`). Run as
`python -m twophase.benchmarks.report.measure.fan HOST:PORT`, with connection URIs by name in the environment; the port
is held and not used.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from twophase.benchmarks.report.measure.bank import bank
from twophase.contract.addresses import Address
from twophase.participant.migrations import migrate
from twophase.participant.resource import Settings
from twophase.participant.server import ParticipantServer, ServerSettings

VARIABLE: Final = "TWOPHASE_BENCH_FAN"
_SETTINGS: Final = ServerSettings(database=Settings(work_connections=4, finish_connections=2))


async def serve(dsns: Mapping[str, str], listen: Address) -> None:
    """Serves them until the process is ended."""
    async with AsyncExitStack() as stack:
        for name, dsn in dsns.items():
            await asyncio.to_thread(migrate, dsn, name)
            served = ParticipantServer(bank(name), dsn=dsn, settings=_SETTINGS)
            address = await stack.enter_async_context(served)
            sys.stdout.write(f"bank {name} {address.address}\n")
        with socket.create_server((listen.host, listen.port)):
            sys.stdout.write(f"twophase fan of {len(dsns)} is ready on {listen}\n")
            sys.stdout.flush()
            await asyncio.Event().wait()


def main() -> None:
    """The process."""
    asyncio.run(serve(json.loads(os.environ[VARIABLE]), Address.parse(sys.argv[1])))


if __name__ == "__main__":
    main()
