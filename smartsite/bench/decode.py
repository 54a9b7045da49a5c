"""What reading a message costs: each profile of JSON against a bare parse of the same bytes.

The bar is four times `orjson.loads` of the same bytes plus 1 µs a mapped field, and 30 µs for an
HJ 212 minute frame of 1,000 bytes. Both sides of the bar are timed in turns in one run, and of
each the quickest turn counts: a machine shared with others only ever makes a turn slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from device_profiles.catalogue import Profile, load_profiles
from device_profiles.datasheets import Datasheet, Format, SeriesAt
from device_profiles.decoding.events import event_decoder
from device_profiles.hj212.writer import header_of, write_frame

ORJSON_TIMES = 4
US_A_FIELD = 1.0
HJ212_BYTES = 1_000
HJ212_BAR_US = 30.0

_ROUNDS = 80
_TURN_S = 0.002


def measure(profiles: list[Profile] | None = None) -> dict[str, Any]:
    """Time every profile whose messages are JSON, and an HJ 212 minute frame.

    Args:
        profiles: Which; default: those shipped.

    Returns:
        ``profiles``: one object each; ``hj212_minute``; ``holds``: whether every bar does.
    """
    shipped = list(load_profiles().by_id.values())
    rows = [
        _row(profile)
        for profile in profiles or shipped
        if profile.sheet.format in (Format.JSON, Format.EVENT) and profile.sheet.example is not None
    ]
    minute = _minute()
    return {
        "profiles": rows,
        "hj212_minute": minute,
        "holds": minute["holds"] and all(row["holds"] for row in rows),
    }


def mapped_fields(sheet: Datasheet) -> int:
    """Count what a datasheet reads from the example: places it names, times readings or boxes.

    Args:
        sheet: With an example.

    Returns:
        Values with their flags, alarm fields, time, counter, series and device of each reading;
        of an event the time, device, picture, verdict and score, and of each box its four numbers,
        label and score.
    """
    example = sheet.example
    readings = example.readings if example is not None else ()
    if sheet.format is not Format.EVENT:
        names = set(sheet.values)
        total = 0
        for reading in readings:
            said = [sheet.values[name] for name in names & reading.values.keys()]
            total += len(said) + sum(value.flag is not None for value in said)
            total += len(sheet.alarms) if reading.alarms is not None else 0
            total += sum(
                (
                    sheet.time is not None and sheet.time.at is not None,
                    reading.seq is not None,
                    isinstance(sheet.series, SeriesAt),
                    sheet.each.is_gateway,
                )
            )
        return total
    boxes = [box for reading in readings for box in reading.boxes or ()]
    fields = 3 + (sheet.each.device is not None)
    if sheet.verdict is not None and sheet.verdict.score is not None:
        fields += 1
    return fields + sum(4 + bool(box.label) + (box.score is not None) for box in boxes)


def _row(profile: Profile) -> dict[str, Any]:
    sheet = profile.sheet
    assert sheet.example is not None  # noqa: S101 - the caller chose those that have one
    payload = sheet.example.bytes
    decode: Callable[[bytes], Any]
    if sheet.format is Format.EVENT:
        decode = event_decoder(sheet)
    elif sheet.each.is_gateway:
        decode = profile.gateway()
    else:
        decode = profile.decoder()
    decode_us, orjson_us = in_turns(lambda: decode(payload), lambda: orjson.loads(payload))
    fields = mapped_fields(sheet)
    bar_us = ORJSON_TIMES * orjson_us + US_A_FIELD * fields
    return {
        "id": sheet.id,
        "bytes": len(payload),
        "fields": fields,
        "us": round(decode_us, 2),
        "orjson_us": round(orjson_us, 2),
        "bar_us": round(bar_us, 2),
        "holds": decode_us <= bar_us,
    }


_CODES = (
    "a34001", "a34002", "a34004", "a01001", "a01002", "a01006", "a01007", "a01008", "LA", "Leq",
    "L5", "L10", "L50", "L90", "L95",
)  # fmt: skip


def minute_frame(size: int = HJ212_BYTES) -> bytes:
    """Write a minute frame with minima, means, maxima and flags of as many factors as fit.

    Args:
        size: Of the whole frame, bytes; from 300 to 1,000.

    Returns:
        The frame; a last mean has as many decimals as it takes.
    """
    header = header_of(
        qn="20260301090203000",
        st="39",
        cn="2051",
        pw="123456",
        mn="SITE00417000000000000417",
        flag=5,
    )
    groups: list[dict[str, str]] = [{"DataTime": "20260301090200"}]
    for code in _CODES:
        more = dict(zip(("Min", "Avg", "Max", "Flag"), ("51.5", "58.5", "68.25", "N"), strict=True))
        group = {f"{code}-{suffix}": value for suffix, value in more.items()}
        if len(write_frame(header, [*groups, group])) > size:
            break
        groups.append(group)
    missing = size - len(write_frame(header, groups))
    last = next(name for name in groups[-1] if name.endswith("-Avg"))
    groups[-1][last] += "0" * missing
    return write_frame(header, groups)


def _minute() -> dict[str, Any]:
    frame = minute_frame()
    decode = load_profiles().by_id["hj212"].decoder()
    (us,) = in_turns(lambda: decode(frame))
    return {
        "bytes": len(frame),
        "us": round(us, 2),
        "bar_us": HJ212_BAR_US,
        "holds": us <= HJ212_BAR_US,
    }


def in_turns(*actions: Callable[[], object]) -> tuple[float, ...]:
    """Time several actions in turns, so that what slows the machine slows them alike.

    Args:
        actions: Each done many times a turn.

    Returns:
        Microseconds of CPU time of each, once: of its quickest turn.
    """
    counts = [_count(action) for action in actions]
    quickest = [float("inf")] * len(actions)
    for _ in range(_ROUNDS):
        for place, (action, count) in enumerate(zip(actions, counts, strict=True)):
            quickest[place] = min(quickest[place], _turn_s(action, count) / count)
    return tuple(seconds * 1e6 for seconds in quickest)


def _count(action: Callable[[], object]) -> int:
    """How often it fits into a turn."""
    count = 1
    while (took := _turn_s(action, count)) < _TURN_S / 4:
        count *= 2
    return max(1, round(count * _TURN_S / took))


def _turn_s(action: Callable[[], object], count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        action()
    return time.process_time() - began
