"""Open registration: a stranger of a registered site is heard from its first word on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from ingest.newcomers import MARK, Newcomers
from ingest.registry import Routes
from ingest.store.worker import Worker
from simulators.camera import picture_at
from smartsite.settings import Settings
from tests.integration.service.roles import Service, device_of
from tests.integration.yard import (
    NOW,
    arrivals_of,
    ask,
    balance_of,
    do,
    register,
    routes_of,
    site_file,
    telemetry,
    topic_of,
)


class Open(Service):
    """The same with open registration."""

    @property
    def settings(self) -> Settings:
        closed = super().settings
        terms = closed.ingest.model_copy(update={"registration": "open"})
        return closed.model_copy(update={"ingest": terms})


@pytest.fixture
def opened(service: Service) -> Open:
    return Open(**{name: getattr(service, name) for name in Service.__dataclass_fields__})


async def test_a_strangers_first_reading_is_stored(opened: Open) -> None:
    now = datetime.now(UTC)
    async with (
        device_of(opened.broker, f"{opened.prefix}-device") as publish,
        opened.running() as _,
    ):
        await publish(opened.topic("dust-9"), telemetry(now, pm10_ug_m3=1))
        await opened.until_received(1)
        await publish(opened.topic("dust-1"), telemetry(now, pm10_ug_m3=1))
        await publish(
            opened.topic("dust-8").replace("site/yard", "site/nowhere"),
            telemetry(now, pm10_ug_m3=1),
        )
        await publish(opened.topic("dust-9"), telemetry(now + timedelta(seconds=1), noise_db=1))
        await opened.until_received(4)
    assert opened.stored("dust-9") == 2
    balance = balance_of(opened.database_url)
    assert (balance.received, balance.stored, balance.adds_up) == (4, 3, True)
    (device,) = ask(
        opened.database_url, "SELECT kind, settings FROM devices WHERE device = 'dust-9'"
    )
    assert (device["kind"], device["settings"]) == ("dust", {MARK: True})
    (left,) = ask(opened.database_url, "SELECT reason, detail FROM quarantine")
    assert left["reason"] == "unknown_device"
    assert "nowhere/dust-8" in left["detail"]


async def test_a_strangers_first_picture_is_stored(opened: Open) -> None:
    at = round(datetime.now(UTC).timestamp() * 1_000)
    async with (
        device_of(opened.broker, f"{opened.prefix}-device") as publish,
        opened.running("frames") as _,
    ):
        await publish(opened.topic("camera-8", f"frame/{at}"), b"no picture")
        await publish(opened.topic("camera-9", f"frame/{at}"), picture_at(0.0).jpeg)
        await opened.until_acknowledged()
    assert opened.stored("camera-9") == 1
    assert ask(opened.database_url, "SELECT FROM devices WHERE device = 'camera-8'") == []


@dataclass(frozen=True)
class Desk:
    """Registers for one worker."""

    url: str
    worker: Worker
    newcomers: Newcomers
    routes: Routes

    async def welcome(self, *messages: tuple[str | bytes, bytes]) -> bool:
        arrivals = arrivals_of(*messages)
        return await self.newcomers.welcome(arrivals, range(len(arrivals)), self.routes)

    def registered(self) -> list[str]:
        rows = ask(self.url, "SELECT device FROM devices ORDER BY id")
        return [row["device"] for row in rows if row["device"].startswith("dust-n")]


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    register(database_url, site_file())
    worker = Worker(database_url, "ingest")
    yield Desk(database_url, worker, Newcomers(worker, 3), await routes_of(database_url))
    await worker.close()


def word(device: str, site: str = "yard") -> tuple[str | bytes, bytes]:
    return topic_of(device, site=site), telemetry(NOW, noise_db=1)


async def test_a_flood_of_strangers_does_not_fill_the_registry(desk: Desk) -> None:
    assert await desk.welcome(word("dust-n1"), word("dust-n1"), word("dust-n2"))
    assert desk.registered() == ["dust-n1", "dust-n2"]
    assert await desk.welcome(*(word(f"dust-n{n}") for n in range(3, 50)))
    assert desk.registered() == ["dust-n1", "dust-n2", "dust-n3"]
    assert not await desk.welcome(*(word(f"dust-n{n}") for n in range(4, 50)))
    do(desk.url, "UPDATE devices SET registered_at = registered_at - interval '25 hours'")
    assert await desk.welcome(word("dust-n4"))


async def test_who_is_not_registered(desk: Desk) -> None:
    assert not await desk.welcome(
        word("dust-n1", site="nowhere"),
        (f"elsewhere/{topic_of('dust-n2')}", telemetry(NOW, noise_db=1)),
        (topic_of("dust-n3"), b"garbage"),
        (b"no/topic", b""),
        word("dust-1"),
    )
    do(desk.url, "UPDATE devices SET retired_at = now() WHERE device = 'dust-2'")
    retired = replace(desk, routes=await routes_of(desk.url))
    assert not await retired.welcome(word("dust-2"))
    assert desk.registered() == []
    assert len(ask(desk.url, "SELECT FROM devices WHERE retired_at IS NULL")) == 3


async def test_two_workers_may_register_the_same_at_once(desk: Desk) -> None:
    other = Worker(desk.url, "other")
    second = replace(desk, worker=other, newcomers=Newcomers(other, 3))
    strangers = [word(f"dust-n{n}") for n in range(9)]
    both = await asyncio.gather(desk.welcome(*strangers), second.welcome(*reversed(strangers)))
    assert all(both)
    assert len(desk.registered()) == 3
    await other.close()


async def test_what_is_known_costs_nothing(desk: Desk) -> None:
    await desk.worker.close()
    unreachable = replace(desk, newcomers=Newcomers(Worker("nowhere", "x"), 3))
    assert not await unreachable.welcome(word("dust-1"), word("dust-2"))
