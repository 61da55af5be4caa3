"""The process of one contender's clients: it takes orders for rounds over a socket, and answers with what happened.

Lives here: that conversation, in lines of JSON. Must not live here: what a contender does. Run as
`python -m twophase.benchmarks.driver NAME HOST:PORT`; ends when whoever gives the orders has gone.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from twophase.benchmarks.contenders import Contender, Places
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


def serve(contender: Contender, listen: Address, run: _Round) -> None:
    """Takes one visitor, and from it one order after the other."""
    with socket.create_server((listen.host, listen.port)) as server:
        sys.stdout.write(f"twophase benchmark '{contender}' is ready on {listen}\n")
        sys.stdout.flush()
        visitor, _ = server.accept()
    with visitor, visitor.makefile("rw", encoding="utf-8", newline="\n") as lines:

        def tell(answer: dict[str, Any]) -> None:
            lines.write(json.dumps(answer) + "\n")
            lines.flush()

        for line in lines:
            tally = run(Order(**json.loads(line)), lambda moment: tell({"at": moment}))
            tell({"at": "done", **tally.to_json()})


def main() -> None:
    """The process."""
    contender, listen = Contender(sys.argv[1]), Address.parse(sys.argv[2])
    serve(contender, listen, rounds_of(contender, Places.from_environment()))


if __name__ == "__main__":
    main()
