"""Names are validated whole, come back as they were, and none is a prefix of another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twophase.contract.names import (
    MAX_BRANCHES,
    MAX_SEQUENCE,
    Epoch,
    Gid,
    InvalidName,
    Txid,
    check_journal_id,
    check_operation_name,
    check_participant_name,
    check_request_id,
    check_step_name,
)

JOURNAL = "0123456789abcdef"
EPOCH = Epoch(12, "00c0ffee")
GID = Gid(JOURNAL, Txid(EPOCH, 7), 2)


def hexdigits(count: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=count, max_size=count)


epochs = st.builds(Epoch, st.integers(1, 2**32 - 1), hexdigits(8))
txids = st.builds(Txid, epochs, st.integers(0, MAX_SEQUENCE - 1))
gids = st.builds(Gid, hexdigits(16), txids, st.integers(0, MAX_BRANCHES - 1))

# Where a name could be misread: Python's `$` and `\d`, case, Unicode look-alikes, what SQL's LIKE makes of `_` and `%`.
ODD = ["\n", " ", "\t", "\0", "\u0661", "\uff11", "\u0430", "'", "\\", "%", "_", "\u202e", "\U0001f4b8"]


@given(txids)
def test_a_txid_comes_back_as_it_was(txid: Txid) -> None:
    assert Txid.parse(str(txid)) == txid


@given(gids)
def test_a_gid_comes_back_as_it_was_and_postgres_takes_it(gid: Gid) -> None:
    text = str(gid)
    assert Gid.parse(text) == gid
    assert len(text.encode("ascii")) == 55  # Postgres refuses 200 bytes and more
    assert not set(text) & {"'", "\\", "%", "_"}


@given(txids, txids)
def test_the_order_of_txids_is_the_order_of_their_text(one: Txid, other: Txid) -> None:
    assert (one < other) == (str(one) < str(other))


@given(gids, gids)
def test_no_gid_is_a_prefix_of_another(one: Gid, other: Gid) -> None:
    assert str(other).startswith(str(one)) == (one == other)


def test_branch_1_is_not_a_prefix_of_branch_12() -> None:
    first, twelfth = Gid(JOURNAL, GID.txid, 0x1), Gid(JOURNAL, GID.txid, 0x12)
    assert not str(twelfth).startswith(str(first))


@given(st.text(max_size=80))
def test_any_text_is_a_gid_or_refused_whole(text: str) -> None:
    try:
        assert str(Gid.parse(text)) == text
    except InvalidName as refused:
        assert repr(text) in str(refused)  # noqa: PT017 (both ends are wanted)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", ["before", "after", "inside"])
def test_odd_characters_are_refused_everywhere(odd: str, place: str) -> None:
    def spoilt(text: str) -> str:
        middle = len(text) // 2
        return {"before": odd + text, "after": text + odd, "inside": text[:middle] + odd + text[middle + 1 :]}[place]

    readers: list[tuple[Callable[[str], object], str]] = [
        (Gid.parse, str(GID)),
        (Txid.parse, str(GID.txid)),
        (check_journal_id, JOURNAL),
        (check_participant_name, "order"),
    ]
    for read, text in readers:
        read(text)
        with pytest.raises(InvalidName):
            read(spoilt(text))
    for check in (check_operation_name, check_request_id, check_step_name):
        check("reserve")
        if odd != "_":  # allowed in all, unless an operation's name starts with it
            with pytest.raises(InvalidName):
                check(spoilt("reserve"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        str(GID).upper(),
        str(GID)[:-1],
        str(GID) + "0",
        str(GID).replace("tp-", "tq-"),
        "tp-" + str(GID),
        str(GID).replace(str(EPOCH), "00000000-00c0ffee"),  # there is no epoch 0
    ],
)
def test_a_gid_that_is_nearly_ours_is_not_ours(text: str) -> None:
    with pytest.raises(InvalidName):
        Gid.parse(text)


@pytest.mark.parametrize(
    ("build", "value"),
    [
        (lambda: Epoch(0, "00c0ffee"), "0"),
        (lambda: Epoch(2**32, "00c0ffee"), str(2**32)),
        (lambda: Epoch(1, "00C0FFEE"), "00C0FFEE"),
        (lambda: Epoch(1, "c0ffee"), "c0ffee"),
        (lambda: Txid(EPOCH, -1), "-1"),
        (lambda: Txid(EPOCH, MAX_SEQUENCE), str(MAX_SEQUENCE)),
        (lambda: Gid(JOURNAL, GID.txid, MAX_BRANCHES), str(MAX_BRANCHES)),
        (lambda: Gid(JOURNAL[:-1], GID.txid, 0), JOURNAL[:-1]),
    ],
)
def test_a_field_out_of_its_range_is_refused_with_its_value(build: Callable[[], object], value: str) -> None:
    with pytest.raises(InvalidName, match=value):
        build()


@pytest.mark.parametrize(
    ("check", "longest"),
    [(check_participant_name, 63), (check_operation_name, 63), (check_request_id, 128), (check_step_name, 64)],
)
def test_names_end_where_the_contract_says(check: Callable[[str], str], longest: int) -> None:
    assert check("a" * longest) == "a" * longest
    for text in ("", "a" * (longest + 1)):
        with pytest.raises(InvalidName):
            check(text)


def test_a_name_starts_with_a_letter_and_a_request_id_with_what_it_likes() -> None:
    for check in (check_participant_name, check_operation_name):
        for first in "0-.A":
            with pytest.raises(InvalidName):
                check(f"{first}order")
    assert check_request_id("-2026/11:21_a.B") == "-2026/11:21_a.B"
    assert check_step_name("2026-11:21_a.B") == "2026-11:21_a.B"
