"""Making a participant known to its coordinator, for as long as it takes.

Lives here: the call and its repetition. Must not live here: what the coordinator does with it: it keeps the participant
durably, so that once is enough.
"""

from __future__ import annotations

import logging
from typing import Final

import grpc
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc

_log = logging.getLogger(__name__)

_CALL_SECONDS: Final = 10.0
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 5.0
_OPTIONS: Final = [
    # A coordinator that starts later must be found in a second; gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Nor under the address that its name had half a minute ago.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]


async def register_until_done(*, coordinator: str, participant: str, address: str) -> None:
    """Registers `participant` at `address`, again and again until the coordinator has taken it; then returns.

    The log says why it has not yet, once for each reason. Cancel it to stop.
    """
    told = ""

    def tell(state: RetryCallState) -> None:
        nonlocal told
        error = state.outcome.exception() if state.outcome is not None else None
        reason = _reason(error)
        if reason != told:
            told = reason
            _log.warning("not registered with the coordinator at %s yet, trying again: %s", coordinator, reason)

    request = coordinator_pb2.RegisterRequest(participant=participant, address=address)
    async with grpc.aio.insecure_channel(coordinator, options=_OPTIONS) as channel:
        stub = coordinator_pb2_grpc.CoordinatorStub(channel)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(grpc.aio.AioRpcError),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS),
            before_sleep=tell,
        )
        async for attempt in retrying:
            with attempt:
                await stub.Register(request, timeout=_CALL_SECONDS)
    _log.info("registered with the coordinator at %s as %s at %s", coordinator, participant, address)


def _reason(error: BaseException | None) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return repr(error)
