"""Frames and faults: each deviation, its verdict, its note, its offset."""

from __future__ import annotations

import pytest

from device_profiles.errors import Reason
from device_profiles.hj212.crc import Checksum
from device_profiles.hj212.frames import Fault, Frame, Tolerance
from device_profiles.hj212.reader import Reader, read_frames
from device_profiles.hj212.segment import Note
from tests.unit.hj212.hj212_wire import (
    HEAD,
    MINUTE,
    USUAL,
    VALUES,
    cut,
    fed,
    one_fault,
    one_frame,
    plain_crc,
    plain_modbus,
    swapped,
    wire,
    with_cp,
)

DATA = USUAL.encode()


def test_a_frame_as_the_standard_wants_it() -> None:
    frame = one_frame(wire(USUAL))
    assert frame.segment.header == {
        "QN": "20260803141502371",
        "ST": "39",
        "CN": "2011",
        "PW": "424242",
        "MN": "SITE00417000000000000931",
        "Flag": "5",
    }
    assert frame.cp_groups == [
        {"DataTime": "20260803141500"},
        {"a34002-Rtd": "57.3", "a34002-Flag": "N"},
        {"LA-Rtd": "63.8", "LA-Flag": "N"},
    ]
    assert (frame.notes, frame.tolerated) == ((), ())
    assert (frame.version, frame.answer_wanted, frame.part) == (1, True, None)
    assert (frame.st, frame.pw) == ("39", "424242")
    assert frame.raw == wire(USUAL, end="")


@pytest.mark.parametrize(
    ("data", "notes"),
    [
        (wire(USUAL, end=""), ()),
        (wire(USUAL, end="\n"), ()),
        (wire(with_cp("QnRtn=1"), crc=f"{plain_crc(with_cp('QnRtn=1').encode()):04x}"), None),
        (b"\x00\xffnoise##more" + wire(USUAL), (Note.GARBAGE_BEFORE,)),
        (b"\r\n\r\n" + wire(USUAL), ()),
        (b"#" + wire(USUAL), (Note.GARBAGE_BEFORE,)),
        (wire(f"CP=&&{VALUES}&&"), None),
        (wire(USUAL.removeprefix("QN=20260803141502371;")), (Note.NO_QN,)),
        (wire(USUAL.replace("Flag=5;", "", 1)), (Note.NO_FLAG,)),
        (wire(USUAL.replace("PW=424242;", "")), (Note.NO_PW,)),
        (wire(USUAL.replace("PW=424242", "PW=")), (Note.NO_PW,)),
        (wire(USUAL.replace("00417000000000000931", "17")), (Note.SHORT_MN,)),
        (wire(USUAL.replace("MN=SITE00417000000000000931", "MN=")), (Note.NO_MN,)),
        (wire(USUAL.replace("Flag=5", "FLAG=5", 1)), (Note.NAME_CASE,)),
        (wire(USUAL.replace("CP=&&", "cp=&&")), ()),
        (wire(USUAL.replace("PW=424242;", "PW=424242;,")), (Note.STRAY_SEPARATOR,)),
        (wire(USUAL.replace("ST=39;", "ST=39；")), (Note.FULL_WIDTH_SEPARATOR,)),
        (wire(USUAL.replace("63.8,", "63.8，")), (Note.FULL_WIDTH_SEPARATOR,)),
        (wire(USUAL.replace("Flag=5", "Flag=x", 1)), (Note.BAD_FLAG,)),
        (wire(USUAL.replace("Flag=5", "Flag=7", 1)), (Note.SPLIT_WITHOUT_NUMBER,)),
        (wire(USUAL.replace("Flag=5", "Flag=29", 1)), (Note.UNKNOWN_VERSION,)),
        (wire(USUAL.replace("502371", "5023710")), (Note.QN_NOT_A_TIME,)),
        (wire(USUAL.replace("Flag=5;", "Flag=9;RF=1;", 1)), (Note.BACK_FILLED,)),
        (wire(HEAD + "&&"), (Note.NO_CP,)),
        (wire(USUAL.replace("ST=39;", "ST=39;spare;")), (Note.ITEM_WITHOUT_VALUE,)),
        (wire(USUAL.replace("ST=39;", "ST=39;ST=22;")), (Note.REPEATED_ITEM,)),
        (wire(with_cp(f"{VALUES};x={'1' * 1_000}")), (Note.LONG_SEGMENT,)),
        (wire(USUAL.replace("63.8,", "63.8，").encode("gb18030")), None),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else "",
)
def test_what_the_field_sends_is_taken_with_a_note(
    data: bytes, notes: tuple[Note, ...] | None
) -> None:
    frame = one_frame(data)
    assert frame.tolerated == ()
    if notes is not None:
        assert frame.notes == notes
    assert [event for event in read_frames(data) if isinstance(event, Fault)] == []


def test_a_checksum_in_small_letters() -> None:
    data = next(
        text.encode()
        for number in range(99)
        if f"{plain_crc((text := with_cp(f'QnRtn={number}')).encode()):04X}".isupper()
    )
    frame = one_frame(wire(data, crc=f"{plain_crc(data):04x}"))
    assert frame.notes == (Note.LOWER_CASE_CRC,)
    assert one_frame(wire(data)).notes == ()


def test_a_gbk_comma_is_a_full_width_comma() -> None:
    frame = one_frame(wire(USUAL.replace("63.8,", "63.8，").encode("gb18030")))
    assert frame.notes == (Note.GBK_TEXT, Note.FULL_WIDTH_SEPARATOR)


def test_what_was_sent_is_shown_as_it_was_sent() -> None:
    frame = one_frame(wire(USUAL.replace("63.8,", "63.8，").replace("Flag=5", "FLAG=5", 1)))
    assert frame.segment.header["FLAG"] == "5"
    assert frame.segment.fields["Flag"] == "5"
    assert frame.answer_wanted
    assert frame.cp_groups[2] == {"LA-Rtd": "63.8，LA-Flag=N"}


def test_something_behind_the_last_frame_is_noted() -> None:
    for data in (wire(USUAL) + b"noise", wire(USUAL, end="") + b"zz\r\n"):
        (event,) = read_frames(data)
        assert isinstance(event, Frame)
        assert event.notes == (Note.GARBAGE_AFTER,)


@pytest.mark.parametrize(
    ("kind", "crc", "tolerance"),
    [
        (Checksum.MODBUS, plain_modbus(DATA), Tolerance.CRC_MODBUS),
        (Checksum.SWAPPED, swapped(plain_crc(DATA)), Tolerance.CRC_SWAPPED),
        (Checksum.MODBUS_SWAPPED, swapped(plain_modbus(DATA)), Tolerance.CRC_MODBUS_SWAPPED),
    ],
)
def test_another_checksum_needs_its_name(kind: Checksum, crc: int, tolerance: Tolerance) -> None:
    data = wire(USUAL, crc=f"{crc:04X}")
    fault = one_fault(data, *(other for other in Tolerance if other is not tolerance))
    assert fault.reason is Reason.CRC
    assert f"{plain_crc(DATA):04X}" in fault.detail
    assert tolerance in fault.detail
    assert fault.offset == data.rindex(b"&&") + 2
    frame = one_frame(data, tolerance)
    assert (frame.checksum, frame.tolerated) == (kind, (tolerance,))


@pytest.mark.parametrize("modbus", [False, True])
def test_a_checksum_of_two_equal_bytes_may_be_either_way_round(modbus: bool) -> None:
    plain = plain_modbus if modbus else plain_crc
    turned = 0
    for number in range(2_000):
        text = USUAL.replace("63.8,", f"{number / 10},")
        crc = plain(text.encode())
        frame = one_frame(wire(text, crc=f"{crc:04X}"), Tolerance.CRC_MODBUS)
        if crc >> 8 == crc & 0xFF:
            turned += 1
            assert frame.turned is (Checksum.MODBUS_SWAPPED if modbus else Checksum.SWAPPED)
        else:
            assert frame.turned is None
    assert turned


@pytest.mark.parametrize("length", ["0100", "9999", "0000", "145", "00145", "", " 145"])
def test_a_wrong_length_needs_its_name(length: str) -> None:
    assert len(DATA) != 100
    data = wire(USUAL, length=length)
    fault = one_fault(data)
    assert (fault.reason, fault.offset) == (Reason.LENGTH, 2)
    frame = one_frame(data, Tolerance.LENGTH)
    assert frame.tolerated == (Tolerance.LENGTH,)
    assert frame.segment == one_frame(wire(USUAL)).segment


def test_a_checksum_that_fits_nothing_is_refused_whatever_is_tolerated() -> None:
    for length in (None, "0100", "99"):
        fault = one_fault(wire(USUAL, crc="0F1E", length=length), *Tolerance)
        assert fault.reason is Reason.CRC
        shown = fault.segment()
        assert shown is not None
        assert shown.header["MN"] == "SITE00417000000000000931"


def test_one_changed_byte_is_a_wrong_checksum() -> None:
    data = wire(USUAL.replace("57.3", "57.4"), crc=f"{plain_crc(DATA):04X}")
    assert one_fault(data).reason is Reason.CRC


@pytest.mark.parametrize("crc", ["12G4", "  1B", "----"])
def test_a_checksum_that_is_no_number(crc: str) -> None:
    fault = one_fault(wire(USUAL, crc=crc))
    assert fault.reason is Reason.CRC
    assert "hexadecimal" in fault.detail


@pytest.mark.parametrize(
    "data",
    [
        wire(USUAL)[:60],
        wire(USUAL)[:-4],
        wire(USUAL, end="")[:-4],
        wire(USUAL, end="")[:-7],
        wire(USUAL[:-2]),
        wire(HEAD + "CP=&&", crc="1234"),
        b"##0151",
        b"##",
        b"#",
        b"",
        wire(USUAL)[60:],
        b"no frame at all",
        b'{"pm10": 12}',
        b"\x00\x01\x02" * 40,
    ],
)
def test_what_lacks_its_beginning_or_its_end_is_incomplete(data: bytes) -> None:
    (event,) = read_frames(data)
    assert isinstance(event, Fault)
    assert event.reason is Reason.INCOMPLETE
    assert event.rejection().reason is Reason.INCOMPLETE


def test_a_frame_cut_off_by_the_next_one_loses_nothing_of_it() -> None:
    broken = wire(USUAL)[:70]
    first, second = fed([broken + wire(MINUTE)])
    assert isinstance(first, Fault)
    assert (first.reason, first.raw, first.offset) == (Reason.INCOMPLETE, broken, 70)
    assert isinstance(second, Frame)
    assert second.offset == 70


def test_frames_one_after_the_other() -> None:
    for end in ("\r\n", "\n", "\r", "", " \r\n", "\0"):
        data = wire(USUAL, end=end) + wire(MINUTE, end=end) + wire(USUAL, end=end)
        events = fed([data])
        assert [type(event) for event in events] == [Frame] * 3
        assert all(event.notes == () for event in events if isinstance(event, Frame))


def test_a_fault_does_not_reach_the_next_frame() -> None:
    for bad in (
        wire(USUAL, crc="0F1E"),
        wire(USUAL, crc="XXXX"),
        wire(USUAL, length="0400"),
        wire(USUAL, length="99"),
    ):
        first, second = fed([bad + wire(MINUTE)])
        assert isinstance(first, Fault)
        assert isinstance(second, Frame)


def test_more_than_four_digits_can_say_is_too_large() -> None:
    longest = with_cp("x=" + "1" * (9_999 - len(with_cp("x="))))
    assert one_frame(wire(longest)).notes == (Note.LONG_SEGMENT,)
    longer = wire(longest.replace("x=1", "x=11"), length="9999")
    (fault,) = read_frames(longer)
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.offset) == (Reason.TOO_LARGE, 6)
    endless = b"##0151QN=" + b"1" * 500_000
    first, last = fed([endless + wire(USUAL)])
    assert isinstance(first, Fault)
    assert first.reason is Reason.TOO_LARGE
    assert isinstance(last, Frame)


def test_a_lower_limit() -> None:
    (event,) = read_frames(wire(MINUTE), max_segment_bytes=100)
    assert isinstance(event, Fault)
    assert event.reason is Reason.TOO_LARGE


def test_nul_and_bytes_of_no_encoding() -> None:
    data = with_cp("x=\0")
    fault = one_fault(wire(data))
    assert (fault.reason, fault.offset) == (Reason.ENCODING, 6 + data.index("\0"))
    fault = one_fault(wire(with_cp("x=?").encode().replace(b"?", b"\xff")))
    assert (fault.reason, fault.offset) == (Reason.ENCODING, 6 + data.index("\0"))


CIPHER = bytes.fromhex(
    "9f1be07a44c3d8025ab7713e8dfc06b162e49a0fd5873cb90a6ef4812dc75e13"
    "b80d97e1fa4c2365d2389b7f01ce5a84"
)


@pytest.mark.parametrize("flag", ["8", "9", "11", "13"])
def test_an_encrypted_payload_of_2025_is_refused_by_name(flag: str) -> None:
    head = HEAD.replace("Flag=5", f"Flag={flag}").encode()
    plain = head + b"CP=&&" + VALUES[: len(CIPHER) + 5].encode() + b"&&"
    sealed = head + b"CP=&&" + CIPHER + VALUES[len(CIPHER) : len(CIPHER) + 5].encode() + b"&&"
    for data in (
        wire(sealed, crc=f"{plain_crc(plain):04X}"),
        wire(sealed),
        wire(head + b"CP=&&" + CIPHER.hex().encode() + b"&&"),
    ):
        fault = one_fault(data)
        assert fault.reason is Reason.ENCODING
        assert "encrypted" in fault.detail
        assert fault.offset == data.index(b"CP=&&") + 5


def test_plain_frames_of_2025_are_read_and_damaged_ones_are_not_called_encrypted() -> None:
    text = USUAL.replace("Flag=5", "Flag=9", 1)
    assert one_frame(wire(text)).version == 2
    damaged = wire(text.replace("57.3", "5\x1e.3"), crc=f"{plain_crc(text.encode()):04X}")
    assert one_fault(damaged).reason is Reason.CRC
    older = HEAD.encode() + b"CP=&&" + CIPHER + b"&&"
    assert one_fault(wire(older, crc="0F1E")).reason is Reason.CRC


@pytest.mark.parametrize(
    "data",
    [
        wire(USUAL),
        wire(USUAL, end=""),
        wire(USUAL) + wire(MINUTE),
        b"noise##" + wire(USUAL) + b"more##noise##" + wire(MINUTE) + b"##",
        wire(USUAL)[:70] + wire(MINUTE) + wire(USUAL, crc="0F1E") + wire(USUAL, length="0300"),
        wire(USUAL, length="99") + wire(USUAL, crc="12X4") + wire(HEAD + "CP=&&&&") + b"##00",
        wire(USUAL[:-2]) + wire(USUAL, end="") + wire(HEAD + "&&", end=" \r\n"),
    ],
)
def test_however_the_bytes_are_cut(data: bytes) -> None:
    whole = fed([data])
    assert fed([data[at : at + 1] for at in range(len(data))]) == whole
    for at in range(len(data)):
        assert fed([data[:at], data[at:]]) == whole
    assert fed(cut(data, [7] * (len(data) // 7))) == whole


def test_a_frame_is_told_as_soon_as_it_is_whole() -> None:
    reader = Reader()
    data = wire(USUAL, end="")
    assert reader.feed(data[:-1]) == []
    assert len(reader.feed(data[-1:])) == 1
    assert reader.feed(b"\r\n") == []
    assert (reader.held_bytes, reader.skipped_bytes) == (0, 0)


def test_garbage_is_dropped_and_counted() -> None:
    reader = Reader()
    for _ in range(50):
        assert reader.feed(b"noise " * 1_000) == []
        assert reader.held_bytes < 10
    assert reader.skipped_bytes == 50 * 5_000
    (frame,) = reader.feed(wire(USUAL))
    assert isinstance(frame, Frame)
    assert frame.notes == (Note.GARBAGE_BEFORE,)
    assert frame.offset == 50 * 6_000
    assert reader.skipped_since_event == 0
