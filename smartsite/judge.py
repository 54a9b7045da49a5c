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

from alerts.coverage import book_coverage
from alerts.violations import book
from detectors.detector import Said, concerning
from detectors.rules import Rules
from device_profiles.findings import Coverage, Finding
from ingest.segments import unpack
from ingest.store.queries import load_queries
from ingest.store.readings import (
    StoredDevice,
    last_observed,
    load_devices,
    readings_of_devices,
    readings_of_segments,
)
from smartsite.chain import Chain, Watch

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
        """Read the registry and put every detector where it stood when judging stopped.

        Args:
            now: The present time; aware.

        Returns:
            How many subjects are watched.
        """
        async with self._connection.transaction():
            devices = await load_devices(self._connection)
            self._devices = {device.id: device for device in devices}
            self._chain = Chain(self._rules, devices)
            cursor = await self._connection.execute(SQL["places"])
            self._places = dict(await cursor.fetchall())
            for watch in self._chain.watches.values():
                last = await last_observed(self._connection, watch.members)
                if last is not None and self._places:
                    await self._rebuild(watch, last, now)
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
        said = self._chain.advance(now - patience)
        if said:
            async with self._connection.transaction():
                await self._book(said, now)

    async def _judge_segments(self, worker: int, first: int, last: int, now: datetime) -> None:
        async with self._connection.transaction():
            readings = await readings_of_segments(
                self._connection, self._devices, worker, first, last
            )
            judged = self._chain.observe(readings)
            await self._book(judged.said, now)
            await self._save_place(worker, last + 1)
            for subject, since in judged.late.items():
                log.info("judging %s again: a reading of %s came late", subject.text, since)
                await self._rebuild(self._chain.watches[subject], since, now)

    async def _rebuild(self, watch: Watch, since: datetime, now: datetime) -> None:
        """Judge a subject anew from the last calm instant before a time, over what is stored.

        Readings of segments that were not judged yet are left to their turn.
        """
        subject = watch.subject
        lookback = watch.detector.lookback
        calm = since - lookback
        cursor = await self._connection.execute(
            SQL["opened_before"],
            {"rule": subject.rule, "site": subject.site, "subject": subject.text, "at": calm},
        )
        row = await cursor.fetchone()
        if row is not None and row[0] is not None:
            calm = row[0]
        detector = self._chain.new_detector(watch.members, calm - lookback)
        said: list[Said] = []
        async for reading in readings_of_devices(
            self._connection, watch.members, calm - lookback, now + FAR_FUTURE
        ):
            if reading.source.number < self._places.get(reading.source.worker, 1):
                said.extend(detector.observe(reading))
        watch.detector = detector
        await self._book(concerning(said, calm), now)

    async def _book(self, said: Sequence[Said], now: datetime) -> None:
        findings = [item for item in said if isinstance(item, Finding)]
        if findings:
            await book(self._connection, findings, now, unpack=unpack)
        spans = [item for item in said if isinstance(item, Coverage)]
        if spans:
            await book_coverage(self._connection, spans)

    async def _newest(self) -> dict[int, tuple[int, datetime]]:
        cursor = await self._connection.execute(READING_SQL["newest_segments"])
        return {worker: (number, received) for worker, number, received in await cursor.fetchall()}

    async def _save_place(self, worker: int, number: int) -> None:
        await self._connection.execute(
            SQL["save_place"], {"worker_id": worker, "next_number": number}
        )
        self._places[worker] = number
