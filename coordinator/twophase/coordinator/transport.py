"""How gRPC is set up on the coordinator's side: the options of its channels and of its server.

Lives here: numbers, and the reason for each. Must not live here: addresses, calls, retries, messages.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias

Options: TypeAlias = list[tuple[str, int]]

MAX_MESSAGE_BYTES: Final = 16 << 20
"""The largest `Execute`, with all that a client gives for it."""

_ADDED_BYTES: Final = 4 << 10
"""What may come on top: the epoch that a client adds to each copy, and what it does not know of yet."""

_KEEPALIVE_MS: Final = 10_000
_KEEPALIVE_TIMEOUT_MS: Final = 5_000
_RECONNECT_FIRST_MS: Final = 100
_RECONNECT_MAX_MS: Final = 1_000

CHANNEL_OPTIONS: Final[Options] = [
    # A peer that is frozen or cut off silently is noticed while a call waits for it. Not between calls: servers in
    # other languages end connections that ping without one.
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 0),
    # gRPC's own backoff grows to two minutes; a peer that is back must be found again in a second.
    ("grpc.initial_reconnect_backoff_ms", _RECONNECT_FIRST_MS),
    ("grpc.min_reconnect_backoff_ms", _RECONNECT_MAX_MS),
    ("grpc.max_reconnect_backoff_ms", _RECONNECT_MAX_MS),
    # One that is back may have another address under its name, as containers do, and gRPC would not ask for that again
    # for half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", _RECONNECT_MAX_MS),
    # What is sent again, and when, is the protocol's business: gRPC must not do it behind its back.
    ("grpc.enable_retries", 0),
    # An answer that is too large to read would be an outcome lost.
    ("grpc.max_receive_message_length", -1),
    # Every channel its own connection: closing one never touches another.
    ("grpc.use_local_subchannel_pool", 1),
]

SERVER_OPTIONS: Final[Options] = [
    # Two servers on one port would share its clients at random.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES + _ADDED_BYTES),
    # Clients may ping as often as ours do; by default the third ping within five minutes ends the connection.
    ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
]


def caller_is_cancelled() -> bool:
    """For an `except CancelledError` around a call: True if the calling task was cancelled and must raise on.

    False if only the call was: closing a channel cancels its calls, which looks the same to who waits for one.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
