"""The guardian: nothing that was started here outlives this process, however it ends.

Lives here: the parent's side. The child (`_cleaner`) holds the other end of a pipe; when this process is gone, SIGKILL
included, the pipe ends, and the child stops every registered process and removes every registered directory. An orderly
end goes the same way, so that the way is well trodden. Must not live here: what is started.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from twophase.sandbox import _cleaner
from twophase.sandbox.errors import SandboxError
from twophase.sandbox.users import Account

# The shell tells the guardian its own number and becomes the program. It holds the pipe open until it has done so:
# there is no moment at which the program runs and the guardian does not know of it.
# It gets the pipe as its standard input, because a POSIX shell can name only ten descriptors.
_REGISTER: Final = 'echo "process $$ $1" >&0; shift; exec "$@" </dev/null'


# A process is started from one in which gRPC's threads run. Its fork handlers then run in the child, between fork and
# exec, and may crash there; what becomes another program at once needs none of them. gRPC reads this when it is
# loaded, so the command sets it, too.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


class Guardian:
    """Starts processes and makes directories that are gone when this process is gone.

    `grace` is how long, in seconds, the processes may take to stop before they are killed. A context manager; `close`
    may be called twice, and from another thread than `start`. Make it before anything that starts threads (gRPC).
    """

    def __init__(self, *, grace: float = 8.0) -> None:
        # Postgres gives its own children 5 seconds after SIGQUIT before it kills them: the grace is longer.
        read_end, self._pipe = os.pipe()
        try:
            self._child = subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, "-I", "-S", _cleaner.__file__, str(grace)],
                stdin=read_end,
                stdout=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(read_end)
        assert self._child.stdout is not None  # noqa: S101 - it is a pipe
        with self._child.stdout as said:
            said.readline()  # from now on no signal that is meant for us ends it
        self._closed = False
        self._lock = threading.Lock()
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._child.pid

    def directory(self, prefix: str = "twophase-", *, reachable_by: Account | None = None) -> Path:
        """Makes a temporary directory. With `reachable_by` that account can pass through it (but not list it)."""
        base = reachable_by.temporary_base() if reachable_by is not None else Path(tempfile.gettempdir()).absolute()
        path = base / f"{prefix}{secrets.token_hex(8)}"
        with self._lock:
            self._check_open()
            self._write(f"directory {path}")  # before it is there, so that there is no moment at which it is only ours
            path.mkdir(mode=0o711 if reachable_by is not None and reachable_by.is_other else 0o700)
        return path

    def start(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path,
        account: Account | None = None,
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        stdout: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a program in a session of its own, so that a Ctrl-C at the terminal does not reach it.

        What it writes is appended to `log`; its standard output to `stdout`, if that is given. `stop_signal` is what
        ends it if this process dies. Call `forget` once it was waited for. Raises `OSError`, and `SandboxError` after
        `close`.
        """
        switch = account.switch() if account is not None else {}
        with log.open("ab") as sink, (stdout or log).open("ab") as output, self._lock:
            self._check_open()
            process = subprocess.Popen(  # noqa: S603 - a list, no shell syntax in it
                ["/bin/sh", "-c", _REGISTER, "sh", str(int(stop_signal)), *map(str, command)],
                stdin=self._pipe,
                stdout=output,
                stderr=sink,
                cwd=cwd,
                env=None if environment is None else dict(environment),
                start_new_session=True,
                **switch,
            )
            self._started[process.pid] = process
            return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """Says that a process has ended and was waited for."""
        with self._lock:
            self._started.pop(process.pid, None)
            if not self._closed:
                self._write(f"forget {process.pid}")

    def close(self) -> None:
        """Ends everything that is still registered, and waits for that."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.close(self._pipe)
        # A second Ctrl-C must not cut the clean-up short; the child ignores it too.
        for process in (self._child, *self._started.values()):  # ended by the child, and still ours to wait for
            _wait(process)

    def _write(self, line: str) -> None:
        os.write(self._pipe, os.fsencode(f"{line}\n"))

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError("the sandbox is closing; nothing more can be started in it")


def _wait(process: subprocess.Popen[bytes]) -> None:
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
            return
