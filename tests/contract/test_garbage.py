"""The garbage collector of a process that serves."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from twophase.contract import garbage


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_what_was_made_before_is_looked_at_no_more_and_the_rest_less_often() -> None:
    before = gc.get_threshold()

    garbage.look_less_often()

    assert gc.get_freeze_count() > 1_000
    assert gc.get_threshold()[0] > 10 * before[0]
    assert gc.isenabled()
