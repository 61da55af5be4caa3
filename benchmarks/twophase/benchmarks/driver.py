"""The process of one contender's clients: it takes orders for rounds, and answers with what happened.

Lives here: which contender does what is asked for. Must not live here: how it is asked (`conversation`), what a
contender does. Run as `python -m twophase.benchmarks.driver NAME HOST:PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from twophase.benchmarks.contenders import Contender, Places
from twophase.benchmarks.conversation import serve
from twophase.benchmarks.pacing import Client, Tell, run_threads
from twophase.benchmarks.workload import Order, Tally
from twophase.contract.addresses import Address

_Round: TypeAlias = Callable[[Order, Tell], Tally]


def rounds_of(contender: Contender, places: Places) -> _Round:
    """What runs a contender's rounds. It is imported only now: no process needs what another one needs."""
    match contender:
        case Contender.LOOP:
            from twophase.benchmarks import hand_written

            return _in_threads(hand_written.clients, places)
        case Contender.SQLALCHEMY:
            from twophase.benchmarks import sqlalchemy_session

            return _in_threads(sqlalchemy_session.clients, places)
        case Contender.DBOS_SQLITE | Contender.DBOS_POSTGRES:
            from twophase.benchmarks import dbos_workflow

            dbos_workflow.launch(places.state)
            return _in_threads(dbos_workflow.clients, places)
        case Contender.TWO_PHASE | Contender.SAGA:
            from twophase.benchmarks import through_coordinator
            from twophase.coordinator.client import Protocol

            protocol = Protocol.SAGA if contender is Contender.SAGA else Protocol.TWO_PHASE
            return lambda order, tell: asyncio.run(through_coordinator.run(places, order, tell, protocol=protocol))


def _in_threads(clients: Callable[[Places, int], AbstractContextManager[Client]], places: Places) -> _Round:
    def run(order: Order, tell: Tell) -> Tally:
        with clients(places, order.clients) as client:
            return run_threads(client, order, tell)

    return run


def main() -> None:
    """The process."""
    contender, listen = Contender(sys.argv[1]), Address.parse(sys.argv[2])
    run = rounds_of(contender, Places.from_environment())
    serve(f"twophase benchmark '{contender}'", listen, lambda order, tell: run(Order(**order), tell).to_json())


if __name__ == "__main__":
    main()
