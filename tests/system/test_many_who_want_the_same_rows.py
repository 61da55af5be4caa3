"""Everybody wants the same two rows, in two databases: in turn they queue for them, and nobody is refused."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.two_banks import column, prepared, transfer, two_banks
from twophase.coordinator.client import AsyncClient

pytestmark = pytest.mark.integration

TRANSFERS = 24


async def test_transactions_that_prepare_in_turn_do_not_wait_for_each_other_across_databases() -> None:
    """Half of them name the second bank first. At once, each could hold at one bank what the other waits for at the
    other one, until a lock timeout refuses both."""
    async with two_banks() as system, AsyncClient(system.address) as client:
        asking = []
        for number in range(TRANSFERS):
            there, back = transfer(f"t{number}")
            operations = (back, there) if number % 2 else (there, back)
            asking.append(client.execute(*operations, in_turn=True, deadline=30.0))
        done = await asyncio.gather(*asking)
        assert len(done) == TRANSFERS
        assert prepared(system) == [0, 0]
        moved = column(system, "SELECT sum(amount)::text FROM movement")
        assert moved == [[str(-10 * TRANSFERS)], [str(10 * TRANSFERS)]]
