"""Native payloads: what is read of them, what is refused, and with which words."""

import gc
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_profiles.errors import Reason, Rejected
from device_profiles.native import (
    MAX_BATCH,
    MAX_EXTRA_BYTES,
    decode_event,
    decode_status,
    microseconds,
    moment_of,
    telemetry_decoder,
)
from device_profiles.readings import Decoded, Refused, Telemetry
from device_profiles.vocabulary import (
    MAX_ALARMS,
    MAX_EXTRA,
    MAX_NAME_CHARS,
    QUANTITIES,
    SERIES_BY_NAME,
    Kind,
)

TS = 1_800_000_000_000
KINDS = (Kind.DUST, Kind.CRANE)
NAMES = {kind: [quantity.name for quantity in QUANTITIES[kind]] for kind in KINDS}
DECODE = {kind: telemetry_decoder(kind) for kind in KINDS}


@pytest.fixture
def _no_collection() -> Iterator[None]:
    """Keeps Hypothesis's hook of the collector from being called on the last free stack frame."""
    gc.disable()
    yield
    gc.enable()


def dust(payload: bytes | str) -> Decoded:
    return DECODE[Kind.DUST](payload.encode() if isinstance(payload, str) else payload)


def crane(payload: str) -> Decoded:
    return DECODE[Kind.CRANE](payload.encode())


def with_value(text: str, name: str = "leq_db") -> str:
    """A reading whose noise is good and whose second value is this JSON text."""
    return f'{{"ts":{TS},"values":{{"noise_db":61.5,"{name}":{text}}}}}'


def said(reading: Telemetry, kind: Kind = Kind.DUST) -> dict[str, float]:
    """What a reading says, by name."""
    pairs = zip(NAMES[kind], reading.values, strict=True)
    return {name: value for name, value in pairs if not math.isnan(value)}


def only(decoded: Decoded) -> tuple[Telemetry, Refused]:
    """The one reading and the one thing refused of it."""
    (reading,) = decoded.readings
    (refused,) = decoded.refused
    return reading, refused


def refusal(payload: bytes | str, kind: Kind = Kind.DUST) -> Rejected:
    with pytest.raises(Rejected) as caught:
        DECODE[kind](payload.encode() if isinstance(payload, str) else payload)
    return caught.value


def test_a_full_reading_is_read_in_the_order_of_the_vocabulary() -> None:
    for kind in KINDS:
        values = {name: float(place) for place, name in enumerate(NAMES[kind])}
        payload = {"ts": TS, "seq": 7, "series": "minute", "values": values}
        decoded = DECODE[kind](json.dumps(payload).encode())
        assert decoded == Decoded([Telemetry(TS * 1_000, tuple(values.values()), 1, 7)])


@pytest.mark.parametrize(
    ("ts", "us"),
    [
        ("1800000000000", TS * 1_000),
        ("1800000000000.0", TS * 1_000),
        ("1.8e12", TS * 1_000),
        ('"2027-01-15T08:00:00Z"', TS * 1_000),
        ('"2027-01-15T16:00:00+08:00"', TS * 1_000),
        ('"2027-01-15T08:00:00.000001Z"', TS * 1_000 + 1),
        ('"2000-01-01T00:00:00Z"', 946_684_800_000_000),
        ('"2099-12-31T23:59:59.999999Z"', 4_102_444_799_999_999),
    ],
)
def test_times(ts: str, us: int) -> None:
    (reading,) = dust(f'{{"ts":{ts},"values":{{"noise_db":1}}}}').readings
    assert reading.reported_us == us


@pytest.mark.parametrize(
    "ts",
    [
        '"2027-01-15T08:00:00"',  # no zone
        '"2027-01-15"',
        '"yesterday"',
        '""',
        '"1800000000000"',
        "1800000000000.5",
        "1800000000",  # seconds: 1970
        "1800000000000000",  # microseconds: the year 59010
        "946684799999",
        "4102444800000",
        "-1",
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "true",
        "null",
        "[]",
        "{}",
        "1" * 400,
        "1" * 5_000,
        '"9999-12-31T23:59:59.9999999-23:59"',
        '"0001-01-01T00:00:00+23:59"',
        '"2027-01-15T08:00:60Z"',
        r'"\ud800"',
    ],
)
def test_a_bad_time_refuses_the_reading(ts: str) -> None:
    fault = refusal(f'{{"ts":{ts},"values":{{"noise_db":1}}}}')
    assert fault.reason is Reason.TIME
    assert "ts" in fault.detail
    assert len(fault.detail) < 200


def test_without_a_time_there_is_no_reading() -> None:
    assert refusal('{"values":{"noise_db":1}}').reason is Reason.TIME


BAD_VALUES = [
    ("NaN", Reason.RANGE),
    ("Infinity", Reason.RANGE),
    ("-Infinity", Reason.RANGE),
    ("1e999", Reason.RANGE),
    ("-1e999", Reason.RANGE),
    ("9" * 400, Reason.RANGE),
    ("9" * 5_000, Reason.RANGE),
    ("true", Reason.TYPE),
    ("false", Reason.TYPE),
    ('"55"', Reason.TYPE),
    ('"NaN"', Reason.TYPE),
    ('""', Reason.TYPE),
    ("[1]", Reason.TYPE),
    ('{"v":1}', Reason.TYPE),
    (r'"\u0000"', Reason.TYPE),
    (r'"\ud800"', Reason.TYPE),
    ("[" * 400 + "]" * 400, Reason.TYPE),
    (json.dumps("很" * 10_000), Reason.TYPE),
]


@pytest.mark.parametrize(("text", "reason"), BAD_VALUES)
def test_a_bad_value_refuses_the_value_and_not_the_reading(text: str, reason: Reason) -> None:
    reading, refused = only(dust(with_value(text)))
    assert said(reading) == {"noise_db": 61.5}
    assert refused.reason is reason
    assert refused.field == "leq_db"
    assert refused.detail.startswith("leq_db: ")
    assert refused.value is not None
    assert len(refused.value) <= 80
    assert len(refused.detail) < 200


@pytest.mark.parametrize(("text", "reason"), BAD_VALUES)
def test_a_reading_of_bad_values_only_is_refused_for_the_first(text: str, reason: Reason) -> None:
    fault = refusal(f'{{"ts":{TS},"values":{{"leq_db":{text}}}}}')
    assert fault.reason is reason
    assert "leq_db" in fault.detail


def test_null_is_not_said() -> None:
    decoded = dust(with_value("null"))
    assert [said(reading) for reading in decoded.readings] == [{"noise_db": 61.5}]
    assert decoded.refused == ()


@pytest.mark.parametrize("values", ["{}", '{"noise_db":null}', '{"alarms":null}'])
@pytest.mark.parametrize("rest", ["", ',"seq":5', ',"series":"hour"', ',"seq":null,"series":null'])
def test_a_reading_that_says_nothing_is_incomplete(values: str, rest: str) -> None:
    kind = Kind.CRANE if "alarms" in values else Kind.DUST
    fault = refusal(f'{{"ts":{TS},"values":{values}{rest}}}', kind)
    assert fault.reason is Reason.INCOMPLETE


@pytest.mark.parametrize("values", ["[]", "null", "1", '"noise_db"', "[[1]]"])
def test_values_has_to_be_an_object(values: str) -> None:
    fault = refusal(f'{{"ts":{TS},"values":{values}}}')
    assert fault.reason is Reason.INCOMPLETE
    assert "values" in fault.detail


@pytest.mark.parametrize(
    "payload",
    ["[]", " [ ] ", "null", "1", '"text"', "true", "NaN", "{}", "[[]]", "[null]", "[[1]]"],
)
def test_what_is_no_reading_is_refused_whole(payload: str) -> None:
    assert refusal(payload).reason in (Reason.INCOMPLETE, Reason.TYPE, Reason.TIME)


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize(
    ("payload", "reason", "offset"),
    [
        (b"", Reason.SYNTAX, 0),
        (b"   ", Reason.SYNTAX, None),
        (b"{", Reason.SYNTAX, 1),
        (b'{"ts":1,}', Reason.SYNTAX, None),
        (b"hello", Reason.SYNTAX, 0),
        (b'{"ts":1} x', Reason.SYNTAX, 9),
        ('{"粉尘":x}'.encode(), Reason.SYNTAX, 10),
        (b"\xff\xfe", Reason.ENCODING, 0),
        (b'{"ts":"\xe7\xb2"}', Reason.ENCODING, 7),
        (b"\xef\xbb\xbf{}", Reason.SYNTAX, None),
        (b"\x00", Reason.SYNTAX, 0),
        (b'{"ts":1,"values":{"noise_db":"\x00"}}', Reason.SYNTAX, None),
        (b"[" * 200_000, Reason.SYNTAX, None),
        (b"[" * 200_000 + b"]" * 200_000, Reason.SYNTAX, None),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, Reason.SYNTAX, None),
    ],
)
def test_what_is_not_json_names_the_byte(
    payload: bytes, reason: Reason, offset: int | None
) -> None:
    fault = refusal(payload)
    assert fault.reason is reason
    if offset is not None:
        assert fault.offset == offset


@pytest.mark.usefixtures("_no_collection")
@pytest.mark.parametrize("depth", [10, 100, 500, *range(880, 1_001, 3), 5_000])
def test_no_depth_of_nesting_is_fatal(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for payload in (nested, with_value(nested), with_value(nested, "unknown")):
        try:
            decoded = dust(payload)
        except Rejected:
            continue
        assert said(decoded.readings[0]) == {"noise_db": 61.5}


def test_of_duplicate_keys_the_last_counts() -> None:
    decoded = dust(
        f'{{"ts":5,"ts":{TS},"values":{{"leq_db":1}},"values":{{"noise_db":2,"noise_db":3}}}}'
    )
    assert [said(reading) for reading in decoded.readings] == [{"noise_db": 3.0}]
    assert decoded.refused == ()
    decoded = dust(with_value('"bad","leq_db":4'))
    assert said(decoded.readings[0]) == {"noise_db": 61.5, "leq_db": 4.0}
    assert decoded.refused == ()


@pytest.mark.parametrize(
    "seq", ["9223372036854775808", "-9223372036854775809", "5.0", '"5"', "true", "1e999", "[5]"]
)
def test_a_bad_seq_refuses_the_seq(seq: str) -> None:
    reading, refused = only(dust(f'{{"ts":{TS},"seq":{seq},"values":{{"noise_db":1}}}}'))
    assert reading.seq is None
    assert refused.field == "seq"
    assert refused.reason is Reason.TYPE


@pytest.mark.parametrize("seq", [0, -1, 2**63 - 1, -(2**63)])
def test_seq_is_any_64_bit_integer(seq: int) -> None:
    (reading,) = dust(f'{{"ts":{TS},"seq":{seq},"values":{{"noise_db":1}}}}').readings
    assert reading.seq == seq


@pytest.mark.parametrize(("name", "series"), SERIES_BY_NAME.items())
def test_series_by_name(name: str, series: int) -> None:
    (reading,) = dust(f'{{"ts":{TS},"series":"{name}","values":{{"noise_db":1}}}}').readings
    assert reading.series == series


@pytest.mark.parametrize("series", ['"second"', '"MINUTE"', "1", "[]", "true", '""'])
def test_an_unknown_series_refuses_the_reading(series: str) -> None:
    # What the time means is part of a reading's key: it cannot be guessed.
    fault = refusal(f'{{"ts":{TS},"series":{series},"values":{{"noise_db":1}}}}')
    assert fault.reason is Reason.TYPE
    assert "series" in fault.detail


def test_a_batch_keeps_its_good_elements_and_names_the_bad_ones() -> None:
    good = f'{{"ts":{TS},"values":{{"noise_db":1}}}}'
    bad = ["null", "{}", '{"ts":"x","values":{"noise_db":1}}', f'{{"ts":{TS},"values":{{}}}}']
    decoded = dust("[" + ",".join([good, *bad, good]) + "]")
    assert len(decoded.readings) == 2
    assert [part.reason for part in decoded.refused] == [
        Reason.TYPE,
        Reason.TIME,
        Reason.TIME,
        Reason.INCOMPLETE,
    ]
    for place, part in enumerate(decoded.refused, start=1):
        assert part.detail.startswith(f"reading {place}: ")
        assert part.field is None


def test_a_batch_is_bounded() -> None:
    one = f'{{"ts":{TS},"values":{{"noise_db":1}}}}'
    assert len(dust("[" + ",".join([one] * MAX_BATCH) + "]").readings) == MAX_BATCH
    fault = refusal("[" + ",".join([one] * (MAX_BATCH + 1)) + "]")
    assert fault.reason is Reason.TOO_LARGE
    assert str(MAX_BATCH) in fault.detail


def test_unknown_names_are_kept() -> None:
    payload = f'{{"ts":{TS},"门":"东","values":{{"noise_db":1,"o3_ug_m3":[1,{{"a":null}}]}}}}'
    (reading,) = dust(payload).readings
    assert reading.extra is not None
    assert json.loads(reading.extra) == {"门": "东", "o3_ug_m3": [1, {"a": None}]}


def test_a_reading_of_unknown_names_only_is_one() -> None:
    (reading,) = dust(f'{{"ts":{TS},"values":{{"o3_ug_m3":1}}}}').readings
    assert said(reading) == {}
    assert reading.extra == b'{"o3_ug_m3":1}'


def test_the_other_kinds_names_are_unknown_to_a_kind() -> None:
    (reading,) = dust(with_value('["x"]', "alarms")).readings
    assert reading.alarms is None
    assert json.loads(reading.extra or b"") == {"alarms": ["x"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x", "NaN"),
        ("x", '[1,{"a":Infinity}]'),
        ("x", "1e999"),
        ("x", "9" * 5_000),
        ("x", r'"\u0000"'),
        ("x", r'["a",{"b\u0000":1}]'),
        ("x", r'"\ud800"'),
        (r"\u0000", "1"),
        (r"\udfff", "1"),
        ("n" * (MAX_NAME_CHARS + 1), "1"),
        ("x", json.dumps("a" * MAX_EXTRA_BYTES)),
    ],
)
def test_an_unknown_name_that_cannot_be_kept_is_refused_alone(name: str, text: str) -> None:
    payload = f'{{"ts":{TS},"values":{{"noise_db":61.5,"{name}":{text},"later":1}}}}'
    reading, refused = only(dust(payload))
    assert said(reading) == {"noise_db": 61.5}
    assert reading.extra == b'{"later":1}'
    assert refused.reason is Reason.TYPE
    assert refused.field is not None
    refused.detail.encode()  # can be written down


def test_unknown_names_are_bounded() -> None:
    many = ",".join(f'"x{number}":1' for number in range(MAX_EXTRA + 5))
    decoded = dust(f'{{"ts":{TS},"values":{{"noise_db":1,{many}}}}}')
    assert len(json.loads(decoded.readings[0].extra or b"")) == MAX_EXTRA
    assert len(decoded.refused) == 5


def test_alarms_are_names() -> None:
    (reading,) = crane(f'{{"ts":{TS},"values":{{"alarms":["超载","wind"]}}}}').readings
    assert reading.alarms == ("超载", "wind")
    (reading,) = crane(f'{{"ts":{TS},"values":{{"alarms":[]}}}}').readings
    assert reading.alarms == ()
    (reading,) = crane(f'{{"ts":{TS},"values":{{"load_t":1,"alarms":null}}}}').readings
    assert reading.alarms is None


@pytest.mark.parametrize(
    "alarms",
    [
        '"wind"',
        "1",
        "{}",
        "[1]",
        "[null]",
        "[NaN]",
        '[["wind"]]',
        r'["\u0000"]',
        r'["\ud800"]',
        json.dumps(["n" * (MAX_NAME_CHARS + 1)]),
        json.dumps(["n"] * (MAX_ALARMS + 1)),
    ],
)
def test_bad_alarms_refuse_the_alarms(alarms: str) -> None:
    reading, refused = only(crane(f'{{"ts":{TS},"values":{{"load_t":2,"alarms":{alarms}}}}}'))
    assert said(reading, Kind.CRANE) == {"load_t": 2.0}
    assert reading.alarms is None
    assert refused.field == "alarms"
    assert refused.reason is Reason.TYPE


moments = st.datetimes(
    datetime(2000, 1, 2),  # noqa: DTZ001 - hypothesis wants naive bounds
    datetime(2099, 12, 30),  # noqa: DTZ001
    timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
times = st.one_of(
    st.integers(-(10**13), 10**16),
    st.integers(946_684_800_000, 4_102_444_799_999),
    moments.map(datetime.isoformat),
    moments.map(lambda moment: moment.replace(tzinfo=None).isoformat()),
    st.floats(1e12, 2e12),
)
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70), st.none()
)


@st.composite
def plain_readings(draw: st.DrawFn, kind: Kind) -> dict[str, Any]:
    """Readings without a fault, or with one in time, series or seq."""
    values: dict[str, Any] = draw(st.dictionaries(st.sampled_from(NAMES[kind]), numbers))
    if kind is Kind.CRANE and draw(st.booleans()):
        values["alarms"] = draw(st.lists(st.text(max_size=70), max_size=4) | st.none())
    reading: dict[str, Any] = {"ts": draw(times), "values": values}
    if draw(st.booleans()):
        reading["seq"] = draw(st.integers(-(2**65), 2**65) | st.none())
    if draw(st.booleans()):
        reading["series"] = draw(st.sampled_from([*SERIES_BY_NAME, "week", None]))
    return reading


def outcome(kind: Kind, payload: str) -> str:
    """What became of a payload, as text: not a number equals itself there."""
    try:
        return repr(DECODE[kind](payload.encode()))
    except Rejected as fault:
        return repr(fault)


@given(data=st.data(), kind=st.sampled_from(KINDS), batch=st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_fast_and_the_slow_way_agree(data: st.DataObject, kind: Kind, batch: bool) -> None:
    readings = data.draw(st.lists(plain_readings(kind), min_size=1, max_size=3 if batch else 1))
    plain, slow = [], []
    for reading in readings:
        body = json.dumps(reading)
        plain.append(body)
        # The same reading to who takes the last of duplicate keys, but not plain to a typed
        # decoder, which stumbles over the first.
        seq = "" if "seq" in reading else ',"seq":null'
        slow.append('{"seq":"one",' + body[1:-1] + seq + "}")
    join = "[{}]".format if batch else "{}".format
    assert outcome(kind, join(",".join(plain))) == outcome(kind, join(",".join(slow)))


def reading_is_sound(reading: Telemetry, kind: Kind) -> None:
    assert len(reading.values) == len(NAMES[kind])
    assert all(type(value) is float and not math.isinf(value) for value in reading.values)
    assert 946_684_800_000_000 <= reading.reported_us < 4_102_444_800_000_000
    assert reading.series in SERIES_BY_NAME.values()
    assert reading.seq is None or -(2**63) <= reading.seq < 2**63
    assert said(reading, kind) or reading.alarms is not None or reading.extra is not None
    for text in reading.alarms or ():
        assert "\0" not in text
        text.encode()
    if reading.extra is not None:
        text = reading.extra.decode()
        assert "\\u0000" not in text
        assert isinstance(json.loads(text, parse_constant=pytest.fail), dict)


def is_declared(kind: Kind, payload: bytes) -> None:
    """The one sentence: it is decoded, or `Rejected`; never another exception."""
    try:
        decoded = DECODE[kind](payload)
    except Rejected as fault:
        rejected = fault
    else:
        is_sound(decoded, kind)
        return
    str(rejected).encode()
    assert rejected.offset is None or 0 <= rejected.offset <= len(payload)


def is_sound(decoded: Decoded, kind: Kind) -> None:
    assert decoded.readings or decoded.refused
    for reading in decoded.readings:
        reading_is_sound(reading, kind)
    for part in decoded.refused:
        part.detail.encode()
        assert "\0" not in part.detail + (part.value or "") + (part.field or "")


words = st.sampled_from(
    ["ts", "seq", "series", "values", "alarms", "noise_db", "load_t", "x", "minute", "\0", "\ud800"]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(TS),
    st.sampled_from([10**400, 2**63, 2**64]),
    st.floats(),
    st.text(max_size=5),
    words,
    moments.map(datetime.isoformat),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=12,
)
nearly = st.fixed_dictionaries(
    {"ts": st.just(TS) | scalars, "values": st.dictionaries(words, anything, max_size=5) | anything}
)
hostile = st.one_of(
    st.binary(max_size=60),
    (nearly | st.lists(nearly, max_size=4) | anything).map(json.dumps).map(str.encode),
)


@given(payload=hostile, kind=st.sampled_from(KINDS))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_decoded_or_rejected(payload: bytes, kind: Kind) -> None:
    is_declared(kind, payload)


@pytest.mark.full
@given(payload=hostile, kind=st.sampled_from(KINDS), cut=st.integers(0, 40), put=st.binary())
@settings(max_examples=8_000, deadline=None)
def test_any_bytes_are_decoded_or_rejected_many_times(
    payload: bytes, kind: Kind, cut: int, put: bytes
) -> None:
    is_declared(kind, payload)
    is_declared(kind, payload[:cut] + put[:4] + payload[cut:])


@given(hostile)
@settings(max_examples=100, deadline=None)
def test_any_status_and_event_is_read_or_rejected(payload: bytes) -> None:
    try:
        status = decode_status(payload)
    except Rejected:
        pass
    else:
        assert "\0" not in status.detail
        status.detail.encode()
    try:
        event = decode_event(payload)
    except Rejected:
        pass
    else:
        assert isinstance(json.loads(event, parse_constant=pytest.fail), dict)
        assert b"\\u0000" not in event


def test_status() -> None:
    assert decode_status(b'{"online":true}').online
    status = decode_status(b'{"online":false,"detail":"last will","more":1}')
    assert (status.online, status.detail) == (False, "last will")
    assert (
        len(decode_status(json.dumps({"online": True, "detail": "x" * 999}).encode()).detail) < 999
    )
    assert decode_status(b'{"online":true,"detail":NaN}').detail == ""


@pytest.mark.parametrize(
    "payload", [b"", b"1", b"[]", b"{}", b'{"online":1}', b'{"online":"true"}', b'{"online":null}']
)
def test_a_status_says_whether_the_device_is_online(payload: bytes) -> None:
    with pytest.raises(Rejected):
        decode_status(payload)


def test_event() -> None:
    assert json.loads(decode_event('{"门": "开", "n": [1.5]}'.encode())) == {"门": "开", "n": [1.5]}


@pytest.mark.parametrize(
    "payload",
    [b"", b"1", b"[]", b'{"a":NaN}', b'{"a":1e999}', rb'{"a":"\u0000"}', rb'{"a":"\ud800"}'],
)
def test_an_event_is_an_object_that_can_be_kept(payload: bytes) -> None:
    with pytest.raises(Rejected):
        decode_event(payload)


@given(st.datetimes(timezones=st.just(UTC)))
@settings(deadline=None)
def test_microseconds_are_exact(moment: datetime) -> None:
    assert moment_of(microseconds(moment)) == moment
