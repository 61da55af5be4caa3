"""Scripts of sessions at one Postgres, played on the model and on a real server; both must give the same answers.

Lives here: the language, what both stages share, scripts made by chance. Must not live here: the model and the server
(`stages`).

A step is one line: `a: insert g1`, `a: move 0 -5`, `a: lock 1 briefly`, `a: look 0`, `a: commit`, `a: roll back`,
`a: prepare g1`, `z: commit prepared g1`, `z: roll back prepared g1`, `kill a`, `the server stops at once`. A session
begins a transaction with its first statement in it, and a new one replaces one that is gone. A word answers each
step (`Answer`, or the number that was read); after it come the answers of those who had been waiting until then.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

ACCOUNTS: Final = 2
OPENING: Final = 100
STOP: Final = "the server stops at once"


class Answer(Enum):
    """How a step ends."""

    DONE = "done"
    WAITS = "waits"
    ROLLED_BACK = "rolled back"
    LOCK_TIMEOUT = "lock timeout"
    DUPLICATE = "duplicate"
    NAME_TAKEN = "name taken"
    NOT_FOUND = "not found"
    FAILED_BEFORE = "failed before"
    GONE = "gone"
    BUSY = "busy"  # never sent: the session still waits, or another one already waits for the same


@dataclass(frozen=True, slots=True)
class Statement:
    """What one session sends. `on` is an account or a GID; `brief` gives up after a short wait for a lock."""

    verb: str
    on: str = ""
    amount: int = 0
    brief: bool = False

    @classmethod
    def parse(cls, text: str) -> Statement:
        """Reads `move 0 -5 briefly`. Raises `ValueError`."""
        *words, last = text.split()
        brief = last == "briefly"
        words = words if brief else [*words, last]
        match words:
            case ["commit"] | ["roll", "back"]:
                return cls(" ".join(words))
            case ["lock" | "look" | "insert" | "prepare" as verb, on]:
                return cls(verb, on, brief=brief)
            case ["move", on, amount]:
                return cls("move", on, int(amount), brief)
            case ["commit", "prepared", gid] | ["roll", "back", "prepared", gid]:
                return cls(" ".join(words[:-1]), gid)
            case _:
                pass
        raise ValueError(f"no statement: {text!r}")

    @property
    def wants(self) -> str:
        """What it may have to wait for; empty if for nothing."""
        match self.verb:
            case "lock" | "move":
                return f"account {self.on}"
            case "insert":
                return f"ledger {self.on}"
            case _:
                pass
        return ""


@dataclass(frozen=True, slots=True)
class Visible:
    """What everybody sees in the end."""

    balances: tuple[int, ...]
    ledger: tuple[str, ...]
    prepared: tuple[str, ...]

    def __str__(self) -> str:
        balances = " ".join(map(str, self.balances))
        return f"balances {balances}, ledger {' '.join(self.ledger) or '-'}, prepared {' '.join(self.prepared) or '-'}"


class Stage(ABC):
    """Where a script is played."""

    def __init__(self) -> None:
        self._waiting: dict[str, Statement] = {}

    def play(self, script: Iterable[str]) -> str:
        """Every step with its answer, a line each; the last says what is visible in the end."""
        lines = [f"{step:32} {self._take(step)}" for step in script]
        return "\n".join([*lines, str(self.visible())])

    def _take(self, step: str) -> str:
        if step == STOP:
            own, ended = Answer.DONE.value, dict.fromkeys(self._waiting, Answer.GONE.value)
            self.stop()
        elif step.startswith("kill "):
            name = step.removeprefix("kill ")
            own, gone = Answer.DONE.value, {name: Answer.GONE.value} if name in self._waiting else {}
            self.kill(name)
            self._waiting.pop(name, None)
            ended = {**gone, **self.settle(frozenset(self._waiting))}
        else:
            name, _, text = step.partition(": ")
            statement = Statement.parse(text)
            wanted = {waiting.wants for waiting in self._waiting.values()}
            if name in self._waiting or (statement.wants and statement.wants in wanted):
                return Answer.BUSY.value
            self.start(name, statement)
            self._waiting[name] = statement
            ended = dict(self.settle(frozenset(self._waiting)))
            own = ended.pop(name, Answer.WAITS.value)
            if own != Answer.WAITS.value:
                del self._waiting[name]
        for name in ended:
            self._waiting.pop(name, None)
        return ", ".join([own, *(f"{name}: {answer}" for name, answer in sorted(ended.items()))])

    @abstractmethod
    def start(self, name: str, statement: Statement) -> None:
        """A session sends a statement."""

    @abstractmethod
    def settle(self, under_way: frozenset[str]) -> Mapping[str, str]:
        """Waits until each session under way has its answer or waits for a lock; gives the answers."""

    @abstractmethod
    def kill(self, name: str) -> None:
        """A session is ended from outside, and has ended on return."""

    @abstractmethod
    def stop(self) -> None:
        """The server is stopped without a shutdown, and started."""

    @abstractmethod
    def visible(self) -> Visible:
        """What is committed, and what is prepared."""


def by_chance(seed: int, steps: int) -> tuple[str, ...]:
    """A script that a seed makes."""
    chance = random.Random(seed)  # noqa: S311 - it must repeat
    return tuple(_step(chance) for _ in range(steps))


def _step(chance: random.Random) -> str:
    gid, account = chance.choice(("g1", "g2")), chance.randrange(ACCOUNTS)
    name, brief = chance.choice("abc"), chance.choice(("", "", "", " briefly"))
    number = chance.random()
    if number < 0.01:
        return STOP
    if number < 0.05:
        return f"kill {name}"
    match chance.randrange(10):
        case 0 | 1:
            return f"{name}: insert {gid}{brief}"
        case 2:
            return f"{name}: move {account} {chance.choice((-5, 1, 20))}{brief}"
        case 3:
            return f"{name}: lock {account}{brief}"
        case 4:
            return f"{name}: look {account}"
        case 5 | 6:
            return f"{name}: prepare {gid}"
        case 7:
            return f"{name}: {chance.choice(('commit', 'roll back'))}"
        case _:
            # From a session without a transaction: in one, it is refused (25001).
            return f"z: {chance.choice(('commit', 'roll back'))} prepared {gid}"
