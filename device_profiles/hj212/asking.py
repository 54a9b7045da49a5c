"""A command to a device, from its first sending to what became of it: pure, time is handed in.

The device answers 9011 (whether it will do it), may then send what it was asked for, and ends with
9012 (what became of it). Without any answer within 10 s the command is sent again with the same
QN, three times at most. Devices in the field leave out one answer or the other: the result alone
is enough, and so is the content of a question about the device itself.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from device_profiles.errors import Rejected
from device_profiles.hj212.commands import (
    RESENDS,
    TIMEOUT_S,
    Command,
    ExeRtn,
    QnRtn,
    Reply,
    command,
    execution_result,
    reply_to,
    request_result,
)
from device_profiles.hj212.crc import Checksum
from device_profiles.hj212.frames import VERSION_2017, Frame
from device_profiles.hj212.times import format_qn
from device_profiles.hj212.writer import CONSTRUCTION_DUST, Group

PATIENCE_S = 60.0
"""How long a device that said it will may be silent before it is given up."""

_ENDED_BY_CONTENT = frozenset(
    {Command.CLOCK, Command.REAL_TIME_INTERVAL, Command.MINUTE_INTERVAL, Command.DEVICE_INFORMATION}
)


class State(StrEnum):
    """How far a command has come."""

    SENT = "sent"
    PROMISED = "promised"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    UNANSWERED = "unanswered"


class Asking:
    """One command to one device.

    Attributes:
        cn: Command number.
        qn: The request number its answers carry.
        frame: Its bytes.
        state: How far it has come.
        sendings: How often it was sent.
        content: Frames that came with what was asked for.
        request: What its 9011 said; None before.
        result: What its 9012 said; None before.
        due_at: When `overdue` is to be called.
    """

    def __init__(
        self,
        cn: str,
        groups: tuple[Group, ...] = (),
        *,
        mn: str,
        pw: str,
        at: datetime,
        now_s: float,
        st: str = CONSTRUCTION_DUST,
        version: int = VERSION_2017,
        kind: Checksum = Checksum.HJ212,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """The command is to be sent now: see `frame`.

        Args:
            cn: Command number.
            groups: What CP says.
            mn: The device's number.
            pw: Its password.
            at: Now, aware; two commands to one device need different milliseconds.
            now_s: The same on the clock of `hear` and `overdue`, seconds.
            st: System type of the device.
            version: Of the standard, as the device speaks it.
            kind: The checksum the device computes.
            timeout_s: How long an answer is waited for.
            patience_s: How long what was promised is waited for, from the last word on.

        Raises:
            ValueError: Something that cannot stand in a frame.
        """
        self.cn = cn
        self.qn = format_qn(at)
        self.frame = command(
            cn, mn=mn, pw=pw, at=at, st=st, groups=groups, version=version, kind=kind
        )
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self.state = State.SENT
        self.sendings = 1
        self.content = 0
        self.request: QnRtn | None = None
        self.result: ExeRtn | None = None
        self.due_at = now_s + timeout_s

    @property
    def is_over(self) -> bool:
        """Whether nothing more is waited for."""
        return self.state not in (State.SENT, State.PROMISED)

    def hear(self, frame: Frame, now_s: float) -> bool:
        """Take what the device sent.

        Args:
            frame: Any frame of this device.
            now_s: Now, seconds.

        Returns:
            Whether it is an answer to this command.
        """
        reply = None if self.is_over else reply_to(self.qn, self.cn, frame)
        if reply is None:
            return False
        try:
            self._take(reply, frame)
        except Rejected:  # an answer without its number says nothing
            return False
        if self.state is not State.SENT:  # else it may be data that would have come anyway
            self.due_at = now_s + self._patience_s
        return True

    def _take(self, reply: Reply, frame: Frame) -> None:
        match reply:
            case Reply.REQUEST:
                self.request = request_result(frame)
                ready = self.request is QnRtn.READY
                self.state = State.PROMISED if ready else State.REFUSED
            case Reply.RESULT:
                self.result = execution_result(frame)
                self.state = State.DONE if self.result is ExeRtn.DONE else State.FAILED
            case Reply.CONTENT:
                self.content += 1
                if self.cn in _ENDED_BY_CONTENT:
                    self.state = State.DONE
                elif frame.qn == self.qn:
                    self.state = State.PROMISED

    def overdue(self, now_s: float) -> bytes | None:
        """Nothing came for as long as was waited.

        Args:
            now_s: Now, seconds; nothing happens before `due_at`.

        Returns:
            What is to be sent again; None where nothing is.
        """
        if self.is_over or now_s < self.due_at:
            return None
        if self.state is State.PROMISED or self.sendings > RESENDS:
            self.state = State.UNANSWERED
            return None
        self.sendings += 1
        self.due_at = now_s + self._timeout_s
        return self.frame
