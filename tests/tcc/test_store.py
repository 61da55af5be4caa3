"""The store of the participant without Postgres: every step once, over any crash, and never a seat sold twice."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twophase.sandbox.tcc import ledger
from twophase.sandbox.tcc import store as store_module
from twophase.sandbox.tcc.ledger import Row
from twophase.sandbox.tcc.names import Gid, gid_of
from twophase.sandbox.tcc.store import DEEDS, MOMENTS, Forgotten, ReadOnly, Store, StoreUnusable, Work
from twophase.v1 import participant_pb2, types_pb2

JOURNAL = "0123456789abcdef"
ABORT, DELEGATED = types_pb2.DECISION_ABORT, types_pb2.DECISION_DELEGATED
SEATS = 10


def name(sequence: int, *, epoch: int = 1, branch: int = 0) -> Gid:
    return gid_of(f"tp-{JOURNAL}-{epoch:08x}-00000000-{sequence:012x}-{branch:04x}")


def operation(what: str = "book", **content: object) -> participant_pb2.BranchOperation:
    return participant_pb2.BranchOperation(name=what, payload=types_pb2.Payload(json=json.dumps(content)))


def work(gid: Gid, seats: int = 1, *, seconds: float = 60.0, must_succeed: bool = False, position: int = 0) -> Work:
    booking = operation(reference=gid.text, category="stalls", seats=seats)
    until = time.monotonic() + seconds
    return Work(gid, (booking,), until, b"f" * 32, position, must_succeed)


def looks(gid: Gid) -> Work:
    return Work(gid, (operation("availability", category="stalls"),), time.monotonic() + 60)


def house(path: Path) -> tuple[int, int, int]:
    """Free, reserved and sold seats, which add up, and are those of the bookings."""
    with sqlite3.connect(path) as db:
        (row,) = db.execute("SELECT capacity, free, reserved, sold FROM category").fetchall()
        booked = dict(db.execute("SELECT state, sum(seats) FROM booking GROUP BY state").fetchall())
    db.close()
    capacity, free, reserved, sold = row
    assert free + reserved + sold == capacity == SEATS
    assert (reserved, sold) == (booked.get("reserved", 0), booked.get("sold", 0))
    return free, reserved, sold


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "theatre.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path, {"stalls": SEATS})
    yield opened
    opened.close()


def state(row: object) -> str:
    assert isinstance(row, Row)
    return row.state


def refusal(answer: object) -> types_pb2.Refusal:
    assert isinstance(answer, types_pb2.Refusal)
    return answer


def test_try_reserves_confirm_sells_cancel_lets_go(store: Store, path: Path) -> None:
    sold, gone = name(1), name(2)
    assert state(store.reserve(work(sold, 3))) == "reserved"
    assert state(store.reserve(work(gone, 4))) == "reserved"
    assert house(path) == (3, 7, 0)
    assert state(store.confirm(sold)) == "applied"
    assert state(store.cancel(gone, "work", ABORT)) == "tombstone"
    assert house(path) == (7, 0, 3)


def test_r7_every_step_may_come_again_and_counts_once(store: Store, path: Path) -> None:
    for gid, ends in ((name(1), "applied"), (name(2), "tombstone")):
        first, again = store.reserve(work(gid, 2)), store.reserve(work(gid, 2))
        assert first == again
        for _ in range(2):
            ended = store.confirm(gid) if ends == "applied" else store.cancel(gid, "work", ABORT)
            assert state(ended) == ends
        assert state(store.reserve(work(gid, 2))) == ends
    assert state(store.cancel(name(1), "work", ABORT)) == "applied"
    assert house(path) == (8, 0, 2)


def test_r7_a_cancel_that_comes_first_bars_the_try_for_good(store: Store, path: Path) -> None:
    assert state(store.cancel(name(1), "work", ABORT)) == "tombstone"
    assert state(store.reserve(work(name(1)))) == "tombstone"
    assert state(store.apply(work(name(1)))) == "tombstone"
    assert house(path) == (SEATS, 0, 0)


def test_r11_a_confirm_of_what_is_not_there_proves_it_by_a_tombstone(store: Store) -> None:
    found = store.confirm(name(1))
    assert (found.state, found.decision) == ("tombstone", types_pb2.DECISION_COMMIT)
    assert state(store.reserve(work(name(1)))) == "tombstone"


def test_what_is_reserved_may_come_back_and_what_is_sold_does_not(store: Store) -> None:
    store.reserve(work(name(1), 8))
    waits = refusal(store.reserve(work(name(2), 5)))
    assert (waits.code, waits.kind, waits.retryable) == ("SEATS_RESERVED", types_pb2.REFUSAL_KIND_CONFLICT, True)
    store.confirm(name(1))
    gone = refusal(store.reserve(work(name(2), 5)))
    assert (gone.code, gone.kind, gone.retryable) == ("SOLD_OUT", types_pb2.REFUSAL_KIND_BUSINESS, False)
    assert gone.operation == "book"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (operation(reference="b", category="stalls", seats=0), "INVALID_PAYLOAD"),
        (operation(reference="b", category="stalls", seats=True), "INVALID_PAYLOAD"),
        (operation(reference="b", category="stalls"), "INVALID_PAYLOAD"),
        (participant_pb2.BranchOperation(name="book", payload=types_pb2.Payload(json="[")), "INVALID_PAYLOAD"),
        (participant_pb2.BranchOperation(name="book", payload=types_pb2.Payload(json="[]")), "INVALID_PAYLOAD"),
        (participant_pb2.BranchOperation(name="book"), "INVALID_PAYLOAD"),
        (operation(reference="b", category="moon", seats=1), "NO_SUCH_CATEGORY"),
        (operation(reference="\ud800", category="stalls", seats=1), "INVALID_PAYLOAD"),
        (operation(reference="b", category="\ud800", seats=1), "NO_SUCH_CATEGORY"),
        (
            participant_pb2.BranchOperation(name="book", payload=types_pb2.Payload(json="[" * 100_000)),
            "INVALID_PAYLOAD",
        ),
        (operation("availability", category="moon"), "NO_SUCH_CATEGORY"),
        (operation("paint"), "UNKNOWN_OPERATION"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    store: Store, path: Path, wrong: participant_pb2.BranchOperation, code: str
) -> None:
    good = operation(reference="b", category="stalls", seats=2)
    found = refusal(store.reserve(Work(name(1), (good, wrong), time.monotonic() + 60)))
    assert (found.code, found.retryable, found.operation) == (code, False, wrong.name)
    assert house(path) == (SEATS, 0, 0)
    assert store.rows([(f"tp-{JOURNAL}-", f"tp-{JOURNAL}.")]) == []


def test_work_that_comes_after_its_deadline_is_refused(store: Store) -> None:
    assert refusal(store.reserve(work(name(1), seconds=-1))).kind == types_pb2.REFUSAL_KIND_DEADLINE
    assert refusal(store.apply(work(name(2), seconds=-1))).retryable


def test_r12_what_only_reads_leaves_no_row(store: Store) -> None:
    found = store.reserve(looks(name(1)))
    assert isinstance(found, ReadOnly)
    assert json.loads(found.results[0].json) == {"free": SEATS, "reserved": 0, "sold": 0}
    assert store.rows([(f"tp-{JOURNAL}-", f"tp-{JOURNAL}.")]) == []


def test_one_writer_sells_at_once_and_a_final_refusal_is_a_row(store: Store, path: Path) -> None:
    sold = store.apply(work(name(1), 2))
    assert isinstance(sold, Row)
    assert sold == store.apply(work(name(1), 2))
    assert json.loads(sold.results[0].json) == {"category": "stalls", "seats": 2}
    assert house(path) == (8, 0, 2)
    refused = store.apply(work(name(2), 50))
    assert state(refused) == "refused"
    assert refused == store.apply(work(name(2), 50)) == store.cancel(name(2), "work", DELEGATED)


def test_a_branch_that_is_refused_leaves_nothing_of_what_it_began(store: Store, path: Path) -> None:
    good, wrong = work(name(1), 2).operations[0], work(name(1), 50).operations[0]
    both = Work(name(1), (good, wrong), time.monotonic() + 60)
    assert refusal(store.reserve(both)).code == "SOLD_OUT"
    assert state(store.apply(both)) == "refused"
    assert house(path) == (SEATS, 0, 0)


def test_work_that_must_succeed_is_never_refused_for_good(store: Store) -> None:
    found = refusal(store.apply(work(name(1), 50, must_succeed=True)))
    assert (found.code, found.retryable) == ("SOLD_OUT", True)
    assert state(store.apply(work(name(1), 5, must_succeed=True))) == "applied"


def test_a_compensation_gives_back_once(store: Store, path: Path) -> None:
    store.apply(work(name(1), 4))
    for _ in range(2):
        undone = store.compensate(work(name(1), 4))
        assert isinstance(undone, Row)
        assert (undone.kind, undone.state) == ("compensation", "applied")
    assert house(path) == (SEATS, 0, 0)
    assert state(store.apply(work(name(1), 4))) == "applied"
    assert house(path) == (SEATS, 0, 0)


def test_a_compensation_without_work_bars_it_first(store: Store, path: Path) -> None:
    claimed = store.compensate(work(name(1)))
    assert isinstance(claimed, Row)
    assert (claimed.kind, claimed.state) == ("work", "tombstone")
    assert state(store.apply(work(name(1)))) == "tombstone"
    store.apply(work(name(2), 50))
    assert state(store.compensate(work(name(2), 50))) == "refused"
    assert house(path) == (SEATS, 0, 0)


def test_a_compensation_that_was_taken_for_done_by_a_person_does_nothing(store: Store, path: Path) -> None:
    store.apply(work(name(1), 4))
    assert state(store.cancel(name(1), "compensation", ABORT)) == "tombstone"
    assert state(store.compensate(work(name(1), 4))) == "tombstone"
    assert house(path) == (6, 0, 4)


def test_a_compensation_never_touches_what_waits_for_a_decision(store: Store, path: Path) -> None:
    store.reserve(work(name(1), 4))
    assert refusal(store.compensate(work(name(1), 4))).retryable
    assert house(path) == (6, 4, 0)


def test_below_the_horizon_nothing_is_concluded(store: Store, path: Path) -> None:
    store.reserve(work(name(1), 1))
    store.apply(work(name(2), 1, position=7))
    epoch = types_pb2.Epoch(number=1, nonce="00000000")
    store.remember(JOURNAL, epoch, {"00000001-00000000": 3})
    late = refusal(store.reserve(work(name(2), 1)))
    assert late.kind == types_pb2.REFUSAL_KIND_ABORTED
    with pytest.raises(Forgotten):
        store.confirm(name(2))
    with pytest.raises(Forgotten):
        store.cancel(name(2), "work", ABORT)
    with pytest.raises(Forgotten):
        store.apply(work(name(2)))
    with pytest.raises(Forgotten):
        store.compensate(work(name(2)))
    assert state(store.reserve(work(name(3), 1))) == "reserved"
    # Its position outlives the row, and no reservation is forgotten.
    assert store.recall(JOURNAL).highest_position == 7
    assert state(store.confirm(name(1))) == "applied"
    # A horizon never goes back.
    store.remember(JOURNAL, epoch, {"00000001-00000000": 1})
    assert refusal(store.reserve(work(name(2), 1))).kind == types_pb2.REFUSAL_KIND_ABORTED
    assert house(path) == (7, 1, 2)


def test_pruning_is_bounded_and_says_what_is_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_PRUNED_AT_ONCE", 2)
    for sequence in range(3):
        store.cancel(name(sequence), "work", ABORT)
    epoch = types_pb2.Epoch(number=1, nonce="00000000")
    assert store.remember(JOURNAL, epoch, {"00000001-00000000": 16**12}).pruning_left
    assert not store.remember(JOURNAL, epoch, {"00000001-00000000": 16**12}).pruning_left
    assert store.rows([(f"tp-{JOURNAL}-", f"tp-{JOURNAL}.")]) == []


def test_the_highest_epoch_is_remembered_and_of_two_with_one_number_the_first(store: Store) -> None:
    def known(number: int, nonce: str) -> str:
        before = store.remember(JOURNAL, types_pb2.Epoch(number=number, nonce=nonce), {}).last_epoch
        return f"{before.number} {before.nonce}" if before else ""

    assert store.recall(JOURNAL).last_epoch is None
    assert known(2, "aaaaaaaa") == ""
    assert known(3, "bbbbbbbb") == "2 aaaaaaaa"
    assert known(1, "cccccccc") == "3 bbbbbbbb"
    assert known(3, "dddddddd") == "3 bbbbbbbb"
    assert known(4, "eeeeeeee") == "3 bbbbbbbb"


def test_the_identity_is_kept_with_the_data(path: Path, tmp_path: Path) -> None:
    seen = set()
    for file in (path, path, tmp_path / "another"):
        opened = Store(file, {})
        seen.add(opened.identity)
        opened.close()
    assert len(seen) == 2
    assert all(each.isdigit() for each in seen)


def test_every_commit_is_synced(store: Store) -> None:
    full = 2  # https://www.sqlite.org/pragma.html#pragma_synchronous
    assert store._db.execute("PRAGMA synchronous").fetchone() == (full,)


def test_a_file_that_another_program_reads_is_refused_until_that_is_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_BUSY_SECONDS", 0.01)
    opened = Store(path, {"stalls": SEATS})
    opened.reserve(work(name(1)))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM category").fetchall()
    with pytest.raises(StoreUnusable, match="being read"):
        Store(path, {})
    reader.close()
    Store(path, {}).close()
    opened.close()


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not a database, but more than a hundred characters long" * 5)
    with pytest.raises(StoreUnusable, match="name a file"):
        Store(wrong, {})


def step(store: Store, deed: str, gid: Gid, seats: int) -> object:
    match deed:
        case "try":
            return store.reserve(work(gid, seats))
        case "confirm":
            return store.confirm(gid)
        case "cancel":
            return store.cancel(gid, "work", ABORT)
        case "apply":
            return store.apply(work(gid, seats))
        case "compensate":
            return store.compensate(work(gid, seats))
        case _:
            return store.remember(JOURNAL, types_pb2.Epoch(number=seats, nonce="00000000"), {})


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 3), st.integers(1, 6)), max_size=30))
def test_whatever_comes_in_whatever_order_the_seats_add_up(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("house") / "theatre.sqlite"
    store = Store(path, {"stalls": SEATS})
    ended: dict[int, str] = {}
    for deed, sequence, seats in steps:
        step(store, deed, name(sequence), seats)
        house(path)
        for row in store.rows([(f"tp-{JOURNAL}-", f"tp-{JOURNAL}.")]):
            if row.kind == "work" and row.state != "reserved":
                assert ended.setdefault(gid_of(row.gid).sequence, row.state) == row.state, "R2: an outcome was reversed"
    store.close()


# What leads to each deed, and the deed that a crash then meets.
_BEFORE: dict[str, tuple[str, ...]] = {"confirm": ("try",), "cancel": ("try",), "compensate": ("apply",)}


@pytest.mark.parametrize("moment", MOMENTS)
def test_r8_a_crash_at_any_moment_and_the_step_again_is_the_step_once(path: Path, tmp_path: Path, moment: str) -> None:
    crashed = tmp_path / "crashed"
    deed = moment.partition("-")[2]

    def passing(reached: str) -> None:
        if reached == moment:
            # What a process leaves that is killed here: the files as they are.
            crashed.mkdir()
            for file in path.parent.glob("theatre.sqlite*"):
                shutil.copy(file, crashed)

    store = Store(path, {"stalls": SEATS}, passing=passing)
    for before in _BEFORE.get(deed, ()):
        step(store, before, name(1), 3)
    answered = step(store, deed, name(1), 3)
    store.close()
    whole = house(path)

    revived = Store(crashed / path.name, {"stalls": SEATS})
    house(crashed / path.name)
    again = step(revived, deed, name(1), 3)
    revived.close()
    assert house(crashed / path.name) == whole
    if deed != "remember":
        assert state(again) == state(answered)
