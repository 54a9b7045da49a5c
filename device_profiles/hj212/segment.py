"""The data segment: ``QN=…;ST=…;CN=…;PW=…;MN=…;Flag=…;[PNUM=…;PNO=…;]CP=&&…&&``.

Two views of the same text. What was *sent* is parsed by the standard's own separators and kept
letter by letter, for people and records. What is *meant* is read after full-width separators
were made plain and names of the header were put into the standard's spelling. Where the two
differ, a note says so.
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

HEADER_NAMES = ("QN", "ST", "CN", "PW", "MN", "Flag", "PNUM", "PNO", "RF")
"""Names of the header; RF is said to mark back-filled data in HJ 212-2025."""

STANDARD_SEGMENT_BYTES = 1_024
"""Longest data segment of the standard; real ones exceed it by a little."""

STANDARD_CP_BYTES = 950
"""Longest CP of the standard; more goes into several packets."""


class Note(StrEnum):
    """Where a frame departs from the standard and is understood all the same."""

    GARBAGE_BEFORE = "garbage_before"
    GARBAGE_AFTER = "garbage_after"
    LOWER_CASE_CRC = "lower_case_crc"
    LONG_SEGMENT = "long_segment"
    GBK_TEXT = "gbk_text"
    FULL_WIDTH_SEPARATOR = "full_width_separator"
    STRAY_SEPARATOR = "stray_separator"
    ITEM_WITHOUT_VALUE = "item_without_value"
    REPEATED_ITEM = "repeated_item"
    NAME_CASE = "name_case"
    NO_QN = "no_qn"
    NO_CN = "no_cn"
    NO_MN = "no_mn"
    SHORT_MN = "short_mn"
    NO_PW = "no_pw"
    NO_FLAG = "no_flag"
    NO_CP = "no_cp"
    BAD_FLAG = "bad_flag"
    QN_NOT_A_TIME = "qn_not_a_time"
    QN_IN_CP = "qn_in_cp"
    FLAG_IN_CP = "flag_in_cp"
    SPLIT_WITHOUT_NUMBER = "split_without_number"
    PART_OF_SPLIT = "part_of_split"
    BACK_FILLED = "back_filled"
    UNKNOWN_VERSION = "unknown_version"
    MILLISECONDS_IN_DATA_TIME = "milliseconds_in_data_time"
    NOT_AT_START_OF_PERIOD = "not_at_start_of_period"
    OTHER_STATISTIC = "other_statistic"
    VENDOR_CODE = "vendor_code"
    DATA_FLAG_CASE = "data_flag_case"
    MARKED_NOT_NORMAL = "marked_not_normal"
    NO_READING = "no_reading"
    HEARTBEAT = "heartbeat"


class Segment(msgspec.Struct, frozen=True, gc=False):
    """A parsed data segment.

    Attributes:
        header: Header items as they were sent.
        fields: The same with the standard's spelling of names and plain separators.
        cp: Text between ``CP=&&`` and ``&&`` as it was sent; None where there is no such.
        content: The same with plain separators; empty where there is none.
        notes: How it departs from the standard.
    """

    header: dict[str, str]
    fields: dict[str, str]
    cp: str | None
    content: str
    notes: tuple[Note, ...]

    def groups(self) -> list[dict[str, str]]:
        """Parse CP as it was sent, by the standard's separators.

        Returns:
            One mapping for each group between semicolons; of a name said twice in a group the
            last value.
        """
        return [] if self.cp is None else parse_groups(self.cp)


_SPELLING = {name.upper(): name for name in HEADER_NAMES}
_ALL_NAMES = frozenset(HEADER_NAMES)
_USUAL = ["QN", "ST", "CN", "PW", "MN", "Flag"]
_SEPARATORS = str.maketrans({"，": ",", "；": ";", "＝": "="})
_OPENING = re.compile(r"CP=&&", re.IGNORECASE)
_HEADER_SEPARATOR = re.compile(r"[;,]")
_MN_CHARS = 24


def parse_groups(cp: str) -> list[dict[str, str]]:
    """Parse the text of a CP by the standard's separators.

    Args:
        cp: What stands between ``&&`` and ``&&``.

    Returns:
        One mapping for each group that says something.
    """
    groups = []
    for part in cp.split(";"):
        group = {}
        for item in part.split(","):
            name, equals, value = item.partition("=")
            if equals:
                group[name.strip()] = value.strip()
        if group:
            groups.append(group)
    return groups


def parse_segment(text: str) -> Segment:
    """Parse a data segment; anything can be parsed, if only into notes.

    Args:
        text: From ``QN=`` to the closing ``&&``.

    Returns:
        What it says.
    """
    head, opened, rest = text.partition("CP=&&")
    if opened and text.isascii() and "," not in head and " " not in head:
        # The common case: each item of the header says something, in the standard's spelling.
        header = dict([item.split("=", 1) for item in head.split(";") if "=" in item])
        if list(header) == _USUAL and head.count(";") == len(_USUAL) and "" not in header.values():
            notes: tuple[Note, ...] = ()
            if len(header["MN"]) < _MN_CHARS:
                notes = (Note.SHORT_MN,)
            cp = rest[:-2]
            return Segment(header, header, cp, cp, notes)
    return _parse_slowly(text)


def _parse_slowly(text: str) -> Segment:
    notes: dict[Note, None] = {}
    plain = text.translate(_SEPARATORS)
    if plain != text:
        notes[Note.FULL_WIDTH_SEPARATOR] = None
    sent_head, cp = _divide(text)
    head, content = _divide(plain)
    if content is None:
        head = head.removesuffix("&&")
    header = _header(sent_head, {})
    fields: dict[str, str] = {}
    for name, value in _header(head, notes).items():
        spelled = _SPELLING.get(name.upper(), name)
        if spelled != name:
            notes[Note.NAME_CASE] = None
        fields.setdefault(spelled, value)
    for name, note in _WHEN_MISSING.items():
        if not fields.get(name):
            notes[note] = None
    if 0 < len(fields.get("MN", "")) < _MN_CHARS:
        notes[Note.SHORT_MN] = None
    if content is None:
        notes[Note.NO_CP] = None
    return Segment(header, fields, cp, content or "", tuple(notes))


_WHEN_MISSING = {
    "QN": Note.NO_QN,
    "CN": Note.NO_CN,
    "PW": Note.NO_PW,
    "MN": Note.NO_MN,
    "Flag": Note.NO_FLAG,
}


def _divide(text: str) -> tuple[str, str | None]:
    """Header and CP of a segment."""
    opening = _OPENING.search(text)
    if opening is None:
        return text, None
    rest = text[opening.end() :]
    return text[: opening.start()], rest.removesuffix("&&")


def _header(head: str, notes: dict[Note, None]) -> dict[str, str]:
    header: dict[str, str] = {}
    items = _HEADER_SEPARATOR.split(head)
    for place, item in enumerate(items):
        name, equals, value = item.strip().partition("=")
        if equals:
            if name in header:
                notes[Note.REPEATED_ITEM] = None
            header[name.strip()] = value.strip()
        elif name:
            notes[Note.ITEM_WITHOUT_VALUE] = None
        elif place < len(items) - 1:
            notes[Note.STRAY_SEPARATOR] = None
    return header
