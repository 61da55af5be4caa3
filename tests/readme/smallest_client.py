"""The smallest client, as the README shows it."""

import asyncio

from twophase.coordinator.client import AsyncClient, TransactionAborted, operation


async def main() -> None:
    async with AsyncClient("127.0.0.1:7400") as client:
        try:
            done = await client.execute(
                operation("payment", "charge", {"customer_id": "c-1", "amount": "19.90"}),
                operation("inventory", "reserve", {"sku": "lamp", "quantity": 1}),
                request_id="order/4711",  # the same id is never committed twice, however often it is sent
                deadline=5.0,
            )
        except TransactionAborted as aborted:
            print("refused:", aborted)
        else:
            print("committed everywhere as", done.txid)


asyncio.run(main())
