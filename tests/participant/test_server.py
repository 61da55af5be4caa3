"""The server: where it listens and where it will not, health, registration, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fixtures.participants import FakeResources, make_participant
from twophase.contract.addresses import Address
from twophase.participant import NotReady, Participant
from twophase.participant.outcomes import Committed
from twophase.participant.server import MAX_MESSAGE_BYTES, ParticipantServer, ServerSettings, why_not
from twophase.participant.service import SERVICE
from twophase.v1 import (
    coordinator_pb2,
    participant_pb2,
    participant_pb2_grpc,
)

GID = "tp-0123456789abcdef-00000003-aabbccdd-000000000007-0001"


def make_server(resources: FakeResources | None = None, **settings: Any) -> ParticipantServer:
    return ParticipantServer(
        make_participant(), settings=ServerSettings(**settings), resources=resources or FakeResources()
    )


@asynccontextmanager
async def channel_to(server: ParticipantServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


async def commit(server: ParticipantServer) -> participant_pb2.CommitResponse:
    async with channel_to(server) as channel:
        response: participant_pb2.CommitResponse = await participant_pb2_grpc.ParticipantStub(channel).Commit(
            participant_pb2.CommitRequest(gid=GID)
        )
        return response


async def test_it_answers_at_the_address_it_tells() -> None:
    resources = FakeResources(Committed())
    server = make_server(resources)
    address = await server.start()
    assert address == server.address
    assert not address.endswith(":0")
    assert (server.database, resources.opened) == ("payment", 1)
    assert (await commit(server)).outcome == participant_pb2.COMMIT_OUTCOME_COMMITTED
    await server.stop()
    await server.stop()
    assert resources.closed == 1
    assert server.ended_clean


async def test_it_is_healthy_while_it_serves_and_says_what_it_offers() -> None:
    async with make_server() as server, channel_to(server) as channel:
        health = cast(Any, health_pb2_grpc.HealthStub)(channel)
        for name in ("", SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = cast(Any, reflection_pb2_grpc.ServerReflectionStub)(channel).ServerReflectionInfo(iter([request]))
        answers = [answer async for answer in call]
        assert SERVICE in {service.name for service in answers[0].list_services_response.service}


async def test_while_it_ends_nobody_is_sent_here_and_running_work_is_finished() -> None:
    resources = FakeResources(Committed(), hold=asyncio.Event())
    server = make_server(resources)
    await server.start()
    running = asyncio.create_task(commit(server))
    await resources.entered.wait()
    async with channel_to(server) as channel:
        watch = cast(Any, health_pb2_grpc.HealthStub)(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
    assert resources.closed == 0
    assert resources.hold is not None
    resources.hold.set()
    assert (await running).outcome == participant_pb2.COMMIT_OUTCOME_COMMITTED
    await stopping
    assert resources.closed == 1


async def test_who_watches_its_health_holds_up_no_end() -> None:
    server = make_server(FakeResources(Committed()), grace=60.0)
    await server.start()
    async with channel_to(server) as channel:
        watching = cast(Any, health_pb2_grpc.HealthStub(channel)).Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        async with asyncio.timeout(30):
            await server.stop()
        assert server.ended_clean


async def test_after_the_grace_it_ends_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    resources = FakeResources(Committed(), hold=asyncio.Event())
    server = make_server(resources, grace=0.1)
    await server.start()
    running = asyncio.create_task(commit(server))
    await resources.entered.wait()
    await server.stop()
    with pytest.raises(grpc.aio.AioRpcError):
        await running
    assert "1 calls were still being worked on after 0.1 s" in caplog.text
    assert resources.closed == 1
    assert resources.hold is not None
    resources.hold.set()


async def test_work_that_never_ends_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twophase.participant.server._CLOSE_SECONDS", 0.05)
    server = make_server(FakeResources(keep_open=asyncio.Event()))
    await server.start()
    await server.stop()
    assert not server.ended_clean
    assert "were not closed within 0.05 s" in caplog.text


async def test_a_database_that_is_not_fit_leaves_nothing_behind(free_port: int) -> None:
    address = f"127.0.0.1:{free_port}"
    resources = FakeResources(not_ready=NotReady("max_prepared_transactions is 0", "ALTER SYSTEM"))
    with pytest.raises(NotReady, match="max_prepared_transactions is 0"):
        await make_server(resources, listen=address).start()
    async with make_server(listen=address) as server:
        assert server.address == address


async def test_a_port_in_use_is_one_clear_line() -> None:
    async with make_server() as first:
        with pytest.raises(NotReady, match=f"^cannot listen on {first.address}: the port is in use$") as raised:
            await make_server(listen=first.address).start()
        assert raised.value.remedies == ("--listen 127.0.0.1:0 (takes a free port)",)
        assert (await commit_of(first)).code() == grpc.StatusCode.INVALID_ARGUMENT


async def commit_of(server: ParticipantServer) -> grpc.aio.AioRpcError:
    async with channel_to(server) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await participant_pb2_grpc.ParticipantStub(channel).Commit(participant_pb2.CommitRequest())
    return raised.value


async def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(NotReady, match=r"cannot listen on 192\.0\.2\.1:0: .*assign"):
        await make_server(listen="192.0.2.1:0", allow_plaintext=True).start()


def test_a_port_that_is_free_again_is_told(free_port: int) -> None:
    told = why_not(Address("127.0.0.1", free_port))
    assert str(told) == f"cannot listen on 127.0.0.1:{free_port}: the port was taken a moment ago"


async def test_a_large_request_is_taken_and_a_larger_one_is_not() -> None:
    async with make_server(FakeResources(Committed())) as server, channel_to(server) as channel:
        stub = participant_pb2_grpc.ParticipantStub(channel)
        large = participant_pb2.CommitRequest(gid="x" * MAX_MESSAGE_BYTES)  # work is that large, and has a name besides
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Commit(large)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Commit(participant_pb2.CommitRequest(gid="x" * (MAX_MESSAGE_BYTES + (64 << 10))))
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("listen", ["0.0.0.0:7401", "[::]:7401", "192.0.2.1:7401", "no-such-host.invalid:7401"])
def test_it_listens_beyond_loopback_only_if_it_is_told_to(listen: str) -> None:
    with pytest.raises(NotReady, match="other machines could reach it") as raised:
        make_server(listen=listen)
    assert raised.value.remedies[0] == "--listen 127.0.0.1:7401"
    assert "--allow-plaintext" in raised.value.remedies[1]
    make_server(listen=listen, allow_plaintext=True)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.0.0.2:7401", "[::1]:7401", "localhost:7401"])
def test_loopback_needs_no_permission(listen: str) -> None:
    make_server(listen=listen, coordinator="coordinator.internal:7400")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"listen": "7401"}, "--listen: address '7401' is not host:port"),
        ({"listen": "127.0.0.1:65536"}, "a port of at most 65535"),
        ({"coordinator": "coordinator"}, "--coordinator: address 'coordinator' is not host:port"),
        ({"coordinator": "c:1", "advertise": "http://p:1"}, "--advertise: address 'http://p:1' is not host:port"),
        ({"coordinator": "c:1", "listen": "0.0.0.0:0", "allow_plaintext": True}, "no address that the coordinator"),
    ],
)
def test_an_address_that_will_not_do_is_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(NotReady) as raised:
        make_server(**settings)
    assert told in str(raised.value)
    assert raised.value.remedies


def test_there_must_be_something_to_serve() -> None:
    with pytest.raises(NotReady, match="participant 'pay-ment' declares no operations") as raised:
        ParticipantServer(Participant("pay-ment"), resources=FakeResources())
    assert raised.value.remedies[0].startswith("@pay_ment.operation")


def test_there_must_be_a_database() -> None:
    with pytest.raises(NotReady, match="participant 'payment' has no database") as raised:
        ParticipantServer(make_participant())
    assert "--dsn" in raised.value.remedies[0]


def test_there_is_no_address_before_the_start() -> None:
    with pytest.raises(RuntimeError, match="no address before start"):
        make_server().address  # noqa: B018


class Register:
    """A coordinator that only registers, after it has said no `refusals` times."""

    def __init__(self, refusals: int = 0) -> None:
        self.requests: list[coordinator_pb2.RegisterRequest] = []
        self.registered = asyncio.Event()
        self._refusals = refusals

    async def Register(  # noqa: N802
        self, request: coordinator_pb2.RegisterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> coordinator_pb2.RegisterResponse:
        self.requests.append(request)
        if len(self.requests) <= self._refusals:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "cannot reach you")
        self.registered.set()
        return coordinator_pb2.RegisterResponse()


@asynccontextmanager
async def serving(servicer: Register, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        servicer.Register,
        request_deserializer=coordinator_pb2.RegisterRequest.FromString,
        response_serializer=coordinator_pb2.RegisterResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("twophase.v1.Coordinator", {"Register": method})]
    )
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    yield bound
    await server.stop(None)


async def test_it_registers_itself_until_it_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    coordinator = Register(refusals=2)
    async with serving(coordinator) as port, make_server(coordinator=f"127.0.0.1:{port}") as server:
        async with asyncio.timeout(10):
            await coordinator.registered.wait()
        wanted = coordinator_pb2.RegisterRequest(participant="payment", address=server.address)
        assert coordinator.requests == [wanted] * 3
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "FAILED_PRECONDITION: cannot reach you" in told[0]


async def test_it_registers_the_address_it_is_told_to(free_port: int, caplog: pytest.LogCaptureFixture) -> None:
    coordinator = Register()
    address = f"127.0.0.1:{free_port}"
    async with make_server(coordinator=address, advertise="payment.internal:7401"), asyncio.timeout(20):
        while "not registered with the coordinator" not in caplog.text:
            await asyncio.sleep(0.01)
        async with serving(coordinator, free_port):
            await coordinator.registered.wait()
    assert coordinator.requests[-1].address == "payment.internal:7401"


async def test_it_ends_while_it_is_still_registering(free_port: int) -> None:
    async with asyncio.timeout(5), make_server(coordinator=f"127.0.0.1:{free_port}"):
        pass


async def test_a_defect_while_registering_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(**_: str) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("twophase.participant.server.register_until_done", broken)
    async with make_server(coordinator="127.0.0.1:1"):
        await asyncio.sleep(0)
    assert "a defect" in caplog.text


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
