"""A dust monitor that speaks HJ 212 over TCP, as those on 4G do.

It sends data and waits for the answer, sends again what is not answered, does what it is asked
(its clock, data of the past) and keeps what it measured, so that it can be asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from device_profiles.hj212.commands import (
    RESENDS,
    TIMEOUT_S,
    Command,
    ExeRtn,
    execution_answer,
    request_answer,
)
from device_profiles.hj212.crc import Checksum, checksum
from device_profiles.hj212.frames import VERSION_2017, Frame, Tolerance
from device_profiles.hj212.reader import Reader
from device_profiles.hj212.segment import STANDARD_CP_BYTES, parse_groups
from device_profiles.hj212.times import format_qn, format_time, parse_time
from device_profiles.hj212.writer import (
    CONSTRUCTION_DUST,
    Group,
    flag_of,
    header_of,
    write_data,
    write_frame,
)

_ANSWERS = (Command.DATA_ANSWER, Command.NOTICE_ANSWER)
_PAST = (Command.MINUTE_DATA, Command.HOUR_DATA, Command.DAY_DATA)


class _Kept(NamedTuple):
    """What was measured at one time."""

    cn: str
    at: datetime
    groups: tuple[Group, ...]


@dataclass
class Monitor:
    """A monitor; one connection at a time.

    Attributes:
        mn: Its number.
        pw: Its password.
        st: System type.
        version: Of the standard.
        checksum: Which it computes: another than the standard's is wrong, and common.
        timeout_s: How long it waits for an answer.
        resends: How often it sends again what is not answered.
        clock_off_s: By how much its clock is ahead.
        kept: What it measured.
        heard: Every frame it was sent.
        answered: QNs of what was answered.
    """

    mn: str
    pw: str = "123456"
    st: str = CONSTRUCTION_DUST
    version: int = VERSION_2017
    checksum: Checksum = Checksum.HJ212
    timeout_s: float = TIMEOUT_S
    resends: int = RESENDS
    clock_off_s: float = 0.0
    kept: list[_Kept] = field(default_factory=list)
    heard: list[Frame] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    _waiting: dict[str, asyncio.Event] = field(default_factory=dict)
    _writer: asyncio.StreamWriter | None = None
    _listening: asyncio.Task[None] | None = None
    _doing: set[asyncio.Task[None]] = field(default_factory=set)
    _last: datetime = datetime(2000, 1, 1, tzinfo=UTC)

    @property
    def now(self) -> datetime:
        """What its clock says."""
        return datetime.now(UTC) + timedelta(seconds=self.clock_off_s)

    @property
    def is_connected(self) -> bool:
        """Whether the other side has not hung up."""
        return self._listening is not None and not self._listening.done()

    async def connect(self, host: str, port: int) -> None:
        """Call the gateway.

        Args:
            host: Where it listens.
            port: Likewise.

        Raises:
            OSError: Nobody is there.
        """
        await self.disconnect()
        reader, self._writer = await asyncio.open_connection(host, port)
        self._listening = asyncio.create_task(self._listen(reader), name=f"monitor {self.mn}")

    async def disconnect(self) -> None:
        """Hang up."""
        tasks = [task for task in (self._listening, *self._doing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening = None
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None

    def moments(self, count: int = 1) -> list[datetime]:
        """Times for QNs: of now, and no two of them alike."""
        moments = []
        for _ in range(count):
            self._last = max(self.now, self._last + timedelta(milliseconds=1))
            moments.append(self._last)
        return moments

    def data(
        self,
        at: datetime,
        groups: Iterable[Mapping[str, str]],
        *,
        cn: str = Command.REAL_TIME_DATA,
        most_bytes: int = STANDARD_CP_BYTES,
    ) -> list[bytes]:
        """Write data, and keep them.

        Args:
            at: Instant, or start of the period.
            groups: One for each factor.
            cn: What they are.
            most_bytes: Longest CP; more goes into several packets.

        Returns:
            The frames.
        """
        given = tuple(groups)
        self.kept.append(_Kept(cn, at, given))
        return self._written(cn, at, given, most_bytes)

    def _written(
        self, cn: str, at: datetime, groups: tuple[Group, ...], most_bytes: int = STANDARD_CP_BYTES
    ) -> list[bytes]:
        frames = write_data(
            self.moments(len(groups) + 1),
            cn=cn,
            mn=self.mn,
            pw=self.pw,
            data_time=format_time(at),
            groups=groups,
            st=self.st,
            version=self.version,
            most_bytes=most_bytes,
        )
        return [self._sealed(frame) for frame in frames]

    def _sealed(self, frame: bytes) -> bytes:
        """The frame with the checksum this monitor computes."""
        return frame[:-6] + b"%04X\r\n" % checksum(frame[6:-6], self.checksum)

    def notice(self, cn: str) -> bytes:
        """Write a notice or heartbeat that wants an answer.

        Args:
            cn: Its command number.

        Returns:
            The frame.
        """
        (at,) = self.moments()
        flag = flag_of(self.version, answer=True)
        header = header_of(qn=format_qn(at), st=self.st, cn=cn, pw=self.pw, mn=self.mn, flag=flag)
        return write_frame(header, kind=self.checksum)

    def send(self, data: bytes) -> None:
        """Send bytes and wait for nothing.

        Args:
            data: Anything.

        Raises:
            ConnectionError: There is no connection.
        """
        if self._writer is None:
            raise ConnectionError("not connected")
        self._writer.write(data)

    async def say(self, frame: bytes) -> bool:
        """Send a frame, and again while it is not answered.

        Args:
            frame: With a QN of its own.

        Returns:
            Whether it was answered.
        """
        qn = frame.partition(b"QN=")[2][:17].decode("ascii")
        event = self._waiting.setdefault(qn, asyncio.Event())
        try:
            for _ in range(1 + self.resends):
                if not self.is_connected:
                    break
                self.send(frame)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), self.timeout_s)
                    return True
            return qn in self.answered
        finally:
            self._waiting.pop(qn, None)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        frames = Reader(Tolerance)
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                for event in frames.feed(data):
                    if isinstance(event, Frame):
                        self._hear(event)

    def _hear(self, frame: Frame) -> None:
        self.heard.append(frame)
        if frame.cn in _ANSWERS:
            self.answered.add(frame.qn)
            if frame.qn in self._waiting:
                self._waiting[frame.qn].set()
            return
        task = asyncio.create_task(self._do(frame), name=f"{self.mn} does {frame.cn}")
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    async def _do(self, frame: Frame) -> None:
        """Do as told: 9011 first, what was asked for, 9012 last."""
        self.send(request_answer(frame))
        result = ExeRtn.DONE
        said = {
            name: text
            for group in parse_groups(frame.segment.content)
            for name, text in group.items()
        }
        if frame.cn == Command.SET_CLOCK:
            right = parse_time(said["SystemTime"]) / 1e6
            self.clock_off_s = right - datetime.now(UTC).timestamp()
        elif frame.cn in _PAST:
            begin, end = (parse_time(said[name]) for name in ("BeginTime", "EndTime"))
            past = [
                one
                for one in self.kept
                if one.cn == frame.cn and begin <= one.at.timestamp() * 1e6 <= end
            ]
            for one in past:
                for packet in self._written(one.cn, one.at, one.groups):
                    await self.say(packet)
            if not past:
                result = ExeRtn.NO_DATA
        self.send(execution_answer(frame, result))
