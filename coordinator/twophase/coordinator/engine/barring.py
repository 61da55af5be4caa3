"""Barring what a person took for done: a step, or its compensation, must not take effect any more.

Lives here: the one call that does it. Must not live here: when (`dead_letters`, and `saga` after a crash).
"""

from __future__ import annotations

import logging

from twophase.contract.names import Gid
from twophase.coordinator.engine import messages
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.underway import FINISH_SECONDS
from twophase.coordinator.protocol.decisions import Ending
from twophase.v1 import types_pb2

_log = logging.getLogger(__name__)


async def bar(peer: Peer, gid: Gid, *, compensation: bool) -> Ending | None:
    """Bars a step, or its compensation, or learns that it was done after all; None if nobody answered."""
    kind = types_pb2.BRANCH_KIND_COMPENSATION if compensation else types_pb2.BRANCH_KIND_WORK
    try:
        answer = await peer.link.abort(messages.bar(gid, kind), timeout=FINISH_SECONDS)
    except LinkLost as error:
        _log.warning("participant %s did not bar %s: %s", peer.name, gid, error)
        return None
    return messages.ending_in(answer) if peer.speaks_for(answer.identity) else None
