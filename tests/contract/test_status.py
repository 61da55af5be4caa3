"""Error details survive the wire, and what is not ours is never read as ours."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from twophase.contract.status import DOMAIN, Problem, from_call, to_status
from twophase.contract.text import shorten

DETAILS = "grpc-status-details-bin"

codes = st.sampled_from([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@dataclass
class Failed:
    """A failed call as gRPC's client shows it."""

    said: grpc.StatusCode
    message: str | None
    metadata: list[tuple[str, bytes]] = field(default_factory=list)

    def code(self) -> grpc.StatusCode:
        return self.said

    def details(self) -> str | None:
        return self.message

    def trailing_metadata(self) -> list[tuple[str, bytes]]:
        return self.metadata


def sent(status: status_pb2.Status, code: grpc.StatusCode) -> Failed:
    return Failed(code, status.message, [(DETAILS, status.SerializeToString())])


@given(
    st.builds(
        Problem,
        code=codes,
        reason=st.from_regex(r"[A-Z][A-Z_]{0,40}", fullmatch=True),
        message=words,
        field=words,
        value=st.text(st.characters(exclude_categories=["C", "Z"]), max_size=50),
        remedy=words,
        outcome_known=st.booleans(),
    )
)
def test_a_problem_comes_back_as_it_was(problem: Problem) -> None:
    assert from_call(sent(to_status(problem), problem.code)) == problem


def test_a_bad_field_is_named_to_those_who_know_only_google_rpc() -> None:
    status = to_status(Problem(grpc.StatusCode.INVALID_ARGUMENT, "BAD", "too long", field="operations[2].payload"))
    violations = [detail for detail in status.details if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)]
    assert len(violations) == 1
    request = error_details_pb2.BadRequest()
    violations[0].Unpack(request)
    assert [(found.field, found.description) for found in request.field_violations] == [
        ("operations[2].payload", "too long")
    ]
    unnamed = to_status(Problem(grpc.StatusCode.NOT_FOUND, "UNKNOWN", "not there"))
    assert len(unnamed.details) == 1


@pytest.mark.parametrize("message", [None, "", "connection reset"])
def test_a_call_without_details_has_no_known_outcome(message: str | None) -> None:
    problem = from_call(Failed(grpc.StatusCode.UNAVAILABLE, message))
    assert problem == Problem(grpc.StatusCode.UNAVAILABLE, "", message or "", outcome_known=False)


def test_details_of_somebody_else_are_not_read_as_ours() -> None:
    foreign = Any()
    foreign.Pack(error_details_pb2.ErrorInfo(reason="X", domain="example.com", metadata={"outcome_known": "true"}))
    status = status_pb2.Status(code=5, message="no", details=[foreign])
    problem = from_call(sent(status, grpc.StatusCode.NOT_FOUND))
    assert problem.reason == ""
    assert not problem.outcome_known


def test_details_that_contradict_their_status_are_not_believed() -> None:
    honest = to_status(Problem(grpc.StatusCode.NOT_FOUND, "UNKNOWN", "not there"))
    renamed = Failed(grpc.StatusCode.NOT_FOUND, "else", sent(honest, grpc.StatusCode.NOT_FOUND).metadata)
    for failed in (sent(honest, grpc.StatusCode.UNAVAILABLE), renamed):
        problem = from_call(failed)
        assert problem.code is failed.said
        assert not problem.outcome_known


def test_details_that_are_no_details_are_not_believed() -> None:
    torn = Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff\xff")
    inside = status_pb2.Status(code=13, message="broken", details=[torn]).SerializeToString()
    for noise in (b"\xff\xff\xff", inside):
        problem = from_call(Failed(grpc.StatusCode.INTERNAL, "broken", [(DETAILS, noise)]))
        assert problem == Problem(grpc.StatusCode.INTERNAL, "", "broken", outcome_known=False)


def test_a_shown_value_is_short_and_printable() -> None:
    assert shorten("order") == "order"
    assert shorten("a\x00b\n\u202e") == r"a\x00b\n\u202e"
    assert shorten("x" * 201) == "x" * 200 + "... (201 characters)"
    assert DOMAIN == "twophase"


@given(st.text(max_size=400))
def test_whatever_is_shown_fits_in_a_line(text: str) -> None:
    shown = shorten(text)
    assert shown.isprintable()
    assert len(shown) < 250
