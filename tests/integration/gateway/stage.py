"""A gateway at work, in front of a real database or of a writer that a test holds in its hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from device_profiles.hj212.crc import Checksum
from device_profiles.hj212.frames import Frame
from device_profiles.sites import Device, SiteFile
from device_profiles.vocabulary import Kind
from ingest.errors import DatabaseUnavailable
from ingest.flushing import Flushing
from ingest.gateway import Asks, Gateway, Station
from ingest.link import Limits
from ingest.pipeline import Arrivals
from simulators.hj212 import Monitor
from smartsite.roles import gateway as role
from smartsite.services import Whereabouts
from smartsite.settings import DatabaseSettings, Hj212Settings, IngestSettings, Settings
from tests.integration.yard import SITE, ask, register, site_file

PATIENCE_S = 60.0
"""How long anything is waited for: generous, for a busy machine; it is there at once."""

HOST = "127.0.0.1"
MN = "SITE00417000000000000931"
OTHER_MN = "SITE00417000000000000932"
PW = "424242"


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that comes about by itself."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"in vain: {what}")
        await asyncio.sleep(0.01)


async def until_slow(condition: Callable[[], bool], what: str) -> None:
    """The same for a condition that asks a server, in a thread of its own."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not await asyncio.to_thread(condition):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"in vain: {what}")
        await asyncio.sleep(0.02)


def factors(pm10: float, pm2_5: float = 20.0, noise: float = 60.0) -> list[dict[str, str]]:
    """Real-time data of a monitor."""
    return [
        {"a34002-Rtd": f"{pm10}", "a34002-Flag": "N"},
        {"a34004-Rtd": f"{pm2_5}", "a34004-Flag": "N"},
        {"LA-Rtd": f"{noise}", "LA-Flag": "N"},
    ]


def sent_by(device: Monitor, *, either_way: bool) -> bytes:
    """A frame whose checksum is, or is not, the same when its two bytes are turned round."""
    for place in range(10_000):
        (frame,) = device.data(full_second(), factors(50.0 + place / 100))
        if (frame[-6:-4] == frame[-4:-2]) == either_way:
            return frame
    raise AssertionError("one in 256 should be")


def carries(frame: Frame, kind: Checksum) -> bool:
    """Whether a checksum is of that kind: some are of two."""
    return kind in (frame.checksum, frame.turned)


def full_second() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=5)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Hand:
    """A writer in a test's hand: it can be held, and fail."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.failures = 0
        self.calls = 0
        self.messages: list[tuple[bytes, bytes]] = []

    async def write(self, arrivals: Arrivals) -> None:
        self.calls += 1
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailable("the database cannot be used: a test")
        self.messages += zip(arrivals.topics, arrivals.payloads, strict=True)

    def of(self, topic: bytes) -> list[bytes]:
        return [payload for on, payload in self.messages if on == topic]


TOPIC = b"site/yard/dust/dust-1/telemetry"
OTHER_TOPIC = b"site/yard/dust/dust-2/telemetry"
STATIONS = {
    MN: Station(1, TOPIC, "yard/dust-1"),
    OTHER_MN: Station(2, OTHER_TOPIC, "yard/dust-2"),
}


@asynccontextmanager
async def gateway_on(
    hand: Hand,
    limits: Limits | None = None,
    asks: Asks | None = None,
    *,
    stations: dict[str, Station] | None = None,
    most_bytes: int = 1 << 24,
) -> AsyncIterator[Gateway]:
    """A gateway in front of that writer."""
    gateway = Gateway(Flushing(8_192, 0.005, most_bytes), hand.write, limits, asks)
    gateway.stations = STATIONS if stations is None else stations
    stop = asyncio.Event()
    running = asyncio.create_task(gateway.run(HOST, 0, stop))
    try:
        await until(lambda: running.done() or gateway.port > 0, "it listens")
        yield gateway
    finally:
        stop.set()
        hand.open.set()
        async with asyncio.timeout(PATIENCE_S):
            await running


@asynccontextmanager
async def monitor(port: int, mn: str = MN, **given: Any) -> AsyncIterator[Monitor]:
    """A monitor that has called."""
    terms: dict[str, Any] = {"pw": PW, "timeout_s": PATIENCE_S}
    device = Monitor(mn, **(terms | given))
    await device.connect(HOST, port)
    try:
        yield device
    finally:
        await device.disconnect()


def devices(*more: Device) -> SiteFile:
    """Two monitors that speak HJ 212 as the standard wants it, and others."""
    usual = (
        Device(site=SITE, id="dust-1", kind=Kind.DUST, profile="hj212", external_id=MN),
        Device(site=SITE, id="dust-2", kind=Kind.DUST, profile="hj212", external_id=OTHER_MN),
    )
    return site_file(devices=(*usual, *more))


@dataclass
class Stage:
    """The role in front of a real database."""

    database_url: str
    data_dir: Path
    port: int = field(default_factory=free_port)
    terms: dict[str, Any] = field(default_factory=dict)

    def register(self, *more: Device) -> None:
        register(self.database_url, devices(*more))

    @property
    def settings(self) -> Settings:
        terms = {"listen": f"{HOST}:{self.port}"} | self.terms
        return Settings(
            data_dir=self.data_dir,
            database=DatabaseSettings(url="postgresql://somebody@localhost/unused"),
            ingest=IngestSettings(flush_ms=5),
            hj212=Hj212Settings(**terms),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """The role at work: it can be called when this begins."""
        stop = asyncio.Event()
        where = Whereabouts(0, 0.0, "mqtt://127.0.0.1:1", self.database_url)
        task = asyncio.create_task(role.run(self.settings, where, stop), name="role gateway")
        try:
            await until(lambda: task.done() or listens(self.port), "the gateway listens")
            if task.done():
                task.result()
            yield task
        finally:
            stop.set()
            async with asyncio.timeout(PATIENCE_S):
                await task

    def readings(self, device: str = "dust-1") -> list[dict[str, Any]]:
        return ask(
            self.database_url,
            "SELECT r.* FROM dust_readings r JOIN devices d ON d.id = r.device_id"
            " WHERE d.device = %(device)s ORDER BY r.series, r.observed_at",
            {"device": device},
        )

    def quarantined(self) -> list[dict[str, Any]]:
        return ask(self.database_url, "SELECT * FROM quarantine ORDER BY id")

    async def until_quarantined(self, count: int) -> list[dict[str, Any]]:
        await until_slow(lambda: len(self.quarantined()) >= count, f"{count} are put aside")
        return self.quarantined()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def qns(frames: Sequence[bytes]) -> list[str]:
    return [frame.partition(b"QN=")[2][:17].decode() for frame in frames]
