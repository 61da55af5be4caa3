"""The catalogue of all drills.

Lives here: their order. Must not live here: any drill.
"""

from __future__ import annotations

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox.drill.crashes import dies_at
from twophase.sandbox.drill.crowd import CROWDS
from twophase.sandbox.drill.disk import DISKS
from twophase.sandbox.drill.journals import JOURNALS
from twophase.sandbox.drill.network import NETWORKS
from twophase.sandbox.drill.pairs import PAIRS, RECOVERIES
from twophase.sandbox.drill.stops import STOPS
from twophase.sandbox.drill.takeover import TAKEOVERS
from twophase.sandbox.drill.undoing import IN_SAGAS, LATE_WORK, SAGA_PAIRS
from twophase.sandbox.drill.values import Drill
from twophase.sandbox.drill.without_postgres import WITHOUT_POSTGRES


def catalogue() -> tuple[Drill, ...]:
    """Every drill, in the order in which they are run."""
    return (
        *(dies_at(point) for point in CrashPoint),
        *PAIRS,
        *RECOVERIES,
        *STOPS,
        *TAKEOVERS,
        *DISKS,
        *NETWORKS,
        *JOURNALS,
        *CROWDS,
        *WITHOUT_POSTGRES,
        *IN_SAGAS,
        LATE_WORK,
        *SAGA_PAIRS,
    )
