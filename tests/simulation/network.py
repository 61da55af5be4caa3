"""A network that delays, drops and copies messages, and can be cut: `engine.links.Links` in the simulation.

Lives here: the way of a message. Must not live here: who sends it, and what it does where it arrives.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from simulation.participants import Participant
from simulation.sites import Told, Unanswered
from twophase.coordinator.engine.links import LinkLost


@dataclass(slots=True)
class Weather:
    """How bad the network is. Probabilities for each message; `slow` and `late` (second copies) in seconds."""

    drop: float = 0.0
    copy: float = 0.0
    slow: float = 0.003
    late: tuple[float, ...] = (0.001, 0.05, 1.0, 5.0)
    cut: set[str] = field(default_factory=set)


class Link:
    """The calls of one coordinator at one participant."""

    def __init__(
        self, participant: Participant, weather: Weather, chance: random.Random, tell: Told, awake: asyncio.Event
    ) -> None:
        self._participant = participant
        self._weather = weather
        self._chance = chance
        self._tell = tell
        self._awake = awake

    def __getattr__(self, call: str) -> Any:
        """Every call of the contract goes the same way."""

        async def ask(request: Any, *, timeout: float) -> Any:
            try:
                async with asyncio.timeout(timeout):
                    return await self._ask(call, request)
            except TimeoutError:
                raise LinkLost(f"{call} at {self._participant.name}: no answer") from None

        return ask

    async def _ask(self, call: str, request: Any) -> Any:
        await self._awake.wait()
        await self._travel()
        if self._chance.random() < self._weather.copy:
            self._participant.spawn(self._late(call, request))
        task = self._participant.spawn(self._participant.handle(call, request))
        try:
            answer = await asyncio.shield(task)
        except Unanswered as error:
            raise LinkLost(f"{call} at {self._participant.name}: {error}") from error
        except asyncio.CancelledError:
            if task.cancelled():  # the participant died under the call
                raise LinkLost(f"{call} at {self._participant.name}: connection lost") from None
            raise
        await self._travel()
        await self._awake.wait()
        return answer

    async def _late(self, call: str, request: Any) -> None:
        """A second copy of a request, some time later; nobody waits for its answer."""
        await asyncio.sleep(self._chance.choice(self._weather.late))
        self._tell("network", f"a second copy of {call} reaches {self._participant.name}")
        await self._participant.handle(call, request)

    async def _travel(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._weather.slow))
        if self._participant.name in self._weather.cut or self._chance.random() < self._weather.drop:
            await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Nothing to give back."""


class Network:
    """The links of one life of the coordinator, which sends and hears nothing while it is not awake."""

    def __init__(
        self,
        participants: Mapping[str, Participant],
        weather: Weather,
        chance: random.Random,
        tell: Told,
        awake: asyncio.Event,
    ) -> None:
        self._participants = participants
        self._weather = weather
        self._chance = chance
        self._tell = tell
        self._awake = awake

    def connect(self, address: str) -> Any:
        """A link to the participant of that name."""
        participant = self._participants[address.partition(":")[0]]
        return Link(participant, self._weather, self._chance, self._tell, self._awake)
