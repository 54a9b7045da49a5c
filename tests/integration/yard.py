"""A small registered site, messages of its devices, and short questions to its database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.rows import dict_row

from device_profiles.native import microseconds
from device_profiles.sites import CraneGeometry, Device, Organisation, Site, SiteFile
from device_profiles.vocabulary import Kind
from ingest.pipeline import Arrivals, Flush, TimeLimits, gather
from ingest.registry import Routes, import_site_file, load_routes
from smartsite.balance import Balance, read_balance

SITE = "yard"
NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
NOW_US = microseconds(NOW)

GEOMETRY = CraneGeometry(x_m=0, y_m=0, jib_height_m=40, jib_m=50, counter_jib_m=12)


def site_file(district: str = "", devices: Sequence[Device] | None = None) -> SiteFile:
    """Two monitors, a crane and a camera, unless others are named."""
    if devices is None:
        devices = (
            Device(site=SITE, id="dust-1", kind=Kind.DUST, expected_every_s=1),
            Device(site=SITE, id="dust-2", kind=Kind.DUST, expected_every_s=1),
            Device(site=SITE, id="crane-1", kind=Kind.CRANE, expected_every_s=1, geometry=GEOMETRY),
            Device(site=SITE, id="camera-1", kind=Kind.CAMERA, expected_every_s=1),
        )
    return SiteFile(
        organisation=(
            Organisation(id="builder", name="建工"),
            Organisation(id="bureau", name="住建局"),
        ),
        site=tuple(
            Site(id=id_, name=id_, district=district, contractor="builder", regulator="bureau")
            for id_ in sorted({device.site for device in devices})
        ),
        device=tuple(devices),
    )


def register(database_url: str, file: SiteFile) -> None:
    with psycopg.connect(database_url) as connection:
        import_site_file(connection, file)


async def routes_of(database_url: str) -> Routes:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        return await load_routes(connection)


def topic_of(device: str, channel: str = "telemetry", site: str = SITE) -> str:
    return f"site/{site}/{device.rpartition('-')[0]}/{device}/{channel}"


def telemetry(at: datetime, **values: object) -> bytes:
    """A native telemetry payload."""
    return msgspec.json.encode({"ts": at, "values": values})


def arrivals_of(*messages: tuple[str | bytes, bytes], received_us: int = NOW_US) -> Arrivals:
    """Messages as a socket brings them, a microsecond apart."""
    return Arrivals(
        topics=[topic.encode() if isinstance(topic, str) else topic for topic, _ in messages],
        payloads=[payload for _, payload in messages],
        flags=[1] * len(messages),
        received_us=[received_us + place for place in range(len(messages))],
    )


def flush_of(
    routes: Routes, *messages: tuple[str | bytes, bytes], received_us: int = NOW_US
) -> Flush:
    return gather(arrivals_of(*messages, received_us=received_us), routes, TimeLimits())


def ask(
    database_url: str, question: LiteralString, values: Mapping[str, object] | None = None
) -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute(question, values).fetchall()


def do(
    database_url: str, statement: LiteralString, values: Mapping[str, object] | None = None
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(statement, values)


def balance_of(database_url: str) -> Balance:
    with psycopg.connect(database_url) as connection:
        return read_balance(connection)
