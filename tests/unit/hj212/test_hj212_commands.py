"""What is said beside data: written by the writer, read back by the reader."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from device_profiles.errors import Reason, Rejected
from device_profiles.hj212 import commands
from device_profiles.hj212.commands import Command, ExeRtn, QnRtn, Reply, answer_to, command
from device_profiles.hj212.crc import Checksum
from device_profiles.hj212.frames import Frame, Tolerance
from device_profiles.hj212.readings import Hj212Decoder
from device_profiles.hj212.times import format_qn, format_time, parse_time
from device_profiles.hj212.writer import write_data, write_frame, write_groups
from device_profiles.native import microseconds
from tests.unit.hj212.hj212_wire import (
    HEAD,
    USUAL,
    fed,
    one_frame,
    plain_modbus,
    values_of,
    wire,
    with_cp,
)

AT = datetime(2026, 8, 3, 6, 15, 2, 371_000, UTC)
MN = "SITE00417000000000000931"


def test_times() -> None:
    assert format_qn(AT) == "20260803141502371"
    assert format_time(AT) == "20260803141502"
    assert parse_time(format_qn(AT)) == microseconds(AT)
    assert parse_time(format_time(AT)) == microseconds(AT.replace(microsecond=0))


def test_a_frame_written_by_hand() -> None:
    groups = [{"DataTime": "20260803141500"}, {"a34002-Rtd": "57.3", "a34002-Flag": "N"}]
    groups.append({"LA-Rtd": "63.8", "LA-Flag": "N"})
    header = one_frame(wire(USUAL)).segment.header
    assert write_frame(header, groups) == wire(USUAL)


@pytest.mark.parametrize(
    ("segment", "cn", "flag"),
    [
        (USUAL, "9014", "4"),
        (USUAL.replace("2011", "2051"), "9014", "4"),
        (USUAL.replace("Flag=5", "Flag=9", 1), "9014", "8"),
        (USUAL.replace("Flag=5", "Flag=1", 1), "9014", "0"),
        (with_cp("RestartTime=20260803141500", "2081"), "9014", "4"),
        (with_cp("PolId=a34001", "1013"), "9013", "4"),
        (with_cp("", "9015").replace("Flag=5", "Flag=8"), "9013", "8"),
    ],
)
def test_answers(segment: str, cn: str, flag: str) -> None:
    answer = answer_to(one_frame(wire(segment)))
    assert answer is not None
    frame = one_frame(answer)
    assert frame.segment.header == {
        "QN": "20260803141502371",
        "ST": "91",
        "CN": cn,
        "PW": "424242",
        "MN": MN,
        "Flag": flag,
    }
    assert frame.cp_groups == []
    assert frame.notes == ()


def test_the_answer_of_the_standard_letter_by_letter() -> None:
    assert answer_to(one_frame(wire(USUAL))) == wire(
        f"QN=20260803141502371;ST=91;CN=9014;PW=424242;MN={MN};Flag=4;CP=&&&&"
    )


@pytest.mark.parametrize(
    "segment",
    [
        USUAL.replace("Flag=5", "Flag=4", 1),
        USUAL.replace("Flag=5;", "", 1),
        with_cp("", "9014"),
        with_cp("QnRtn=1", "9011"),
        with_cp("ExeRtn=1", "9012"),
        with_cp("", "9013"),
        HEAD.replace("CN=2011;", "") + "&&",
    ],
)
def test_what_is_not_answered(segment: str) -> None:
    assert answer_to(one_frame(wire(segment))) is None


def test_a_device_with_another_checksum_is_answered_in_kind() -> None:
    data = wire(USUAL, crc=f"{plain_modbus(USUAL.encode()):04X}")
    answer = answer_to(one_frame(data, Tolerance.CRC_MODBUS))
    assert answer is not None
    assert one_frame(answer, Tolerance.CRC_MODBUS).checksum is Checksum.MODBUS


def test_what_a_hostile_header_says_breaks_no_answer() -> None:
    segment = USUAL.replace("MN=SITE", "MN=S&I#T=E\r\n").replace("PW=424242", "PW=é，1")
    (frame,) = fed([wire(segment)])
    assert isinstance(frame, Frame)
    answer = answer_to(frame)
    assert answer is not None
    assert one_frame(answer).mn == MN


def test_setting_the_clock() -> None:
    sent = command(Command.SET_CLOCK, mn=MN, pw="424242", at=AT, groups=commands.clock_set_to(AT))
    frame = one_frame(sent)
    assert (frame.cn, frame.qn, frame.answer_wanted) == ("1012", format_qn(AT), True)
    assert commands.clock_of(frame) == microseconds(AT.replace(microsecond=0))
    ready = one_frame(commands.request_answer(frame))
    assert commands.reply_to(frame.qn, "1012", ready) is Reply.REQUEST
    assert commands.request_result(ready) is QnRtn.READY
    done = one_frame(commands.execution_answer(frame, ExeRtn.BUSY))
    assert commands.reply_to(frame.qn, "1012", done) is Reply.RESULT
    assert commands.execution_result(done) is ExeRtn.BUSY
    assert commands.reply_to("20260803141502999", "1012", done) is None


def test_asking_for_data_of_the_past() -> None:
    groups = commands.period(Command.MINUTE_DATA, AT - timedelta(hours=2), AT)
    sent = command(Command.MINUTE_DATA, mn=MN, pw="424242", at=AT, groups=groups)
    frame = one_frame(sent)
    assert frame.cp_groups == [{"BeginTime": "20260803121502"}, {"EndTime": "20260803141502"}]
    data = one_frame(wire(with_cp("DataTime=20260803130000;LA-Avg=61", "2051")))
    assert commands.reply_to("20260803150000000", "2051", data) is Reply.CONTENT
    assert Hj212Decoder()(sent).readings == []
    with pytest.raises(ValueError, match="2011"):
        commands.period(Command.REAL_TIME_DATA, AT, AT)
    with pytest.raises(ValueError, match="before"):
        commands.period(Command.HOUR_DATA, AT, AT - timedelta(hours=1))


def test_intervals_and_password() -> None:
    assert commands.real_time_interval(60) == ({"RtdInterval": "60"},)
    assert commands.minute_interval(5) == ({"MinInterval": "5"},)
    assert commands.new_password("271828") == ({"NewPW": "271828"},)
    for wrong in (29, 3_601):
        with pytest.raises(ValueError, match="interval"):
            commands.real_time_interval(wrong)
    with pytest.raises(ValueError, match="interval"):
        commands.minute_interval(7)
    with pytest.raises(ValueError, match="six"):
        commands.new_password("12345")
    assert commands.interval_of(one_frame(wire(with_cp("RtdInterval=30", "1061")))) == 30
    assert commands.interval_of(one_frame(wire(with_cp("MinInterval=10", "1063")))) == 10


def test_replies_that_say_what_nobody_knows() -> None:
    assert commands.request_result(one_frame(wire(with_cp("QnRtn=77")))) is QnRtn.UNKNOWN
    assert commands.execution_result(one_frame(wire(with_cp("ExeRtn=77")))) is ExeRtn.FAILED
    restart = one_frame(wire(with_cp("DataTime=20260803141500;RestartTime=20260803141502")))
    assert commands.restarted_at(restart) == microseconds(AT.replace(microsecond=0))
    for segment, reason in (
        (with_cp("", "9011"), Reason.INCOMPLETE),
        (with_cp("QnRtn=１", "9011"), Reason.TYPE),
        (with_cp("QnRtn=", "9011"), Reason.TYPE),
    ):
        with pytest.raises(Rejected) as caught:
            commands.request_result(one_frame(wire(segment)))
        assert caught.value.reason is reason


def test_long_data_are_written_in_parts_and_read_as_one() -> None:
    codes = ["a34001", "a34002", "a34004", "a01001", "a01002", "a01006", "LA", "Leq"]
    groups = [
        {f"{code}-{suffix}": f"{40 + place}.5" for suffix in ("Min", "Avg", "Max", "Cou")}
        for place, code in enumerate(codes)
    ]
    moments = [AT + timedelta(milliseconds=number) for number in range(9)]
    packets = write_data(
        moments,
        cn="2051",
        mn=MN,
        pw="424242",
        data_time=format_time(AT.replace(second=0)),
        groups=groups,
        most_bytes=200,
    )
    assert len(packets) == 4
    frames = [one_frame(packet) for packet in packets]
    assert [frame.part for frame in frames] == [(number, 4) for number in range(1, 5)]
    assert len({frame.qn for frame in frames}) == 4
    assert all(len(frame.segment.content) <= 200 for frame in frames)
    contents = Hj212Decoder().read(b"".join(packets))
    assert len(contents.readings) == 1
    assert values_of(contents)["leq_db"] == 47.5
    (whole,) = write_data(
        moments, cn="2051", mn=MN, pw="424242", data_time="20260803141500", groups=groups[:2]
    )
    assert one_frame(whole).part is None
    with pytest.raises(ValueError, match="moments"):
        write_data([], cn="2051", mn=MN, pw="", data_time="20260803141500", groups=groups)
    with pytest.raises(ValueError, match="does not fit"):
        write_data(moments, cn="2051", mn=MN, pw="", data_time="2", groups=groups, most_bytes=60)


@pytest.mark.parametrize("text", ["a;b", "a,b", "a&b", "a=b", "a\r\n", "a#b", "µ", "a\0"])
def test_what_would_break_a_frame_is_not_written(text: str) -> None:
    with pytest.raises(ValueError, match="cannot stand"):
        write_groups([{text: "1"}])
    if text != "a=b":
        with pytest.raises(ValueError, match="cannot stand"):
            write_groups([{"x": text}])
    with pytest.raises(ValueError, match="at most"):
        write_frame({"QN": "1"}, [{"x": "1" * 10_000}])
