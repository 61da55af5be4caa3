"""How long ago, and how much, as people read it.

Lives here: numbers in words. Must not live here: what they are about.
"""

from __future__ import annotations

from typing import Final

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


def lasting(seconds: float) -> str:
    """A length of time, by its two largest units: `0.4 s`, `12 s`, `3 min 12 s`, `2 h 5 min`, `4 d 3 h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return _two(whole, _MINUTE, "min", 1, "s")
    return _two(whole, _HOUR, "h", _MINUTE, "min") if whole < _DAY else _two(whole, _DAY, "d", _HOUR, "h")


def counted(number: int, one: str, many: str = "") -> str:
    """`1 branch`, `2 branches`, `1,204 transactions`; `many` is the plural if it is not made with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _two(whole: int, unit: int, name: str, smaller: int, smaller_name: str) -> str:
    rest = whole % unit // smaller
    return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
