"""The participants a coordinator knows: their addresses, databases and operations.

Lives here: registration, the handshake, and the question whether an answer comes from the right database. Must not live
here: transactions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch
from twophase.coordinator.engine import rejections
from twophase.coordinator.engine.links import Link, LinkLost, LinkRejected, Links
from twophase.coordinator.journal.port import Journal, ParticipantRecord
from twophase.v1 import participant_pb2, types_pb2

_log = logging.getLogger(__name__)
_HANDSHAKE_SECONDS = 5.0


class JournalBehind(LinkRejected):
    """A participant has seen what this journal never wrote: it was restored from an older copy.

    That participant counts as out of reach: nothing new is begun at it, and nothing is presumed aborted anywhere.
    """


@dataclass(eq=False, slots=True)
class Peer:
    """One participant. `operations` is None until it has shaken hands in this epoch, and after its database changed."""

    record: ParticipantRecord
    link: Link
    operations: dict[str, participant_pb2.OperationDescription] | None = None
    greeting: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """The participant's name."""
        return self.record.name

    def speaks_for(self, identity: types_pb2.DatabaseIdentity) -> bool:
        """Whether an answer with this identity comes from the database, and the timeline, that shook hands."""
        return (identity.system_identifier, identity.timeline, identity.database) == (
            self.record.system_identifier,
            self.record.timeline,
            self.record.database,
        )


class Peers:
    """All participants of one journal."""

    def __init__(self, journal: Journal, links: Links) -> None:
        self._journal = journal
        self._links = links
        self._peers: dict[str, Peer] = {}
        self.behind: str | None = None

    async def load(self) -> None:
        """Knows again what the journal knows. Nobody is asked yet."""
        for record in await self._journal.participants():
            self._peers[record.name] = Peer(record, self._links.connect(record.address))

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._peers.values()))

    def get(self, name: str) -> Peer | None:
        """The participant of that name, if it is known."""
        return self._peers.get(name)

    async def register(self, name: str, address: str) -> Peer:
        """Makes a participant known, durably, after a handshake at `address` (`host:port`). Raises `Rejected`."""
        link = self._links.connect(address)
        try:
            answer = await self._ask(link, name)
        except LinkLost as error:
            raise rejections.unreachable(name, address, str(error)) from error
        record = ParticipantRecord(
            name, address, answer.identity.system_identifier, answer.identity.timeline, answer.identity.database
        )
        known = self._peers.get(name)
        self._refuse_another_database(known, record)
        if known is None or known.record != record:
            reach(CrashPoint.COORDINATOR_BEFORE_REGISTER)
            await self._journal.register(record)
            reach(CrashPoint.COORDINATOR_AFTER_REGISTER)
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = Peer(record, link)
        elif peer.link is not link:
            peer.link = link
        peer.record = record
        peer.operations = {operation.name: operation for operation in answer.operations}
        return peer

    async def ready(self, peer: Peer, *, within: float) -> dict[str, participant_pb2.OperationDescription]:
        """The operations of a participant that has shaken hands, now if it had not before. `within` is in seconds.

        Raises `LinkLost`.
        """
        if peer.operations is None:
            await self.greet(peer, within=within)
        assert peer.operations is not None  # noqa: S101
        return peer.operations

    async def greet(self, peer: Peer, *, within: float = _HANDSHAKE_SECONDS) -> None:
        """Shakes hands, also with one that did before: it may offer other operations now. Raises as `ready`."""
        async with peer.greeting:
            answer = await self._ask(peer.link, peer.name, within=within)
            identity = answer.identity
            record = replace(
                peer.record,
                system_identifier=identity.system_identifier,
                timeline=identity.timeline,
                database=identity.database,
            )
            if record != peer.record:
                if not _same_database(record, peer.record):
                    raise LinkRejected(
                        f"participant {peer.name!r} at {peer.record.address} answers for another database"
                        f" ({_shown(record)}) than the registered one ({_shown(peer.record)})"
                    )
                await self._journal.register(record)
                peer.record = record
            peer.operations = {operation.name: operation for operation in answer.operations}

    def changed(self, peer: Peer) -> None:
        """An answer came from another database or timeline: the next use shakes hands first."""
        peer.operations = None

    async def _ask(
        self, link: Link, name: str, *, within: float = _HANDSHAKE_SECONDS
    ) -> participant_pb2.HandshakeResponse:
        journal = self._journal
        epoch = types_pb2.Epoch(number=journal.epoch.number, nonce=journal.epoch.nonce)
        request = participant_pb2.HandshakeRequest(participant=name, journal_id=journal.journal_id, epoch=epoch)
        answer = await link.handshake(request, timeout=min(within, _HANDSHAKE_SECONDS))
        if answer.participant != name:
            raise LinkRejected(f"the participant there is {answer.participant!r}, not {name!r}")
        self._compare(name, answer)
        return answer

    def _compare(self, name: str, answer: participant_pb2.HandshakeResponse) -> None:
        ours, theirs = self._journal.epoch, answer.last_epoch
        seen = Epoch(theirs.number, theirs.nonce) if answer.HasField("last_epoch") else None
        if seen is not None and (seen.number > ours.number or (seen.number == ours.number and seen != ours)):
            self.behind = f"participant {name!r} has seen epoch {seen}, this journal is at {ours}"
        elif answer.highest_position > self._journal.position:
            self.behind = (
                f"participant {name!r} holds journal position {answer.highest_position}, this journal ends at"
                f" {self._journal.position}"
            )
        else:
            return
        _log.critical("the journal is older than its participants: %s; nothing is presumed aborted", self.behind)
        raise JournalBehind(self.behind)

    def _refuse_another_database(self, known: Peer | None, record: ParticipantRecord) -> None:
        if known is not None and not _same_database(known.record, record):
            raise rejections.name_taken(record.name, owner=_shown(known.record), given=_shown(record))
        for peer in self._peers.values():
            if peer.name != record.name and _same_database(peer.record, record):
                raise rejections.database_taken(record.name, owner=peer.name, database=_shown(record))


def _same_database(one: ParticipantRecord, other: ParticipantRecord) -> bool:
    return (one.system_identifier, one.database) == (other.system_identifier, other.database)


def _shown(record: ParticipantRecord) -> str:
    return f"database {record.database!r} of server {record.system_identifier}"
