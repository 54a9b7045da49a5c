"""One service at work: a broker, a database, a fleet that publishes, and the questions asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from tests.faults.brokers import Broker
from tests.faults.ledger import Found, Key, Ledger
from tests.faults.load import Load
from tests.faults.proxy import Proxy
from tests.faults.service import Service
from tests.faults.waiting import until, until_slow

Report = Callable[[object], None]
"""Has a figure printed at the end of the run, with the seed."""


class Counting:
    """Counts stored readings, on a connection that is made again when it broke."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection: psycopg.Connection[Any] | None = None

    def stored(self) -> int:
        """How many readings are stored; -1 while nobody can tell."""
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=10)
            row = self._connection.execute("SELECT count(*) FROM dust_readings").fetchone()
        except psycopg.OperationalError:
            self.close()
            return -1
        return int(row[0]) if row else -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go, until it is needed again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass
class Stage:
    """What a test of faults works with.

    Attributes:
        broker: The broker.
        database_url: The store.
        ledger: What was sent.
        service: The role `ingest`.
        load: Who sends it.
        proxy: Between service and broker.
    """

    broker: Broker
    database_url: str
    ledger: Ledger
    service: Service
    load: Load
    proxy: Proxy

    async def until_stored(self, count: int) -> None:
        """Wait until so many readings are stored."""
        with Counting(self.database_url) as counting:
            await until_slow(lambda: counting.stored() >= count, f"{count} readings are stored")

    async def until_said(self) -> int:
        """Wait until log and metric say that the store fails; PUBACKs sent by then."""
        heard = self.service.said().count("wait unacknowledged")
        await until_slow(self.service.says_unusable, "the metric says so")
        await until(
            lambda: self.service.said().count("wait unacknowledged") > heard, "the log says so"
        )
        return self.proxy.acks

    async def until_usable(self) -> None:
        """Wait until the metric says that the store works again."""
        await until_slow(
            lambda: self.service.metric("smartsite_database_usable") == 1, "it works again"
        )

    async def settle(self, *, may_be_lost: Collection[Key] = ()) -> Found:
        """End the load, wait until all is stored, end the service in order, and compare."""
        await self.load.finish()
        if may_be_lost:
            # Nobody knows how many will come; but they come in order, and this one is the last.
            last = await self.load.publish_one()
            await until_slow(lambda: self._is_stored(last), "the last is stored")
        else:
            await self.until_stored(len(self.ledger.sent))
        await asyncio.to_thread(self.service.stop)
        return await asyncio.to_thread(
            self.ledger.check, self.database_url, may_be_lost=may_be_lost
        )

    def _is_stored(self, key: Key) -> bool:
        with psycopg.connect(self.database_url) as connection:
            found = connection.execute(
                "SELECT FROM dust_readings WHERE observed_at = to_timestamp(%s / 1000.0)",
                [key.at_ms],
            )
            return found.fetchone() is not None


@asynccontextmanager
async def staged(
    folder: Path, broker: Broker, database_url: str, ledger: Ledger, **load: Any
) -> AsyncIterator[Stage]:
    """A service at work under load."""
    ledger.register(database_url)
    async with Proxy(broker.url) as proxy:
        service = Service.ingest(folder, database_url, proxy.url, keep_reading=broker.keep_reading)
        with service:
            # Its session is there before anything is published: what comes then waits for it.
            await until(service.is_ready, "the service subscribes")
            async with Load(broker.url, ledger, **load) as fleet:
                yield Stage(broker, database_url, ledger, service, fleet, proxy)
