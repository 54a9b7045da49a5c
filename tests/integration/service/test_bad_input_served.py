"""Bad input over a real broker: quarantined with a reason, and the next message is served."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import pytest

from ingest.exporting import recorded, topic_matcher
from ingest.frame_store import FrameStore
from ingest.segments import Flag, unpack
from simulators.camera import picture_at
from tests.integration.service.roles import Service, device_of, until
from tests.integration.yard import ask, balance_of, do, telemetry

JPEG = picture_at(0.0).jpeg


class Bad(NamedTuple):
    """What is sent, and what quarantine has to say of it."""

    device: str
    payload: bytes
    scope: str
    reason: str
    says: str
    stored: int = 0


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


TICKS = itertools.count(now_ms())


def reading(values: str, ts: str | None = None) -> bytes:
    return f'{{"ts":{ts or next(TICKS)},"values":{{{values}}}}}'.encode()


LARGE = os.urandom(3 * 2**20)

TELEMETRY = {
    "not JSON": Bad("dust-1", b"PM10=80", "message", "syntax", "not JSON"),
    "binary": Bad("dust-1", bytes(range(256)), "message", "encoding", "not UTF-8"),
    "empty": Bad("dust-1", b"", "message", "syntax", "not JSON"),
    "no object": Bad("dust-1", b"[[]]", "message", "type", "not an object"),
    "wrong type": Bad(
        "dust-1", reading('"pm10_ug_m3":"80","noise_db":50'), "value", "type", "'80'", 1
    ),
    "NaN": Bad(
        "dust-1", reading('"pm10_ug_m3":NaN,"noise_db":50'), "value", "range", "no finite", 1
    ),
    "absurd": Bad(
        "dust-1", reading('"pm10_ug_m3":1e9,"noise_db":50'), "value", "range", "1e+09", 1
    ),
    "absurd time": Bad(
        "dust-1", reading('"pm10_ug_m3":1', ts="4102444700000"), "reading", "time", "after its"
    ),
    "unknown device": Bad(
        "dust-9", reading('"pm10_ug_m3":1'), "message", "unknown_device", "not registered"
    ),
    "too large": Bad("dust-1", LARGE, "message", "too_large", str(len(LARGE))),
}


def quarantine_of(service: Service) -> list[dict[str, Any]]:
    return ask(
        service.database_url,
        "SELECT q.*, d.device FROM quarantine q LEFT JOIN devices d ON d.id = q.device_id"
        " ORDER BY q.id",
    )


async def test_bad_telemetry_is_named_and_the_next_message_served(
    service: Service, mqtt_client_id: Callable[[str], str]
) -> None:
    async with (
        service.running(),
        device_of(service.broker, mqtt_client_id("device")) as publish,
    ):
        for place, (name, bad) in enumerate(TELEMETRY.items()):
            await publish(service.topic(bad.device), bad.payload)
            await publish(service.topic("dust-2"), telemetry(datetime.now(UTC), pm10_ug_m3=1))
            await service.until_stored("dust-2", place + 1)
            kept = quarantine_of(service)
            assert len(kept) == place + 1, name
            row = kept[-1]
            assert (row["scope"], row["reason"]) == (bad.scope, bad.reason), name
            assert f"yard/{bad.device}" in row["detail"], name
            assert bad.says in row["detail"], row["detail"]
            assert row["device"] == (bad.device if bad.device == "dust-1" else None)
            assert row["topic"] == service.topic(bad.device)
            assert row["payload_bytes"] == len(bad.payload)
            assert row["payload_sha256"] == hashlib.sha256(bad.payload).digest()
        await service.until_acknowledged()
    assert service.stored("dust-1") == sum(bad.stored for bad in TELEMETRY.values())
    balance = balance_of(service.database_url)
    assert balance.received == 2 * len(TELEMETRY)
    assert balance.adds_up
    assert balance.redelivered == 0


async def test_what_the_database_will_not_take_is_found_and_put_aside(
    service: Service, mqtt_client_id: Callable[[str], str]
) -> None:
    """Whatever the reason: one message must not keep all others from being stored."""
    do(
        service.database_url,
        "ALTER TABLE dust_readings ADD CONSTRAINT unlucky CHECK (pm10_ug_m3 <> 13)",
    )
    async with (
        service.running(),
        device_of(service.broker, mqtt_client_id("device")) as publish,
    ):
        for pm10 in (11, 12, 13, 14, 15):
            await publish(service.topic("dust-1"), reading(f'"pm10_ug_m3":{pm10}'))
        await service.until_stored("dust-1", 4)
        await service.until_acknowledged()
    (row,) = quarantine_of(service)
    assert (row["scope"], row["reason"]) == ("message", "type")
    assert "yard/dust-1" in row["detail"]
    assert "unlucky" in row["detail"]
    balance = balance_of(service.database_url)
    assert (balance.received, balance.stored, balance.quarantined) == (5, 4, 1)


async def test_what_was_received_is_exported_as_it_came(
    service: Service, mqtt_client_id: Callable[[str], str]
) -> None:
    sent = [
        (service.topic("dust-1"), reading('"pm10_ug_m3":1')),
        (service.topic("dust-1"), b"\xff\x00 garbage"),
        (service.topic("crane-1"), reading('"slew_deg":1')),
    ]
    picture = (service.topic("camera-1", f"frame/{now_ms()}"), JPEG)
    async with device_of(service.broker, mqtt_client_id("device")) as publish:
        async with service.running():
            for topic, payload in sent:
                await publish(topic, payload)
            await service.until_received(len(sent))
        async with service.running("frames"):
            await publish(*picture)
            await service.until_stored("camera-1", 1)
    day = timedelta(days=1)
    now = datetime.now(UTC)
    store = FrameStore(service.settings.frame_dir)

    def exported(*filters: str) -> list[tuple[str, bytes]]:
        with psycopg.connect(service.database_url) as connection:
            wanted = topic_matcher(filters)
            found = recorded(connection, store, now - day, now + day, wanted)
            return [(message.topic, message.payload) for message in found]

    assert exported() == [*sent, picture]
    assert exported(service.topic("dust-1")) == sent[:2]
    assert exported(service.prefix + "/site/+/crane/#") == sent[2:]
    assert exported(service.prefix + "/#") == [*sent, picture]
    assert exported("elsewhere/#") == []


async def test_of_a_message_too_large_the_start_is_kept(
    service: Service, mqtt_client_id: Callable[[str], str]
) -> None:
    async with (
        service.running(),
        device_of(service.broker, mqtt_client_id("device")) as publish,
    ):
        await publish(service.topic("dust-1"), LARGE)
        await service.until_received(1)
        await service.until_acknowledged()
    # Acknowledged: it does not come again to the next one of this name.
    async with (
        service.running(),
        device_of(service.broker, mqtt_client_id("device")) as publish,
    ):
        await publish(service.topic("dust-2"), telemetry(datetime.now(UTC), pm10_ug_m3=1))
        await service.until_stored("dust-2", 1)
    assert balance_of(service.database_url).received == 2
    (first, _) = ask(service.database_url, "SELECT body FROM segments ORDER BY number")
    segment = unpack(first["body"])
    assert segment.payloads == [LARGE[: 64 * 1024]]
    assert segment.flags[0] & Flag.TRUNCATED


async def test_status_and_events_are_kept_and_bad_ones_put_aside(
    service: Service, mqtt_client_id: Callable[[str], str]
) -> None:
    async with (
        service.running(),
        device_of(service.broker, mqtt_client_id("device")) as publish,
    ):
        await publish(service.topic("dust-1", "status"), b'{"online": true, "detail": "up"}')
        await publish(service.topic("dust-1", "status"), b'{"online": "yes"}')
        await publish(service.topic("dust-1", "event"), b'{"door": "open"}')
        await publish(service.topic("dust-1", "event"), b"door")
        await publish(service.topic("dust-1", "nothing"), b"{}")
        await publish(service.topic("dust-2"), telemetry(datetime.now(UTC), pm10_ug_m3=1))
        await service.until_stored("dust-2", 1)
        await service.until_acknowledged()
    assert ask(service.database_url, "SELECT online, detail FROM device_status") == [
        {"online": True, "detail": "up"}
    ]
    assert ask(service.database_url, "SELECT body FROM device_events") == [
        {"body": {"door": "open"}}
    ]
    assert [row["scope"] for row in quarantine_of(service)] == ["status", "status", "message"]
    balance = balance_of(service.database_url)
    assert (balance.received, balance.stored, balance.quarantined) == (2, 1, 1)


def claiming(width: int, height: int) -> bytes:
    """A JPEG's beginning that claims a size."""
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(200)


FRAMES = {
    "not a JPEG": Bad("camera-1", b"\x89PNG\r\n" + bytes(100), "frame", "syntax", "89504e47"),
    "empty": Bad("camera-1", b"", "frame", "syntax", "nothing"),
    "60,000 a side": Bad(
        "camera-1", claiming(60_000, 60_000), "frame", "too_large", "60000 × 60000"
    ),
    "cut off": Bad("camera-1", JPEG[:10], "frame", "incomplete", "ends before"),
    "unknown camera": Bad("camera-9", JPEG, "frame", "unknown_device", "not registered"),
    "too large": Bad("camera-1", LARGE, "frame", "too_large", str(len(LARGE))),
}


async def test_bad_frames_are_named_and_the_next_one_served(
    service: Service, mqtt_client_id: Callable[[str], str]
) -> None:
    async with (
        service.running("frames"),
        device_of(service.broker, mqtt_client_id("camera")) as publish,
    ):
        base = now_ms()
        for place, (name, bad) in enumerate(FRAMES.items()):
            await publish(service.topic(bad.device, f"frame/{base + 2 * place}"), bad.payload)
            await publish(service.topic("camera-1", f"frame/{base + 2 * place + 1}"), JPEG)
            await service.until_stored("camera-1", place + 1)
            kept = quarantine_of(service)
            assert len(kept) == place + 1, name
            row = kept[-1]
            assert (row["scope"], row["reason"]) == (bad.scope, bad.reason), row["detail"]
            assert f"yard/{bad.device}" in row["detail"], name
            assert bad.says in row["detail"], row["detail"]
            assert row["payload_bytes"] == len(bad.payload)
            assert row["payload_sha256"] == hashlib.sha256(bad.payload).digest()
        await service.until_acknowledged()
    store = FrameStore(service.settings.frame_dir)
    hashes = ask(service.database_url, "SELECT DISTINCT sha256 FROM frames")
    assert [store.get(row["sha256"]) for row in hashes] == [JPEG]
    # What was no picture is kept all the same, where it was not too large.
    assert store.get(hashlib.sha256(FRAMES["not a JPEG"].payload).digest())
    assert len(ask(service.database_url, "SELECT FROM frame_queue")) == len(FRAMES)


@pytest.mark.parametrize("role", ["ingest", "frames"])
async def test_a_new_device_is_heard_without_a_restart(
    service: Service,
    mqtt_client_id: Callable[[str], str],
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smartsite.roles.ingest.ROUTES_FRESH_S", 0.0)
    device, channel, good = (
        ("dust-7", "telemetry", telemetry(datetime.now(UTC), pm10_ug_m3=1))
        if role == "ingest"
        else ("camera-7", f"frame/{now_ms()}", JPEG)
    )
    async with (
        service.running(role),
        device_of(service.broker, mqtt_client_id("device")) as publish,
    ):
        await publish(service.topic(device, channel), good)
        await until(lambda: len(quarantine_of(service)) == 1, "it is put aside")
        ask(
            service.database_url,
            "INSERT INTO devices (site_id, device, kind, expected_every_s)"
            " VALUES ('yard', %(device)s, %(kind)s, 1) RETURNING id",
            {"device": device, "kind": device.partition("-")[0]},
        )
        await publish(service.topic(device, channel), good)
        await service.until_stored(device, 1)
