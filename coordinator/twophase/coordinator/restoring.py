"""The way out of quarantine: the operator says that the journal is an older copy, and it is lifted above what was lost.

Lives here: asking every participant what it has seen, and lifting the journal. Must not live here: what follows from a
lifted journal (`engine.quarantine`), options and their texts (`cli`).

It forces nothing: no branch is ended here. What the journal does not know of epochs up to the lift stays a matter of
evidence for ever; new epochs and positions begin above them, so that they are not taken for the lost ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.coordinator.engine.links import LinkLost, Links
from twophase.coordinator.journal.port import Journal, ParticipantRecord
from twophase.v1 import participant_pb2, types_pb2

_ASK_SECONDS = 5.0

_Answer: TypeAlias = participant_pb2.HandshakeResponse
_Seen: TypeAlias = Mapping[str, _Answer | str]


class CannotLift(Exception):
    """The journal stays as it is: the fact, the value and the remedy, in one line."""


async def lift(journal: Journal, links: Links, declared: Iterable[tuple[str, str]] = ()) -> None:
    """Lifts the journal above everything its participants have seen, durably; close it then, and open it again.

    `declared` are (name, address) of participants that the copy may not know yet. Raises `CannotLift` unless every one
    of them and of those on record answers for its own database, and if the journal was lifted before and nothing shows
    that it is an older copy again.
    """
    records = {record.name: record for record in await journal.participants()}
    addresses = {name: record.address for name, record in records.items()} | dict(declared)
    names = sorted(addresses)
    answers = await asyncio.gather(*(_look(journal, links, name, addresses[name]) for name in names))
    seen = dict(zip(names, answers, strict=True))
    _check(seen, records)
    epochs = [answer.last_epoch.number for answer in seen.values() if isinstance(answer, _Answer)]
    positions = [answer.highest_position for answer in seen.values() if isinstance(answer, _Answer)]
    await _refuse_a_second_time(journal, max(positions, default=0), _strange(await _given(journal), seen))
    reach(CrashPoint.RECOVERY_BEFORE_LIFT)
    await journal.lift(epoch=max(journal.epoch.number, *epochs, 0), position=max(journal.position, *positions, 0))
    reach(CrashPoint.RECOVERY_AFTER_LIFT)


async def _look(journal: Journal, links: Links, name: str, address: str) -> _Answer | str:
    """What the participant has seen of this journal, or why that is not known."""
    epoch = types_pb2.Epoch(number=journal.epoch.number, nonce=journal.epoch.nonce)
    request = participant_pb2.HandshakeRequest(
        participant=name, journal_id=journal.journal_id, epoch=epoch, look_only=True
    )
    try:
        answer = await links.connect(address).handshake(request, timeout=_ASK_SECONDS)
    except LinkLost as error:
        return str(error)
    return answer if answer.participant == name else f"the participant at {address} is {answer.participant!r}"


def _check(seen: _Seen, records: Mapping[str, ParticipantRecord]) -> None:
    if not seen:
        raise CannotLift("the journal knows no participant, so it is not the one that was restored; check --journal")
    for name, answer in seen.items():
        if isinstance(answer, str):
            raise CannotLift(
                f"participant {name!r} does not tell what it has seen ({answer}), and it may have seen more than"
                " all others; start it, and then this coordinator again with --after-restore"
            )
        record, identity = records.get(name), answer.identity
        if record is not None and (identity.system_identifier, identity.database) != (
            record.system_identifier,
            record.database,
        ):
            raise CannotLift(
                f"participant {name!r} answers for database {identity.database!r} of server"
                f" {identity.system_identifier}, and was registered with {record.database!r} of server"
                f" {record.system_identifier}; connect it with its own database, and start again"
            )


async def _given(journal: Journal) -> frozenset[tuple[int, str]]:
    return frozenset((record.epoch.number, record.epoch.nonce) for record in await journal.epochs())


def _strange(given: frozenset[tuple[int, str]], seen: _Seen) -> list[int]:
    """The numbers of epochs that participants have seen and the journal never gave out."""
    return [
        answer.last_epoch.number
        for answer in seen.values()
        if isinstance(answer, _Answer)
        and answer.HasField("last_epoch")
        and (answer.last_epoch.number, answer.last_epoch.nonce) not in given
    ]


async def _refuse_a_second_time(journal: Journal, position: int, strange: list[int]) -> None:
    """The option left behind in a service's command line would make every start doubt what the one before began."""
    known = await journal.restoration()
    proven = known.proofs or position > journal.position or any(number > known.floor for number in strange)
    if known.floor and not proven:
        raise CannotLift(
            f"the journal was lifted before, above epoch {known.floor}, and nothing shows that it was restored again;"
            " start without --after-restore"
        )
