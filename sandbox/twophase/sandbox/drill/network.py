"""The drills in which the network fails: cut, slow, silent, one-way, or losing only the answers.

Lives here: between whom, how, and for how long; and what one dead participant costs the others. Must not live here: how
a network is made to fail (`twophase.sandbox.proxy`).
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from twophase.contract.crashpoints import CrashPoint
from twophase.coordinator.client import Wait
from twophase.sandbox.bank import NAMES
from twophase.sandbox.drill.business import Told
from twophase.sandbox.drill.stage import NotHit, Stage
from twophase.sandbox.drill.values import Act, Drill
from twophase.sandbox.networks import (
    BLACKHOLE,
    CUT,
    HELD,
    REPLIES_ONLY,
    REQUESTS_ONLY,
    Network,
    delayed,
    replies_dropped,
)
from twophase.sandbox.proxy import Proxy

_BANK, _ONE, _OTHER = NAMES[:3]
_SETTLE: Final = 0.3
_SHORT: Final = 2.0
# Longer than a client's deadline, so that what was begun in silence is decided in silence.
_LONG: Final = 7.0
_SLOW: Final = 0.3
_PROBES: Final = 60
_DEATHS: Final = 3
_PATIENCE: Final = 10.0
_POLL: Final = 0.002

_Between = Callable[[Stage], AbstractAsyncContextManager[Proxy]]


def _participant(stage: Stage) -> AbstractAsyncContextManager[Proxy]:
    return stage.system.proxy_to_participant(_BANK)


def _database(stage: Stage) -> AbstractAsyncContextManager[Proxy]:
    return stage.system.proxy_to_database(_BANK)


def _fails(between: _Between, network: Network, seconds: float) -> Act:
    async def act(stage: Stage) -> None:
        async with between(stage) as proxy:
            await asyncio.sleep(_SETTLE)
            await stage.under(proxy, network, seconds=seconds)

    return act


def _clients(network: Network, seconds: float) -> Act:
    async def act(stage: Stage) -> None:
        await stage.under(stage.front, network, seconds=seconds)

    return act


async def _one_is_silent(stage: Stage) -> None:
    """Transactions of the others are measured alone, before, while and after one participant is silent."""
    load = stage.running
    async with stage.system.proxy_to_participant(_BANK) as proxy:
        await load.pause()
        with_it = await _probes(stage)
        load.resume()
        await proxy.set(BLACKHOLE)
        await asyncio.sleep(_SETTLE)  # by then every client waits for the silent one
        without_it = await _probes(stage)
        await stage.heal(proxy)
        await load.pause()
        with_it += await _probes(stage)
        load.resume()
    usual, while_silent = statistics.median(with_it), statistics.median(without_it)
    stage.figures |= {
        "others_median_ms": usual * 1000,
        "others_median_ms_while_silent": while_silent * 1000,
        "ratio": while_silent / usual,
    }


async def _probes(stage: Stage) -> list[float]:
    """Seconds, of transfers that do not touch the silent one. Raises `NotHit` if not even half of them is committed."""
    answers = [(await stage.running.probe(_ONE, _OTHER))[1] for _ in range(_PROBES)]
    seconds = [answered.seconds for answered in answers if answered.told is Told.OK]
    if len(seconds) < _PROBES / 2:
        raise NotHit(f"only {len(seconds)} of {_PROBES} transfers between {_ONE} and {_OTHER} were committed")
    return seconds


async def _dies_after_its_vote(stage: Stage) -> None:
    """From the decision, which the client is told, until the transfer is to be read at the participant that lives."""
    point = CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED
    await stage.running.pause()
    with_it = [await _applied_after(stage) for _ in range(_PROBES)]
    without_it = []
    for _ in range(_DEATHS):
        await stage.arm(_BANK, point)
        without_it.append(await _applied_after(stage))
        await stage.dies(_BANK, point)
        await stage.revive(_BANK)
    stage.running.resume()
    stage.figures |= {
        "decided_to_applied_median_ms": statistics.median(with_it) * 1000,
        "decided_to_applied_median_ms_while_dead": statistics.median(without_it) * 1000,
    }


async def _applied_after(stage: Stage) -> float:
    """Seconds from the answer that says committed until the transfer is in the living participant's books."""
    end = time.monotonic() + _PATIENCE
    transfer, answered = await stage.running.probe(_BANK, _ONE, wait=Wait.DECIDED)
    while answered.told is not Told.OK:  # a participant that was restarted is found again in a moment
        if time.monotonic() > end:
            raise NotHit(f"the transfer {transfer.name} was not committed, but {answered.told.value}")
        transfer, answered = await stage.running.probe(_BANK, _ONE, wait=Wait.DECIDED)
    with stage.system.connect(_ONE) as connection:
        while True:
            found = connection.execute("SELECT FROM movement WHERE transfer = %s", [transfer.name])
            if found.rowcount:
                return time.monotonic() - answered.at
            await asyncio.sleep(_POLL)


_TO_BANK: Final = f"between the coordinator and {_BANK}"
_TO_POSTGRES: Final = f"between {_BANK} and its Postgres"
_TO_CLIENTS: Final = "between the clients and the coordinator"

NETWORKS: Final = (
    Drill("participant cut off", f"connections {_TO_BANK} are reset and refused", _fails(_participant, CUT, _SHORT)),
    Drill(
        "participant far away",
        f"{_SLOW:g} s more in each direction {_TO_BANK}",
        _fails(_participant, delayed(_SLOW), _SHORT),
    ),
    Drill(
        "participant silent",
        f"nothing arrives {_TO_BANK}, in either direction, for {_LONG:g} s",
        _fails(_participant, BLACKHOLE, _LONG),
    ),
    Drill(
        "participant heard late",
        f"everything {_TO_BANK} arrives, in either direction, up to {_LONG:g} s late",
        _fails(_participant, HELD, _LONG),
    ),
    Drill(
        "participant does not hear",
        f"one-way: nothing reaches {_BANK} from the coordinator",
        _fails(_participant, REPLIES_ONLY, _SHORT),
    ),
    Drill(
        "participant is not heard",
        f"one-way: nothing reaches the coordinator from {_BANK}",
        _fails(_participant, REQUESTS_ONLY, _SHORT),
    ),
    Drill(
        "participant's answers lost",
        f"requests take effect, answers {_TO_BANK} are lost, and then the connection is",
        _fails(_participant, replies_dropped(), _SHORT),
        quick=True,
    ),
    Drill("Postgres cut off", f"connections {_TO_POSTGRES} are reset and refused", _fails(_database, CUT, _SHORT)),
    Drill("Postgres silent", f"nothing arrives {_TO_POSTGRES}, in either direction", _fails(_database, BLACKHOLE, 3.0)),
    Drill(
        "Postgres' answers lost",
        f"statements take effect, answers {_TO_POSTGRES} are lost, and then the connection is",
        _fails(_database, replies_dropped(), _SHORT),
    ),
    Drill("clients cut off", f"connections {_TO_CLIENTS} are reset and refused", _clients(CUT, _SHORT)),
    Drill("clients in silence", f"nothing arrives {_TO_CLIENTS}, in either direction", _clients(BLACKHOLE, _SHORT)),
    Drill(
        "clients' answers lost",
        f"requests take effect, answers {_TO_CLIENTS} are lost, and then the connection is",
        _clients(replies_dropped(), _SHORT),
        quick=True,
    ),
    Drill("one is silent, the others go on", f"transactions without {_BANK} while it is silent", _one_is_silent),
    Drill(
        "one dies after its vote, the others commit",
        f"{_BANK} dies {_DEATHS} times between its vote and its commit",
        _dies_after_its_vote,
        (CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED,),
    ),
)
