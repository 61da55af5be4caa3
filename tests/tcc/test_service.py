"""The participant without Postgres as the coordinator meets it: over gRPC, with what the contract says of each call."""

from __future__ import annotations

import ast
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from twophase.sandbox import tcc
from twophase.sandbox.tcc import main, store
from twophase.sandbox.tcc.service import DISK_FAILED, Participant
from twophase.sandbox.tcc.store import Store
from twophase.v1 import participant_pb2, participant_pb2_grpc, types_pb2

JOURNAL, OTHER = "0123456789abcdef", "fedcba9876543210"
TXID = "00000001-00000000-000000000001"
GID = f"tp-{JOURNAL}-{TXID}-0000"
EPOCH = types_pb2.Epoch(number=1, nonce="00000000")
CODE = grpc.StatusCode


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Any]:
    participant = Participant("theatre", Store(tmp_path / "theatre.sqlite", {"stalls": 10}), database="theatre.sqlite")
    server = grpc.aio.server()
    participant_pb2_grpc.add_ParticipantServicer_to_server(participant, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield participant_pb2_grpc.ParticipantStub(channel)
    await server.stop(None)
    participant.close()


def seats(number: int = 2) -> list[participant_pb2.BranchOperation]:
    content = json.dumps({"reference": "b-1", "category": "stalls", "seats": number})
    return [participant_pb2.BranchOperation(name="book", payload=types_pb2.Payload(json=content))]


def prepare(**changed: Any) -> participant_pb2.PrepareRequest:
    return participant_pb2.PrepareRequest(**{"gid": GID, "operations": seats(), "fingerprint": b"f" * 32, **changed})


def apply(**changed: Any) -> participant_pb2.ApplyRequest:
    return participant_pb2.ApplyRequest(**{"gid": GID, "operations": seats(), "fingerprint": b"f" * 32, **changed})


def shakes_hands(**changed: Any) -> participant_pb2.HandshakeRequest:
    return participant_pb2.HandshakeRequest(
        **{"participant": "theatre", "journal_id": JOURNAL, "epoch": EPOCH, **changed}
    )


def abort(**changed: Any) -> participant_pb2.AbortRequest:
    return participant_pb2.AbortRequest(**{"gid": GID, "decision": types_pb2.DECISION_ABORT, **changed})


def inspects(**changed: Any) -> participant_pb2.InspectRequest:
    return participant_pb2.InspectRequest(**{"journal_id": JOURNAL, "txid": TXID, **changed})


def test_it_is_made_of_the_contract_and_the_standard_library_alone() -> None:
    package = Path(next(iter(tcc.__path__)))
    files = sorted(package.glob("*.py"))
    assert len(files) > 5
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    allowed = ("google.protobuf.", "twophase.v1", "twophase.sandbox.tcc")
    foreign = {
        module
        for module in imported
        if module != "grpc"
        and not module.startswith(allowed)
        and module.partition(".")[0] not in sys.stdlib_module_names
    }
    assert foreign == set()


async def test_a_branch_from_its_vote_to_its_end(stub: Any) -> None:
    voted = await stub.Prepare(prepare())
    assert voted.vote == types_pb2.VOTE_YES
    assert json.loads(voted.results[0].json) == {"category": "stalls", "seats": 2}
    assert [each.gid for each in (await stub.ListPrepared(listed(JOURNAL))).branches] == [GID]
    assert not (await stub.ListPrepared(listed(OTHER))).branches
    assert list((await stub.Inspect(inspects())).prepared_gids) == [GID]
    committed = await stub.Commit(participant_pb2.CommitRequest(gid=GID))
    assert committed.outcome == participant_pb2.COMMIT_OUTCOME_COMMITTED
    assert not (await stub.ListPrepared(listed(JOURNAL))).branches
    (entry,) = (await stub.Inspect(inspects())).entries
    assert (entry.outcome, entry.fingerprint) == (participant_pb2.LEDGER_OUTCOME_APPLIED, b"f" * 32)
    assert len(entry.results) == 1
    (brief,) = (await stub.Inspect(inspects(txid="", txids=[TXID]))).entries
    assert not brief.results
    late = await stub.Abort(abort())
    assert (late.outcome, list(late.results)) == (participant_pb2.ABORT_OUTCOME_APPLIED, list(voted.results))


def listed(journal: str) -> participant_pb2.ListPreparedRequest:
    return participant_pb2.ListPreparedRequest(journal_id=journal)


async def test_no_is_a_vote_with_its_reason(stub: Any) -> None:
    voted = await stub.Prepare(prepare(operations=seats(11)))
    assert (voted.vote, voted.refusal.code) == (types_pb2.VOTE_NO, "SOLD_OUT")
    assert (await stub.Abort(abort())).outcome == participant_pb2.ABORT_OUTCOME_ABORTED
    barred = await stub.Prepare(prepare())
    assert (barred.vote, barred.refusal.kind) == (types_pb2.VOTE_NO, types_pb2.REFUSAL_KIND_ABORTED)
    lost = await stub.Commit(participant_pb2.CommitRequest(gid=GID))
    assert lost.outcome == participant_pb2.COMMIT_OUTCOME_LOST


async def test_no_time_left_is_a_refusal_and_much_time_is_none(stub: Any) -> None:
    late = await stub.Prepare(prepare(time_left=Duration(seconds=-1)))
    assert (late.vote, late.refusal.kind) == (types_pb2.VOTE_NO, types_pb2.REFUSAL_KIND_DEADLINE)
    assert (await stub.Prepare(prepare(time_left=Duration(seconds=2**62)))).vote == types_pb2.VOTE_YES


async def test_what_only_reads_votes_so(stub: Any) -> None:
    payload = types_pb2.Payload(json='{"category": "stalls"}')
    operation = participant_pb2.BranchOperation(name="availability", payload=payload)
    voted = await stub.Prepare(prepare(operations=[operation]))
    assert voted.vote == types_pb2.VOTE_READ_ONLY
    assert json.loads(voted.results[0].json)["free"] == 10


async def test_apply_answers_from_its_row(stub: Any) -> None:
    refused = await stub.Apply(apply(operations=seats(11)))
    assert (refused.outcome, refused.refusal.code) == (participant_pb2.APPLY_OUTCOME_REFUSED, "SOLD_OUT")
    asked = await stub.Abort(abort(decision=types_pb2.DECISION_DELEGATED))
    assert (asked.outcome, asked.refusal.code) == (participant_pb2.ABORT_OUTCOME_REFUSED, "SOLD_OUT")
    voted = await stub.Prepare(prepare())
    assert (voted.vote, voted.refusal.code) == (types_pb2.VOTE_NO, "SOLD_OUT")
    undone = await stub.Apply(apply(kind=types_pb2.BRANCH_KIND_COMPENSATION))
    assert undone.outcome == participant_pb2.APPLY_OUTCOME_TOMBSTONE


async def test_a_compensation_that_is_barred_is_never_said_to_have_had_nothing_to_undo(stub: Any) -> None:
    await stub.Apply(apply())
    barred = participant_pb2.AbortRequest(
        gid=GID, kind=types_pb2.BRANCH_KIND_COMPENSATION, decision=types_pb2.DECISION_DELEGATED
    )
    assert (await stub.Abort(barred)).outcome == participant_pb2.ABORT_OUTCOME_ABORTED
    undone = await stub.Apply(apply(kind=types_pb2.BRANCH_KIND_COMPENSATION))
    assert undone.outcome == participant_pb2.APPLY_OUTCOME_RETRY
    assert undone.refusal.kind == types_pb2.REFUSAL_KIND_ABORTED


async def test_a_step_and_its_compensation(stub: Any) -> None:
    assert (await stub.Apply(apply())).outcome == participant_pb2.APPLY_OUTCOME_APPLIED
    undoes = apply(kind=types_pb2.BRANCH_KIND_COMPENSATION)
    assert (await stub.Apply(undoes)).outcome == participant_pb2.APPLY_OUTCOME_APPLIED
    kinds = [entry.kind for entry in (await stub.Inspect(inspects())).entries]
    assert kinds == [types_pb2.BRANCH_KIND_WORK, types_pb2.BRANCH_KIND_COMPENSATION]
    pushed = await stub.Apply(apply(gid=GID[:-1] + "1", operations=seats(11), must_succeed=True))
    assert (pushed.outcome, pushed.refusal.retryable) == (participant_pb2.APPLY_OUTCOME_RETRY, True)


async def test_work_under_the_name_of_a_reservation_waits(stub: Any) -> None:
    await stub.Prepare(prepare())
    for kind in (types_pb2.BRANCH_KIND_WORK, types_pb2.BRANCH_KIND_COMPENSATION):
        answer = await stub.Apply(apply(kind=kind))
        assert (answer.outcome, answer.refusal.code) == (participant_pb2.APPLY_OUTCOME_RETRY, "RESERVED")


async def test_the_handshake_says_who_it_is_and_remembers_unless_it_only_looks(stub: Any) -> None:
    looked = await stub.Handshake(shakes_hands(look_only=True))
    assert looked.identity.system_identifier.isdigit()
    assert {each.name: (each.read_only, each.has_compensation) for each in looked.operations} == {
        "book": (False, True),
        "availability": (True, False),
    }
    assert not (await stub.Handshake(shakes_hands())).HasField("last_epoch")
    assert (await stub.Handshake(shakes_hands(look_only=True))).last_epoch == EPOCH
    await stub.Apply(apply(journal_position=5))
    horizon = participant_pb2.Horizon(epoch=EPOCH, sequence=2)
    assert (await stub.Handshake(shakes_hands(horizons=[horizon]))).highest_position == 5
    assert not (await stub.Inspect(inspects())).entries
    assert (await stub.Handshake(shakes_hands())).highest_position == 5
    await fails(stub.Commit(participant_pb2.CommitRequest(gid=GID)), CODE.FAILED_PRECONDITION, "long ago")


@pytest.mark.parametrize(
    ("call", "request_", "field"),
    [
        ("Prepare", prepare(gid=GID + "0"), "gid"),
        ("Prepare", prepare(gid=GID.upper()), "gid"),
        ("Prepare", prepare(operations=[]), "operations"),
        ("Prepare", prepare(fingerprint=b""), "fingerprint"),
        ("Prepare", prepare(journal_position=2**63), "journal_position"),
        ("Apply", apply(kind=7), "kind"),
        ("Abort", abort(decision=types_pb2.DECISION_COMMIT), "decision"),
        ("Abort", abort(kind=7), "kind"),
        ("ListPrepared", listed("%"), "journal_id"),
        ("Inspect", inspects(txid=""), "txid"),
        ("Inspect", inspects(txids=[TXID] * 1001), "txids"),
        ("Handshake", shakes_hands(epoch=types_pb2.Epoch(number=0, nonce="00000000")), "epoch"),
        ("Handshake", shakes_hands(horizons=[participant_pb2.Horizon(epoch=EPOCH, sequence=2**60)]), "horizons"),
    ],
)
async def test_a_malformed_field_is_the_callers_error(stub: Any, call: str, request_: object, field: str) -> None:
    await fails(getattr(stub, call)(request_), CODE.INVALID_ARGUMENT, f"{field}: ")


async def test_another_name_and_calls_that_are_not_offered(stub: Any) -> None:
    await fails(stub.Handshake(shakes_hands(participant="opera")), CODE.FAILED_PRECONDITION, "this is 'theatre'")
    await fails(stub.Observe(participant_pb2.ObserveRequest(journal_id=JOURNAL)), CODE.UNIMPLEMENTED, "")
    await fails(stub.Diagnose(participant_pb2.DiagnoseRequest(journal_id=JOURNAL)), CODE.UNIMPLEMENTED, "")


async def test_another_program_at_the_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_BUSY_SECONDS", 0.01)
    path = tmp_path / "theatre.sqlite"
    opened = Store(path, {"stalls": 10})
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    participant = Participant("theatre", opened, database=path.name)
    context = Failing()
    with pytest.raises(Told):
        await participant.Prepare(prepare(), context)  # type: ignore[arg-type]
    assert context.code is CODE.UNAVAILABLE
    other.close()
    assert (await participant.Prepare(prepare(), context)).vote == types_pb2.VOTE_YES  # type: ignore[arg-type]
    participant.close()


async def test_r10_a_store_that_fails_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    opened = Store(tmp_path / "theatre.sqlite", {"stalls": 10})
    (pages,) = opened._db.execute("PRAGMA page_count").fetchone()
    opened._db.execute(f"PRAGMA max_page_count = {pages}")
    participant = Participant("theatre", opened, database="theatre.sqlite")

    async def fill() -> None:
        for number in range(1000):
            gid = f"{GID[:-4]}{number:04x}"
            await participant.Abort(abort(gid=gid), Failing())  # type: ignore[arg-type]

    with pytest.raises(Ended, match=str(DISK_FAILED)):
        await fill()
    participant.close()


class Told(Exception):
    pass


class Failing:
    """A context that notes the status."""

    code: grpc.StatusCode | None = None

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        raise Told(details)


async def fails(call: Any, code: grpc.StatusCode, saying: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    assert failed.value.code() is code
    assert saying in str(failed.value.details())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--listen", "0.0.0.0:0"], "other machines"),
        (["--category", "stalls"], "NAME=SEATS"),
        (["--category", "stalls=-1"], "NAME=SEATS"),
    ],
)
def test_a_wrong_option_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        main.main(["--data", str(tmp_path / "theatre.sqlite"), "--coordinator", "127.0.0.1:1", *arguments])
    assert said in capsys.readouterr().err


def test_an_unusable_file_and_an_unknown_moment_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", str(tmp_path / "no" / "theatre.sqlite"), "--coordinator", "127.0.0.1:1"]
    assert main.main(options) == 1
    assert "name a file" in capsys.readouterr().err
    monkeypatch.setenv(main.VARIABLE, "after-lunch")
    with pytest.raises(SystemExit, match="before-try"):
        main.main(options)
