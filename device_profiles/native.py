"""The native contract's payloads: telemetry and status as JSON.

Telemetry is ``{"ts": RFC 3339 with zone or epoch milliseconds, "seq": optional integer,
"series": optional name, "values": {quantity: number}}`` or an array of these.

Decoding has two ways to the same result. The common payload, with known names and numbers
only, goes through one typed msgspec decoder. Whatever that refuses is read again, slowly and
value by value, so that a bad value refuses the value and not the reading around it, unknown
names are kept, and the fault is named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from device_profiles.errors import Reason, Rejected, shown
from device_profiles.readings import Decoded, Refused, Telemetry
from device_profiles.vocabulary import (
    MAX_ALARMS,
    MAX_EXTRA,
    MAX_NAME_CHARS,
    QUANTITIES,
    SERIES_BY_NAME,
    Kind,
)

Decoder = Callable[[bytes], Decoded]

MAX_BATCH = 10_000
"""Most readings one message may carry."""

MAX_EXTRA_BYTES = 4_096
"""Most JSON text of unknown names kept with one reading."""

MAX_DEPTH = 32
"""Deepest nesting of JSON that is kept: PostgreSQL has a limit, and nobody reads deeper."""

_NAN = math.nan
_INT64 = 2**63
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_US = 946_684_800_000_000  # 2000-01-01: no instrument here is older
LAST_US = 4_102_444_800_000_000  # 2100-01-01: beyond it microseconds are no time of ours


def microseconds(moment: datetime) -> int:
    """Turn an aware time into microseconds since 1970 UTC, exactly.

    Args:
        moment: An aware time.

    Returns:
        Microseconds.
    """
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moment_of(us: int) -> datetime:
    """Turn microseconds since 1970 UTC into an aware time.

    Args:
        us: Microseconds.

    Returns:
        The time in UTC.
    """
    return datetime.fromtimestamp(us // 1_000_000, UTC).replace(microsecond=us % 1_000_000)


def telemetry_decoder(kind: Kind) -> Decoder:
    """Make the decoder of one kind's native telemetry.

    Args:
        kind: A kind that has quantities.

    Returns:
        A function from payload to `Decoded`; it raises `Rejected` where nothing of the message
        can be read. Ranges of values are not its business: ingest checks them by the block.
    """
    quantities = QUANTITIES[kind]
    names = [quantity.name for quantity in quantities]
    fields: list[tuple[str, Any, Any]] = [(name, float, _NAN) for name in names]
    if kind is Kind.CRANE:
        fields.append(("alarms", list[str] | None, None))
    values_type = msgspec.defstruct(
        f"{kind.title()}Values", fields, forbid_unknown_fields=True, gc=False
    )
    reading_type = msgspec.defstruct(
        f"{kind.title()}Telemetry",
        [
            ("ts", datetime | int),
            ("values", values_type),
            ("seq", int | None, None),
            ("series", str | None, None),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    fast = msgspec.json.Decoder(reading_type | list[reading_type]).decode  # type: ignore[valid-type]
    as_tuple = msgspec.structs.astuple
    width = len(names)
    nothing = as_tuple(values_type())

    def read(message: Any) -> Telemetry:
        ts = message.ts
        if type(ts) is int:
            reported_us = ts * 1_000
        elif ts.tzinfo is None:
            raise Rejected(Reason.TIME, "ts has no zone")
        else:
            reported_us = microseconds(ts)
        if not FIRST_US <= reported_us < LAST_US:
            raise Rejected(Reason.TIME, f"ts {shown(ts)} is not between 2000 and 2100")
        values = as_tuple(message.values)
        if values == nothing:  # the very same NaN in every place: none of them was said
            raise Rejected(Reason.INCOMPLETE, "values holds nothing")
        series = message.series
        seq = message.seq
        if seq is not None and not -_INT64 <= seq < _INT64:
            raise Rejected(Reason.RANGE, "seq is not a 64-bit integer")
        if len(values) == width and series is None:
            return Telemetry(reported_us, values, 0, seq)
        alarms = None
        if len(values) > width:
            alarms = _alarms(values[width])
            values = values[:width]
        return Telemetry(reported_us, values, 0 if series is None else _series(series), seq, alarms)

    def decode(payload: bytes) -> Decoded:
        try:
            message = fast(payload)
            if type(message) is not list:
                return Decoded([read(message)])
            if 0 < len(message) <= MAX_BATCH:
                return Decoded([read(one) for one in message])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, Rejected):
            pass
        return _decode_slowly(kind, names, payload)

    return decode


def _series(name: object) -> int:
    found = SERIES_BY_NAME.get(name) if isinstance(name, str) else None
    if found is None:
        raise Rejected(
            Reason.TYPE, f"series {shown(name)} is not one of {', '.join(SERIES_BY_NAME)}"
        )
    return int(found)


def _alarms(names: object) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list) or len(names) > MAX_ALARMS:
        raise Rejected(Reason.TYPE, f"alarms is not a list of at most {MAX_ALARMS} names")
    for name in names:
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or not _storable(name):
            raise Rejected(Reason.TYPE, f"alarm {shown(name)} is not a short name")
    return tuple(names)


def _storable(text: str) -> bool:
    """Whether PostgreSQL can keep it: no NUL, no lone surrogate."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def parse_json(payload: bytes) -> Any:
    """Read JSON of a stranger; numbers beyond it are left to be refused one by one.

    Args:
        payload: The bytes.

    Returns:
        Python objects. NaN, Infinity, and what overflowed, are floats that are not finite.

    Raises:
        Rejected: With reason `encoding` or `syntax` and the offset where known.
    """
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise Rejected(Reason.ENCODING, "payload is not UTF-8", fault.start) from None
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer of more digits than Python reads
            return json.loads(text, parse_int=_long_int)
    except json.JSONDecodeError as fault:
        offset = len(text[: fault.pos].encode())
        raise Rejected(Reason.SYNTAX, f"payload is not JSON: {fault.msg}", offset) from None
    except (RecursionError, ValueError) as fault:
        raise Rejected(Reason.SYNTAX, f"payload is not JSON we read: {fault}") from None


def _long_int(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)  # infinite, and refused as such where it stands


def _depth(value: object) -> int:
    """How deep a JSON value is nested, without recursion."""
    depth = 0
    level = [value]
    while level:
        inner: list[object] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
        level = inner
        depth += 1
    return depth


def _decode_slowly(kind: Kind, names: list[str], payload: bytes) -> Decoded:
    parsed = parse_json(payload)
    elements = parsed if isinstance(parsed, list) else [parsed]
    if not elements:
        raise Rejected(Reason.INCOMPLETE, "an empty array holds no reading")
    if len(elements) > MAX_BATCH:
        raise Rejected(Reason.TOO_LARGE, f"{len(elements)} readings, at most {MAX_BATCH}")
    readings: list[Telemetry] = []
    refused: list[Refused] = []
    for place, element in enumerate(elements):
        where = f"reading {place}: " if isinstance(parsed, list) else ""
        try:
            reading, faults = _read_element(kind, names, element)
        except Rejected as fault:
            refused.append(Refused(fault.reason, where + fault.detail))
        else:
            readings.append(reading)
            refused.extend(faults)
    if not readings and len(refused) == 1:
        raise Rejected(refused[0].reason, refused[0].detail)
    return Decoded(readings, tuple(refused))


def _read_element(kind: Kind, names: list[str], element: object) -> tuple[Telemetry, list[Refused]]:
    if not isinstance(element, dict):
        raise Rejected(Reason.TYPE, f"{shown(element)} is not an object")
    if "ts" not in element:
        raise Rejected(Reason.TIME, "there is no ts")
    reported_us = _read_ts(element["ts"])
    given = element.get("values")
    if not isinstance(given, dict):
        raise Rejected(Reason.INCOMPLETE, "there is no object named values")
    faults: list[Refused] = []
    extra = {name: value for name, value in element.items() if name not in _KNOWN_KEYS}
    values = dict.fromkeys(names, _NAN)
    alarms: tuple[str, ...] | None = None
    for name, value in given.items():
        try:
            if name in values:
                values[name] = _number(value)
            elif name == "alarms" and kind is Kind.CRANE:
                alarms = _alarms(value)
            else:
                extra[name] = value
        except Rejected as fault:
            faults.append(Refused(fault.reason, f"{name}: {fault.detail}", name, shown(value)))
    seq = element.get("seq")
    if seq is not None and (type(seq) is not int or not -_INT64 <= seq < _INT64):
        faults.append(Refused(Reason.TYPE, "seq is not a 64-bit integer", "seq", shown(seq)))
        seq = None
    kept = keep_extra(extra, faults)
    series = 0 if element.get("series") is None else _series(element["series"])
    numbers = tuple(values.values())
    if all(math.isnan(number) for number in numbers) and alarms is None and kept is None:
        detail = faults[0].detail if faults else "values holds nothing"
        raise Rejected(faults[0].reason if faults else Reason.INCOMPLETE, detail)
    return Telemetry(reported_us, numbers, series, seq, alarms, kept), faults


_KNOWN_KEYS = frozenset({"ts", "seq", "series", "values"})


def _read_ts(ts: object) -> int:
    if isinstance(ts, str):
        try:
            moment = msgspec.convert(ts, datetime)
        except (msgspec.ValidationError, UnicodeEncodeError):  # the latter: a lone surrogate
            raise Rejected(Reason.TIME, f"ts {shown(ts)} is not RFC 3339") from None
        if moment.tzinfo is None:
            raise Rejected(Reason.TIME, f"ts {shown(ts)} has no zone")
        us = microseconds(moment)
    elif type(ts) is int or (type(ts) is float and ts.is_integer()):
        us = int(ts) * 1_000
    else:
        raise Rejected(Reason.TIME, f"ts {shown(ts)} is neither RFC 3339 nor epoch milliseconds")
    if not FIRST_US <= us < LAST_US:
        raise Rejected(Reason.TIME, f"ts {shown(ts)} is not between 2000 and 2100")
    return us


def _number(value: object) -> float:
    if value is None:
        return _NAN
    if type(value) is int or type(value) is float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        raise Rejected(Reason.RANGE, f"{shown(value)} is no finite number")
    raise Rejected(Reason.TYPE, f"{shown(value)} is not a number")


def keep_extra(extra: dict[str, object], faults: list[Refused]) -> bytes | None:
    """Encode unknown names; refuse those that cannot be kept."""
    kept: dict[str, msgspec.Raw] = {}
    size = 0
    for name, value in extra.items():
        fault = None
        encoded = b""
        if len(name) > MAX_NAME_CHARS or not _storable(name):
            fault = "the name is too long or holds NUL"
        elif _depth(value) > MAX_DEPTH:
            fault = f"nested deeper than {MAX_DEPTH}"
        else:
            try:
                encoded = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
            except (ValueError, RecursionError):
                fault = "the value cannot be written as JSON"
            if b"\\u0000" in encoded:
                fault = "the value holds NUL"
        added = len(name) + len(encoded)
        if fault is None and (size + added > MAX_EXTRA_BYTES or len(kept) >= MAX_EXTRA):
            fault = f"more than {MAX_EXTRA} names or {MAX_EXTRA_BYTES} bytes unknown to us"
        if fault is None:
            kept[name] = msgspec.Raw(encoded)
            size += added
        else:
            detail = f"unknown name {shown(name)}: {fault}"
            faults.append(Refused(Reason.TYPE, detail, shown(name), shown(value)))
    return msgspec.json.encode(kept) if kept else None


class Status(msgspec.Struct, frozen=True):
    """What a device says of itself, or its broker of it by last will.

    Attributes:
        online: Whether it is there.
        detail: Anything it adds, bounded.
    """

    online: bool
    detail: str = ""


def decode_status(payload: bytes) -> Status:
    """Read a status payload: ``{"online": true, "detail": "…"}``, other names ignored.

    Args:
        payload: The bytes.

    Returns:
        The status.

    Raises:
        Rejected: It does not say whether the device is online.
    """
    parsed = parse_json(payload)
    if not isinstance(parsed, dict) or type(parsed.get("online")) is not bool:
        raise Rejected(Reason.TYPE, 'a status is {"online": true or false}')
    detail = parsed.get("detail", "")
    if not isinstance(detail, str) or not _storable(detail):
        detail = ""
    return Status(parsed["online"], detail[:200])


def decode_event(payload: bytes) -> bytes:
    """Read an event payload: any JSON object, kept as it is.

    Args:
        payload: The bytes.

    Returns:
        The object as compact JSON text in UTF-8.

    Raises:
        Rejected: It is not a JSON object that can be kept.
    """
    parsed = parse_json(payload)
    if not isinstance(parsed, dict):
        raise Rejected(Reason.TYPE, f"{shown(parsed)} is not an object")
    if _depth(parsed) > MAX_DEPTH:
        raise Rejected(Reason.TYPE, f"the event is nested deeper than {MAX_DEPTH}")
    try:
        encoded = json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, RecursionError) as fault:
        raise Rejected(Reason.TYPE, f"the event cannot be kept: {fault}") from None
    if b"\\u0000" in encoded:
        raise Rejected(Reason.TYPE, "the event holds NUL")
    return encoded
