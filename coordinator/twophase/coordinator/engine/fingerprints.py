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
    digest = hashlib.sha256()
    for call in calls:
        _add(digest, call.participant.encode())
        _add_work(digest, call)
        if protocol is Protocol.SAGA:
            after = ",".join(map(str, call.after))
            _add(digest, b"saga", call.step.encode(), after.encode(), b"pivot" if call.pivot else b"")
    return digest.digest()


def branch_fingerprint(calls: Iterable[Call]) -> bytes:
    """32 bytes over the operations of one branch, in order."""
    digest = hashlib.sha256()
    for call in calls:
        _add_work(digest, call)
    return digest.digest()


def _add_work(digest: hashlib._Hash, call: Call) -> None:
    _add(digest, call.operation.encode())
    match call.payload.WhichOneof("content"):
        case "message":
            _add(digest, b"message", call.payload.message.type_url.encode(), call.payload.message.value)
        case "json":
            _add(digest, b"json", call.payload.json.encode())
        case None:
            _add(digest, b"nothing")


def _add(digest: hashlib._Hash, *fields: bytes) -> None:
    for field in fields:
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)
