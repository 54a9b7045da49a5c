"""The reverse: a reading written as the device would, where the datasheet says how. Pure.

For simulators and tests: what is written here decodes to the same time and values.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from device_profiles.datasheets import Alarm, Datasheet, Format, Time
from device_profiles.native import moment_of
from device_profiles.paths import Step, parse_path
from device_profiles.readings import Telemetry
from device_profiles.units import conversion
from device_profiles.vocabulary import QUANTITIES, SERIES_BY_NAME, Series


def encode_mapped(sheet: Datasheet, telemetry: Telemetry) -> bytes | None:
    """Write a reading as the device would.

    Args:
        sheet: Of format `json`, `pairs` or `csv`.
        telemetry: A reading; its time in whole seconds.

    Returns:
        A payload that decodes to the reading's time, series, values and alarms; None where the
        datasheet does not say enough: several devices in a message, a path into a list, or
        another format.
    """
    time = sheet.time
    if sheet.format not in (Format.JSON, Format.PAIRS, Format.CSV) or time is None:
        return None
    if sheet.each.is_gateway or (sheet.each.at and not sheet.each.or_alone) or time.at is None:
        return None
    message: dict[str, Any] = {}
    said = [(str(time.at), _time(time, moment_of(telemetry.reported_us)))]
    if not isinstance(sheet.series, str):
        words = {name: word for word, name in sheet.series.words.items()}
        name = Series(telemetry.series).name.lower()
        if name not in words:
            return None
        said.append((sheet.series.at, words[name]))
    elif SERIES_BY_NAME[sheet.series] != telemetry.series:
        return None
    if sheet.seq is not None and telemetry.seq is not None:
        said.append((sheet.seq, telemetry.seq))
    said += _values(sheet, telemetry)
    said += [(str(alarm.at), _alarm(alarm, telemetry.alarms or ())) for alarm in sheet.alarms]
    if not all(_put(message, parse_path(path), value) for path, value in said):
        return None
    match sheet.format:
        case Format.PAIRS:
            assert sheet.pairs is not None  # noqa: S101 - the datasheet was checked
            text = sheet.pairs.between.join(
                f"{name}{sheet.pairs.equals}{value}" for name, value in message.items()
            )
        case Format.CSV:
            assert sheet.csv is not None  # noqa: S101 - the datasheet was checked
            delimiter = sheet.csv.delimiter
            text = delimiter.join(str(message.get(name, "")) for name in sheet.csv.columns)
            if sheet.csv.header:
                text = delimiter.join(sheet.csv.columns) + "\r\n" + text
        case _:
            text = json.dumps(message, ensure_ascii=False)
    return text.encode(sheet.encoding)


def _time(time: Time, moment: datetime) -> str | int:
    if time.format == "epoch_s":
        return int(moment.timestamp())
    if time.format in ("epoch_ms", "auto_epoch"):
        return int(moment.timestamp()) * 1_000
    local = moment.astimezone(ZoneInfo(time.zone)) if time.zone else moment
    return local.isoformat() if time.format == "rfc3339" else local.strftime(time.format)


def _values(sheet: Datasheet, telemetry: Telemetry) -> list[tuple[str, Any]]:
    said: list[tuple[str, Any]] = []
    for quantity, number in zip(QUANTITIES[sheet.kind], telemetry.values, strict=True):
        value = sheet.values.get(quantity.name)
        if value is None or math.isnan(number):
            continue
        factor, shift = conversion(value.unit or quantity.unit, quantity.unit)
        said.append((str(value.at), ((number - shift) / factor - value.offset) / value.scale))
        if value.flag is not None:
            said.append((str(value.flag.at), value.flag.good[0]))
    return said


def _alarm(alarm: Alarm, active: tuple[str, ...]) -> Any:
    if alarm.name is not None:
        said = alarm.when[0]
        if alarm.name in active:
            return said
        return (not said) if isinstance(said, bool) else "" if isinstance(said, str) else 1 - said
    number = sum(1 << int(bit) for bit, name in alarm.names.items() if name in active)
    if alarm.bits == "number":
        return number
    width = alarm.width or 1 + max(int(bit) for bit in alarm.names)
    text = f"{number:0{width}b}"
    return text if alarm.bits == "right" else text[::-1]


def _put(message: dict[str, Any], steps: tuple[Step, ...], value: Any) -> bool:
    place: Any = message
    for step in steps[:-1]:
        if not isinstance(step, str):
            return False
        place = place.setdefault(step, {})
    if not isinstance(steps[-1], str):
        return False
    place[steps[-1]] = value
    return True
