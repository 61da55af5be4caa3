"""What a submission asks for, against what participants are known to offer; before anything is sent.

Lives here: finding the participants and their operations. Must not live here: request ids, and what runs then.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from twophase.coordinator.engine import reasons, rejections
from twophase.coordinator.engine.api import Call, Submission
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.peers import Offers, Peer, Peers
from twophase.coordinator.journal.events import Reason
from twophase.coordinator.protocol.graph import Graph
from twophase.v1 import participant_pb2


@dataclass(frozen=True, slots=True)
class Offered:
    """A call of a submission that can be sent: where to, and what the participant says of its operation."""

    peer: Peer
    call: Call
    described: participant_pb2.OperationDescription


async def find(submission: Submission, peers: Peers) -> tuple[Offered, ...] | Reason:
    """Every call with its participant; or why they cannot all be sent, if one of them is away. Raises `Rejected` for
    what no participant offers."""
    names = dict.fromkeys(call.participant for call in submission.calls)
    found = {name: _known(peers, submission.calls, name) for name in names}
    offered: dict[str, Offers] = {name: peer.operations for name, peer in found.items() if peer.operations is not None}
    away: Reason | None = None
    strangers = [peer for name, peer in found.items() if name not in offered]
    if strangers:
        answers = await asyncio.gather(*(_offered(peers, peer, submission.deadline) for peer in strangers))
        for peer, answer in zip(strangers, answers, strict=True):
            if isinstance(answer, LinkLost):
                away = away or reasons.unreachable(peer.name, str(answer))
            else:
                offered[peer.name] = answer
    checked = []
    for index, call in enumerate(submission.calls):
        if call.participant in offered:
            peer, offers = found[call.participant], offered[call.participant]
            described = offers.get(call.operation)
            if described is None or not rejections.is_of_its_type(described, call):
                described = await _deployed_anew(peers, peer, offers, index, call)
            rejections.refuse_another_type(described, index, call)
            checked.append(Offered(peer, call, described))
    return away or tuple(checked)


async def undoable(offered: tuple[Offered, ...], graph: Graph, peers: Peers) -> tuple[Offered, ...]:
    """The steps of a saga, as their participants describe them now. Raises `Rejected` if a step that may have to be
    undone cannot be."""
    if lacking := _without_compensation(offered, graph):
        asked = {offered[index].peer for index in lacking}
        anew = dict(zip(asked, await asyncio.gather(*(_offered_anew(peers, peer) for peer in asked)), strict=True))
        offered = tuple(
            replace(one, described=(anew.get(one.peer) or {}).get(one.call.operation, one.described)) for one in offered
        )
        for index in _without_compensation(offered, graph):
            raise rejections.no_compensation(index, offered[index].call, pivot=graph.pivot is not None)
    return offered


def _without_compensation(offered: tuple[Offered, ...], graph: Graph) -> tuple[int, ...]:
    """The steps that may have to be undone and cannot be."""
    return tuple(
        index
        for index, one in enumerate(offered)
        if not (one.described.has_compensation or one.described.read_only)
        and index != graph.pivot
        and graph.may_refuse(index)
    )


def _known(peers: Peers, calls: tuple[Call, ...], name: str) -> Peer:
    peer = peers.get(name)
    if peer is None:
        index = next(index for index, call in enumerate(calls) if call.participant == name)
        raise rejections.unknown_participant(index, name)
    return peer


async def _offered(peers: Peers, peer: Peer, within: float) -> Offers | LinkLost:
    try:
        return await peers.ready(peer, within=within)
    except LinkLost as error:
        return error


async def _deployed_anew(
    peers: Peers, peer: Peer, offers: Offers, index: int, call: Call
) -> participant_pb2.OperationDescription:
    """The participant may have been deployed anew since it shook hands."""
    anew = await _offered_anew(peers, peer)
    offers = offers if anew is None else anew
    if call.operation not in offers:
        raise rejections.unknown_operation(index, call, sorted(offers))
    return offers[call.operation]


async def _offered_anew(peers: Peers, peer: Peer) -> Offers | None:
    """What it offers now; None if it does not say."""
    try:
        return await peers.greet(peer)
    except LinkLost:
        return None
