"""What exceptions of business code become: something that can be sent, whatever they say."""

from __future__ import annotations

from typing import Any

import pytest

from twophase.participant import Refused
from twophase.participant.refusals import refusal_of
from twophase.v1 import types_pb2


@pytest.mark.parametrize(
    ("given", "sent"),
    [("none left", "none left"), ("caf\udce9", "caf\\udce9"), (ValueError("too much"), "too much"), (None, "None")],
)
def test_a_refusal_can_be_sent_whatever_it_says(given: Any, sent: str) -> None:
    told = types_pb2.Refusal.FromString(refusal_of(Refused(given, given, retryable=True)).SerializeToString())

    assert (told.kind, told.code, told.message) == (types_pb2.REFUSAL_KIND_BUSINESS, sent, sent)
    assert told.retryable
