"""Numbered readings of many devices: what was sent, and whether the store holds exactly that."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg

from device_profiles.sites import SiteFile
from ingest.registry import import_site_file
from ingest.segments import Segment, unpack
from simulators.fleet import device_id, fleet_file, site_id
from smartsite.balance import Balance, read_balance

SHOWN = 10
"""How many keys a failure names."""

STRANGER = -1
"""A device of nobody's ledger."""


class Key(NamedTuple):
    """One reading: which device, and its time in epoch milliseconds."""

    device: int
    at_ms: int


class Sent(NamedTuple):
    """What makes a reading's bytes, beside its key."""

    number: int
    padding: int


@dataclass
class Found:
    """What the store holds of a ledger's readings.

    Attributes:
        stored: Rows.
        lost: Readings without a row that the caller allowed to be lost.
        balance: Of the whole database.
    """

    stored: int
    lost: int
    balance: Balance

    def __str__(self) -> str:
        balance = self.balance
        return (
            f"{self.stored} stored, {self.lost} lost, {balance.duplicate} came again"
            f" ({balance.redelivered} marked so), {balance.quarantined} in quarantine"
        )


@dataclass
class Ledger:
    """Readings of a fleet of dust monitors; every value follows from the seed.

    Attributes:
        seed: Of the values, and of whatever dice the test throws.
        sites: How many.
        devices: Monitors on each.
        sent: What was handed to a publisher, acknowledged or not.
        acked_at: Of what the broker acknowledged, when we knew, seconds since 1970.
    """

    seed: int
    sites: int = 10
    devices: int = 4
    sent: dict[Key, Sent] = field(default_factory=dict)
    acked_at: dict[Key, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topics = [
            f"site/{site_id(site)}/dust/{device_id(device)}/telemetry".encode()
            for site in range(self.sites)
            for device in range(self.devices)
        ]
        self._last_ms = [0] * len(self.topics)
        self._numbers = [0] * len(self.topics)

    def register(self, database_url: str) -> None:
        """Tell the registry of the fleet."""
        with psycopg.connect(database_url) as connection:
            import_site_file(connection, self.site_file)

    @property
    def site_file(self) -> SiteFile:
        """Who is in the fleet."""
        return fleet_file(self.sites, self.devices)

    def site_toml(self) -> str:
        """The same as an operator's site file."""
        tables: list[str] = []
        for name, entries in self.site_file.model_dump(mode="json", exclude_defaults=True).items():
            for entry in entries:
                lines = [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
                tables.append("\n".join((f"[[{name}]]", *lines)))
        return "\n\n".join(tables)

    def draw(self, device: int, padding: int = 0) -> Key:
        """Make a device's next reading: at the present, or a millisecond after its last."""
        at_ms = max(int(time.time() * 1_000), self._last_ms[device] + 1)
        self._last_ms[device] = at_ms
        self._numbers[device] += 1
        key = Key(device, at_ms)
        self.sent[key] = Sent(self._numbers[device], padding)
        return key

    def values(self, key: Key) -> tuple[float, ...]:
        """A reading's PM10, noise and humidity."""
        mixed = (
            self.seed * 2_654_435_761 + key.device * 40_503 + self.sent[key].number * 9_973
        ) % 1_000_003
        return mixed % 9_999 / 10, 40 + mixed % 601 / 10, mixed % 1_001 / 10

    def payload(self, key: Key) -> bytes:
        """A reading's bytes; padded ones end in blanks, which JSON allows."""
        number, padding = self.sent[key]
        pm10, noise, humidity = self.values(key)
        text = (
            f'{{"ts":{key.at_ms},"seq":{number},"values":{{"pm10_ug_m3":{pm10:.1f},'
            f'"noise_db":{noise:.1f},"humidity_pct":{humidity:.1f}}}}}'
        )
        return text.encode().ljust(padding)

    def acknowledge(self, keys: Collection[Key]) -> None:
        """Remember what the broker has answered for."""
        self.acked_at.update(dict.fromkeys(keys, time.time()))

    def check(
        self,
        database_url: str,
        *,
        may_be_lost: Collection[Key] = (),
        alone: bool = True,
    ) -> Found:
        """Compare the store with what was acknowledged, key by key and value by value.

        Args:
            database_url: The store; everything that was sent is to be drained.
            may_be_lost: What the broker is known to forget.
            alone: Nobody else has sent anything.

        Returns:
            What there is.

        Raises:
            AssertionError: Naming the seed and the first keys that are not right.
        """
        with psycopg.connect(database_url) as connection:
            segments = dict(_segments(connection))
            seen: set[Key] = set()
            wrong: list[str] = []
            for key, values, where in self._rows(connection):
                if key.device == STRANGER and not alone:
                    continue
                if key in seen:
                    wrong.append(f"{key} is there twice")
                seen.add(key)
                if key not in self.sent:
                    wrong.append(f"{key} was never sent")
                    continue
                if values != self.values(key):
                    wrong.append(f"{key} holds {values}, not {self.values(key)}")
                worker, number, index = where
                segment = segments[worker, number]
                bytes_found = segment.topics[index], segment.payloads[index]
                if bytes_found != (self.topics[key.device], self.payload(key)):
                    wrong.append(f"{key}: its segment {where} holds {bytes_found!r:.200}")
            balance = read_balance(connection)
        missing = sorted(self.acked_at.keys() - seen)
        lost = [key for key in missing if key not in set(may_be_lost)]
        said = f"seed {self.seed}: "
        assert not lost, (
            f"{said}{len(lost)} of {len(self.acked_at)} acknowledged readings are lost,"
            f" the first {lost[:SHOWN]}; {balance}"
        )
        assert not wrong, f"{said}{len(wrong)} rows are wrong, the first {wrong[:SHOWN]}"
        assert balance.adds_up, f"{said}{balance}"
        if alone:
            assert balance.stored == len(seen), f"{said}{balance}"
            assert balance.quarantined + balance.conflict + balance.merged == 0, f"{said}{balance}"
            messages = sum(len(segment.topics) for segment in segments.values())
            assert balance.received == messages, f"{said}{messages} messages; {balance}"
        return Found(len(seen), len(missing), balance)

    def stored(self, database_url: str) -> set[Key]:
        """What is stored by now."""
        with psycopg.connect(database_url) as connection:
            return {key for key, _, _ in self._rows(connection)}

    def _rows(
        self, connection: psycopg.Connection[Any]
    ) -> Iterator[tuple[Key, tuple[float, ...], tuple[int, int, int]]]:
        """Key, values and place (worker, segment, index) of every row."""
        places = {
            (site_id(site), device_id(device)): site * self.devices + device
            for site in range(self.sites)
            for device in range(self.devices)
        }
        with connection.cursor(name="rows") as cursor:
            cursor.execute(
                "SELECT d.site_id, d.device, (extract(epoch FROM r.observed_at) * 1000)::bigint,"
                " r.pm10_ug_m3, r.noise_db, r.humidity_pct, r.worker_id, r.segment, r.segment_index"
                " FROM dust_readings r JOIN devices d ON d.id = r.device_id"
            )
            for site, device, at_ms, pm10, noise, humidity, *where in cursor:
                key = Key(places.get((site, device), STRANGER), at_ms)
                worker, number, index = where
                yield key, (pm10, noise, humidity), (worker, number, index)


def _segments(
    connection: psycopg.Connection[Any],
) -> Iterator[tuple[tuple[int, int], Segment]]:
    """Every segment, checked against its hash, its counts, and its neighbours' numbers."""
    last: dict[int, int] = {}
    with connection.cursor(name="segments") as cursor:
        cursor.execute(
            "SELECT worker_id, number, messages, sha256, body FROM segments"
            " ORDER BY worker_id, number"
        )
        for worker, number, messages, sha256, body in cursor:
            assert number == last.get(worker, 0) + 1, f"no segment before {worker}/{number}"
            last[worker] = number
            assert hashlib.sha256(body).digest() == sha256
            segment = unpack(body)
            assert len(segment.topics) == messages
            yield (worker, number), segment
