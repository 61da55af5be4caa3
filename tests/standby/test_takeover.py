"""A coordinator that stands by, as a process: it takes over from one that is gone or frozen, and from nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from twophase.coordinator.client import AsyncClient, NotFound, operation
from twophase.coordinator.journal.holder import Holder
from twophase.coordinator.journal.lock import FileLock, Record, read_record
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.ports import free_port
from twophase.sandbox.processes import Program

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no handles to processes")
_SECONDS = 30.0
# A loop that is stuck: the heart of this holder does not beat any more, though the process runs.
_STUCK = """
import asyncio, pathlib, sys, time
from twophase.coordinator.journal.lock import FileLock
async def main():
    FileLock(pathlib.Path(sys.argv[1])).keep_beating()
    print("holding", flush=True)
    while True:
        time.sleep(float(sys.argv[2]))
        await asyncio.sleep(float(sys.argv[3]))
asyncio.run(main())
"""


class Pair:
    """Coordinators that share a journal and an address."""

    def __init__(self, directory: Path, guardian: Guardian) -> None:
        self.journal = directory / "journal"
        self._directory = directory
        self._guardian = guardian
        self._port = free_port()

    def program(self, name: str, *options: str) -> Program:
        return Program(
            name,
            lambda listen: ["serve", "--journal", str(self.journal), "--listen", listen, "--ballast=1", *options],
            guardian=self._guardian,
            directory=self._directory,
            port=self._port,
        )

    def standby(self, name: str = "standby", *, after: float = 1.0) -> Program:
        return self.program(name, "--standby", f"--takeover-after={after:g}")

    def beats(self) -> int:
        record = read_record(self.journal)
        return record.beats if record is not None else 0

    async def beat(self, times: int) -> None:
        """Waits until the holder's heart has beaten so many times more."""
        goal = self.beats() + times
        await until(lambda: self.beats() >= goal)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    with Guardian(grace=0.5) as guardian:
        yield Pair(tmp_path, guardian)


@contextlib.contextmanager
def loop_that_stops(journal: Path, *, work: float, rest: float) -> Iterator[subprocess.Popen[bytes]]:
    """A holder whose event loop does nothing else for `work` seconds, then turns for `rest` seconds, and so on."""
    command = [sys.executable, "-c", _STUCK, str(journal), str(work), str(rest)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        yield process
        process.kill()


@contextlib.contextmanager
def somebody_else(journal: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the number that the journal's lock names, and another start."""
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        given_out_again = Holder(process.pid, "1", Holder.this_process().where)
        Path(f"{journal}.lock").write_bytes(Record(given_out_again, beats=5).to_bytes())
        yield process
        process.kill()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def epoch_at(program: Program) -> int:
    async with AsyncClient(program.address) as client:
        with pytest.raises(NotFound):
            await client.execute(operation("nobody", "nothing"))
    lines = program.output.splitlines()
    return int(lines[-1].rpartition("epoch ")[2].rstrip(")"))


async def test_where_nobody_has_the_journal_it_is_the_coordinator_at_once(pair: Pair) -> None:
    program = pair.standby()
    await program.start()
    assert len(program.output.splitlines()) == 1
    assert await program.stop() == 0


async def test_it_takes_over_the_journal_and_the_address_of_one_that_is_killed(pair: Pair) -> None:
    first, second = pair.program("first"), pair.standby()
    await first.start()
    await second.stand_by()
    holder = first.pid
    await first.kill()
    await second.become_ready()
    says, ready = second.output.splitlines()
    assert says == f"twophase coordinator stands by: process {holder} has the journal {pair.journal}"
    assert ready.startswith(f"twophase coordinator is ready on {first.address} ")
    assert await epoch_at(second) == 2


async def test_it_takes_over_from_one_that_stops_in_good_order(pair: Pair) -> None:
    first, second = pair.program("first"), pair.standby(after=0)
    await first.start()
    await second.stand_by()
    assert await first.stop() == 0
    await second.become_ready()
    assert await second.stop() == 0


async def test_r5_a_frozen_one_is_killed_and_replaced_and_does_not_wake_up(pair: Pair) -> None:
    first, second = pair.program("first"), pair.standby()
    await first.start()
    await second.stand_by()
    frozen = first.pid
    first.signal(signal.SIGSTOP)
    await second.become_ready()
    first.signal(signal.SIGCONT)
    assert await first.wait(timeout=_SECONDS) == -signal.SIGKILL
    assert await epoch_at(second) == 2
    assert f"process {frozen} has the journal and showed no sign of life for 1 s: killed it" in second.log.read_text()


async def test_a_frozen_one_is_waited_for_if_nobody_may_be_killed(pair: Pair) -> None:
    first, second = pair.program("first"), pair.standby("eager", after=0)
    await first.start()
    await second.stand_by()
    first.signal(signal.SIGSTOP)
    assert await second.stop(timeout=_SECONDS) == 0
    first.signal(signal.SIGCONT)
    assert await first.stop() == 0


async def test_a_stuck_event_loop_counts_as_frozen(pair: Pair) -> None:
    with loop_that_stops(pair.journal, work=999, rest=0) as stuck:
        second = pair.standby()
        await second.stand_by()
        await second.become_ready()
        assert await asyncio.to_thread(stuck.wait, _SECONDS) == -signal.SIGKILL


async def test_a_busy_one_that_lives_is_not_killed(pair: Pair) -> None:
    with loop_that_stops(pair.journal, work=0.75, rest=0.3) as living:
        second = pair.standby(after=3)
        await second.stand_by()
        await pair.beat(8)
        assert living.poll() is None
        assert await second.stop() == 0


async def test_a_standby_that_slept_itself_does_not_kill_one_that_lives(pair: Pair) -> None:
    first, second = pair.program("first"), pair.standby(after=2)
    await first.start()
    await second.stand_by()
    for program in (first, second):
        program.signal(signal.SIGSTOP)
    await asyncio.sleep(2.5)  # the machine sleeps: nothing happens that could be waited for
    second.signal(signal.SIGCONT)
    await asyncio.sleep(0.5)  # the standby is the first to wake up, and looks
    first.signal(signal.SIGCONT)
    await pair.beat(8)
    assert first.is_running
    assert await second.stop() == 0
    assert await first.stop() == 0


async def test_of_two_that_stand_by_one_takes_over_and_the_other_goes_on_waiting(pair: Pair) -> None:
    first, *others = pair.program("first"), pair.standby("a"), pair.standby("b")
    await first.start()
    for other in others:
        await other.stand_by()
    first.signal(signal.SIGSTOP)
    await until(lambda: any("is ready on" in other.output for other in others))
    (winner,) = (other for other in others if "is ready on" in other.output)
    (loser,) = (other for other in others if other is not winner)
    await pair.beat(8)
    assert "is ready on" not in loser.output
    assert winner.is_running
    await winner.kill()
    await loser.become_ready()
    assert await epoch_at(loser) == 3
    await first.wait(timeout=_SECONDS)


async def test_a_process_that_was_given_the_number_of_the_holder_is_not_hit(pair: Pair) -> None:
    holding = FileLock(pair.journal)
    with somebody_else(pair.journal) as innocent:
        second = pair.standby()
        await second.stand_by()
        assert f"process {innocent.pid} has the journal" in second.output
        # Long enough for it to have found that heart still, and to have looked for its owner.
        looking = asyncio.create_task(second.become_ready())
        done, _ = await asyncio.wait({looking}, timeout=2.0)
        assert not done
        assert innocent.poll() is None
        assert f"process {innocent.pid} is gone, and somebody still has the journal" in second.log.read_text()
        holding.release()
        await looking


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_standby_that_is_asked_to_stop_ends_well(pair: Pair, number: signal.Signals) -> None:
    first, second = pair.program("first"), pair.standby()
    await first.start()
    await second.stand_by()
    second.signal(number)
    assert await second.wait(timeout=_SECONDS) == 0
    assert second.log.read_text() == ""
    assert first.is_running


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--takeover-after=5"], "only a coordinator with --standby takes over"),
        (["--standby", "--takeover-after=0.5"], "0.5 is neither 0 (never) nor between 1 and 86400"),
    ],
)
def test_options_that_make_no_sense_are_told(tmp_path: Path, options: list[str], told: str) -> None:
    command = [sys.executable, "-m", "twophase.coordinator", "serve", "--journal", str(tmp_path / "j"), *options]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_SECONDS)
    assert ended.returncode == 2
    assert told in " ".join(ended.stderr.replace("│", " ").split())
