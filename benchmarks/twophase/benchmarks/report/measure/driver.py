"""The process of one contender's clients: it takes tasks, and answers with what they were told.

Lives here: which contender does a task. Must not live here: how it is asked (`conversation`), what a contender does
(`contenders`). Run as `python -m twophase.benchmarks.report.measure.driver NAME HOST:PORT`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from twophase.benchmarks.conversation import serve
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


def main() -> None:
    """The process."""
    who, listen = Who(sys.argv[1]), Address.parse(sys.argv[2])
    run = load_of(who, Places.from_environment())
    serve(f"twophase report '{who}'", listen, lambda task, tell: run(Task.from_json(task), tell).to_json())


if __name__ == "__main__":
    main()
