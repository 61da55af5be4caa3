"""Programs with a ready line: the coordinator and the participants, as processes of their own.

Lives here: `Program` (start, wait until ready, stop, kill, freeze, start again). Must not live here: which programs
make a system (`system`).
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from twophase.sandbox.errors import ProcessFailed
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.life import Life, Watcher, nobody
from twophase.sandbox.logs import tail_of
from twophase.sandbox.ports import LOOPBACK, free_port, is_taken

TWOPHASE: Final = (sys.executable, "-m", "twophase.coordinator")
_READY: Final = re.compile(rb"^twophase .* is ready on (\S+):(\d+)( \(.*\))?$", re.MULTILINE)
_STANDS_BY: Final = re.compile(rb"^twophase .* stands by: .*$", re.MULTILINE)
_BECOMES: Final = {signal.SIGSTOP: Life.FROZEN, signal.SIGCONT: Life.UP, signal.SIGTERM: Life.STOPPING}
_POLL: Final = 0.01
_PORT_TRIES: Final = 5


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment without what would change what is started: settings of libpq and of twophase itself."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "TWOPHASE_"))}
    # gRPC would send even loopback traffic through a configured proxy.
    return {**kept, "no_grpc_proxy": "127.0.0.1,localhost", "PYTHONUNBUFFERED": "1", **(extra or {})}


class Program:
    """A `twophase` process that listens on a port and says so in one line on its standard output.

    `command` gets the address to listen on and returns the arguments behind `twophase`. The port is chosen at the first
    start and kept, so that a program that is started again is found where it was; `port` is one to share with another
    program. `environment` and `wrapper`, a command that runs the program, may be changed between starts. `executable`
    is the program, for one that is not `twophase` and says the same line. `watcher` is told what becomes of it, an end
    by itself when somebody asks whether it is running.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[str], Sequence[str]],
        *,
        guardian: Guardian,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        port: int = 0,
        executable: Sequence[str] = TWOPHASE,
        watcher: Watcher = nobody,
    ) -> None:
        self.name: Final = name
        self.environment: dict[str, str] = dict(environment or {})
        self.wrapper: tuple[str, ...] = ()
        self.log: Final = directory / f"{name}.log"
        self._output: Final = directory / f"{name}.out"
        self._command = command
        self._executable = tuple(executable)
        self._guardian = guardian
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._port = port
        self._bound = port != 0
        self._watcher = watcher
        self._life = Life.DOWN

    @property
    def address(self) -> str:
        """`host:port`; the port is 0 before the first start."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def port(self) -> int:
        """The port alone."""
        return self._port

    @property
    def output(self) -> str:
        """What it has written to its standard output since it was started."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        """The process number. Raises `ProcessFailed` if it is not running."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """True between `start` and `stop`, unless it ended by itself. A stopped (SIGSTOP) process is running."""
        if self._process is not None and self._process.poll() is None:
            return True
        self._becomes(Life.DOWN)
        return False

    async def start(self, *, timeout: float = 30.0) -> None:
        """Starts it and waits for its ready line, at most `timeout` seconds. Raises `ProcessFailed`."""
        if self.is_running:
            raise ProcessFailed(f"{self.name} is already running (process {self.pid}); stop it first")
        end = time.monotonic() + timeout
        for remaining in reversed(range(_PORT_TRIES)):
            if not self._bound:
                self._port = free_port()
            # A port that others know already is not given up, if somebody else has it for a moment.
            while self._bound and is_taken(self._port) and time.monotonic() < end:  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(_POLL)
            self._launch()
            try:
                await self._wait_until_ready(end)
            except ProcessFailed:
                # Somebody took the port in between.
                if not self._bound and remaining and is_taken(self._port):
                    continue
                raise
            self._bound = True
            self._becomes(Life.UP)
            return

    async def stand_by(self, *, timeout: float = 30.0) -> None:
        """Starts it where another one is at work already, and waits until it says that it stands by.

        Raises `ProcessFailed`.
        """
        self._launch()
        await self._wait_for_line(_STANDS_BY, time.monotonic() + timeout)
        self._becomes(Life.STANDING_BY)

    async def become_ready(self, *, timeout: float = 30.0) -> None:
        """Waits until one that stood by has taken over. Raises `ProcessFailed`."""
        await self._wait_for_line(_READY, time.monotonic() + timeout)
        self._becomes(Life.UP)

    async def stop(self, *, timeout: float = 15.0) -> int:
        """Asks it to stop (SIGTERM) and waits; kills it after `timeout` seconds. Returns its exit code.

        Raises `ProcessFailed` if it had to be killed. Does nothing, and returns 0, if it was not started.
        """
        if self._process is None:
            return 0
        self.signal(signal.SIGTERM)
        try:
            return await self.wait(timeout=timeout)
        except TimeoutError as error:
            await self.kill()
            raise ProcessFailed(
                f"{self.name} did not stop within {timeout:g} s, and was killed. {tail_of(self.log)}"
            ) from error

    async def kill(self) -> None:
        """Ends it at once (SIGKILL), as a crash would, and waits for its end."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await self.wait()

    async def restart(self, *, timeout: float = 30.0) -> None:
        """Stops it and starts it again at the same address. Raises `ProcessFailed`."""
        await self.stop()
        await self.start(timeout=timeout)

    async def wait(self, *, timeout: float | None = None) -> int:
        """Waits for its end and returns its exit code (negative: the signal). Raises `TimeoutError` after `timeout`."""
        process = self._running()
        end = None if timeout is None else time.monotonic() + timeout
        while process.poll() is None:
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"{self.name} is still running")
            await asyncio.sleep(_POLL)
        self._process = None
        self._becomes(Life.DOWN)
        self._guardian.forget(process)
        return int(process.returncode)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, for example SIGSTOP or SIGCONT. Raises `ProcessFailed` if it was not started."""
        self._running().send_signal(number)
        if number in _BECOMES:
            self._becomes(_BECOMES[number])

    def _becomes(self, life: Life) -> None:
        if life is not self._life:
            self._life = life
            self._watcher(self.name, life.value)

    def _launch(self) -> None:
        self._becomes(Life.STARTING)
        self._output.unlink(missing_ok=True)
        self._process = self._guardian.start(
            [*self.wrapper, *self._executable, *self._command(self.address)],
            log=self.log,
            stdout=self._output,
            cwd=self._directory,
            environment=clean_environment(self.environment),
            # Left behind, it goes at once: what it would still wait for is ending too, and its journal is removed.
            stop_signal=signal.SIGKILL,
        )

    async def _wait_until_ready(self, end: float) -> None:
        self._port = int((await self._wait_for_line(_READY, end))[2])

    async def _wait_for_line(self, line: re.Pattern[bytes], end: float) -> re.Match[bytes]:
        while True:
            ended = not self.is_running
            found = line.search(self._output.read_bytes())
            if found is not None:
                return found
            if ended:
                code = await self.wait()
                raise ProcessFailed(f"{self.name} ended while starting (exit code {code}). {tail_of(self.log)}")
            if time.monotonic() > end:
                await self.kill()
                raise ProcessFailed(f"{self.name} is not ready in time. {tail_of(self.log)}")
            await asyncio.sleep(_POLL)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ProcessFailed(f"{self.name} is not running; start it first")
        return self._process
