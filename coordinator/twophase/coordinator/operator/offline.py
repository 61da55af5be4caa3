"""What is prepared in one database, without a coordinator: for when that is down.

Lives here: the way through the participant library, which need not be installed for the other verbs. Must not live
here: SQL, layout.
"""

from __future__ import annotations

from twophase.contract.names import Gid
from twophase.coordinator.client import InDoubt
from twophase.coordinator.client.findings import observed_of
from twophase.coordinator.operator.connection import fail
from twophase.coordinator.operator.indoubt_view import Sight
from twophase.participant.errors import NotReady, ParticipantError
from twophase.participant.observe import observe


def look_into(dsn: str) -> Sight:
    """The prepared branches of every coordinator in the database, the oldest first. Ends the command if it cannot be
    looked at."""
    try:
        seen = observe(dsn, "indoubt", None)
    except NotReady as error:
        fail("; ".join((str(error), *error.remedies)))
    except ParticipantError as error:
        fail(str(error))
    branches = tuple(observed_of(one, participant="", txid=str(Gid.parse(one.gid).txid)) for one in seen.branches)
    return Sight(InDoubt(branches), database=seen.identity.database if seen.identity is not None else "")
