"""How a trace of system calls is read, and what is found wrong in it: on small ones, written by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from fixtures import durable, syscalls
from fixtures.syscalls import Unreadable
from fixtures.told import What
from twophase.contract.names import Gid, Txid
from twophase.coordinator.protocol.decisions import DecisionKind
from twophase.v1 import coordinator_pb2, participant_pb2, types_pb2

_TXID = Txid.parse("00000001-5eed5eed-000000000001")
_GID = str(Gid("0123456789abcdef", _TXID, 1))
_WORK = [participant_pb2.BranchOperation(name="move")]
_TRANSACTION = coordinator_pb2.Transaction(txid=str(_TXID), outcome=coordinator_pb2.OUTCOME_COMMITTED)
_SOCKET = "12<socket:[77]>"
_LOG = "7</j-wal>"
_COMMIT_FRAME = bytes([0, 0, 0, 3, 0, 0, 0, 9]) + bytes(16)
_OTHER_FRAME = bytes([0, 0, 0, 3, 0, 0, 0, 0]) + bytes(16)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def shown(data: bytes) -> str:
    """As strace shows it, more or less."""
    return '"' + "".join(chr(byte) if chr(byte).isalnum() else f"\\{byte:03o}" for byte in data) + '"'


def written(data: bytes, file: str = _LOG) -> str:
    return f"1 pwrite64({file}, {shown(data)}, {len(data)}, 0) = {len(data)}"


def page(txid: Txid, kind: str) -> bytes:
    return bytes(20) + str(txid).encode() + kind.encode() + bytes(20) + txid.epoch.nonce.encode()


def frame(data: bytes, stream: int = 1) -> bytes:
    return len(data).to_bytes(3) + b"\0\0" + stream.to_bytes(4) + data


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4) + body


def sent(*buffers: bytes, socket: str = _SOCKET, result: str = "") -> str:
    shows = ", ".join(f"{{iov_base={shown(each)}, iov_len={len(each)}}}" for each in buffers)
    took = result or str(sum(map(len, buffers)))
    return f"2 sendmsg({socket}, {{msg_name=NULL, msg_iov=[{shows}], msg_iovlen=9}}, MSG_NOSIGNAL) = {took}"


_BEGINS = [
    written(_COMMIT_FRAME),
    written(_TXID.epoch.nonce.encode()),
    f"1 fdatasync({_LOG}) = 0 (DELAYED)",
    sent(_PREFACE),
]
_DECISION_WRITTEN = [written(_COMMIT_FRAME), written(page(_TXID, "commit"))]
_SYNC = f"1 fdatasync({_LOG}) = 0"
_COMMIT = sent(frame(message(participant_pb2.CommitRequest(gid=_GID).SerializeToString())))


def judge(*lines: str) -> durable.Findings:
    return durable.judge(syscalls.read([*_BEGINS, *lines]), "/j")


def test_a_call_that_others_interrupt_has_two_lines() -> None:
    first, second, third = syscalls.read(
        [
            '4711  pwrite64(7</j-wal>, "a\\0\\"\\\\\\n\\377\\x41) = 1", 9, 0 <unfinished ...>',
            "12    fdatasync(7</j-wal> <unfinished ...>",
            "4711  <... pwrite64 resumed>)            = 9",
            "12    --- SIGCHLD {si_signo=SIGCHLD} ---",
            "12    <... fdatasync resumed>)           = -1 EIO (Input/output error) (INJECTED)",
            '4711  write(2<pipe:[3]>, "x", 1)         = ? ERESTARTSYS (To be restarted)',
            "4711  +++ exited with 0 +++",
        ]
    )
    assert (first.name, first.file, first.data) == ("pwrite64", "/j-wal", b'a\0"\\\n\xffA) = 1')
    assert (first.began, first.ended, first.result) == (1, 3, 9)
    assert (second.name, second.began, second.ended, second.result) == ("fdatasync", 2, 5, -1)
    assert (third.file, third.ended, third.result) == ("pipe:[3]", None, None)


def test_a_call_whose_thread_is_killed_before_it_is_none() -> None:
    lines = [
        f"1 fdatasync({_LOG}) = 0",
        "2  ???( <unfinished ...>",
        "2 <... ??? resumed>) = ?",
        "2 +++ killed by SIGKILL +++",
    ]
    assert [call.name for call in syscalls.read(lines)] == ["fdatasync"]
    with pytest.raises(Unreadable):
        syscalls.read(["2  ???(7, 8) = 0"])


def test_a_call_whose_thread_is_killed_in_it_has_no_end() -> None:
    (killed, resumed) = syscalls.read(
        [
            "1 fdatasync(7</j-wal> <unfinished ...>) = ?",
            "2 fdatasync(7</j-wal> <unfinished ...>",
            "2 <... fdatasync resumed>) = ?",
            "1 +++ killed by SIGKILL +++",
        ]
    )
    assert (killed.began, killed.ended, resumed.began, resumed.ended) == (1, None, 2, None)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["strace: something"], "line 1: 'strace: something'"),
        (["1 <... fdatasync resumed>) = 0"], "line 1 resumes what was not begun"),
        (["1 fdatasync(7</j> <unfinished ...>", "1 <... write resumed>) = 0"], "line 2 resumes what was not begun"),
        (["1 fdatasync(7</j>"], "line 1 has no result"),
        (['1 write(7</j>, "abc"..., 9) = 9'], "line 1 shows only a part of what write wrote"),
    ],
)
def test_what_cannot_be_read_is_an_error(lines: Iterable[str], said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        syscalls.read(lines)


def test_a_decision_that_is_synced_and_then_told_is_right() -> None:
    found = judge(*_DECISION_WRITTEN, _SYNC, _COMMIT)
    assert found.wrongs == []
    assert found.decided(DecisionKind.COMMIT) == found.heard(What.COMMIT) == {_TXID}
    assert len(found.syncs) == 1
    assert found.unforced([_TXID]) == set()
    assert "decisions: 1 commit, 0 abort, 0 delegated" in str(found)
    assert "; syncs that made decisions durable: 1; told: 0 × prepare" in str(found)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([_COMMIT, *_DECISION_WRITTEN, _SYNC], "written at line 7, synced at line 8"),
        ([*_DECISION_WRITTEN, _COMMIT, _SYNC], "written at line 6, synced at line 8"),
        ([*_DECISION_WRITTEN, _COMMIT], "written at line 6, synced never"),
        ([_SYNC, _COMMIT], "the journal has no decision"),
        ([written(_COMMIT_FRAME), written(page(_TXID, "abort")), _SYNC, _COMMIT], "the journal has abort"),
        # A sync of something else, one that fails, and one that began before the write had returned.
        ([*_DECISION_WRITTEN, "1 fdatasync(8</other-wal>) = 0", _COMMIT], "synced never"),
        ([*_DECISION_WRITTEN, f"1 fdatasync({_LOG}) = -1 EIO (Input/output error)", _COMMIT], "synced never"),
        (
            [f"3 fdatasync({_LOG} <unfinished ...>", *_DECISION_WRITTEN, "3 <... fdatasync resumed>) = 0", _COMMIT],
            "synced never",
        ),
        # One that has begun and not returned.
        (
            [*_DECISION_WRITTEN, f"3 fdatasync({_LOG} <unfinished ...>", _COMMIT, "3 <... fdatasync resumed>) = 0"],
            "written at line 6, synced at line 9",
        ),
        # Of a SQL transaction only a part; a write that stayed short.
        ([written(_OTHER_FRAME), written(page(_TXID, "commit")), _SYNC, _COMMIT], "is not in the journal"),
        (
            [written(_COMMIT_FRAME), written(page(_TXID, "commit")).rpartition("=")[0] + "= 3", _SYNC, _COMMIT],
            "the journal has no decision",
        ),
    ],
)
def test_a_decision_that_is_told_too_early_is_wrong(lines: list[str], said: str) -> None:
    (wrong,) = judge(*lines).wrongs
    assert "00000001-5eed5eed-000000000001 is told commit, to a participant" in wrong
    assert said in wrong


def test_pages_before_the_last_one_of_a_sql_transaction_count_with_it() -> None:
    lines = [written(_OTHER_FRAME), written(page(_TXID, "commit")), written(_COMMIT_FRAME), written(b"p"), _SYNC]
    assert judge(*lines, _COMMIT).wrongs == []


def test_what_a_checkpoint_writes_is_durable_with_the_file() -> None:
    lines = [written(page(_TXID, "commit"), file="9</j>"), "1 fsync(9</j>) = 0"]
    assert judge(*lines, _COMMIT).wrongs == []
    assert "synced never" in judge(*lines[:1], _SYNC, _COMMIT).wrongs[0]


def test_an_epoch_that_is_told_before_it_is_synced_is_wrong() -> None:
    hello = participant_pb2.HandshakeRequest(participant="east", epoch=types_pb2.Epoch(number=1, nonce="5eed5eed"))
    lines = [_BEGINS[0], _BEGINS[1], sent(_PREFACE, frame(message(hello.SerializeToString()))), _BEGINS[2]]
    later = [
        *_DECISION_WRITTEN,
        _SYNC,
        sent(frame(message(participant_pb2.CommitRequest(gid=_GID).SerializeToString()), 3)),
    ]
    (wrong,) = durable.judge(syscalls.read([*lines, *later]), "/j").wrongs
    assert wrong == "line 3: epoch 00000001-5eed5eed is told, and was written at line 2, synced at line 4"


def test_a_message_counts_from_its_first_byte() -> None:
    body = frame(message(participant_pb2.CommitRequest(gid=_GID).SerializeToString()))
    cut = 30
    first, second = sent(body[:9], body[9:], result=str(cut)), sent(body[cut:])
    refused = sent(body, result="-1 EAGAIN (Resource temporarily unavailable)")
    assert judge(*_DECISION_WRITTEN, refused, _SYNC, first, second).wrongs == []
    assert len(judge(*_DECISION_WRITTEN, first, _SYNC, second).wrongs) == 1


def test_a_message_may_come_in_several_frames_with_others_between_them() -> None:
    body = message(participant_pb2.CommitRequest(gid=_GID).SerializeToString())
    other = message(participant_pb2.PrepareRequest(gid=_GID, operations=_WORK).SerializeToString())
    found = judge(*_DECISION_WRITTEN, _SYNC, sent(frame(body[:3]), frame(other, 3), frame(body[3:]), frame(other, 3)))
    assert Counter(each.what for each in found.told) == {What.COMMIT: 1, What.PREPARE: 2}


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (participant_pb2.CommitRequest(gid=_GID), What.COMMIT),
        (
            participant_pb2.AbortRequest(gid=_GID, kind=types_pb2.BRANCH_KIND_WORK, decision=types_pb2.DECISION_ABORT),
            What.ABORT,
        ),
        (
            participant_pb2.AbortRequest(
                gid=_GID, kind=types_pb2.BRANCH_KIND_WORK, decision=types_pb2.DECISION_DELEGATED
            ),
            What.SETTLE,
        ),
        (
            participant_pb2.ApplyRequest(gid=_GID, kind=types_pb2.BRANCH_KIND_WORK, operations=_WORK, fingerprint=b"f"),
            What.APPLY,
        ),
        (participant_pb2.PrepareRequest(gid=_GID, operations=_WORK, fingerprint=b"f"), What.PREPARE),
        (participant_pb2.InspectRequest(journal_id="0123456789abcdef", txid=str(_TXID)), None),
    ],
)
def test_every_request_about_a_branch_is_known(
    request_: participant_pb2.CommitRequest | participant_pb2.AbortRequest, what: What | None
) -> None:
    found = judge(sent(frame(message(request_.SerializeToString()))))
    assert [each.what for each in found.told] == ([] if what is None else [what])


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (
            coordinator_pb2.ExecuteResponse(txid=str(_TXID), outcome=coordinator_pb2.OUTCOME_COMMITTED, applied=True),
            What.COMMITTED,
        ),
        (coordinator_pb2.ExecuteResponse(txid=str(_TXID), outcome=coordinator_pb2.OUTCOME_ABORTED), What.ABORTED),
        (coordinator_pb2.ExecuteResponse(txid=str(_TXID), outcome=coordinator_pb2.OUTCOME_PENDING), None),
        (
            coordinator_pb2.GetResponse(transaction=_TRANSACTION),
            What.COMMITTED,
        ),
        (coordinator_pb2.RegisterResponse(journal_id="0123456789abcdef"), None),
    ],
)
def test_every_answer_that_tells_an_outcome_is_known(
    answer: coordinator_pb2.ExecuteResponse | coordinator_pb2.GetResponse, what: What | None
) -> None:
    settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    found = judge(sent(settings, frame(message(answer.SerializeToString())), socket="13<socket:[78]>"))
    assert [each.what for each in found.told] == ([] if what is None else [what])


def test_every_call_of_a_stream_is_known() -> None:
    calls = [
        participant_pb2.StreamCall(number=300, commit=participant_pb2.CommitRequest(gid=_GID)),
        participant_pb2.StreamCall(number=301, prepare=participant_pb2.PrepareRequest(gid=_GID, operations=_WORK)),
    ]
    asked = participant_pb2.StreamRequest(calls=calls)
    outcome = coordinator_pb2.ExecuteResponse(txid=str(_TXID), outcome=coordinator_pb2.OUTCOME_COMMITTED)
    answers = [
        coordinator_pb2.CoordinatorStreamAnswer(number=7, failure=types_pb2.CallFailure(code=14)),
        coordinator_pb2.CoordinatorStreamAnswer(number=8, execute=outcome),
    ]
    answered = coordinator_pb2.CoordinatorStreamResponse(answers=answers)
    settings = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    found = judge(
        *_DECISION_WRITTEN,
        sent(frame(message(asked.SerializeToString()))),
        _SYNC,
        sent(settings, frame(message(answered.SerializeToString())), socket="13<socket:[78]>"),
    )
    assert [each.what for each in found.told] == [What.COMMIT, What.PREPARE, What.COMMITTED]
    (wrong,) = found.wrongs
    assert "is told commit, to a participant, and the decision was written at line 6, synced at line 8" in wrong


def test_a_delegated_transaction_is_told_once_the_delegation_is_synced() -> None:
    apply = participant_pb2.ApplyRequest(gid=_GID, kind=types_pb2.BRANCH_KIND_WORK, operations=_WORK)
    told = sent(frame(message(apply.SerializeToString())))
    delegated = [written(_COMMIT_FRAME), written(page(_TXID, "delegated"))]
    assert judge(*delegated, _SYNC, told).wrongs == []
    assert "synced never" in judge(*delegated, told).wrongs[0]
    assert "the journal has commit" in judge(*_DECISION_WRITTEN, _SYNC, told).wrongs[0]


def test_r12_an_abort_is_written_before_it_is_told_and_waits_for_no_sync() -> None:
    abort = participant_pb2.AbortRequest(gid=_GID, decision=types_pb2.DECISION_ABORT)
    told = sent(frame(message(abort.SerializeToString())))
    decision = [written(_COMMIT_FRAME), written(page(_TXID, "abort"))]
    found = judge(*decision, told)
    assert found.wrongs == []
    assert found.unforced([_TXID]) == {_TXID}
    assert "the decision was written at line 7" in judge(told, *decision).wrongs[0]
    assert judge(*decision, _SYNC, told).unforced([_TXID]) == set()


def test_what_is_not_http_2_is_passed_over() -> None:
    assert judge('2 sendto(5<socket:[9]>, "\\0", 1, 0, NULL, 0) = 1').told == []
