"""The days a segment's rows were observed on, and the spans of time that is.

A segment says when its messages were received, its rows may be of any time. Whoever looks for the
rows of a segment without saying of when makes TimescaleDB look into every chunk there is, and
chunks in the columnstore have no index on the segment: all of history would be read for each
look. So every segment notes the days of its rows (`segments.observed_days`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta

import numpy as np

from ingest.blocks import Ints

DAY = timedelta(days=1)
DAY_US = 86_400_000_000
FIRST_DAY = date(1970, 1, 1)
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)

Span = tuple[datetime, datetime]


def days_of(times: Iterable[Ints]) -> list[date]:
    """Name the days some times lie on.

    Args:
        times: Microseconds since 1970 UTC, in arrays.

    Returns:
        The UTC days, each once, in order.
    """
    days: set[int] = set()
    for some in times:
        if len(some):
            first, last = int(some.min()) // DAY_US, int(some.max()) // DAY_US
            # Nearly always they lie on one day or two: then nothing has to be sorted.
            if last - first < 2:
                days.update((first, last))
            else:
                days.update(np.unique(some // DAY_US).tolist())
    return [FIRST_DAY + DAY * day for day in sorted(days)]


def spans_of(segments: Iterable[Sequence[date] | None]) -> list[Span]:
    """Join the days of some segments into spans of time.

    Args:
        segments: Days of each; None where they are not known.

    Returns:
        Start and end, exclusive, of each run of days, in order; all of time if the days of any
        segment are not known; nothing if no segment has rows.
    """
    days: set[date] = set()
    for some in segments:
        if some is None:
            return [(EARLIEST, LATEST)]
        days.update(some)
    spans: list[Span] = []
    for day in sorted(days):
        start = datetime.combine(day, time(), UTC)
        if spans and spans[-1][1] == start:
            spans[-1] = (spans[-1][0], start + DAY)
        else:
            spans.append((start, start + DAY))
    return spans
