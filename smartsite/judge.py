"""The judge: reads the rows of new segments in order, runs the chain, books what it says.

What is found live is provisional where data may still come. A reading older than what a
detector has settled makes the judge rebuild that one subject from the stored readings, from the
last instant with no episode open; booking finds the episodes again by overlap, and what is not
found again is withdrawn. A restart is the same thing for every subject at once. So what counts
is always the pure function over the stored readings, however they came.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from alerts.coverage import book_coverage
from alerts.violations import book, withdraw_unfound
from detectors.detector import Said
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
MOMENT = timedelta(microseconds=1)

COVERAGE_EVERY = timedelta(minutes=1)
"""How often coverage that still grows is written down: for people who look now, and so that a
restart has little to judge again."""

UNFOUND = "补全迟到数据后不再成立 (no longer holds now that late data has come)"


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
        self._covered_at: datetime | None = None
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
                    await self._resume(watch, last, now)
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
        newest = await self._newest()
        done = 0
        while spans := self._next(newest):
            self.behind = sum(
                number + 1 - self._places.get(worker, 1) for worker, (number, _) in newest.items()
            )
            await self._judge_segments(spans, now)
            done += sum(last - first + 1 for first, last in spans.values())
        self.behind = 0
        for _, received_to in newest.values():
            if self.judged_until is None or received_to > self.judged_until:
                self.judged_until = received_to
        return done

    async def tick(self, now: datetime, patience: timedelta) -> None:
        """Let silence count: what was to come by `now - patience` has come.

        Args:
            now: The present time; aware.
            patience: How long a reading may be under way.
        """
        said = self._chain.advance(now - patience)
        if self._covered_at is None or now - self._covered_at >= COVERAGE_EVERY:
            self._covered_at = now
            said += self._chain.pending()
        if said:
            async with self._connection.transaction():
                await self._book(said, now)

    def _next(self, newest: Mapping[int, tuple[int, datetime]]) -> dict[int, tuple[int, int]]:
        """The next segments of each worker that has any: what came together is judged together."""
        spans = {}
        for worker, (number, _) in newest.items():
            first = self._places.get(worker, 1)
            if first <= number:
                spans[worker] = (first, min(number, first + SEGMENTS_AT_ONCE - 1))
        return spans

    async def _judge_segments(self, spans: Mapping[int, tuple[int, int]], now: datetime) -> None:
        async with self._connection.transaction():
            readings = []
            for worker, (first, last) in spans.items():
                readings += await readings_of_segments(
                    self._connection, self._devices, worker, first, last
                )
            readings.sort(key=lambda reading: (reading.observed_at, reading.site, reading.device))
            judged = self._chain.observe(readings, now)
            await self._book(judged.said, now)
            for worker, (_, last) in spans.items():
                await self._save_place(worker, last + 1)
            for subject, since in judged.late.items():
                log.info("judging %s again: a reading of %s came late", subject.text, since)
                await self._rebuild(self._chain.watches[subject], since, now)

    async def _resume(self, watch: Watch, last: datetime, now: datetime) -> None:
        """Put a fresh detector where judging stopped; coverage not written down is said again."""
        cursor = await self._connection.execute(SQL["covered_to"], _named(watch))
        (covered_to,) = await cursor.fetchone() or (None,)
        calm = None
        if covered_to is not None:
            calm = await self._calm(watch, min(last, covered_to) - watch.detector.lookback)
        await self._book(await self._judge_again(watch, calm, now), now)

    async def _rebuild(self, watch: Watch, since: datetime, now: datetime) -> None:
        """Judge a subject anew from the last calm instant before a time, over what is stored."""
        calm = await self._calm(watch, since - watch.detector.lookback)
        said: list[Said] = [
            msgspec.structs.replace(span, to_at=min(span.to_at, calm))
            for span in watch.heed(watch.detector.pending)
            if isinstance(span, Coverage) and span.from_at < calm
        ]
        said += await self._judge_again(watch, calm, now)
        # The old detector may have decided on instants that only a tick had ended.
        settled_at = watch.detector.settled_at
        if settled_at is not None:
            over = settled_at + MOMENT
            until = over if watch.ticked_to is None else max(over, watch.ticked_to)
            said += watch.heed(watch.detector.advance(until))
        found = await self._book(said, now, anew=True)
        subject = watch.subject
        withdrawn = await withdraw_unfound(
            self._connection,
            rule=subject.rule,
            site=subject.site,
            devices=subject.devices,
            from_at=calm,
            to_at=now + FAR_FUTURE,
            found=found,
            now=now,
            reason=UNFOUND,
        )
        if withdrawn:
            log.info("%s: %d violations were withdrawn", subject.text, len(withdrawn))

    async def _calm(self, watch: Watch, at: datetime) -> datetime:
        """The last instant, not after another, at which no episode was open."""
        terms = _named(watch) | {"linger": self._chain.linger(watch)}
        while True:
            cursor = await self._connection.execute(SQL["opened_before"], terms | {"at": at})
            (opened_at,) = await cursor.fetchone() or (None,)
            if opened_at is None:
                return at
            at = opened_at  # where another one may have lasted

    async def _judge_again(self, watch: Watch, calm: datetime | None, now: datetime) -> list[Said]:
        """Resume a subject's detector at a calm instant, or begin it, over what was judged.

        Readings of segments that were not judged yet are left to their turn.
        """
        start = datetime.min.replace(tzinfo=UTC)
        since = None
        if calm is not None:
            since = calm - watch.detector.lookback
            cursor = await self._connection.execute(
                SQL["heard_before"],
                {"device_ids": [member.id for member in watch.members], "at": since},
            )
            (heard,) = await cursor.fetchone() or (False,)
            start = since
            if not heard:
                since = None  # it began with its first reading, and so it begins again
        watch.detector = self._chain.new_detector(watch.members, since)
        watch.resumed_at = calm
        said: list[Said] = []
        async for reading in readings_of_devices(
            self._connection, watch.members, start, now + FAR_FUTURE
        ):
            if reading.source.number < self._places.get(reading.source.worker, 1):
                said += watch.heed(watch.detector.observe(reading))
        return said

    async def _book(self, said: Iterable[Said], now: datetime, *, anew: bool = False) -> set[str]:
        """Book what was said; returns the violations it spoke of."""
        said = list(said)
        found: set[str] = set()
        findings = [item for item in said if isinstance(item, Finding)]
        if findings:
            booked = await book(self._connection, findings, now, unpack=unpack, anew=anew)
            found = {one.violation_id for one in booked}
        spans = [item for item in said if isinstance(item, Coverage)]
        if spans:
            await book_coverage(self._connection, spans)
        return found

    async def _newest(self) -> dict[int, tuple[int, datetime]]:
        cursor = await self._connection.execute(READING_SQL["newest_segments"])
        return {worker: (number, received) for worker, number, received in await cursor.fetchall()}

    async def _save_place(self, worker: int, number: int) -> None:
        await self._connection.execute(
            SQL["save_place"], {"worker_id": worker, "next_number": number}
        )
        self._places[worker] = number


def _named(watch: Watch) -> dict[str, object]:
    subject = watch.subject
    return {"rule": subject.rule, "site": subject.site, "subject": subject.text}
