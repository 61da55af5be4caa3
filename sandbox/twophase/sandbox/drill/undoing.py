"""The drills of sagas: what other drills do, done while sagas go forward and back; a person who resolves; late work.

Lives here: which of them, the pairs of deaths in a saga, the way to a dead letter, and work that arrives after its
compensation. Must not live here: the sagas of the load (`sagas`), single deaths (`crashes`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from twophase.contract.crashpoints import CrashPoint
from twophase.coordinator.client import AsyncClient, DeadLetter, TwophaseError
from twophase.sandbox.bank import NAMES, Movement
from twophase.sandbox.drill.business import Answered, Business, Saga, SagaStep
from twophase.sandbox.drill.chance import FORTUNE
from twophase.sandbox.drill.network import NETWORKS
from twophase.sandbox.drill.pairs import pair
from twophase.sandbox.drill.stage import COORDINATOR, NotHit, Stage
from twophase.sandbox.drill.stops import STOPS
from twophase.sandbox.drill.takeover import TAKEOVERS
from twophase.sandbox.drill.values import Act, Drill
from twophase.sandbox.networks import HELD, WHOLE

WITHIN: Final = 3.0
"""Seconds from the ready line within which a saga whose coordinator or participant died is done, or undone."""

_BANK: Final = NAMES[0]
_DYING: Final = 1.0
_DEAD_SECONDS: Final = 15.0
_POLL: Final = 0.02
_SETTLE: Final = 0.3
_LATE: Final = 8
# Seconds.
_LATE_DEADLINE: Final = 10.0
_TURNING: Final = 5.0

_POINTS: Final = frozenset(
    {
        CrashPoint.PARTICIPANT_BEFORE_CLAIM,
        CrashPoint.PARTICIPANT_AFTER_CLAIM,
        CrashPoint.PARTICIPANT_BEFORE_COMPENSATION,
        CrashPoint.PARTICIPANT_AFTER_COMPENSATION,
    }
)
_RESOLVING: Final = frozenset({CrashPoint.SAGA_BEFORE_RESOLVE, CrashPoint.SAGA_AFTER_RESOLVE})


def is_of_sagas(point: CrashPoint) -> bool:
    """True for what is reached in sagas alone."""
    return point in _POINTS or point.value.startswith("saga.")


def dies_resolving(point: CrashPoint) -> Act | None:
    """The act of the points at which a person takes a dead letter for done; None for any other."""
    if point not in _RESOLVING:
        return None

    async def act(stage: Stage) -> None:
        await stage.arm(COORDINATOR, point)
        with _takes_nothing_back(stage):
            async with AsyncClient(stage.system.address, timeout=_DYING) as client:
                letter = await _dead_letter(client)
                with contextlib.suppress(TwophaseError):
                    await client.resolve_dead_letter(
                        letter.txid, letter.step, actor="drill", reason="the bank takes nothing back"
                    )
            await stage.dies(COORDINATOR, point)
        if point is CrashPoint.SAGA_AFTER_RESOLVE:
            _take_back_by_hand(stage, letter)
        await stage.revive(COORDINATOR)

    return act


@contextlib.contextmanager
def _takes_nothing_back(stage: Stage) -> Iterator[None]:
    """In the block no compensation of a movement succeeds at one bank."""
    with stage.system.connect(_BANK) as connection:
        connection.execute("INSERT INTO stubborn VALUES (now())")
        try:
            yield
        finally:
            connection.execute("DELETE FROM stubborn")


async def _dead_letter(client: AsyncClient) -> DeadLetter:
    """The first one. Raises `NotHit`."""
    end = time.monotonic() + _DEAD_SECONDS
    while time.monotonic() < end:
        for letter in await client.dead_letters():
            if letter.participant == _BANK and letter.kind == "COMPENSATION":
                return letter
        await asyncio.sleep(_POLL)
    raise NotHit(f"no compensation at {_BANK} became a dead letter within {_DEAD_SECONDS:g} s")


def _take_back_by_hand(stage: Stage, letter: DeadLetter) -> None:
    """What the person does who gave his word for it."""
    saga, _ = stage.running.record.told[letter.request_id]
    deeds = [step.deed for step in saga.steps if step.name == letter.step] if isinstance(saga, Saga) else []
    for deed in deeds:
        if not isinstance(deed, Movement):
            raise NotHit(f"step {letter.step} of saga {letter.request_id} moved nothing")
        with stage.system.connect(_BANK) as connection, connection.transaction():
            connection.execute("UPDATE account SET balance = balance - %s WHERE id = %s", [deed.amount, deed.account])
            connection.execute(
                "INSERT INTO movement (transfer, account, amount, undo) VALUES (%s, %s, %s, true)",
                [deed.transfer, deed.account, -deed.amount],
            )


async def _work_comes_last(stage: Stage) -> None:
    """What was sent to a bank is held up. Sagas turn meanwhile, and undo it there by another way, before it arrives."""
    sagas = tuple(_refused_beside(f"late/{number}") for number in range(_LATE))
    await stage.running.pause()
    sending: list[asyncio.Task[Answered]] = []
    async with stage.system.proxy_to_participant(_BANK) as proxy:
        try:
            await proxy.set(HELD)
            sending = [asyncio.create_task(stage.running.send(saga)) for saga in sagas]
            await _turned(stage, sagas)
            await stage.program(COORDINATOR).kill()
            await stage.program(COORDINATOR).start()
            await stage.register(_BANK, stage.program(_BANK).address)
            await stage.measure()
            await stage.heal(proxy)
            await asyncio.sleep(_SETTLE)
        finally:
            await proxy.set(WHOLE)
            stage.running.resume()
            await asyncio.gather(*sending)


def _refused_beside(name: str) -> Saga:
    """One step begins at the bank, and another one elsewhere is refused at once."""
    begun = SagaStep("take", _BANK, Movement(name, 1, Decimal(-1)), after=())
    refused = SagaStep("refused", NAMES[1], Movement(name, 1, -FORTUNE), after=())
    return Saga(name, (begun, refused), _LATE_DEADLINE, doomed=True)


async def _turned(stage: Stage, sagas: Sequence[Saga]) -> None:
    """Waits until all of them have turned. Raises `NotHit`."""
    async with AsyncClient(stage.system.address) as client:
        for saga in sagas:
            end = time.monotonic() + _TURNING
            while time.monotonic() < end:
                found = await client.outcome(saga.name, events=True)
                if found is not None and any(event.kind == "TURNED" for event in found.events):
                    break
                await asyncio.sleep(_POLL)
            else:
                raise NotHit(f"saga {saga.name} has not turned within {_TURNING:g} s")


def _in_sagas(drill: Drill, *, quick: bool = False) -> Drill:
    name, about = f"{drill.name}, in sagas", f"{drill.about}, while sagas run"
    return replace(drill, name=name, about=about, quick=quick, business=Business.SAGAS)


def _pair(first: CrashPoint, second: CrashPoint, about: str) -> Drill:
    return replace(pair(first, second, about), business=Business.SAGAS, within=WITHIN)


_QUICK: Final = frozenset({"frozen, with a standby"})
_CHOSEN: Final = frozenset(
    {
        "kill the coordinator",
        "kill everything",
        "a participant is away",
        "freeze the coordinator",
        "freeze a participant",
        "stop Postgres at once",
        "restart the coordinator",
        "killed, with a standby",
        "frozen, with a standby",
        "participant cut off",
        "participant heard late",
        "participant's answers lost",
        "Postgres' answers lost",
        "clients' answers lost",
    }
)

IN_SAGAS: Final = tuple(
    _in_sagas(drill, quick=drill.name in _QUICK) for drill in (*STOPS, *TAKEOVERS, *NETWORKS) if drill.name in _CHOSEN
)

LATE_WORK: Final = Drill(
    "work comes after its compensation, in sagas",
    f"what was sent to {_BANK} is held up, the coordinator dies, and the next one reaches {_BANK} by another way",
    _work_comes_last,
    quick=True,
    business=Business.SAGAS,
)

SAGA_PAIRS: Final = (
    _pair(
        CrashPoint.SAGA_AFTER_START,
        CrashPoint.PARTICIPANT_BEFORE_WORK,
        "begun and nothing sent, and the first step dies with its participant",
    ),
    _pair(
        CrashPoint.SAGA_AFTER_STEP,
        CrashPoint.PARTICIPANT_AFTER_LOCAL_COMMIT,
        "a step is done that nobody wrote down, and the next one is done and could not say so",
    ),
    _pair(
        CrashPoint.SAGA_BEFORE_ASK,
        CrashPoint.PARTICIPANT_BEFORE_TOMBSTONE,
        "nobody asked how a step ended, and whoever is asked dies before it is barred",
    ),
    _pair(
        CrashPoint.SAGA_AFTER_TURN,
        CrashPoint.PARTICIPANT_AFTER_CLAIM,
        "turned, nobody told, and a participant dies when it has claimed the action's key and undone nothing",
    ),
    _pair(
        CrashPoint.SAGA_BEFORE_TURN,
        CrashPoint.PARTICIPANT_AFTER_REFUSAL,
        "the turn is not durable, and a refusal is, whose answer is lost",
    ),
    _pair(
        CrashPoint.SAGA_BEFORE_COMPENSATE,
        CrashPoint.PARTICIPANT_BEFORE_COMPENSATION,
        "the compensation fails to leave, and then to be done",
    ),
    _pair(
        CrashPoint.SAGA_AFTER_COMPENSATE,
        CrashPoint.PARTICIPANT_AFTER_COMPENSATION,
        "compensated twice over, and both answers are lost",
    ),
    _pair(
        CrashPoint.SAGA_BEFORE_END,
        CrashPoint.PARTICIPANT_AFTER_COMPENSATION,
        "everything is undone and not written down as ended: it is asked for again",
    ),
)
