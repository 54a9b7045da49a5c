"""The judge: reads the rows of new segments in order, runs the chain, books what it says.

What is found live is provisional where data may still come. A reading older than what a
detector has settled makes the judge rebuild that one subject from the stored readings, from the
last instant with no episode open; booking finds the episodes again by overlap, and what is not
found again is withdrawn. A restart is the same thing for every subject at once. So what counts
is always the pure function over the stored readings, however they came.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from alerts.coverage import book_coverage
from alerts.evidence import decode_evidence
from alerts.sharing import Sharing
from alerts.violations import book, withdraw_unfound
from detectors import clock, silence, units
from detectors.clock import ClockDetector
from detectors.detector import Said
from detectors.rules import Rules
from detectors.silence import SilenceDetector
from device_profiles.findings import Coverage, Finding, Severity
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
from smartsite.words import last_words, offsets_since, status_before, word_before, words_since

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

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any],
        rules: Rules,
        sharing: Sharing | None = None,
    ) -> None:
        """Begin; `start` has to be called first.

        Args:
            connection: In autocommit.
            rules: The settings of the rules.
            sharing: Makes copies of pictures for sharing; None: none are made.
        """
        self._connection = connection
        self._rules = rules
        self._sharing = sharing
        self._devices: dict[int, StoredDevice] = {}
        self._chain = Chain(rules, ())
        self._places: dict[int, int] = {}
        self._covered_at: datetime | None = None
        self.behind = 0
        self.judged_until: datetime | None = None

    async def start(self, now: datetime) -> int:
        """Read the registry and put every detector where it stood when judging stopped.

        Read again, after the registry has changed, detectors of what stayed the same go on.

        Args:
            now: The present time; aware.

        Returns:
            How many subjects are watched.
        """
        async with self._connection.transaction():
            devices = await load_devices(self._connection)
            self._devices = {device.id: device for device in devices}
            before, self._chain = self._chain, Chain(self._rules, devices)
            kept = self._chain.take_over(before)
            self._chain.listen(now)
            cursor = await self._connection.execute(SQL["places"])
            self._places = dict(await cursor.fetchall())
            fresh = [watch for subject, watch in self._chain.watches.items() if subject not in kept]
            if self._places:
                await self._resume_health(fresh, now)
            for watch in fresh:
                if not _is_health(watch):
                    last = await last_observed(self._connection, watch.members)
                    if last is not None and self._places:
                        await self._resume(watch, last, now)
            await self._let_go_retired(now)
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

    async def _resume_health(self, watches: Iterable[Watch[Any]], now: datetime) -> None:
        """Put fresh detectors of devices' health where judging stopped, all at once.

        What a device said last, and whether an episode was open, is all there is to know of its
        silence. Of a clock that is right nothing needs to be known.
        """
        watches = [watch for watch in watches if _is_health(watch)]
        devices = {watch.members[0].id: watch.members[0] for watch in watches}
        last = await last_words(self._connection, list(devices.values()), now)
        cursor = await self._connection.execute(
            SQL["lasting"], {"rules": [silence.RULE, clock.RULE]}
        )
        lasting = set(await cursor.fetchall())
        for watch in watches:
            subject, detector = watch.subject, watch.detector
            known = last[watch.members[0].id]
            is_open = (subject.rule, subject.site, subject.text) in lasting
            if isinstance(detector, SilenceDetector):
                detector.restore(known.word, known.status, is_open=is_open)
                self._chain.look_again(watch)
            elif known.word is not None and (is_open or known.word.clock_offset_s):
                calm = await self._calm(watch, known.word.observed_at)
                await self._book(await self._judge_again(watch, calm, now), now)

    async def _let_go_retired(self, now: datetime) -> None:
        """End what is open of the health of devices that are not judged any more."""
        cursor = await self._connection.execute(
            SQL["lasting_of_retired"], {"rules": [silence.RULE, clock.RULE, units.RULE]}
        )
        ended = [
            Finding(
                rule=rule,
                kind=kind,
                site=site,
                subject=subject,
                opened_at=opened_at,
                closed_at=max(opened_at, retired_at),
                severity=Severity(severity),
                measured=measured,
                message_zh=f"{message_zh}，其后设备停用",
                message_en=f"{message_en}, then the device was retired",
                evidence=tuple(entry.pointer for entry in decode_evidence(evidence)),
            )
            for (
                rule,
                kind,
                site,
                subject,
                opened_at,
                retired_at,
                severity,
                measured,
                message_zh,
                message_en,
                evidence,
            ) in await cursor.fetchall()
        ]
        await self._book(ended, now)

    async def _resume(self, watch: Watch[Any], last: datetime, now: datetime) -> None:
        """Put a fresh detector where judging stopped; coverage not written down is said again."""
        cursor = await self._connection.execute(SQL["covered_to"], _named(watch))
        (covered_to,) = await cursor.fetchone() or (None,)
        calm = None
        if covered_to is not None:
            calm = await self._calm(watch, min(last, covered_to) - watch.detector.lookback)
        await self._book(await self._judge_again(watch, calm, now), now)

    async def _rebuild(self, watch: Watch[Any], since: datetime, now: datetime) -> None:
        """Judge a subject anew from the last calm instant before a time, over what is stored."""
        at = since - watch.detector.lookback
        if isinstance(watch.detector, SilenceDetector):
            # Of a silence only the time of a word is calm: at any other it may be under way.
            device = watch.members[0]
            at = await word_before(self._connection, device, since) or device.registered_at or since
        calm = await self._calm(watch, at)
        pending = () if _is_health(watch) else watch.detector.pending
        said: list[Said] = [
            msgspec.structs.replace(span, to_at=min(span.to_at, calm))
            for span in watch.heed(pending)
            if isinstance(span, Coverage) and span.from_at < calm
        ]
        said += await self._judge_again(watch, calm, now)
        # The old detector may have decided on instants that only a tick had ended.
        settled_at = watch.detector.settled_at
        if settled_at is not None:
            over = settled_at + MOMENT
            until = over if watch.ticked_to is None else max(over, watch.ticked_to)
            said += watch.heed(watch.detector.advance(until))
        self._chain.look_again(watch)
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

    async def _calm(self, watch: Watch[Any], at: datetime) -> datetime:
        """The last instant, not after another, at which no episode was open."""
        terms = _named(watch) | {"linger": self._chain.linger(watch)}
        while True:
            cursor = await self._connection.execute(SQL["opened_before"], terms | {"at": at})
            (opened_at,) = await cursor.fetchone() or (None,)
            if opened_at is None:
                return at
            at = opened_at  # where another one may have lasted

    async def _judge_again(
        self, watch: Watch[Any], calm: datetime | None, now: datetime
    ) -> list[Said]:
        """Resume a subject's detector at a calm instant, or begin it, over what was judged.

        Readings of segments that were not judged yet are left to their turn.
        """
        watch.resumed_at = calm
        if calm is not None and _is_health(watch):
            return [item async for item in self._judge_health_again(watch, calm)]
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
        watch.detector = self._chain.new_detector(watch.members, since, watch.subject.rule)
        said: list[Said] = []
        async for reading in readings_of_devices(
            self._connection, watch.members, start, now + FAR_FUTURE
        ):
            if reading.source.number < self._places.get(reading.source.worker, 1):
                said += watch.heed(watch.detector.observe(reading))
        return said

    async def _judge_health_again(self, watch: Watch[Any], calm: datetime) -> AsyncIterator[Said]:
        device, connection = watch.members[0], self._connection
        if isinstance(watch.detector, SilenceDetector):
            online = await status_before(connection, device, calm)
            watch.detector = self._chain.new_silence(device, calm, online)
            async for word in words_since(connection, device, calm):
                for item in watch.heed(watch.detector.observe(word)):
                    yield item
        else:
            watch.detector = self._chain.new_clock(device, calm)
            for reading in await offsets_since(connection, device, calm):
                for item in watch.heed(watch.detector.observe(reading)):
                    yield item

    async def _book(self, said: Iterable[Said], now: datetime, *, anew: bool = False) -> set[str]:
        """Book what was said; returns the violations it spoke of."""
        said = list(said)
        found: set[str] = set()
        findings = [item for item in said if isinstance(item, Finding)]
        if findings:
            if self._sharing is not None:
                # Before they are booked: what is told of them names the copy.
                await self._sharing.share(self._connection, findings, now)
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


def _is_health(watch: Watch[Any]) -> bool:
    """Whether it is about the device itself, not about what it measures or shows."""
    return isinstance(watch.detector, SilenceDetector | ClockDetector)


def _named(watch: Watch[Any]) -> dict[str, object]:
    subject = watch.subject
    return {"rule": subject.rule, "site": subject.site, "subject": subject.text}
