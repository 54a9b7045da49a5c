"""kill -9 of the gateway under load: nothing answered is lost, nothing is stored twice."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from simulators.hj212 import Monitor
from smartsite.services import password_environment
from tests.faults.service import Service
from tests.integration.gateway.stage import (
    HOST,
    factors,
    free_port,
    full_second,
    listens,
    until,
    until_slow,
)
from tests.integration.yard import SITE, ask, balance_of, register, site_file

DEVICES = 12
KILLS = 2
BETWEEN = 100
"""Answers between one kill and the next."""


@dataclass
class Load:
    """Monitors that say one thing after another, each until it is answered."""

    port: int
    start: datetime
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    answered: set[tuple[str, datetime]] = field(default_factory=set)
    sendings: int = 0

    async def speak(self, mn: str) -> None:
        device = Monitor(mn, timeout_s=2.0, resends=1)
        place = 0
        try:
            while not self.stop.is_set():
                at = self.start - timedelta(seconds=place)
                (frame,) = device.data(at, factors(round(50 + place % 40, 1)))
                while (mn, at) not in self.answered:
                    if not device.is_connected:
                        with contextlib.suppress(OSError):
                            await device.connect(HOST, self.port)
                        if not device.is_connected:
                            await asyncio.sleep(0.02)
                            continue
                    self.sendings += 1
                    if await device.say(frame):
                        self.answered.add((mn, at))
                place += 1
        finally:
            await device.disconnect()


@pytest.mark.timeout(180)
async def test_a_killed_gateway_loses_nothing_it_answered_and_doubles_nothing(
    database_url: str, tmp_path: Path
) -> None:
    mns = [f"KILL{place:04}" for place in range(DEVICES)]
    devices = [
        Device(site=SITE, id=f"dust-{mn}", kind=Kind.DUST, profile="hj212", external_id=mn)
        for mn in mns
    ]
    register(database_url, site_file(devices=devices))
    port = free_port()
    settings = {
        name.removeprefix("SMARTSITE_"): text
        for name, text in password_environment(database_url).items()
    }
    settings |= {"BROKER__URL": "mqtt://127.0.0.1:1", "HJ212__LISTEN": f"{HOST}:{port}"}
    settings |= {"HJ212__FRAMES_PER_S": "10000"}
    load = Load(port, full_second())
    with Service(tmp_path / "gateway", settings, role="gateway") as service:
        await until_slow(lambda: listens(port), "the gateway listens")
        speaking = [asyncio.create_task(load.speak(mn)) for mn in mns]
        try:
            for kill in range(1, KILLS + 1):
                await until(
                    lambda kill=kill: len(load.answered) >= kill * BETWEEN,  # type: ignore[misc]
                    "more are answered",
                )
                psutil.Process(service.child.pid).kill()
                await until(lambda: not service.child.alive, "it is dead")
                service.child.start()
            await until(lambda: len(load.answered) >= (KILLS + 1) * BETWEEN, "more are answered")
            load.stop.set()
            await asyncio.gather(*speaking)
        finally:
            for task in speaking:
                task.cancel()
            await asyncio.gather(*speaking, return_exceptions=True)
        await asyncio.to_thread(service.stop)
    rows = ask(
        database_url,
        "SELECT d.external_id, r.observed_at FROM dust_readings r"
        " JOIN devices d ON d.id = r.device_id",
    )
    stored = [(str(row["external_id"]), row["observed_at"]) for row in rows]
    assert len(stored) == len(set(stored))
    assert load.answered - set(stored) == set()
    assert set(stored) - load.answered == set()
    balance = balance_of(database_url)
    assert balance.adds_up
    assert balance.stored == len(load.answered)
    assert balance.received == balance.stored + balance.duplicate <= load.sendings * 2
