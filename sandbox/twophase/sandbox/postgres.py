"""Postgres clusters of one's own: made in a second, on a free port, gone with the process.

Lives here: `Cluster` (initdb, start, stop, crash, databases). Must not live here: what is in the databases.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Final, LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql

from twophase.sandbox.binaries import Binaries
from twophase.sandbox.errors import PostgresFailed
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.life import Life, Watcher, nobody
from twophase.sandbox.logs import tail_of
from twophase.sandbox.ports import LOOPBACK, free_port
from twophase.sandbox.users import Account

SUPERUSER: Final = "postgres"
_START_TIMEOUT: Final = 60.0
_POLL: Final = 0.02
_PORT_TRIES: Final = 5

# fsync stays on: what is shown here is meant to be real. Tests switch it off by a setting.
_DEFAULTS: Final[Mapping[str, str]] = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # no socket, so no path that could be longer than 107 bytes
    "max_connections": "50",
    "max_prepared_transactions": "64",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # in the data directory, so that it goes with it
    "password_encryption": "scram-sha-256",
    "jit": "off",
    "log_line_prefix": "%m [%p] %a %d ",
}

_NEWER: Final = 16
# Nobody guesses a random password of 128 bits, however cheap it is to try one; connecting takes a third of the time.
_OF_NEWER: Final[Mapping[str, str]] = {"scram_iterations": "1"}
# What initdb is told as well, if it is so new that it takes settings: it makes the first password, and what it starts
# uses shared memory, too, and does not tidy up if it is interrupted.
_FOR_INITDB: Final = ("dynamic_shared_memory_type", "scram_iterations")

_PREPARED: Final[LiteralString] = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
_SYSTEM_IDENTIFIER: Final[LiteralString] = "SELECT system_identifier FROM pg_control_system()"


class StopMode(Enum):
    """How Postgres ends (its manual, section 18.5, "Shutting Down the Server"); the value is the signal."""

    SMART = signal.SIGTERM
    FAST = signal.SIGINT
    IMMEDIATE = signal.SIGQUIT
    KILL = signal.SIGKILL


class Cluster:
    """One Postgres server with its own data directory, on a loopback port that it keeps over restarts.

    `Cluster(...)` runs initdb, `start` starts it; `make_all` does both for several at once. Roles log in with one
    random password (`scram-sha-256`), so no other user of the machine gets in; a `dsn` contains it. `watcher` is told
    what becomes of it.
    Blocking calls: in an event loop use `asyncio.to_thread`. Not safe to use from two threads at once.
    """

    def __init__(
        self,
        name: str,
        *,
        guardian: Guardian,
        binaries: Binaries | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Runs initdb. `settings` are lines of postgresql.conf. Raises `PostgresMissing`, `PostgresFailed`."""
        self.name = name
        self.password: Final = secrets.token_hex(16)
        self._guardian = guardian
        self._account = Account.for_postgres()
        self.binaries = (binaries or Binaries.find()).reachable(self._account, guardian)
        self._newer = self.binaries.version() >= _NEWER
        self.settings: dict[str, str] = {**_DEFAULTS, **(_OF_NEWER if self._newer else {}), **(settings or {})}
        self.directory: Final = guardian.directory(f"twophase-{name}-", reachable_by=self._account)
        self._account.own(self.directory)
        self.data: Final = self.directory / "data"
        self.log: Final = self.directory / "log"
        self.watcher: Watcher = nobody
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._initdb()

    @property
    def port(self) -> int:
        """The TCP port; 0 before the first start."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """The postmaster's process number. Raises `PostgresFailed` if it was not started."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """True between `start` and `stop`, unless it ended by itself."""
        return self._process is not None and self._process.poll() is None

    def dsn(self, database: str = "postgres", *, user: str = SUPERUSER) -> str:
        """A connection URI with the password in it. It works in a shell too: `psql URI`."""
        return f"postgresql://{quote(user, safe='')}:{self.password}@{self.address}/{quote(database, safe='')}"

    def public_dsn(self, database: str = "postgres", *, user: str = SUPERUSER, at: str | None = None) -> str:
        """The same without the password, for command lines, which everyone can read; give it in PGPASSWORD.

        `at` is another `host:port` under which the server is reached, such as a proxy's.
        """
        return f"postgresql://{quote(user, safe='')}@{at or self.address}/{quote(database, safe='')}"

    def connect(
        self, database: str = "postgres", *, user: str = SUPERUSER, autocommit: bool = True
    ) -> psycopg.Connection:
        """A new connection; the caller closes it."""
        return psycopg.connect(self.dsn(database, user=user), autocommit=autocommit, connect_timeout=10)

    def start(self, *, timeout: float = _START_TIMEOUT) -> None:
        """Starts it and waits until it takes connections. `timeout` in seconds. Raises `PostgresFailed`."""
        if self.is_running:
            raise PostgresFailed(f"the cluster {self.name} is already running (process {self.pid}); stop it first")
        end = time.monotonic() + timeout
        chosen = self._port != 0
        for remaining in reversed(range(_PORT_TRIES)):
            if not chosen:
                self._port = free_port()
            seen = self._log_size()
            self._tell(Life.STARTING)
            self._launch()
            try:
                self._wait_until_ready(end)
                self._tell(Life.UP)
                return
            except PostgresFailed:
                said = self._log_since(seen)
                if "could not bind" in said and not chosen and remaining:
                    continue
                if "is still in use" in said and time.monotonic() < end:
                    # Backends of a killed postmaster are still dying; its successor has to wait for them.
                    time.sleep(_POLL)
                    continue
                raise

    def stop(self, mode: StopMode = StopMode.FAST, *, timeout: float = 30.0) -> None:
        """Stops it, if it is running, and waits for its end; kills it after `timeout` seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        self._tell(Life.STOPPING)
        process.send_signal(mode.value)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise PostgresFailed(
                f"the cluster {self.name} did not stop within {timeout:g} s after {mode.name}, and was killed."
                f" A client may hold a connection open. {self._tail()}"
            ) from error
        finally:
            self._tell(Life.DOWN)
            self._guardian.forget(process)

    def restart(self, mode: StopMode = StopMode.FAST, *, settings: Mapping[str, str] | None = None) -> None:
        """Stops and starts it on the same port, with `settings` changed if there are any. Raises `PostgresFailed`."""
        self.stop(mode)
        self.settings.update(settings or {})
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the postmaster, for example SIGSTOP."""
        self._running().send_signal(number)

    def create_database(self, name: str, *, template: str = "template1", owner: str = SUPERUSER) -> str:
        """Makes a database and returns its DSN, the superuser's."""
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.Identifier(owner)
        )
        with self.connect() as connection:
            connection.execute(statement)
        return self.dsn(name)

    def create_role(self, name: str) -> None:
        """Makes a login role without rights. `dsn(database, user=name)` logs in as it."""
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(self.password))
        with self.connect() as connection:
            connection.execute(statement)

    def drop_database(self, name: str) -> None:
        """Drops a database with whoever is connected; rolls back its prepared transactions first, which bar a DROP."""
        with self.connect(name) as connection:
            for (gid,) in connection.execute(_PREPARED).fetchall():
                connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def system_identifier(self) -> str:
        """What tells this cluster from every other one; decimal digits."""
        with self.connect() as connection:
            row = connection.execute(_SYSTEM_IDENTIFIER).fetchone()
        assert row is not None  # noqa: S101 - the function always returns one row
        return str(row[0])

    def _initdb(self) -> None:
        secret = self.directory / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.password, encoding="ascii")
        self._account.own(secret)
        said = self.directory / "initdb.log"
        told = [f"--set={name}={self.settings[name]}" for name in _FOR_INITDB] if self._newer else []
        initdb = self._guardian.start(
            [
                self.binaries.program("initdb"),
                *("--pgdata", self.data),
                *("--username", SUPERUSER),
                *("--auth", "scram-sha-256"),
                *("--pwfile", secret),
                *("--encoding", "UTF8"),
                *("--locale", "C"),
                "--no-sync",
                "--no-instructions",
                *told,
            ],
            log=said,
            cwd=self.directory,
            account=self._account,
            # Asked to stop, it would remove the file that says which segment to free.
            stop_signal=signal.SIGKILL,
        )
        code = initdb.wait()
        self._guardian.forget(initdb)
        secret.unlink(missing_ok=True)
        if code != 0:
            raise PostgresFailed(f"initdb of the cluster {self.name} failed ({code}). {tail_of(said)}")

    def _launch(self) -> None:
        lines = {**self.settings, "port": str(self._port)}
        text = "".join(f"{key} = '{value}'\n" for key, value in lines.items())
        (self.data / "postgresql.conf").write_text(text, encoding="utf-8")
        self._process = self._guardian.start(
            [self.binaries.program("postgres"), "-D", self.data],
            log=self.log,
            cwd=self.directory,
            account=self._account,
            stop_signal=signal.SIGQUIT,
        )

    def _wait_until_ready(self, end: float) -> None:
        process = self._running()
        while True:
            if process.poll() is not None:
                self._process = None
                self._guardian.forget(process)
                raise PostgresFailed(
                    f"the cluster {self.name} ended while starting ({process.returncode}). {self._tail()}"
                )
            try:
                self.connect().close()
            except psycopg.OperationalError as error:
                if time.monotonic() > end:
                    self.stop(StopMode.KILL)
                    raise PostgresFailed(
                        f"the cluster {self.name} is not ready in time: {error}. {self._tail()}"
                    ) from error
                time.sleep(_POLL)
            else:
                return

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise PostgresFailed(f"the cluster {self.name} is not running; start it first")
        return self._process

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _log_since(self, position: int) -> str:
        with self.log.open("rb") as log:
            log.seek(position)
            return log.read().decode(errors="replace")

    def _tell(self, life: Life) -> None:
        self.watcher(f"Postgres {self.name}", life.value)

    def _tail(self) -> str:
        return tail_of(self.log)


def make_all(
    names: Iterable[str], *, guardian: Guardian, settings: Mapping[str, str] | None = None
) -> dict[str, Cluster]:
    """Makes and starts several clusters at once. Raises what the first failing one raises."""
    binaries = Binaries.find().reachable(Account.for_postgres(), guardian)

    def make(name: str) -> Cluster:
        cluster = Cluster(name, guardian=guardian, binaries=binaries, settings=settings)
        cluster.start()
        return cluster

    wanted = list(names)
    with ThreadPoolExecutor(max_workers=len(wanted) or 1, thread_name_prefix="postgres") as pool:
        return dict(zip(wanted, pool.map(make, wanted), strict=True))


def stop_all(clusters: Iterable[Cluster], mode: StopMode = StopMode.FAST) -> None:
    """Stops several clusters at once. Raises what the first failing one raises, when all have ended."""
    wanted = list(clusters)
    with ThreadPoolExecutor(max_workers=len(wanted) or 1, thread_name_prefix="postgres") as pool:
        for ended in [pool.submit(cluster.stop, mode) for cluster in wanted]:
            ended.result()
