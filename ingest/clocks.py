"""Devices' clocks that are off: seen from when readings come, and repaired by stored spans.

A span says by how much a device's clock is off while its own time lies between two instants:
``observed_at = reported_at + offset``. It is a function of the device's own time alone, and a
span is never changed for times that were used, so the same bytes always give the same key.

The delay of a message is its receipt less the newest time it reports. Networks only ever add to
it, so the least delay of a while is how far the clock is behind (above zero) or ahead (below).
That is believed when the delays of the while lie close together and do not shrink: a backlog
that is worked off shrinks its delay, and a message that came late alone is not a while. Readings
that were stored before say nothing, but that a replay may be under way. A backlog that moves at
exactly the pace of the clock, with nothing newer beside it, cannot be told from a clock that is
behind, by anybody.

Everything here works on whole blocks and knows no database; `ingest.store.clocks` keeps spans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ingest.blocks import Heard, Ints
from ingest.segments import Flag

Bools = npt.NDArray[np.bool_]

SECOND_US = 1_000_000

FIRST_US = 946_684_800_000_000
"""2000-01-01 UTC: no decoder takes an older time."""

FOREVER_US = 4_102_444_800_000_000
"""2100-01-01 UTC: no decoder takes a newer one, so a span that reaches here has no end."""

NOT_BELIEVED = int(np.iinfo(np.int64).min)
"""In the place of an offset: times of this span mean nothing."""

SPREAD_S = 30.0
"""Delays further apart than this are no steady while."""

CATCHING_UP = 0.05
"""A delay above zero that shrinks faster than this (seconds a second) is a backlog."""

REPLAY_S = 3_600
"""So long after old readings came once more, what comes late is taken for a replay."""

FEWEST_MESSAGES = 5

MARGIN_S = 10
"""A new span begins so long after the newest time in use: longer than any process goes on with
an old snapshot of the spans."""

UNUSED_S = 3_600
"""Times nobody has used yet get the offset, where they last at least so long."""

STEP_S = 5.0
"""What was heard is looked at once in so long (of received time), for it costs less together."""

MOST_WAITING = 65_536
"""Or as soon as so many readings wait."""

_NONE = int(np.iinfo(np.int64).max)
_SECONDS_BITS = 33


@dataclass(frozen=True, slots=True)
class ClockTerms:
    """When a clock is taken to be off.

    Attributes:
        window_s: How long delays have to be steady, seconds of received time.
        tolerance_s: Up to here a clock is right.
    """

    window_s: float = 120.0
    tolerance_s: float = 60.0


class Span(NamedTuple):
    """How far a device's clock is off while its own time is in [reported_from, reported_to).

    Attributes:
        reported_from_us: Whole seconds, in microseconds since 1970 UTC.
        reported_to_us: End, exclusive; `FOREVER_US` for none.
        offset_us: To be added to the device's time; None: its times are not believed.
    """

    reported_from_us: int
    reported_to_us: int
    offset_us: int | None


class Clocks:
    """All spans of all devices, a snapshot.

    Args:
        spans: By device number; they do not overlap.
    """

    def __init__(self, spans: Mapping[int, Sequence[Span]] | None = None) -> None:
        self._spans = {device: tuple(sorted(of)) for device, of in (spans or {}).items() if of}
        devices = sorted(self._spans)
        # From device number to its rank among those with spans; numbers beyond end up at the last.
        self._rank = np.full(devices[-1] + 2 if devices else 1, -1, np.int64)
        self._rank[devices] = np.arange(len(devices))
        ordered = [
            (rank, span) for rank, device in enumerate(devices) for span in self._spans[device]
        ]
        self._from = np.array(
            [_key(rank, span.reported_from_us) for rank, span in ordered], np.int64
        )
        self._to = np.array([_key(rank, span.reported_to_us) for rank, span in ordered], np.int64)
        self._offset = np.array(
            [NOT_BELIEVED if span.offset_us is None else span.offset_us for _, span in ordered],
            np.int64,
        )

    def __len__(self) -> int:
        """How many devices have spans."""
        return len(self._spans)

    def spans(self, device_id: int) -> tuple[Span, ...]:
        """The spans of a device, in order."""
        return self._spans.get(device_id, ())

    def offsets(self, device_id: Ints, reported_us: Ints) -> Ints | None:
        """Look up by how much the clocks of a block's readings are off.

        Args:
            device_id: Of each reading.
            reported_us: The device's time of each.

        Returns:
            What to add to each, microseconds; `NOT_BELIEVED` where its time means nothing; None
            where no device of the block has a span.
        """
        if not self._spans:
            return None
        rank = self._rank[np.minimum(device_id, len(self._rank) - 1)]
        touched = np.flatnonzero(rank >= 0)
        if not len(touched):
            return None
        key = (rank[touched] << _SECONDS_BITS) + reported_us[touched] // SECOND_US
        place = np.searchsorted(self._from, key, side="right") - 1
        # Before a device's first span this is the end of the one before it, or wraps to the last.
        inside = (key >= self._from[place]) & (key < self._to[place])
        offsets = np.zeros(len(device_id), np.int64)
        offsets[touched] = np.where(inside, self._offset[place], 0)
        return offsets


def _key(rank: int, us: int) -> int:
    """A span's bound among all devices': by rank, then by second."""
    return (rank << _SECONDS_BITS) + us // SECOND_US


class Slots:
    """From device number to a place in arrays, as many as there were devices."""

    def __init__(self) -> None:
        self._ids = np.empty(0, np.int64)
        self._slots = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, ids: Ints) -> Ints:
        """The place of each device; -1 where it has none.

        Args:
            ids: Device numbers.

        Returns:
            Their places.
        """
        if not len(self._ids):
            return np.full(len(ids), -1, np.int64)
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[at] == ids, self._slots[at], -1)

    def take(self, ids: Ints) -> Ints:
        """The place of each device; one that has none gets the next.

        Args:
            ids: Device numbers, sorted, each once.

        Returns:
            Their places.
        """
        slots = self.find(ids)
        missing = slots < 0
        if missing.any():
            count = int(missing.sum())
            slots[missing] = np.arange(len(self), len(self) + count)
            all_ids = np.concatenate((self._ids, ids[missing]))
            order = np.argsort(all_ids)
            self._slots = np.concatenate((self._slots, slots[missing]))[order]
            self._ids = all_ids[order]
        return slots


class Regime(NamedTuple):
    """A clock that was seen to be off from what its spans say.

    Attributes:
        device_id: The registry's number.
        offset_us: What has to be added to its time; whole seconds.
        oldest_us: The oldest reported time it was seen with.
        newest_us: The newest.
        known: The spans it was seen against.
        messages: How many showed it.
        lasted_s: For how long.
        delay_s: Their least delay.
    """

    device_id: int
    offset_us: int
    oldest_us: int
    newest_us: int
    known: tuple[Span, ...]
    messages: int
    lasted_s: float
    delay_s: float

    @property
    def reason(self) -> str:
        """For people: why this was decided."""
        side = "after" if self.delay_s > 0 else "before"
        return (
            f"{self.messages} messages in {self.lasted_s:.0f} s came {abs(self.delay_s):.0f} s"
            f" {side} the time they reported"
        )


class Envelope:
    """The least delay of every device, and how long it has been steady.

    Its memory is bounded by the number of devices.
    """

    def __init__(self, terms: ClockTerms) -> None:
        self._terms = terms
        self._slots = Slots()
        self._window = np.empty(0, _WINDOW)
        self._waiting: list[_Words] = []
        self._count = 0
        self._first_us = _NONE

    def hear(self, heard: Sequence[Heard], flags: Sequence[int], repeated: Counter[int]) -> None:
        """Take in what came and was committed.

        Args:
            heard: The blocks of a flush, as they were read.
            flags: `Flag` of each message of the flush.
            repeated: How many readings of which message were there already, by its index.
        """
        again = np.frombuffer(bytes(flags), np.uint8) & (Flag.DUP | Flag.RETRIED) != 0
        any_again = bool(again.any())
        for block in heard:
            words = _words(block, repeated)
            if any_again:
                words = words.at(~again[words.index])
            if len(words.index):
                self._waiting.append(words)
                self._count += len(words.index)
                self._first_us = min(self._first_us, int(words.received_us[0]))

    def step(self, clocks: Clocks, now_us: int) -> list[Regime]:
        """Look at what was heard since the last step, once in `STEP_S`.

        Args:
            clocks: The spans in force.
            now_us: The newest time of receipt, microseconds since 1970 UTC.

        Returns:
            Clocks that are off from what their spans say; again at the next step, until
            `forget` is told that something was done about them.
        """
        if not self._count or (
            self._count < MOST_WAITING and 0 <= now_us - self._first_us < STEP_S * SECOND_US
        ):
            return []
        words = _Words.joined(self._waiting)
        self._waiting = []
        self._count = 0
        self._first_us = _NONE
        return self._decide(*self._gather(words), clocks)

    def forget(self, device_id: int) -> None:
        """Begin a device's while anew.

        Args:
            device_id: The registry's number.
        """
        slot = self._slots.find(np.array([device_id]))[0]
        if slot >= 0:
            self._window["count"][slot] = 0
            self._window["refused_us"][slot] = _NONE

    def _places(self, ids: Ints) -> Ints:
        slots = self._slots.take(ids)
        if len(self._slots) > len(self._window):
            grown = np.zeros(max(64, 2 * len(self._slots)), _WINDOW)
            grown["refused_us"] = _NONE
            grown[: len(self._window)] = self._window
            self._window = grown
        return slots

    def _without_repeats(self, words: _Words) -> _Words:
        """Leave out what was there already, and note who sends old things again."""
        newest = words.at(words.believed & ~words.repeated)
        if len(newest.index):
            ids, starts = _runs(newest.device_id)
            slots = self._places(ids)
            heard = np.maximum.reduceat(newest.newest_us, starts)
            self._window["heard_us"][slots] = np.maximum(self._window["heard_us"][slots], heard)
        if not words.repeated.any():
            return words
        repeats = words.at(words.repeated)
        ids, starts = _runs(repeats.device_id)
        slots = self._places(ids)
        # A device that says everything twice repeats what is new.
        heard = self._window["heard_us"][slots] - SPREAD_S * SECOND_US
        old = np.minimum.reduceat(repeats.newest_us, starts) < np.where(heard < 0, _NONE, heard)
        received = np.maximum.reduceat(repeats.received_us, starts)
        self._window["repeated_us"][slots[old]] = received[old]
        return words.at(~words.repeated)

    def _gather(self, words: _Words) -> tuple[Ints, Ints]:
        """Bring new words into the windows; returns the devices that spoke and their places."""
        words = self._without_repeats(words.at(np.argsort(words.device_id, kind="stable")))
        ids, starts = _runs(words.device_id)
        if not len(ids):
            return ids, ids
        slots = self._places(ids)
        delay = words.received_us - words.newest_us
        least = np.minimum.reduceat(delay, starts)
        most = np.maximum.reduceat(delay, starts)
        received_from = np.minimum.reduceat(words.received_us, starts)
        received_to = np.maximum.reduceat(words.received_us, starts)
        count = np.diff(starts, append=len(delay))
        window = self._window[slots]
        spread_us = SPREAD_S * SECOND_US
        low = np.minimum(window["least_us"], least)
        high = np.maximum(window["most_us"], most)
        goes_on = (window["count"] > 0) & (high - low <= spread_us)
        steady = goes_on | (most - least <= spread_us)
        since = np.where(goes_on, window["since_us"], received_from)
        late = received_from - since >= self._terms.window_s / 2 * SECOND_US

        def merged(name: str, new: Ints, of: np.ufunc) -> None:
            window[name] = np.where(goes_on, of(window[name], new), new)

        merged("least_us", least, np.minimum)
        merged("most_us", most, np.maximum)
        merged("early_us", np.where(late, _NONE, least), np.minimum)
        merged("late_us", np.where(late, least, _NONE), np.minimum)
        merged("oldest_us", np.minimum.reduceat(words.newest_us, starts), np.minimum)
        merged("newest_us", np.maximum.reduceat(words.newest_us, starts), np.maximum)
        window["since_us"] = since
        window["until_us"] = received_to
        window["count"] = np.where(goes_on, window["count"] + count, np.where(steady, count, 0))
        # Times put aside were never used: a span may reach back to the first of them.
        refused = np.minimum.reduceat(np.where(words.believed, _NONE, words.newest_us), starts)
        believed = np.logical_or.reduceat(words.believed, starts)
        window["refused_us"] = np.minimum(np.where(believed, _NONE, window["refused_us"]), refused)
        self._window[slots] = window
        return ids, slots

    def _decide(self, ids: Ints, slots: Ints, clocks: Clocks) -> list[Regime]:
        terms = self._terms
        window = self._window[slots]
        lasted = window["until_us"] - window["since_us"]
        complete = (
            (window["count"] >= FEWEST_MESSAGES)
            & (lasted >= terms.window_s * SECOND_US)
            & (window["late_us"] != _NONE)
        )
        if not complete.any():
            return []
        ids, slots, window, lasted = (x[complete] for x in (ids, slots, window, lasted))
        least = window["least_us"]
        kept_back = window["early_us"] - window["late_us"] > CATCHING_UP / 2 * lasted
        kept_back |= window["until_us"] - window["repeated_us"] < REPLAY_S * SECOND_US
        odd = np.ones(len(ids), np.bool_)
        # What is decided begins a little later: it is not decided again meanwhile.
        for ahead_s in (0, 3 * MARGIN_S):
            applied = clocks.offsets(ids, window["newest_us"] + ahead_s * SECOND_US)
            if applied is None:
                applied = np.zeros(len(ids), np.int64)
            off = least - np.where(applied == NOT_BELIEVED, least, applied)
            # Nothing but a clock can make a message come before its time.
            odd &= (np.abs(off) > terms.tolerance_s * SECOND_US) & ~(kept_back & (off > 0))
        self._window["count"][slots[~odd]] = 0
        return [
            Regime(
                device_id=int(ids[place]),
                offset_us=_rounded(int(least[place]), terms.tolerance_s),
                oldest_us=int(min(window["oldest_us"][place], window["refused_us"][place])),
                newest_us=int(window["newest_us"][place]),
                known=clocks.spans(int(ids[place])),
                messages=int(window["count"][place]),
                lasted_s=float(lasted[place] / SECOND_US),
                delay_s=float(least[place] / SECOND_US),
            )
            for place in np.flatnonzero(odd).tolist()
        ]


_WINDOW = np.dtype(
    [
        (name, np.int64)
        for name in (
            "count",
            "since_us",
            "until_us",
            "least_us",
            "most_us",
            "early_us",
            "late_us",
            "oldest_us",
            "newest_us",
            "refused_us",
            "heard_us",
            "repeated_us",
        )
    ]
)
"""Of one device: how many messages, received from when to when, their least and greatest delay,
the least of the first half and of the second, the oldest and newest time they report, the
oldest time that was put aside since one was believed; the newest time ever believed, and when
something older was last received again."""


@dataclass(frozen=True, slots=True)
class _Words:
    """Messages as the envelope wants them, one entry each: the newest time they report."""

    index: Ints
    device_id: Ints
    received_us: Ints
    newest_us: Ints
    believed: Bools
    repeated: Bools

    def at(self, rows: Ints | Bools) -> _Words:
        """Some of them, or the same in another order."""
        return _Words(
            self.index[rows],
            self.device_id[rows],
            self.received_us[rows],
            self.newest_us[rows],
            self.believed[rows],
            self.repeated[rows],
        )

    @classmethod
    def joined(cls, parts: Sequence[_Words]) -> _Words:
        """Those of several flushes."""
        return cls(
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.device_id for part in parts]),
            np.concatenate([part.received_us for part in parts]),
            np.concatenate([part.newest_us for part in parts]),
            np.concatenate([part.believed for part in parts]),
            np.concatenate([part.repeated for part in parts]),
        )


def _words(block: Heard, repeated: Counter[int]) -> _Words:
    again = np.zeros(len(block.index), np.bool_)
    if repeated:
        # A message of which anything is new is new.
        index, place, counts = np.unique(block.index, return_inverse=True, return_counts=True)
        were_there = np.array([repeated[int(one)] for one in index])
        again = (were_there >= counts)[place]
    words = _Words(
        block.index,
        block.device_id,
        block.received_us,
        block.reported_us,
        block.believed,
        again,
    )
    if block.series.any():
        words = words.at(block.series == 0)
    # Readings of one message stand together; a gateway's may be of several devices.
    same = words.index[1:] == words.index[:-1]
    if same.any():
        same &= words.device_id[1:] == words.device_id[:-1]
        starts = np.flatnonzero(np.concatenate(([True], ~same)))
        newest_us = np.maximum.reduceat(words.newest_us, starts)
        believed = np.logical_or.reduceat(words.believed, starts)
        words = replace(words.at(starts), newest_us=newest_us, believed=believed)
    return words


def _runs(ordered: Ints) -> tuple[Ints, Ints]:
    """The different values of sorted ones, and where each begins."""
    if not len(ordered):
        return ordered, ordered
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[starts], starts


def _rounded(delay_us: int, tolerance_s: float) -> int:
    """A delay as an offset: none at all within the tolerance, else whole seconds."""
    if abs(delay_us) <= tolerance_s * SECOND_US:
        return 0
    return round(delay_us / SECOND_US) * SECOND_US


class Used(NamedTuple):
    """Which of a device's times have been used, around one of them.

    Attributes:
        before_us: The newest used one up to there; None if there is none.
        after_us: The oldest used one beyond; None if there is none.
        newest_us: The newest of all; None if there is none.
    """

    before_us: int | None
    after_us: int | None
    newest_us: int | None


def horizon_of(regime: Regime) -> int:
    """Up to where a clock that is off may have been used before anything is done about it.

    Args:
        regime: The clock.

    Returns:
        A reported time, microseconds since 1970 UTC.
    """
    return regime.newest_us + MARGIN_S * SECOND_US


def plan(regime: Regime, used: Used) -> list[Span]:
    """Lay new spans over a device's old ones, so that no used time changes its meaning.

    Args:
        regime: A clock that is off.
        used: Which times have been used around `horizon_of` it.

    Returns:
        All spans of the device, in order. Where the clock runs into times that were used, they are
        not believed any more: what they mean cannot be told.
    """
    margin = MARGIN_S * SECOND_US
    start = FIRST_US
    if used.before_us is not None:
        start = max(used.before_us + margin, regime.oldest_us)
    start = _second_after(start)
    if used.after_us is None or used.newest_us is None:
        return overlay(regime.known, [Span(start, FOREVER_US, regime.offset_us)])
    end = (used.after_us - margin) // SECOND_US * SECOND_US
    if end - start >= UNUSED_S * SECOND_US:
        return overlay(regime.known, [Span(start, end, regime.offset_us)])
    free = max(start, _second_after(used.newest_us + margin))
    spans = [Span(start, free, None), Span(free, FOREVER_US, regime.offset_us)]
    return overlay(regime.known, spans if start < free else spans[1:])


def _second_after(us: int) -> int:
    return -(-us // SECOND_US) * SECOND_US


def overlay(spans: Sequence[Span], over: Sequence[Span]) -> list[Span]:
    """Lay spans over others.

    Args:
        spans: The old ones; they do not overlap.
        over: The new ones, in order, without gaps between them.

    Returns:
        The new ones, and what they leave of the old ones, in order.
    """
    start, end = over[0].reported_from_us, over[-1].reported_to_us
    left = [
        Span(max(span.reported_from_us, low), min(span.reported_to_us, high), span.offset_us)
        for span in spans
        for low, high in ((FIRST_US, start), (end, FOREVER_US))
    ]
    return sorted([*(one for one in left if one.reported_from_us < one.reported_to_us), *over])
