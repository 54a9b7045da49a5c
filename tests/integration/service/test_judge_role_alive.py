"""The role `judge` wakes at a commit, and goes on where it stood when its session is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from detectors.rules import DustRule, Rules
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from smartsite.roles import judge
from smartsite.services import Whereabouts
from smartsite.settings import Settings
from tests.integration.service.roles import PATIENCE_S, until
from tests.integration.yard import (
    ask,
    do,
    flush_of,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

RULES = Rules(dust=DustRule(limit_ug_m3=100, window_s=5, bridge_s=60))


@pytest.fixture
async def judging(database_url: str, tmp_path: Path) -> AsyncIterator[str]:
    register(database_url, site_file())
    stop = asyncio.Event()
    where = Whereabouts(pid=0, started=0.0, broker_url="", database_url=database_url)
    settings = Settings(data_dir=tmp_path, rules=RULES)
    task: asyncio.Task[None] = asyncio.create_task(judge.run(settings, where, stop))
    yield database_url
    stop.set()
    async with asyncio.timeout(PATIENCE_S):
        await task


def booked(database_url: str) -> list[dict[str, Any]]:
    return ask(database_url, "SELECT id, opened_at, closed_at FROM violations ORDER BY opened_at")


async def test_what_is_stored_is_judged_also_after_the_session_was_cut(judging: str) -> None:
    start = datetime.now(UTC) - timedelta(seconds=20)
    routes = await routes_of(judging)
    worker = Worker(judging, "ingest")
    writer = TelemetryWriter(worker)

    async def say(first: int, last: int, pm10_ug_m3: float) -> None:
        await writer.write(
            flush_of(
                routes,
                *(
                    (
                        topic_of("dust-1"),
                        telemetry(start + timedelta(seconds=n), pm10_ug_m3=pm10_ug_m3),
                    )
                    for n in range(first, last)
                ),
                received_us=round(datetime.now(UTC).timestamp() * 1_000_000),
            )
        )

    await say(0, 10, 500.0)
    await until(lambda: len(booked(judging)) == 1, "a violation is booked")
    (opened,) = booked(judging)
    assert opened["closed_at"] is None
    do(
        judging,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'smartsite judge'",
    )
    await say(10, 18, 5.0)
    await until(lambda: booked(judging)[0]["closed_at"] is not None, "it is closed")
    (closed,) = booked(judging)
    assert (closed["id"], closed["opened_at"]) == (opened["id"], opened["opened_at"])
    events = ask(judging, "SELECT event FROM violation_events WHERE event <> 'amended' ORDER BY id")
    assert [row["event"] for row in events] == ["opened", "closed"]
    await worker.close()


async def test_a_device_registered_while_judging_is_judged(judging: str) -> None:
    """What `smartsite site import` does to a running service."""
    newcomer = Device(site="yard", id="dust-new", kind=Kind.DUST, expected_every_s=1.0)
    await until(lambda: _listening(judging), "the judge listens")
    register(judging, site_file(devices=[newcomer]))
    start = datetime.now(UTC) - timedelta(seconds=20)
    worker = Worker(judging, "ingest")
    await TelemetryWriter(worker).write(
        flush_of(
            await routes_of(judging),
            *(
                (
                    topic_of("dust-new"),
                    telemetry(start + timedelta(seconds=n), pm10_ug_m3=500.0),
                )
                for n in range(12)
            ),
            received_us=round(datetime.now(UTC).timestamp() * 1_000_000),
        )
    )
    await until(lambda: len(booked(judging)) == 1, "its violation is booked")
    await worker.close()


def _listening(database_url: str) -> bool:
    return bool(
        ask(
            database_url,
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'smartsite judge' AND state = 'idle'",
        )
    )
