"""Devices that fall silent and clocks that are off, from rows to violations."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
import pytest

from detectors.detector import Said as Judged
from detectors.rules import Rules
from detectors.silence import SilenceDetector
from device_profiles.findings import Finding
from device_profiles.native import microseconds
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import TimeLimits
from ingest.registry import Routes
from ingest.store.readings import load_devices
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from simulators.camera import picture_at
from smartsite.judge import Judge
from smartsite.words import words_since
from tests.integration.yard import (
    GEOMETRY,
    NOW,
    SITE,
    arrivals_of,
    ask,
    do,
    flush_of,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)

DEVICES = (
    Device(site=SITE, id="dust-1", kind=Kind.DUST, expected_every_s=1),
    Device(site=SITE, id="crane-1", kind=Kind.CRANE, expected_every_s=1, geometry=GEOMETRY),
    Device(site=SITE, id="camera-1", kind=Kind.CAMERA, expected_every_s=1),
)
QUANTITY = {"dust-1": "pm10_ug_m3", "crane-1": "load_t"}
PICTURE = picture_at(0.0).jpeg


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


class Said(NamedTuple):
    """What a device says: None is a picture or reading, else its status."""

    device: str
    seconds: float
    online: bool | None = None


class Yard:
    """A database, its writers, and a judge that can be restarted."""

    def __init__(self, url: str, routes: Routes, folder: Path) -> None:
        self.url = url
        self._routes = routes
        self._workers = [Worker(url, "ingest"), Worker(url, "frames")]
        self._telemetry = TelemetryWriter(self._workers[0])
        self._frames = FrameWriter(self._workers[1], FrameStore(folder), TimeLimits())
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._judge: Judge | None = None

    async def close(self) -> None:
        await self.restart()
        for worker in self._workers:
            await worker.close()

    async def say(self, *said: Said, received: float | None = None) -> None:
        """Store what was said; received when it was said, or all of it later."""
        for one in said:
            us = microseconds(at(one.seconds if received is None else received))
            if one.online is not None:
                payload = msgspec.json.encode({"online": one.online})
                message = topic_of(one.device, "status"), payload
            elif one.device == "camera-1":
                ms = microseconds(at(one.seconds)) // 1_000
                frame = topic_of(one.device, f"frame/{ms}"), PICTURE
                await self._frames.write(arrivals_of(frame, received_us=us), self._routes)
                continue
            else:
                reading = telemetry(at(one.seconds), **{QUANTITY[one.device]: 5.0})
                message = topic_of(one.device), reading
            await self._telemetry.write(flush_of(self._routes, message, received_us=us))

    async def restart(self) -> None:
        """End the judge as kill -9 would."""
        if self._connection is not None:
            await self._connection.close()
        self._connection = self._judge = None

    async def judge(self, seconds: float) -> None:
        """Judge what is new, and let time pass up to an instant."""
        if self._judge is None:
            self._connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True)
            self._judge = Judge(self._connection, Rules())
            await self._judge.start(at(seconds - 600))
        await self._judge.step(at(seconds))
        await self._judge.tick(at(seconds), timedelta())

    async def registry_changed(self, seconds: float) -> None:
        assert self._judge is not None
        await self._judge.start(at(seconds))

    def found(self, rule: str = "device.silence") -> list[tuple[str, float, float | None]]:
        """Who was silent from when to when, or whose clock was off."""
        rows = ask(
            self.url,
            "SELECT subject, opened_at, closed_at FROM violations"
            " WHERE rule = %(rule)s AND state <> 'withdrawn' ORDER BY opened_at, subject",
            {"rule": rule},
        )
        return [
            (
                row["subject"],
                (row["opened_at"] - NOW).total_seconds(),
                None if row["closed_at"] is None else (row["closed_at"] - NOW).total_seconds(),
            )
            for row in rows
        ]


@pytest.fixture
async def yard(database_url: str, tmp_path: Path) -> AsyncIterator[Yard]:
    register(database_url, site_file(devices=DEVICES))
    do(database_url, "UPDATE devices SET registered_at = %(at)s", {"at": NOW})
    found = Yard(database_url, await routes_of(database_url), tmp_path)
    yield found
    await found.close()


def every(device: str, start: float, end: float, step: float = 10.0) -> list[Said]:
    return [Said(device, start + n * step) for n in range(round((end - start) / step))]


async def live(yard: Yard, *said: Said) -> None:
    """Judge what is said as it is said."""
    for one in said:
        await yard.say(one)
        await yard.judge(one.seconds)


async def all_say(yard: Yard, start: float, end: float) -> None:
    for device in DEVICES:
        await yard.say(*every(device.id, start, end))


async def test_who_falls_silent_is_found_and_who_comes_back(yard: Yard) -> None:
    await all_say(yard, 1, 101)
    await yard.judge(101)
    assert yard.found() == []
    await yard.say(*every("dust-1", 101, 301))
    await yard.judge(301)
    assert yard.found() == [("camera-1", 91, None), ("crane-1", 91, None)]
    await all_say(yard, 301, 351)
    await yard.judge(352)
    assert yard.found() == [("camera-1", 91, 301), ("crane-1", 91, 301)]
    rows = ask(
        yard.url,
        "SELECT kind, severity, evidence, message_zh FROM violations ORDER BY subject",
    )
    assert {(row["kind"], row["severity"]) for row in rows} == {("device_health", "info")}
    assert "摄像头 camera-1 自 2026-11-21 16:01 起离线" in rows[0]["message_zh"]
    for row in rows:
        assert [entry["role"] for entry in row["evidence"]] == ["last", "next"]
        assert all(len(entry["payload_sha256"]) == 64 for entry in row["evidence"])
    assert ask(yard.url, "SELECT FROM coverage WHERE rule LIKE 'device.%%'") == []


async def test_a_device_never_heard_is_silent_since_it_was_registered(yard: Yard) -> None:
    await yard.judge(59)
    assert yard.found() == []
    await yard.judge(61)
    assert yard.found() == [(one, 0, None) for one in ("camera-1", "crane-1", "dust-1")]
    await yard.restart()
    await yard.say(Said("dust-1", 100))
    await yard.judge(101)
    assert ("dust-1", 0, 100) in yard.found()
    assert len(yard.found()) == 3


async def test_a_last_will_is_believed_and_what_is_repeated_is_not(yard: Yard) -> None:
    await live(yard, Said("dust-1", 1, online=True), *every("dust-1", 2, 32))
    await live(yard, Said("dust-1", 30, online=False))
    assert yard.found() == []
    await yard.judge(36)
    assert yard.found() == [("dust-1", 22, None)]
    await yard.restart()
    await yard.say(Said("dust-1", 37, online=False))  # retained
    await yard.judge(40)
    await yard.say(Said("dust-1", 41, online=True), Said("dust-1", 42))
    await yard.judge(43)
    await yard.say(Said("dust-1", 44, online=True))  # retained
    await yard.judge(45)
    assert yard.found() == [("dust-1", 22, 41)]
    events = ask(yard.url, "SELECT event FROM violation_events ORDER BY id")
    assert [row["event"] for row in events] == ["opened", "closed"]


async def test_late_data_withdraw_a_silence_and_say_why(yard: Yard) -> None:
    await yard.say(*every("dust-1", 1, 41), *every("dust-1", 201, 211))
    await yard.judge(212)
    assert ("dust-1", 31, 201) in yard.found()
    await yard.say(*every("dust-1", 41, 201), received=213)
    await yard.judge(214)
    assert not [one for one in yard.found() if one[0] == "dust-1"]
    rows = ask(
        yard.url, "SELECT detail ->> 'reason' AS why FROM violation_events WHERE event='withdrawn'"
    )
    assert "late data" in rows[0]["why"]


async def test_late_data_move_an_open_silence(yard: Yard) -> None:
    await live(yard, *every("dust-1", 1, 41))
    await yard.judge(120)
    assert ("dust-1", 31, None) in yard.found()
    await yard.say(*every("dust-1", 41, 101), received=125)
    await yard.judge(126)
    assert not [one for one in yard.found() if one[0] == "dust-1"]
    await yard.judge(2_000)
    assert ("dust-1", 91, None) in yard.found()


async def test_who_is_retired_is_let_go(yard: Yard) -> None:
    await yard.judge(61)
    do(
        yard.url,
        "UPDATE devices SET retired_at = %(at)s WHERE device = 'crane-1'",
        {"at": at(100)},
    )
    await yard.registry_changed(101)
    await yard.judge(500)
    assert [one for one in yard.found() if one[0] == "crane-1"] == [("crane-1", 0, 100)]
    (row,) = ask(yard.url, "SELECT message_en FROM violations WHERE subject = 'crane-1'")
    assert row["message_en"].endswith("then the device was retired")


async def test_a_registry_that_changes_makes_nobody_start_anew(yard: Yard) -> None:
    await all_say(yard, 1, 31)
    await yard.judge(31)
    newcomer = Device(site=SITE, id="dust-2", kind=Kind.DUST, expected_every_s=1)
    register(yard.url, site_file(devices=[newcomer]))
    do(
        yard.url,
        "UPDATE devices SET registered_at = %(at)s WHERE device = 'dust-2'",
        {"at": at(32)},
    )
    await yard.registry_changed(33)
    await all_say(yard, 31, 111)
    await yard.judge(111)
    assert yard.found() == [("dust-2", 32, None)]


async def offset_by(yard: Yard, device: str, start: float, end: float, seconds: float) -> None:
    """As ingest would have stored it: repaired, the reported time beside it."""
    await yard.say(*every(device, start, end))
    do(
        yard.url,
        "UPDATE dust_readings SET reported_at = observed_at - %(by)s"
        " WHERE observed_at >= %(start)s AND observed_at < %(end)s",
        {"by": timedelta(seconds=seconds), "start": at(start), "end": at(end)},
    )


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_clock_that_is_off_is_told_until_it_is_right(yard: Yard, restarts: bool) -> None:
    day = 86_400.0
    parts = ((1, 31, 0.0), (31, 61, 28_800.0), (61, 91, 28_830.0), (91, 121, -day), (121, 131, 0.0))
    for start, end, by in parts:
        await offset_by(yard, "dust-1", start, end, by)
        await yard.judge(end)
        if restarts:
            await yard.restart()
    assert yard.found("device.clock") == [("dust-1", 31, 91), ("dust-1", 91, 121)]
    rows = ask(
        yard.url,
        "SELECT measured, message_en FROM violations WHERE rule = 'device.clock'"
        " ORDER BY opened_at",
    )
    assert [row["measured"]["clock_offset_s"] for row in rows] == [28_830, -day]
    assert "8 h 30 s slow" in rows[0]["message_en"]
    assert "24 h fast" in rows[1]["message_en"]


async def test_late_readings_with_another_offset_amend_what_was_told(yard: Yard) -> None:
    await offset_by(yard, "dust-1", 1, 31, 0.0)
    await offset_by(yard, "dust-1", 61, 91, 600.0)
    await yard.judge(92)
    assert yard.found("device.clock") == [("dust-1", 61, None)]
    await offset_by(yard, "dust-1", 41, 61, 600.0)
    await yard.judge(93)
    assert yard.found("device.clock") == [("dust-1", 41, None)]


async def ought(yard: Yard, end: float) -> list[tuple[str, float, float | None]]:
    """The pure function over all that is stored."""
    found: list[tuple[str, float, float | None]] = []
    async with await psycopg.AsyncConnection.connect(yard.url) as connection:
        for device in await load_devices(connection):
            watch = SilenceDetector(
                SITE,
                device.device,
                Rules().silence,
                device.expected_every_s,
                kind=device.kind,
                timezone=device.timezone,
                registered_at=device.registered_at,
            )
            said: list[Judged] = []
            async for word in words_since(connection, device, NOW - timedelta(days=1)):
                said += watch.observe(word)
            said += watch.advance(at(end))
            last = {item.identity: item for item in said if isinstance(item, Finding)}
            found += [
                (
                    item.subject,
                    (item.opened_at - NOW).total_seconds(),
                    None if item.closed_at is None else (item.closed_at - NOW).total_seconds(),
                )
                for item in last.values()
            ]
    return sorted(found, key=lambda one: (one[1], one[0]))


def history(dice: random.Random) -> list[tuple[float, Said]]:
    """What three devices say in ten minutes, and when it comes: on time, late, in batches."""
    said: list[tuple[float, Said]] = []
    for device in ("dust-1", "crane-1", "camera-1"):
        t, online, held_to = 1.0, True, 0.0
        said.append((t, Said(device, t, online=True)))
        while t < 600:
            t += dice.choice((8.0, 8.0, 8.0, 8.0, 8.0, 59.0, 61.0, 100.0)) + dice.random() / 100
            what = dice.random()
            if what < 0.12:
                online = not online
                said.append((t, Said(device, t, online=online)))
            elif what < 0.2:
                said.append((t, Said(device, t, online=online)))
            else:
                if what > 0.95:
                    held_to = t + dice.choice((20, 90, 200))
                said.append((max(t, held_to), Said(device, t)))
    return sorted(said, key=lambda one: one[0])


@pytest.mark.parametrize("seed", range(4))
async def test_disorder_batches_and_restarts_change_nothing(yard: Yard, seed: int) -> None:
    dice = random.Random(seed)
    pending: Sequence[tuple[float, Said]] = history(dice)
    while pending:
        size = dice.randint(1, 12)
        batch, pending = pending[:size], pending[size:]
        now = batch[-1][0]
        for came, said in batch:
            await yard.say(said, received=came)
        if dice.random() < 0.8:
            await yard.judge(now)
        if dice.random() < 0.15:
            await yard.restart()
    await yard.judge(2_000)
    await yard.restart()
    await yard.judge(2_000)

    expected = await ought(yard, 2_000)
    assert len(expected) > 8
    assert yard.found() == expected
