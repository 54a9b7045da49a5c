"""Nothing acknowledged is lost and nothing is stored twice while the database is away.

What else may fail, and kill -9 of everything, is in `tests/faults`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ingest.store.migrate import migrate
from smartsite.embedded.broker import EmbeddedBroker
from smartsite.embedded.postgres import EmbeddedPostgres
from tests.integration.service.roles import (
    ROLES,
    Service,
    device_of,
    publish_all,
    until,
)
from tests.integration.yard import ask, balance_of, telemetry


@pytest.fixture
def quick_broker(service_dir: Path) -> Iterator[EmbeddedBroker]:
    """A broker of the test's own that sends again soon what is not acknowledged."""
    with EmbeddedBroker(service_dir / "broker", ack_wait_seconds=1.0) as broker:
        yield broker


def service_on(broker: EmbeddedBroker, database_url: str, folder: Path) -> Service:
    service = Service(broker, database_url, "outage", folder, {role: role for role in ROLES})
    service.register()
    return service


def readings(service: Service, start: int, count: int) -> list[tuple[str, bytes]]:
    """Distinct readings, numbered by their time."""
    epoch = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return [
        (
            service.topic(f"dust-{1 + number % 2}"),
            telemetry(epoch + timedelta(milliseconds=number), pm10_ug_m3=number),
        )
        for number in range(start, start + count)
    ]


def require_all(service: Service, count: int) -> None:
    """Every reading is there once, and the balance adds up."""
    (row,) = ask(
        service.database_url,
        "SELECT count(*) AS rows, count(DISTINCT pm10_ug_m3) AS numbers FROM dust_readings",
    )
    assert row == {"rows": count, "numbers": count}
    balance = balance_of(service.database_url)
    assert balance.received == count + balance.duplicate
    assert balance.quarantined == 0
    assert balance.adds_up
    (gaps,) = ask(service.database_url, "SELECT max(number) - count(*) AS n FROM segments")
    assert gaps["n"] == 0


def numbers(service: Service) -> int:
    (row,) = ask(service.database_url, "SELECT count(DISTINCT pm10_ug_m3) AS n FROM dust_readings")
    return int(row["n"])


async def test_the_database_goes_away_while_readings_come(
    service_dir: Path, quick_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    postgres = EmbeddedPostgres(service_dir / "postgres")
    await asyncio.to_thread(postgres.start)
    try:
        await asyncio.to_thread(migrate, postgres.url)
        service = service_on(quick_broker, postgres.url, tmp_path)
        async with service.running(), device_of(quick_broker, "outage-device") as publish:
            publishing = asyncio.create_task(publish_all(publish, readings(service, 0, 600)))
            await until(lambda: numbers(service) > 0, "the first are stored")
            await asyncio.to_thread(postgres.stop)
            await publish_all(publish, readings(service, 600, 300))
            await publishing
            await asyncio.to_thread(postgres.start)
            await publish_all(publish, readings(service, 900, 100))
            await until(lambda: numbers(service) == 1_000, "all are stored")
            await service.until_acknowledged()
        require_all(service, 1_000)
    finally:
        await asyncio.to_thread(postgres.stop)
