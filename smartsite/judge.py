"""The judge: reads the rows of new segments in order, runs the chain, books what it says.

What is found live is provisional where data may still come. A reading older than what a
detector has seen makes the judge rebuild that one subject from the stored readings, from the
last instant with no episode open; booking finds the episodes again by overlap. A restart is
the same thing for every subject at once. So what counts is always the pure function over the
stored readings, however they came.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from alerts.violations import book, open_since

from alerts.coverage import book_coverage
from detectors.rules import Rules
from device_profiles.findings import Coverage, Finding
from ingest.store.queries import load_queries
from ingest.store.readings import (
    StoredDevice,
    load_devices,
    readings_of_devices,
    readings_of_segments,
)
from smartsite.chain import Chain, Outcome, Subject, Watch

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).with_name("judge.sql"))
READING_SQL = load_queries(
    Path(__file__).parent.parent / "ingest" / "store" / "sql" / "reading.sql"
)

SEGMENTS_AT_ONCE = 64
"""Most segments of one worker judged in one transaction: bounds memory after a long absence."""

FAR_FUTURE = timedelta(days=1)


class Judge:
    """The chain over a database.

    Attributes:
        behind: Segments stored and not judged yet, when last looked.
        judged_until: Receipt of the newest segment judged.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], rules: Rules) -> None:
        self._connection = connection
        self._rules = rules
        self._devices: dict[int, StoredDevice] = {}
        self._chain = Chain(rules, ())
        self._places: dict[int, int] = {}
        self.behind = 0
        self.judged_until: datetime | None = None

    async def start(self, now: datetime) -> int:
        """Read the registry and rebuild every subject from the last instant that was calm.

        Args:
            now: The present time; aware.

        Returns:
            How many subjects are watched.
        """
        async with self._connection.transaction():
            devices = await load_devices(self._connection)
            self._devices = {device.id: device for device in devices}
            self._chain = Chain(self._rules, devices)
            places = await self._load_places()
            newest = await self._newest()
            # Whatever lies below the places was judged; what came since is judged by the rebuild,
            # which reads all that is stored.
            judged_until = await self._received_at(places)
            for watch in list(self._chain.watches.values()):
                since = judged_until or now - watch.detector.lookback
                await self._rebuild(watch, since, now)
            await self._save_places({worker: number + 1 for worker, (number, _) in newest.items()})
        self.behind = 0
        if newest:
            self.judged_until = max(received for _, received in newest.values())
        for device, reason in self._chain.without_rule.items():
            log.warning("%s cannot be judged: %s", device, reason)
        return len(self._chain.watches)

    async def step(self, now: datetime) -> int:
        """Judge what is new.

        Args:
            now: The present time; aware.

        Returns:
            How many segments were judged; 0 when there is nothing new.
        """
        done = 0
        newest = await self._newest()
        self.behind = sum(
            number + 1 - self._places.get(worker, 1) for worker, (number, _) in newest.items()
        )
        for worker, (number, received_to) in newest.items():
            first = self._places.get(worker, 1)
            while first <= number:
                last = min(number, first + SEGMENTS_AT_ONCE - 1)
                await self._judge_segments(worker, first, last, now)
                done += last - first + 1
                first = last + 1
            if self.judged_until is None or received_to > self.judged_until:
                self.judged_until = received_to
        self.behind -= done
        return done

    async def tick(self, now: datetime, patience: timedelta) -> None:
        """Let silence count: what was to come by `now - patience` has come.

        Args:
            now: The present time; aware.
            patience: How long a reading may be under way.
        """
        outcomes = self._chain.advance(now - patience)
        if outcomes:
            async with self._connection.transaction():
                await self._book(outcomes, now)

    async def _judge_segments(self, worker: int, first: int, last: int, now: datetime) -> None:
        async with self._connection.transaction():
            readings = await readings_of_segments(
                self._connection, self._devices, worker, first, last
            )
            judged = self._chain.observe(readings)
            await self._book(judged.outcomes, now)
            for subject, since in judged.late.items():
                log.info("rebuilding %s: a reading of %s came late", subject, since)
                await self._rebuild(self._chain.watches[subject], since, now)
            await self._save_places({worker: last + 1})

    async def _rebuild(self, watch: Watch, since: datetime, now: datetime) -> None:
        """Judge a subject anew over all that is stored since the last calm instant."""
        subject = watch.subject
        opened = await open_since(
            self._connection, subject.rule, subject.site, subject.devices, since
        )
        start = min(since, opened or since) - watch.detector.lookback
        watch.detector = self._chain.new_detector(watch.members)
        watch.seen_until = None
        outcomes: list[Outcome] = []
        async for reading in readings_of_devices(
            self._connection, watch.members, start, now + FAR_FUTURE
        ):
            outcomes.extend(watch.detector.observe(reading))
            watch.seen_until = reading.observed_at
        await self._book(outcomes, now)

    async def _book(self, outcomes: Sequence[Outcome], now: datetime) -> None:
        findings = [outcome for outcome in outcomes if isinstance(outcome, Finding)]
        if findings:
            await book(self._connection, findings, now)
        spans = [outcome for outcome in outcomes if isinstance(outcome, Coverage)]
        if spans:
            await book_coverage(self._connection, spans)

    async def _load_places(self) -> dict[int, int]:
        cursor = await self._connection.execute(SQL["places"])
        self._places = dict(await cursor.fetchall())
        return self._places

    async def _received_at(self, places: dict[int, int]) -> datetime | None:
        cursor = await self._connection.execute(SQL["received_at_places"])
        row = await cursor.fetchone()
        return row[0] if row and places else None

    async def _newest(self) -> dict[int, tuple[int, datetime]]:
        cursor = await self._connection.execute(READING_SQL["newest_segments"])
        return {worker: (number, received) for worker, number, received in await cursor.fetchall()}

    async def _save_places(self, places: dict[int, int]) -> None:
        for worker, number in places.items():
            await self._connection.execute(
                SQL["save_place"], {"worker_id": worker, "next_number": number}
            )
        self._places.update(places)


def subject_text(subject: Subject) -> str:
    """How a finding names a subject of devices: joined by plus signs."""
    return "+".join(subject.devices)
