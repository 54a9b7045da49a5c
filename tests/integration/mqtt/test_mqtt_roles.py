"""Whole service processes on real brokers: groups that share, and frames that delay nobody."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options
from ingest.mqtt.publisher import Publisher
from simulators.camera import picture_at
from smartsite.embedded.broker import EmbeddedBroker
from tests.integration.mqtt.real_brokers import Mosquitto
from tests.integration.mqtt.role_process import RoleProcess
from tests.integration.mqtt.scripted_broker import V3, V5, eventually
from tests.integration.yard import ask, register, site_file, telemetry, topic_of

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
PATIENCE_S = 60.0


@contextmanager
def started(*roles: RoleProcess) -> Iterator[None]:
    """All of them, killed at the end if they still live; what they said is shown on a failure."""
    try:
        for role in roles:
            role.start()
        yield
    finally:
        for role in roles:
            role.kill()
            print(f"--- {role.worker}\n{role.log}")  # noqa: T201 - shown when it fails


def readings(first: int, end: int) -> dict[bytes, list[bytes]]:
    """Distinct readings of two monitors, numbered by their time."""
    return {
        topic_of(f"dust-{device}").encode(): [
            telemetry(MIDNIGHT + timedelta(milliseconds=number), pm10_ug_m3=number)
            for number in range(first, end)
            if number % 2 + 1 == device
        ]
        for device in (1, 2)
    }


async def publish(url: str, messages: dict[bytes, list[bytes]], version: Version = V3) -> None:
    options = Options(url=url, client_id="publisher", clean=True, version=version)
    pairs = [(topic, payload) for topic, payloads in messages.items() for payload in payloads]
    async with Publisher(options) as publisher:
        await publisher.publish([topic for topic, _ in pairs], [payload for _, payload in pairs])


def stored(database_url: str, table: str = "dust_readings") -> int:
    with psycopg.connect(database_url) as connection:
        question = f"SELECT count(*) FROM {table}"  # noqa: S608 - a name of ours
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return int(row[0])


def share_of(database_url: str, worker: str) -> int:
    """How many readings a worker's segments held."""
    (row,) = ask(
        database_url,
        "SELECT coalesce(sum(s.readings), 0)::int AS n FROM segments s"
        " JOIN workers w ON w.id = s.worker_id WHERE w.name = %(worker)s",
        {"worker": worker},
    )
    return int(row["n"])


@pytest.mark.parametrize("version", [V3, V5])
async def test_two_services_of_a_group_share_the_load_and_one_dies(
    start_mosquitto: Callable[..., Mosquitto], database_url: str, tmp_path: Path, version: Version
) -> None:
    """Nothing is lost and nothing doubled, whatever the dead one had in hand."""
    broker = start_mosquitto()
    register(database_url, site_file())
    terms = {"url": broker.url, "version": str(version), "share_group": "city"}
    left, right = (
        RoleProcess("ingest", tmp_path / name, database_url, **terms) for name in ("left", "right")
    )
    with started(left, right):
        await eventually(lambda: left.hears() and right.hears(), PATIENCE_S)
        publishing = asyncio.create_task(publish(broker.url, readings(0, 2_000), version))
        await eventually(lambda: stored(database_url) >= 300, PATIENCE_S)
        right.kill()
        await publishing
        # The living one goes on alone with its share; on Mosquitto the dead one's waits for it.
        before = stored(database_url)
        await publish(broker.url, readings(2_000, 3_000), version)
        await eventually(lambda: stored(database_url) > before, PATIENCE_S)
        right.start()
        await eventually(lambda: stored(database_url) >= 3_000, PATIENCE_S)
        assert left.stop() == 0
        assert right.stop() == 0
    (row,) = ask(
        database_url,
        "SELECT count(*) AS rows, count(DISTINCT pm10_ug_m3) AS numbers FROM dust_readings",
    )
    assert row == {"rows": 3_000, "numbers": 3_000}
    assert ask(database_url, "SELECT FROM quarantine") == []
    for worker in (left.worker, right.worker):
        assert share_of(database_url, worker) > 300


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"share_group": "city", "keep_reading": True}, "grants shared subscriptions and deliv"),
        ({"share_group": "city", "version": "5"}, "does not speak this version of MQTT"),
        ({"username": "nobody", "password": "env:ROLE_DATABASE_PASSWORD"}, "not authorised"),
    ],
)
async def test_on_nats_server_what_cannot_be_refuses_to_start(
    service_dir: Path,
    database_url: str,
    tmp_path: Path,
    terms: dict[str, object],
    words: str,
) -> None:
    """Groups, which it grants and does not serve, in either version; a user it does not know."""
    users = {"me": "right"} if "username" in terms else None
    with EmbeddedBroker(service_dir, users=users) as broker:
        role = RoleProcess("ingest", tmp_path / "role", database_url, url=broker.url, **terms)
        with started(role):
            assert await asyncio.to_thread(role.wait) == 78
            assert words in role.log


# Frames take their own role and connection.


PICTURES = 200
PICTURE_BYTES = 500_000
READINGS = 30
EVERY_S = 0.1


def pictures(first: int, end: int) -> dict[bytes, list[bytes]]:
    """Large pictures, no two equal: what follows the end of a JPEG is nobody's business."""
    jpeg = picture_at(0.0).jpeg
    start_ms = int(MIDNIGHT.timestamp() * 1_000)
    return {
        topic_of("camera-1", f"frame/{start_ms + number}").encode(): [
            jpeg + number.to_bytes(4, "big") + bytes(PICTURE_BYTES)
        ]
        for number in range(first, end)
    }


async def test_a_flood_of_pictures_never_delays_a_crane(
    service_dir: Path,
    database_url: str,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Every crane reading is committed while pictures still wait, some of them for ever so long.

    First no picture can be committed at all, for the test holds their table; then they stream.
    What is asserted is order and number; how long it took is reported.
    """
    register(database_url, site_file())
    with EmbeddedBroker(service_dir, max_ack_pending=16_000) as broker:
        terms = {"url": broker.url, "keep_reading": True}
        ingest = RoleProcess("ingest", tmp_path / "left", database_url, **terms)
        frames = RoleProcess("frames", tmp_path / "right", database_url, **terms)
        with started(ingest, frames), psycopg.connect(database_url, autocommit=True) as watching:

            def count(table: str) -> int:
                row = watching.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()  # noqa: S608
                assert row is not None
                return int(row[0])

            await eventually(lambda: ingest.hears() and frames.hears(), PATIENCE_S)
            options = Options(url=broker.url, client_id="crane", clean=True)
            async with Publisher(options) as crane:
                numbers = itertools.count()
                delays: list[float] = []

                async def reading() -> None:
                    number = next(numbers)
                    began = time.monotonic()
                    at = MIDNIGHT + timedelta(milliseconds=100 * number)
                    payload = telemetry(at, slew_deg=number % 360)
                    await crane.publish([topic_of("crane-1").encode()], [payload])
                    await eventually(lambda: count("crane_readings") > number, PATIENCE_S)
                    delays.append(time.monotonic() - began)
                    await asyncio.sleep(max(0.0, EVERY_S - delays[-1]))  # ten a second

                with psycopg.connect(database_url) as holding:
                    holding.execute("LOCK TABLE frames IN EXCLUSIVE MODE")
                    flood = asyncio.create_task(publish(broker.url, pictures(0, PICTURES)))
                    for _ in range(READINGS):
                        await reading()
                    # All of them were committed before the first picture.
                    assert count("crane_readings") == READINGS
                    assert count("frames") == 0
                    await flood
                    held, delays[:] = delays[:], []
                    assert stored(database_url, "frames") == 0

                # The two hundred are let go, and as many stream behind them.
                flood = asyncio.create_task(publish(broker.url, pictures(PICTURES, 2 * PICTURES)))
                overtook = 0
                while count("frames") < 2 * PICTURES:
                    await reading()
                    overtook += count("frames") < 2 * PICTURES
                await flood
            assert overtook >= 3
            assert count("frames") == 2 * PICTURES
            assert frames.stop() == 0
            assert ingest.stop() == 0
    for name, those in (("held", held), ("streaming", delays)):
        worst = max(those)
        median = statistics.median(those)
        record_property(f"{name}_ms", (round(median * 1e3), round(worst * 1e3)))
        print(f"{name}: {len(those)} readings, median {median:.3f} s, worst {worst:.3f} s")  # noqa: T201
    assert ask(database_url, "SELECT FROM quarantine") == []
