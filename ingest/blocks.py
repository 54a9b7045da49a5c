"""Blocks: readings of one kind gathered as columns and written as PostgreSQL's binary COPY.

A row of binary COPY is a count of fields, then for each field its length and its bytes; NULL
is the length -1 and no bytes. A block lays every row out at full width in one numpy record
array, every field present, and then drops the bytes of what is NULL with one boolean mask:
no Python runs per row or per value. Only rows with text of varying length (alarms, unknown
names) are finished one by one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from device_profiles.decoding.times import AT_RECEIPT
from device_profiles.readings import Telemetry
from device_profiles.vocabulary import QUANTITIES, Kind

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"
POSTGRES_EPOCH_US = 946_684_800_000_000
"""PostgreSQL counts time from 2000-01-01 UTC."""

TEXT_OID = 25

_EXTRA = msgspec.json.Decoder(dict[str, msgspec.Raw])

KEY_COLUMNS = (
    "device_id",
    "series",
    "observed_at",
    "reported_at",
    "received_at",
    "worker_id",
    "segment",
    "segment_index",
    "seq",
)
_KEY_TYPES = (">i4", ">i2", ">i8", ">i8", ">i8", ">i2", ">i8", ">i4", ">i8")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def table_of(kind: Kind) -> str:
    """The table readings of a kind are stored in."""
    return f"{kind}_readings"


def columns_of(kind: Kind) -> tuple[str, ...]:
    """The columns a block of this kind writes, in the order it writes them."""
    tail = ("alarms", "extra") if kind is Kind.CRANE else ("extra",)
    return (*KEY_COLUMNS, *(quantity.name for quantity in QUANTITIES[kind]), *tail)


@dataclass(frozen=True, slots=True)
class Met:
    """A row that met an earlier reading of the same key, in its block or stored.

    Attributes:
        device_id: The registry's number.
        index: Position of its message in the segment.
        merged: Whether it brought quantities the earlier one lacked.
        conflicts: Quantities with another value than the first, and that value as text.
        series: Of its key; known where it met a row of its own block.
        observed_us: Of its key, microseconds since 1970 UTC; likewise.
    """

    device_id: int
    index: int
    merged: bool
    conflicts: dict[str, str]
    series: int = 0
    observed_us: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one kind, as it was read: before anything is refused or folded.

    Attributes:
        index: For each reading, the position of its message in the segment.
        device_id: The registry's number.
        series: What its time means.
        reported_us: The device's time.
        observed_us: The same, repaired.
        received_us: When it came.
        believed: Whether its time is.
        seq: The device's own number of it.
    """

    index: Ints
    device_id: Ints
    series: Ints
    reported_us: Ints
    observed_us: Ints
    received_us: Ints
    believed: npt.NDArray[np.bool_]
    seq: list[int | None]


class _Layout:
    """The record of one row at full width."""

    def __init__(self, kind: Kind) -> None:
        names = columns_of(kind)
        types = (*_KEY_TYPES, *(">f8",) * len(QUANTITIES[kind]))
        fields: list[tuple[str, str]] = [("fields", ">i2")]
        for name, type_ in zip(names, types, strict=False):
            fields += [(f"{name}#", ">i4"), (name, type_)]
        if kind is Kind.CRANE:
            # An array without elements: dimensions 0, no NULLs, type text.
            fields += [("alarms#", ">i4"), ("alarms", "V12")]
        fields.append(("extra#", ">i4"))
        self.dtype = np.dtype(fields)
        self.kind = kind
        self.has_alarms = kind is Kind.CRANE
        self.quantities = [quantity.name for quantity in QUANTITIES[kind]]
        template = np.zeros((), self.dtype)
        template["fields"] = len(names)
        for name, type_ in zip(names, types, strict=False):
            template[f"{name}#"] = np.dtype(type_).itemsize
        if self.has_alarms:
            template["alarms#"] = 12
            template["alarms"] = np.frombuffer(struct.pack(">iiI", 0, 0, TEXT_OID), "V12")[0]
        template["extra#"] = -1
        self.template = template

    def span(self, name: str) -> slice:
        """Byte span of a field's value in a row."""
        offset = self.dtype.fields[name][1]  # type: ignore[index]  # a record dtype has fields
        return slice(offset, offset + self.dtype[name].itemsize)


_LAYOUTS = {kind: _Layout(kind) for kind in QUANTITIES}


class Block:
    """Readings of one kind, gathered row by row and encoded at once.

    Attributes:
        kind: Of the devices.
        indices: For each row, the position of its message in the segment.
        device_ids: For each row, the registry's number of the device.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.device_ids: list[int] = []
        self.indices: list[int] = []
        self._readings: list[Telemetry] = []

    def __len__(self) -> int:
        return len(self.indices)

    def add(self, device_id: int, index: int, reading: Telemetry) -> None:
        """Take one reading in.

        Args:
            device_id: The registry's number of the device.
            index: Position of the message in the segment.
            reading: What was decoded.
        """
        self.device_ids.append(device_id)
        self.indices.append(index)
        self._readings.append(reading)

    def columns(self, received_us: Ints) -> Columns:
        """Turn what was gathered into columns.

        Args:
            received_us: For each message of the segment, microseconds since 1970 UTC.

        Returns:
            The block's columns. A reading without a time of its own has that of its receipt.
        """
        readings = self._readings
        count = len(readings)
        width = len(QUANTITIES[self.kind])
        values = np.fromiter(
            (value for reading in readings for value in reading.values), np.float64, count * width
        ).reshape(count, width)
        index = np.array(self.indices, np.int64)
        reported_us = np.fromiter((r.reported_us for r in readings), np.int64, count)
        timeless = np.flatnonzero(reported_us == AT_RECEIPT)
        if len(timeless):
            reported_us[timeless] = self._times_of_receipt(timeless, received_us[index])
        return Columns(
            kind=self.kind,
            device_id=np.array(self.device_ids, np.int64),
            series=np.fromiter((r.series for r in readings), np.int64, count),
            reported_us=reported_us,
            received_us=received_us[index],
            index=index,
            seq=[r.seq for r in readings],
            values=values,
            alarms=[r.alarms for r in readings],
            extra=[r.extra for r in readings],
        )

    def _times_of_receipt(self, rows: Ints, received_us: Ints) -> list[int]:
        """Times for readings without one of their own.

        What is read from the socket at once has one time of receipt: a device's messages in it are
        a microsecond apart, lest the first alone is kept.
        """
        latest: dict[tuple[int, int, int], tuple[int, int]] = {}
        times = []
        for row in rows.tolist():
            us, message = int(received_us[row]), self.indices[row]
            key = self.device_ids[row], self._readings[row].series, us
            before, later_us = latest.get(key, (message, 0))
            later_us += before != message
            latest[key] = message, later_us
            times.append(us + later_us)
        return times


class Columns:
    """A block as columns: one entry a row in each, times in microseconds since 1970 UTC."""

    def __init__(
        self,
        *,
        kind: Kind,
        device_id: Ints,
        series: Ints,
        reported_us: Ints,
        received_us: Ints,
        index: Ints,
        seq: list[int | None],
        values: Floats,
        alarms: list[tuple[str, ...] | None],
        extra: list[bytes | None],
    ) -> None:
        self.kind = kind
        self.device_id = device_id
        self.series = series
        self.reported_us = reported_us
        self.observed_us = reported_us
        self.received_us = received_us
        self.index = index
        self.seq = seq
        self.values = values
        self.alarms = alarms
        self.extra = extra

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, mask: npt.NDArray[np.bool_]) -> None:
        """Drop the rows where `mask` is false."""
        self.device_id = self.device_id[mask]
        self.series = self.series[mask]
        self.reported_us = self.reported_us[mask]
        self.observed_us = self.observed_us[mask]
        self.received_us = self.received_us[mask]
        self.index = self.index[mask]
        self.values = self.values[mask]
        kept = mask.tolist()
        self.seq = [x for x, keep in zip(self.seq, kept, strict=True) if keep]
        self.alarms = [x for x, keep in zip(self.alarms, kept, strict=True) if keep]
        self.extra = [x for x, keep in zip(self.extra, kept, strict=True) if keep]

    def fold(self) -> list[Met]:
        """Leave one row of each key: later rows of it are merged into the first.

        Returns:
            The rows that are gone, in the order they came.
        """
        order = np.lexsort((self.observed_us, self.series, self.device_id))
        keys = (self.device_id[order], self.series[order], self.observed_us[order])
        same = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
        if not same.any():
            return []
        keep = np.ones(len(self), np.bool_)
        met: list[tuple[int, Met]] = []
        first = -1
        for place, double in enumerate(same.tolist()):
            if not double:
                continue
            if place == 0 or not same[place - 1]:
                first = int(order[place])
            row = int(order[place + 1])
            keep[row] = False
            met.append((row, self._fold(first, row)))
        self.keep(keep)
        return [one for _, one in sorted(met, key=lambda pair: pair[0])]

    def _fold(self, first: int, row: int) -> Met:
        mine, other = self.values[first], self.values[row]
        lacking = np.isnan(mine) & ~np.isnan(other)
        differing = ~np.isnan(mine) & ~np.isnan(other) & (mine != other)
        names = [quantity.name for quantity in QUANTITIES[self.kind]]
        conflicts = {
            names[place]: repr(float(other[place])) for place in np.flatnonzero(differing).tolist()
        }
        merged = bool(lacking.any())
        mine[lacking] = other[lacking]
        if self.seq[first] is None:
            self.seq[first] = self.seq[row]
        if self.alarms[first] is None:
            merged |= self.alarms[row] is not None
            self.alarms[first] = self.alarms[row]
        elif self.alarms[row] not in (None, self.alarms[first]):
            conflicts["alarms"] = repr(self.alarms[row])
        had, has = self.extra[first], self.extra[row]
        if has is not None and has != had:
            known = {} if had is None else _EXTRA.decode(had)
            given = _EXTRA.decode(has)
            if not given.keys() <= known.keys():
                merged = True
                self.extra[first] = msgspec.json.encode(given | known)
            if any(known[name] != value for name, value in given.items() if name in known):
                conflicts["extra"] = has.decode()
        return Met(
            int(self.device_id[row]),
            int(self.index[row]),
            merged,
            conflicts,
            int(self.series[row]),
            int(self.observed_us[row]),
        )

    def encode(self, worker_id: int, segment: int) -> bytes:
        """Write the rows as binary COPY, header and trailer included.

        Args:
            worker_id: Who writes.
            segment: Number of the segment the rows come from.

        Returns:
            What `COPY … FROM STDIN (FORMAT BINARY)` reads, columns as in `columns_of`.
        """
        layout = _LAYOUTS[self.kind]
        count = len(self)
        rows: Any = np.full(count, layout.template)
        rows["device_id"] = self.device_id
        rows["series"] = self.series
        rows["observed_at"] = self.observed_us - POSTGRES_EPOCH_US
        rows["reported_at"] = self.reported_us - POSTGRES_EPOCH_US
        rows["received_at"] = self.received_us - POSTGRES_EPOCH_US
        rows["worker_id"] = worker_id
        rows["segment"] = segment
        rows["segment_index"] = self.index
        raw = rows.view(np.uint8).reshape(count, layout.dtype.itemsize)
        keep = np.ones(raw.shape, np.bool_)

        def null(name: str, where: npt.NDArray[np.bool_]) -> None:
            if where.any():
                rows[f"{name}#"][where] = -1
                keep[where, layout.span(name)] = False

        null("reported_at", self.reported_us == self.observed_us)
        no_seq = np.array([number is None for number in self.seq])
        rows["seq"] = [number or 0 for number in self.seq]
        null("seq", no_seq)
        for place, name in enumerate(layout.quantities):
            column = self.values[:, place]
            rows[name] = column
            null(name, np.isnan(column))
        if layout.has_alarms:
            null("alarms", np.array([names is None for names in self.alarms]))
        tails = {
            row: self._tail(row, layout.has_alarms)
            for row in range(count)
            if self.alarms[row] or self.extra[row] is not None
        }
        if not tails:
            return b"".join((COPY_HEADER, raw[keep].tobytes(), COPY_TRAILER))
        cut = layout.dtype.fields["alarms#" if layout.has_alarms else "extra#"][1]  # type: ignore[index]
        keep[list(tails), cut:] = False
        flat = memoryview(raw[keep].tobytes())
        ends = np.cumsum(keep.sum(axis=1))
        pieces: list[bytes | memoryview] = [COPY_HEADER]
        start = 0
        for row, tail in tails.items():
            end = int(ends[row])
            pieces += (flat[start:end], tail)
            start = end
        pieces += (flat[start:], COPY_TRAILER)
        return b"".join(pieces)

    def _tail(self, row: int, has_alarms: bool) -> bytes:
        tail = b""
        if has_alarms:
            alarms = self.alarms[row]
            encoded = None if alarms is None else _text_array(alarms)
            tail = _field(encoded)
        extra = self.extra[row]
        return tail + _field(None if extra is None else b"\x01" + extra)


def _field(value: bytes | None) -> bytes:
    return b"\xff\xff\xff\xff" if value is None else struct.pack(">i", len(value)) + value


def _text_array(texts: tuple[str, ...]) -> bytes:
    """PostgreSQL's binary text[]: dimensions, has NULLs, element type, length, lower bound."""
    if not texts:
        return struct.pack(">iiI", 0, 0, TEXT_OID)
    head = struct.pack(">iiIii", 1, 0, TEXT_OID, len(texts), 1)
    return head + b"".join(_field(text.encode("utf-8")) for text in texts)
