"""Gaps in devices' numbering: what is missing, late, and begun anew, as one would count by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.blocks import Heard
from ingest.numbering import HOUR_US, MOST_MISSING, SeqBook, numbered

NOW_US = 1_800_000_000_000_000
HOUR = NOW_US - NOW_US % HOUR_US

Reading = tuple[int, int | None, int]
"""Device, number, time."""


def heard(readings: Sequence[Reading], unbelieved: Sequence[int] = ()) -> Heard:
    count = len(readings)
    observed = np.array([time for _, _, time in readings], np.int64)
    return Heard(
        index=np.arange(count),
        device_id=np.array([device for device, _, _ in readings], np.int64),
        series=np.zeros(count, np.int64),
        reported_us=observed,
        observed_us=observed,
        received_us=np.full(count, NOW_US),
        believed=~np.isin(np.arange(count), unbelieved),
        seq=[number for _, number, _ in readings],
    )


class Reader:
    """A process that reads flushes and commits them."""

    def __init__(self) -> None:
        self.book = SeqBook()

    def take(
        self,
        *readings: Reading,
        last: dict[int, tuple[int, int]] | None = None,
        repeated: Sequence[int] = (),
        unbelieved: Sequence[int] = (),
        commit: bool = True,
    ) -> dict[str, int]:
        """Count a flush; by what, of the one device that has exceptions."""
        page = self.book.open([heard(readings, unbelieved)])
        assert page is not None
        counts, standing = self.book.count(page, last or {}, Counter(repeated))
        assert {hour for hour, _, _ in counts} <= {HOUR}
        if commit:
            self.book.close(page, standing)
        return {what: count for (_, _, what), count in counts.items()}


def one(*numbers: int, at: int = 0) -> list[Reading]:
    return [(1, number, at + place) for place, number in enumerate(numbers)]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((5, 6, 7), {}),
        ((5, 5, 6), {}),
        ((5, 9), {"seq_missing": 3}),
        ((5, 7, 9), {"seq_missing": 2}),
        ((5, 5 + MOST_MISSING), {"seq_missing": MOST_MISSING - 1}),
        ((5, 6 + MOST_MISSING), {"seq_restart": 1}),
        ((5, 6, 0, 1), {"seq_restart": 1}),
        ((5, 0, 2), {"seq_restart": 1, "seq_missing": 1}),
        ((-(2**63), 2**63 - 1), {"seq_restart": 1}),
        ((2**63 - 1, -(2**63)), {}),
    ],
)
def test_numbers_in_order_of_time(numbers: tuple[int, ...], expected: dict[str, int]) -> None:
    assert Reader().take(*one(*numbers)) == expected
    reader = Reader()
    found: Counter[str] = Counter()
    for time, number in enumerate(numbers):
        found.update(reader.take((1, number, time)))
    assert found == expected


def test_what_is_missing_may_come_late() -> None:
    reader = Reader()
    assert reader.take((1, 5, 5), (1, 8, 8)) == {"seq_missing": 2}
    assert reader.take((1, 6, 6), (1, 9, 9), (1, 7, 7)) == {"seq_late": 2}
    assert reader.take((1, 10, 10)) == {}


def test_what_was_there_already_is_not_late() -> None:
    reader = Reader()
    reader.take(*one(5, 6, 7))
    assert reader.take((1, 6, 1), (1, 7, 2), (1, 8, 3), repeated=[0, 1]) == {}


def test_a_gap_is_counted_by_whoever_stored_what_follows_it() -> None:
    first, second = Reader(), Reader()
    first.take(*one(5, 6))
    second.take(*one(5, 6), repeated=[0, 1])
    assert first.take((1, 9, 9)) == {"seq_missing": 2}
    assert second.take((1, 9, 9), repeated=[0]) == {}
    beyond = 10 + MOST_MISSING
    assert second.take((1, beyond, 10)) == {"seq_restart": 1}
    assert first.take((1, beyond, 10), repeated=[0]) == {}
    assert first.take((1, beyond + 1, 11)) == {}


def test_a_number_is_heard_whose_time_is_not_believed() -> None:
    reader = Reader()
    assert reader.take(*one(5, 6, 7), unbelieved=[1]) == {}
    # Its time says nothing: an earlier number beside it is no new beginning.
    assert reader.take((1, 3, 10**18), unbelieved=[0]) == {"seq_late": 1}
    assert reader.take((1, 8, 3)) == {}


def test_what_is_not_committed_is_counted_again() -> None:
    reader = Reader()
    reader.take((1, 5, 5))
    for _ in range(3):
        assert reader.take((1, 9, 9), commit=False) == {"seq_missing": 3}
    assert reader.take((1, 6, 6)) == {}


def test_a_gap_over_a_restart_is_noticed() -> None:
    assert Reader().take((1, 9, 9), last={1: (5, 5)}) == {"seq_missing": 3}
    assert Reader().take((1, 0, 9), last={1: (5, 5)}) == {"seq_restart": 1}
    assert Reader().take((1, 4, 4), (1, 6, 6), last={1: (5, 5)}) == {"seq_late": 1}


def test_only_devices_not_heard_yet_are_asked_for() -> None:
    book = SeqBook()
    page = book.open([heard([(3, 1, 1), (1, 1, 1), (3, 2, 2)])])
    assert page is not None
    assert page.unheard == [1, 3]
    book.close(page, book.count(page, {}, Counter())[1])
    page = book.open([heard([(3, 3, 3), (2, 1, 1), (1, None, 5)])])
    assert page is not None
    assert page.unheard == [2]


def test_readings_without_numbers_are_left_alone() -> None:
    assert numbered([heard([(1, None, 0)] * 3), heard([])]) is None
    assert SeqBook().open([heard([(1, None, 0)])]) is None
    mixed = Reader().take((1, None, 0), (1, 4, 1), (1, None, 2), (1, 6, 3))
    assert mixed == {"seq_missing": 1}


def by_hand(flushes: Sequence[Sequence[Reading]]) -> Counter[tuple[int, int, str]]:
    counts: Counter[tuple[int, int, str]] = Counter()
    highest: dict[int, int] = {}
    newest: dict[int, int] = {}
    for device, number, time in (reading for flush in flushes for reading in flush):
        if number is None:
            continue
        if device in highest:
            step = number - highest[device]
            if step > 1:
                counts[HOUR, device, "seq_missing"] += step - 1
            restart = step < 0 and time > newest[device]
            if step < 0:
                counts[HOUR, device, "seq_restart" if restart else "seq_late"] += 1
            if step > 0 or restart:
                highest[device] = number
        else:
            highest[device] = number
        newest[device] = max(time, newest.get(device, time))
    return counts


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(1, 3), st.one_of(st.none(), st.integers(0, 12)), st.integers(0, 12)
            ),
            min_size=1,
            max_size=12,
        ),
        max_size=6,
    )
)
def test_blocks_are_counted_as_one_by_one(flushes: list[list[Reading]]) -> None:
    book = SeqBook()
    found: Counter[tuple[int, int, str]] = Counter()
    for flush in flushes:
        half = len(flush) // 2
        page = book.open([heard(flush[:half]), heard(flush[half:])])
        if page is not None:
            counts, standing = book.count(page, {}, Counter())
            book.close(page, standing)
            found += counts
    assert found == by_hand(flushes)
