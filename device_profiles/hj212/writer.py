"""Writing HJ 212: data segments, frames, and data in as many packets as it takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from device_profiles.errors import shown
from device_profiles.hj212.crc import Checksum, checksum
from device_profiles.hj212.frames import VERSION_2017
from device_profiles.hj212.segment import STANDARD_CP_BYTES
from device_profiles.hj212.times import format_qn

ANSWER = 1
SPLIT = 2

SYSTEM = "91"
"""ST of what platform and device say about the talk itself."""

CONSTRUCTION_DUST = "39"
"""ST of construction-site dust monitors."""

Group = Mapping[str, str]

# Printable ASCII without what separates: & , ; = and #.
_NAME = re.compile(r"[!\"$%'-+\--:<>-~]+")
_VALUE = re.compile(r"[ !\"$%'-+\--:<>-~]*")
_MAX_LENGTH = 9_999


def flag_of(version: int, *, answer: bool = False, split: bool = False) -> int:
    """Make the number of Flag.

    Args:
        version: 0 is 2005, 1 is 2017, 2 is 2025.
        answer: Whether an answer is wanted.
        split: Whether PNUM and PNO follow.

    Returns:
        Flag.
    """
    return version << 2 | (SPLIT if split else 0) | (ANSWER if answer else 0)


def write_groups(groups: Iterable[Group]) -> str:
    """Write the inside of a CP.

    Args:
        groups: Items of one group are separated by commas, groups by semicolons.

    Returns:
        The text between ``&&`` and ``&&``.

    Raises:
        ValueError: A name or a value that would break the frame.
    """
    return ";".join(",".join(_items(group)) for group in groups)


def _items(items: Group) -> list[str]:
    return [f"{_checked(name, _NAME)}={_checked(text, _VALUE)}" for name, text in items.items()]


def _checked(text: str, allowed: re.Pattern[str]) -> str:
    if not allowed.fullmatch(text):
        raise ValueError(f"{shown(text)} cannot stand in a frame")
    return text


def write_frame(
    header: Mapping[str, str],
    groups: Iterable[Group] = (),
    *,
    kind: Checksum = Checksum.HJ212,
) -> bytes:
    """Write a frame.

    Args:
        header: Its items in their order.
        groups: What CP says.
        kind: The checksum; another than the standard's only to a device that knows no better.

    Returns:
        From ``##`` to CR LF.

    Raises:
        ValueError: A name or a value that would break the frame, or more than four digits of
            length can say.
    """
    head = "".join(f"{item};" for item in _items(header))
    data = f"{head}CP=&&{write_groups(groups)}&&".encode("ascii")
    if len(data) > _MAX_LENGTH:
        raise ValueError(f"a data segment of {len(data)} bytes, at most {_MAX_LENGTH}")
    return b"##%04d%b%04X\r\n" % (len(data), data, checksum(data, kind))


def header_of(
    *, qn: str, st: str, cn: str, pw: str, mn: str, flag: int, part: tuple[int, int] | None = None
) -> dict[str, str]:
    """Put a header together in the standard's order.

    Args:
        qn: Request number; empty leaves it out.
        st: System type.
        cn: Command number.
        pw: Password.
        mn: The device's number.
        flag: See `flag_of`.
        part: PNO and PNUM of a part.

    Returns:
        The header.
    """
    header = {"QN": qn} if qn else {}
    header |= {"ST": st, "CN": cn, "PW": pw, "MN": mn, "Flag": str(flag)}
    if part is not None:
        header |= {"PNUM": str(part[1]), "PNO": str(part[0])}
    return header


def write_data(
    moments: Sequence[datetime],
    *,
    cn: str,
    mn: str,
    pw: str,
    data_time: str,
    groups: Sequence[Group],
    st: str = CONSTRUCTION_DUST,
    version: int = VERSION_2017,
    answer: bool = True,
    most_bytes: int = STANDARD_CP_BYTES,
) -> list[bytes]:
    """Write data as a device does, in several packets where CP is too long for one.

    Args:
        moments: When each packet is sent, for its QN: as many as there are packets, or more.
        cn: 2011, 2051, 2061 or 2031.
        mn: The device's number.
        pw: Its password.
        data_time: See `times.format_time`; every packet says it.
        groups: One for each factor.
        st: System type.
        version: Of the standard.
        answer: Whether an answer is wanted.
        most_bytes: Longest CP.

    Returns:
        The frames.

    Raises:
        ValueError: A group longer than a CP, too few moments, or what cannot stand in a frame.
    """
    first = {"DataTime": data_time}
    room = most_bytes - len(write_groups([first]))
    packets: list[list[Group]] = [[first]]
    left = room
    for group in groups:
        needed = len(write_groups([group])) + 1
        if needed > room:
            raise ValueError(f"a group of {needed - 1} bytes does not fit a CP of {most_bytes}")
        if needed > left:
            packets.append([first])
            left = room
        packets[-1].append(group)
        left -= needed
    count = len(packets)
    if len(moments) < count:
        raise ValueError(f"{count} packets, but moments for {len(moments)}")
    flag = flag_of(version, answer=answer, split=count > 1)
    return [
        write_frame(
            header_of(
                qn=format_qn(moments[place]),
                st=st,
                cn=cn,
                pw=pw,
                mn=mn,
                flag=flag,
                part=(place + 1, count) if count > 1 else None,
            ),
            packet,
        )
        for place, packet in enumerate(packets)
    ]
