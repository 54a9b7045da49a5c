"""Times as devices write them."""

import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from device_profiles.datasheets import Time
from device_profiles.decoding.times import binary_time, time_reader
from device_profiles.errors import Reason, Rejected
from device_profiles.time_formats import compile_time_format

AT = datetime(2026, 3, 1, 1, 2, 3, tzinfo=UTC)
US = 1_772_326_923_000_000
SHANGHAI = "Asia/Shanghai"


@pytest.mark.parametrize(
    ("form", "zone", "raw", "us"),
    [
        ("%Y-%m-%d %H:%M:%S", SHANGHAI, "2026-03-01 09:02:03", US),
        ("%Y-%m-%d %H:%M:%S", SHANGHAI, "  2026-3-1 9:2:3 ", US),
        ("%Y-%m-%d %H:%M:%S", "UTC", "2026-03-01 01:02:03", US),
        ("%Y%m%d%H%M%S", SHANGHAI, "20260301090203", US),
        ("%Y%m%d%H%M%S", SHANGHAI, 20260301090203, US),
        ("%Y%m%d%H%M%S%f", SHANGHAI, "20260301090203250", US + 250_000),
        ("%Y-%m-%dT%H:%M:%S.%f%z", None, "2026-03-01T09:02:03.5+08:00", US + 500_000),
        ("%Y-%m-%d %H:%M:%S.%f", SHANGHAI, "2026-03-01 09:02:03.000001", US + 1),
        ("%d/%m/%y %H:%M", SHANGHAI, "01/03/26 09:02", US - 3_000_000),
        ("%Y年%m月%d日 %H时%M分%S秒", SHANGHAI, "2026年3月1日 9时2分3秒", US),
        ("%Y-%m-%d", SHANGHAI, "2026-03-01", US - 32_523_000_000),
        ("%H:%M:%S %d.%m.%Y%z", None, "01:02:03 01.03.2026Z", US),
        ("100%% %Y%m%d", "UTC", "100% 20260301", US - 3_723_000_000),
        ("rfc3339", None, "2026-03-01T01:02:03Z", US),
        ("rfc3339", None, "2026-03-01 09:02:03.25+08:00", US + 250_000),
        ("rfc3339", SHANGHAI, "2026-03-01T09:02:03", US),
        ("epoch_s", None, 1_772_326_923, US),
        ("epoch_s", None, 1_772_326_923.25, US + 250_000),
        ("epoch_s", None, " 1772326923 ", US),
        ("epoch_s", None, "1772326923.5", US + 500_000),
        ("epoch_ms", None, 1_772_326_923_001, US + 1_000),
        ("epoch_ms", None, "1772326923001", US + 1_000),
        ("auto_epoch", None, 1_772_326_923, US),
        ("auto_epoch", None, 1_772_326_923_001, US + 1_000),
    ],
)
def test_a_time_is_read(form: str, zone: str | None, raw: Any, us: int) -> None:
    assert time_reader(Time(at="t", format=form, zone=zone))(raw) == us


@pytest.mark.parametrize(
    ("form", "raw"),
    [
        ("%Y-%m-%d %H:%M:%S", "2026-02-30 09:02:03"),
        ("%Y-%m-%d %H:%M:%S", "2026-03-01 24:02:03"),
        ("%Y-%m-%d %H:%M:%S", "2026-03-01T09:02:03"),
        ("%Y-%m-%d %H:%M:%S", "2026-03-01 09:02:03 and more"),
        ("%Y-%m-%d %H:%M:%S", "２０２６-03-01 09:02:03"),
        ("%Y-%m-%d %H:%M:%S", "1999-12-31 23:59:59"),
        ("%Y-%m-%d %H:%M:%S", "2101-01-01 00:00:00"),
        ("%Y-%m-%d %H:%M:%S", "0001-01-01 00:00:00"),
        ("%Y-%m-%d %H:%M:%S", None),
        ("%Y-%m-%d %H:%M:%S", True),
        ("%Y-%m-%d %H:%M:%S", ["2026-03-01 09:02:03"]),
        ("%Y-%m-%d %H:%M:%S", "2" * 1_000),
        ("%Y%m%d%H%M%S", 2026),
        ("%Y%m%d%H%M%S", 10**60),
        ("rfc3339", "2026-03-01"),
        ("rfc3339", "soon"),
        ("rfc3339", 1_772_326_923),
        ("rfc3339", "\ud800"),
        ("rfc3339", "9999-12-31T23:59:59-23:59"),
        ("epoch_s", "1_772_326_923"),
        ("epoch_s", "nan"),
        ("epoch_s", "１７７２３２６９２３"),
        ("epoch_s", float("nan")),
        ("epoch_s", float("inf")),
        ("epoch_s", 1e300),
        ("epoch_s", 10**400),
        ("epoch_s", -1),
        ("epoch_s", True),
        ("epoch_s", None),
        ("epoch_s", 1_772_326_923_000),
        ("epoch_ms", 1_772_326_923),
        ("auto_epoch", 0),
    ],
)
def test_what_is_no_time_is_refused(form: str, raw: Any) -> None:
    with pytest.raises(Rejected) as caught:
        time_reader(Time(at="t", format=form, zone=SHANGHAI))(raw)
    assert caught.value.reason is Reason.TIME


def test_a_time_without_a_zone_is_not_guessed() -> None:
    with pytest.raises(Rejected, match="has no zone"):
        time_reader(Time(at="t", format="rfc3339"))("2026-03-01T09:02:03")


def test_one_device_is_set_to_another_zone() -> None:
    local = Time(at="t", format="%Y%m%d%H%M%S", zone=SHANGHAI)
    assert time_reader(local, "UTC")("20260301010203") == US
    named = Time(at="t", format="rfc3339")
    assert time_reader(named, "Asia/Urumqi")("2026-03-01T01:02:03Z") == US


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M:%S",
        "%Y%m%d%H%M%S",
        "%Y/%m/%dT%H.%M.%S.%f",
        "%d.%m.%y %H:%M:%S",
        "%S%M%H%d%m%Y",
        "%Y-%m-%dT%H:%M:%S%z",
    ],
)
def test_formats_read_what_strftime_writes(form: str) -> None:
    dice = random.Random(form)
    read = compile_time_format(form)
    for _ in range(300):
        zone = timezone(timedelta(minutes=dice.randrange(-720, 840, 15)))
        moment = AT.replace(tzinfo=None) + timedelta(microseconds=dice.randrange(10**15))
        if "%f" not in form:
            moment = moment.replace(microsecond=0)
        if "%z" in form:
            moment = moment.replace(tzinfo=zone)
        assert read(moment.strftime(form)) == moment


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ("260301090203", "bcd6"),
        ("20260301090203", "bcd7"),
        ("1a0301090203", "binary6"),
    ],
)
def test_a_binary_time_is_read(raw: str, kind: str) -> None:
    assert binary_time(bytes.fromhex(raw), kind, ZoneInfo(SHANGHAI)) == US


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ("2a0301090203", "bcd6"),
        ("261301090203", "bcd6"),
        ("260301090260", "bcd6"),
        ("00000301090203", "bcd7"),
        ("19990301090203", "bcd7"),
        ("ff0301090203", "binary6"),
        ("650101000000", "binary6"),
        ("", "bcd6"),
    ],
)
def test_bytes_that_are_no_time(raw: str, kind: str) -> None:
    with pytest.raises(Rejected) as caught:
        binary_time(bytes.fromhex(raw), kind, ZoneInfo(SHANGHAI))
    assert caught.value.reason is Reason.TIME
