"""`smartsite decode`: what a profile makes of messages, one JSON object each."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from device_profiles.catalogue import Profile
from device_profiles.datasheets import Format
from device_profiles.decoding.events import DecodeEvent, event_decoder
from device_profiles.decoding.times import AT_RECEIPT
from device_profiles.errors import Reason, Rejected
from device_profiles.hj212.frames import Fault, Frame
from device_profiles.hj212.readings import Hj212Decoder
from device_profiles.jpeg import read_jpeg_header
from device_profiles.native import Decoder, microseconds, moment_of
from device_profiles.readings import Decoded, Refused, Telemetry
from device_profiles.vocabulary import QUANTITIES, Kind, Series
from ingest.pipeline import TimeLimits

Result = dict[str, Any]
Explain = Callable[[bytes, datetime | None], Result]


def explainer(profile: Profile, limits: TimeLimits) -> Explain:
    """Build what explains messages of one profile.

    Args:
        profile: The profile.
        limits: Which times are believed, where the time of receipt is known.

    Returns:
        A function from payload and time of receipt to one JSON object: ``accepted``, ``reason``,
        ``detail``, ``offset``, ``readings``, ``refused``, ``notes``, ``frames``.
    """
    sheet = profile.sheet
    match sheet.format:
        case Format.HJ212:
            decoder = profile.hj212()
            return lambda payload, at: _guarded(_hj212, decoder, payload, at, limits)
        case Format.JPEG:
            return lambda payload, at: _guarded(_jpeg, None, payload, at, limits)
        case Format.EVENT:
            read_event = event_decoder(sheet)
            return lambda payload, at: _guarded(_event, read_event, payload, at, limits)
        case _ if sheet.each.is_gateway:
            read_many = profile.gateway()
            return lambda payload, at: _guarded(
                _gateway, (sheet.kind, read_many), payload, at, limits
            )
        case _:
            return native_explainer(sheet.kind, profile.decoder(), limits)


def native_explainer(kind: Kind, decode: Decoder, limits: TimeLimits) -> Explain:
    """Build what explains messages of one device by a decoder.

    Args:
        kind: Of the device.
        decode: Its decoder.
        limits: Which times are believed.

    Returns:
        As `explainer`.
    """
    return lambda payload, at: _guarded(_telemetry, (kind, decode), payload, at, limits)


def refusal(fault: Rejected) -> Result:
    """Shape the refusal of a whole message.

    Args:
        fault: Why.

    Returns:
        As `explainer`'s function gives.
    """
    return _result(reason=fault.reason, detail=fault.detail, offset=fault.offset)


def _guarded(
    explain: Callable[[Any, bytes, datetime | None, TimeLimits], Result],
    decoder: Any,
    payload: bytes,
    received_at: datetime | None,
    limits: TimeLimits,
) -> Result:
    try:
        return explain(decoder, payload, received_at, limits)
    except Rejected as fault:
        return refusal(fault)


def _result(
    *,
    readings: list[Result] | None = None,
    refused: list[Refused] | tuple[Refused, ...] = (),
    notes: list[str] | None = None,
    frames: list[Result] | None = None,
    reason: Reason | None = None,
    detail: str | None = None,
    offset: int | None = None,
    **more: Any,
) -> Result:
    return {
        "accepted": reason is None,
        "reason": reason,
        "detail": detail,
        "offset": offset,
        "readings": readings or [],
        "refused": [
            {
                "field": part.field,
                "value": part.value,
                "reason": part.reason,
                "detail": part.detail,
            }
            for part in refused
        ],
        "notes": notes or [],
        "frames": frames or [],
        **more,
    }


def _telemetry(
    decoder: tuple[Kind, Decoder], payload: bytes, at: datetime | None, limits: TimeLimits
) -> Result:
    kind, decode = decoder
    decoded = decode(payload)
    readings, refused = _readings(kind, decoded, at, limits)
    return _taken(readings, refused, list(decoded.notes))


def _taken(readings: list[Result], refused: list[Refused], notes: list[str]) -> Result:
    """A message of which nothing is left was not accepted; why, its first fault says."""
    if readings or not refused:
        return _result(readings=readings, refused=refused, notes=notes)
    return _result(refused=refused, notes=notes, reason=refused[0].reason, detail=refused[0].detail)


def _readings(
    kind: Kind,
    decoded: Decoded,
    at: datetime | None,
    limits: TimeLimits,
    flags: list[dict[str, str]] | None = None,
) -> tuple[list[Result], list[Refused]]:
    """Shape readings, and refuse what ingest would refuse by the block."""
    readings: list[Result] = []
    refused = list(decoded.refused)
    for place, telemetry in enumerate(decoded.readings):
        try:
            shaped = _reading(kind, telemetry, at, limits, refused)
        except Rejected as fault:
            refused.append(Refused(fault.reason, fault.detail))
        else:
            if flags:
                shaped["flags"] = flags[place]
            readings.append(shaped)
    return readings, refused


def _reading(
    kind: Kind,
    telemetry: Telemetry,
    at: datetime | None,
    limits: TimeLimits,
    refused: list[Refused],
) -> Result:
    reported_us = telemetry.reported_us
    if reported_us == AT_RECEIPT:
        observed_at = at
    else:
        observed_at = moment_of(reported_us)
        if at is not None:
            limits.require(reported_us, microseconds(at))
    values: dict[str, float] = {}
    for quantity, value in zip(QUANTITIES[kind], telemetry.values, strict=True):
        if math.isnan(value):
            continue
        if not quantity.low <= value <= quantity.high:
            rule = f"{quantity.low:g} to {quantity.high:g} {quantity.unit}"
            detail = f"{quantity.name} {value:g} is not within {rule}"
            refused.append(Refused(Reason.RANGE, detail, quantity.name, repr(value)))
        else:
            values[quantity.name] = value
    if not values and telemetry.alarms is None and telemetry.extra is None:
        raise Rejected(Reason.INCOMPLETE, "no value of the reading is left")
    shaped: Result = {
        "observed_at": _written(observed_at),
        "series": Series(telemetry.series).name.lower(),
        "values": values,
        "flags": {},
    }
    if telemetry.alarms is not None:
        shaped["alarms"] = list(telemetry.alarms)
    if telemetry.seq is not None:
        shaped["seq"] = telemetry.seq
    if telemetry.extra is not None:
        shaped["extra"] = msgspec.Raw(telemetry.extra)
    return shaped


def _gateway(decoder: Any, payload: bytes, at: datetime | None, limits: TimeLimits) -> Result:
    kind, read_many = decoder
    readings: list[Result] = []
    refused: list[Refused] = []
    notes: list[str] = []
    for device, decoded in read_many(payload):
        shaped, faults = _readings(kind, decoded, at, limits)
        readings += [one | {"device": device} for one in shaped]
        refused += faults
        notes += [f"{device}: {note}" for note in decoded.notes]
    return _taken(readings, refused, notes)


def _hj212(
    decoder: Hj212Decoder, payload: bytes, at: datetime | None, limits: TimeLimits
) -> Result:
    contents = decoder.read(payload)
    frames = [
        _frame(event.segment.header, event.cp_groups)
        for event in contents.events
        if isinstance(event, Frame)
    ]
    notes = [str(note) for note in (*contents.notes, *contents.tolerated)]
    decoded = Decoded([one.telemetry for one in contents.readings], contents.refused)
    flags = [one.flags for one in contents.readings]
    readings, refused = _readings(Kind.DUST, decoded, at, limits, flags)
    if frames:
        return _result(readings=readings, refused=refused, notes=notes, frames=frames)
    fault = next(event for event in contents.events if isinstance(event, Fault))
    seen = [
        _frame(segment.header, segment.groups())
        for event in contents.events
        if isinstance(event, Fault) and (segment := event.segment()) is not None
    ]
    return _result(
        reason=fault.reason, detail=fault.detail, offset=fault.offset, notes=notes, frames=seen
    )


def _frame(header: dict[str, str], groups: list[dict[str, str]]) -> Result:
    return {"header": header, "cp": groups}


def _jpeg(_: None, payload: bytes, at: datetime | None, limits: TimeLimits) -> Result:
    return _result(readings=[_blank(at) | {"picture": _picture(payload)}])


def _event(decode: DecodeEvent, payload: bytes, at: datetime | None, limits: TimeLimits) -> Result:
    event = decode(payload)
    observed_at = at
    if event.reported_us != AT_RECEIPT:
        observed_at = moment_of(event.reported_us)
        if at is not None:
            limits.require(event.reported_us, microseconds(at))
    refused = list(event.refused)
    shaped = _blank(observed_at)
    if event.device:
        shaped["device"] = event.device
    shaped["what"] = event.what
    shaped["score"] = event.score
    shaped["boxes"] = [
        {"label": box.label, "score": box.score, "box": box.box, "relative": box.relative}
        for box in event.boxes
    ]
    if event.picture is not None:
        try:
            shaped["picture"] = _picture(event.picture)
        except Rejected as fault:
            refused.append(Refused(fault.reason, fault.detail, "picture"))
    elif event.picture_url is not None:
        shaped["picture_url"] = event.picture_url
    return _result(readings=[shaped], refused=refused, notes=list(event.notes))


def _blank(observed_at: datetime | None) -> Result:
    return {"observed_at": _written(observed_at), "series": "instant", "values": {}, "flags": {}}


def _picture(data: bytes) -> Result:
    header = read_jpeg_header(data)
    return {"width": header.width, "height": header.height, "bytes": len(data)}


def _written(moment: datetime | None) -> str | None:
    return moment.isoformat().replace("+00:00", "Z") if moment is not None else None
