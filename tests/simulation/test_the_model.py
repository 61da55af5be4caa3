"""The model of Postgres is itself checked: it and a real server give the same answers to the same scripts.

TWOPHASE_MODEL_SCRIPTS is how many scripts are made by chance (of 40 steps each); the ordinary run takes a few.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fixtures.clusters import FAST
from simulation.scripts import by_chance
from simulation.stages import OnAServer, OnTheModel
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.postgres import Cluster

_BY_CHANCE = int(os.environ.get("TWOPHASE_MODEL_SCRIPTS", "12"))
_STEPS = 40
_AT_ONCE = 4

SCRIPTS = {
    "a row is locked until its holder commits": """
        a: move 0 -5                     done
        b: move 0 7                      waits
        c: look 0                        100
        a: look 0                        95
        a: commit                        done, b: done
        b: look 0                        102
        c: look 0                        95
        b: roll back                     done
        balances 95 100, ledger -, prepared -
    """,
    "a wait for a row ends with its lock timeout, and that with the transaction": """
        a: lock 0                        done
        b: insert g1                     done
        b: lock 0 briefly                lock timeout
        c: insert g1                     done
        b: look 0                        failed before
        b: commit                        rolled back
        b: insert g1                     waits
        c: commit                        done, b: duplicate
        balances 100 100, ledger g1, prepared -
    """,
    "PREPARE in a failed transaction answers ROLLBACK, without an error": """
        a: insert g1                     done
        a: commit                        done
        a: move 0 -5                     done
        a: insert g1                     duplicate
        a: prepare g1                    rolled back
        z: commit prepared g1            not found
        balances 100 100, ledger g1, prepared -
    """,
    "a key is a duplicate also in the transaction that wrote it": """
        a: insert g1                     done
        a: insert g1                     duplicate
        b: insert g1                     done
        a: roll back                     done
        b: commit                        done
        balances 100 100, ledger g1, prepared -
    """,
    "the second writer of a key waits, and goes on if the first one rolls back": """
        a: insert g1                     done
        b: insert g1                     waits
        a: roll back                     done, b: done
        b: commit                        done
        a: insert g1                     duplicate
        balances 100 100, ledger g1, prepared -
    """,
    "a prepared branch holds its row and its key, whoever ends": """
        a: move 0 -5                     done
        a: insert g1                     done
        a: prepare g1                    done
        kill a                           done
        b: move 0 1 briefly              lock timeout
        c: insert g1 briefly             lock timeout
        b: roll back                     done
        c: roll back                     done
        b: look 0                        100
        b: lock 0                        waits
        z: commit prepared g1            done, b: done
        b: look 0                        95
        z: commit prepared g1            not found
        balances 95 100, ledger g1, prepared -
    """,
    "a tombstone over a prepared row waits for ever, and is in time after a rollback": """
        a: insert g1                     done
        a: prepare g1                    done
        b: insert g1 briefly             lock timeout
        b: roll back                     done
        b: insert g1                     waits
        z: roll back prepared g1         done, b: done
        b: commit                        done
        z: roll back prepared g1         not found
        balances 100 100, ledger g1, prepared -
    """,
    "a branch that is committed in the middle of a tombstone's wait is a duplicate to it": """
        a: insert g1                     done
        b: insert g1                     waits
        a: prepare g1                    done
        z: commit prepared g1            done, b: duplicate
        b: prepare g1                    rolled back
        balances 100 100, ledger g1, prepared -
    """,
    "what is prepared is there after an immediate shutdown, with its locks; all else is not": """
        a: move 0 -5                     done
        a: insert g1                     done
        a: prepare g1                    done
        b: move 1 20                     done
        c: lock 0                        waits
        the server stops at once         done, c: gone
        b: lock 1                        done
        c: lock 0                        waits
        a: insert g1 briefly             lock timeout
        the server stops at once         done, c: gone
        z: commit prepared g1            done
        a: lock 0                        done
        balances 95 100, ledger g1, prepared -
    """,
    "a GID that is taken is refused, and the transaction is gone with it": """
        a: move 0 -5                     done
        a: prepare g1                    done
        b: move 1 -5                     done
        b: prepare g1                    name taken
        b: look 1                        100
        c: lock 1                        done
        b: commit                        done
        z: roll back prepared g1         done
        balances 100 100, ledger -, prepared -
    """,
    "whoever rolls back by GID after a refused PREPARE destroys another one's branch": """
        a: insert g1                     done
        a: prepare g1                    done
        b: insert g2                     done
        b: prepare g1                    name taken
        b: commit                        done
        z: roll back prepared g1         done
        z: commit prepared g1            not found
        balances 100 100, ledger -, prepared -
    """,
    "a GID can be used again, and its ledger row says that it was used": """
        a: insert g1                     done
        a: prepare g1                    done
        z: commit prepared g1            done
        b: insert g1                     duplicate
        b: prepare g1                    rolled back
        c: lock 0                        done
        c: prepare g1                    done
        balances 100 100, ledger g1, prepared g1
    """,
    "a session that is killed gives back what it held": """
        a: move 0 -5                     done
        a: insert g1                     done
        b: insert g1                     waits
        c: lock 0                        waits
        kill a                           done, b: done, c: done
        b: commit                        done
        balances 100 100, ledger g1, prepared -
    """,
    "a session that is killed in its wait gives back what it held": """
        a: lock 0                        done
        b: lock 1                        done
        b: lock 0                        waits
        c: lock 1                        waits
        kill b                           done, b: gone, c: done
        b: look 0                        100
        balances 100 100, ledger -, prepared -
    """,
    "what is neither committed nor prepared is nowhere": """
        a: move 0 -5                     done
        a: insert g1                     done
        z: commit prepared g1            not found
        z: roll back prepared g1         not found
        b: prepare g2                    done
        balances 100 100, ledger -, prepared g2
    """,
}


def _steps(text: str) -> tuple[str, ...]:
    return tuple(line[:32].strip() for line in _lines(text)[:-1])


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


@pytest.fixture(scope="module")
def own_server(guardian: Guardian) -> Iterator[Cluster]:
    """A server that may be stopped at any moment, whoever else is at work."""
    cluster = Cluster("model", guardian=guardian, settings={**FAST, "restart_after_crash": "off"})
    cluster.start()
    yield cluster
    cluster.stop()


def on_the_model(script: tuple[str, ...]) -> str:
    with OnTheModel() as stage:
        return stage.play(script)


def on_a_server(cluster: Cluster, script: tuple[str, ...]) -> str:
    with OnAServer(cluster, "postgres") as stage:
        return stage.play(script)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_model_answers_as_written(name: str) -> None:
    assert on_the_model(_steps(SCRIPTS[name])).splitlines() == _lines(SCRIPTS[name])


@pytest.mark.integration
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_server_answers_as_written(own_server: Cluster, name: str) -> None:
    assert on_a_server(own_server, _steps(SCRIPTS[name])).splitlines() == _lines(SCRIPTS[name])


@pytest.mark.integration
@pytest.mark.parametrize("first", range(1, _BY_CHANCE + 1, _AT_ONCE))
def test_the_model_and_a_server_give_the_same_answers(own_server: Cluster, first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        script = by_chance(seed, _STEPS)
        assert on_the_model(script).splitlines() == on_a_server(own_server, script).splitlines(), f"script {seed}"


def test_scripts_made_by_chance_reach_every_answer() -> None:
    seen = {answer for seed in range(1, 13) for answer in _answers(on_the_model(by_chance(seed, _STEPS)))}
    assert seen >= {"done", "waits", "rolled back", "lock timeout", "duplicate", "name taken", "not found"}
    assert seen >= {"failed before", "gone"}


def _answers(played: str) -> Iterator[str]:
    for line in played.splitlines()[:-1]:
        own, *others = line[32:].strip().split(", ")
        yield own
        yield from (other.partition(": ")[2] for other in others)
