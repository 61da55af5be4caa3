"""The processes of the contenders' clients, as whoever measures sees them: started, given orders, frozen in between.

Lives here: `Clients`. Must not live here: what such a process does (`conversation`, and the module that is run), which
orders there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from twophase.benchmarks.conversation import AT, DONE
from twophase.sandbox.errors import ProcessFailed
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.logs import tail_of
from twophase.sandbox.ports import LOOPBACK
from twophase.sandbox.processes import Program

PATIENCE: Final = 120.0
"""In seconds, how long an order may take beyond its time: connecting, and what is under way at its end."""
_LINE_BYTES: Final = 1 << 28
_FAREWELL: Final = 10.0


class Clients:
    """One process, frozen (SIGSTOP) unless it has something to do."""

    def __init__(self, program: Program, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.program = program
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(
        cls,
        module: str,
        who: str,
        *,
        environment: Mapping[str, str],
        guardian: Guardian,
        directory: Path,
    ) -> Self:
        """Runs the module as `python -m MODULE WHO HOST:PORT`. Raises `ProcessFailed`."""
        program = Program(
            f"clients-{who}",
            lambda listen: [who, listen],
            guardian=guardian,
            directory=directory,
            environment=dict(environment),
            executable=(sys.executable, "-m", module),
        )
        await program.start()
        reader, writer = await asyncio.open_connection(LOOPBACK, program.port, limit=_LINE_BYTES)
        program.signal(signal.SIGSTOP)
        return cls(program, reader, writer)

    async def close(self) -> None:
        """Ends it; it holds nothing that would be lost."""
        self._writer.close()
        await self.program.kill()

    async def run(
        self, order: Mapping[str, Any], on_moment: Callable[[str], None], *, seconds: float
    ) -> dict[str, Any]:
        """Gives an order that takes so many `seconds`, and returns its answer; `on_moment` hears of moments before.
        Raises `ProcessFailed`."""
        self.program.signal(signal.SIGCONT)
        self._writer.write(json.dumps(order).encode() + b"\n")
        try:
            async with asyncio.timeout(seconds + PATIENCE):
                async for line in self._reader:
                    told: dict[str, Any] = json.loads(line)
                    if told[AT] == DONE:
                        self.program.signal(signal.SIGSTOP)
                        return told
                    on_moment(told[AT])
        except TimeoutError as error:
            raise ProcessFailed(f"{self.program.name} has not ended its work. {tail_of(self.program.log)}") from error
        # It hangs up before it has said why.
        with contextlib.suppress(TimeoutError):
            await self.program.wait(timeout=_FAREWELL)
        raise ProcessFailed(f"{self.program.name} ended in its work. {tail_of(self.program.log)}")
