"""The participants a coordinator knows: their addresses, databases and operations.

Lives here: registration, the handshake, whether one is there, and whether an answer comes from the right database. Must
not live here: transactions, and what follows from a journal that is older than its participants (`quarantine`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TypeAlias

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch, InvalidName
from twophase.coordinator.engine import rejections
from twophase.coordinator.engine.links import Link, LinkLost, LinkRejected, Links
from twophase.coordinator.engine.quarantine import Quarantine
from twophase.coordinator.engine.tasks import Tasks
from twophase.coordinator.journal.port import Journal, ParticipantRecord
from twophase.v1 import participant_pb2, types_pb2

_log = logging.getLogger(__name__)

Offers: TypeAlias = Mapping[str, participant_pb2.OperationDescription]
"""What a participant offers, by name."""

_HANDSHAKE_SECONDS = 5.0
_HORIZONS_AT_ONCE = 50  # each costs the participant two statements
_RETIRED_SECONDS = 60.0  # how much longer than the longest deadline a link is kept that nobody uses any more
_FINISHING = 64  # calls of the second phase under way at one participant; it has a handful of connections for them


class Slots(asyncio.Semaphore):
    """A number of slots. One that is free can be had without waiting, not even for a turn of the loop."""

    def take(self) -> bool:
        """Takes a slot if one is free, as `acquire` does then."""
        if self.locked():
            return False
        self._value -= 1
        return True

    def give_back(self, _: object) -> None:
        """Gives one back: for a future that is done."""
        self.release()


@dataclass(eq=False, slots=True)
class Peer:
    """One participant. `operations` is None until it has shaken hands in this epoch, and after its database changed.

    `here` is set while it answers, as far as is known; `away` is True once it did not, until it does again. `doubted`
    is set by whoever did not get an answer: the one task that watches the participant looks at once. `slots` bounds
    what the second phase asks of it at the same time.
    """

    record: ParticipantRecord
    link: Link
    operations: Offers | None = None
    here: asyncio.Event = field(default_factory=asyncio.Event)
    away: bool = False
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    slots: Slots = field(default_factory=lambda: Slots(_FINISHING))
    greeting: asyncio.Future[Offers] | None = None

    @property
    def name(self) -> str:
        """The participant's name."""
        return self.record.name

    @property
    def is_ready(self) -> bool:
        """Whether something can be asked of it now: it answers, as far as is known, and has shaken hands."""
        return self.operations is not None and self.here.is_set()

    def speaks_for(self, identity: types_pb2.DatabaseIdentity) -> bool:
        """Whether an answer with this identity comes from the database, and the timeline, that shook hands."""
        return (identity.system_identifier, identity.timeline, identity.database) == (
            self.record.system_identifier,
            self.record.timeline,
            self.record.database,
        )


class Peers:
    """All participants of one journal."""

    def __init__(self, journal: Journal, links: Links, tasks: Tasks, *, deadline_cap: float = 60.0) -> None:
        """`deadline_cap`: the longest deadline of a transaction, in seconds."""
        self.quarantine = Quarantine(journal)
        self._journal = journal
        self._links = links
        self._tasks = tasks
        self._peers: dict[str, Peer] = {}
        # Who is known is compared with what is to be recorded, and that takes effect once it is durable: one at a time.
        self._recording = asyncio.Lock()
        self._retired_seconds = deadline_cap + _RETIRED_SECONDS
        self._registering: list[Link] = []
        self._horizons: dict[Epoch, int] = {}
        # By participant, the horizons below which it has nothing any more, as it said in this process' time.
        self._heard: dict[str, dict[Epoch, int]] = {}

    def allow(self, epoch: Epoch, horizon: int) -> None:
        """The participants may forget what lies below this horizon, which the journal has durably. The next handshakes
        tell them."""
        if horizon > self._horizons.get(epoch, 0):
            self._horizons[epoch] = horizon

    def has_news(self, peer: Peer) -> bool:
        """Whether there are horizons the participant has not heard of, or has more to prune below."""
        return bool(self._news(peer.name))

    @property
    def behind(self) -> str | None:
        """Why the journal counts as older than its participants, in words; None if it does not."""
        return self.quarantine.proof or None

    async def load(self) -> None:
        """Knows again what the journal knows. Nobody is asked yet."""
        await self.quarantine.load()
        for given in await self._journal.epochs():
            self.allow(given.epoch, given.horizon)
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
        self._registering.append(link)
        try:
            return await self._register(name, address, link)
        finally:
            self._registering.remove(link)
            if not self._is_used(link):
                self._retire(link)

    async def _register(self, name: str, address: str, link: Link) -> Peer:
        try:
            answer = await self._ask(link, name)
        except LinkLost as error:
            raise rejections.unreachable(name, address, str(error)) from error
        record = ParticipantRecord(
            name, address, answer.identity.system_identifier, answer.identity.timeline, answer.identity.database
        )
        async with self._recording:
            known = self._peers.get(name)
            self._refuse_another_database(known, record)
            if known is not None:
                _alarm_of_another_timeline(known.record, record)
            if known is None or known.record != record:
                reach(CrashPoint.COORDINATOR_BEFORE_REGISTER)
                await self._journal.register(record)
                reach(CrashPoint.COORDINATOR_AFTER_REGISTER)
                self._heard.pop(name, None)  # as in _shake_hands
            peer = self._peers.get(name)
            if peer is None:
                peer = self._peers[name] = Peer(record, link)
            elif peer.link is not link:
                self._retire(peer.link)
                peer.link = link
            peer.record = record
            self._met(peer, answer)
            return peer

    def _retire(self, link: Link) -> None:
        """Closes a link after a while, unless it is used then: who has another address at each start leaves one behind
        each time, and each goes on trying to connect. Calls may still be under way on it; an attempt of a saga that
        takes longer than that is made again where the participant is now."""
        self._tasks.later(self._retired_seconds, partial(self._close_if_unused, link))

    def _close_if_unused(self, link: Link) -> None:
        if not self._is_used(link):
            self._tasks.spawn(link.close(), name="close a link")

    def _is_used(self, link: Link) -> bool:
        return link in self._registering or any(peer.link is link for peer in self)

    async def ready(self, peer: Peer, *, within: float) -> Offers:
        """The operations of a participant that has shaken hands, now if it had not before. `within` is in seconds.

        Raises `LinkLost`.
        """
        return await self.greet(peer, within=within) if peer.operations is None else peer.operations

    async def greet(self, peer: Peer, *, within: float = _HANDSHAKE_SECONDS) -> Offers:
        """Shakes hands, also with one that did before: it may offer other operations now. Raises as `ready`.

        Returns what was answered: the participant may count as lost again before whoever waited is woken.
        Whoever comes while hands are being shaken shares the answer, and the time that it takes if there is none.
        """
        if peer.greeting is None:
            peer.greeting = asyncio.get_running_loop().create_future()
            self._tasks.spawn(self._greet(peer, peer.greeting), name=f"greet {peer.name}")
        try:
            async with asyncio.timeout(within):
                return await asyncio.shield(peer.greeting)
        except TimeoutError:
            raise LinkLost(f"participant {peer.name!r} did not shake hands within {within:g} s") from None

    def changed(self, peer: Peer) -> None:
        """An answer came from another database or timeline: the next use shakes hands first."""
        peer.operations = None

    def lost(self, peer: Peer) -> None:
        """The participant did not answer its watcher: it shakes hands again before anything else is asked of it."""
        peer.operations = None
        peer.away = True
        peer.here.clear()

    async def _greet(self, peer: Peer, done: asyncio.Future[Offers]) -> None:
        try:
            offers = await self._shake_hands(peer)
        except LinkLost as error:
            done.set_exception(error)
            done.exception()  # seen, also if nobody waits any more
        else:
            done.set_result(offers)
        finally:
            peer.greeting = None
            done.cancel()  # no effect if it is done; else the engine is ending, and so is whoever waits

    async def _shake_hands(self, peer: Peer) -> Offers:
        answer = await self._ask(peer.link, peer.name)
        identity = answer.identity
        async with self._recording:
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
                _alarm_of_another_timeline(peer.record, record)
                await self._journal.register(record)
                peer.record = record
                self._heard.pop(peer.name, None)  # another timeline may have lost what was said to the last one
        return self._met(peer, answer)

    def _met(self, peer: Peer, answer: participant_pb2.HandshakeResponse) -> Offers:
        peer.operations = offers = {operation.name: operation for operation in answer.operations}
        peer.away = False
        peer.here.set()
        return offers

    async def _ask(self, link: Link, name: str) -> participant_pb2.HandshakeResponse:
        """A look first, and a handshake that is remembered only if the journal is not found to be an older copy: its
        epoch would cover what the participant remembers of the lost ones."""
        looked = await self._handshake(link, name, look_only=True)
        if self.quarantine.active:
            return looked
        return await self._handshake(link, name, look_only=False)

    async def _handshake(self, link: Link, name: str, *, look_only: bool) -> participant_pb2.HandshakeResponse:
        journal = self._journal
        epoch = types_pb2.Epoch(number=journal.epoch.number, nonce=journal.epoch.nonce)
        request = participant_pb2.HandshakeRequest(
            participant=name, journal_id=journal.journal_id, epoch=epoch, look_only=look_only
        )
        news = {} if look_only else self._news(name)
        for owner, sequence in news.items():
            request.horizons.add(epoch=types_pb2.Epoch(number=owner.number, nonce=owner.nonce), sequence=sequence)
        answer = await link.handshake(request, timeout=_HANDSHAKE_SECONDS)
        if answer.participant != name:
            raise LinkRejected(f"the participant there is {answer.participant!r}, not {name!r}")
        await self._compare(name, answer)
        if not answer.pruning_left:
            self._heard.setdefault(name, {}).update(news)
        return answer

    def _news(self, name: str) -> dict[Epoch, int]:
        """Horizons to tell a participant, the oldest first, not more than fit well into one handshake."""
        heard = self._heard.get(name, {})
        news = ((epoch, at) for epoch, at in sorted(self._horizons.items()) if at > heard.get(epoch, 0))
        return dict(islice(news, _HORIZONS_AT_ONCE))

    async def _compare(self, name: str, answer: participant_pb2.HandshakeResponse) -> None:
        """What the participant has seen, against what this journal has reached."""
        theirs = answer.last_epoch
        if answer.HasField("last_epoch"):
            try:
                seen = Epoch(theirs.number, theirs.nonce)
            except InvalidName as error:
                raise LinkRejected(
                    f"participant {name!r} says that it has seen an epoch that is none: {error}"
                ) from error
            if self.quarantine.is_strange(seen):
                await self.quarantine.prove(
                    f"participant {name!r} has seen epoch {seen}, which this journal never gave out"
                )
        if answer.highest_position > self._journal.position:
            await self.quarantine.prove(
                f"participant {name!r} holds journal position {answer.highest_position}, this journal ends at"
                f" {self._journal.position}"
            )

    def _refuse_another_database(self, known: Peer | None, record: ParticipantRecord) -> None:
        if known is not None and not _same_database(known.record, record):
            raise rejections.name_taken(record.name, owner=_shown(known.record), given=_shown(record))
        for peer in self._peers.values():
            if peer.name != record.name and _same_database(peer.record, record):
                raise rejections.database_taken(record.name, owner=peer.name, database=_shown(record))


def _same_database(one: ParticipantRecord, other: ParticipantRecord) -> bool:
    return (one.system_identifier, one.database) == (other.system_identifier, other.database)


def _alarm_of_another_timeline(known: ParticipantRecord, record: ParticipantRecord) -> None:
    """Before the journal has it, so that a crash in between repeats it: what had ended there is not looked at again,
    so a commit that the standby never got would be missed by nobody (R11)."""
    if known.timeline != record.timeline:
        _log.critical(
            "participant %r answers on timeline %d, before on %d: a standby of its server was promoted, or a backup"
            " restored. If that one was behind, the last commits are lost there: look which transactions ended last"
            " (`twophase tx list`), and whether their ledger rows are there",
            *(record.name, record.timeline, known.timeline),
        )


def _shown(record: ParticipantRecord) -> str:
    return f"database {record.database!r} of server {record.system_identifier}"
