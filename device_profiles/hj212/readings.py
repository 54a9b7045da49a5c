"""From frames to the readings of the vocabulary.

2011 is real-time data, 2051 minutes, 2061 hours, 2031 days; other frames hold no readings. A
value is taken where its field is known, it is a number and its data flag is N or missing. One
marked otherwise (F stopped, M maintenance, S manual, D fault, C calibrating, T over range, B
communication) is no measurement: it is kept beside the reading with its mark, under the names
it was sent by, as are minima, maxima and codes the vocabulary does not know. Whether a value is
in its range, and a time believable, is not judged here but by the block, as for every device.

What is wrong with a frame refuses the frame; what is wrong with a value, the value; a DataTime
that is missing or no time, the reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from device_profiles.errors import Reason, Rejected, shown
from device_profiles.hj212.factors import (
    DUST,
    FIELD_PRACTICE,
    PLACES,
    Dialect,
    power_of,
)
from device_profiles.hj212.fields import (
    DATA_TIME,
    Fields,
    Hj212Reading,
    Layouts,
    meaning_of,
    split,
)
from device_profiles.hj212.frames import Event, Fault, Frame, Tolerance
from device_profiles.hj212.joining import Joiner
from device_profiles.hj212.reader import read_frames
from device_profiles.hj212.segment import Note
from device_profiles.hj212.times import at_start, has_milliseconds, parse_time
from device_profiles.readings import Decoded, Refused
from device_profiles.vocabulary import Series

SERIES_OF = {
    "2011": Series.INSTANT,
    "2051": Series.MINUTE,
    "2061": Series.HOUR,
    "2031": Series.DAY,
}
"""What the DataTime of a command number means."""

HEARTBEAT = "9015"
_VALUES = ("Rtd", "Avg", "Data")


class Contents(NamedTuple):
    """All that a payload held.

    Attributes:
        events: Frames and faults in the order of the payload.
        readings: Readings in the same order; parts of a split packet make one.
        refused: What was refused: faults, readings without a time, values.
        notes: Departures from the standard, each once.
        tolerated: Tolerances that were used, each once.
    """

    events: tuple[Event, ...]
    readings: tuple[Hj212Reading, ...]
    refused: tuple[Refused, ...]
    notes: tuple[Note, ...]
    tolerated: tuple[Tolerance, ...]

    @property
    def frames(self) -> list[Frame]:
        """The frames that were taken."""
        return [event for event in self.events if isinstance(event, Frame)]

    def parsed(self) -> list[dict[str, object]]:
        """Show what was sent, letter by letter, whether it was taken or not.

        Returns:
            For each event that has a data segment: its ``header`` and the groups of its ``cp``.
        """
        segments = [
            event.segment if isinstance(event, Frame) else event.segment() for event in self.events
        ]
        return [{"header": one.header, "cp": one.groups()} for one in segments if one is not None]


class Hj212Decoder:
    """Reads the payloads of a device, or of all devices that are configured alike.

    Args:
        dialects: Which factor codes are understood; of two that know a code, the later one.
        units: What the device sends where that is not the vocabulary's unit, by quantity.
        dust_unit: The unit of all dust quantities that `units` does not name.
        tolerances: What is taken beyond standard field practice.

    Attributes:
        used: How often each tolerance was used.

    Raises:
        ValueError: A unit that its quantity is not sent in.
    """

    def __init__(
        self,
        *,
        dialects: Iterable[Dialect] = FIELD_PRACTICE,
        units: Mapping[str, str] | None = None,
        dust_unit: str = "µg/m³",
        tolerances: Iterable[Tolerance] = (),
    ) -> None:
        self._tolerances = frozenset(tolerances)
        self.used: Counter[Tolerance] = Counter()
        given = dict.fromkeys(DUST, dust_unit) | dict(units or {})
        by_name = {name: power_of(name, unit) for name, unit in given.items()}
        powers = tuple(by_name.get(name, 0) for name in PLACES)
        chosen = tuple(dialects)
        self._meanings = {series: meaning_of(chosen, series, powers) for series in Series}
        self._layouts = {series: Layouts(series, self._meanings[series]) for series in Series}

    def __call__(self, payload: bytes) -> Decoded:
        """Decode a payload.

        Args:
            payload: One frame or several, as they came.

        Returns:
            Readings and what was refused; neither, where it holds only answers or commands.

        Raises:
            Rejected: Nothing of it was a frame; the fault is that of the first one.
        """
        events = read_frames(payload, self._tolerances)
        if len(events) == 1:
            event = events[0]
            if isinstance(event, Fault):
                raise event.rejection()
            series = SERIES_OF.get(event.cn)
            if series is not None:
                plain = self._layouts[series].read(event.segment.content)
                if plain is not None:
                    if event.tolerated:
                        self.used.update(event.tolerated)
                    return Decoded([plain.telemetry], (), event.notes + event.tolerated)
        contents = self._read_events(events)
        if not contents.frames:
            raise next(event.rejection() for event in events if isinstance(event, Fault))
        return Decoded(
            [reading.telemetry for reading in contents.readings],
            contents.refused,
            contents.notes + contents.tolerated,
        )

    def read(self, payload: bytes) -> Contents:
        """Decode a payload and keep everything that is to be known of it.

        Args:
            payload: One frame or several, as they came.

        Returns:
            What it held; never an error.
        """
        return self._read_events(read_frames(payload, self._tolerances))

    def _read_events(self, events: list[Event]) -> Contents:
        readings: list[Hj212Reading] = []
        refused: list[Refused] = []
        notes: dict[Note, None] = {}
        if len(events) == 1 and isinstance(events[0], Frame):
            self._read_packet((events[0],), readings, refused, notes)
        else:
            joiner = Joiner()
            for event in events:
                if isinstance(event, Fault):
                    where = f"{event.detail} (at byte {event.offset})"
                    refused.append(Refused(event.reason, where))
                    continue
                for packet in joiner.add(event):
                    self._read_packet(packet, readings, refused, notes)
            for packet in joiner.give_up():
                self._read_packet(packet, readings, refused, notes)
        tolerated = {
            name: None for event in events if isinstance(event, Frame) for name in event.tolerated
        }
        return Contents(
            tuple(events), tuple(readings), tuple(refused), tuple(notes), tuple(tolerated)
        )

    def _read_packet(
        self,
        packet: tuple[Frame, ...],
        readings: list[Hj212Reading],
        refused: list[Refused],
        notes: dict[Note, None],
    ) -> None:
        for frame in packet:
            for note in frame.notes:
                notes[note] = None
            if frame.tolerated:
                self.used.update(frame.tolerated)
        part = packet[0].part
        if part is not None and part[1] != len(packet):
            notes[Note.PART_OF_SPLIT] = None
        reading = self.read_packet(packet, refused, notes)
        if reading is not None:
            readings.append(reading)

    def read_packet(
        self, packet: tuple[Frame, ...], refused: list[Refused], notes: dict[Note, None]
    ) -> Hj212Reading | None:
        """Read what a frame, or the parts of a split packet, say.

        Args:
            packet: The frame, or the parts in order.
            refused: What is refused is added to it.
            notes: What is to be noted is added to it.

        Returns:
            The reading; None where there is none.
        """
        cn = packet[0].cn
        if not cn:
            refused.append(Refused(Reason.SYNTAX, "the frame has no CN: nothing says what it is"))
            return None
        series = SERIES_OF.get(cn)
        content = ";".join([frame.segment.content for frame in packet])
        if series is None or not content:
            notes[Note.HEARTBEAT if cn == HEARTBEAT else Note.NO_READING] = None
            return None
        plain = self._layouts[series].read(content)
        if plain is not None:
            if plain.layout.by_vendor:
                notes[Note.VENDOR_CODE] = None
            _note_time(plain.digits, series, notes)
            return Hj212Reading(plain.telemetry, dict(plain.layout.flags))
        meaning = self._meanings[series]
        said, bad = split(content, meaning, notes)
        if "QN" in said:
            notes[Note.QN_IN_CP] = None
        digits = said.get(DATA_TIME)
        if digits is None:
            if not any(name.endswith(_VALUES) for name in said):
                notes[Note.NO_READING] = None  # a request for such data, or its answer
                return None
            refused.append(Refused(Reason.TIME, "values without a DataTime"))
            return None
        try:
            reported_us = parse_time(digits)
        except Rejected as fault:
            detail = f"DataTime: {fault.detail}"
            refused.append(Refused(fault.reason, detail, None, shown(digits)))
            return None
        _note_time(digits, series, notes)
        refused += bad
        return Fields(said, meaning).reading(reported_us, series, refused, notes)


def _note_time(digits: str, series: Series, notes: dict[Note, None]) -> None:
    if has_milliseconds(digits):
        notes[Note.MILLISECONDS_IN_DATA_TIME] = None
    if series is not Series.INSTANT and not at_start(digits, series):
        notes[Note.NOT_AT_START_OF_PERIOD] = None
