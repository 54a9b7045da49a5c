"""From frames to readings: codes, units, flags, times, and what is wrong with values."""

from __future__ import annotations

import random

import msgspec
import pytest

from device_profiles.errors import Reason, Rejected
from device_profiles.hj212.crc import crc
from device_profiles.hj212.factors import Dialect
from device_profiles.hj212.fields import Fields, Layouts, meaning_of, split
from device_profiles.hj212.frames import Tolerance
from device_profiles.hj212.joining import Joiner
from device_profiles.hj212.plausibility import suspect_unit
from device_profiles.hj212.readings import Hj212Decoder
from device_profiles.hj212.segment import Note
from device_profiles.hj212.times import parse_time
from device_profiles.native import moment_of
from device_profiles.vocabulary import DUST_QUANTITIES, Kind, Series
from ingest.blocks import Block
from tests.unit.hj212.hj212_wire import (
    HEAD,
    MINUTE,
    USUAL,
    fed,
    one_frame,
    plain_modbus,
    read,
    values_of,
    wire,
    with_cp,
)

TIME = "DataTime=20260803141500"


def extra_of(segment: str) -> dict[str, object]:
    (reading,) = read(segment).readings
    assert reading.telemetry.extra is not None
    found: dict[str, object] = msgspec.json.decode(reading.telemetry.extra)
    return found


def test_real_time_data() -> None:
    contents = read(USUAL)
    assert values_of(contents) == {"pm10_ug_m3": 57.3, "noise_db": 63.8}
    telemetry = contents.readings[0].telemetry
    assert telemetry.series == Series.INSTANT
    assert moment_of(telemetry.reported_us).isoformat() == "2026-08-03T06:15:00+00:00"
    assert telemetry.extra is None
    assert contents.readings[0].flags == {"pm10_ug_m3": "N", "noise_db": "N"}
    assert (contents.refused, contents.notes) == ((), ())


def test_minute_data_keep_minimum_and_maximum_beside_the_mean() -> None:
    contents = read(MINUTE)
    assert values_of(contents) == {"tsp_ug_m3": 123.4, "pm10_ug_m3": 57.3, "temperature_c": 31.4}
    assert contents.readings[0].telemetry.series == Series.MINUTE
    assert extra_of(MINUTE) == {
        "a34001-Min": 101.5,
        "a34001-Max": 150.25,
        "a34002-Min": 40.0,
        "a34002-Max": 66.1,
        "a01001-Min": 31.0,
        "a01001-Max": 31.9,
    }


@pytest.mark.parametrize(
    ("cn", "time", "series", "noted"),
    [
        ("2011", "20260803141507", Series.INSTANT, False),
        ("2051", "20260803141500", Series.MINUTE, False),
        ("2051", "20260803141507", Series.MINUTE, True),
        ("2061", "20260803140000", Series.HOUR, False),
        ("2061", "20260803141500", Series.HOUR, True),
        ("2031", "20260803000000", Series.DAY, False),
        ("2031", "20260803080000", Series.DAY, True),
    ],
)
def test_the_time_is_the_start_of_the_period(
    cn: str, time: str, series: Series, noted: bool
) -> None:
    suffix = "Rtd" if cn == "2011" else "Avg"
    contents = read(with_cp(f"DataTime={time};a34001-{suffix}=88", cn))
    telemetry = contents.readings[0].telemetry
    assert telemetry.series == series
    assert telemetry.reported_us == parse_time(time)
    assert (Note.NOT_AT_START_OF_PERIOD in contents.notes) is noted


def test_every_standard_code() -> None:
    codes = [
        "a34001",
        "a34002",
        "a34004",
        "a01001",
        "a01002",
        "a01006",
        "a01007",
        "a01008",
        "LA",
        "Leq",
    ]
    said = ";".join(f"{code}-Rtd={41 + place}" for place, code in enumerate(codes))
    assert values_of(read(with_cp(f"{TIME};{said}"))) == {
        "tsp_ug_m3": 41,
        "pm10_ug_m3": 42,
        "pm2_5_ug_m3": 43,
        "temperature_c": 44,
        "humidity_pct": 45,
        "pressure_kpa": 46,
        "wind_speed_m_s": 47,
        "wind_direction_deg": 48,
        "noise_db": 49,
        "leq_db": 50,
    }


def test_names_say_what_they_are_and_codes_have_to_be_chosen() -> None:
    names = with_cp(f"{TIME};PM10-Rtd=61.5;PM25-Rtd=22.5;TEM-Rtd=30.5;RH-Rtd=55;Voice-Rtd=58")
    contents = read(names)
    assert values_of(contents) == {
        "pm10_ug_m3": 61.5,
        "pm2_5_ug_m3": 22.5,
        "temperature_c": 30.5,
        "humidity_pct": 55,
        "noise_db": 58,
    }
    assert contents.notes == (Note.VENDOR_CODE,)
    codes = with_cp(f"{TIME};107-Rtd=61.5;925-Rtd=22.5;B03-Rtd=58;128-Rtd=70")
    assert values_of(read(codes)) == {}
    assert extra_of(codes) == {"107-Rtd": 61.5, "925-Rtd": 22.5, "B03-Rtd": 58, "128-Rtd": 70}
    chosen = (Dialect.STANDARD, Dialect.CODES_2005)
    assert values_of(read(codes, dialects=chosen)) == {
        "pm10_ug_m3": 61.5,
        "pm2_5_ug_m3": 22.5,
        "noise_db": 58,
        "humidity_pct": 70,
    }


def test_a_code_that_means_something_else_elsewhere() -> None:
    segment = with_cp(f"{TIME};a34005-Avg=0.071;a50001-Avg=61.2;a34001-Avg=0.24", "2051")
    assert values_of(read(segment)) == {"tsp_ug_m3": 0.24}
    kunshan = read(segment, dialects=(Dialect.STANDARD, Dialect.KUNSHAN), dust_unit="mg/m³")
    assert values_of(kunshan) == {"pm10_ug_m3": 71.0, "noise_db": 61.2, "tsp_ug_m3": 240.0}
    assert Note.VENDOR_CODE in kunshan.notes


def test_units_are_converted_exactly() -> None:
    segment = with_cp(f"{TIME};a34001-Rtd=0.0523;a34002-Rtd=71250.5;a01006-Rtd=1013.2")
    units = {"pm10_ug_m3": "ng/m³", "pressure_kpa": "hPa"}
    assert values_of(read(segment, units=units, dust_unit="mg/m³")) == {
        "tsp_ug_m3": 52.3,
        "pm10_ug_m3": 71.2505,
        "pressure_kpa": 101.32,
    }
    odd = with_cp(f"{TIME};a34001-Rtd= 5.23E-2 ;LA-Rtd=60")
    assert values_of(read(odd, dust_unit="mg/m³")) == {"tsp_ug_m3": 52.3, "noise_db": 60}


@pytest.mark.parametrize(
    ("quantity", "unit"),
    [("pm10_ug_m3", "g/m³"), ("noise_db", "mg/m³"), ("pressure_kpa", "bar"), ("slew_deg", "°")],
)
def test_impossible_units_are_refused(quantity: str, unit: str) -> None:
    with pytest.raises(ValueError, match=quantity):
        Hj212Decoder(units={quantity: unit})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("--", Reason.TYPE),
        ("", Reason.TYPE),
        ("NaN", Reason.TYPE),
        ("inf", Reason.TYPE),
        ("1_000", Reason.TYPE),
        ("57,3", Reason.TYPE),
        ("５７", Reason.TYPE),
        ("0x1F", Reason.TYPE),
        ("57.3.1", Reason.TYPE),
        ("1e999", Reason.RANGE),
    ],
)
def test_a_bad_value_refuses_the_value(value: str, reason: Reason) -> None:
    contents = read(with_cp(f"{TIME};a34001-Rtd={value};LA-Rtd=63.8"))
    assert values_of(contents) == {"noise_db": 63.8}
    (refused,) = contents.refused
    assert (refused.reason, refused.field, refused.value) == (reason, "tsp_ug_m3", repr(value))
    assert "a34001-Rtd" in refused.detail


def test_a_reading_of_bad_values_alone_is_refused() -> None:
    contents = read(with_cp(f"{TIME};a34001-Rtd=--"))
    assert contents.readings == ()
    assert [part.field for part in contents.refused] == [None, "tsp_ug_m3"]
    (refused,) = read(with_cp(TIME)).refused
    assert (refused.reason, refused.field) == (Reason.INCOMPLETE, None)


@pytest.mark.parametrize("flag", list("FMSDCTBd"))
def test_what_is_marked_is_no_measurement_but_kept(flag: str) -> None:
    segment = with_cp(f"{TIME};a34001-Rtd=999.5,a34001-Flag={flag};LA-Rtd=63.8,LA-Flag=N")
    contents = read(segment)
    assert values_of(contents) == {"noise_db": 63.8}
    assert contents.refused == ()
    assert contents.readings[0].flags == {"tsp_ug_m3": flag, "noise_db": "N"}
    assert Note.MARKED_NOT_NORMAL in contents.notes
    assert (Note.DATA_FLAG_CASE in contents.notes) is (flag == "d")
    assert extra_of(segment) == {"a34001-Flag": flag.upper(), "a34001-Rtd": 999.5}


def test_a_marked_value_need_not_be_a_number() -> None:
    contents = read(with_cp(f"{TIME};a34001-Rtd=--,a34001-Flag=D;LA-Rtd=63.8"))
    assert values_of(contents) == {"noise_db": 63.8}
    assert contents.refused == ()


def test_a_flag_in_small_letters_and_one_nobody_knows() -> None:
    contents = read(with_cp(f"{TIME};a34001-Rtd=99.5,a34001-Flag=n;LA-Rtd=63.8,LA-Flag=X"))
    assert values_of(contents) == {"tsp_ug_m3": 99.5}
    assert contents.notes == (Note.DATA_FLAG_CASE,)
    (refused,) = contents.refused
    assert (refused.reason, refused.field) == (Reason.TYPE, "noise_db")


def test_a_flag_without_a_code() -> None:
    alone = read(with_cp(f"{TIME};a34001-Rtd=92;LA-Rtd=60;Flag=N"))
    assert values_of(alone) == {"tsp_ug_m3": 92, "noise_db": 60}
    assert alone.notes == (Note.FLAG_IN_CP,)
    assert values_of(read(with_cp(f"{TIME};a34001-Rtd=92;LA-Rtd=60;x-Rtd=1;Flag=D"))) == {}
    grouped = read(with_cp(f"{TIME};a34001-Rtd=92,Flag=D;LA-Rtd=60,Flag=N"))
    assert values_of(grouped) == {"noise_db": 60}
    misplaced = read(with_cp(f"{TIME};Flag=4;a34001-Rtd=92"))
    assert values_of(misplaced) == {"tsp_ug_m3": 92}


@pytest.mark.parametrize(
    ("cp", "note"),
    [
        (f"{TIME};a34001-Rtd=92;", Note.STRAY_SEPARATOR),
        (f"{TIME};;a34001-Rtd=92", Note.STRAY_SEPARATOR),
        (f"{TIME}; a34001-Rtd = 92", None),
        (f"{TIME};A34001-RTD=92", Note.NAME_CASE),
        (f"{TIME.replace('DataTime', 'DATATIME')};a34001-Rtd=92", Note.NAME_CASE),
        (f"{TIME}123;a34001-Rtd=92", Note.MILLISECONDS_IN_DATA_TIME),
        (f"QN=20260803141502371;{TIME};a34001-Rtd=92", Note.QN_IN_CP),
        (f"{TIME};a34001-Rtd=92;a34001-Rtd=92", Note.REPEATED_ITEM),
        (f"{TIME};a34001-Rtd=92;spare", Note.ITEM_WITHOUT_VALUE),
        (f"{TIME}；a34001-Rtd=92，a34001-Flag＝N", Note.FULL_WIDTH_SEPARATOR),
        (f"{TIME};a34001-Avg=92,a34001-Max=99", Note.OTHER_STATISTIC),
    ],
)
def test_deviations_inside_cp_are_understood_with_a_note(cp: str, note: Note | None) -> None:
    contents = read(with_cp(cp))
    assert values_of(contents) == {"tsp_ug_m3": 92}
    assert contents.refused == ()
    assert contents.notes == (() if note is None else (note,))


def test_of_two_values_for_one_thing_the_first_stays() -> None:
    for cp in (
        "a34001-Rtd=92;a34001-Rtd=93",
        "a34001-Rtd=92,a34001-Rtd=93",
        "a34001-Rtd=92;TSP-Rtd=93",
    ):
        contents = read(with_cp(f"{TIME};{cp}"))
        assert values_of(contents) == {"tsp_ug_m3": 92}
        (refused,) = contents.refused
        assert (refused.reason, refused.field, refused.value) == (
            Reason.SYNTAX,
            "tsp_ug_m3",
            "'93'",
        )


@pytest.mark.parametrize(
    "digits",
    [
        "20260230141500",
        "20260803241500",
        "20260803146000",
        "20260803141460",
        "2026080314150",
        "2026080314150012",
        "19990803141500",
        "21000803141500",
        "2026-08-03 14:15:00",
        "２０２６０８０３１４１５００",
        "",
    ],
)
def test_what_is_no_time_refuses_the_reading(digits: str) -> None:
    contents = read(with_cp(f"DataTime={digits};a34001-Rtd=92"))
    assert len(contents.frames) == 1
    assert contents.readings == ()
    (refused,) = contents.refused
    assert (refused.reason, refused.field) == (Reason.TIME, None)


def test_values_without_any_time_are_refused() -> None:
    (refused,) = read(with_cp("a34001-Rtd=92")).refused
    assert refused.reason is Reason.TIME


def test_frames_without_readings() -> None:
    for segment, note in (
        (with_cp("QnRtn=1", "9011"), Note.NO_READING),
        (with_cp("", "9014"), Note.NO_READING),
        (with_cp("", "9015"), Note.HEARTBEAT),
        (with_cp("", "2011"), Note.NO_READING),
        (with_cp("BeginTime=20260803000000;EndTime=20260803120000", "2051"), Note.NO_READING),
        (with_cp(f"{TIME};x=1", "2052"), Note.NO_READING),
    ):
        contents = read(segment)
        assert (contents.readings, contents.refused, contents.notes) == ((), (), (note,))
        assert Hj212Decoder()(wire(segment)).readings == []
    (refused,) = read("SN=417;DATETIME=20260803141500&&").refused
    assert (refused.reason, refused.field) == (Reason.SYNTAX, None)


def test_unknown_fields_beyond_the_limits_are_refused_together() -> None:
    many = ";".join(f"v{number:05d}-Rtd={number}" for number in range(90))
    contents = read(with_cp(f"{TIME};LA-Rtd=60;{many}"))
    assert values_of(contents) == {"noise_db": 60}
    (refused,) = contents.refused
    assert (refused.reason, refused.field) == (Reason.TOO_LARGE, "'v00064-Rtd'")
    long = with_cp(f"{TIME};LA-Rtd=60;{'x' * 80}=1;note=" + "y" * 300)
    assert read(long).refused[0].reason is Reason.TOO_LARGE
    assert extra_of(long) == {"note": "y" * 200}


def test_faults_and_frames_of_one_payload() -> None:
    decoder = Hj212Decoder()
    bad = wire(USUAL, crc="0F1E")
    decoded = decoder(bad + wire(USUAL) + wire(MINUTE))
    assert [reading.series for reading in decoded.readings] == [Series.INSTANT, Series.MINUTE]
    assert [(part.reason, part.field) for part in decoded.refused] == [(Reason.CRC, None)]
    with pytest.raises(Rejected) as caught:
        decoder(bad + wire(MINUTE, length="0001"))
    assert caught.value.reason is Reason.CRC
    assert caught.value.offset == bad.rindex(b"&&") + 2


def test_frames_are_shown_whether_taken_or_not() -> None:
    bad = wire(with_cp("LA-Rtd=6,LA-Flag=N;x=1"), crc="0F1E")
    contents = Hj212Decoder().read(bad + wire(with_cp("", "9015")) + wire(USUAL)[:40])
    header = one_frame(wire(USUAL)).segment.header
    assert contents.parsed() == [
        {"header": header, "cp": [{"LA-Rtd": "6", "LA-Flag": "N"}, {"x": "1"}]},
        {"header": header | {"CN": "9015"}, "cp": []},
    ]


def test_tolerances_are_counted_when_used() -> None:
    decoder = Hj212Decoder(tolerances=[Tolerance.CRC_MODBUS, Tolerance.LENGTH])
    data = wire(USUAL, crc=f"{plain_modbus(USUAL.encode()):04X}")
    assert len(decoder(data).readings) == 1
    assert decoder.read(data).tolerated == (Tolerance.CRC_MODBUS,)
    assert len(decoder(wire(USUAL, length="0001")).readings) == 1
    assert len(decoder(wire(USUAL)).readings) == 1
    assert decoder.used == {Tolerance.CRC_MODBUS: 2, Tolerance.LENGTH: 1}


def parts(*cps: str) -> list[bytes]:
    count = len(cps)
    return [
        wire(f"{HEAD.replace('Flag=5', f'Flag=7;PNUM={count};PNO={number}')}CP=&&{cp}&&")
        for number, cp in enumerate(cps, 1)
    ]


def test_parts_of_a_split_packet_make_one_reading() -> None:
    packets = parts(f"{TIME};a34001-Rtd=92", f"{TIME};LA-Rtd=60", f"{TIME};a01001-Rtd=30")
    for order in (packets, packets[::-1]):
        contents = Hj212Decoder().read(b"".join(order))
        assert values_of(contents) == {"tsp_ug_m3": 92, "noise_db": 60, "temperature_c": 30}
        assert len(contents.readings) == 1
        assert contents.refused == ()


def test_parts_that_come_alone_are_read_alone() -> None:
    first, second = parts(f"{TIME};a34001-Rtd=92", f"{TIME};LA-Rtd=60")
    contents = Hj212Decoder().read(second)
    assert values_of(contents) == {"noise_db": 60}
    assert contents.notes == (Note.PART_OF_SPLIT,)
    assert values_of(Hj212Decoder().read(first)) == {"tsp_ug_m3": 92}


def test_a_joiner_holds_no_more_than_it_may() -> None:
    joiner = Joiner(max_held=3)
    given_up = []
    for minute in range(6):
        time = f"DataTime=202608031415{minute:02d}"
        first, _ = parts(f"{time};a34001-Rtd=92", f"{time};LA-Rtd=60")
        given_up += joiner.add(one_frame(first))
        assert len(joiner) <= 3
    assert len(given_up) == 3
    assert len(joiner.give_up()) == 3
    assert len(joiner) == 0


def test_a_part_sent_again_is_not_counted_twice() -> None:
    joiner = Joiner()
    first, second = (one_frame(data) for data in parts(f"{TIME};a34001-Rtd=92", f"{TIME};LA-Rtd=6"))
    assert joiner.add(first) == joiner.add(first) == []
    assert joiner.add(second) == [(first, second)]
    assert len(joiner) == 0


def test_readings_go_into_a_block_as_they_are() -> None:
    block = Block(Kind.DUST)
    for reading in Hj212Decoder()(wire(MINUTE)).readings:
        block.add(7, 0, reading)
    assert len(block) == 1


VALUES = ["0.0", "5", "-1.5", "61.25", "1e3", "7", "8.5", "93", "4.75", "0.033", "x"]


def test_the_way_of_the_plain_and_the_careful_way_agree() -> None:
    dice = random.Random(31)
    codes = ["a34001", "a34002", "LA", "a01006", "PM25", "a99054"]
    powers = tuple(3 if quantity.unit == "µg/m³" else 0 for quantity in DUST_QUANTITIES)
    meaning = meaning_of((Dialect.STANDARD, Dialect.NAMES), Series.MINUTE, powers)
    layouts = Layouts(Series.MINUTE, meaning)
    read_plainly = 0
    for _ in range(2_000):
        groups = [TIME]
        for code in dice.sample(codes, dice.randrange(1, 5)):
            suffixes = dice.sample(["Avg", "Min", "Max", "Cou", "Rtd"], dice.randrange(1, 4))
            values = (dice.choice(VALUES) for _ in suffixes)
            items = [f"{code}-{one}={value}" for one, value in zip(suffixes, values, strict=True)]
            items += [f"{code}-Flag={dice.choice('NNNNNNND')}"] * dice.randrange(2)
            groups.append(",".join(items))
        content = ";".join(groups)
        plain = layouts.read(content)
        if plain is None:
            continue
        read_plainly += 1
        said, bad = split(content, meaning, {})
        careful = Fields(said, meaning).reading(plain.telemetry.reported_us, Series.MINUTE, bad, {})
        assert bad == []
        assert careful is not None
        assert repr(careful.telemetry) == repr(plain.telemetry)
        assert careful.flags == plain.layout.flags
    assert read_plainly > 200


def test_layouts_of_strangers_are_forgotten() -> None:
    decoder = Hj212Decoder()
    for number in range(1_000):
        decoder(wire(with_cp(f"{TIME};LA-Rtd=60;x{number}-Rtd=1")))
    held = decoder._layouts[Series.INSTANT]._known
    assert 0 < len(held) <= 256


def test_a_unit_that_looks_wrong() -> None:
    milligrams = [0.031 + 0.002 * number for number in range(30)]
    suspicion = suspect_unit("pm10_ug_m3", milligrams)
    assert suspicion is not None
    assert suspicion.factor == 1_000
    nanograms = suspect_unit("tsp_ug_m3", [value * 1e6 for value in milligrams])
    assert nanograms is not None
    assert nanograms.factor == 0.001
    assert suspect_unit("pm10_ug_m3", [value * 1e3 for value in milligrams]) is None
    assert suspect_unit("pm10_ug_m3", [0.0] * 30) is None
    assert suspect_unit("pm10_ug_m3", milligrams[:9]) is None
    assert suspect_unit("wind_speed_m_s", milligrams) is None
    assert suspect_unit("pm10_ug_m3", [0.0002] * 30) is None


def test_a_stream_gives_what_a_payload_gives() -> None:
    frames = fed([wire(USUAL) + wire(MINUTE)])
    assert frames == Hj212Decoder().read(wire(USUAL) + wire(MINUTE)).frames


def test_a_decimal_comma_refuses_the_value_and_cuts_nothing_off() -> None:
    segment = (
        b"QN=20260301090203000;ST=39;CN=2011;PW=123456;MN=A1;Flag=4;"
        b"CP=&&DataTime=20260301090200;a34004-Rtd=35,2,a34004-Flag=N;a34002-Rtd=78.5&&"
    )
    contents = Hj212Decoder().read(b"##%04d%s%04X\r\n" % (len(segment), segment, crc(segment)))
    assert [part.field for part in contents.refused] == ["pm2_5_ug_m3"]
    assert contents.refused[0].value is not None
    assert "35,2" in contents.refused[0].value
