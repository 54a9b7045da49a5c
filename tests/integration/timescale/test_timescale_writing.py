"""The writer and the readers do on hypertables what they do on plain tables."""

from datetime import datetime, timedelta
from typing import LiteralString, NamedTuple

import psycopg

from device_profiles.readings import Reading
from ingest.store.readings import (
    last_observed,
    load_devices,
    readings_of_devices,
    readings_of_segments,
)
from ingest.store.worker import Worker
from ingest.store.writer import Outcome, TelemetryWriter
from tests.integration.yard import (
    NOW,
    ask,
    balance_of,
    flush_of,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

DUST = topic_of("dust-1")
CRANE = topic_of("crane-1")

WRITTEN: list[LiteralString] = [
    "SELECT * FROM dust_readings ORDER BY device_id, series, observed_at",
    "SELECT * FROM crane_readings ORDER BY device_id, series, observed_at",
    "SELECT * FROM reading_parts ORDER BY segment, segment_index, observed_at",
    "SELECT reason, field, value, segment, segment_index FROM quarantine ORDER BY id",
    "SELECT * FROM ingest_exceptions ORDER BY hour, device_id, what",
    "SELECT * FROM device_status",
    "SELECT * FROM device_events",
    "SELECT number, messages, readings, sha256 FROM segments ORDER BY number",
]


def days_ago(days: int) -> datetime:
    return NOW - timedelta(days=days)


FRESH = [
    *((DUST, telemetry(days_ago(days), pm10_ug_m3=days, voc_ppb=1)) for days in range(3)),
    *((CRANE, telemetry(days_ago(days), load_t=days, alarms=["tilt"])) for days in range(3)),
    (topic_of("dust-1", "status"), b'{"online": true}'),
    (topic_of("crane-1", "event"), b'{"what": "started"}'),
    (DUST, b"garbage"),
]
# Into three chunks that hold the row, and one that is not there yet.
AGAIN = [
    *((DUST, telemetry(days_ago(days), pm10_ug_m3=days, voc_ppb=1)) for days in range(2)),
    (DUST, telemetry(days_ago(2), pm10_ug_m3=99)),  # a conflict
    (DUST, telemetry(days_ago(1), noise_db=61)),  # a further part
    (DUST, telemetry(days_ago(4), noise_db=62)),  # new, and its own further part
    (DUST, telemetry(days_ago(4), pm10_ug_m3=5, voc_ppb=2)),
    (CRANE, telemetry(days_ago(0), wind_speed_m_s=3)),
    (CRANE, telemetry(days_ago(2), load_t=2, alarms=["tilt"])),
]
FURTHER = [(DUST, telemetry(NOW + timedelta(seconds=1), pm10_ug_m3=1))]


class History(NamedTuple):
    """What became of the same three flushes on one database."""

    outcomes: list[Outcome]
    of_segments: list[list[Reading]]
    of_devices: list[list[Reading]]
    last: list[datetime | None]


async def history_on(url: str) -> History:
    """Write, then read; one connection at a time."""
    register(url, site_file())
    routes = await routes_of(url)
    worker = Worker(url, "ingest")
    writer = TelemetryWriter(worker)
    try:
        outcomes = [
            await writer.write(flush_of(routes, *flush)) for flush in (FRESH, AGAIN, FURTHER)
        ]
    finally:
        await worker.close()
    async with await psycopg.AsyncConnection.connect(url) as connection:
        devices = await load_devices(connection)
        by_id = {device.id: device for device in devices}
        kinds = [[device] for device in devices]
        return History(
            outcomes,
            [await readings_of_segments(connection, by_id, 1, n, n) for n in (1, 2, 3)],
            [
                [one async for one in readings_of_devices(connection, kind, days_ago(2), NOW)]
                for kind in kinds
            ],
            [await last_observed(connection, kind) for kind in kinds],
        )


async def test_the_same_messages_make_the_same_rows(timescale_url: str, database_url: str) -> None:
    here, plain = await history_on(timescale_url), await history_on(database_url)
    assert here == plain
    first, second, _ = here.outcomes
    assert first.stored.total() == 6
    assert second.duplicates
    assert second.merged
    assert second.conflicts
    assert all(here.of_segments)
    for question in WRITTEN:
        rows = ask(timescale_url, question)
        assert rows
        assert rows == ask(database_url, question)
    balance = balance_of(timescale_url)
    assert balance.adds_up
    assert balance == balance_of(database_url)
    chunks = ask(
        timescale_url,
        "SELECT hypertable_name AS name, count(*) FROM timescaledb_information.chunks"
        " GROUP BY 1 ORDER BY 1",
    )
    assert chunks == [
        {"name": "crane_readings", "count": 3},
        {"name": "dust_readings", "count": 4},
    ]
