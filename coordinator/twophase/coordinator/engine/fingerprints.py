"""Hashes of what a client asked for: the same content has the same one, on every machine and in every version.

Lives here: the fingerprints of requests and branches. Must not live here: what they are compared with.

The fields are hashed with their lengths before them, so that no two contents run into one. A protobuf payload is hashed
as the client sent it (its bytes are not interpreted), JSON as text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from twophase.coordinator.engine.api import Call, Protocol


def request_fingerprint(calls: Iterable[Call], protocol: Protocol = Protocol.TWO_PHASE) -> bytes:
    """32 bytes over all operations of a request, in order, and for a saga over its shape."""
    fields: list[bytes] = []
    for call in calls:
        fields += (call.participant.encode(), *_work(call))
        if protocol is Protocol.SAGA:
            after = ",".join(map(str, call.after))
            fields += (b"saga", call.step.encode(), after.encode(), b"pivot" if call.pivot else b"")
    return _digest(fields)


def branch_fingerprint(calls: Iterable[Call]) -> bytes:
    """32 bytes over the operations of one branch, in order."""
    return _digest(field for call in calls for field in _work(call))


def _work(call: Call) -> tuple[bytes, ...]:
    payload = call.payload
    match payload.WhichOneof("content"):
        case "message":
            return call.operation.encode(), b"message", payload.message.type_url.encode(), payload.message.value
        case "json":
            return call.operation.encode(), b"json", payload.json.encode()
        case None:
            return call.operation.encode(), b"nothing"


def _digest(fields: Iterable[bytes]) -> bytes:
    return hashlib.sha256(
        b"".join(part for field in fields for part in (len(field).to_bytes(8, "big"), field))
    ).digest()
