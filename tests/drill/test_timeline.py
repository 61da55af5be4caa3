"""The recorder: what is prepared is seen on the server itself, and what happens is marked when it happens."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.clusters import MakeCluster
from twophase.sandbox.drill import timeline
from twophase.sandbox.drill.business import Answered, Told
from twophase.sandbox.drill.timeline import Recorder, Sample
from twophase.sandbox.postgres import StopMode


def _prepare(cluster_dsn: str, gid: str) -> None:
    import psycopg

    with psycopg.connect(cluster_dsn, autocommit=True) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT pg_current_xact_id()")
        connection.execute(f"PREPARE TRANSACTION '{gid}'")


@pytest.mark.integration
async def test_prepared_branches_are_counted_late_ones_apart_and_remembered_while_their_server_is_down(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await asyncio.to_thread(make_cluster)
    recorder = Recorder()
    monkeypatch.setattr(timeline, "LATE", 3600.0)
    monkeypatch.setattr(timeline, "STEP", 0.001)

    async def seen(prepared: int, late: int) -> Sample:
        recorder._samples.clear()
        while True:
            found = [sample for sample in recorder._samples if (sample.prepared, sample.late) == (prepared, late)]
            if found:
                return found[0]
            await asyncio.sleep(0.001)

    async with asyncio.timeout(60), recorder.recording([cluster], lambda: None):
        await seen(0, 0)
        for gid in ("tp-one", "tp-two", "somebody-else's"):
            await asyncio.to_thread(_prepare, cluster.dsn(), gid.replace("'", ""))
        await seen(2, 0)
        monkeypatch.setattr(timeline, "LATE", 0.0)
        await seen(2, 2)
        await asyncio.to_thread(cluster.stop, StopMode.IMMEDIATE)
        await seen(2, 2)
        await asyncio.to_thread(cluster.start)
        with cluster.connect() as connection:
            connection.execute("ROLLBACK PREPARED 'tp-one'")
        await seen(1, 1)
        with cluster.connect() as connection:
            connection.execute("ROLLBACK PREPARED 'tp-two'")
            connection.execute("ROLLBACK PREPARED 'somebody-elses'")
    assert recorder.timeline(()).samples


async def test_marks_and_answers_are_counted_from_the_beginning_of_each_recording() -> None:
    recorder = Recorder()
    recorder.watch("east", "up")
    looked: list[None] = []
    async with recorder.recording([], lambda: looked.append(None)):
        recorder.watch("east", "down")
        first = recorder._began
        while len(looked) < 2:
            await asyncio.sleep(0)
    found = recorder.timeline([Answered(first + 0.01, 0.01, Told.OK), Answered(first + 1e6, 0.01, Told.UNKNOWN)])
    assert found.before == {"east": "up"}
    assert [(mark.who, mark.what) for mark in found.marks] == [("east", "down")]
    assert 0 <= found.marks[0].at <= found.seconds
    assert found.answers[0][Told.OK] == 1
    assert found.answers[-1][Told.UNKNOWN] == 1
    async with recorder.recording([], lambda: None):
        pass
    assert recorder.timeline(()).before == {"east": "down"}
    assert recorder.timeline(()).marks == ()
