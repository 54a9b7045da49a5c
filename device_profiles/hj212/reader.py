"""Reading HJ 212: bytes in, frames and faults out.

A frame is ``##``, four digits of length, the data segment, four hexadecimal digits of checksum,
CR LF. The contract of `Reader`:

- `Reader.feed` takes bytes however they are cut and returns the events that are complete now:
  a `Frame`, or a `Fault` that says what was wrong with something that began like a frame. It
  raises nothing, whatever the bytes. The events do not depend on how the bytes were cut.
- Bounded: between calls it holds no more than one segment of `max_segment_bytes` and 20 bytes
  around it. No byte is looked at more than twice, except the few of a mark cut in two.
- A frame begins at ``##`` followed by a length, or by a name of two capitals where the length
  is missing. Whatever comes before is skipped and counted.
- A frame ends at the ``&&`` after which a checksum stands: at the declared length, or, where the
  length is wrong, before a line end, another ``##`` or the end of the input. Where another frame
  begins before that, the first one is `incomplete`, and nothing of the second is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from device_profiles.errors import Reason, shown
from device_profiles.hj212.frames import (
    CRC_BYTES,
    LENGTH,
    Event,
    Fault,
    Frame,
    Tolerance,
    judge,
)
from device_profiles.hj212.segment import Note

MAX_SEGMENT_BYTES = 9_999
"""Longest data segment read: what four digits can say, ten times what the standard allows."""

_START = re.compile(rb"##(?= {0,3}\d|[A-Z]{2}=)")
_START_BYTES = 6
_LENGTH_BYTES = 14
_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{4}")
_AFTER_CHECKSUM = b"\r\n# \t\0"
_BLANK = b"\r\n \t\0"
_DIGITS = 4


class Reader:
    """Turns one connection's bytes, or one payload's, into frames and faults.

    Args:
        tolerances: What is taken beyond standard field practice.
        max_segment_bytes: Longer data segments are refused as `too_large`.
    """

    def __init__(
        self,
        tolerances: Iterable[Tolerance] = (),
        *,
        max_segment_bytes: int = MAX_SEGMENT_BYTES,
    ) -> None:
        self._tolerances = frozenset(tolerances)
        self._max = max_segment_bytes
        self._held = bytearray()
        self._offset = 0  # of the first byte held
        self.skipped_since_event = 0
        """How many bytes outside of any frame were skipped since one ended, blanks not counted."""
        self.skipped_bytes = 0
        """The same in all."""
        # Of the frame at the beginning of what is held, if there is one:
        self._segment = 0  # where its segment begins; 0 is no frame
        self._declared = -1
        self._digits = 0
        self._opened = False  # CP=&& was seen
        self._looked = 0  # no && that matters before this
        self._looked_for_start = 0

    @property
    def held_bytes(self) -> int:
        """How much of an incomplete frame is in memory."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes.

        Args:
            data: What was read, cut anywhere.

        Returns:
            What is complete now, in the order of the input.
        """
        events: list[Event] = []
        # In slices, so that a large read is not held as a whole.
        for at in range(0, len(data), self._max):
            self._held += data[at : at + self._max]
            self._take_all(events, final=False)
        return events

    def finish(self) -> list[Event]:
        """The input has ended.

        Returns:
            What the last bytes were; the reader is then as new, its counts excepted.
        """
        events: list[Event] = []
        self._take_all(events, final=True)
        return events

    def _take_all(self, events: list[Event], *, final: bool) -> None:
        while True:
            if not self._segment and not self._find_start(final=final):
                return
            event = self._take(final=final)
            if event is None:
                return
            events.append(event)

    def _skip(self, count: int) -> None:
        if count:
            garbage = len(self._held[:count].translate(None, _BLANK))
            self.skipped_since_event += garbage
            self.skipped_bytes += garbage
            self._drop(count)

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._offset += count

    def _find_start(self, *, final: bool) -> bool:
        """Skip to where a frame begins; False where none has begun yet."""
        held = self._held
        match = _START.search(held)
        if match is None:
            size = len(held)
            undecided = -1 if final else held.find(b"#", max(0, size - _START_BYTES + 1))
            self._skip(size if undecided < 0 else undecided)
            return False
        self._skip(match.start())
        length = LENGTH.match(held)
        assert length is not None  # noqa: S101 - whatever fits _START fits _LENGTH
        if length.end() == len(held) < _LENGTH_BYTES and not final:
            return False  # more digits may come
        digits = length[1]
        self._digits = len(digits)
        self._declared = int(digits) if digits else -1
        self._segment = self._looked = self._looked_for_start = length.end()
        self._opened = False
        return True

    def _next_start(self, stop: int) -> int:
        """Where another frame begins within this one, before `stop`; -1 if nowhere yet."""
        held = self._held
        at = held.find(b"##", self._looked_for_start, stop)
        while at >= 0:
            if _START.match(held, at):
                return at
            at = held.find(b"##", at + 1, stop)
        seen = stop if stop < len(held) else stop - _START_BYTES + 1
        self._looked_for_start = max(self._looked_for_start, seen)
        return -1

    def _take(self, *, final: bool) -> Event | None:
        """Take the frame at the beginning of what is held; None where more is needed."""
        held = self._held
        start = self._segment
        size = len(held)
        limit = start + self._max
        while True:
            mark = held.find(b"&&", self._looked)
            other = self._next_start(size if mark < 0 else mark)
            if 0 <= other <= limit:
                return self._fault(
                    other, Reason.INCOMPLETE, other, "another frame begins before this one ends"
                )
            end = mark + 2
            if mark < 0 or end > limit:
                # Until then a start within the limit may still be undecided.
                if size >= limit + _START_BYTES or (final and size > limit):
                    detail = f"a data segment of more than {self._max} bytes"
                    return self._fault(limit, Reason.TOO_LARGE, start, detail)
                if final:
                    return self._ended()
                self._looked = max(self._looked, size - 1)
                return None
            if not self._opened and held[mark - 3 : mark].upper() == b"CP=" and mark - 3 >= start:
                self._opened = True
                self._looked = end
                continue
            behind = size - end
            if behind < CRC_BYTES:
                return self._ended() if final else None
            declared = end - start == self._declared
            if _HEXADECIMAL.match(held, end):
                if declared or (behind == CRC_BYTES and final):
                    return self._whole(end)
                if behind == CRC_BYTES:
                    return None
                if held[end + CRC_BYTES] in _AFTER_CHECKSUM:
                    return self._whole(end)
            elif declared:
                given = bytes(held[end : end + CRC_BYTES])
                detail = f"checksum {shown(given)} is not four hexadecimal digits"
                return self._fault(end, Reason.CRC, end, detail)
            self._looked = mark + 1

    def _ended(self) -> Fault:
        size = len(self._held)
        told = f" of {self._declared} declared" if self._declared >= 0 else ""
        detail = f"the input ends after {size - self._segment} bytes{told}, without && and checksum"
        return self._fault(size, Reason.INCOMPLETE, size, detail)

    def _fault(self, cut: int, reason: Reason, at: int, detail: str) -> Fault:
        fault = Fault(bytes(self._held[:cut]), self._offset + at, reason, detail)
        self._forget(cut)
        return fault

    def _whole(self, end: int) -> Event:
        cut = end + CRC_BYTES
        event = judge(
            bytes(self._held[:cut]),
            self._segment,
            self._declared if self._digits == _DIGITS else -1,
            self._tolerances,
            offset=self._offset,
            after_garbage=self.skipped_since_event > 0,
        )
        self._forget(cut)
        return event

    def _forget(self, cut: int) -> None:
        self._drop(cut)
        self.skipped_since_event = 0
        self._segment = 0


def read_frames(
    payload: bytes,
    tolerances: frozenset[Tolerance] = frozenset(),
    *,
    max_segment_bytes: int = MAX_SEGMENT_BYTES,
) -> list[Event]:
    """Read a payload that holds whole frames: an MQTT message, a line of a file.

    Args:
        payload: The bytes.
        tolerances: What is taken beyond standard field practice.
        max_segment_bytes: Longer data segments are refused as `too_large`.

    Returns:
        Frames and faults in their order, as of a `Reader` that was fed the payload; a fault
        where no frame begins in it; a note where something stands behind the last one.
    """
    event = _read_one(payload, tolerances, max_segment_bytes)
    if event is not None:
        return [event]
    reader = Reader(tolerances, max_segment_bytes=max_segment_bytes)
    events = reader.feed(payload) + reader.finish()
    if not events:
        detail = f"no frame begins in {len(payload)} bytes {shown(payload, 60)}"
        return [Fault(payload, 0, Reason.INCOMPLETE, detail)]
    last = events[-1]
    if reader.skipped_since_event and isinstance(last, Frame):
        notes = (*last.notes, Note.GARBAGE_AFTER)
        events[-1] = msgspec.structs.replace(last, notes=notes)
    return events


def _read_one(payload: bytes, tolerances: frozenset[Tolerance], most: int) -> Event | None:
    """Read exactly one frame as it should be; None where that takes a `Reader`.

    It has the length it declares, and holds nothing that could be an earlier end of it or
    another beginning.
    """
    if payload[:2] != b"##" or not payload[2:6].isdigit() or payload[6:7].isdigit():
        return None
    declared = int(payload[2:6])
    end = 6 + declared
    cut = end + CRC_BYTES
    if (
        payload[cut:] not in _LINE_ENDS
        or declared > most
        or payload[end - 2 : end] != b"&&"
        or payload[end - 5 : end].upper() == b"CP=&&"
        or not _HEXADECIMAL.fullmatch(payload, end, cut)
        or payload.find(b"##", 2) >= 0
        or payload.find(b"\r", 0, cut) >= 0
        or payload.find(b"\n", 0, cut) >= 0
    ):
        return None
    at = payload.find(b"&&")
    if at != end - 2 and (
        payload[at - 3 : at].upper() != b"CP=" or payload.find(b"&&", at + 2) != end - 2
    ):
        return None
    return judge(payload[:cut], 6, declared, tolerances)


_LINE_ENDS = (b"\r\n", b"", b"\n", b"\r")
