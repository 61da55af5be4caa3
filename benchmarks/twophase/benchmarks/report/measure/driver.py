"""The process of one contender's clients: it takes tasks over a socket, and answers with what they were told.

Lives here: that conversation, in lines of JSON. Must not live here: what a contender does (`contenders`). Run as
`python -m twophase.benchmarks.report.measure.driver NAME HOST:PORT`; ends when whoever gives the tasks has gone.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from twophase.benchmarks.report.measure.contenders.places import Places
from twophase.benchmarks.report.measure.pacing import Do, run_threads
from twophase.benchmarks.report.measure.task import Log, Task, Tell
from twophase.benchmarks.report.values import Who
from twophase.contract.addresses import Address

_Load: TypeAlias = Callable[[Task, Tell], Log]


def load_of(who: Who, places: Places) -> _Load:
    """What runs a contender's loads. It is imported only now: no process needs what another one needs."""
    match who:
        case Who.LOCAL | Who.LOOP:
            from twophase.benchmarks.report.measure.contenders import by_hand

            return _in_threads(by_hand.local_commits if who is Who.LOCAL else by_hand.loop, places)
        case Who.SQLALCHEMY:
            from twophase.benchmarks.report.measure.contenders.sqlalchemy_session import sqlalchemy_clients

            def run(task: Task, tell: Tell) -> Log:
                with sqlalchemy_clients(places, task) as client:
                    return run_threads(client, task, tell)

            return run
        case Who.DBOS:
            from twophase.benchmarks.report.measure.contenders import dbos_workflow

            dbos_workflow.launch(places.state)
            return _in_threads(dbos_workflow.dbos_client, places)
        case Who.TWO_PHASE | Who.IN_TURN | Who.SAGA:
            from twophase.benchmarks.report.measure.contenders import coordinated
            from twophase.coordinator.client import Protocol

            protocol = Protocol.SAGA if who is Who.SAGA else Protocol.TWO_PHASE
            in_turn = who is Who.IN_TURN
            return lambda task, tell: asyncio.run(
                coordinated.run(places, task, tell, protocol=protocol, in_turn=in_turn)
            )


def _in_threads(client: Callable[[Places, Task], AbstractContextManager[Do]], places: Places) -> _Load:
    return lambda task, tell: run_threads(lambda: client(places, task), task, tell)


def serve(who: Who, listen: Address, run: _Load) -> None:
    """Takes one visitor, and from it one task after the other."""
    with socket.create_server((listen.host, listen.port)) as server:
        sys.stdout.write(f"twophase report '{who}' is ready on {listen}\n")
        sys.stdout.flush()
        visitor, _ = server.accept()
    with visitor, visitor.makefile("rw", encoding="utf-8", newline="\n") as lines:

        def tell(answer: dict[str, Any]) -> None:
            lines.write(json.dumps(answer) + "\n")
            lines.flush()

        for line in lines:
            log = run(Task.from_json(json.loads(line)), lambda moment: tell({"at": moment}))
            tell({"at": "done", **log.to_json()})


def main() -> None:
    """The process."""
    who, listen = Who(sys.argv[1]), Address.parse(sys.argv[2])
    serve(who, listen, load_of(who, Places.from_environment()))


if __name__ == "__main__":
    main()
