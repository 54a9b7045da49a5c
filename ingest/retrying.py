"""The way back from quarantine: what was put aside is read again, with today's eyes.

After a registration, a profile or a clock was mended, the messages of quarantine rows are
taken out of their raw segments, gathered as if they had just come, and what they now hold is
written by the careful way into a new segment of the worker `retry`: with the time they were
received at, and flagged, so that no recording holds them twice.

All open rows of a message are handled together. A message whose faults are the same as before
is left alone. Otherwise its rows are resolved, and what is still refused gets new rows, in one
transaction with the new segment; so a retry may be killed anywhere and run again.

The balance adds up at any moment. What was received is history; the units the resolved rows
held are now stored, merged, duplicate, conflict, or put aside once more. A message that could
not be read at all counted as one unit: the new segment's `readings` is the difference, which is
below zero where the message turns out to be no reading (a status), and zero where nothing but
the fate of its units changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from device_profiles.errors import Reason
from device_profiles.native import microseconds
from ingest.blocks import Met
from ingest.errors import RetryUnderWay, WorkerTaken
from ingest.frame_store import FrameStore
from ingest.frames import (
    FrameFlush,
    FrameOutcome,
    fetched,
    keep_pictures,
    read_frames,
    write_frame_rows,
)
from ingest.pipeline import (
    Arrivals,
    Flush,
    Quarantined,
    Scope,
    TimeLimits,
    gather,
    hour_of,
    what_became_of,
)
from ingest.profiles import Readers
from ingest.registry import UNKNOWN_DEVICE, Routes, load_routes
from ingest.reports import Report, read_reports
from ingest.segments import Flag, Segment, unpack
from ingest.store.days import days_of
from ingest.store.merging import merge
from ingest.store.queries import load_queries
from ingest.store.worker import REFUSED, Worker, declared
from ingest.store.writer import add_exceptions, storable, write_rest

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).parent / "store" / "sql" / "quarantine.sql")

WORKER = "retry"
FRAMES_WORKER = "retry-frames"

ROWS_AT_ONCE = 20_000
BATCH_MESSAGES = 2_048
BATCH_BYTES = 16 * 1024 * 1024
"""What one transaction takes: bounds memory, and how long ingest may wait for it."""

CONFLICT = what_became_of(Met(0, 0, merged=False, conflicts={"": ""}))
"""As what a reading is counted that brought nothing but contradiction."""


@dataclass(slots=True)
class Retried:
    """What became of what was read again.

    Attributes:
        messages: How many were looked at.
        back: Messages of which nothing is refused any more.
        stored: Readings now stored, by kind; frames as "camera".
        merged: Readings whose further quantities were merged into a stored row.
        duplicates: Readings and frames that had been stored meanwhile.
        statuses: Statuses and events kept.
        refused: Rows of the quarantine still open, by reason, of what was looked at.
        cut: Messages above the limit, of which only the first bytes were kept.
        aged_out: Messages whose bytes are gone; their rows stay.
        damaged: Messages whose stored bytes do not match their hash.
        left: Frames not looked at, for want of the frame store.
    """

    messages: int = 0
    back: int = 0
    stored: Counter[str] = field(default_factory=Counter)
    merged: int = 0
    duplicates: int = 0
    statuses: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    aged_out: int = 0
    damaged: int = 0
    left: int = 0


class _Row(NamedTuple):
    """An open row of the quarantine."""

    id: int
    message: int
    received_at: datetime
    device_id: int | None
    scope: Scope
    reason: Reason
    detail: str
    field: str | None
    value: str | None
    units: int
    payload_bytes: int
    payload_sha256: bytes

    @property
    def hour(self) -> int:
        """Where it was counted."""
        return hour_of(microseconds(self.received_at))


@dataclass(slots=True)
class _Batch:
    """Messages to be read again, and for each its open rows.

    Attributes:
        arrivals: The messages.
        rows: Of message i, in the order they were written.
        hashes: Of frames: by message, the SHA-256 the picture lies under.
        size: Bytes of all payloads.
    """

    arrivals: Arrivals = field(default_factory=Arrivals)
    rows: list[list[_Row]] = field(default_factory=list)
    hashes: dict[int, bytes] = field(default_factory=dict)
    size: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_full(self) -> bool:
        return len(self) >= BATCH_MESSAGES or self.size >= BATCH_BYTES

    def add(
        self, topic: bytes, payload: bytes, flags: int, received_us: int, rows: list[_Row]
    ) -> int:
        """Take a message in; returns its position."""
        arrivals = self.arrivals
        index = len(arrivals)
        arrivals.topics.append(topic)
        arrivals.payloads.append(payload)
        arrivals.flags.append(flags | Flag.RETRIED)
        arrivals.received_us.append(received_us)
        if flags & Flag.TRUNCATED:
            arrivals.oversized[index] = (rows[0].payload_bytes, rows[0].payload_sha256)
        self.rows.append(rows)
        self.size += len(payload)
        return index

    def only(self, indices: Sequence[int]) -> _Batch:
        """The same with some of its messages."""
        if len(indices) == len(self):
            return self
        part = _Batch()
        for index in indices:
            arrivals = self.arrivals
            place = part.add(
                arrivals.topics[index],
                arrivals.payloads[index],
                arrivals.flags[index],
                arrivals.received_us[index],
                self.rows[index],
            )
            if index in self.hashes:
                part.hashes[place] = self.hashes[index]
        return part


@dataclass(slots=True)
class Found:
    """What reading one message again has found, in units of the balance.

    Attributes:
        stored: Readings that are rows now.
        quarantined: Readings refused.
        conflict: Readings that brought nothing but contradiction.
        merged: Readings that added quantities to a stored row.
        duplicate: Readings that were there.
    """

    stored: int = 0
    quarantined: int = 0
    conflict: int = 0
    merged: int = 0
    duplicate: int = 0

    @property
    def units(self) -> int:
        """All of them."""
        return self.stored + self.quarantined + self.conflict + self.merged + self.duplicate


def settle(found: Found, held: int, *, whole: bool) -> Found:
    """Say what the units of resolved rows have become.

    A message of which some readings were stored at once is found whole again: what it stored
    then meets itself and looks like a duplicate. As many units as its rows held have a new fate,
    no more.

    Args:
        found: What reading it again has found.
        held: Units of the balance its resolved rows held.
        whole: Nothing of the message could be read before: all that was found is new.

    Returns:
        What to count; its `units` less `held` is what was received beyond what is known.
    """
    if whole:
        return found
    left = max(0, held - found.stored)
    settled = Found(stored=found.stored)
    for name in ("quarantined", "conflict", "merged", "duplicate"):
        share = min(left, getattr(found, name))
        setattr(settled, name, share)
        left -= share
    return settled


def _faults(rows: Iterable[_Row | Quarantined]) -> Counter[tuple[object, ...]]:
    """What is wrong with a message, so that two readings of it can be compared.

    Contradictions are left out: they are found by writing, not by reading.
    """
    return Counter(
        (
            row.scope,
            row.reason,
            storable(row.detail),
            row.field and storable(row.field),
            row.value and storable(row.value),
        )
        for row in rows
        if row.reason != Reason.CONFLICT
    )


def _by_message(entries: Iterable[Quarantined]) -> defaultdict[int, list[Quarantined]]:
    found: defaultdict[int, list[Quarantined]] = defaultdict(list)
    for entry in entries:
        found[entry.index].append(entry)
    return found


async def retry(
    database_url: str,
    rows: Sequence[int],
    limits: TimeLimits,
    now: datetime,
    *,
    frames: FrameStore | None = None,
    readers: Readers | None = None,
    dry_run: bool = False,
    progress: Callable[[Retried], None] | None = None,
) -> Retried:
    """Read again what was put aside.

    Args:
        database_url: Password included.
        rows: Ids of quarantine rows; those resolved already are skipped.
        limits: Which times are believed.
        now: The present time; aware.
        frames: Where pictures lie; without it, frames are left alone.
        readers: The profiles in force; None: every device speaks the native contract.
        dry_run: Read, and write nothing: `stored` then counts all readings understood, also
            those that would turn out to be there.
        progress: Told after every transaction how far it is.

    Returns:
        What became of it; when this returns, it is committed.

    Raises:
        RetryUnderWay: Another process is at it.
        DatabaseUnavailable: What was committed by then stays; call again with the same rows.
    """
    retrying = _Retrying(database_url, limits, now, frames, readers, dry_run=dry_run)
    try:
        return await retrying.run(rows, progress)
    except WorkerTaken as fault:
        raise RetryUnderWay("another process reads quarantined messages again") from fault
    finally:
        await retrying.close()


class _Retrying:
    def __init__(
        self,
        database_url: str,
        limits: TimeLimits,
        now: datetime,
        frames: FrameStore | None,
        readers: Readers | None,
        *,
        dry_run: bool,
    ) -> None:
        self._worker = Worker(database_url, WORKER)
        self._frames_worker = Worker(database_url, FRAMES_WORKER)
        self._limits = limits
        self._now = now
        self._store = frames
        self._readers = Readers() if readers is None else readers
        self._dry_run = dry_run
        self._routes = Routes(())
        self._done = Retried()

    async def close(self) -> None:
        await self._worker.close()
        await self._frames_worker.close()

    async def run(self, rows: Sequence[int], progress: Callable[[Retried], None] | None) -> Retried:
        await self._worker.open()  # whoever holds its name is the only one to retry
        ids = sorted(set(rows))
        for start in range(0, len(ids), ROWS_AT_ONCE):
            async for batch in self._batches(ids[start : start + ROWS_AT_ONCE]):
                await self._renew_routes()
                await self._read_again(batch)
                if progress is not None:
                    progress(self._done)
        return self._done

    async def _renew_routes(self) -> None:
        """Read the registry anew: nobody may go on with old spans of clocks for long."""
        connection = await self._worker.open()
        with declared():
            self._routes = await load_routes(connection, self._readers)

    async def _batches(self, ids: list[int]) -> AsyncIterator[_Batch]:
        """Messages of some rows, as many as one transaction takes; pictures apart."""
        places = await self._fetch("places_of_open_rows", quarantine_ids=ids)
        readings, pictures = _Batch(), _Batch()
        for worker_id, number, indices in places:
            rows: defaultdict[int, list[_Row]] = defaultdict(list)
            for one in await self._fetch(
                "open_rows_of_messages", worker_id=worker_id, segment=number, indices=indices
            ):
                row = _Row(*one)
                rows[row.message].append(row)
            segment = await self._segment(worker_id, number, len(rows))
            if segment is None:
                continue
            for index, of_message in rows.items():
                is_frame = any(row.scope == Scope.FRAME for row in of_message)
                batch = pictures if is_frame else readings
                await self._add(batch, segment, index, of_message)
                if batch.is_full:
                    yield batch
                    readings, pictures = (readings, _Batch()) if is_frame else (_Batch(), pictures)
        for batch in (readings, pictures):
            if len(batch):
                yield batch

    async def _segment(self, worker_id: int, number: int, messages: int) -> Segment | None:
        """A segment's messages; what cannot be had any more is counted."""
        found = await self._fetch("body_of_segment", worker_id=worker_id, number=number)
        body, sha256 = found[0] if found else (None, b"")
        if body is None:
            self._done.aged_out += messages
            return None
        if hashlib.sha256(body).digest() != sha256:
            log.error("segment %d of worker %d was altered", number, worker_id)
            self._done.damaged += messages
            return None
        return await asyncio.to_thread(unpack, body)

    async def _add(self, batch: _Batch, segment: Segment, index: int, rows: list[_Row]) -> None:
        payload, flags = segment.payloads[index], segment.flags[index]
        sha256 = None
        if flags & Flag.FRAME:
            if self._store is None:
                self._done.left += 1
                return
            sha256 = payload
            try:
                payload = await asyncio.to_thread(self._store.get, sha256)
            except FileNotFoundError:
                self._done.aged_out += 1
                return
            except ValueError as fault:
                log.error("%s", fault)  # noqa: TRY400 - no bug of ours to trace
                self._done.damaged += 1
                return
        self._done.cut += bool(flags & Flag.TRUNCATED)
        place = batch.add(segment.topics[index], payload, flags, segment.received_us[index], rows)
        if sha256 is not None:
            batch.hashes[place] = sha256

    async def _read_again(self, batch: _Batch) -> None:
        """Read a batch; write what has changed of it."""
        is_frames = batch.rows[0][0].scope == Scope.FRAME
        flush = await self._frames_of(batch) if is_frames else self._gathered(batch)
        quarantined = _by_message(flush.quarantined)
        changed = []
        for index, rows in enumerate(batch.rows):
            self._done.messages += 1
            if _faults(rows) == _faults(quarantined[index]):
                self._done.refused.update(str(row.reason) for row in rows)
            else:
                changed.append(index)
        if not changed:
            return
        batch = batch.only(changed)
        if is_frames:
            await self._take_frames(batch)
        else:
            await self._take(batch)

    def _gathered(self, batch: _Batch) -> Flush:
        return gather(batch.arrivals, self._routes, self._limits, fold=False)

    async def _frames_of(self, batch: _Batch) -> FrameFlush:
        """Read pictures and reports; what a report points at has expired by now."""
        reports = await asyncio.to_thread(read_reports, batch.arrivals, self._routes)
        for index, report in reports.items():
            if isinstance(report, Report):
                reports[index] = await fetched(report, None)
        if self._store is not None and not self._dry_run:
            await asyncio.to_thread(keep_pictures, self._store, reports)
        return read_frames(batch.arrivals, batch.hashes, self._routes, self._limits, reports)

    async def _take(self, batch: _Batch) -> None:
        """Write a batch; what the database refuses is left where it is."""
        flush = self._gathered(batch)
        if self._dry_run:
            self._foresee(batch, flush.quarantined)
            for block in flush.blocks:
                self._done.stored[block.kind] += len(block)
            self._done.statuses += len(flush.statuses) + len(flush.events)
            return

        async def rows(connection: psycopg.AsyncConnection[Any]) -> _Taken:
            return await _write(connection, self._worker, batch, flush, self._now)

        try:
            taken = await self._worker.commit(
                flush.segment,
                batch.arrivals.received_us,
                rows,
                readings=lambda taken: taken.readings,
                once=False,
                observed_days=days_of(columns.observed_us for columns in flush.blocks),
            )
        except REFUSED as fault:
            if len(batch) == 1:
                log.warning("the database still refuses a message: %s", fault)
                self._done.refused.update(str(row.reason) for row in batch.rows[0])
                return
            middle = len(batch) // 2
            for half in (range(middle), range(middle, len(batch))):
                await self._take(batch.only(half))
            return
        if taken is not None:
            taken.add_to(self._done)

    async def _take_frames(self, batch: _Batch) -> None:
        flush = await self._frames_of(batch)
        if self._dry_run:
            self._foresee(batch, flush.quarantined)
            with_picture = sum(entry.report.picture is not None for entry in flush.reported)
            self._done.stored["camera"] += len(flush.pictures) + with_picture
            return

        async def rows(connection: psycopg.AsyncConnection[Any]) -> FrameOutcome:
            where = {
                "worker_id": self._frames_worker.id,
                "segment": self._frames_worker.next_number,
            }
            await _resolve(connection, where, batch, self._now)
            outcome = await write_frame_rows(connection, where, flush)
            await add_exceptions(connection, _taken_off(batch))
            return outcome

        outcome = await self._frames_worker.commit(
            flush.segment,
            batch.arrivals.received_us,
            rows,
            readings=0,
            once=False,
            observed_days=flush.days,
        )
        if outcome is not None:
            self._done.back += len(batch) - outcome.quarantined.total()
            self._done.stored["camera"] += outcome.stored
            self._done.duplicates += outcome.duplicates
            self._done.refused.update(map(str, outcome.quarantined.elements()))

    def _foresee(self, batch: _Batch, quarantined: list[Quarantined]) -> None:
        self._done.back += len(batch) - len({entry.index for entry in quarantined})
        self._done.refused.update(str(entry.reason) for entry in quarantined)

    async def _fetch(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        connection = await self._worker.open()
        with declared():
            async with connection.cursor(binary=True) as cursor:
                await cursor.execute(SQL[query], values)
                return await cursor.fetchall()


@dataclass(slots=True)
class _Taken:
    """What one transaction has written."""

    readings: int = 0
    stored: Counter[str] = field(default_factory=Counter)
    merged: int = 0
    duplicates: int = 0
    statuses: int = 0
    back: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def add_to(self, done: Retried) -> None:
        done.back += self.back
        done.stored.update(self.stored)
        done.merged += self.merged
        done.duplicates += self.duplicates
        done.statuses += self.statuses
        done.refused.update(self.refused)


async def _resolve(
    connection: psycopg.AsyncConnection[Any],
    where: dict[str, int],
    batch: _Batch,
    now: datetime,
) -> None:
    ids = [row.id for rows in batch.rows for row in rows]
    cursor = await connection.execute(
        SQL["resolve_quarantined"], where | {"quarantine_ids": ids, "now": now}
    )
    if cursor.rowcount != len(ids):
        # Whoever holds the worker's name is the only one to resolve rows.
        raise RuntimeError(f"{len(ids)} quarantine rows were open, {cursor.rowcount} still are")


def _taken_off(batch: _Batch) -> Counter[tuple[int, int, str]]:
    """What the rows of a batch were counted as, negative."""
    counts: Counter[tuple[int, int, str]] = Counter()
    for row in (row for rows in batch.rows for row in rows):
        match row.scope:
            case Scope.FRAME:
                what, count = "quarantined_frame", 1
            case Scope.STATUS:
                what, count = "quarantined_status", 1
            case Scope.VALUE if row.reason == Reason.CONFLICT:
                what, count = CONFLICT, row.units
            case Scope.VALUE:
                what, count = "refused_value", 1
            case _:
                what, count = "quarantined", row.units
        if count:
            counts[row.hour, row.device_id or UNKNOWN_DEVICE, what] -= count
    return counts


def _kept(
    entries: Iterable[Quarantined], scopes: tuple[Scope, ...], share: int
) -> Iterator[Quarantined]:
    """Entries of some scopes, holding no more units than their message's share."""
    for entry in entries:
        if entry.scope in scopes and entry.units:
            units = min(entry.units, share)
            share -= units
            yield replace(entry, units=units)
        else:
            yield entry


async def _write(
    connection: psycopg.AsyncConnection[Any],
    worker: Worker,
    batch: _Batch,
    flush: Flush,
    now: datetime,
) -> _Taken:
    """Write a batch: rows, resolution, what is still refused, and counts."""
    where = {"worker_id": worker.id, "segment": worker.next_number}
    await _resolve(connection, where, batch, now)
    found: defaultdict[int, Found] = defaultdict(Found)
    contradicted: defaultdict[int, list[Quarantined]] = defaultdict(list)
    devices: dict[int, int] = {}
    taken = _Taken(statuses=len(flush.statuses) + len(flush.events))
    for columns in flush.blocks:
        met = await merge(connection, columns.kind, columns.encode(worker.id, worker.next_number))
        for index, count in Counter(columns.index.tolist()).items():
            found[index].stored += count
        taken.stored[columns.kind] += len(columns) - len(met)
        devices |= dict(zip(columns.index.tolist(), columns.device_id.tolist(), strict=True))
        for one in met:
            of_message = found[one.index]
            of_message.stored -= 1
            match what_became_of(one):
                case "merged":
                    of_message.merged += 1
                case "duplicate":
                    of_message.duplicate += 1
                case _:
                    of_message.conflict += 1
            contradicted[one.index] += _contradictions(one, flush)
    refused = _by_message(flush.quarantined)
    quarantined: list[Quarantined] = []
    counts = _taken_off(batch)
    for (hour, device_id, what), count in flush.exceptions.items():
        if what in ("refused_value", "quarantined_status"):
            counts[hour, device_id, what] += count
    for index, rows in enumerate(batch.rows):
        of_message = found[index]
        of_message.quarantined = sum(entry.units for entry in refused[index])
        held = sum(row.units for row in rows)
        whole = any(row.scope == Scope.MESSAGE for row in rows)
        settled = settle(of_message, held, whole=whole)
        entries = [
            *_kept(refused[index], (Scope.MESSAGE, Scope.READING), settled.quarantined),
            *_kept(contradicted[index], (Scope.VALUE,), settled.conflict),
        ]
        quarantined += entries
        taken.readings += settled.units - held
        taken.merged += of_message.merged
        taken.duplicates += settled.duplicate
        taken.back += not entries
        taken.refused.update(str(entry.reason) for entry in entries)
        hour = hour_of(flush.received_us(index))
        number = devices.get(index, UNKNOWN_DEVICE)
        if refused[index]:
            number = refused[index][0].device_id or number
        for what, count in (
            ("quarantined", settled.quarantined),
            (CONFLICT, settled.conflict),
            ("merged", settled.merged),
            ("duplicate", settled.duplicate),
        ):
            if count:
                counts[hour, number, what] += count
    await write_rest(connection, where, flush, quarantined)
    await add_exceptions(
        connection, Counter({key: count for key, count in counts.items() if count})
    )
    return taken


def _contradictions(met: Met, flush: Flush) -> list[Quarantined]:
    units = 0 if met.merged else 1
    entries = []
    for name, value in met.conflicts.items():
        entries.append(
            Quarantined(
                met.index,
                Scope.VALUE,
                Reason.CONFLICT,
                f"{flush.labels[met.device_id]}: {name} {value} differs from what is stored for"
                " this time; the first stays",
                met.device_id,
                name,
                value[:80],
                units,
            )
        )
        units = 0
    return entries
