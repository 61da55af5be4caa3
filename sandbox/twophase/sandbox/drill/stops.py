"""The drills in which processes and servers are killed, frozen or restarted at any moment.

Lives here: SIGKILL, SIGSTOP and SIGTERM without a crash point, and Postgres going away. Must not live here: deaths at a
named point (`crashes`).
"""

from __future__ import annotations

import asyncio
import signal
from typing import Final

from twophase.sandbox.bank import NAMES
from twophase.sandbox.drill.stage import COORDINATOR, Stage
from twophase.sandbox.drill.values import Drill
from twophase.sandbox.postgres import StopMode

_BANK: Final = NAMES[0]
_AWAY: Final = 2.0
# Long enough for whoever dials with growing pauses to be in the middle of one.
_LONG_AWAY: Final = 9.0


async def _kill_coordinator(stage: Stage) -> None:
    await stage.program(COORDINATOR).kill()
    await stage.revive(COORDINATOR)


async def _kill_everything(stage: Stage) -> None:
    for name in (COORDINATOR, *NAMES):
        await stage.program(name).kill()
    await asyncio.gather(*(stage.program(name).start() for name in NAMES))
    await stage.revive(COORDINATOR)


async def _participant_away(stage: Stage) -> None:
    await stage.program(_BANK).kill()
    await asyncio.sleep(_AWAY)
    await stage.revive(_BANK)


async def _freeze_coordinator(stage: Stage) -> None:
    await _freeze(stage, COORDINATOR)


async def _freeze_participant(stage: Stage) -> None:
    await _freeze(stage, _BANK)


async def _freeze(stage: Stage, name: str) -> None:
    stage.program(name).signal(signal.SIGSTOP)
    await asyncio.sleep(_AWAY)
    stage.program(name).signal(signal.SIGCONT)
    await stage.measure()


async def _stop_postgres(stage: Stage) -> None:
    cluster = stage.system.cluster_of(_BANK)
    await asyncio.to_thread(cluster.restart, StopMode.IMMEDIATE)
    await stage.measure()


async def _postgres_away(stage: Stage) -> None:
    cluster = stage.system.cluster_of(_BANK)
    await asyncio.to_thread(cluster.stop, StopMode.FAST)
    await asyncio.sleep(_LONG_AWAY)
    await asyncio.to_thread(cluster.start)
    await stage.measure()


async def _orderly_restart(stage: Stage) -> None:
    await stage.program(COORDINATOR).restart()
    await stage.measure()


STOPS: Final = (
    Drill("kill the coordinator", "SIGKILL at any moment", _kill_coordinator, quick=True),
    Drill("kill everything", "SIGKILL for the coordinator and all participants", _kill_everything, quick=True),
    Drill(
        "a participant is away", f"{_BANK} is killed and comes back after {_AWAY:g} s", _participant_away, quick=True
    ),
    Drill("freeze the coordinator", f"SIGSTOP, and SIGCONT after {_AWAY:g} s", _freeze_coordinator),
    Drill("freeze a participant", f"SIGSTOP, and SIGCONT after {_AWAY:g} s", _freeze_participant),
    Drill("stop Postgres at once", f"immediate shutdown of {_BANK}'s server, and a start", _stop_postgres, quick=True),
    Drill("Postgres is away", f"{_BANK}'s server is stopped, and comes back after {_LONG_AWAY:g} s", _postgres_away),
    Drill("restart the coordinator", "SIGTERM, and a start", _orderly_restart),
)
