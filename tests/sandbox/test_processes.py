"""Programs with a ready line: started, killed, frozen, started again at the same address."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from twophase.sandbox.errors import ProcessFailed
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.life import Watcher, nobody
from twophase.sandbox.ports import LOOPBACK, free_port, is_taken
from twophase.sandbox.processes import Program, clean_environment

Make = Callable[..., Program]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a coordinator's program, with further options."""
    with Guardian(grace=1.0) as guardian:

        def program(*options: str, name: str = "coordinator", watcher: Watcher = nobody) -> Program:
            def command(listen: str) -> Sequence[str]:
                return ["serve", "--journal", str(tmp_path / "journal"), "--listen", listen, "--ballast=1", *options]

            return Program(name, command, guardian=guardian, directory=tmp_path, watcher=watcher)

        yield program


async def test_a_killed_program_comes_back_at_its_address(make: Make) -> None:
    program = make()
    await program.start()
    address, pid = program.address, program.pid
    with pytest.raises(ProcessFailed, match="already running"):
        await program.start()
    await program.kill()
    assert not program.is_running
    await program.start()
    assert (program.address, program.pid != pid) == (address, True)
    assert await program.stop() == 0
    assert await program.stop() == 0
    assert not is_taken(int(address.rpartition(":")[2]))


async def test_a_watcher_is_told_what_becomes_of_a_program_also_when_it_ends_by_itself(make: Make) -> None:
    told: list[tuple[str, str]] = []
    program = make(watcher=lambda who, what: told.append((who, what)))
    await program.start()
    program.signal(signal.SIGSTOP)
    program.signal(signal.SIGCONT)
    os.kill(program.pid, signal.SIGKILL)
    while program.is_running:
        await asyncio.sleep(0.001)
    assert told == [("coordinator", what) for what in ("starting", "up", "frozen", "up", "down")]
    told.clear()
    await program.start()
    await program.stop()
    assert told == [("coordinator", what) for what in ("starting", "up", "stopping", "down")]


async def test_a_program_that_ends_while_starting_is_told_with_its_last_words(make: Make) -> None:
    with pytest.raises(ProcessFailed, match=r"(?s)coordinator ended while starting \(exit code 2\).*--no-such-option"):
        await make("--no-such-option").start()


async def test_a_program_that_does_not_become_ready_is_killed(make: Make) -> None:
    program = make()
    with pytest.raises(ProcessFailed, match=r"coordinator is not ready in time\. It has said nothing\."):
        await program.start(timeout=0.0)
    assert not program.is_running


async def test_a_frozen_program_is_killed_after_the_timeout_and_that_is_told(make: Make) -> None:
    program = make()
    await program.start()
    program.signal(signal.SIGSTOP)
    with pytest.raises(ProcessFailed, match=r"coordinator did not stop within 0\.2 s, and was killed"):
        await program.stop(timeout=0.2)
    assert not program.is_running
    with pytest.raises(ProcessFailed, match="is not running; start it first"):
        program.signal(signal.SIGCONT)


async def test_a_port_that_was_taken_meanwhile_is_not_insisted_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        elsewhere = free_port()
        ports = iter([other.getsockname()[1]])
        monkeypatch.setattr("twophase.sandbox.processes.free_port", lambda: next(ports, elsewhere))
        program = make()
        await program.start()
        assert program.address == f"{LOOPBACK}:{elsewhere}"
        await program.stop()


def test_the_users_own_settings_do_not_reach_what_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "production")
    monkeypatch.setenv("TWOPHASE_LISTEN", "0.0.0.0:1")
    monkeypatch.setenv("MARK", "kept")
    environment = clean_environment({"PGPASSWORD": "secret"})
    assert {"PGHOST", "TWOPHASE_LISTEN"}.isdisjoint(environment)
    assert (environment["MARK"], environment["PGPASSWORD"]) == ("kept", "secret")


def test_ports_are_given_out_once() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert not any(is_taken(port) for port in ports)
