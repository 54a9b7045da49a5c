"""Readings from named places: what JSON, fixed text, pairs and CSV have in common. Pure.

Every format first becomes an object of names and values (a parsed JSON object, the groups of a
pattern, the columns of a line); then the datasheet's lines are read from it one by one. A bad
value refuses the value, not the reading; a bad time refuses the reading, not the message.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from device_profiles.datasheets import Datasheet
from device_profiles.decoding.alarms import ReadAlarms, alarm_reader
from device_profiles.decoding.contradictions import contradiction_finder
from device_profiles.decoding.terms import Terms
from device_profiles.decoding.times import AT_RECEIPT, NO_TIME_NOTE, time_reader
from device_profiles.decoding.values import MOST_DIGITS, ReadValue, number_in, value_reader
from device_profiles.errors import Reason, Rejected, shown
from device_profiles.native import keep_extra, parse_json
from device_profiles.paths import MISSING, Find, finder, parse_path
from device_profiles.readings import Refused, Telemetry
from device_profiles.vocabulary import MAX_NAME_CHARS, QUANTITIES, SERIES_BY_NAME

_NAN = math.nan
_INT64 = 2**63


class _Line:
    """How one quantity is read."""

    __slots__ = ("find", "flag", "key", "name", "place", "read")

    def __init__(self, place: int, name: str, path: str, read: ReadValue) -> None:
        self.place = place
        self.name = name
        steps = parse_path(path)
        self.key = steps[0] if len(steps) == 1 and isinstance(steps[0], str) else None
        self.find = finder(path)
        self.read = read
        self.flag: tuple[Find, frozenset[Any]] | None = None


class MappedReading:
    """Reads one object of names and values by a datasheet."""

    def __init__(self, sheet: Datasheet, terms: Terms) -> None:
        """Build every line's reader once.

        Args:
            sheet: The datasheet.
            terms: Of the device; of no device where it is only looked at.

        Raises:
            ValueError: A unit of the terms is not one of its quantity.
        """
        quantities = QUANTITIES[sheet.kind]
        places = {quantity.name: place for place, quantity in enumerate(quantities)}
        self._blank = [_NAN] * len(quantities)
        self._lines: list[_Line] = []
        for name, value in sheet.values.items():
            place = places[name]
            read = value_reader(
                value, quantities[place], terms.units.get(name), terms.limits.get(name)
            )
            line = _Line(place, name, str(value.at), read)
            if value.flag is not None:
                line.flag = (finder(str(value.flag.at)), _plain(value.flag.good))
            self._lines.append(line)
        time = sheet.time
        assert time is not None  # noqa: S101 - a mapped datasheet has one
        self._time_at = finder(str(time.at)) if time.at is not None else None
        self._read_time = time_reader(time, terms.zone)
        self._time_may_lack = time.absent == "received"
        self._seq = finder(sheet.seq) if sheet.seq else None
        self._series = _series_reader(sheet)
        self._alarms: list[tuple[Find, ReadAlarms]] = [
            (finder(str(alarm.at)), alarm_reader(alarm, terms.alarm_bits)) for alarm in sheet.alarms
        ]
        self._contradictions = [
            contradiction_finder(entry, quantities) for entry in sheet.contradictions
        ]
        self._flatten = sheet.each.flatten
        keep = sheet.rest.keep
        self._keeps_all = keep == "all"
        first = (parse_path(path)[0] for _, path in sheet.paths())
        self._known = frozenset(step for step in first if isinstance(step, str))
        self._kept = [(path, finder(path)) for path in keep] if isinstance(keep, tuple) else []

    def read(self, message: Any) -> tuple[Telemetry, list[Refused], list[str]]:
        """Read one object.

        Args:
            message: Names and values.

        Returns:
            The reading, the values refused, and notes.

        Raises:
            Rejected: Nothing of it can be read.
        """
        if type(message) is not dict:
            raise Rejected(Reason.TYPE, f"{shown(message)} is not an object")
        if self._flatten is not None:
            message = _flattened(message, self._flatten)
        notes: list[str] = []
        reported_us = self._time(message, notes)
        faults: list[Refused] = []
        values = self._blank.copy()
        for line in self._lines:
            key = line.key
            raw = message.get(key, MISSING) if key is not None else line.find(message)
            if raw is MISSING:
                continue
            try:
                if line.flag is not None:
                    _require_flag(line.flag, message)
                values[line.place] = line.read(raw)
            except Rejected as fault:
                faults.append(_refused(line.name, raw, fault))
        alarms = self._read_alarms(message, faults) if self._alarms else None
        if alarms is None and values == self._blank:  # the very same NaN in every place
            if faults:
                raise Rejected(faults[0].reason, faults[0].detail)
            raise Rejected(Reason.INCOMPLETE, "the reading holds no value the datasheet names")
        extra = self._rest(message, faults) if self._keeps_all or self._kept else None
        for find_contradiction in self._contradictions:
            note = find_contradiction(values, message)
            if note is not None:
                notes.append(note)
        seq = self._sequence(message, faults) if self._seq is not None else None
        telemetry = Telemetry(reported_us, tuple(values), self._series(message), seq, alarms, extra)
        return telemetry, faults, notes

    def _time(self, message: Any, notes: list[str]) -> int:
        raw = self._time_at(message) if self._time_at is not None else MISSING
        if raw is MISSING or raw is None or raw == "":
            if self._time_may_lack:
                notes.append(NO_TIME_NOTE)
                return AT_RECEIPT
            raise Rejected(Reason.TIME, "there is no time where the datasheet says")
        return self._read_time(raw)

    def _sequence(self, message: Any, faults: list[Refused]) -> int | None:
        raw: Any = self._seq(message) if self._seq is not None else MISSING
        if raw is MISSING or raw is None:
            return None
        number: Any = raw
        if type(raw) is not int:
            number = _whole(raw)
        if number is None or not -_INT64 <= number < _INT64:
            faults.append(Refused(Reason.TYPE, "seq is not a 64-bit integer", "seq", shown(raw)))
            return None
        return int(number)

    def _read_alarms(self, message: Any, faults: list[Refused]) -> tuple[str, ...] | None:
        names: list[str] = []
        said = False
        for find, read in self._alarms:
            raw = find(message)
            if raw is MISSING or raw is None or raw == "":
                continue
            try:
                names += read(raw)
                said = True
            except Rejected as fault:
                faults.append(Refused(fault.reason, fault.detail, "alarms", shown(raw)))
        if not said:
            return None
        return tuple(dict.fromkeys(names)) if names else ()

    def _rest(self, message: dict[str, Any], faults: list[Refused]) -> bytes | None:
        if self._keeps_all:
            known = self._known
            if message.keys() <= known:
                return None
            return _kept({n: value for n, value in message.items() if n not in known}, faults)
        rest = {
            path: value
            for path, find in self._kept
            if (value := find(message)) is not MISSING and value is not None
        }
        return _kept(rest, faults)


def _whole(raw: Any) -> int | None:
    """An integer written as text or as a float, where no digit can have been lost."""
    if type(raw) is str and raw.strip().isdecimal() and len(raw) <= MOST_DIGITS:
        return int(raw)
    try:
        number = number_in(raw)
    except Rejected:
        return None
    return int(number) if number.is_integer() and abs(number) <= _EXACT else None


def _flattened(message: dict[str, Any], name: str) -> dict[str, Any]:
    inner = message.get(name)
    if type(inner) is not dict:
        return message
    return {key: value for key, value in message.items() if key != name} | inner


def _plain(good: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(word.strip() if isinstance(word, str) else word for word in good)


def _require_flag(flag: tuple[Find, frozenset[Any]], message: Any) -> None:
    find, good = flag
    raw = find(message)
    if raw is MISSING:
        return
    word = raw.strip() if type(raw) is str else raw
    if type(word) not in (str, int, float, bool) or word not in good:
        raise Rejected(Reason.RANGE, f"the device flags the value as {shown(raw)}")


def _refused(name: str, raw: Any, fault: Rejected) -> Refused:
    detail = fault.detail if fault.detail.startswith(name) else f"{name}: {fault.detail}"
    return Refused(fault.reason, detail, name, shown(raw))


_SCALARS = frozenset({str, int, float, bool, type(None)})
_PLAIN_ITEMS = 24
_PLAIN_CHARS = 128
_EXACT = 2**53
"""Up to here a float, and JavaScript, knows every integer."""


def _kept(rest: dict[str, Any], faults: list[Refused]) -> bytes | None:
    """What no line names, as JSON text: short plain scalars, as most are, the quick way."""
    if len(rest) > _PLAIN_ITEMS:
        return keep_extra(rest, faults)
    for name, value in rest.items():
        kind = type(value)
        if (
            kind not in _SCALARS
            or len(name) > MAX_NAME_CHARS
            or not name.isprintable()
            or (kind is str and (len(value) > _PLAIN_CHARS or not value.isprintable()))
            or (kind is int and not -_EXACT < value < _EXACT)
            or (kind is float and not -math.inf < value < math.inf)
        ):
            return keep_extra(rest, faults)
    return msgspec.json.encode(rest) if rest else None


def _series_reader(sheet: Datasheet) -> Callable[[Any], int]:
    series = sheet.series
    if isinstance(series, str):
        code = int(SERIES_BY_NAME[series])
        return lambda _: code
    find = finder(series.at)
    codes = {word: int(SERIES_BY_NAME[name]) for word, name in series.words.items()}

    def read(message: Any) -> int:
        raw = find(message)
        word = str(raw).strip() if type(raw) is str or type(raw) is int else None
        if word is None or word not in codes:
            seen = "nothing" if raw is MISSING else shown(raw)
            raise Rejected(Reason.TYPE, f"series {seen} is not one of {', '.join(codes)}")
        return codes[word]

    return read


def parse_text(payload: bytes, encoding: str) -> Any:
    """Read a payload's JSON in the datasheet's encoding; the quick way first.

    Args:
        payload: The bytes.
        encoding: "utf-8" or "gb18030".

    Returns:
        Parsed JSON.

    Raises:
        Rejected: `encoding` or `syntax`.
    """
    if encoding != "utf-8":
        try:
            payload = payload.decode(encoding).encode()
        except UnicodeDecodeError as fault:
            raise Rejected(
                Reason.ENCODING, f"payload is not {encoding.upper()}", fault.start
            ) from None
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return parse_json(payload.removeprefix(b"\xef\xbb\xbf").rstrip(b"\0\r\n \t"))
