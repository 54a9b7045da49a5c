"""HJ 212 over TCP: what monitors on 4G send, into the same pipeline, answered after the commit.

Every frame becomes one message, its bytes as they came, on the topic the device would publish
under. What follows from it is decided where MQTT's messages are decided. Here are only: whose
frame it is (by its MN, and its password where one is registered), whether it is answered, and
limits, for the port is open to strangers.

- A frame with a right checksum of a known device is answered after its commit, whatever the
  pipeline made of its values: its bytes are kept. A damaged one is put aside and not answered,
  so that the device sends it again. Nobody else is answered.
- Answers go out in the order of the frames, joined by connection.
- A device speaks on one connection: the newest. Several may share one (a data logger).
- Parts of a split packet are frames like others: readings of one time are merged by the store,
  whenever they come.
- Memory is bounded: a connection holds one frame and what it does not take of its answers; what
  waits for the database is counted, and beyond its limit no socket is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from device_profiles.errors import Rejected
from device_profiles.hj212.asking import Asking, State
from device_profiles.hj212.commands import (
    TIMEOUT_S,
    Command,
    answer_to,
    clock_set_to,
)
from device_profiles.hj212.crc import Checksum
from device_profiles.hj212.frames import Event, Fault, Frame, Tolerance
from device_profiles.hj212.readings import SERIES_OF
from device_profiles.hj212.times import parse_time
from device_profiles.hj212.topics import refused_topic, stranger_topic, unread_topic
from device_profiles.hj212.writer import CONSTRUCTION_DUST, Group
from ingest import metrics
from ingest.flushing import Flusher, Flushing, Write
from ingest.link import Limits, Link
from ingest.segments import Flag

log = logging.getLogger(__name__)

ROLE = "gateway"

READ_BYTES = 16 * 1024
"""Most that is taken from a socket at once: no connection holds the others up for long."""

LOOK_EVERY_S = 1.0
CLOCK_SET_EVERY_S = 3_600.0
"""A clock that is off is set this often at most."""

FLAGS = 1 | Flag.TCP
"""Of the messages: a recording of them is published like QoS 1."""

_ANSWERS = frozenset(
    {Command.REQUEST_ANSWER, Command.EXECUTION_RESULT, Command.NOTICE_ANSWER, Command.DATA_ANSWER}
)
_NOTICES = frozenset({Command.ASK_FOR_CLOCK, Command.HEARTBEAT})


class Station(NamedTuple):
    """A registered device that speaks HJ 212.

    Attributes:
        id: The registry's number.
        topic: Where its frames are filed.
        label: How messages name it.
        tolerances: What its profile takes beyond standard field practice.
        password: Its PW; None: any is taken. An empty one takes none: it could not be read.
    """

    id: int
    topic: bytes
    label: str
    tolerances: frozenset[Tolerance] = frozenset()
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Asks:
    """How devices are asked.

    Attributes:
        timeout_s: How long an answer is waited for; three times it is asked again.
        patience_s: How long a device that promised may be silent.
        set_clock_over_s: A clock that is off by more is set; 0: never.
    """

    timeout_s: float = TIMEOUT_S
    patience_s: float = 60.0
    set_clock_over_s: float = 0.0


class NotConnected(Exception):  # noqa: N818 - told to a person
    """The device has no connection, or lost it."""


class _Manner(NamedTuple):
    """How a device speaks, so that it is spoken to in the same way."""

    st: str
    pw: str
    version: int
    checksum: Checksum


class _Receipt(NamedTuple):
    """What follows from one frame after its commit."""

    link: Link
    answer: bytes
    wants_clock: str


class _Filed(NamedTuple):
    """One message to be stored, its answer, and the MN of a device that needs the time."""

    topic: bytes
    payload: bytes
    answer: bytes | None = None
    wants_clock: str = ""


@dataclass(slots=True)
class _UnderWay:
    asking: Asking
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Gateway:
    """The server, and the writer behind it.

    Attributes:
        limits: What it takes.
        stations: Who is registered, by MN; whoever runs it keeps it up to date.
        buffer: Where sockets are read into.
        is_paused: Whether no socket is read, for too much waits.
    """

    def __init__(
        self,
        flushing: Flushing,
        write: Write,
        limits: Limits | None = None,
        asks: Asks | None = None,
    ) -> None:
        """Nobody is connected yet.

        Args:
            flushing: When to write.
            write: Writes messages wholly and durably, or raises `Unavailable` to be called again
                with the same ones.
            limits: What it takes.
            asks: How devices are asked.
        """
        self.limits = limits or Limits()
        self.stations: Mapping[str, Station] = {}
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.is_paused = False
        self._asks = asks or Asks()
        self._links: set[Link] = set()
        self._by_mn: dict[str, Link] = {}
        self._manners: dict[str, _Manner] = {}
        self._under_way: dict[str, _UnderWay] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._clock_set_at: dict[str, float] = {}
        self._last_asked = datetime.fromtimestamp(0, UTC)
        self._strangers_left = float(self.limits.strangers_a_minute)
        self._dropped = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._flusher: Flusher[list[_Receipt]] = Flusher(
            ROLE, flushing, write, list, self._committed, pause=self._pause, resume=self._resume
        )

    @property
    def port(self) -> int:
        """Where it listens; 0 where it does not."""
        if self._server is None or not self._server.sockets:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connected(self) -> Iterator[str]:
        """MNs that have a connection."""
        return iter(self._by_mn)

    async def run(self, host: str, port: int, stop: asyncio.Event) -> None:
        """Serve until told to stop; what was read by then is written and answered.

        Args:
            host: Where to listen.
            port: Likewise; 0: any.
            stop: Set from outside.

        Raises:
            OSError: The address cannot be used.
            Misconfigured: The worker's name is taken.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self), host, port, backlog=512)
        log.info("gateway: devices are heard on %s:%d", host, self.port)
        flushing = asyncio.create_task(self._flusher.run(stop), name="gateway flushing")
        looking = asyncio.create_task(self._look_for_ever(), name="gateway limits")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((flushing, looking, stopping), return_when=asyncio.FIRST_COMPLETED)
            self._server.close()
            self._pause()
            if looking.done():
                looking.result()
            await flushing
            for link in list(self._links):
                link.close("stopped")
            await asyncio.sleep(0)  # what was written goes to the sockets
        finally:
            self._server.close()
            for task in (flushing, looking, stopping, *self._tasks):
                task.cancel()
            await asyncio.gather(flushing, looking, stopping, *self._tasks, return_exceptions=True)

    # Connections come and go.

    def welcome(self, link: Link) -> bool:
        """Whether a new connection may stay."""
        same = sum(1 for one in self._links if one.address == link.address)
        if len(self._links) >= self.limits.connections or (
            same >= self.limits.connections_an_address
        ):
            metrics.GATEWAY_ENDED.labels("refused").inc()
            return False
        self._links.add(link)
        metrics.GATEWAY_CONNECTIONS.set(len(self._links))
        return True

    def leave(self, link: Link) -> None:
        """A connection is gone."""
        if link not in self._links:
            return
        self._links.discard(link)
        metrics.GATEWAY_CONNECTIONS.set(len(self._links))
        if not link.is_closing:
            metrics.GATEWAY_ENDED.labels("peer").inc()
        link.is_closing = True
        for mn in link.mns:
            if self._by_mn.get(mn) is link:
                del self._by_mn[mn]
                if mn in self._under_way:
                    self._under_way[mn].changed.set()
        if link.sample and (link.all_faults or not link.mns):
            topic = unread_topic(link.address, link.all_faults, link.reader.skipped_bytes)
            if self._may_keep():
                self._add(None, [_Filed(topic, link.sample)])

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = time.monotonic()
            most = float(self.limits.strangers_a_minute)
            self._strangers_left = min(most, self._strangers_left + most * LOOK_EVERY_S / 60)
            if self._dropped and self._strangers_left >= 1:
                log.warning("gateway: %d messages of strangers were not kept", self._dropped)
                self._dropped = 0
            for link in list(self._links):
                why = link.why_end(now)
                if why is not None:
                    link.close(why)

    def _pause(self) -> None:
        if not self.is_paused:
            self.is_paused = True
            for link in self._links:
                link.look_at_reading()

    def _resume(self) -> None:
        if self.is_paused:
            self.is_paused = False
            for link in self._links:
                link.be_patient()
                link.look_at_reading()

    # What they say.

    def take(self, link: Link, events: list[Event], now: float) -> None:
        """Take in what a connection brought.

        Args:
            link: Which.
            events: Frames and faults in their order.
            now: Monotonic time, seconds.
        """
        filed: list[_Filed] = []
        for event in events:
            if isinstance(event, Frame):
                one = self._file_frame(link, event, now)
            else:
                one = self._file_fault(link, event)
            if one is not None:
                filed.append(one)
        if filed:
            self._add(link, filed)
        if link.faults >= self.limits.faults:
            link.close("faults")

    def _add(self, link: Link | None, filed: list[_Filed]) -> None:
        chunk = self._flusher.chunk()
        arrivals = chunk.arrivals
        arrivals.topics += [one.topic for one in filed]
        arrivals.payloads += [one.payload for one in filed]
        arrivals.flags += [FLAGS] * len(filed)
        arrivals.received_us += [time.time_ns() // 1_000] * len(filed)
        if link is not None:
            receipts = [
                _Receipt(link, one.answer, one.wants_clock)
                for one in filed
                if one.answer is not None
            ]
            link.unanswered += len(receipts)
            chunk.receipts += receipts
        size = sum([len(one.topic) + len(one.payload) for one in filed])
        self._flusher.added(chunk, len(filed), size)

    def _file_fault(self, link: Link, fault: Fault) -> _Filed | None:
        """Where something goes that is no frame; None where nobody can be blamed for it."""
        link.faults += 1
        metrics.GATEWAY_FAULTS.labels(fault.reason).inc()
        mn, pw = self._sender(link, *_said_by(fault))
        station = self.stations.get(mn)
        if station is None or not _proven(station, pw):
            link.all_faults += 1
            link.keep_sample(fault.raw)
            return None
        return _Filed(station.topic, fault.raw)

    def _file_frame(self, link: Link, frame: Frame, now: float) -> _Filed | None:
        """Where a frame goes, and its answer; None where it is a stranger's and one too many."""
        mn, pw = self._sender(link, frame.mn, frame.pw)
        station = self.stations.get(mn)
        if station is None:
            return self._stranger(link, "unknown_device", stranger_topic(mn), frame.raw)
        if not _proven(station, pw):
            return self._stranger(link, "password", refused_topic(mn), frame.raw)
        if not station.tolerances.issuperset(frame.tolerated):
            # The pipeline says what is wrong with it, and puts it aside.
            link.faults += 1
            metrics.GATEWAY_FAULTS.labels("not_tolerated").inc()
            return _Filed(station.topic, frame.raw)
        link.faults = 0
        link.heard_at = now
        self._by_mn_now(link, mn)
        cn = frame.cn
        _FRAMES_OF_KIND[_kind_of(cn)].inc()
        before = self._manners.get(mn)
        if before and before.checksum is not frame.checksum and before.checksum is frame.turned:
            # One frame in 256 fits both; it is the device's own that answers must carry.
            frame = msgspec.structs.replace(frame, checksum=before.checksum)
        self._manners[mn] = _Manner(frame.st, frame.pw, frame.version, frame.checksum)
        under_way = self._under_way.get(mn)
        if under_way is not None and under_way.asking.hear(frame, now):
            under_way.changed.set()
        wants_clock = mn if cn == Command.ASK_FOR_CLOCK or self._is_off(mn, frame, now) else ""
        answer = answer_to(frame)
        if answer is None and wants_clock:
            self._set_clock(mn)
        return _Filed(station.topic, frame.raw, answer, wants_clock)

    @staticmethod
    def _sender(link: Link, mn: str, pw: str) -> tuple[str, str | None]:
        """Who speaks; without an MN whoever alone has spoken here, proven then."""
        if mn or len(link.mns) != 1:
            return mn, pw
        return next(iter(link.mns)), None

    def _stranger(self, link: Link, what: str, topic: bytes, payload: bytes) -> _Filed | None:
        link.faults += 1
        metrics.GATEWAY_FAULTS.labels(what).inc()
        return _Filed(topic, payload) if self._may_keep() else None

    def _may_keep(self) -> bool:
        """Whether one more message of a stranger is kept."""
        if self._strangers_left < 1:
            self._dropped += 1
            metrics.GATEWAY_DROPPED.inc()
            return False
        self._strangers_left -= 1
        return True

    def _by_mn_now(self, link: Link, mn: str) -> None:
        """A device speaks on the newest connection that brought a frame of it."""
        other = self._by_mn.get(mn)
        if other is link:
            return
        self._by_mn[mn] = link
        link.mns.add(mn)
        if other is not None:
            other.mns.discard(mn)
            if not other.mns:
                other.close("replaced")

    def _committed(self, receipts: list[_Receipt]) -> None:
        """What was stored is answered, in order, each connection's answers in one write."""
        by_link: dict[Link, list[bytes]] = {}
        for receipt in receipts:
            by_link.setdefault(receipt.link, []).append(receipt.answer)
        notices = 0
        for link, answers in by_link.items():
            link.answered(answers)
            notices += sum([_NOTICE_ANSWER in answer for answer in answers])
        metrics.GATEWAY_ANSWERS.labels("9013").inc(notices)
        metrics.GATEWAY_ANSWERS.labels("9014").inc(len(receipts) - notices)
        for receipt in receipts:
            if receipt.wants_clock:
                self._set_clock(receipt.wants_clock)

    # What they are asked.

    async def ask(self, mn: str, cn: str, groups: Callable[[], tuple[Group, ...]]) -> Asking:
        """Send a command to a device and wait for what becomes of it.

        Args:
            mn: Of a device that is connected.
            cn: Command number.
            groups: Makes what CP says, at the last moment: a clock is set to the time of then.

        Returns:
            The command, over.

        Raises:
            NotConnected: There is no connection, or it was lost.
            ValueError: Something that cannot stand in a frame.
        """
        async with self._turns.setdefault(mn, asyncio.Lock()):
            link, manner = self._by_mn.get(mn), self._manners.get(mn)
            station = self.stations.get(mn)
            if link is None or manner is None or station is None:
                raise NotConnected("the device is not connected")
            at = max(datetime.now(UTC), self._last_asked + timedelta(milliseconds=1))
            self._last_asked = at
            asking = Asking(
                cn,
                groups(),
                mn=mn,
                pw=station.password or manner.pw,
                at=at,
                now_s=time.monotonic(),
                st=manner.st or CONSTRUCTION_DUST,
                version=manner.version,
                kind=manner.checksum,
                timeout_s=self._asks.timeout_s,
                patience_s=self._asks.patience_s,
            )
            under_way = self._under_way[mn] = _UnderWay(asking)
            try:
                link.write(asking.frame)
                await self._follow(mn, under_way)
            finally:
                del self._under_way[mn]
            metrics.GATEWAY_COMMANDS.labels(asking.state).inc()
            return asking

    async def _follow(self, mn: str, under_way: _UnderWay) -> None:
        asking = under_way.asking
        while not asking.is_over:
            under_way.changed.clear()
            with contextlib.suppress(TimeoutError):
                left_s = max(0.0, asking.due_at - time.monotonic())
                await asyncio.wait_for(under_way.changed.wait(), left_s)
            again = asking.overdue(time.monotonic())
            link = self._by_mn.get(mn)
            if link is None and not asking.is_over:
                metrics.GATEWAY_COMMANDS.labels("disconnected").inc()
                raise NotConnected("the connection was lost meanwhile")
            if again is not None and link is not None:
                link.write(again)

    def _is_off(self, mn: str, frame: Frame, now: float) -> bool:
        """Whether a device's clock is to be set: its QN says when it sent this."""
        over_s = self._asks.set_clock_over_s
        if not over_s or frame.cn not in SERIES_OF:
            return False
        try:
            off_s = parse_time(frame.qn) / 1e6 - time.time()
        except Rejected:
            return False
        if abs(off_s) <= over_s:
            return False
        last = self._clock_set_at.get(mn)
        return last is None or now - last >= CLOCK_SET_EVERY_S

    def _set_clock(self, mn: str) -> None:
        """Set a device's clock, without waiting for it."""
        self._clock_set_at[mn] = time.monotonic()
        task = asyncio.create_task(self._setting_clock(mn), name=f"clock of {mn}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _setting_clock(self, mn: str) -> None:
        try:
            asking = await self.ask(mn, Command.SET_CLOCK, lambda: clock_set_to(datetime.now(UTC)))
        except (NotConnected, ValueError) as fault:
            log.warning("gateway: the clock of MN %s was not set: %s", mn, fault)
        else:
            if asking.state is not State.DONE:
                log.warning("gateway: setting the clock of MN %s: %s", mn, asking.state)


def _said_by(fault: Fault) -> tuple[str, str]:
    """MN and password of what was to be a frame, as far as it says them."""
    segment = fault.segment()
    if segment is not None:
        return segment.fields.get("MN", ""), segment.fields.get("PW", "")
    items = {name: text.decode("utf-8", "replace") for name, text in _ITEMS.findall(fault.raw)}
    return items.get(b"MN", ""), items.get(b"PW", "")


def _proven(station: Station, pw: str | None) -> bool:
    """Whether a password is the registered one; one that is not said was proven before."""
    if station.password is None or pw is None:
        return True
    given, wanted = pw.encode("utf-8", "replace"), station.password.encode()
    return bool(wanted) and hmac.compare_digest(given, wanted)


def _kind_of(cn: str) -> str:
    if cn in SERIES_OF:
        return "data"
    if cn in _NOTICES:
        return "notice"
    return "answer" if cn in _ANSWERS else "other"


_ITEMS = re.compile(rb"(?<=[;\d])(MN|PW)=([^;&#]{1,64});")
_NOTICE_ANSWER = b";CN=9013;"
_FRAMES_OF_KIND = {
    kind: metrics.GATEWAY_FRAMES.labels(kind) for kind in ("data", "notice", "answer", "other")
}
