"""What is said beside data: answers to a device, commands to it, and its replies.

A device's data with bit 0 of Flag is answered 9014, its notices and heartbeats 9013, all with
the QN they came with. A command is answered by the device first with 9011 (whether it will do
it), then, after data it may have sent, with 9012 (what became of it); a question such as 1011
is answered in between by a frame of the same command number. Without an answer within 10 s a
command is sent again, three times at most.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import IntEnum, StrEnum

from device_profiles.errors import Reason, Rejected, shown
from device_profiles.hj212.crc import Checksum
from device_profiles.hj212.frames import VERSION_2017, Frame
from device_profiles.hj212.segment import parse_groups
from device_profiles.hj212.times import format_qn, format_time, parse_time
from device_profiles.hj212.writer import (
    CONSTRUCTION_DUST,
    SYSTEM,
    Group,
    flag_of,
    header_of,
    write_frame,
)

TIMEOUT_S = 10.0
"""How long an answer is waited for."""

RESENDS = 3
"""How often a command is sent again."""


class Command(StrEnum):
    """Command numbers."""

    CLOCK = "1011"
    SET_CLOCK = "1012"
    ASK_FOR_CLOCK = "1013"
    REAL_TIME_INTERVAL = "1061"
    SET_REAL_TIME_INTERVAL = "1062"
    MINUTE_INTERVAL = "1063"
    SET_MINUTE_INTERVAL = "1064"
    SET_PASSWORD = "1072"  # noqa: S105 - a command number
    REAL_TIME_DATA = "2011"
    STOP_REAL_TIME_DATA = "2012"
    DAY_DATA = "2031"
    MINUTE_DATA = "2051"
    HOUR_DATA = "2061"
    RESTART_TIME = "2081"
    DEVICE_INFORMATION = "3020"
    REQUEST_ANSWER = "9011"
    EXECUTION_RESULT = "9012"
    NOTICE_ANSWER = "9013"
    DATA_ANSWER = "9014"
    HEARTBEAT = "9015"


class QnRtn(IntEnum):
    """Whether a device will do what it was asked, in 9011."""

    READY = 1
    REFUSED = 2
    BAD_PW = 3
    BAD_MN = 4
    BAD_ST = 5
    BAD_FLAG = 6
    BAD_QN = 7
    BAD_CN = 8
    BAD_CRC = 9
    UNKNOWN = 100


class ExeRtn(IntEnum):
    """What became of it, in 9012."""

    DONE = 1
    FAILED = 2
    CONDITION = 3
    TIMEOUT = 4
    BUSY = 5
    FAULT = 6
    NO_DATA = 100


_ANSWERS = frozenset(
    {
        Command.REQUEST_ANSWER,
        Command.EXECUTION_RESULT,
        Command.NOTICE_ANSWER,
        Command.DATA_ANSWER,
    }
)
_NOTICES = frozenset({Command.ASK_FOR_CLOCK})
_DATA = frozenset(
    {
        Command.REAL_TIME_DATA,
        Command.MINUTE_DATA,
        Command.HOUR_DATA,
        Command.DAY_DATA,
        Command.RESTART_TIME,
    }
)
_HISTORY = frozenset({Command.MINUTE_DATA, Command.HOUR_DATA, Command.DAY_DATA})
REAL_TIME_INTERVALS_S = range(30, 3_601)
MINUTE_INTERVALS_MIN = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)


def answer_to(frame: Frame) -> bytes | None:
    """Answer what a device sent; data only after it was stored.

    The answer has the version and the checksum the device itself uses: a device that computes
    Modbus's would take no other.

    Args:
        frame: What it sent.

    Returns:
        The frame to send: 9013 to a notice or heartbeat, 9014 to data and to whatever else
        wants an answer; None where none is wanted, or it is an answer itself.
    """
    cn = frame.cn
    if not cn or cn in _ANSWERS:
        return None
    if cn == Command.HEARTBEAT:  # answered whether it says so or not
        return _answer(frame, Command.NOTICE_ANSWER)
    if not frame.answer_wanted:
        return None
    return _answer(frame, Command.NOTICE_ANSWER if cn in _NOTICES else Command.DATA_ANSWER)


def request_answer(frame: Frame, result: QnRtn = QnRtn.READY) -> bytes:
    """Answer a command as a device does: whether it will be done.

    Args:
        frame: The command.
        result: Whether.

    Returns:
        A frame 9011.
    """
    return _answer(frame, Command.REQUEST_ANSWER, {"QnRtn": str(int(result))})


def execution_answer(frame: Frame, result: ExeRtn = ExeRtn.DONE) -> bytes:
    """Answer a command as a device does: what became of it.

    Args:
        frame: The command.
        result: What.

    Returns:
        A frame 9012.
    """
    return _answer(frame, Command.EXECUTION_RESULT, {"ExeRtn": str(int(result))})


def _answer(frame: Frame, cn: Command, *groups: Group) -> bytes:
    header = header_of(
        qn=_writable(frame.qn),
        st=SYSTEM,
        cn=cn,
        pw=_writable(frame.pw),
        mn=_writable(frame.mn),
        flag=flag_of(frame.version),
    )
    return write_frame(header, groups, kind=frame.checksum)


def _writable(text: str) -> str:
    """What a device said of itself, as far as it can be said back to it."""
    return _UNWRITABLE.sub("", text)


_UNWRITABLE = re.compile(r"[^!-~]|[;,=&#]")


def command(
    cn: str,
    *,
    mn: str,
    pw: str,
    at: datetime,
    st: str = CONSTRUCTION_DUST,
    groups: tuple[Group, ...] = (),
    version: int = VERSION_2017,
    kind: Checksum = Checksum.HJ212,
) -> bytes:
    """Write a command to a device.

    Args:
        cn: Command number.
        mn: The device's number.
        pw: Its password.
        at: Now, aware; its milliseconds make the QN by which answers are known.
        st: System type of the device.
        groups: What CP says.
        version: Of the standard.
        kind: The checksum the device computes.

    Returns:
        The frame.

    Raises:
        ValueError: Something that cannot stand in a frame.
    """
    flag = flag_of(version, answer=True)
    header = header_of(qn=format_qn(at), st=st, cn=cn, pw=pw, mn=mn, flag=flag)
    return write_frame(header, groups, kind=kind)


def clock_set_to(moment: datetime) -> tuple[Group, ...]:
    """CP of `Command.SET_CLOCK`.

    Args:
        moment: The right time, aware.
    """
    return ({"SystemTime": format_time(moment)},)


def period(cn: str, begin: datetime, end: datetime) -> tuple[Group, ...]:
    """CP of a request for minute, hour or day data that were stored.

    Args:
        cn: 2051, 2061 or 2031.
        begin: Start of the first period, aware.
        end: Start of the last period, aware.

    Raises:
        ValueError: Another command, or an end before its beginning.
    """
    if cn not in _HISTORY:
        raise ValueError(f"{shown(cn)} asks for no data of the past")
    if end < begin:
        raise ValueError(f"the end {end.isoformat()} lies before {begin.isoformat()}")
    return ({"BeginTime": format_time(begin)}, {"EndTime": format_time(end)})


def real_time_interval(seconds: int) -> tuple[Group, ...]:
    """CP of `Command.SET_REAL_TIME_INTERVAL`.

    Args:
        seconds: 30 to 3,600.

    Raises:
        ValueError: Anything else.
    """
    if seconds not in REAL_TIME_INTERVALS_S:
        raise ValueError(f"a real-time interval of {seconds} s: 30 to 3600 are possible")
    return ({"RtdInterval": str(seconds)},)


def minute_interval(minutes: int) -> tuple[Group, ...]:
    """CP of `Command.SET_MINUTE_INTERVAL`.

    Args:
        minutes: One of `MINUTE_INTERVALS_MIN`.

    Raises:
        ValueError: Anything else.
    """
    if minutes not in MINUTE_INTERVALS_MIN:
        raise ValueError(f"a minute interval of {minutes} min: it is one of {MINUTE_INTERVALS_MIN}")
    return ({"MinInterval": str(minutes)},)


def new_password(password: str) -> tuple[Group, ...]:
    """CP of `Command.SET_PASSWORD`.

    Args:
        password: Six characters.

    Raises:
        ValueError: Not six.
    """
    if len(password) != _PASSWORD_CHARS:
        raise ValueError("a password of HJ 212 has six characters")
    return ({"NewPW": password},)


_PASSWORD_CHARS = 6


class Reply(StrEnum):
    """What a frame of a device is to the command it answers."""

    REQUEST = "request"
    RESULT = "result"
    CONTENT = "content"


def reply_to(qn: str, cn: str, frame: Frame) -> Reply | None:
    """Find out whether a frame answers a command.

    Args:
        qn: The command's QN.
        cn: Its command number.
        frame: What the device sent.

    Returns:
        Which answer it is; None if it answers something else. Data of the past have QNs of
        their own: they answer by their command number.
    """
    if frame.cn == Command.REQUEST_ANSWER:
        return Reply.REQUEST if frame.qn == qn else None
    if frame.cn == Command.EXECUTION_RESULT:
        return Reply.RESULT if frame.qn == qn else None
    if frame.cn == cn and (frame.qn == qn or cn in _DATA):
        return Reply.CONTENT
    return None


def request_result(frame: Frame) -> QnRtn:
    """Read a 9011.

    Args:
        frame: The device's answer.

    Returns:
        What it says; `QnRtn.UNKNOWN` for a number the standard does not know.

    Raises:
        Rejected: It says nothing of it.
    """
    number = _number(frame, "QnRtn")
    return QnRtn(number) if number in _QN_RTNS else QnRtn.UNKNOWN


def execution_result(frame: Frame) -> ExeRtn:
    """Read a 9012.

    Args:
        frame: The device's answer.

    Returns:
        What it says; `ExeRtn.FAILED` for a number the standard does not know.

    Raises:
        Rejected: It says nothing of it.
    """
    number = _number(frame, "ExeRtn")
    return ExeRtn(number) if number in _EXE_RTNS else ExeRtn.FAILED


_QN_RTNS = frozenset(int(one) for one in QnRtn)
_EXE_RTNS = frozenset(int(one) for one in ExeRtn)


def clock_of(frame: Frame) -> int:
    """Read the answer to `Command.CLOCK`.

    Args:
        frame: The device's answer.

    Returns:
        Its clock, microseconds since 1970 UTC.

    Raises:
        Rejected: It tells no time.
    """
    return parse_time(_item(frame, "SystemTime"))


def interval_of(frame: Frame) -> int:
    """Read the answer to `Command.REAL_TIME_INTERVAL` or `Command.MINUTE_INTERVAL`.

    Args:
        frame: The device's answer.

    Returns:
        Seconds, or minutes.

    Raises:
        Rejected: It tells no interval.
    """
    cn = frame.cn
    return _number(frame, "RtdInterval" if cn == Command.REAL_TIME_INTERVAL else "MinInterval")


def restarted_at(frame: Frame) -> int:
    """Read a `Command.RESTART_TIME`.

    Args:
        frame: What the device sent.

    Returns:
        When it was switched on, microseconds since 1970 UTC.

    Raises:
        Rejected: It tells no time.
    """
    return parse_time(_item(frame, "RestartTime"))


def _item(frame: Frame, name: str) -> str:
    for group in parse_groups(frame.segment.content):
        if name in group:
            return group[name]
    raise Rejected(Reason.INCOMPLETE, f"{frame.cn} without {name}")


def _number(frame: Frame, name: str) -> int:
    text = _item(frame, name)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Rejected(Reason.TYPE, f"{name} {shown(text)} is no number")
    return int(text)
