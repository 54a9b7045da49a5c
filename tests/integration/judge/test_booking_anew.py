"""What a run over more complete data says counts, whatever was booked before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from alerts.life import Event
from alerts.violations import Booked, book, transition, withdraw_unfound
from device_profiles.findings import Finding
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from tests.integration.yard import ask, register, site_file
from tests.unit.alerts.samples import T0, at, finding


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    said = finding(0)
    device = Device(site=said.site, id="dust-1", kind=Kind.DUST)
    register(database_url, site_file(devices=(device,)))
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


async def book_one(
    connection: psycopg.AsyncConnection[Any], said: Finding, *, anew: bool = False
) -> Booked:
    async with connection.transaction():
        (booked,) = await book(connection, [said], T0, anew=anew)
    return booked


async def withdraw_all(connection: psycopg.AsyncConnection[Any], said: Finding) -> list[str]:
    async with connection.transaction():
        return await withdraw_unfound(
            connection,
            rule=said.rule,
            site=said.site,
            devices=[said.subject],
            from_at=T0 - timedelta(days=1),
            to_at=T0 + timedelta(days=1),
            found=(),
            now=T0,
            reason="late data",
        )


async def test_what_late_data_refuted_later_data_brings_back(
    connection: psycopg.AsyncConnection[Any], database_url: str
) -> None:
    said = finding(0)
    await book_one(connection, said)
    assert await withdraw_all(connection, said) == [said.identity]
    again = await book_one(connection, said, anew=True)
    assert (again.violation_id, again.events) == (said.identity, (Event.AMENDED,))
    assert not again.stays_withdrawn
    assert ask(database_url, "SELECT state FROM violations") == [{"state": "open"}]


async def test_what_a_person_withdrew_stays_withdrawn(
    connection: psycopg.AsyncConnection[Any], database_url: str
) -> None:
    said = finding(0)
    await book_one(connection, said)
    async with connection.transaction():
        await transition(
            connection, said.identity, Event.WITHDRAWN, "inspector", T0, {"reason": "calibration"}
        )
    assert (await book_one(connection, said, anew=True)).stays_withdrawn
    assert ask(database_url, "SELECT state FROM violations") == [{"state": "withdrawn"}]


async def test_a_run_anew_moves_an_opening_also_where_it_reaches_less_far(
    connection: psycopg.AsyncConnection[Any], database_url: str
) -> None:
    first = finding(5, known=30)
    await book_one(connection, first)
    earlier = finding(2, known=10)
    assert (await book_one(connection, earlier)).events == ()
    assert (await book_one(connection, earlier, anew=True)).events == (Event.AMENDED,)
    rows = ask(database_url, "SELECT id, opened_at FROM violations")
    assert rows == [{"id": first.identity, "opened_at": at(2)}]
