"""Gaps in devices' own numbering: what they sent and nobody received.

A device may number its readings (`seq`). Where a number follows the highest one heard with
others between, those are missing; one of them that comes later is late; a lower number at a
later time says that the device began anew. The highest numbers are kept in memory and moved on
only after a commit; what a process has not heard yet is asked of the database, so that a gap over
a restart is noticed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ingest.blocks import Heard, Ints
from ingest.clocks import Slots

MOST_MISSING = 1_000_000
"""A greater step is no gap: the device began anew with another number."""

HOUR_US = 3_600_000_000

_UNHEARD = int(np.iinfo(np.int64).min)

Exceptions = Counter[tuple[int, int, str]]
"""Counted by (hour in microseconds, device number, what)."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """Numbered readings of a flush in the order they came, device by device.

    Attributes:
        device_id: Of each.
        seq: Of each.
        observed_us: Its time; of one whose time is not believed, the earliest there is.
        received_us: When it came.
        index: Position of its message in the segment.
    """

    device_id: Ints
    seq: Ints
    observed_us: Ints
    received_us: Ints
    index: Ints

    def at(self, rows: Ints | slice) -> Numbered:
        """Some of them, or the same in another order."""
        return Numbered(
            self.device_id[rows],
            self.seq[rows],
            self.observed_us[rows],
            self.received_us[rows],
            self.index[rows],
        )


def numbered(heard: Iterable[Heard]) -> Numbered | None:
    """Find the numbered readings of a flush.

    Args:
        heard: Its blocks, as they were read.

    Returns:
        They; None if there are none.
    """
    parts = []
    for block in heard:
        missing = block.seq.count(None)
        if missing == len(block.seq):
            continue
        observed_us = np.where(block.believed, block.observed_us, _UNHEARD)
        columns = (block.device_id, observed_us, block.received_us, block.index)
        if missing:
            rows = np.flatnonzero([number is not None for number in block.seq])
            columns = tuple(column[rows] for column in columns)  # type: ignore[assignment]
        seq = np.array([number for number in block.seq if number is not None], np.int64)
        parts.append(Numbered(columns[0], seq, *columns[1:]))
    if not parts:
        return None
    words = parts[0]
    if len(parts) > 1:
        words = Numbered(
            np.concatenate([part.device_id for part in parts]),
            np.concatenate([part.seq for part in parts]),
            np.concatenate([part.observed_us for part in parts]),
            np.concatenate([part.received_us for part in parts]),
            np.concatenate([part.index for part in parts]),
        )
    return words.at(np.argsort(words.device_id, kind="stable"))


@dataclass(frozen=True, slots=True)
class Page:
    """The numbered readings of a flush beside the places of their devices in the book.

    Attributes:
        words: The readings.
        ids: The devices, in order.
        starts: Where in `words` each begins.
        slots: Their places.
        unheard: Those of whose numbering nothing is known yet.
    """

    words: Numbered
    ids: Ints
    starts: Ints
    slots: Ints
    unheard: list[int]


class Standing(NamedTuple):
    """Where the devices of a page stand after it: the last numbers, and the newest times."""

    seq: Ints
    observed_us: Ints


class SeqBook:
    """The last number of every device that numbers its readings, and its newest time.

    Its memory is bounded by the number of devices.
    """

    def __init__(self) -> None:
        self._slots = Slots()
        self._heard = np.empty(0, np.bool_)
        self._seq = np.empty(0, np.int64)
        self._observed_us = np.empty(0, np.int64)

    def open(self, heard: Iterable[Heard]) -> Page | None:
        """Find the numbered readings of a flush.

        Args:
            heard: Its blocks, as they were read.

        Returns:
            They; None if there are none.
        """
        words = numbered(heard)
        if words is None:
            return None
        starts = np.flatnonzero(np.concatenate(([True], np.diff(words.device_id) != 0)))
        ids = words.device_id[starts]
        slots = self._slots.take(ids)
        grown = max(64, 2 * len(self._slots)) - len(self._seq)
        if len(self._slots) > len(self._seq):
            self._heard = np.concatenate((self._heard, np.zeros(grown, np.bool_)))
            self._seq = np.concatenate((self._seq, np.zeros(grown, np.int64)))
            self._observed_us = np.concatenate((self._observed_us, np.zeros(grown, np.int64)))
        heard_before = self._heard[slots]
        unheard = [] if heard_before.all() else ids[~heard_before].tolist()
        return Page(words, ids, starts, slots, unheard)

    def count(
        self, page: Page, last: Mapping[int, tuple[int, int]], repeated: Counter[int]
    ) -> tuple[Exceptions, Standing]:
        """Count what is missing, late, or begun anew; the book itself stays as it is.

        Args:
            page: What came.
            last: Of its `unheard` devices, the number and time of the last stored reading, where
                there is one.
            repeated: How many readings of which message were there already, by its index.

        Returns:
            The counts, and what to `close` the page with after the commit.
        """
        words, starts = page.words, page.starts
        ends = np.append(starts[1:], len(words.device_id)) - 1
        before_seq = self._seq[page.slots]
        before_us = self._observed_us[page.slots]
        if page.unheard:
            unheard = ~self._heard[page.slots]
            before_seq[unheard] = words.seq[starts][unheard]
            before_us[unheard] = _UNHEARD
            for place in np.flatnonzero(unheard).tolist():
                known = last.get(int(page.ids[place]))
                if known is not None:
                    before_seq[place], before_us[place] = known
        # The end of the 64-bit range wraps around, as the numbering then does.
        step = np.diff(words.seq, prepend=0)
        step[starts] = words.seq[starts] - before_seq
        odd = (step != 1) & (step != 0)
        seq = words.seq[ends]
        observed = np.maximum(np.maximum.reduceat(words.observed_us, starts), before_us)
        counts: Exceptions = Counter()
        if odd.any():
            for place in np.flatnonzero(np.logical_or.reduceat(odd, starts)).tolist():
                highest, newest_us = _one_by_one(
                    words.at(slice(starts[place], ends[place] + 1)),
                    int(before_seq[place]),
                    int(before_us[place]),
                    repeated,
                    counts,
                )
                seq[place] = highest
                observed[place] = newest_us
        return counts, Standing(seq, observed)

    def close(self, page: Page, standing: Standing) -> None:
        """Write down where devices stand, once that is committed.

        Args:
            page: What came.
            standing: What `count` said of it.
        """
        self._heard[page.slots] = True
        self._seq[page.slots] = standing.seq
        self._observed_us[page.slots] = standing.observed_us


def _one_by_one(
    words: Numbered, highest: int, newest_us: int, repeated: Counter[int], counts: Exceptions
) -> tuple[int, int]:
    """Count what one device brought; returns its highest number and newest time afterwards."""
    device_id = int(words.device_id[0])
    for seq, observed_us, received_us, index in zip(
        words.seq.tolist(),
        words.observed_us.tolist(),
        words.received_us.tolist(),
        words.index.tolist(),
        strict=True,
    ):
        step = seq - highest
        what, count = "", 1
        if repeated[index]:
            pass  # whoever stored it has counted: a gap counts once, however many hear it
        elif step > MOST_MISSING:
            what = "seq_restart"
        elif step > 1:
            what, count = "seq_missing", step - 1
        elif step < 0:
            what = "seq_restart" if observed_us > newest_us else "seq_late"
        if what:
            counts[received_us - received_us % HOUR_US, device_id, what] += count
        if step > 0 or what == "seq_restart":
            highest = seq
        newest_us = max(newest_us, observed_us)
    return highest, newest_us
