"""A simulated site's messages, stored in pieces and judged; and what ought to come out."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg

from detectors.rules import CraneRule, DustRule, HelmetRule, Rules
from device_profiles.findings import Coverage, Finding
from device_profiles.jpeg import JpegHeader
from device_profiles.native import microseconds
from device_profiles.readings import Box, Reading
from device_profiles.recording import Message
from device_profiles.vocabulary import Kind
from ingest.pipeline import Arrivals, TimeLimits, gather
from ingest.registry import Routes
from ingest.store.readings import load_devices, readings_of_devices
from ingest.store.worker import Worker
from ingest.store.writer import TelemetryWriter
from simulators.camera import picture_at
from simulators.site import SimulatedSite
from smartsite.chain import Chain
from smartsite.eyes import Leased, Look
from smartsite.judge import Judge
from smartsite.roles.vision import _store
from tests.integration.yard import ask, register, routes_of, site_file

START = datetime(2026, 11, 21, 2, 0, 0, 250_000, UTC)
PATIENCE = timedelta(seconds=5)
MODEL = "ab" * 32

RULES = Rules(
    dust=DustRule(limit_ug_m3=150, window_s=10, bridge_s=10),
    crane=CraneRule(limit_m=2.0),
    helmet=HelmetRule(min_score=0.4),
)
"""The demo's."""


@dataclass(frozen=True)
class Spoken:
    """What a device says: a telemetry message, or what the model sees on a picture."""

    at: datetime
    device: str
    message: Message | None


def spoken(seconds: float, seed: int = 0) -> list[Spoken]:
    """What a simulated site says, by time; of its pictures only when they are taken."""
    site = SimulatedSite()
    told = [
        Spoken(message.received_at, message.topic.split("/")[3], message)
        for message in site.messages(START, seed, seconds)
        if message.topic.endswith("/telemetry")
    ]
    shown = [
        Spoken(START + timedelta(seconds=number / site.pictures_hz + 0.2), "camera-1", None)
        for number in range(int(seconds * site.pictures_hz))
    ]
    return sorted(told + shown, key=lambda one: one.at)


def boxes_at(seconds: float) -> tuple[Box, ...]:
    """What a good model sees: one head, bare as the picture says, and a man with a helmet."""
    place = (300.0 + seconds % 7, 200.0, 330.0 + seconds % 7, 235.0)
    men = [Box("helmet", 0.9, (50.0, 60.0, 75.0, 90.0))]
    if picture_at(seconds).bare_head:
        men.append(Box("head", 0.7, place))
    return tuple(men)


class Supervised:
    """A database, the workers that fill it, and a judge that can be restarted."""

    def __init__(self, database_url: str, routes: Routes) -> None:
        self.url = database_url
        self._routes = routes
        self._workers = {
            name: Worker(database_url, name) for name in ("ingest", "second", "vision")
        }
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._judge: Judge | None = None
        self._cameras: dict[str, int] = {}

    async def close(self) -> None:
        await self.restart()
        for worker in self._workers.values():
            await worker.close()

    async def store(self, said: Sequence[Spoken], worker: str = "ingest") -> None:
        """Write what was said as one flush of telemetry and one of looks."""
        now_us = microseconds(max(one.at for one in said))
        messages = [one.message for one in said if one.message is not None]
        if messages:
            arrivals = Arrivals(
                [message.topic.encode() for message in messages],
                [message.payload for message in messages],
                [1] * len(messages),
                [now_us + place for place in range(len(messages))],
            )
            flush = gather(arrivals, self._routes, TimeLimits())
            assert not flush.quarantined
            await TelemetryWriter(self._workers[worker]).write(flush)
        looks = [one for one in said if one.message is None]
        if looks:
            await _store(self._workers["vision"], MODEL, None, [self._look(one) for one in looks])

    def _look(self, one: Spoken) -> tuple[Leased, Look]:
        if not self._cameras:
            rows = ask(self.url, "SELECT id, device FROM devices WHERE kind = 'camera'")
            self._cameras = {row["device"]: row["id"] for row in rows}
        frame = Leased(
            self._cameras[one.device], "demo-site", one.device, one.at, one.at, bytes(32)
        )
        boxes = boxes_at((one.at - START).total_seconds() - 0.2)
        return frame, Look(frame, JpegHeader(640, 360, 3, progressive=False), boxes, still=False)

    async def judge(self) -> Judge:
        if self._judge is None:
            self._connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True)
            self._judge = Judge(self._connection, RULES)
            await self._judge.start(START)
        return self._judge

    async def restart(self) -> None:
        """End the judge as kill -9 would: nothing is said or written any more."""
        if self._connection is not None:
            await self._connection.close()
        self._connection = self._judge = None

    async def step(self, now: datetime) -> None:
        judge = await self.judge()
        await judge.step(now)
        assert judge.behind == 0
        await judge.tick(now, PATIENCE)

    async def settle(self, end: datetime) -> None:
        """Judge what is stored and let silence close what lasts."""
        await self.step(end + timedelta(hours=1))
        await self.restart()
        await self.step(end + timedelta(hours=1))


async def supervise(database_url: str) -> AsyncIterator[Supervised]:
    site = SimulatedSite()
    register(database_url, site_file(devices=site.devices()))
    supervised = Supervised(database_url, await routes_of(database_url))
    yield supervised
    await supervised.close()


def violations_of(database_url: str) -> list[tuple[Any, ...]]:
    """What is booked and not withdrawn."""
    rows = ask(
        database_url,
        "SELECT id, rule, subject, opened_at, closed_at, measured FROM violations"
        " WHERE state <> 'withdrawn' ORDER BY opened_at, rule, subject",
    )
    return [tuple(row.values()) for row in rows]


def as_booked(findings: Iterable[Finding]) -> list[tuple[Any, ...]]:
    return [
        (
            finding.identity,
            finding.rule,
            finding.subject,
            finding.opened_at,
            finding.closed_at,
            finding.measured,
        )
        for finding in sorted(findings, key=lambda one: (one.opened_at, one.rule, one.subject))
    ]


def coverage_of(database_url: str) -> list[tuple[Any, ...]]:
    rows = ask(
        database_url,
        "SELECT rule, subject, from_at, to_at, reason FROM coverage ORDER BY 1, 2, 3",
    )
    return joined(tuple(row.values()) for row in rows)


def joined(spans: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Spans as they say the same with the fewest: touching ones of one reason are one."""
    found: list[tuple[Any, ...]] = []
    for span in sorted(spans, key=lambda span: span[:3]):
        rule, subject, from_at, to_at, reason = span
        if found and found[-1] == (rule, subject, found[-1][2], from_at, reason):
            found[-1] = (rule, subject, found[-1][2], to_at, reason)
        else:
            found.append(span)
    return found


async def ought(database_url: str, end: datetime) -> tuple[list[Finding], list[tuple[Any, ...]]]:
    """The pure function over all that is stored: its findings, and its coverage joined."""
    last: dict[str, Finding] = {}
    spans: list[tuple[Any, ...]] = []
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        devices = await load_devices(connection)
        readings: list[Reading] = []
        for kind in Kind:
            members = [device for device in devices if device.kind is kind]
            async for reading in readings_of_devices(
                connection, members, START - timedelta(days=1), end + timedelta(days=1)
            ):
                readings.append(reading)  # noqa: PERF401
    readings.sort(key=lambda reading: (reading.observed_at, reading.site, reading.device))
    chain = Chain(RULES, devices)
    judged = chain.observe(readings)
    assert not judged.late
    for item in [*judged.said, *chain.advance(end + timedelta(hours=1) - PATIENCE)]:
        if isinstance(item, Finding):
            last[item.identity] = item
        else:
            spans.append(_columns(item))
    spans += [_columns(item) for item in chain.pending() if isinstance(item, Coverage)]
    return list(last.values()), joined(spans)


def _columns(span: Coverage) -> tuple[Any, ...]:
    return span.rule, span.subject, span.from_at, span.to_at, span.reason


def in_batches(said: Sequence[Spoken], dice: random.Random, most: int) -> list[list[Spoken]]:
    """Cut what was said into flushes of random sizes."""
    batches = []
    place = 0
    while place < len(said):
        size = dice.randint(1, most)
        batches.append(list(said[place : place + size]))
        place += size
    return batches


def in_parts(said: Sequence[Spoken], dice: random.Random) -> list[Spoken]:
    """The same with every reading of the monitors in two messages, PM10 now and then the later.

    Each is joined by the mean of a minute, whose time is long past, and of no rule.
    """
    parts: list[tuple[float, Spoken]] = []
    for one in said:
        when = one.at.timestamp()
        if one.message is None or "/dust/" not in one.message.topic:
            parts.append((when, one))
            continue
        reading = msgspec.json.decode(one.message.payload)
        values = reading["values"]
        pm10 = {"pm10_ug_m3": values.pop("pm10_ug_m3")}
        told = [pm10, values] if dice.random() < 0.5 else [values, pm10]
        minute = one.at.replace(second=0, microsecond=0) - timedelta(minutes=1)
        bodies = [
            (when, reading | {"values": told[0]}),
            (when + dice.choice((0.0, 0.3, 4.0)), reading | {"values": told[1]}),
            (when, {"ts": minute, "series": "minute", "values": {"leq_db": 60.0}}),
        ]
        for arrives, body in bodies:
            message = msgspec.structs.replace(one.message, payload=msgspec.json.encode(body))
            parts.append((arrives, Spoken(one.at, one.device, message)))
    return [one for _, one in sorted(parts, key=lambda part: part[0])]


def delayed(
    said: Sequence[Spoken], device: str, first: float, last: float, delay_s: float
) -> list[Spoken]:
    """The same in the order in which it comes when a device's readings of a span are held up."""

    def arrival(one: Spoken) -> datetime:
        seconds = (one.at - START).total_seconds()
        held = one.device == device and first <= seconds < last
        return one.at + timedelta(seconds=delay_s if held else 0)

    return sorted(said, key=arrival)
