"""A frame of HJ 212 whose beginning and end are known: what it says, or what is wrong with it.

The checksum is judged first, then the length: a frame damaged on its way is `crc`, one whose
sender cannot count is `length`. Only a `Tolerance` given by name makes another checksum or a
wrong length acceptable, and the frame tells which was used.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from device_profiles.errors import Reason, Rejected
from device_profiles.hj212.crc import Checksum, crc, identify
from device_profiles.hj212.segment import (
    STANDARD_SEGMENT_BYTES,
    Note,
    Segment,
    parse_segment,
)
from device_profiles.hj212.times import parse_time


class Tolerance(StrEnum):
    """What a profile may take by name; each use is told by the frame."""

    CRC_MODBUS = "crc_modbus"
    CRC_SWAPPED = "crc_swapped"
    CRC_MODBUS_SWAPPED = "crc_modbus_swapped"
    LENGTH = "length"


_TOLERANCE_OF = {
    Checksum.MODBUS: Tolerance.CRC_MODBUS,
    Checksum.SWAPPED: Tolerance.CRC_SWAPPED,
    Checksum.MODBUS_SWAPPED: Tolerance.CRC_MODBUS_SWAPPED,
}
_TURNED = {
    Checksum.HJ212: Checksum.SWAPPED,
    Checksum.MODBUS: Checksum.MODBUS_SWAPPED,
}
_ANSWER_WANTED = 1
_SPLIT = 2
_VERSION_SHIFT = 2
VERSION_2005, VERSION_2017, VERSION_2025 = range(3)


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame that was taken.

    Attributes:
        raw: Its bytes from ``##`` to the checksum.
        offset: Where ``##`` stood, in bytes from the beginning of the input.
        segment: What it says.
        checksum: Which checksum it carries; answers to this device should carry the same.
        notes: How frame and segment depart from the standard.
        tolerated: The tolerances without which it would have been refused.
        flag: The number in the header's Flag, 0 where there is none or no number.
    """

    raw: bytes
    offset: int
    segment: Segment
    checksum: Checksum
    notes: tuple[Note, ...]
    tolerated: tuple[Tolerance, ...]
    flag: int

    @property
    def qn(self) -> str:
        """The request number, a time with milliseconds; empty where it is missing."""
        return self.segment.fields.get("QN", "")

    @property
    def st(self) -> str:
        """The system type; 39 is construction-site dust."""
        return self.segment.fields.get("ST", "")

    @property
    def cn(self) -> str:
        """The command number: what this frame is."""
        return self.segment.fields.get("CN", "")

    @property
    def pw(self) -> str:
        """The password."""
        return self.segment.fields.get("PW", "")

    @property
    def mn(self) -> str:
        """The device's own number; empty where it is missing."""
        return self.segment.fields.get("MN", "")

    @property
    def answer_wanted(self) -> bool:
        """Bit 0 of Flag."""
        return bool(self.flag & _ANSWER_WANTED)

    @property
    def turned(self) -> Checksum | None:
        """What its checksum may be as well: one with two equal bytes is the same turned round."""
        one, other = self.raw[-CRC_BYTES:-2], self.raw[-2:]
        return _TURNED.get(self.checksum) if one.upper() == other.upper() else None

    @property
    def version(self) -> int:
        """Bits 2 to 7 of Flag: 0 is 2005, 1 is 2017, 2 is 2025."""
        return self.flag >> _VERSION_SHIFT

    @property
    def part(self) -> tuple[int, int] | None:
        """(PNO, PNUM), counted from 1, where this is a part of a split packet."""
        return part_of(self.segment.fields)

    @property
    def cp_groups(self) -> list[dict[str, str]]:
        """The groups of CP as they were sent."""
        return self.segment.groups()


class Fault(msgspec.Struct, frozen=True, gc=False):
    """Something that began like a frame and was not taken.

    Attributes:
        raw: Its bytes, for the quarantine.
        offset: Where the fault lies, in bytes from the beginning of the input.
        reason: The class of fault.
        detail: One line naming the offending value and the rule it broke.
    """

    raw: bytes
    offset: int
    reason: Reason
    detail: str

    def rejection(self) -> Rejected:
        """The same as an error to raise."""
        return Rejected(self.reason, self.detail, self.offset)

    def segment(self) -> Segment | None:
        """What it seems to say, for people; None where it has no beginning or no end."""
        match = LENGTH.match(self.raw)
        end = self.raw.rfind(b"&&")
        if match is None or end < match.end():
            return None
        return parse_segment(self.raw[match.end() : end + 2].decode("utf-8", "replace"))


Event = Frame | Fault

LENGTH = re.compile(rb"## {0,3}(\d{0,8})")
CRC_BYTES = 4


def judge(
    raw: bytes,
    start: int,
    declared: int,
    tolerances: frozenset[Tolerance],
    *,
    offset: int = 0,
    after_garbage: bool = False,
) -> Event:
    """Judge a frame whose beginning and end are known.

    Args:
        raw: From ``##`` to the last of four hexadecimal digits.
        start: Where its data segment begins in `raw`.
        declared: The length it declares; -1 where it does not do so with four digits.
        tolerances: What is taken beyond standard field practice.
        offset: Where it stood in the input.
        after_garbage: Whether something was skipped before it.

    Returns:
        The frame, or what is wrong with it.
    """
    data = raw[start:-CRC_BYTES]
    digits = raw[-CRC_BYTES:]
    given = int(digits, 16)
    kind = Checksum.HJ212
    tolerated: tuple[Tolerance, ...] = ()
    computed = crc(data)
    if given != computed:
        found = identify(data, given)
        if found is None or _TOLERANCE_OF[found] not in tolerances:
            if is_encrypted(data):
                return _encrypted(raw, start, offset)
            detail = f"checksum {digits.decode()}, but {computed:04X} is right"
            if found is not None:
                detail += f"; it fits with tolerance {_TOLERANCE_OF[found]}"
            return Fault(raw, offset + start + len(data), Reason.CRC, detail)
        kind = found
        tolerated = (_TOLERANCE_OF[found],)
    if declared != len(data):
        if Tolerance.LENGTH not in tolerances:
            said = raw[2:start].decode()
            detail = f"length {said!r}, but the data segment has {len(data)} bytes"
            return Fault(raw, offset + 2, Reason.LENGTH, detail)
        tolerated += (Tolerance.LENGTH,)
    notes: list[Note] = []
    if after_garbage:
        notes.append(Note.GARBAGE_BEFORE)
    if not digits.isdigit() and digits.upper() != digits:
        notes.append(Note.LOWER_CASE_CRC)
    if len(data) > STANDARD_SEGMENT_BYTES:
        notes.append(Note.LONG_SEGMENT)
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        if is_encrypted(data):
            return _encrypted(raw, start, offset)
        try:
            text = data.decode("gb18030")
        except UnicodeDecodeError:
            at = offset + start + fault.start
            return Fault(raw, at, Reason.ENCODING, "the data segment is neither UTF-8 nor GB 18030")
        notes.append(Note.GBK_TEXT)
    if "\0" in text:
        at = offset + start + data.index(b"\0")
        return Fault(raw, at, Reason.ENCODING, "the data segment holds NUL")
    segment = parse_segment(text)
    if is_encrypted(data):
        return _encrypted(raw, start, offset)
    flag, more = _judge_fields(segment.fields)
    return Frame(raw, offset, segment, kind, (*notes, *segment.notes, *more), tolerated, flag)


def _judge_fields(fields: dict[str, str]) -> tuple[int, tuple[Note, ...]]:
    """The number in Flag, and what is to be noted of the header's values."""
    notes: tuple[Note, ...] = ()
    text = fields.get("Flag", "")
    flag = 0
    if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) < 256:
        flag = int(text)
    elif text:
        notes = (Note.BAD_FLAG,)
    if flag >> _VERSION_SHIFT > VERSION_2025:
        notes += (Note.UNKNOWN_VERSION,)
    if flag & _SPLIT and part_of(fields) is None:
        notes += (Note.SPLIT_WITHOUT_NUMBER,)
    if fields.get("RF") == "1":
        notes += (Note.BACK_FILLED,)
    qn = fields.get("QN")
    if qn:
        try:
            parse_time(qn)
        except Rejected:
            notes += (Note.QN_NOT_A_TIME,)
    return flag, notes


def part_of(fields: dict[str, str]) -> tuple[int, int] | None:
    """Read PNO and PNUM.

    Args:
        fields: Of a header.

    Returns:
        (PNO, PNUM), counted from 1; None where this is no part of several.
    """
    if "PNUM" not in fields:
        return None
    numbers = fields.get("PNO", ""), fields["PNUM"]
    if not all(text.isascii() and text.isdigit() and len(text) <= 4 for text in numbers):
        return None
    number, count = int(numbers[0]), int(numbers[1])
    return (number, count) if 1 <= number <= count and count > 1 else None


def is_encrypted(data: bytes) -> bool:
    """Whether a data segment looks like HJ 212-2025 with its CP encrypted.

    By what is quoted of that standard, SM4-ECB runs over CP without padding, so whole blocks of
    16 bytes are cipher text and a shorter rest stays plain, while checksum and length are those
    of the plain text: they cannot be checked without the key. Five of eight bytes of cipher
    text are not printable ASCII.

    Args:
        data: A data segment.

    Returns:
        True where Flag says version 2025 or later and the blocks of CP are no text, or where
        they are one long word, as cipher text in hexadecimal or base64 would be.
    """
    at = data.find(b"CP=&&")
    if at < 0:
        return False
    flag = _FLAG.search(data, 0, at)
    if flag is None or int(flag[1]) >> _VERSION_SHIFT < VERSION_2025:
        return False
    content = data[at + 5 : -2]
    blocks = content[: len(content) // _BLOCK * _BLOCK]
    if not blocks:
        return False
    unprintable = len(blocks.translate(None, _PRINTABLE))
    return unprintable * 4 > len(blocks) or not _ITEM.search(content)


_FLAG = re.compile(rb"[;,]Flag=(\d{1,3})(?!\d)", re.IGNORECASE)
_ITEM = re.compile(rb"=[^=]")
_BLOCK = 16
_PRINTABLE = bytes(range(0x20, 0x7F))


def _encrypted(raw: bytes, start: int, offset: int) -> Fault:
    at = raw.find(b"CP=&&", start)
    detail = "HJ 212-2025 with an encrypted CP (SM4), which is not read: switch encryption off"
    return Fault(raw, offset + at + 5, Reason.ENCODING, detail)
