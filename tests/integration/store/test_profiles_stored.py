"""Devices that are read by profiles: from the site file to the rows, and back from quarantine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from device_profiles.catalogue import load_profiles
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.errors import Misconfigured
from ingest.pipeline import TimeLimits, gather
from ingest.profiles import Readers
from ingest.quarantine import (
    open_ids_of_external_id,
    pending_devices,
    pending_external_ids,
    unknown_but_registered,
)
from ingest.registry import load_routes
from ingest.retrying import retry
from ingest.store.worker import Worker
from ingest.store.writer import Outcome, TelemetryWriter
from tests.integration.yard import (
    GEOMETRY,
    NOW,
    NOW_US,
    SITE,
    arrivals_of,
    ask,
    balance_of,
    register,
    site_file,
    topic_of,
)

LIMITS = TimeLimits()
LATER = NOW + timedelta(hours=1)
PROFILES = {
    "maker/env.toml": """
        id = "maker-env"
        title = "A monitor"
        kind = "dust"
        format = "json"
        [fits]
        make = "maker"
        models = ["E*"]
        topics = ["maker/{plant}/{device}/env"]
        [time]
        at = "t"
        format = "epoch_ms"
        [values.pm10_ug_m3]
        at = "pm10"
        unit = "mg/m3"
        [values.noise_db]
        at = "noise"
        """,
    "maker/crane.toml": """
        id = "maker-crane"
        title = "A crane"
        kind = "crane"
        format = "json"
        [fits]
        make = "maker"
        [time]
        absent = "received"
        [values.trolley_m]
        at = "radius"
        [values.load_t]
        at = "load"
        [[alarms]]
        at = "bits"
        bits = "right"
        names = { 0 = "overload", 3 = "wind" }
        """,
    "hub/dust.toml": """
        id = "hub-dust"
        title = "Dust behind a hub"
        kind = "dust"
        format = "json"
        [fits]
        make = "hub"
        topics = ["hub/telemetry"]
        [each]
        key_is_device = true
        at = "[*]"
        [time]
        at = "ts"
        format = "epoch_ms"
        [values.pm10_ug_m3]
        at = "pm10"
        """,
    "hub/crane.toml": """
        id = "hub-crane"
        title = "Cranes behind a hub"
        kind = "crane"
        format = "json"
        [fits]
        make = "hub"
        topics = ["hub/telemetry"]
        [each]
        key_is_device = true
        at = "[*]"
        [time]
        at = "ts"
        format = "epoch_ms"
        [values.load_t]
        at = "load"
        """,
}


def readers_in(folder: Path, files: Mapping[str, str], topics_of: tuple[str, ...]) -> Readers:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(line.strip() for line in text.splitlines()), "utf-8")
    return Readers(load_profiles([folder], topics_of))


@pytest.fixture
def readers(tmp_path: Path) -> Readers:
    return readers_in(tmp_path, PROFILES, ("maker-env", "hub-dust"))


@dataclass
class Yard:
    """A database, and one worker that writes into it."""

    url: str
    readers: Readers

    async def take(self, *messages: tuple[str, object]) -> Outcome:
        """Write messages as one flush; texts and bytes as they are, the rest as JSON."""
        sent = [
            (topic, body if isinstance(body, bytes) else json.dumps(body).encode())
            for topic, body in messages
        ]
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            routes = await load_routes(connection, self.readers)
        worker = Worker(self.url, "ingest")
        try:
            return await TelemetryWriter(worker).write(gather(arrivals_of(*sent), routes, LIMITS))
        finally:
            await worker.close()

    def rows(self, kind: str, device: str) -> list[dict[str, Any]]:
        return ask(
            self.url,
            f"SELECT r.* FROM {kind}_readings r JOIN devices d ON d.id = r.device_id"  # noqa: S608
            " WHERE d.device = %(device)s ORDER BY observed_at",
            {"device": device},
        )

    def aside(self) -> list[dict[str, Any]]:
        return ask(self.url, "SELECT * FROM quarantine WHERE resolved_at IS NULL ORDER BY id")


def yard(url: str, readers: Readers, *devices: Device) -> Yard:
    register(url, site_file(devices=devices))
    return Yard(url, readers)


def dust(id_: str, **more: Any) -> Device:
    return Device(site=SITE, id=id_, kind=Kind.DUST, **more)


def crane(id_: str, **more: Any) -> Device:
    return Device(site=SITE, id=id_, kind=Kind.CRANE, geometry=GEOMETRY, **more)


def ms(at: datetime = NOW) -> int:
    return round(at.timestamp() * 1_000)


async def test_a_device_is_read_by_make_by_name_or_natively(
    database_url: str, readers: Readers
) -> None:
    stage = yard(
        database_url,
        readers,
        dust("dust-1", make="maker", model="E7"),
        dust("dust-2", profile="maker-env", units={"pm10_ug_m3": "ug/m3"}),
        dust("dust-3", make="maker", model="X"),
        dust("dust-4", make="maker", model="E7", profile="native-dust"),
        dust("dust-5", profile="gone"),
    )
    said = {"t": ms(), "pm10": 0.08, "noise": 61.5, "more": 1}
    native = {"ts": ms(), "values": {"pm10_ug_m3": 5}}
    await stage.take(
        (topic_of("dust-1"), said),
        (topic_of("dust-2"), said),
        (topic_of("dust-3"), native),
        (topic_of("dust-4"), native),
        (topic_of("dust-5"), said),
    )
    (one,) = stage.rows("dust", "dust-1")
    assert (one["pm10_ug_m3"], one["noise_db"], one["extra"]) == (80.0, 61.5, {"more": 1})
    assert one["observed_at"] == NOW
    assert stage.rows("dust", "dust-2")[0]["pm10_ug_m3"] == 0.08
    assert [stage.rows("dust", f"dust-{n}")[0]["pm10_ug_m3"] for n in (3, 4)] == [5, 5]
    (row,) = stage.aside()
    assert (row["reason"], row["detail"]) == ("type", "yard/dust-5: there is no profile 'gone'")
    balance = balance_of(database_url)
    assert (balance.received, balance.stored, balance.adds_up) == (5, 4, True)


async def test_a_refusal_names_device_profile_value_and_rule(
    database_url: str, readers: Readers
) -> None:
    stage = yard(database_url, readers, dust("dust-1", make="maker", model="E7"))
    await stage.take(
        (topic_of("dust-1"), {"t": ms(), "pm10": "much", "noise": 61}),
        (topic_of("dust-1"), b'{"t": 1, "pm10": }'),
    )
    details = [row["detail"] for row in stage.aside()]
    assert all(detail.startswith("yard/dust-1 by maker-env: ") for detail in details)
    assert any("pm10_ug_m3" in detail and "'much'" in detail for detail in details)
    assert any("(range)" in detail or "number" in detail for detail in details), details
    assert any("(at byte 17)" in detail for detail in details)


async def test_a_crane_has_a_jib_bits_and_the_time_of_receipt(
    database_url: str, readers: Readers
) -> None:
    stage = yard(
        database_url,
        readers,
        crane("crane-1", make="maker"),
        crane("crane-2", make="maker", alarm_bits="left"),
    )
    await stage.take(
        (topic_of("crane-1"), {"radius": 50.9, "load": 1, "bits": "1000"}),
        (topic_of("crane-2"), {"radius": 51.1, "load": 2, "bits": "1000"}),
    )
    (one,) = stage.rows("crane", "crane-1")
    (two,) = stage.rows("crane", "crane-2")
    assert (one["trolley_m"], one["alarms"]) == (50.9, ["wind"])
    assert (two["trolley_m"], two["alarms"], two["load_t"]) == (None, ["overload"], 2)
    assert one["observed_at"] == one["received_at"] == NOW
    assert one["reported_at"] is None
    (row,) = stage.aside()
    assert (row["field"], row["reason"]) == ("trolley_m", "range")


async def test_a_makes_own_topic_finds_its_device(database_url: str, readers: Readers) -> None:
    stage = yard(
        database_url,
        readers,
        dust("dust-1", make="maker", model="E7", external_id="A 7"),
        dust("dust-2", external_id="A8"),
    )
    said = {"t": ms(), "pm10": 0.01}
    await stage.take(
        ("maker/north/A 7/env", said),
        ("maker/north/A8/env", said),
        ("maker/north/A9/env", said),
        ("maker/north/env", said),
    )
    assert stage.rows("dust", "dust-1")[0]["pm10_ug_m3"] == 10
    other, stranger, nowhere = stage.aside()
    assert (other["reason"], "yard/dust-2" in other["detail"]) == ("topic", True)
    assert (stranger["reason"], stranger["field"], stranger["value"]) == (
        "unknown_device", "external_id", "A9",
    )  # fmt: skip
    assert stranger["detail"] == "maker-env: external id 'A9' is not registered"
    assert nowhere["reason"] == "topic"
    assert balance_of(database_url).adds_up


async def test_a_hub_speaks_for_devices_of_two_kinds_and_for_strangers(
    database_url: str, readers: Readers
) -> None:
    stage = yard(
        database_url,
        readers,
        dust("dust-1", make="hub", external_id="D1"),
        crane("crane-1", make="hub", external_id="C1"),
        dust("dust-2", external_id="N1"),
    )
    second = ms() + 1_000
    said = {
        "D1": [{"ts": ms(), "pm10": 1}, {"ts": second, "pm10": 2}],
        "C1": [{"ts": ms(), "load": 3}],
        "S1": [{"ts": ms(), "pm10": 4}, {"ts": second, "pm10": 5}],
        "N1": [{"ts": ms(), "pm10": 6}],
    }
    await stage.take(("hub/telemetry", said), ("hub/telemetry", b"[]"))
    assert [row["pm10_ug_m3"] for row in stage.rows("dust", "dust-1")] == [1, 2]
    assert [row["load_t"] for row in stage.rows("crane", "crane-1")] == [3]
    stranger, native, broken = stage.aside()
    assert (stranger["reason"], stranger["value"], stranger["units"]) == (
        "unknown_device", "S1", 2,
    )  # fmt: skip
    assert (native["reason"], native["units"]) == ("topic", 1)
    assert broken["scope"] == "message"
    balance = balance_of(database_url)
    assert (balance.received, balance.stored, balance.quarantined) == (7, 3, 4)
    assert balance.adds_up
    with psycopg.connect(database_url) as connection:
        (one,) = pending_external_ids(connection)
        assert (one.external_id, one.messages, one.topic) == ("S1", 1, "hub/telemetry")
        assert pending_devices(connection) == []
    # Registered by now: what it said comes back, and nothing of the others is counted twice.
    register(database_url, site_file(devices=[dust("dust-3", make="hub", external_id="S1")]))
    with psycopg.connect(database_url) as connection:
        rows = open_ids_of_external_id(connection, "S1")
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        assert await unknown_but_registered(connection, 10) == rows
    done = await retry(database_url, rows, LIMITS, LATER, readers=readers)
    assert (done.messages, done.stored) == (1, {"dust": 2, "crane": 0})
    assert [row["pm10_ug_m3"] for row in stage.rows("dust", "dust-3")] == [4, 5]
    balance = balance_of(database_url)
    assert (balance.received, balance.stored, balance.quarantined) == (7, 5, 2)
    assert balance.adds_up


async def test_a_registered_hub_speaks_for_its_own_site_alone(
    database_url: str, readers: Readers
) -> None:
    stage = yard(
        database_url,
        readers,
        dust("dust-1", make="hub"),
        dust("dust-2", make="hub", external_id="D2"),
        Device(site="other", id="dust-3", kind=Kind.DUST, make="hub", external_id="D3"),
    )
    said = {name: [{"ts": ms(), "pm10": 1}] for name in ("D2", "D3")}
    await stage.take((topic_of("dust-1"), said))
    assert len(stage.rows("dust", "dust-2")) == 1
    assert stage.rows("dust", "dust-3") == []
    (row,) = stage.aside()
    assert "its site is not that of the gateway" in row["detail"]


async def test_hj212_by_mqtt_counts_its_notes(database_url: str, readers: Readers) -> None:
    yard(
        database_url,
        readers,
        dust("dust-1", profile="hj212", units={"pm10_ug_m3": "mg/m3"}),
        dust("dust-2", profile="hj212"),
        dust("dust-3", profile="hj212", tolerate=["crc_swapped"]),
    )
    at = NOW.astimezone(UTC) + timedelta(hours=8)
    body = (
        f"ST=39;CN=2011;PW=123456;MN=SHORT;Flag=4;CP=&&DataTime={at:%Y%m%d%H%M%S};"
        "a34002-Rtd=0.081,a34002-Flag=N&&"
    )
    frame = hj212_frame(body)
    swapped = frame[:-6] + frame[-4:-2] + frame[-6:-4] + b"\r\n"
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        routes = await load_routes(connection, readers)
    flush = gather(
        arrivals_of(
            (topic_of("dust-1"), frame),
            (topic_of("dust-2"), swapped),
            (topic_of("dust-3"), swapped),
        ),
        routes,
        LIMITS,
    )
    (block,) = flush.blocks
    assert block.values[:, 1].tolist() == [81.0, 0.081]
    (refused,) = flush.quarantined
    assert refused.reason == "crc"
    assert flush.notes["hj212", "short_mn"] == 2
    assert flush.notes["hj212", "crc_swapped"] == 1


def hj212_frame(segment: str) -> bytes:
    from device_profiles.hj212.crc import crc

    body = segment.encode()
    return b"##%04d" % len(body) + body + b"%04X\r\n" % crc(body)


async def test_what_a_mended_profile_reads_comes_back(database_url: str, tmp_path: Path) -> None:
    wrong = PROFILES["maker/env.toml"].replace('at = "noise"', 'at = "noise"\nrange = [0, 50]')
    old = readers_in(tmp_path, {"maker/env.toml": wrong}, ())
    stage = yard(database_url, old, dust("dust-1", make="maker", model="E7"))
    await stage.take((topic_of("dust-1"), {"t": ms(), "pm10": 0.01, "noise": 61}))
    (row,) = stage.aside()
    mended = readers_in(tmp_path, {"maker/env.toml": PROFILES["maker/env.toml"]}, ())
    done = await retry(database_url, [row["id"]], LIMITS, LATER, readers=mended)
    assert (done.back, done.merged) == (1, 1)
    assert stage.rows("dust", "dust-1")[0]["noise_db"] == 61
    assert stage.aside() == []
    assert balance_of(database_url).adds_up


def test_an_external_id_is_of_one_device_at_a_time(database_url: str) -> None:
    register(database_url, site_file(devices=[dust("dust-1", external_id="X")]))
    with pytest.raises(Misconfigured, match="one external id"):
        register(database_url, site_file(devices=[dust("dust-2", external_id="X")]))
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE devices SET retired_at = now() WHERE device = 'dust-1'")
    register(database_url, site_file(devices=[dust("dust-2", external_id="X")]))


async def test_messages_of_a_device_without_a_clock_are_told_apart(
    database_url: str, readers: Readers
) -> None:
    yard(database_url, readers, crane("crane-1", make="maker"), crane("crane-2", make="maker"))
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        routes = await load_routes(connection, readers)
    names = ("crane-1", "crane-1", "crane-2", "crane-1")
    arrivals = arrivals_of(
        *((topic_of(name), json.dumps({"load": load}).encode()) for load, name in enumerate(names))
    )
    arrivals.received_us = [NOW_US] * 3 + [NOW_US + 1_000_000]  # three of one read, and a later one
    (block,) = gather(arrivals, routes, LIMITS).blocks
    assert (block.observed_us - NOW_US).tolist() == [0, 1, 0, 1_000_000]


async def test_events_with_pictures_are_not_for_ingest(database_url: str) -> None:
    stage = yard(
        database_url,
        Readers(load_profiles()),
        Device(site=SITE, id="camera-1", kind=Kind.CAMERA, make="aidrive"),
    )
    await stage.take((topic_of("camera-1", "event"), {"image": "…"}))
    (row,) = stage.aside()
    assert (row["scope"], row["reason"], row["units"]) == ("status", "topic", 0)
    assert "set [frames] events = true" in row["detail"]
    assert balance_of(database_url).adds_up
