"""Values as devices write them: numbers in every dress, words, flags, what is missing."""

import json
import math
from typing import Any

import pytest

from device_profiles.datasheets import Value
from device_profiles.decoding.terms import Terms
from device_profiles.decoding.values import number_in, value_reader
from device_profiles.errors import Reason, Rejected
from device_profiles.vocabulary import DUST_QUANTITIES
from device_profiles.winds import WINDS
from tests.unit.device_profiles.sheets import AT, CRANE, decoder, values_of

QUANTITY = {quantity.name: quantity for quantity in DUST_QUANTITIES}


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        (0, 0.0),
        (-0.0, 0.0),
        (17, 17.0),
        (1.5, 1.5),
        ("17.2", 17.2),
        ("   17.2  ", 17.2),
        ("\t+5e1\n", 50.0),
        ("-.5", -0.5),
        ("007", 7.0),
        (1e-20, 1e-20),
    ],
)
def test_a_number_is_read(raw: Any, number: float) -> None:
    assert number_in(raw) == number


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", Reason.TYPE),
        ("  ", Reason.TYPE),
        ("n/a", Reason.TYPE),
        ("1,5", Reason.TYPE),
        ("1_0", Reason.TYPE),
        ("1-2", Reason.TYPE),
        ("--", Reason.TYPE),
        ("e", Reason.TYPE),
        ("١٢", Reason.TYPE),
        ("０.５", Reason.TYPE),
        ("nan", Reason.TYPE),
        ("inf", Reason.TYPE),
        ("0x10", Reason.TYPE),
        ("1" * 65, Reason.TYPE),
        (True, Reason.TYPE),
        (None, Reason.TYPE),
        ([1], Reason.TYPE),
        ({}, Reason.TYPE),
        (math.nan, Reason.RANGE),
        (math.inf, Reason.RANGE),
        ("1e999", Reason.RANGE),
        (10**400, Reason.RANGE),
        ("5.877472E-39", Reason.RANGE),
        (5e-324, Reason.RANGE),
        (-1e-21, Reason.RANGE),
    ],
)
def test_what_is_no_measurement_is_refused(raw: Any, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        number_in(raw)
    assert caught.value.reason is reason


def read(quantity: str, raw: Any, **line: Any) -> float:
    return value_reader(Value(at="x", **line), QUANTITY[quantity])(raw)


def test_units_scale_and_offset_come_in_order() -> None:
    assert read("pm10_ug_m3", 0.346, unit="mg/m3") == 346
    assert read("pm10_ug_m3", 75_600, unit="ng/m3") == 75.6
    assert read("pressure_kpa", "1013.25", unit="hPa") == 101.325
    assert read("temperature_c", 503, scale=0.1) == 50.3
    assert read("temperature_c", 903, scale=0.1, offset=-40) == 50.3
    assert read("temperature_c", 300.15, unit="K") == pytest.approx(27)
    assert read("temperature_c", 68, unit="degF") == pytest.approx(20)
    assert read("wind_direction_deg", math.pi, unit="rad") == pytest.approx(180)


def test_ranges_are_of_the_datasheet_then_of_the_vocabulary() -> None:
    with pytest.raises(Rejected, match=r"31 is not within the datasheet's 0 to 30 mg/m3"):
        read("pm10_ug_m3", 31, unit="mg/m3", range=(0, 30))
    assert read("pm10_ug_m3", 30, unit="mg/m3", range=(0, 30)) == 30_000
    with pytest.raises(Rejected, match=r"101 is not within 0 to 100 %"):
        read("humidity_pct", 101)
    with pytest.raises(Rejected, match=r"-0\.5 is not within the datasheet's 0 to 90 m/s"):
        read("wind_speed_m_s", -0.5, range=(0, 90))
    limited = value_reader(Value(at="x"), QUANTITY["noise_db"], None, (30.0, 90.0))
    assert limited(90) == 90
    with pytest.raises(Rejected, match="91 is not within 30 to 90"):
        limited(91.0)


@pytest.mark.parametrize("raw", [None, "", " -- ", -999, -999.0, "-999.0", False])
def test_what_is_missing_is_no_fault(raw: Any) -> None:
    missing = ("", "--", -999, "-999.0", False)
    assert math.isnan(read("pm10_ug_m3", raw, missing=missing))


@pytest.mark.parametrize(
    ("raw", "missing"), [(0, (False,)), (False, (0,)), ("0", (0,)), (1, (True,))]
)
def test_missing_is_told_apart_by_its_type(raw: Any, missing: tuple[Any, ...]) -> None:
    if raw is False:
        with pytest.raises(Rejected, match="False is not a number"):
            read("pm10_ug_m3", raw, missing=missing)
    else:
        assert read("pm10_ug_m3", raw, missing=missing) == float(raw)


def test_sixteen_winds_in_words() -> None:
    names = (
        "北 北东北 东北 东东北 东 东东南 东南 南东南 南 南西南 西南 西西南 西 西西北 西北 北西北"
    )
    for number, name in enumerate(names.split()):
        for word in (name, f"{name}风", f" {name}风向 "):
            assert read("wind_direction_deg", word, words="winds") == number * 22.5
    assert read("wind_direction_deg", "WSW", words="winds") == 247.5
    assert read("wind_direction_deg", "西南偏西", words="winds") == 247.5
    assert read("wind_direction_deg", "93.5", words="winds") == 93.5
    assert len({round(number, 3) for number in WINDS.values()}) == 16
    with pytest.raises(Rejected, match="'上' is not a number"):
        read("wind_direction_deg", "上", words="winds")
    assert read("noise_db", "安静", words={"安静": 30}) == 30


def message(**more: Any) -> bytes:
    return json.dumps({"t": AT} | more).encode()


def test_a_bad_value_refuses_the_value_not_the_reading() -> None:
    values = {"pm10_ug_m3": {"at": "a"}, "noise_db": {"at": "b"}, "leq_db": {"at": "b"}}
    decoded = decoder(values=values)(message(a="?", b=61))
    assert values_of(decoded) == {"noise_db": 61, "leq_db": 61}
    (refused,) = decoded.refused
    assert (refused.field, refused.value, refused.reason) == ("pm10_ug_m3", "'?'", Reason.TYPE)
    assert refused.detail == "pm10_ug_m3: '?' is not a number"
    with pytest.raises(Rejected, match="pm10_ug_m3: '\\?' is not a number"):
        decoder()(message(pm10="?"))
    with pytest.raises(Rejected, match="holds no value") as caught:
        decoder()(message(pm10=None))
    assert caught.value.reason is Reason.INCOMPLETE


def test_the_devices_own_flag_is_believed() -> None:
    flag = {"at": "state", "good": ["N", 0]}
    flagged = decoder(values={"pm10_ug_m3": {"at": "a", "flag": flag}, "noise_db": {"at": "b"}})
    for good in (" N ", 0, None):
        given = {} if good is None else {"state": good}
        assert values_of(flagged(message(a=5, b=61, **given))) == {"pm10_ug_m3": 5, "noise_db": 61}
    bads: list[Any] = ["D", 1, [], None]
    for bad in bads:
        decoded = flagged(message(a=5, b=61, state=bad))
        assert values_of(decoded) == {"noise_db": 61}
        assert "the device flags the value as" in decoded.refused[0].detail


@pytest.mark.parametrize(
    ("raw", "seq"),
    [(7, 7), ("7", 7), (7.0, 7), (2**63 - 1, 2**63 - 1), (str(2**62 + 1), 2**62 + 1), (None, None)],
)
def test_a_counter_is_read(raw: Any, seq: int | None) -> None:
    decoded = decoder(seq="n")(message(pm10=5, n=raw))
    assert (decoded.readings[0].seq, decoded.refused) == (seq, ())


@pytest.mark.parametrize("raw", ["x", 7.5, 2**63, -(2**63) - 1, True, [], 1e300])
def test_what_is_no_counter_is_refused(raw: Any) -> None:
    decoded = decoder(seq="n")(message(pm10=5, n=raw))
    assert decoded.readings[0].seq is None
    assert [part.field for part in decoded.refused] == ["seq"]


def test_the_series_may_stand_in_the_message() -> None:
    series = {"at": "cn", "words": {"2011": "instant", "2061": "hour"}}
    read_series = decoder(series=series)
    assert read_series(message(pm10=5, cn=2061)).readings[0].series == 2
    assert read_series(message(pm10=5, cn=" 2011 ")).readings[0].series == 0
    bads: list[Any] = ["2031", None, [], True, 20.11]
    for bad in bads:
        with pytest.raises(Rejected, match="is not one of 2011, 2061"):
            read_series(message(pm10=5, cn=bad))
    with pytest.raises(Rejected, match="series nothing is not one of"):
        read_series(message(pm10=5))


@pytest.mark.parametrize(
    ("keep", "extra"),
    [
        ("all", {"id": "x", "deep": {"a": [1]}}),
        ("none", None),
        (["deep.a[0]", "gone", "id"], {"deep.a[0]": 1, "id": "x"}),
    ],
)
def test_the_rest_is_kept_as_the_datasheet_says(keep: Any, extra: Any) -> None:
    decoded = decoder(rest={"keep": keep})(message(pm10=5, id="x", deep={"a": [1]}))
    kept = decoded.readings[0].extra
    assert (kept and json.loads(kept)) == extra


def test_what_cannot_be_kept_is_refused_by_name() -> None:
    payload = b'{"t": %d, "pm10": 5, "nul": "\\u0000", "nan": NaN, "%s": 1, "ok": -0.5}' % (
        AT,
        b"n" * 200,
    )
    decoded = decoder()(payload)
    assert json.loads(decoded.readings[0].extra or b"") == {"ok": -0.5}
    assert len(decoded.refused) == 3
    many = {f"n{number}": number for number in range(100)}
    assert len(json.loads(decoder()(message(pm10=5, **many)).readings[0].extra or b"")) == 64


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.SYNTAX),
        (b"{", Reason.SYNTAX),
        (b"[" * 100_000, Reason.SYNTAX),
        (b"\xff", Reason.ENCODING),
        (b"5", Reason.TYPE),
        (b"[]", Reason.TYPE),
        (b"{}", Reason.TIME),
        (b'{"t": ""}', Reason.TIME),
        (b'{"t": 1772326923}', Reason.INCOMPLETE),
    ],
)
def test_what_holds_no_reading_says_why(payload: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as caught:
        decoder()(payload)
    assert caught.value.reason is reason


def test_odd_dresses_of_json_are_read() -> None:
    plain = {"pm10_ug_m3": 5}
    assert values_of(decoder()(b"\xef\xbb\xbf" + message(pm10=5) + b"\r\n\0")) == plain
    chinese = decoder(encoding="gb18030", rest={"keep": "all"})
    text = json.dumps({"t": AT, "pm10": 5, "名": "工地"}, ensure_ascii=False)
    assert values_of(chinese(text.encode("gb18030"))) == plain
    with pytest.raises(Rejected, match="not GB18030"):
        chinese(b"\x81")
    big = b'{"t": %d, "pm10": 5, "n": %s}' % (AT, b"9" * 5_000)
    assert values_of(decoder()(big)) == plain


CONTRADICTIONS = [
    {"not_above": ["load_t", "rated_load_t"]},
    {"says": "moment_pct", "percent_of": ["load_t", "rated_load_t"], "within": 15},
    {"says": "slew_deg", "also_at": "bearing", "words": {"北": 0}, "within": 10},
]
VALUES = {name: {"at": name} for name in ("load_t", "rated_load_t", "moment_pct", "slew_deg")}


@pytest.mark.parametrize(
    ("given", "notes"),
    [
        ({"load_t": 125, "rated_load_t": 150, "moment_pct": 20},
         ["moment_pct 20 contradicts load_t 125 of rated_load_t 150, which is 83 %"]),
        ({"load_t": 125, "rated_load_t": 150, "moment_pct": 83}, []),
        ({"load_t": 160, "rated_load_t": 150, "moment_pct": 107},
         ["load_t 160 is above rated_load_t 150"]),
        ({"load_t": 125, "moment_pct": 20}, []),
        ({"rated_load_t": 0, "moment_pct": 20}, []),
        ({"slew_deg": 355, "bearing": 2}, []),
        ({"slew_deg": 355, "bearing": " 北 "}, []),
        ({"slew_deg": -365, "bearing": "355"}, []),
        ({"slew_deg": 180, "bearing": "北"},
         ["slew_deg 180 contradicts '北' at bearing, which is 0"]),
        ({"slew_deg": 180, "bearing": "?"}, []),
        ({"slew_deg": 180, "bearing": [1]}, []),
        ({"load_t": 1, "bearing": 5}, []),
    ],
)  # fmt: skip
def test_contradictions_are_noted_and_kept(given: dict[str, Any], notes: list[str]) -> None:
    decoded = decoder(CRANE, values=VALUES, contradictions=CONTRADICTIONS)(message(**given))
    assert list(decoded.notes) == notes
    said = {name: value for name, value in given.items() if name in VALUES}
    assert values_of(decoded, "crane") == said


def test_terms_are_one_devices_own() -> None:
    own = Terms(units={"pm10_ug_m3": "mg/m³"}, limits={"pm10_ug_m3": (0, 400)})
    assert values_of(decoder(terms=own)(message(pm10=0.346))) == {"pm10_ug_m3": 346}
    with pytest.raises(Rejected, match="401 is not within 0 to 400"):
        decoder(terms=own)(message(pm10=0.401))
