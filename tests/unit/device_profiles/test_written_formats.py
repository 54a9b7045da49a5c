"""Fixed text, names and values, columns: what becomes of each line."""

from typing import Any

import pytest

from device_profiles.decoding.build import MAX_PATTERN_BYTES, MAX_TEXT_BYTES
from device_profiles.errors import Reason, Rejected
from device_profiles.native import MAX_BATCH
from tests.unit.device_profiles.sheets import DUST, decoder, values_of

T = b"1772326923"
TEXT: dict[str, Any] = DUST | {
    "format": "text",
    "text": {"pattern": r"(?P<t>\d+) PM10=(?P<pm10>\S+)(?: N=(?P<noise>\S+))?"},
    "values": {"pm10_ug_m3": {"at": "pm10"}, "noise_db": {"at": "noise"}},
}
PAIRS: dict[str, Any] = DUST | {"format": "pairs", "pairs": {"between": ";", "equals": "="}}
CSV: dict[str, Any] = DUST | {"format": "csv", "csv": {"columns": ["t", "pm10", "note"]}}


def test_named_groups_are_the_paths() -> None:
    read = decoder(TEXT)
    assert values_of(read(T + b" PM10=78.5 N=62\r\n\0")) == {"pm10_ug_m3": 78.5, "noise_db": 62}
    assert values_of(read(b"\xef\xbb\xbf" + T + b" PM10=78.5")) == {"pm10_ug_m3": 78.5}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.SYNTAX),
        (T + b" PM10=", Reason.SYNTAX),
        (b"x" + T + b" PM10=1", Reason.SYNTAX),
        ("１".encode() + b" PM10=1", Reason.SYNTAX),
        (b"\xff", Reason.ENCODING),
        (b"1" * (MAX_PATTERN_BYTES + 1), Reason.TOO_LARGE),
        (T + b" PM10=abc", Reason.TYPE),
        (b"5 PM10=1", Reason.TIME),
    ],
)
def test_text_that_does_not_fit(payload: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        decoder(TEXT)(payload)
    assert caught.value.reason is reason


def test_pairs_are_names_and_values() -> None:
    decoded = decoder(PAIRS)(b" t = %s ; pm10=78.5;;id=K=7;\r\n" % T)
    assert values_of(decoded) == {"pm10_ug_m3": 78.5}
    assert decoded.readings[0].extra == b'{"id":"K=7"}'
    other = decoder(PAIRS, pairs={"between": "\n", "equals": ": "})
    assert values_of(other(b"t: %s\npm10: 78.5" % T)) == {"pm10_ug_m3": 78.5}


@pytest.mark.parametrize(
    ("payload", "reason", "said"),
    [
        (b"", Reason.INCOMPLETE, "empty"),
        (b";;", Reason.INCOMPLETE, "empty"),
        (b"t", Reason.SYNTAX, "'t' is not NAME=VALUE"),
        (b"t=1;t=2", Reason.SYNTAX, "'t' is said twice"),
        (b"\x81", Reason.ENCODING, "not UTF-8"),
        (b"a=1;" * (MAX_TEXT_BYTES // 4 + 1), Reason.TOO_LARGE, "at most"),
        (b"pm10=5", Reason.TIME, "no time"),
    ],
)
def test_pairs_that_are_none(payload: bytes, reason: Reason, said: str) -> None:
    with pytest.raises(Rejected) as caught:
        decoder(PAIRS)(payload)
    assert caught.value.reason is reason
    assert said in caught.value.detail


def test_every_line_is_a_reading() -> None:
    decoded = decoder(CSV)(b'%s,1,"a, b"\r\n\n%s, 2 ,x\n' % (T, T))
    assert [values_of(decoded, place=place) for place in (0, 1)] == [
        {"pm10_ug_m3": 1},
        {"pm10_ug_m3": 2},
    ]
    assert decoded.readings[0].extra == b'{"note":"a, b"}'
    titled = decoder(CSV, csv=CSV["csv"] | {"header": True, "delimiter": ";"})
    assert values_of(titled(b"t;pm10;note\n%s;5;x" % T)) == {"pm10_ug_m3": 5}


def test_a_bad_line_refuses_the_line() -> None:
    decoded = decoder(CSV)(b"%s,1,x\n%s,2\nnever,3,x\n%s,?,x\n" % (T, T, T))
    assert len(decoded.readings) == 1
    assert [(part.reason, part.detail) for part in decoded.refused] == [
        (Reason.SYNTAX, "reading 1: a line of 2 columns, the datasheet has 3"),
        (Reason.TIME, "reading 2: time 'never' is no number of seconds or milliseconds"),
        (Reason.TYPE, "reading 3: pm10_ug_m3: '?' is not a number"),
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.INCOMPLETE),
        (b"\n \n", Reason.INCOMPLETE),
        (b"a,b", Reason.SYNTAX),
        (b"1,1,1\n" * (MAX_BATCH + 1), Reason.TOO_LARGE),
        (b"1,1,1\n" * MAX_TEXT_BYTES, Reason.TOO_LARGE),
    ],
)
def test_columns_that_are_none(payload: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        decoder(CSV)(payload)
    assert caught.value.reason is reason
