"""What a timeline of the alerts needs: a clock that is set, a registered site, short questions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import dict_row

from alerts.deliver import Deliverer, DeliverySettings
from alerts.violations import Booked, book
from alerts.webhooks import Secret, new_secret
from device_profiles.findings import Finding
from tests.unit.alerts.samples import T0

KEYS = {"builder": bytes(range(24)), "bureau": bytes(range(50, 82))}
SECRETS = {name: (Secret(key),) for name, key in KEYS.items()}
ENVIRON = {f"{name.upper()}_SECRET": new_secret(key) for name, key in KEYS.items()}


class Clock:
    """A clock that goes only when told."""

    def __init__(self, now: datetime = T0) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


class Stage:
    """One site, one contractor, one regulator, and a connection to look at what became of them."""

    def __init__(
        self, database_url: str, connection: psycopg.AsyncConnection[Any], clock: Clock
    ) -> None:
        self.database_url = database_url
        self.connection = connection
        self.clock = clock
        self.environ: dict[str, str] = dict(ENVIRON)

    async def register(self, builder_url: str, bureau_url: str) -> None:
        await self.do("INSERT INTO organisations VALUES ('builder', '建工'), ('bureau', '住建局')")
        await self.do(
            "INSERT INTO sites (id, name, timezone, contractor_id, regulator_id) VALUES"
            " ('site-1', '东区一号工地', 'Asia/Shanghai', 'builder', 'bureau')"
        )
        await self.do(
            "INSERT INTO recipients (id, organisation_id, url, secret_ref) VALUES"
            " ('builder-hook', 'builder', %(builder)s, 'env:BUILDER_SECRET'),"
            " ('bureau-hook', 'bureau', %(bureau)s, 'env:BUREAU_SECRET')",
            {"builder": builder_url, "bureau": bureau_url},
        )

    async def do(self, statement: str, values: Mapping[str, object] | None = None) -> None:
        await self.connection.execute(statement.encode(), values)

    async def ask(
        self, question: str, values: Mapping[str, object] | None = None
    ) -> list[dict[str, Any]]:
        async with self.connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(question.encode(), values)
            return await cursor.fetchall()

    async def book(self, *findings: Finding) -> list[Booked]:
        async with self.connection.transaction():
            return await book(self.connection, findings, self.clock())

    async def events(self) -> list[str]:
        return [
            row["event"] for row in await self.ask("SELECT event FROM violation_events ORDER BY id")
        ]

    async def deliveries(self) -> list[dict[str, Any]]:
        return await self.ask(
            "SELECT d.*, e.event FROM deliveries d JOIN violation_events e ON e.id = d.event_id"
            " ORDER BY d.event_id, d.recipient_id"
        )

    async def all_delivered(self) -> bool:
        return {row["state"] for row in await self.deliveries()} == {"delivered"}

    async def snapshot(self) -> dict[str, list[dict[str, Any]]]:
        """Everything booked, to see that nothing was written."""
        return {
            table: await self.ask(f"SELECT *, xmin::text FROM {table} ORDER BY id")  # noqa: S608
            for table in ("violations", "violation_events", "deliveries")
        }

    def deliverer(self, **settings: Any) -> Deliverer:
        return Deliverer(
            self.database_url,
            DeliverySettings(**settings),
            clock=self.clock,
            chance=lambda: 0.0,
            environ=self.environ,
        )
