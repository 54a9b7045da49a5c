"""The balance: what was published is what was received is what became of it.

Every unit of it (a reading; a message that cannot be read counts as one) has one fate::

    received = stored + duplicate + merged + conflict + quarantined + aged_out

``received`` is counted before anything is decided about a message, and lies with the raw
segments. ``stored`` is asked of the tables, row by row. Only exceptions are counted when they
happen, by device and UTC hour of the message's receipt, and so is what has aged out: the balance
can be drawn for any hour since the first message. All numbers are read in one snapshot.

**How a span is exact.** Spans are aligned to hours, for exceptions are kept by the hour. Rows
are counted by their own time of receipt, and only rows of segments that touch the span are
looked at. What was received is the sum over segments that lie wholly inside; a segment cut by an
end of the span (one or two of each worker, and what came back from quarantine) is opened and
its messages are counted (`smartsite.recounting.cut`). Where that cannot be done, because the
bytes have aged out or the messages are read otherwise today, the balance says so instead of
guessing.

Pictures have a balance of their own, a message each. Their files age out without a count, so
below the age they are kept at, what is missing is not said to be lost.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import psycopg

from ingest.profiles import Readers
from ingest.registry import UNKNOWN_DEVICE, Routes
from ingest.retrying import FRAMES_WORKER, WORKER
from ingest.segments import unpack
from ingest.store.days import spans_of
from ingest.store.queries import load_queries
from smartsite.recounting import (
    Hours,
    Recount,
    SegmentFacts,
    cut,
    holds_pictures,
    recount,
    routes_of_all,
)

SQL = load_queries(Path(__file__).parent.parent / "ingest" / "store" / "sql" / "balance.sql")

HOUR = timedelta(hours=1)

FATES = ("stored", "duplicate", "merged", "conflict", "quarantined", "aged_out")
FRAME_FATES = ("frames_stored", "frames_duplicate", "frames_quarantined", "frameless_events")
OTHERS = ("refused_values", "statuses_quarantined", "seq_missing", "seq_restarts")

_COUNTED = {
    "duplicate": "duplicate",
    "merged": "merged",
    "conflict": "conflict",
    "quarantined": "quarantined",
    "aged_out": "aged_out",
    "duplicate_frame": "frames_duplicate",
    "quarantined_frame": "frames_quarantined",
    "frameless_event": "frameless_events",
    "refused_value": "refused_values",
    "quarantined_status": "statuses_quarantined",
    "seq_missing": "seq_missing",
    "seq_restart": "seq_restarts",
}
"""From what is counted to how it is shown. What came late is taken off what was missing."""

MOST_SPANS = 8
"""Rows observed on more scattered days than this are looked for in all the time between."""

By = Literal["device", "hour", "total"]


class Balance(msgspec.Struct, frozen=True):
    """Readings, one by one; a message that cannot be decoded counts as one.

    Attributes:
        received: As read from the socket, counted before anything is decided about them.
        stored: As `SELECT count(*)` of the tables says.
        duplicate: Were there already, equal.
        merged: Brought further quantities to a stored reading.
        quarantined: Put aside with a reason.
        redelivered: Messages the broker marked as sent before.
        conflict: Brought nothing but other values than those stored; in quarantine, too.
        aged_out: Were stored, and have been removed by the retention policy.
    """

    received: int
    stored: int
    duplicate: int
    merged: int
    quarantined: int
    redelivered: int
    conflict: int = 0
    aged_out: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether nothing is unaccounted for."""
        return self.received == (
            self.stored
            + self.duplicate
            + self.merged
            + self.conflict
            + self.quarantined
            + self.aged_out
        )


def read_balance(connection: psycopg.Connection[Any]) -> Balance:
    """Read the balance of a whole database, as one sum: every row is counted.

    Args:
        connection: An open connection.

    Returns:
        The balance over all that was ever received.
    """
    cursor = connection.execute(SQL["balance"])
    names = [column.name for column in cursor.description or ()]
    row = cursor.fetchone() or ()
    return Balance(**dict(zip(names, row, strict=True)))


def messages_written(connection: psycopg.Connection[Any], worker: str) -> int:
    """Count the messages a worker has written into segments.

    Args:
        connection: An open connection.
        worker: Its name.

    Returns:
        How many, of every channel.
    """
    row = connection.execute(SQL["messages_of_worker"], {"name": worker}).fetchone()
    return int(row[0]) if row else 0


def count_by_kind(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Count what is stored.

    Args:
        connection: An open connection.

    Returns:
        Rows of "dust" and "crane" readings and of "frames".
    """
    row = connection.execute(SQL["counts_by_kind"]).fetchone() or (0, 0, 0)
    return dict(zip(("dust", "crane", "frames"), row, strict=True))


class Named(NamedTuple):
    """A device as people name it.

    Attributes:
        site: Site id.
        device: Device id within the site.
    """

    site: str
    device: str


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of what came, of one device, in one hour, or altogether.

    Attributes:
        site: Site id; None where the device is unknown or it is a sum over devices.
        device: Device id; likewise.
        hour: Start of the UTC hour of receipt; None for a sum over hours.
        stored: Readings in the tables.
        duplicate: Readings that were there already, equal.
        merged: Readings that brought further quantities to a stored one.
        conflict: Readings that brought nothing but other values than those stored.
        quarantined: Readings, and messages that could not be read, put aside.
        aged_out: Readings removed by the retention policy.
        refused_values: Single values put aside; their readings are stored without them.
        statuses_quarantined: Statuses and events that could not be read.
        seq_missing: Readings the device numbered and that have not come, so far.
        seq_restarts: How often a device began its numbering anew.
        frames_stored: Pictures kept.
        frames_duplicate: Pictures that were there already.
        frames_quarantined: Messages on camera topics put aside.
        frameless_events: Messages on camera topics that brought an event and no picture.
    """

    site: str | None = None
    device: str | None = None
    hour: datetime | None = None
    stored: int = 0
    duplicate: int = 0
    merged: int = 0
    conflict: int = 0
    quarantined: int = 0
    aged_out: int = 0
    refused_values: int = 0
    statuses_quarantined: int = 0
    seq_missing: int = 0
    seq_restarts: int = 0
    frames_stored: int = 0
    frames_duplicate: int = 0
    frames_quarantined: int = 0
    frameless_events: int = 0


@dataclass(slots=True)
class Accounts:
    """The balance of a span, by device and hour.

    Attributes:
        start: Begin of the span, a full hour, UTC.
        end: Its end, exclusive, likewise.
        opened: Hour of the first message ever received; None: nothing was.
        devices: Names by number.
        counts: What became of what came, by device number (0: unknown) and hour.
        received: Units received in the span; None: not known by device.
        frames_received: Messages on camera topics; likewise.
        redelivered: Messages the broker marked as sent before; likewise.
        uncertain: What keeps the sums from being exact, a line each.
    """

    start: datetime
    end: datetime
    opened: datetime | None = None
    devices: dict[int, Named] = field(default_factory=dict)
    counts: dict[tuple[int, datetime], Counter[str]] = field(default_factory=dict)
    received: int | None = 0
    frames_received: int | None = 0
    redelivered: int | None = 0
    uncertain: list[str] = field(default_factory=list)

    def add(self, device_id: int, hour: datetime, what: str, count: int) -> None:
        """Count something."""
        key = device_id, hour.astimezone(UTC)
        self.counts.setdefault(key, Counter())[what] += count

    def total(self) -> Counter[str]:
        """The sums over all devices and hours."""
        total: Counter[str] = Counter()
        for counts in self.counts.values():
            total.update(counts)
        return total

    def missing(self) -> int | None:
        """Units received of which nothing is known; below zero: more than were received."""
        if self.received is None:
            return None
        total = self.total()
        return self.received - sum(total[fate] for fate in FATES)

    def frames_missing(self) -> int | None:
        """The same of pictures; those whose files have aged out are among them."""
        if self.frames_received is None:
            return None
        total = self.total()
        return self.frames_received - sum(total[fate] for fate in FRAME_FATES)

    def adds_up(self, frames_kept_from: datetime | None = None) -> bool | None:
        """Whether nothing is unaccounted for.

        Args:
            frames_kept_from: Pictures older than this have aged out; None: none have.

        Returns:
            The verdict; None where it cannot be told.
        """
        missing, frames = self.missing(), self.frames_missing()
        if missing is None or frames is None or self.uncertain:
            return None
        aged = frames > 0 and frames_kept_from is not None and self.start < frames_kept_from
        return missing == 0 and (frames == 0 or aged)

    def lines(self, by: By) -> list[Line]:
        """Show the counts.

        Args:
            by: What a line is of.

        Returns:
            The lines: by device in the order of their names, those unknown first; by hour.
        """
        sums: dict[tuple[Named | None, datetime | None], Counter[str]] = {}
        for (device_id, hour), counts in self.counts.items():
            name = self.devices.get(device_id) if by == "device" else None
            key = name, (hour if by == "hour" else None)
            sums.setdefault(key, Counter()).update(counts)
        ordered = sorted(sums.items(), key=lambda one: (one[0][0] or (), one[0][1] or self.start))
        return [
            Line(
                site=name.site if name else None,
                device=name.device if name else None,
                hour=hour,
                **{what: count for what, count in counts.items() if count},
            )
            for (name, hour), counts in ordered
        ]


class Difference(NamedTuple):
    """Where the tables and the bytes disagree.

    Attributes:
        site: Site id; None where the device is unknown.
        device: Device id; likewise.
        hour: UTC hour of receipt.
        what: "readings" or "frames".
        tables: What the tables account for.
        bytes: What the raw messages hold.
    """

    site: str | None
    device: str | None
    hour: datetime
    what: str
    tables: int
    bytes: int


@contextlib.contextmanager
def snapshot(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Open a connection that sees the database as it is now, however long it reads.

    Args:
        database_url: Password included.

    Yields:
        The connection, in a transaction that may only read.
    """
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield connection


def align(moment: datetime, *, up: bool = False) -> datetime:
    """Move a time to a full hour, UTC.

    Args:
        moment: Aware.
        up: To the next one rather than back.

    Returns:
        The hour.
    """
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour + HOUR if up and hour < moment else hour


@dataclass(slots=True)
class _Run:
    """Segments of one worker that follow each other."""

    worker_id: int
    first: int
    last: int
    days: set[date] | None = field(default_factory=set)

    def take(self, number: int, days: Iterable[date] | None) -> None:
        self.last = number
        if days is None:
            self.days = None
        elif self.days is not None:
            self.days.update(days)


class Auditor:
    """Draws the balance of a span.

    Args:
        connection: A snapshot, see `snapshot`.
        readers: The profiles in force; None: every device speaks the native contract.
    """

    def __init__(self, connection: psycopg.Connection[Any], readers: Readers | None = None) -> None:
        self._connection = connection
        devices = connection.execute(SQL["all_devices"]).fetchall()
        self._routes: Routes = routes_of_all(devices, readers)
        self.devices = {id_: Named(site, device) for id_, site, device, *_ in devices}
        """Names of all devices by number, retired ones included."""
        self._picture_workers: set[int] = set()
        self._retriers: set[int] = set()
        self._names: dict[int, str] = {}
        for id_, name, body in connection.execute(SQL["all_workers"]).fetchall():
            self._names[id_] = name
            if name in (WORKER, FRAMES_WORKER):
                self._retriers.add(id_)
            elif body is not None and holds_pictures(unpack(body)):
                self._picture_workers.add(id_)

    def draw(
        self,
        start: datetime | None,
        end: datetime | None,
        devices: Collection[int] | None = None,
    ) -> Accounts:
        """Draw the balance of a span.

        Args:
            start: Begin, moved back to a full hour; None: the first message ever received.
            end: End, exclusive, moved on to a full hour; None: the last message received.
            devices: Only of these, by number; what was received is then not known.

        Returns:
            The balance.
        """
        row = self._connection.execute(SQL["receipts"]).fetchone()
        first, last = row or (None, None)
        opened = align(first) if first else None
        if start is None:
            start = opened or align(datetime.now(UTC))
        if end is None:
            end = (last or start) + timedelta(microseconds=1)
        start = align(start)
        accounts = Accounts(
            start, max(start, align(end, up=True)), opened=opened, devices=self.devices
        )
        runs = self._add_received(accounts)
        for run in runs:
            self._add_stored(accounts, run)
        span = {"start": accounts.start, "end": accounts.end}
        for device_id, hour, what, count in self._connection.execute(
            SQL["exceptions_received"], span
        ).fetchall():
            if what == "seq_late":
                accounts.add(device_id, hour, "seq_missing", -count)
            elif what in _COUNTED:
                accounts.add(device_id, hour, _COUNTED[what], count)
        if devices is not None:
            accounts.counts = {
                key: counts for key, counts in accounts.counts.items() if key[0] in devices
            }
            accounts.received = accounts.frames_received = accounts.redelivered = None
            accounts.uncertain = []
        return accounts

    def _add_received(self, accounts: Accounts) -> list[_Run]:
        """Sum up what was received; returns the segments in which rows have to be looked for."""
        received = frames = redelivered = 0
        runs: list[_Run] = []
        torn: list[SegmentFacts] = []
        with self._connection.cursor("balance_segments", binary=True) as cursor:
            cursor.itersize = 10_000
            cursor.execute(SQL["segments_received"], {"start": accounts.start, "end": accounts.end})
            for *values, days in cursor:
                facts = SegmentFacts(*values)
                run = runs[-1] if runs else None
                if run and (run.worker_id, run.last + 1) == (facts.worker_id, facts.number):
                    run.take(facts.number, days)
                else:
                    runs.append(_Run(facts.worker_id, facts.number, facts.number))
                    runs[-1].take(facts.number, days)
                if facts.received_from < accounts.start or facts.received_to >= accounts.end:
                    torn.append(facts)
                    continue
                received += facts.readings
                redelivered += facts.redelivered
                if facts.worker_id in self._picture_workers:
                    frames += facts.messages
        for facts in torn:
            part = cut(self._connection, facts, accounts.start, accounts.end, self._routes)
            if part is None:
                accounts.uncertain.append(
                    f"segment {facts.number} of worker {self._names[facts.worker_id]!r} lies across"
                    " an end of the span and cannot be counted message by message"
                )
                continue
            received += part.readings
            redelivered += part.redelivered
            if facts.worker_id in self._picture_workers:
                frames += part.messages
        accounts.received, accounts.frames_received = received, frames
        accounts.redelivered = redelivered
        return runs

    def _add_stored(self, accounts: Accounts, run: _Run) -> None:
        spans = spans_of([None if run.days is None else sorted(run.days)])
        if len(spans) > MOST_SPANS:
            spans = [(spans[0][0], spans[-1][1])]
        for observed_from, observed_to in spans:
            values = {
                "worker_id": run.worker_id,
                "first": run.first,
                "last": run.last,
                "observed_from": observed_from,
                "observed_to": observed_to,
                "start": accounts.start,
                "end": accounts.end,
            }
            for query, what in (
                ("stored_dust", "stored"),
                ("stored_crane", "stored"),
                ("stored_frames", "frames_stored"),
            ):
                for device_id, hour, count in self._connection.execute(
                    SQL[query], values
                ).fetchall():
                    accounts.add(device_id, hour, what, count)

    def verify(
        self,
        accounts: Accounts,
        devices: Collection[int] | None = None,
        frames_kept_from: datetime | None = None,
    ) -> tuple[Recount, list[Difference]]:
        """Count the raw messages anew and compare, by device and hour.

        Args:
            accounts: As drawn from this very snapshot.
            devices: Only these were asked for.
            frames_kept_from: Pictures older than this have aged out; None: none have.

        Returns:
            What there is, and where the tables say otherwise, in the order of time.
        """
        found = recount(
            self._connection, accounts.start, accounts.end, self._routes, self._retriers
        )
        differences = [
            *self._compare(accounts, found.readings, "readings", FATES, found.unknown),
            *self._compare(accounts, found.frames, "frames", FRAME_FATES, found.unknown),
        ]
        kept = frames_kept_from
        return found, [
            difference
            for device_id, difference in sorted(differences, key=lambda one: one[1].hour)
            if (devices is None or device_id in devices)
            and not (
                difference.what == "frames"
                and kept is not None
                and difference.hour < kept
                and difference.tables < difference.bytes
            )
        ]

    def _compare(
        self,
        accounts: Accounts,
        found: Hours,
        what: str,
        fates: tuple[str, ...],
        unknown: Collection[datetime],
    ) -> Iterator[tuple[int, Difference]]:
        told = {key: sum(counts[fate] for fate in fates) for key, counts in accounts.counts.items()}
        for key in told.keys() | found.keys():
            device_id, hour = key
            tables, raw = told.get(key, 0), found.get(key, 0)
            if tables == raw or hour in unknown:
                continue
            name = self.devices.get(device_id) if device_id != UNKNOWN_DEVICE else None
            yield (
                device_id,
                Difference(
                    name.site if name else None,
                    name.device if name else None,
                    hour,
                    what,
                    tables,
                    raw,
                ),
            )
