"""The client of docs/choosing.md: the same business by either protocol."""

from decimal import Decimal

from twophase.coordinator.client import AsyncClient, Committed, Protocol, operation, step


async def buy(client: AsyncClient, protocol: Protocol, order: str, *, pieces: int, price: Decimal) -> Committed:
    wanted = {"id": order, "sku": "lamp", "pieces": pieces}
    return await client.execute(
        step("open", operation("shop", "open_order", wanted)),
        step("reserve", operation("shop", "reserve", wanted)),
        step("pay", operation("till", "charge", {"customer": "c-1", "amount": pieces * price}), pivot=True),
        step("approve", operation("shop", "approve_order", wanted)),
        protocol=protocol,
        request_id=order,
    )
