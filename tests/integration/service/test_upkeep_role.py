"""The role `upkeep` at work: jobs on their own, one role at a time, a database that goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from prometheus_client import REGISTRY

from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from smartsite.health import look
from smartsite.roles import upkeep
from smartsite.roles.upkeep import JOBS, Job, Upkeep
from smartsite.services import Whereabouts
from smartsite.settings import DatabaseSettings, Settings
from tests.integration.service.roles import PATIENCE_S, until
from tests.integration.yard import (
    NOW,
    ask,
    do,
    flush_of,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)


@asynccontextmanager
async def keeping_up(url: str, folder: Path) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    where = Whereabouts(pid=0, started=0.0, broker_url="", database_url=url)
    task = asyncio.create_task(upkeep.run(settings_of(folder), where, stop))
    try:
        yield task
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await task


def settings_of(folder: Path) -> Settings:
    database = DatabaseSettings(url="postgresql://somebody@localhost/unused")
    return Settings(data_dir=folder, database=database)


async def a_reading(url: str, second: int = 0) -> None:
    pen = Worker(url, "ingest")
    try:
        at = NOW.replace(second=second)
        message = (topic_of("dust-1"), telemetry(at, pm10_ug_m3=1))
        await TelemetryWriter(pen).write(flush_of(await routes_of(url), message))
    finally:
        await pen.close()


def failures(job: str) -> float:
    return REGISTRY.get_sample_value("smartsite_upkeep_failures_total", {"job": job}) or 0.0


@pytest.fixture
def yard(database_url: str) -> str:
    register(database_url, site_file())
    return database_url


async def test_rollups_are_there_soon_after_the_start(yard: str, tmp_path: Path) -> None:
    await a_reading(yard)
    do(yard, "UPDATE segments SET received_from = now() - interval '1 hour'")
    waits = await look(yard, settings_of(tmp_path), {})
    assert waits.roles["upkeep"].state == "stale"
    async with keeping_up(yard, tmp_path):
        await until(lambda: bool(ask(yard, "SELECT FROM dust_1d")), "the day's row")
    done = await look(yard, settings_of(tmp_path), {})
    assert (done.roles["upkeep"].state, done.roles["upkeep"].said) == ("fresh", "nothing waits")
    assert REGISTRY.get_sample_value("smartsite_rollup_segments_behind") == 0


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
async def test_a_job_can_be_done_on_an_empty_database(
    job: Job, yard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = asyncio.Event()

    async def and_say_so(keeper: Upkeep) -> bool:
        more = await job.run(keeper)
        done.set()
        return more

    monkeypatch.setattr(upkeep, "JOBS", (job._replace(first_s=0.0, run=and_say_so),))
    before = failures(job.name)
    async with keeping_up(yard, tmp_path), asyncio.timeout(PATIENCE_S):
        await done.wait()
    assert failures(job.name) == before


async def test_a_job_that_fails_leaves_the_others_alone(
    yard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(keeper: Upkeep) -> bool:
        await keeper.connection.execute("SELECT 1 / 0")
        return False

    jobs = (Job("wrong", 0.05, 0.0, fails), *(job._replace(every_s=0.05) for job in JOBS[:1]))
    monkeypatch.setattr(upkeep, "JOBS", jobs)
    before = failures("wrong")
    async with keeping_up(yard, tmp_path):
        await until(lambda: failures("wrong") >= before + 2, "it fails twice")
        await a_reading(yard)
        await until(lambda: bool(ask(yard, "SELECT FROM dust_1d")), "rollups go on")
    assert "wrong failed" in caplog.text
    assert "division by zero" in caplog.text


async def test_one_keeps_up_while_the_other_waits(
    yard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upkeep, "STANDBY_S", 0.05)
    monkeypatch.setattr(upkeep, "JOBS", (JOBS[0]._replace(every_s=0.05),))
    caplog.set_level("INFO")
    async with keeping_up(yard, tmp_path):
        await a_reading(yard)
        await until(lambda: bool(ask(yard, "SELECT FROM rollup_places")), "the first keeps up")
        async with keeping_up(yard, tmp_path):
            await until(lambda: "another process keeps up" in caplog.text, "the second waits")


async def test_a_connection_that_is_lost_is_made_again(
    yard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "JOBS", (JOBS[0]._replace(every_s=0.05),))
    async with keeping_up(yard, tmp_path):
        await a_reading(yard)
        await until(lambda: bool(ask(yard, "SELECT FROM dust_1min WHERE n = 1")), "the first")
        with psycopg.connect(yard) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'smartsite upkeep' AND datname = current_database()"
            )
        await a_reading(yard, 1)
        await until(lambda: bool(ask(yard, "SELECT FROM dust_1min WHERE n = 2")), "the second")


async def test_old_things_go(yard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the settings' own days, from the role's own clock."""
    await a_reading(yard)
    do(yard, "UPDATE dust_readings SET observed_at = now() - interval '500 days'")
    monkeypatch.setattr(upkeep, "JOBS", tuple(job._replace(first_s=0.0) for job in JOBS))
    async with keeping_up(yard, tmp_path):
        await until(lambda: not ask(yard, "SELECT FROM dust_readings"), "400 days are over")
    counted = REGISTRY.get_sample_value("smartsite_aged_out_total", {"what": "dust_readings"})
    assert counted
