"""The drills of a participant without Postgres: it dies at every moment of try, confirm and cancel, or is not heard.

Lives here: the theatre's process, its deaths, and how long reservations of before take to be gone. Must not live here:
what it sells (`box_office`), the theatre itself (`twophase.sandbox.tcc`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from twophase.coordinator.client import AsyncClient, TwophaseError
from twophase.sandbox.drill.box_office import CATEGORIES, THEATRE, BoxOffice, reserved
from twophase.sandbox.drill.stage import COORDINATOR, NotHit, Stage, Violated
from twophase.sandbox.drill.values import Act, Drill
from twophase.sandbox.errors import ProcessFailed
from twophase.sandbox.networks import replies_dropped
from twophase.sandbox.processes import Program
from twophase.sandbox.tcc.main import VARIABLE
from twophase.sandbox.tcc.store import DEEDS

_DIE_SECONDS: Final = 15.0
_REST_SECONDS: Final = 20.0
_SETTLE: Final = 0.3
_SHORT: Final = 2.0
_POLL: Final = 0.005


def _dies_in(deed: str) -> Act:
    async def act(stage: Stage) -> None:
        async with _selling(stage) as (program, path):
            for when in ("before", "within", "after"):
                await _dies(program, f"{when}-{deed}")
                await program.start()
                await _measure(stage, path)

    return act


async def _coordinator_dies(stage: Stage) -> None:
    async with _selling(stage) as (_, path):
        await asyncio.sleep(_SETTLE)
        await stage.program(COORDINATOR).kill()
        await stage.program(COORDINATOR).start()
        await _measure(stage, path)


async def _answers_lost(stage: Stage) -> None:
    async with _selling(stage) as (_, path), stage.system.proxy_to_participant(THEATRE) as proxy:
        await asyncio.sleep(_SETTLE)
        await stage.under(proxy, replies_dropped(), seconds=_SHORT)
        await _measure(stage, path)


@contextlib.asynccontextmanager
async def _selling(stage: Stage) -> AsyncIterator[tuple[Program, Path]]:
    """The theatre sells while the block runs. Then everything comes to rest, and is checked: raises `Violated`."""
    path = stage.system.directory / "theatre.sqlite"
    program = await _theatre(stage, path)
    office = BoxOffice(stage.system.address, path, stage.running.record.told)
    selling = asyncio.create_task(office.run())
    try:
        yield program, path
    finally:
        program.environment.pop(VARIABLE, None)
        if not program.is_running:
            await program.start()
        await _known(stage, program)
        await asyncio.sleep(_SETTLE)
        office.stop()
        await selling
    await stage.running.pause()
    await stage.rest()
    await _until(office.is_at_rest)
    found = office.violations(stage.system.connect)
    stage.running.resume()
    if found:
        raise Violated(found)


async def _theatre(stage: Stage, path: Path) -> Program:
    """It joins the system with the first of these drills, and stays."""
    if THEATRE in stage.system.participants:
        return stage.program(THEATRE)
    seats = [f"--category={name}={seats}" for name, seats in CATEGORIES.items()]

    def command(listen: str) -> list[str]:
        return ["--data", str(path), "--listen", listen, "--coordinator", stage.system.address, *seats]

    return await stage.system.admit(THEATRE, command, executable=(sys.executable, "-m", "twophase.sandbox.tcc"))


async def _dies(program: Program, moment: str) -> None:
    """Restarts the theatre so that it kills itself at this moment, and waits for that. Raises `NotHit`."""
    await program.stop()
    began = program.log.stat().st_size
    # Hands are shaken at a start, and then perhaps not for long.
    times = 1 if moment.endswith("remember") else 2
    program.environment[VARIABLE] = f"{moment}:{times}"
    with contextlib.suppress(ProcessFailed):  # it may die before it is ready
        await program.start()
    del program.environment[VARIABLE]
    try:
        if program.is_running:
            await program.wait(timeout=_DIE_SECONDS)
    except TimeoutError:
        await program.kill()  # it is armed, and would die in the next drill
        raise NotHit(f"the {THEATRE} did not reach {moment} within {_DIE_SECONDS:g} s") from None
    if f"{moment} reached".encode() not in program.log.read_bytes()[began:]:
        raise NotHit(f"the {THEATRE} ended, and not at {moment}; see {program.log}")


async def _measure(stage: Stage, path: Path) -> None:
    """From the ready line until what is reserved now is sold or let go."""
    started = time.monotonic()
    before = reserved(path)
    await _until(lambda: not before & reserved(path))
    stage.recoveries.append((time.monotonic() - started) * 1000)


async def _until(condition: Callable[[], bool]) -> None:
    """Waits; what does not come true is for the checker to find."""
    end = time.monotonic() + _REST_SECONDS
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110 - a file tells nobody
        await asyncio.sleep(_POLL)


async def _known(stage: Stage, program: Program) -> None:
    """For a moment after a restart the coordinator may still hold the broken connection."""
    end = time.monotonic() + _REST_SECONDS
    async with AsyncClient(stage.system.address) as client:
        while time.monotonic() < end:
            with contextlib.suppress(TwophaseError):
                await client.register(THEATRE, program.address)
                return
            await asyncio.sleep(_POLL)


WITHOUT_POSTGRES: Final = (
    *(
        Drill(f"without Postgres: {deed}", f"the {THEATRE} dies before, within and after its {deed}", _dies_in(deed))
        for deed in DEEDS
    ),
    Drill("without Postgres: the coordinator dies", f"SIGKILL, while the {THEATRE} sells", _coordinator_dies),
    Drill(
        "without Postgres: answers lost",
        f"requests take effect, answers of the {THEATRE} are lost, and then the connection is",
        _answers_lost,
    ),
)
