"""Datasheets: what a profile file may say, checked as a whole when it is loaded.

A profile is one TOML file that reads like a datasheet: which devices it fits, the format, where
each quantity lies, its unit and valid range, alarm bits and their order, the time with its format
and zone, and what to do with the rest. `docs/new-device.md` walks through one. Nothing here
touches a payload: `device_profiles.decoding` builds decoders from datasheets.
"""

from __future__ import annotations

import math
import re
import zoneinfo
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from device_profiles.fitting import Entry, Fits
from device_profiles.hj212.factors import FIELD_PRACTICE, Dialect
from device_profiles.hj212.frames import Tolerance
from device_profiles.paths import Step, parse_path
from device_profiles.time_formats import compile_time_format
from device_profiles.topics import ID
from device_profiles.units import conversion
from device_profiles.vocabulary import (
    MAX_ALARMS,
    MAX_NAME_CHARS,
    QUANTITIES,
    Kind,
    Quantity,
)
from device_profiles.winds import WINDS


class Format(StrEnum):
    """How a payload is written."""

    JSON = "json"
    TEXT = "text"
    PAIRS = "pairs"
    CSV = "csv"
    STRUCT = "struct"
    HJ212 = "hj212"
    JPEG = "jpeg"
    EVENT = "event"
    PYTHON = "python"


def _is_path(text: str) -> str:
    parse_path(text)
    return text


def _is_wide_path(text: str) -> str:
    parse_path(text, each=True)
    return text


def _is_place(place: object) -> object:
    if isinstance(place, str):
        return _is_path(place)
    if isinstance(place, bool) or not isinstance(place, int):
        raise ValueError("neither a path nor a byte offset")  # noqa: TRY004 - pydantic's
    if not -_FARTHEST <= place <= _FARTHEST:
        raise ValueError(f"byte {place} is farther than {_FARTHEST}")
    return place


_FARTHEST = 4_096
Path = Annotated[str, Field(max_length=200), AfterValidator(_is_path)]
WidePath = Annotated[str, Field(max_length=200), AfterValidator(_is_wide_path)]
Offset = Annotated[int, Field(ge=-_FARTHEST, le=_FARTHEST)]
Place = Annotated[Any, BeforeValidator(_is_place)]
"""Where something lies: a path, or in binary frames a byte offset, from the end if negative."""
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, pattern=r"^[\w.-]+$")]
Scalar = str | int | float | bool
Hex = Annotated[str, Field(pattern=r"^([0-9A-Fa-f]{2}){1,16}$")]

NUMBER_BYTES = {
    "u8": 1, "i8": 1, "u16": 2, "i16": 2, "u24": 3, "u32": 4, "i32": 4, "f32": 4, "f64": 8,
    "bcd1": 1, "bcd2": 2, "bcd3": 3, "bcd4": 4,
}  # fmt: skip
TIME_BYTES = {"bcd6": 6, "binary6": 6, "bcd7": 7}
NumberType = Literal[
    "u8", "i8", "u16", "i16", "u24", "u32", "i32", "f32", "f64", "bcd1", "bcd2", "bcd3", "bcd4"
]
WholeType = Literal["u8", "i8", "u16", "i16", "u24", "u32", "i32", "bcd1", "bcd2", "bcd3", "bcd4"]
TimeType = Literal["bcd6", "binary6", "bcd7"]


class Each(Entry):
    """Where a message holds several readings."""

    at: WidePath | None = Field(None, description="list of readings, or object of them by name")
    device: Path | None = Field(None, description="says whose reading it is: an external_id")
    key_is_device: bool = Field(False, description="the object's keys are external_ids")
    or_alone: bool = Field(False, description="a message that is no list is one reading itself")
    flatten: str | None = Field(
        None, description="an object within the reading whose names are read as the reading's own"
    )

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if self.or_alone and self.at != "[*]":
            raise ValueError("or_alone goes with at = '[*]'")
        if self.key_is_device and self.device is not None:
            raise ValueError("either device or key_is_device")
        return self

    @property
    def is_gateway(self) -> bool:
        """Whether the message says whose readings it holds."""
        return self.key_is_device or self.device is not None


_NAMED_FORMATS = ("rfc3339", "epoch_s", "epoch_ms", "auto_epoch")


class Time(Entry):
    """The device's own time."""

    at: Place | None = None
    format: str = Field(
        "rfc3339", description="rfc3339, epoch_s, epoch_ms, auto_epoch, or as strptime has it"
    )
    type: TimeType | None = Field(None, description="struct only: how the bytes hold it")
    zone: str | None = Field(None, description="for times that name none")
    absent: Literal["refuse", "received"] = "refuse"

    @field_validator("zone")
    @classmethod
    def _is_iana(cls, value: str | None) -> str | None:
        if value is not None and value not in zoneinfo.available_timezones():
            raise ValueError(f"{value!r} is not an IANA time zone")
        return value

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.format not in _NAMED_FORMATS:
            if "%" not in self.format:
                named = ", ".join(_NAMED_FORMATS)
                raise ValueError(f"format {self.format!r} is not {named}, or like '%Y-%m-%d %H:%M'")
            compile_time_format(self.format)
        local = self.type is not None or (
            self.format not in _NAMED_FORMATS and "%z" not in self.format and self.at is not None
        )
        if local and self.zone is None:
            raise ValueError("zone is missing: a time without a zone is not guessed")
        if self.at is None and self.absent == "refuse":
            raise ValueError("at is missing, or absent = 'received'")
        return self


class Flag(Entry):
    """The device's own word on a value."""

    at: Place
    good: tuple[Scalar, ...] = Field(min_length=1)


WORD_TABLES: dict[str, dict[str, float]] = {"winds": WINDS}
"""Tables of words that have a name, so that no datasheet has to repeat them."""

Words = dict[str, float] | Literal["winds"]


def word_table(words: Words) -> dict[str, float]:
    """Give the numbers of words.

    Args:
        words: A datasheet's own table, or the name of one.

    Returns:
        Numbers by word, in the vocabulary's unit.
    """
    return WORD_TABLES[words] if isinstance(words, str) else words


class Value(Entry):
    """Where a quantity lies and how it is written."""

    at: Place
    unit: str | None = None
    scale: float = Field(1.0, description="raw × scale + offset, before the unit")
    offset: float = 0.0
    range: tuple[float, float] | None = Field(None, description="the datasheet's, in `unit`")
    missing: tuple[Scalar, ...] = ()
    words: Words = Field({}, description="words for numbers of the vocabulary's unit")
    flag: Flag | None = None
    type: NumberType | None = Field(None, description="struct only: how the bytes hold it")
    order: Literal["big", "little"] | None = None

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range {list(self.range)} is the wrong way round")
        if self.scale == 0:
            raise ValueError("scale is 0")
        return self


class Alarm(Entry):
    """Alarms of a crane: one field that says yes, or a field of bits."""

    at: Place
    name: Name | None = None
    when: tuple[Scalar, ...] = (1, "1", True)
    bits: Literal["right", "left", "number"] | None = Field(
        None, description="bit 0 is the right-most or left-most character, or an integer's lowest"
    )
    width: int | None = Field(None, ge=1, le=64, description="how many bits there have to be")
    names: dict[str, Name] = Field({}, description="which bit means what")
    type: WholeType | None = Field(None, description="struct only: how the bytes hold it")
    order: Literal["big", "little"] | None = None

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.name is None) == (self.bits is None):
            raise ValueError("either name (one alarm) or bits with names (a field of them)")
        if self.bits is not None and not self.names:
            raise ValueError("names is missing: which bit means what")
        width = self.width or 64
        for bit in self.names:
            if not (bit.isascii() and bit.isdigit() and len(bit) <= 2 and int(bit) < width):
                raise ValueError(f"names: {bit!r} is not a bit from 0 to {width - 1}")
        return self


class Rest(Entry):
    """What to do with what no line names."""

    keep: Literal["all", "none"] | tuple[Path, ...] = "all"


class Contradiction(Entry):
    """What cannot be true together; noted, and both values kept as the device said them."""

    says: str | None = None
    percent_of: tuple[str, str] | None = None
    also_at: Path | None = Field(None, description="where the message says it a second time")
    words: Words = Field({}, description="words for numbers, of also_at")
    within: float = Field(10.0, gt=0, description="percentage points, or the quantity's own unit")
    not_above: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _is_one_of_three(self) -> Self:
        ways = (self.percent_of, self.also_at, self.not_above)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("one of percent_of, also_at and not_above")
        if (self.says is None) != (self.not_above is not None):
            raise ValueError("says goes with percent_of and also_at")
        return self

    @property
    def quantities(self) -> tuple[str, ...]:
        """The quantities it is about."""
        if self.not_above is not None:
            return self.not_above
        return (self.says or "", *(self.percent_of or ()))


class Text(Entry):
    """Fixed text: a regular expression whose named groups are the paths."""

    pattern: str = Field(max_length=2_000)

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            found = re.compile(value, re.ASCII)
        except re.error as fault:
            raise ValueError(f"no regular expression: {fault}") from None
        if not found.groupindex:
            raise ValueError("has no named group (?P<name>…)")
        return value


class Pairs(Entry):
    """Text of names and values."""

    between: str = Field(";", min_length=1, max_length=4)
    equals: str = Field("=", min_length=1, max_length=4)

    @model_validator(mode="after")
    def _are_two(self) -> Self:
        if self.between in self.equals or self.equals in self.between:
            raise ValueError("between and equals cannot be told apart")
        return self


class Csv(Entry):
    """Lines of columns; every line is a reading."""

    columns: tuple[str, ...] = Field(min_length=1, max_length=256)
    delimiter: str = Field(",", min_length=1, max_length=1)
    header: bool = Field(False, description="the first line names the columns and is skipped")

    @model_validator(mode="after")
    def _is_readable(self) -> Self:
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise ValueError(f"columns: {twice[0]!r} stands twice")
        if self.delimiter in '"\r\n':
            raise ValueError(f"delimiter {self.delimiter!r} cannot divide columns")
        return self


class Length(Entry):
    """Where a binary frame says how long it is."""

    at: Offset
    type: WholeType = "u8"
    plus: int = Field(0, ge=-64, le=64, description="total bytes = the field + this")


class Check(Entry):
    """How a binary frame proves itself."""

    kind: Literal["sum8", "xor8", "crc16_modbus", "crc16_hj212"]
    start: Offset = 0
    end: Offset = -1
    at: Offset = -1
    order: Literal["big", "little"] = "big"


class Select(Entry):
    """Which binary frames are readings."""

    at: Offset
    type: WholeType = "u8"
    equals: int
    ignore: tuple[int, ...] = Field((), description="others that are known, and hold no reading")


class Frame(Entry):
    """A binary frame."""

    start: Hex | None = None
    end: Hex | None = None
    order: Literal["big", "little"] = "big"
    bytes: int | None = Field(None, ge=1, le=65_536, description="its fixed length")
    length: Length | None = None
    check: Check | None = None
    select: Select | None = None


What = Literal["no_helmet", "no_vest", "intrusion", "smoke_fire", "other"]


class Picture(Entry):
    """Where an event holds its picture."""

    at: Path
    form: Literal["auto", "base64", "url"] = "auto"


class Verdict(Entry):
    """What an AI box says it saw."""

    what: What | None = None
    at: Path | None = None
    words: dict[str, What] = Field({}, description="its words for ours; others are 'other'")
    score: Path | None = None
    percent: bool = Field(False, description="scores are percent, not shares of 1")

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.what is None) == (self.at is None):
            raise ValueError("either what (always the same) or at with words")
        return self


class Boxes(Entry):
    """Where an AI box says it saw it."""

    each: WidePath | None = Field(None, description="list of boxes; default: one, in the message")
    at: Path | None = Field(None, description="a list of four numbers")
    four: tuple[Path, Path, Path, Path] | None = Field(None, description="or four places")
    form: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    scale: Literal["pixels", "relative"] = "pixels"
    label: Path | None = None
    labels: dict[str, str] = Field({}, description="its labels for ours; others are kept")
    score: Path | None = None
    percent: bool = Field(False, description="scores are percent, not shares of 1")

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.at is None) == (self.four is None):
            raise ValueError("either at (a list of four numbers) or four (their places)")
        return self


class Hj212(Entry):
    """How HJ 212 is read: standard field practice, and what a make does beyond it."""

    dialects: tuple[str, ...] = Field(
        tuple(FIELD_PRACTICE), description="factor codes understood; of two, the later one counts"
    )
    dust_unit: Literal["ug/m3", "mg/m3", "ng/m3", "µg/m³", "mg/m³", "ng/m³"] = "µg/m³"
    tolerate: tuple[str, ...] = Field((), description="deviations taken and counted")

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for name in self.tolerate:
            if name not in set(Tolerance):
                raise ValueError(f"tolerate: {name!r} is not one of {', '.join(Tolerance)}")
        for name in self.dialects:
            if name not in set(Dialect):
                raise ValueError(f"dialects: {name!r} is not one of {', '.join(Dialect)}")
        return self


class SeriesAt(Entry):
    """Where the message says what its time means."""

    at: Path
    words: dict[str, Literal["instant", "minute", "hour", "day"]]


class ExampleBox(Entry):
    """One box of an event."""

    label: str = ""
    score: float | None = None
    box: tuple[float, float, float, float]


class ExampleReading(Entry):
    """One reading, event or picture the example decodes to."""

    observed_at: AwareDatetime
    series: Literal["instant", "minute", "hour", "day"] = "instant"
    values: dict[str, float] = Field({}, description="in the vocabulary's units")
    alarms: tuple[str, ...] | None = None
    seq: int | None = None
    device: str | None = Field(None, description="gateways: whose reading it is")
    what: What | None = Field(None, description="events: the verdict")
    score: float | None = None
    boxes: tuple[ExampleBox, ...] | None = None
    picture: tuple[int, int] | None = Field(None, description="its width and height, pixels")
    picture_url: str | None = None


class Example(Entry):
    """A payload as the datasheet documents it, and what it means; every profile is tested on it."""

    payload: str | None = None
    payload_hex: str | None = Field(None, pattern=r"^([0-9A-Fa-f]{2}|\s)+$")
    received_at: AwareDatetime | None = Field(
        None, description="where the device sends no time of its own"
    )
    readings: tuple[ExampleReading, ...] = Field(min_length=1)
    refused: tuple[str, ...] = Field((), description="fields of it that are refused")

    @model_validator(mode="after")
    def _is_one_payload(self) -> Self:
        if (self.payload is None) == (self.payload_hex is None):
            raise ValueError("either payload or payload_hex")
        return self

    @property
    def bytes(self) -> bytes:
        """The payload."""
        if self.payload_hex is not None:
            return bytes.fromhex(self.payload_hex)
        return (self.payload or "").encode()


_SECTIONS: dict[str, frozenset[Format]] = {
    "text": frozenset({Format.TEXT}),
    "pairs": frozenset({Format.PAIRS}),
    "csv": frozenset({Format.CSV}),
    "frame": frozenset({Format.STRUCT}),
    "picture": frozenset({Format.EVENT}),
    "verdict": frozenset({Format.EVENT}),
    "boxes": frozenset({Format.EVENT}),
    "hj212": frozenset({Format.HJ212}),
    "decoder": frozenset({Format.PYTHON}),
}
_NEEDED = {
    Format.TEXT: "text", Format.PAIRS: "pairs", Format.CSV: "csv", Format.STRUCT: "frame",
    Format.EVENT: "picture", Format.PYTHON: "decoder",
}  # fmt: skip
_MAPPED = frozenset({Format.JSON, Format.TEXT, Format.PAIRS, Format.CSV, Format.STRUCT})
_ABOUT = frozenset({"id", "title", "kind", "format", "source", "fits", "example"})
_READ = frozenset({"time", "series", "values", "alarms", "contradictions"})
_WRITTEN = _READ | {"encoding", "seq", "rest"}
_ALLOWED: dict[Format, frozenset[str]] = {
    Format.JSON: _WRITTEN | {"each"},
    Format.TEXT: _WRITTEN,
    Format.PAIRS: _WRITTEN,
    Format.CSV: _WRITTEN,
    Format.STRUCT: _READ,
    Format.HJ212: frozenset(),
    Format.JPEG: frozenset(),
    Format.EVENT: frozenset({"encoding", "time", "each"}),
    Format.PYTHON: _WRITTEN | {"each"},
}
"""What may stand in a datasheet of each format, beside what is said of the profile itself and the
sections that belong to one format alone."""

_KINDS: dict[Format, frozenset[Kind]] = {
    **dict.fromkeys((*_MAPPED, Format.PYTHON), frozenset(QUANTITIES)),
    Format.HJ212: frozenset({Kind.DUST}),
    Format.JPEG: frozenset({Kind.CAMERA}),
    Format.EVENT: frozenset({Kind.CAMERA}),
}


class Datasheet(Entry):
    """One profile."""

    id: Annotated[str, Field(pattern=f"^{ID.pattern}$")]
    title: str = Field(min_length=1, max_length=200)
    kind: Kind
    format: Format
    encoding: Literal["utf-8", "gb18030"] = "utf-8"
    source: str = Field("", description="where the shape was learnt, and how sure that is")
    fits: Fits | None = Field(None, description="default: only devices that name it")
    each: Each = Each()
    time: Time | None = None
    seq: Path | None = None
    series: Literal["instant", "minute", "hour", "day"] | SeriesAt = "instant"
    values: dict[str, Value] = Field({}, description="by name of the vocabulary")
    alarms: tuple[Alarm, ...] = Field((), max_length=MAX_ALARMS)
    rest: Rest = Rest()
    contradictions: tuple[Contradiction, ...] = ()
    text: Text | None = None
    pairs: Pairs | None = None
    csv: Csv | None = None
    frame: Frame | None = None
    picture: Picture | None = None
    verdict: Verdict | None = None
    boxes: Boxes | None = None
    hj212: Hj212 | None = None
    decoder: str | None = Field(None, pattern=r"^[\w-]+\.py:[a-z_][a-z0-9_]*$")
    example: Example | None = None

    @model_validator(mode="after")
    def _sections_belong_to_the_format(self) -> Self:
        for name in self.model_fields_set - _ABOUT - _ALLOWED[self.format]:
            if self.format not in _SECTIONS.get(name, ()):
                raise ValueError(f"[{name}] does not belong to format {self.format.value!r}")
        needed = _NEEDED.get(self.format)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"format {self.format.value!r} needs [{needed}]")
        if self.kind not in _KINDS[self.format]:
            raise ValueError(f"a {self.kind} has no format {self.format.value!r}")
        if self.format in _MAPPED:
            if self.time is None:
                raise ValueError("[time] is missing")
            if not self.values and not self.alarms:
                raise ValueError("[values] is missing: nothing would be read")
        if self.format is Format.EVENT:
            if self.time is None or self.verdict is None:
                raise ValueError("an event needs [time] and [verdict]")
            if self.each.model_fields_set - {"device"}:
                raise ValueError("[each]: of an event's message only the device can be said")
        return self

    @model_validator(mode="after")
    def _speaks_the_vocabulary(self) -> Self:
        quantities = {quantity.name: quantity for quantity in QUANTITIES.get(self.kind, ())}
        for name, value in self.values.items():
            quantity = quantities.get(name)
            if quantity is None:
                raise ValueError(f"values.{name}: a {self.kind} has no such quantity")
            _require_measurable(value, quantity)
        for entry in self.contradictions:
            for name in entry.quantities:
                if name not in self.values:
                    raise ValueError(f"contradictions: {name!r} is not among [values]")
        if self.alarms and self.kind is not Kind.CRANE:
            raise ValueError("alarms belong to cranes")
        return self

    @model_validator(mode="after")
    def _places_suit_the_format(self) -> Self:
        binary = self.format is Format.STRUCT
        for name, entry in self._entries():
            if isinstance(entry.at, int) != binary:
                raise ValueError(f"{name}.at: {'a byte offset' if binary else 'a path'} is wanted")
            if (entry.type is not None) != binary:
                raise ValueError(
                    f"{name}.type: " + ("is missing" if binary else "belongs to format 'struct'")
                )
        time = self.time
        if time is not None and time.at is not None:
            wanted = (isinstance(time.at, int), time.type is not None)
            if wanted != (binary, binary):
                raise ValueError("time: at and type do not suit the format")
        if binary:
            self._require_binary()
        if self.format is Format.TEXT and self.text is not None:
            groups = re.compile(self.text.pattern).groupindex
            self._require_columns(groups, "is no named group of text.pattern")
        if self.format is Format.CSV and self.csv is not None:
            self._require_columns(self.csv.columns, "is not one of csv.columns")
        return self

    def _entries(self) -> Iterator[tuple[str, Value | Alarm]]:
        for name, value in self.values.items():
            yield f"values.{name}", value
        for number, alarm in enumerate(self.alarms):
            yield f"alarms.{number}", alarm

    def _require_binary(self) -> None:
        for name, value in self.values.items():
            if value.words or value.flag is not None:
                raise ValueError(f"values.{name}: words and flag do not belong to format 'struct'")
        for number, alarm in enumerate(self.alarms):
            if alarm.bits not in (None, "number"):
                raise ValueError(f"alarms.{number}.bits: a binary frame's bits are a 'number'")
            bits = 8 * NUMBER_BYTES[str(alarm.type)]
            if any(int(bit) >= bits for bit in alarm.names):
                raise ValueError(f"alarms.{number}.names: {alarm.type} has {bits} bits")
        if not isinstance(self.series, str):
            raise ValueError("series: a binary frame has one")  # noqa: TRY004 - pydantic's
        if any(entry.also_at is not None for entry in self.contradictions):
            raise ValueError("contradictions: also_at does not belong to format 'struct'")

    def _require_columns(self, columns: Iterable[str], fault: str) -> None:
        for name, path in self.paths():
            first: Step = parse_path(path)[0]
            if first not in set(columns):
                raise ValueError(f"{name}: {first!r} {fault}")

    def paths(self) -> Iterator[tuple[str, str]]:
        """Give every path by which something is read, and the key it stands under.

        Yields:
            Key and path; none for binary frames, whose places are offsets.
        """
        for name, entry in self._entries():
            if isinstance(entry.at, str):
                yield f"{name}.at", entry.at
            if isinstance(entry, Value) and entry.flag is not None:
                yield f"{name}.flag.at", str(entry.flag.at)
        if self.time is not None and isinstance(self.time.at, str):
            yield "time.at", self.time.at
        if self.seq is not None:
            yield "seq", self.seq
        if isinstance(self.series, SeriesAt):
            yield "series.at", self.series.at
        if self.each.device is not None:
            yield "each.device", self.each.device


def _require_measurable(value: Value, quantity: Quantity) -> None:
    """Refuse what could never be a value of the quantity."""
    unit = value.unit or quantity.unit
    try:
        factor, shift = conversion(unit, quantity.unit)
    except ValueError as fault:
        raise ValueError(f"values.{quantity.name}.unit: {fault}") from None
    low, high = (end * factor + shift for end in value.range or (-math.inf, math.inf))
    if high < quantity.low or low > quantity.high:
        raise ValueError(
            f"values.{quantity.name}.range: {low:g} to {high:g} {quantity.unit} lies outside of"
            f" what can be measured, {quantity.low:g} to {quantity.high:g}"
        )
    for word, number in word_table(value.words).items():
        if not quantity.low <= number <= quantity.high:
            raise ValueError(
                f"values.{quantity.name}.words: {word!r} = {number:g} is not within"
                f" {quantity.low:g} to {quantity.high:g} {quantity.unit}"
            )
