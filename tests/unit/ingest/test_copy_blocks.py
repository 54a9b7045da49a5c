"""Blocks: the bytes of binary COPY, read back by a reader that knows only PostgreSQL's format."""

import math
import struct
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_profiles.readings import Telemetry
from device_profiles.vocabulary import QUANTITIES, Kind
from ingest.blocks import KEY_COLUMNS, Block, columns_of, table_of

EPOCH_US = 946_684_800_000_000
KINDS = (Kind.DUST, Kind.CRANE)
NAN = math.nan

Row = dict[str, bytes | None]


def read_copy(data: bytes) -> list[list[bytes | None]]:
    """Read binary COPY by PostgreSQL's manual: signature, flags, extension, tuples, trailer."""
    assert data[:11] == b"PGCOPY\n\xff\r\n\0"
    flags, extension = struct.unpack_from(">ii", data, 11)
    assert flags == 0
    at = 19 + extension
    rows: list[list[bytes | None]] = []
    while True:
        (fields,) = struct.unpack_from(">h", data, at)
        at += 2
        if fields == -1:
            assert at == len(data)
            return rows
        row: list[bytes | None] = []
        for _ in range(fields):
            (length,) = struct.unpack_from(">i", data, at)
            at += 4
            if length == -1:
                row.append(None)
                continue
            assert length >= 0
            assert at + length <= len(data)
            row.append(data[at : at + length])
            at += length
        rows.append(row)


def read_texts(data: bytes) -> list[str]:
    """Read a binary text[] of at most one dimension."""
    dimensions, has_null, oid = struct.unpack_from(">iii", data)
    assert has_null == 0
    assert oid == 25
    if dimensions == 0:
        assert len(data) == 12
        return []
    assert dimensions == 1
    count, lower_bound = struct.unpack_from(">ii", data, 12)
    assert lower_bound == 1
    at, texts = 20, []
    for _ in range(count):
        (length,) = struct.unpack_from(">i", data, at)
        texts.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    assert at == len(data)
    return texts


class Given(NamedTuple):
    """One row as it goes in."""

    device_id: int
    message: int
    reading: Telemetry


MESSAGES = 4
RECEIVED_US = [EPOCH_US + 10**15 + 7 * number for number in range(MESSAGES)]


@st.composite
def rows_of(draw: st.DrawFn, kind: Kind) -> list[Given]:
    value = st.just(NAN) | st.floats(allow_nan=False, allow_infinity=False)
    width = len(QUANTITIES[kind])
    texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
    readings = st.builds(
        Telemetry,
        reported_us=st.integers(EPOCH_US, EPOCH_US + 3 * 10**15),
        values=st.tuples(*[value] * width),
        series=st.integers(0, 3),
        seq=st.none() | st.integers(-(2**63), 2**63 - 1),
        alarms=st.none() | st.lists(texts, max_size=3).map(tuple)
        if kind is Kind.CRANE
        else st.none(),
        extra=st.none() | st.binary(max_size=20),
    )
    one = st.builds(Given, st.integers(1, 2**31 - 1), st.integers(0, MESSAGES - 1), readings)
    return draw(st.lists(one, max_size=8))


def encode(kind: Kind, rows: list[Given], worker: int = 3, segment: int = 2**40) -> bytes:
    block = Block(kind)
    for row in rows:
        block.add(row.device_id, row.message, row.reading)
    assert len(block) == len(rows)
    columns = block.columns(np.array(RECEIVED_US, np.int64))
    assert len(columns) == len(rows)
    return columns.encode(worker, segment)


def number(data: bytes | None, format_: str) -> int | float | None:
    if data is None:
        return None
    (found,) = struct.unpack(f">{format_}", data)
    assert isinstance(found, int | float)
    return found


def check(kind: Kind, row: Row, given_: Given, worker: int, segment: int) -> None:
    device_id, message, reading = given_
    assert number(row["device_id"], "i") == device_id
    assert number(row["series"], "h") == reading.series
    assert number(row["observed_at"], "q") == reading.reported_us - EPOCH_US
    # The device's own time is written only where it was repaired.
    assert row["reported_at"] is None
    assert number(row["received_at"], "q") == RECEIVED_US[message] - EPOCH_US
    assert number(row["worker_id"], "h") == worker
    assert number(row["segment"], "q") == segment
    assert number(row["segment_index"], "i") == message
    assert number(row["seq"], "q") == reading.seq
    for quantity, value in zip(QUANTITIES[kind], reading.values, strict=True):
        assert number(row[quantity.name], "d") == (None if math.isnan(value) else value)
    extra = row["extra"]
    # A jsonb comes as its version, 1, and its text.
    assert extra == (None if reading.extra is None else b"\x01" + reading.extra)
    if kind is Kind.CRANE:
        alarms = row["alarms"]
        assert (None if alarms is None else tuple(read_texts(alarms))) == reading.alarms


def plain(kind: Kind, **changes: object) -> Given:
    width = len(QUANTITIES[kind])
    fields: dict[str, object] = {"reported_us": EPOCH_US, "values": (1.5,) * width}
    return Given(1, 0, Telemetry(**(fields | changes)))  # type: ignore[arg-type]


@given(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), rows_of(kind))))
@example((Kind.CRANE, [plain(Kind.CRANE, alarms=names) for names in (None, (), ("a",))]))
@example((Kind.CRANE, [plain(Kind.CRANE, alarms=(), extra=b"{}")]))
@example((Kind.DUST, [plain(Kind.DUST, extra=extra) for extra in (None, b"{}", b"", None)]))
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_what_was_given(drawn: tuple[Kind, list[Given]]) -> None:
    kind, rows = drawn
    found = read_copy(encode(kind, rows))
    assert len(found) == len(rows)
    names = columns_of(kind)
    for fields, row in zip(found, rows, strict=True):
        check(kind, dict(zip(names, fields, strict=True)), row, 3, 2**40)


@given(
    st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), rows_of(kind))), st.data()
)
@settings(max_examples=60, deadline=None)
def test_rows_dropped_are_not_written(drawn: tuple[Kind, list[Given]], data: st.DataObject) -> None:
    kind, rows = drawn
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    block = Block(kind)
    for row in rows:
        block.add(row.device_id, row.message, row.reading)
    columns = block.columns(np.array(RECEIVED_US, np.int64))
    columns.keep(np.array(mask, np.bool_))
    kept = [row for row, keep in zip(rows, mask, strict=True) if keep]
    assert columns.encode(1, 1) == encode(kind, kept, 1, 1)


def test_a_repaired_time_keeps_the_reported_one() -> None:
    block = Block(Kind.DUST)
    for row in [plain(Kind.DUST)] * 2:
        block.add(*row)
    columns = block.columns(np.array(RECEIVED_US, np.int64))
    columns.observed_us = columns.reported_us + np.array([0, 1_000_000])
    names = columns_of(Kind.DUST)
    same, moved = (dict(zip(names, row, strict=True)) for row in read_copy(columns.encode(1, 1)))
    assert same["reported_at"] is None
    assert number(moved["reported_at"], "q") == 0
    assert number(moved["observed_at"], "q") == 1_000_000


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_are_a_valid_copy(kind: Kind) -> None:
    assert read_copy(encode(kind, [])) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_columns_are_named_once_each(kind: Kind) -> None:
    names = columns_of(kind)
    assert len(set(names)) == len(names)
    assert names[: len(KEY_COLUMNS)] == KEY_COLUMNS
    assert table_of(kind) == f"{kind}_readings"
