"""The decoder of a datasheet: from a payload to what it means. Pure."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from device_profiles.datasheets import Datasheet, Format
from device_profiles.decoding.binary import BinaryReading
from device_profiles.decoding.mapped import MappedReading, parse_text
from device_profiles.decoding.terms import NO_TERMS, Terms
from device_profiles.decoding.values import name_in
from device_profiles.errors import Reason, Rejected, shown
from device_profiles.native import MAX_BATCH, Decoder
from device_profiles.paths import MISSING, Find, finder, look_up_all, parse_path
from device_profiles.readings import Decoded, Refused, Telemetry

MAX_TEXT_BYTES = 64 * 1024
"""Longest payload a pattern, pairs or columns are read from."""

MAX_PATTERN_BYTES = 4 * 1024
"""Longest text a pattern is tried on: a careless pattern takes a time that grows with its square,
and no instrument writes lines this long."""

MAX_NOTES = 16

MAX_DEVICE_CHARS = 128

ReadOne = Callable[[Any], tuple[Telemetry, list[Refused], list[str]]]
DecodeMany = Callable[[bytes], list[tuple[str, Decoded]]]


class _Gathered:
    """What the readings of one message give together."""

    def __init__(self) -> None:
        self.readings: list[Telemetry] = []
        self.refused: list[Refused] = []
        self.notes: list[str] = []

    def take(self, read: ReadOne, message: Any, where: str) -> None:
        """Read one of several readings; its faults say which one it was."""
        if isinstance(message, Rejected):
            self.refused.append(Refused(message.reason, where + message.detail))
            return
        try:
            telemetry, faults, notes = read(message)
        except Rejected as fault:
            self.refused.append(Refused(fault.reason, where + fault.detail))
        else:
            self.readings.append(telemetry)
            if where:
                faults = [
                    Refused(one.reason, where + one.detail, one.field, one.value) for one in faults
                ]
            self.refused += faults
            self.notes += [where + note for note in notes]

    def decoded(self) -> Decoded:
        """Put it together; one that is all refused for one reason is refused whole."""
        if not self.readings and len(self.refused) == 1:
            raise Rejected(self.refused[0].reason, self.refused[0].detail)
        return Decoded(self.readings, tuple(self.refused), tuple(self.notes[:MAX_NOTES]))


def payload_decoder(sheet: Datasheet, terms: Terms = NO_TERMS) -> Decoder:
    """Build the decoder of one device.

    Args:
        sheet: Of a format that gives readings of the sender: json, text, pairs, csv or struct.
        terms: What is known of the device.

    Returns:
        A function from payload to `Decoded`; it raises `Rejected` where nothing can be read. A
        reading without a time of its own has `AT_RECEIPT` for it.
    """
    if sheet.format is Format.STRUCT:
        return _binary(BinaryReading(sheet, terms))
    mapped = MappedReading(sheet, terms)
    read = mapped.read
    messages = _messages(sheet)
    if sheet.format is Format.JSON and sheet.each.at is None:
        encoding = sheet.encoding

        def decode_one(payload: bytes) -> Decoded:
            telemetry, faults, notes = read(parse_text(payload, encoding))
            return Decoded([telemetry], tuple(faults), tuple(notes))

        return decode_one

    def decode(payload: bytes) -> Decoded:
        gathered = _Gathered()
        found = list(islice(messages(payload), MAX_BATCH + 1))
        if len(found) > MAX_BATCH:
            raise Rejected(Reason.TOO_LARGE, f"more than {MAX_BATCH} readings")
        if not found:
            raise Rejected(Reason.INCOMPLETE, "the message holds no reading")
        for number, message in enumerate(found):
            gathered.take(read, message, f"reading {number}: " if len(found) > 1 else "")
        return gathered.decoded()

    return decode


def gateway_decoder(sheet: Datasheet, terms_of: Callable[[str], Terms]) -> DecodeMany:
    """Build the decoder of a gateway: its messages hold readings of several devices.

    Args:
        sheet: With `[each] device` or `key_is_device`.
        terms_of: What is known of a device, by its external id; `NO_TERMS` itself for strangers,
            so that they cost nothing to make up.

    Returns:
        A function from payload to external ids and what was read of each, in the order they
        first occur. A reading that names no device is refused under the id "".
    """
    readers: dict[str, ReadOne] = {}
    of_strangers = MappedReading(sheet, NO_TERMS).read
    name_of = _namer(sheet)
    encoding = sheet.encoding

    def reader(device: str) -> ReadOne:
        known = readers.get(device)
        if known is None:
            terms = terms_of(device)
            if terms is NO_TERMS:
                return of_strangers
            known = readers[device] = MappedReading(sheet, terms).read
        return known

    def decode(payload: bytes) -> list[tuple[str, Decoded]]:
        parsed = parse_text(payload, encoding)
        named = list(islice(name_of(parsed), MAX_BATCH + 1))
        if len(named) > MAX_BATCH:
            raise Rejected(Reason.TOO_LARGE, f"more than {MAX_BATCH} readings")
        if not named:
            raise Rejected(Reason.INCOMPLETE, "the message holds no reading")
        gathered: defaultdict[str, _Gathered] = defaultdict(_Gathered)
        for number, (device, message) in enumerate(named):
            where = f"reading {number}: " if len(named) > 1 else ""
            gathered[device].take(reader(device), message, where)
        return [
            (device, Decoded(found.readings, tuple(found.refused), tuple(found.notes[:MAX_NOTES])))
            for device, found in gathered.items()
        ]

    return decode


def _namer(sheet: Datasheet) -> Callable[[Any], Iterator[tuple[str, Any]]]:
    """From a gateway's message to external ids and objects of names and values."""
    select = _selector(sheet)
    if not sheet.each.key_is_device:
        find_device: Find = finder(str(sheet.each.device))

        def by_field(parsed: Any) -> Iterator[tuple[str, Any]]:
            for message in select(parsed):
                raw = find_device(message) if type(message) is dict else MISSING
                known = type(raw) is str or type(raw) is int
                yield name_in(raw, MAX_DEVICE_CHARS) if known else "", message

        return by_field

    def by_key(parsed: Any) -> Iterator[tuple[str, Any]]:
        if type(parsed) is not dict:
            raise Rejected(Reason.TYPE, f"{shown(parsed)} is not an object of devices")
        for device, readings in parsed.items():
            name = name_in(device, MAX_DEVICE_CHARS)
            for message in select(readings):
                yield name, message

    return by_key


def _selector(sheet: Datasheet) -> Callable[[Any], list[Any]]:
    """From parsed JSON to the objects of names and values in it."""
    if sheet.each.at is None:
        return lambda parsed: [parsed]
    steps = parse_path(sheet.each.at, each=True)
    if sheet.each.or_alone:
        return lambda parsed: parsed if type(parsed) is list else [parsed]
    return lambda parsed: look_up_all(parsed, steps)


def _messages(sheet: Datasheet) -> Callable[[bytes], Iterator[Any]]:
    """From a payload to objects of names and values."""
    match sheet.format:
        case Format.TEXT:
            assert sheet.text is not None  # noqa: S101 - the datasheet was checked
            pattern = re.compile(sheet.text.pattern, re.ASCII)
            return lambda payload: iter(
                [_by_pattern(pattern, _text(payload, sheet, MAX_PATTERN_BYTES))]
            )
        case Format.PAIRS:
            return lambda payload: iter([_by_pairs(sheet, _text(payload, sheet))])
        case Format.CSV:
            return lambda payload: _by_columns(sheet, _text(payload, sheet))
        case _:
            select = _selector(sheet)
            return lambda payload: iter(select(parse_text(payload, sheet.encoding)))


def _text(payload: bytes, sheet: Datasheet, most: int = MAX_TEXT_BYTES) -> str:
    if len(payload) > most:
        raise Rejected(Reason.TOO_LARGE, f"text of {len(payload)} bytes, at most {most} are read")
    try:
        return payload.decode(sheet.encoding).strip("\0\r\n\t \ufeff")
    except UnicodeDecodeError as fault:
        detail = f"payload is not {sheet.encoding.upper()}"
        raise Rejected(Reason.ENCODING, detail, fault.start) from None


def _by_pattern(pattern: re.Pattern[str], text: str) -> dict[str, str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise Rejected(Reason.SYNTAX, f"{shown(text)} does not fit the datasheet's pattern")
    return {name: said for name, said in found.groupdict().items() if said is not None}


def _by_pairs(sheet: Datasheet, text: str) -> dict[str, str]:
    assert sheet.pairs is not None  # noqa: S101 - the datasheet was checked
    found: dict[str, str] = {}
    for pair in text.split(sheet.pairs.between):
        if not pair.strip():
            continue
        name, equals, said = pair.partition(sheet.pairs.equals)
        if not equals:
            raise Rejected(Reason.SYNTAX, f"{shown(pair)} is not NAME{sheet.pairs.equals}VALUE")
        if name.strip() in found:
            raise Rejected(Reason.SYNTAX, f"{shown(name.strip())} is said twice")
        found[name.strip()] = said.strip()
    if not found:
        raise Rejected(Reason.INCOMPLETE, "the payload is empty")
    return found


def _by_columns(sheet: Datasheet, text: str) -> Iterator[Any]:
    assert sheet.csv is not None  # noqa: S101 - the datasheet was checked
    columns = sheet.csv.columns
    lines = [line for line in text.splitlines() if line.strip()]
    rows = csv.reader(
        lines[1:] if sheet.csv.header else lines,
        delimiter=sheet.csv.delimiter,
        skipinitialspace=True,
    )
    for cells in rows:
        if len(cells) != len(columns):
            detail = f"a line of {len(cells)} columns, the datasheet has {len(columns)}"
            yield Rejected(Reason.SYNTAX, detail)
        else:
            yield dict(zip(columns, cells, strict=True))


def _binary(binary: BinaryReading) -> Decoder:
    def decode(payload: bytes) -> Decoded:
        found = binary.read(payload)
        if found is None:
            return Decoded([], (), ("a frame without a reading",))
        telemetry, faults, notes = found
        return Decoded([telemetry], tuple(faults), tuple(notes))

    return decode
