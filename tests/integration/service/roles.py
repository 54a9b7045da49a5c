"""Roles run in this process against a real broker and a real database, and clients to speak."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import aiomqtt
from prometheus_client import REGISTRY

from smartsite.embedded.broker import EmbeddedBroker
from smartsite.embedded.jetstream import QUEUE
from smartsite.roles import frames, ingest
from smartsite.services import Whereabouts
from smartsite.settings import (
    BrokerSettings,
    DatabaseSettings,
    FramesSettings,
    IngestSettings,
    Settings,
)
from tests.integration.yard import ask, balance_of, register, site_file, topic_of

PATIENCE_S = 60.0
"""How long anything is waited for: generous, for a busy machine; it is there at once."""

ROLES: dict[str, ModuleType] = {"ingest": ingest, "frames": frames}


@dataclass
class Service:
    """Where everything is, and under which names the roles work."""

    broker: EmbeddedBroker
    database_url: str
    prefix: str
    data_dir: Path
    workers: dict[str, str]
    terms: dict[str, Any] = field(default_factory=dict)

    def register(self) -> None:
        register(self.database_url, site_file(district=self.prefix))

    @property
    def settings(self) -> Settings:
        limits = {"max_payload_bytes": 256 * 1024} | self.terms
        return Settings(
            data_dir=self.data_dir,
            broker=BrokerSettings(url=self.broker.url, prefix=self.prefix, keep_reading=True),
            database=DatabaseSettings(url="postgresql://somebody@localhost/unused"),
            ingest=IngestSettings(worker=self.workers["ingest"], **limits),
            frames=FramesSettings(worker=self.workers["frames"], **limits),
        )

    def topic(self, device: str, channel: str = "telemetry") -> str:
        return f"{self.prefix}/{topic_of(device, channel)}"

    @asynccontextmanager
    async def running(self, role: str = "ingest") -> AsyncIterator[asyncio.Task[None]]:
        """A role at work: it hears what is published when this begins."""
        stop = asyncio.Event()
        where = Whereabouts(
            pid=0, started=0.0, broker_url=self.broker.url, database_url=self.database_url
        )
        task: asyncio.Task[None] = asyncio.create_task(
            ROLES[role].run(self.settings, where, stop), name=f"role {role}"
        )
        try:
            await until(lambda: task.done() or _connected(role), f"{role} connects")
            if task.done():
                task.result()
            yield task
        finally:
            stop.set()
            async with asyncio.timeout(PATIENCE_S):
                await task

    def stored(self, device: str) -> int:
        """How many readings of a device are stored."""
        rows = ask(
            self.database_url,
            "SELECT (SELECT count(*) FROM dust_readings r WHERE r.device_id = d.id)"
            " + (SELECT count(*) FROM crane_readings r WHERE r.device_id = d.id)"
            " + (SELECT count(*) FROM frames r WHERE r.device_id = d.id) AS n"
            " FROM devices d WHERE d.device = %(device)s",
            {"device": device},
        )
        return int(rows[0]["n"])

    async def until_stored(self, device: str, count: int) -> None:
        await until(
            lambda: self.stored(device) >= count, f"{count} of {device}, {self.stored(device)} yet"
        )

    async def until_received(self, count: int) -> None:
        await until(
            lambda: balance_of(self.database_url).received >= count, f"{count} are received"
        )

    async def until_acknowledged(self) -> None:
        """Wait until the broker holds nothing for the roles any more: nothing comes again."""
        await until(lambda: self.held() == (0, 0), "all is acknowledged")

    def held(self) -> tuple[int, int]:
        """What the broker keeps for our sessions: not yet delivered, and not acknowledged."""
        return held(self.broker, f".{self.prefix}.")


def held(broker: EmbeddedBroker, mark: str = "") -> tuple[int, int]:
    """What a broker keeps for sessions: not yet delivered, and not acknowledged.

    Args:
        broker: It.
        mark: Of the sessions meant: part of their filters.

    Returns:
        Both counts.

    Raises:
        AssertionError: There is no such session.
    """
    url = f"{broker.monitoring_url}/jsz?consumers=true&config=true"
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own broker
        told = json.load(answer)
    meant = [
        consumer
        for account in told.get("account_details") or []
        for stream in account.get("stream_detail") or []
        if stream["name"] == QUEUE
        for consumer in stream.get("consumer_detail") or []
        if mark in consumer["config"].get("filter_subject", "")
    ]
    assert meant, "the broker knows no such session"
    return (
        sum(consumer["num_pending"] for consumer in meant),
        sum(consumer["num_ack_pending"] for consumer in meant),
    )


def _connected(role: str) -> bool:
    return REGISTRY.get_sample_value("smartsite_broker_connected", {"role": role}) == 1


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that comes about by itself."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not await asyncio.to_thread(condition):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"in vain: {what}")
        await asyncio.sleep(0.02)


@asynccontextmanager
async def device_of(
    broker: EmbeddedBroker, client_id: str
) -> AsyncIterator[Callable[[str, bytes], Awaitable[None]]]:
    """A client that publishes at QoS 1 and returns when it is acknowledged."""
    parts = urlsplit(broker.url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with aiomqtt.Client(
        parts.hostname, parts.port, identifier=client_id, timeout=PATIENCE_S
    ) as client:

        async def publish(topic: str, payload: bytes) -> None:
            await client.publish(topic, payload, qos=1)

        yield publish


async def publish_all(
    publish: Callable[[str, bytes], Awaitable[None]], messages: Iterable[tuple[str, bytes]]
) -> None:
    """Publish some at a time; return when all are acknowledged."""
    waiting = list(messages)
    for place in range(0, len(waiting), 10):
        await asyncio.gather(*(publish(*one) for one in waiting[place : place + 10]))
