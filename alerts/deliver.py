"""The role `deliver`: sends what is queued, until it is taken or given up with a reason.

A delivery is leased for one attempt, so a worker that dies leaves it to the next one when the
lease runs out: at least once, always with the same `webhook-id`. Of one violation and recipient
the events go in order, one at a time; a recipient that is slow or down holds its own places only.

Recipients are named by the operator, not by those who send data, and may well stand inside the
operator's network, so their addresses are not filtered. What they answer is not trusted: no
redirect is followed, no proxy from the environment used, no cookie kept, only the start of an
answer read, within one deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import aiohttp
import psycopg
from prometheus_client import Counter, Gauge
from psycopg.rows import DictRow, dict_row

from alerts.errors import DeliverySettingsUnusable, SecretUnusable
from alerts.retries import SCHEDULE, Answer, Outcome, Verdict, decide
from alerts.secret_refs import resolve
from alerts.webhooks import sign
from device_profiles.errors import shown
from ingest.errors import DatabaseUnavailable
from ingest.store.queries import load_queries
from ingest.store.worker import declared

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).with_name("queries.sql"))

MAX_ANSWER_BYTES = 1_024
"""What is read of a refusal, for people; of what was taken nothing is read."""

QUERY_TIMEOUT_S = 30.0
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0

MISCONFIGURED = "misconfigured"
"""Counted where an attempt could not be made for want of a secret."""

ATTEMPTS = Counter(
    "smartsite_delivery_attempts",
    "attempts to deliver a webhook, by what became of it",
    ["outcome"],
)
PENDING = Gauge(
    "smartsite_deliveries_pending", "webhooks not yet taken", multiprocess_mode="livemax"
)
for _outcome in Outcome:
    ATTEMPTS.labels(_outcome)
ATTEMPTS.labels(MISCONFIGURED)


T = TypeVar("T")


def utc_now() -> datetime:
    """The present time, aware, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliverySettings:
    """How deliveries are sent.

    Attributes:
        concurrency: Most attempts under way.
        per_recipient: Most of them to one recipient.
        timeout_s: Longest an attempt may take, seconds.
        poll_s: How often to look without being woken, seconds.
        lease_s: When an attempt nobody finished may be taken over, seconds; by default 45 after
            its timeout.
        schedule: Pause before each attempt.
    """

    concurrency: int = 8
    per_recipient: int = 4
    timeout_s: float = 15.0
    poll_s: float = 5.0
    lease_s: float | None = None
    schedule: tuple[timedelta, ...] = SCHEDULE

    def __post_init__(self) -> None:
        if self.lease < timedelta(seconds=self.timeout_s + QUERY_TIMEOUT_S / 2):
            raise DeliverySettingsUnusable(
                f"lease_s {self.lease_s} leaves no time to say how an attempt of {self.timeout_s} s"
                f" went: it must exceed timeout_s by {QUERY_TIMEOUT_S / 2:.0f}"
            )
        if min(self.concurrency, self.per_recipient, len(self.schedule)) < 1:
            raise DeliverySettingsUnusable("concurrency, per_recipient and schedule: at least 1")

    @property
    def lease(self) -> timedelta:
        """How long an attempt is ours."""
        if self.lease_s is not None:
            return timedelta(seconds=self.lease_s)
        return timedelta(seconds=self.timeout_s + 1.5 * QUERY_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery we may attempt once.

    Attributes:
        id: The webhook's id.
        event_id: The event it tells.
        recipient_id: Whom it is for.
        body: The exact text to be signed.
        attempts: Which attempt this is, from 1.
        url: Where it goes.
        secret_ref: Where the recipient's secret lies.
    """

    id: UUID
    event_id: int
    recipient_id: str
    body: str
    attempts: int
    url: str
    secret_ref: str


class Deliverer:
    """The worker.

    Args:
        database_url: A libpq connection string.
        settings: How deliveries are sent.
        clock: Tells the time, aware.
        chance: Draws a number, 0 to 1, for jitter.
        environ: Where ``env:`` secrets lie.

    Attributes:
        looked_at: When it last saw the queue; None before the first time.
    """

    def __init__(
        self,
        database_url: str,
        settings: DeliverySettings | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        chance: Callable[[], float] = random.random,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._url = database_url
        self._settings = settings or DeliverySettings()
        self._clock = clock
        self._chance = chance
        self._environ = environ
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._counted_at: datetime | None = None
        self.looked_at: datetime | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            # A kept connection that the other side has given up would cost an attempt.
            connector=aiohttp.TCPConnector(limit=self._settings.concurrency, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": "smartsite", "Content-Type": "application/json"},
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
        await self._disconnect()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until told to stop; a database that is away is waited for.

        On stopping, attempts under way are finished; each is bounded by the settings' timeout.

        Args:
            stop: Set from outside.

        Raises:
            SecretUnusable: At the start, a recipient's secret is missing or malformed.
        """
        self._stop = stop
        async with self:
            # Outside the group, so that a misconfiguration arrives as itself.
            await self._until_it_works(self.check_secrets)
            async with asyncio.TaskGroup() as group:
                helpers = [
                    group.create_task(self._listen(), name="deliver: listen"),
                    group.create_task(self._wake_at_stop(), name="deliver: stop"),
                ]
                try:
                    await self._serve(group)
                finally:
                    for helper in helpers:
                        helper.cancel()

    async def deliver_due(self) -> int:
        """Attempt everything that is due now, and wait for how it goes.

        Returns:
            How many attempts were made.

        Raises:
            DatabaseUnavailable: PostgreSQL could not be used.
        """
        made = 0
        while leased := await self._lease(self._settings.concurrency):
            async with asyncio.TaskGroup() as group:
                for delivery in leased:
                    group.create_task(self._attempt(delivery))
            made += len(leased)
        return made

    async def check_secrets(self) -> None:
        """Look whether every recipient can be signed for.

        Raises:
            SecretUnusable: Some cannot; each is named with its fault.
            DatabaseUnavailable: PostgreSQL could not be used.
        """
        faults = []
        for row in await self._rows("deliver_recipients", {}):
            try:
                resolve(row["secret_ref"], self._environ)
            except SecretUnusable as fault:
                faults.append(f"recipient {row['id']}: {fault}")
        if faults:
            raise SecretUnusable("; ".join(faults))

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        under_way: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            self._wake.set()

        while not self._stop.is_set():
            self._wake.clear()
            places = self._settings.concurrency - len(under_way)
            for delivery in await self._until_it_works(partial(self._lease, places)) or ():
                task = group.create_task(self._attempt(delivery), name=f"deliver: {delivery.id}")
                under_way.add(task)
                task.add_done_callback(ended)
            pause_s = await self._until_it_works(self._pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def _lease(self, places: int) -> list[Leased]:
        if places < 1:
            return []
        now = self._clock()
        await self._rows("deliver_fail_disabled", {"now": now})
        rows = await self._rows(
            "deliver_lease",
            {
                "now": now,
                "until": now + self._settings.lease,
                "per_recipient": self._settings.per_recipient,
                "places": places,
            },
        )
        self.looked_at = now
        return sorted((Leased(**row) for row in rows), key=lambda leased: leased.event_id)

    async def _pause_s(self) -> float:
        """How long nothing is due, as far as is known; at most until the next poll."""
        now, poll = self._clock(), timedelta(seconds=self._settings.poll_s)
        if self._counted_at is None or now - self._counted_at >= poll:
            self._counted_at = now
            (pending,) = await self._rows("deliver_pending", {})
            PENDING.set(pending["count"])
        (next_,) = await self._rows("deliver_next", {"now": now})
        if next_["at"] is None:
            return self._settings.poll_s
        return float(min(next_["at"] - now, poll).total_seconds())

    async def _attempt(self, leased: Leased) -> None:
        """Make one attempt and write down how it went."""
        try:
            secrets = resolve(leased.secret_ref, self._environ)
        except SecretUnusable as fault:
            label: str | None = MISCONFIGURED
            answer = Answer(None, str(fault))
        else:
            label = None
            body = leased.body.encode()
            headers = sign(secrets, str(leased.id), self._clock(), body)
            answer = await self._post(leased.url, headers, body)
        now = self._clock()
        verdict = decide(answer, leased.attempts, now, self._chance(), self._settings.schedule)
        ATTEMPTS.labels(label or verdict.outcome).inc()
        if verdict.outcome is not Outcome.DELIVERED:
            log.warning(
                "delivery %s to recipient %s, attempt %d: %s (%s)",
                leased.id,
                leased.recipient_id,
                leased.attempts,
                verdict.error,
                verdict.outcome,
            )
        await self._until_it_works(partial(self._record, leased, answer, verdict, now))

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        assert self._session is not None  # noqa: S101 - attempts are made inside the context
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                said = ""
                if not response.ok:
                    # What cannot be read of a refusal does not unsay it.
                    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                        start = await response.content.read(MAX_ANSWER_BYTES)
                        said = shown(start.decode(errors="replace"), 200) if start else ""
                return Answer(response.status, said, response.headers.get("Retry-After"))
        except TimeoutError:
            return Answer(None, f"no answer within {self._settings.timeout_s:g} s")
        except aiohttp.InvalidURL:
            return Answer(None, "the address is not a URL")
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            return Answer(None, f"{type(fault).__name__}: {shown(str(fault), 200)}")

    async def _record(
        self, leased: Leased, answer: Answer, verdict: Verdict, now: datetime
    ) -> None:
        values = {
            "id": leased.id,
            "attempts": leased.attempts,
            "status": answer.status,
            "error": None if verdict.error is None else verdict.error.replace("\0", ""),
            "next_attempt_at": verdict.next_attempt_at,
            "recipient_id": leased.recipient_id,
            "url": leased.url,
            "reason": verdict.error,
            "now": now,
        }
        match verdict.outcome:
            case Outcome.DELIVERED:
                await self._rows("deliver_taken", values)
            case Outcome.RETRY:
                await self._rows("deliver_again", values)
            case Outcome.GAVE_UP:
                await self._rows("deliver_failed", values)
            case Outcome.GONE:
                # First the recipient: were we killed in between, the rest follows from it.
                await self._rows("deliver_disable", values)
                await self._rows("deliver_failed", values)

    async def _wake_at_stop(self) -> None:
        await self._stop.wait()
        self._wake.set()

    async def _listen(self) -> None:
        """Wake when something is queued; polling would find it too, only later."""
        while not self._stop.is_set():
            await self._until_it_works(self._listen_once)

    async def _listen_once(self) -> None:
        with declared():
            async with await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                connect_timeout=10,
                application_name="smartsite deliver: listen",
            ) as connection:
                await connection.execute(SQL["deliver_listen"])
                self._wake.set()  # for what was queued while nobody listened
                async for _ in connection.notifies():
                    self._wake.set()

    async def _until_it_works(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Ask the database until it answers; None where we are told to stop before it does."""
        delay_s = FIRST_DELAY_S
        while True:
            try:
                return await ask()
            except DatabaseUnavailable as fault:
                pause_s = delay_s * (0.5 + 0.5 * self._chance())
                log.warning("%s; trying again in %.1f s", fault, pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
            except TimeoutError:
                delay_s = min(delay_s * 2, LONGEST_DELAY_S)
            else:
                return None

    async def _rows(self, name: str, values: Mapping[str, object]) -> list[DictRow]:
        """Run one query in a transaction of its own, on a connection that is known to be clean."""
        async with self._turn:
            try:
                with declared():
                    async with asyncio.timeout(QUERY_TIMEOUT_S):
                        return await self._query(name, values)
            except TimeoutError:
                await self._disconnect()
                raise DatabaseUnavailable(
                    f"the database did not answer within {QUERY_TIMEOUT_S:.0f} s"
                ) from None
            except BaseException:
                await self._disconnect()
                raise

    async def _query(self, name: str, values: Mapping[str, object]) -> list[DictRow]:
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(
                self._url,
                autocommit=True,
                connect_timeout=10,
                application_name="smartsite deliver",
            )
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(SQL[name], values)
            return await cursor.fetchall() if cursor.description is not None else []

    async def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()
