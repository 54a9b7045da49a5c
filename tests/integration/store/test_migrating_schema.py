"""Migrations: from nothing to the latest, once, however many start at the same time."""

from __future__ import annotations

import asyncio
import os
import sys

import psycopg
import pytest

from ingest.errors import SchemaOutdated
from ingest.store.migrate import latest_revision, migrate, require_latest
from tests.integration.yard import ask, do

MIGRATE = "import os; from ingest.store.migrate import migrate; print(migrate(os.environ['DB']))"


def test_from_nothing_to_the_latest_and_then_nothing(empty_database_url: str) -> None:
    assert migrate(empty_database_url) == (None, latest_revision())
    do(empty_database_url, "INSERT INTO organisations VALUES ('builder', 'Builder')")
    assert migrate(empty_database_url) == (latest_revision(), latest_revision())
    assert ask(empty_database_url, "SELECT id FROM organisations") == [{"id": "builder"}]
    with psycopg.connect(empty_database_url) as connection:
        require_latest(connection)


async def test_two_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            MIGRATE,
            env=os.environ | {"DB": empty_database_url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    said = [await process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    latest = latest_revision()
    assert sorted(out.decode().strip() for out, _ in said) == sorted(
        (str((None, latest)), str((latest, latest)))
    )


def test_a_schema_that_is_missing_is_refused(empty_database_url: str) -> None:
    with (
        psycopg.connect(empty_database_url) as connection,
        pytest.raises(SchemaOutdated, match=r"schema nothing.*run `smartsite migrate`"),
    ):
        require_latest(connection)


def test_a_newer_schema_is_refused_and_left_alone(database_url: str) -> None:
    do(database_url, "UPDATE alembic_version SET version_num = '9999'")
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(SchemaOutdated, match=r"schema 9999.*newer|newer.*9999"),
    ):
        require_latest(connection)
    with pytest.raises(SchemaOutdated, match="9999"):
        migrate(database_url)
    assert ask(database_url, "SELECT version_num FROM alembic_version") == [{"version_num": "9999"}]


def test_the_kind_of_a_device_cannot_change(database_url: str) -> None:
    do(database_url, "INSERT INTO organisations VALUES ('one', 'One')")
    do(
        database_url,
        "INSERT INTO sites (id, name, timezone, contractor_id, regulator_id)"
        " VALUES ('yard', 'Yard', 'UTC', 'one', 'one')",
    )
    do(
        database_url,
        "INSERT INTO devices (site_id, device, kind, expected_every_s)"
        " VALUES ('yard', 'd', 'dust', 1)",
    )
    with pytest.raises(psycopg.errors.RaiseException, match="registered as dust"):
        do(database_url, "UPDATE devices SET kind = 'crane'")
