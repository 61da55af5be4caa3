"""The moments an operator may type."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from twophase.coordinator.operator import moments

NOW = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def two_hours_ahead(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "XYZ-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("12:03", "2026-11-21T10:03:00"),
        ("2:03", "2026-11-21T00:03:00"),
        ("1:03", "2026-11-20T23:03:00"),
        ("12:03:04.5", "2026-11-21T10:03:04.500"),
        ("12:03:04.123456", "2026-11-21T10:03:04.123456"),
        ("2026-11-20T12:03:04+01:00", "2026-11-20T11:03:04"),
        ("2026-11-20T12:03:04.25Z", "2026-11-20T12:03:04.250"),
        ("2026-11-20 12:03", "2026-11-20T10:03:00"),
    ],
)
def test_a_time_of_day_is_today_s_local_and_an_offset_counts(text: str, utc: str) -> None:
    assert moments.parse(text, now=NOW) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "noon", "25:00", "12:60", "12:3", "12:03:04.1234567", "2026-11-21", "20261121"])
def test_what_is_no_moment_is_told_with_what_may_be_typed(text: str) -> None:
    with pytest.raises(moments.NoMoment, match=r"12:03:04\.5"):
        moments.parse(text, now=NOW)


def test_a_moment_is_shown_in_local_time_and_says_so() -> None:
    moment = datetime(2026, 11, 21, 23, 3, 4, 512_999, tzinfo=UTC)

    assert moments.full(moment) == "2026-11-22 01:03:04.512 UTC+02:00"
    assert (moments.time_of_day(moment), str(moments.day(moment))) == ("01:03:04.512", "2026-11-22")
