"""Moments, as an operator types and reads them: local time of day where the day is clear.

Lives here: both directions. Must not live here: clocks; whoever reads one passes its moment in.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time
from typing import Final

_TIME_OF_DAY: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?")
_DAY: Final = re.compile(r"\d{4}-?\d{2}-?\d{2}|\d{4}-?W\d{2}(-?\d)?")
FORMS: Final = "12:03, 12:03:04.5 (today, local time), or 2026-11-21T12:03:04+01:00"


class NoMoment(ValueError):
    """A text that names no moment. The message says what it may be."""


def parse(text: str, *, now: datetime) -> datetime:
    """The moment, with an offset. A time of day is one of today's, in local time; so is an ISO time without offset.

    Raises `NoMoment`.
    """
    found = _TIME_OF_DAY.fullmatch(text)
    if _DAY.fullmatch(text):
        raise NoMoment(f"{text!r} is a day and no moment; write it as {FORMS}")
    try:
        if found is None:
            return datetime.fromisoformat(text).astimezone()
        hour, minute, second, fraction = found.groups()
        micro = int((fraction or "0").ljust(6, "0"))
        at = time(int(hour), int(minute), int(second or 0), micro)
        return datetime.combine(now.astimezone().date(), at).astimezone()
    except (ValueError, OverflowError) as error:
        raise NoMoment(f"{text!r} is no moment; write it as {FORMS}") from error


def full(moment: datetime) -> str:
    """The moment with its day, to the millisecond, in local time, and that it is local time."""
    local = moment.astimezone()
    return f"{local:%Y-%m-%d} {time_of_day(moment)} {_offset(local)}"


def time_of_day(moment: datetime) -> str:
    """The time of day, to the millisecond, in local time."""
    local = moment.astimezone()
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"


def day(moment: datetime) -> date:
    """The day, in local time."""
    return moment.astimezone().date()


def _offset(local: datetime) -> str:
    text = f"{local:%z}"
    return f"UTC{text[:3]}:{text[3:5]}"
