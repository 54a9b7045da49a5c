"""The fields of CP made into one reading."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from functools import cache
from typing import NamedTuple

import msgspec

from device_profiles.errors import Reason, Rejected, shown
from device_profiles.hj212.factors import (
    FLAG,
    OTHER,
    STATISTIC,
    Dialect,
    is_standard,
    roles_of,
)
from device_profiles.hj212.segment import Note
from device_profiles.hj212.times import parse_time
from device_profiles.native import MAX_EXTRA_BYTES
from device_profiles.readings import Refused, Telemetry
from device_profiles.vocabulary import DUST_QUANTITIES, MAX_EXTRA, MAX_NAME_CHARS, Series

NORMAL = "N"
MARKS = frozenset("FMSDCTB")
"""Data flags of a value that is not a normal measurement: stopped, maintenance, manual, fault,
calibrating, over range, communication."""

DATA_TIME = "DataTime"
_BARE = frozenset({DATA_TIME, "Flag", "QN"})
_NAMES = tuple(quantity.name for quantity in DUST_QUANTITIES)
_NOTHING = (math.nan,) * len(_NAMES)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_MAX_TEXT_CHARS = 200
MAX_LAYOUTS = 256
"""Most layouts remembered: more than there are models; strangers cannot fill the memory."""

_ENCODER = msgspec.json.Encoder()


class Hj212Reading(NamedTuple):
    """A reading as the decoder sees it.

    Attributes:
        telemetry: What is stored.
        flags: Data flags as they were said, by quantity.
    """

    telemetry: Telemetry
    flags: dict[str, str]


class Meaning(NamedTuple):
    """What the fields of one series mean in some dialects.

    Attributes:
        roles: As of `roles_of`.
        spelling: The right name of each field by the same in small letters.
        vendors: The fields whose code is not the standard's.
        exponents: By place: what is written behind a number to have it in the vocabulary's
            unit; that reads it exactly, which multiplying does not.
    """

    roles: dict[str, int]
    spelling: dict[str, str]
    vendors: frozenset[str]
    exponents: tuple[str, ...]


@cache
def meaning_of(dialects: tuple[Dialect, ...], series: Series, powers: tuple[int, ...]) -> Meaning:
    """Make the tables for one series.

    Args:
        dialects: Later ones are stronger.
        series: What the reading is.
        powers: By place: the power of ten from the device's unit to the vocabulary's.

    Returns:
        The tables.
    """
    roles = roles_of(dialects, series)
    return Meaning(
        roles,
        {name.lower(): name for name in (*roles, *_BARE)},
        frozenset(name for name in roles if not is_standard(name)),
        tuple(f"e{power}" if power else "" for power in powers),
    )


class Layout(NamedTuple):
    """Which field stands where in the frames of a device that always sends the same ones.

    Attributes:
        time: Place of DataTime among the fields.
        values: For each value its place among the fields, its place in the reading, and its
            exponent as of `Meaning`.
        marks: Places of the data flags.
        others: Name and place of each field that is kept beside the reading.
        flags: What a reading says of its flags when all are normal.
        by_vendor: Whether a code is not the standard's.
    """

    time: int
    values: tuple[tuple[int, int, str], ...]
    marks: tuple[int, ...]
    others: tuple[tuple[str, int], ...]
    flags: dict[str, str]
    by_vendor: bool


class Plain(NamedTuple):
    """What fields that are as they should be say.

    Attributes:
        digits: DataTime.
        telemetry: The reading.
        layout: Theirs.
    """

    digits: str
    telemetry: Telemetry
    layout: Layout


class Layouts:
    """Reads fields that are as they should be, and remembers where each one stands.

    Devices send the same fields in the same order for years. Where the names are those of an
    earlier frame, nothing has to be looked up but the values.

    Args:
        series: What the reading is.
        meaning: What its fields mean.
    """

    def __init__(self, series: Series, meaning: Meaning) -> None:
        self._series = int(series)
        self._meaning = meaning
        self._known: dict[tuple[str, ...], Layout | None] = {}

    def read(self, content: str) -> Plain | None:
        """Read a CP.

        Args:
            content: What stands between ``&&`` and ``&&``.

        Returns:
            What it says; None where anything at all is unusual: it has to be read by `split`
            and `Fields`.
        """
        if " " in content or "_" in content or not content.isascii():
            return None
        parts = content.replace(";", ",").replace("=", ",").split(",")
        names = tuple(parts[::2])
        texts = parts[1::2]
        if len(texts) != len(names) or content.count("=") != len(names):
            return None
        known = self._known
        if names not in known:
            if len(known) >= MAX_LAYOUTS:
                known.clear()
            known[names] = layout_of(names, self._meaning)
        layout = known[names]
        if layout is None:
            return None
        for place in layout.marks:
            if texts[place] != NORMAL:
                return None
        values = list(_NOTHING)
        extra = None
        try:
            for place, quantity, exponent in layout.values:
                values[quantity] = number = float(texts[place] + exponent)
                if number - number != 0.0:  # NaN or infinite
                    return None
            if layout.others:
                others = {name: float(texts[place]) for name, place in layout.others}
                extra = _ENCODER.encode(others)
                # A number that is not finite is written as null.
                if len(extra) > MAX_EXTRA_BYTES or b"null" in extra:
                    return None
            digits = texts[layout.time]
            reported_us = parse_time(digits)
        except (ValueError, Rejected):
            return None
        telemetry = Telemetry(reported_us, tuple(values), self._series, None, None, extra)
        return Plain(digits, telemetry, layout)


def layout_of(names: tuple[str, ...], meaning: Meaning) -> Layout | None:
    """Find out where each field stands.

    Args:
        names: Of the fields, in their order.
        meaning: What they mean.

    Returns:
        The layout; None where these fields are unusual.
    """
    if names.count(DATA_TIME) != 1 or len(set(names)) != len(names):
        return None
    values: list[tuple[int, int, str]] = []
    marks: list[int] = []
    others: list[tuple[str, int]] = []
    flags: dict[str, str] = {}
    for at, name in enumerate(names):
        role = meaning.roles.get(name)
        if name == DATA_TIME:
            continue
        if role is None and (
            name.lower() in meaning.spelling or not 0 < len(name) <= MAX_NAME_CHARS
        ):
            return None
        if role is None or role == STATISTIC:
            if name.endswith("-Flag"):
                marks.append(at)
            else:
                others.append((name, at))
        elif role < FLAG:
            values.append((at, role, meaning.exponents[role]))
        elif role < OTHER:
            marks.append(at)
            flags[_NAMES[role - FLAG]] = NORMAL
        else:
            return None
    places = {quantity for _, quantity, _ in values}
    if not places or len(places) != len(values) or len(others) > MAX_EXTRA:
        return None
    by_vendor = not meaning.vendors.isdisjoint(names)
    return Layout(
        names.index(DATA_TIME), tuple(values), tuple(marks), tuple(others), flags, by_vendor
    )


def split(
    content: str, meaning: Meaning, notes: dict[Note, None]
) -> tuple[dict[str, str], list[Refused]]:
    """Take a CP apart, with a note on whatever is not as it should be.

    Args:
        content: What stands between ``&&`` and ``&&``.
        meaning: Which fields are known.
        notes: What is to be noted is added to it.

    Returns:
        Values by field, names in the right case; and what was refused of them.
    """
    said: dict[str, str] = {}
    refused: list[Refused] = []
    groups = [[item.strip() for item in group.split(",")] for group in content.split(";")]
    for group in groups:
        mine: dict[str, str] = {}
        last = ""
        for item in group:
            name, equals, value = item.partition("=")
            name, value = name.strip(), value.strip()
            if not equals:
                notes[Note.ITEM_WITHOUT_VALUE if item else Note.STRAY_SEPARATOR] = None
                if item.isdigit() and last in mine:
                    mine[last] += f",{item}"  # a decimal comma: refused as no number, not cut off
                continue
            spelled = name
            if name not in meaning.roles and name not in _BARE:
                spelled = meaning.spelling.get(name.lower(), name)
                if spelled != name:
                    notes[Note.NAME_CASE] = None
            last = spelled
            earlier = mine.get(spelled)
            if earlier is None:
                mine[spelled] = value
                continue
            notes[Note.REPEATED_ITEM] = None
            if earlier != value:
                refused.append(_second(spelled, value, meaning))
        _place_bare_flag(mine, meaning, notes)
        for name, value in mine.items():
            if name not in said:
                said[name] = value
                continue
            if name not in _BARE:  # each part of a split packet says DataTime
                notes[Note.REPEATED_ITEM] = None
            if name == "Flag":
                if value.upper() != NORMAL:
                    said[name] = value  # which values it is about cannot be told: the worse holds
            elif said[name] != value:
                refused.append(_second(name, value, meaning))
    return said, refused


def _place_bare_flag(group: dict[str, str], meaning: Meaning, notes: dict[Note, None]) -> None:
    """A Flag without a code: of the values in its group, or of all where it stands alone."""
    flag = group.get("Flag")
    if flag is None:
        return
    notes[Note.FLAG_IN_CP] = None
    codes = {name.rpartition("-")[0] for name in group if meaning.roles.get(name, FLAG) < FLAG}
    if flag.isdigit() or codes:  # digits: the header's Flag, in the wrong place
        del group["Flag"]
    if not flag.isdigit():
        for code in codes:
            group.setdefault(f"{code}-Flag", flag)


def _second(name: str, value: str, meaning: Meaning) -> Refused:
    role = meaning.roles.get(name, STATISTIC)
    field = _NAMES[role] if role < FLAG else name[:MAX_NAME_CHARS]
    detail = f"{name} is said again with another value, {shown(value)}; the first stays"
    return Refused(Reason.SYNTAX, detail, field, shown(value))


class Fields:
    """Fields put where they belong, on their way to a reading.

    Args:
        said: Values by field, as of `split`.
        meaning: What the fields mean.
    """

    def __init__(self, said: dict[str, str], meaning: Meaning) -> None:
        self._said = said
        self._meaning = meaning
        self._values = list(_NOTHING)
        self._names: dict[int, str] = {}  # by place: the field its value comes from
        self._flags: dict[int, str] = {}  # by place
        self._doubled: list[tuple[int, str]] = []  # place and field: the place was taken
        self._spare: list[tuple[int, str]] = []  # likewise: of another statistic
        self._others: list[str] = []
        for name, text in said.items():
            role = meaning.roles.get(name)
            if role is None or role == STATISTIC:
                if name not in _BARE:
                    self._others.append(name)
            elif role >= OTHER:
                self._spare.append((role - OTHER, name))
            elif role >= FLAG:
                self._flags.setdefault(role - FLAG, text)
            elif role in self._names:
                self._doubled.append((role, name))
            else:
                self._names[role] = name

    def reading(
        self, reported_us: int, series: Series, refused: list[Refused], notes: dict[Note, None]
    ) -> Hj212Reading | None:
        """Make the reading.

        Args:
            reported_us: Its time, microseconds since 1970 UTC.
            series: What the time means.
            refused: What is refused is added to it, the reading included.
            notes: What is to be noted is added to it.

        Returns:
            The reading; None where nothing is left of it.
        """
        bad: list[Refused] = []
        extra: dict[str, float | str] = {}
        self._use_spare(notes)
        flags = self._flags
        general = self._said.get("Flag", NORMAL)
        if general != NORMAL:
            for place in self._names:
                flags.setdefault(place, general)
        self._read_numbers(bad)
        for place, flag in flags.items():
            if flag != NORMAL:
                self._mark(place, flag, extra, bad, notes)
        if not self._meaning.vendors.isdisjoint(self._said):
            notes[Note.VENDOR_CODE] = None
        kept = self._keep_others(extra, bad)
        values = tuple(self._values)
        if kept is None and values == _NOTHING:
            why = bad[0] if bad else Refused(Reason.INCOMPLETE, "the frame holds no value")
            refused.append(Refused(why.reason, why.detail))
            refused.extend(bad)
            return None
        refused.extend(bad)
        said = {_NAMES[place]: flag for place, flag in flags.items()}
        return Hj212Reading(Telemetry(reported_us, values, int(series), None, None, kept), said)

    def _use_spare(self, notes: dict[Note, None]) -> None:
        """Take values of another statistic where there is no better one."""
        for place, name in self._spare:
            if place in self._names:
                self._others.append(name)
            else:
                self._names[place] = name
                notes[Note.OTHER_STATISTIC] = None

    def _read_numbers(self, bad: list[Refused]) -> None:
        """Read the values, and refuse by name what is no number."""
        said = self._said
        marked = {place for place, flag in self._flags.items() if flag.strip().upper() in MARKS}
        for place, name in self._names.items():
            try:
                self._values[place] = read_number(said[name], self._meaning.exponents[place])
            except Rejected as fault:
                if place not in marked:  # a sensor in repair may well say "--"
                    detail = f"{name}: {fault.detail}"
                    bad.append(Refused(fault.reason, detail, _NAMES[place], shown(said[name])))
        for place, name in self._doubled:
            if said[name] != said[self._names[place]]:
                detail = f"{name} {shown(said[name])}, but {self._names[place]} was said before it"
                bad.append(Refused(Reason.SYNTAX, detail, _NAMES[place], shown(said[name])))

    def _mark(
        self,
        place: int,
        flag: str,
        extra: dict[str, float | str],
        bad: list[Refused],
        notes: dict[Note, None],
    ) -> None:
        """Treat a value whose data flag is not N."""
        folded = flag.strip().upper()
        if folded in (NORMAL, ""):
            notes[Note.DATA_FLAG_CASE] = None
            return
        name = self._names.get(place)
        if folded not in MARKS:
            if name is not None:
                detail = f"{name}: data flag {shown(flag)} is none of N F M S D T C B"
                bad.append(Refused(Reason.TYPE, detail, _NAMES[place], shown(self._said[name])))
                self._values[place] = math.nan
            return
        if folded != flag:
            notes[Note.DATA_FLAG_CASE] = None
        notes[Note.MARKED_NOT_NORMAL] = None
        if name is not None:
            self._others.append(name)
            self._values[place] = math.nan
            extra[f"{name.rpartition('-')[0]}-Flag"] = folded

    def _keep_others(self, extra: dict[str, float | str], bad: list[Refused]) -> bytes | None:
        """Keep beside the reading what has no place in it, within the limits of all readings."""
        for name in self._others:
            text = self._said[name]
            if text == NORMAL and name.endswith("-Flag"):
                continue
            try:
                extra[name] = read_number(text, "")
            except Rejected:
                extra[name] = text[:_MAX_TEXT_CHARS]
        room = MAX_EXTRA_BYTES - len("{}")
        kept: dict[str, float | str] = {}
        left_out: list[str] = []
        for name, value in extra.items():
            needed = len(_ENCODER.encode({name: value})) - len("{}") + len(",")
            if needed > room or len(kept) == MAX_EXTRA or not 0 < len(name) <= MAX_NAME_CHARS:
                left_out.append(name)
            else:
                kept[name] = value
                room -= needed
        if left_out:
            name = left_out[0]
            detail = (
                f"{len(left_out)} fields beyond the vocabulary do not fit beside the reading,"
                f" the first is {shown(name)}"
            )
            value_shown = shown(extra[name])
            bad.append(Refused(Reason.TOO_LARGE, detail, shown(name), value_shown))
        return _ENCODER.encode(kept) if kept else None


def read_number(text: str, exponent: str) -> float:
    """Read a number.

    ``float`` alone would take ``1_000``, ``nan`` and the digits of every script.

    Args:
        text: What was sent; blanks around it do no harm.
        exponent: As of `Meaning`.

    Returns:
        The number, in the vocabulary's unit.

    Raises:
        Rejected: It is none, or none that is finite.
    """
    stripped = text.strip()
    if not _NUMBER.fullmatch(stripped):
        raise Rejected(Reason.TYPE, f"{shown(text)} is not a number")
    number = float(Decimal(stripped).scaleb(int(exponent[1:] or "0")))
    if not math.isfinite(number):
        raise Rejected(Reason.RANGE, f"{shown(text)} is no finite number")
    return number
