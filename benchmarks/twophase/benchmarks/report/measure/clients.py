"""The other end of a contender's process: it is started, given loads, and frozen in between.

Lives here: `Driver`. Must not live here: what the process does (`driver`), which loads there are (`sections`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from twophase.benchmarks.report.measure.contenders.places import Places
from twophase.benchmarks.report.measure.task import Log, Task
from twophase.benchmarks.report.values import Who
from twophase.sandbox.errors import ProcessFailed
from twophase.sandbox.logs import tail_of
from twophase.sandbox.ports import LOOPBACK
from twophase.sandbox.processes import Program
from twophase.sandbox.system import System

_DRIVER: Final = (sys.executable, "-m", "twophase.benchmarks.report.measure.driver")
_LINE_BYTES: Final = 1 << 28
# How long a load may take beyond its time: connecting, and what is under way at its end.
_PATIENCE: Final = 120.0
_FAREWELL: Final = 10.0


class Driver:
    """The process of a contender's clients."""

    def __init__(self, program: Program, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.program = program
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, who: Who, places: Places, system: System) -> Driver:
        """Starts it, and freezes it until it has something to do. Raises `ProcessFailed`."""
        program = Program(
            f"clients-{who}",
            lambda listen: [who, listen],
            guardian=system.guardian,
            directory=system.directory,
            environment=places.to_environment(),
            executable=_DRIVER,
        )
        await program.start()
        reader, writer = await asyncio.open_connection(LOOPBACK, program.port, limit=_LINE_BYTES)
        program.signal(signal.SIGSTOP)
        return cls(program, reader, writer)

    async def close(self) -> None:
        """Ends it; it holds nothing that would be lost."""
        self._writer.close()
        await self.program.kill()

    async def run(self, task: Task, on_moment: Callable[[str], None]) -> Log:
        """One load; `on_moment` hears `begin` and `end` of the time that counts. Raises `ProcessFailed`."""
        self.program.signal(signal.SIGCONT)
        self._writer.write(json.dumps(task.to_json()).encode() + b"\n")
        try:
            async with asyncio.timeout(task.warm_up + task.seconds + task.timeout + _PATIENCE):
                async for line in self._reader:
                    told: dict[str, Any] = json.loads(line)
                    if told["at"] == "done":
                        self.program.signal(signal.SIGSTOP)
                        return Log.from_json(told)
                    on_moment(told["at"])
        except TimeoutError as error:
            raise ProcessFailed(f"{self.program.name} has not ended its load. {tail_of(self.program.log)}") from error
        # It hangs up before it has said why.
        with contextlib.suppress(TimeoutError):
            await self.program.wait(timeout=_FAREWELL)
        raise ProcessFailed(f"{self.program.name} ended in its load. {tail_of(self.program.log)}")
