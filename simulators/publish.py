"""Publishing messages over MQTT as devices do: on time, at QoS 1, until acknowledged.

Each device has a connection of its own, with its last will. It says its messages in order, one
at a time: the next is sent when the broker has acknowledged (PUBACK) the one before. A message
that was not acknowledged is sent again after a reconnect, byte for byte the same. So what is
counted as published is what the broker has taken, and how often a message may have been taken
twice is counted too: for a whole run

    published <= taken by the broker <= published + resent + unconfirmed + refused

The schedule is kept from one fixed instant, so delays do not add up; when the broker is slow
or away the devices wait (a bounded queue each, then the schedule itself), and catch up later
with the times they measured at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import urllib.parse
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import aiomqtt
import msgspec
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from device_profiles.errors import Rejected
from device_profiles.recording import Message
from device_profiles.topics import parse_topic
from device_profiles.vocabulary import Channel
from simulators.errors import BrokerRefused, Misconfigured
from simulators.site import SimulatedSite

log = logging.getLogger(__name__)

T = TypeVar("T")
OnPublished = Callable[[Message, datetime], None]

QUEUE_MESSAGES = 256
"""Most messages that wait for one device's connection; then the schedule waits."""

ACK_TIMEOUT_S = 10.0
"""A PUBACK that takes longer is not waited for: the device connects anew."""

GRACE_S = 10.0
"""How long the devices may go on after the last message to get all acknowledged."""

STOP_GRACE_S = 2.0
"""The same when the run is cancelled, for the messages already sent."""

MOST_CONNECTIONS_LOST = 6
"""A message that costs this many connections is one the broker cannot bear (too large, a topic it
refuses): it is given up."""

_PAUSE_S = (0.1, 5.0)
_REFUSALS = frozenset({133, 134, 135})  # client id, user or password, not authorised


@dataclass(frozen=True, slots=True)
class Broker:
    """Where to publish.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: How to encrypt; None for plain TCP.
        username: User name of those who have none of their own.
        password: Its password.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Broker:
        """Read ``mqtt://[USER:PASSWORD@]HOST[:PORT]``, or the same with ``mqtts``.

        Args:
            url: The address.

        Returns:
            The broker; ``mqtts`` trusts what the system trusts.

        Raises:
            Misconfigured: It is no such address.
        """
        form = "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as fault:
            raise Misconfigured(f"the broker's address is not {form}: {fault}") from None
        encrypted = parts.scheme == "mqtts"
        rest = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or rest:
            # Not said which: there may be a password in it.
            raise Misconfigured(f"the broker's address is not {form}")
        return cls(
            parts.hostname,
            port or (8883 if encrypted else 1883),
            ssl.create_default_context() if encrypted else None,
            None if parts.username is None else urllib.parse.unquote(parts.username),
            None if parts.password is None else urllib.parse.unquote(parts.password),
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """Who connects.

    Attributes:
        client_id: MQTT client identifier.
        username: User name; None for the broker's own default.
        password: Its password.
        will: What the broker says when the connection is lost.
        goodbye: What the device says before it disconnects of itself.
    """

    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    will: Message | None = None
    goodbye: Message | None = None


@dataclass(slots=True)
class Counts:
    """What was published; may be read while the run goes on.

    The counters' keys are "dust" and "crane" for readings, then "frame", "status", "event" and
    "unreadable" (messages off the contract's topics). Readings are counted one by one, a batch
    being as many as it holds; the others by message.

    Attributes:
        published: What the broker acknowledged, each once.
        resent: What was sent again because no PUBACK had come: each may be doubled.
        unconfirmed: What was sent and never acknowledged: each may have been taken.
        unsent: What was scheduled and never sent.
        refused: What the broker would not bear, or no topic can hold.
        reconnects: Connections made anew after one was lost.
        behind_s: The longest that a message was first sent after its time.
    """

    published: Counter[str] = field(default_factory=Counter)
    resent: Counter[str] = field(default_factory=Counter)
    unconfirmed: Counter[str] = field(default_factory=Counter)
    unsent: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    reconnects: int = 0
    behind_s: float = 0.0

    @property
    def readings(self) -> dict[str, int]:
        """Readings published, by kind of device."""
        return {kind: self.published[kind] for kind in ("dust", "crane")}

    @property
    def frames(self) -> int:
        """Pictures published."""
        return self.published["frame"]

    @property
    def status(self) -> int:
        """Status messages published."""
        return self.published["status"]


def unit_of(message: Message) -> tuple[str, int]:
    """What a message counts as in the balance.

    Args:
        message: Any message.

    Returns:
        A key of `Counts` and how many.
    """
    try:
        address = parse_topic(message.topic.encode())
    except (Rejected, UnicodeEncodeError):
        return "unreadable", 1
    if address.channel is not Channel.TELEMETRY:
        return address.channel.value, 1
    count = 1
    if message.payload.lstrip()[:1] == b"[":
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            count = max(1, len(_BATCH.decode(message.payload)))
    return address.kind.value, count


_BATCH = msgspec.json.Decoder(list[msgspec.Raw])


async def run_site(
    site: SimulatedSite,
    broker: Broker | str,
    *,
    seconds: float | None = None,
    seed: int = 0,
    start: datetime | None = None,
    speed: float = 1.0,
    credentials: Mapping[str, tuple[str, str]] | None = None,
    counts: Counts | None = None,
    on_published: OnPublished | None = None,
    grace_s: float = GRACE_S,
) -> Counts:
    """Publish a simulated site, a connection for each device.

    Args:
        site: The site.
        broker: Where to.
        seconds: How long, on the site's clock; None until cancelled.
        seed: What makes one run differ from another.
        start: The site's time at which it starts; None for now. The times in the payloads are
            the site's: at a `speed` above 1 they run ahead of the clock.
        speed: Site seconds a second; `math.inf` for as fast as the broker acknowledges.
        credentials: User name and password by device id, where the broker wants them.
        counts: Counted into as the run goes on; None for new ones.
        on_published: Called with each message and the time its PUBACK came.
        grace_s: How long to wait at the end for what is not yet acknowledged.

    Returns:
        The counts.

    Raises:
        BrokerRefused: The broker does not let a device in.
        Misconfigured: The broker's address, or the installation, is at fault.
    """
    start = start or datetime.now(UTC)
    identities: dict[str, Identity] = {}
    for device in site.devices():
        username, password = (credentials or {}).get(device.id, (None, None))
        prefix = site.address(device.id, Channel.STATUS).topic.removesuffix("/status")
        identities[device.id] = Identity(
            client_id=prefix.replace("/", "-"),
            username=username,
            password=password,
            will=site.status(device.id, start, online=False, detail="connection lost"),
            goodbye=site.status(device.id, start, online=False, detail="switched off"),
        )

    def identity_of(message: Message) -> Identity:
        return identities[parse_topic(message.topic.encode()).device]

    return await publish(
        site.messages(start, seed, seconds),
        broker,
        identity_of,
        origin=start,
        speed=speed,
        counts=counts,
        on_published=on_published,
        grace_s=grace_s,
    )


async def publish(
    messages: Iterable[Message],
    broker: Broker | str,
    identity_of: Callable[[Message], Identity],
    *,
    origin: datetime | None = None,
    speed: float = 1.0,
    counts: Counts | None = None,
    on_published: OnPublished | None = None,
    grace_s: float = GRACE_S,
) -> Counts:
    """Publish messages at their times, each on the connection of its identity.

    Args:
        messages: In the order of `received_at`, which says when each is due.
        broker: Where to.
        identity_of: On whose connection a message goes; one connection an identity, made when
            its first message is due.
        origin: The time that is now; None for that of the first message.
        speed: Seconds of the messages' clock a second; `math.inf` for no schedule.
        counts: Counted into as it goes on; None for new ones.
        on_published: Called with each message and the time its PUBACK came.
        grace_s: How long to wait at the end for what is not yet acknowledged.

    Returns:
        The counts.

    Raises:
        BrokerRefused: The broker does not let an identity in.
        Misconfigured: The broker's address is none, or the speed is not positive.
    """
    if not speed > 0:
        raise Misconfigured(f"speed {speed!r} is not above 0")
    broker = Broker.parse(broker) if isinstance(broker, str) else broker
    counts = counts or Counts()
    devices: dict[Identity, _Device] = {}
    ended: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()

    def device_of(message: Message) -> _Device:
        identity = identity_of(message)
        device = devices.get(identity)
        if device is None:
            device = devices[identity] = _Device(identity, broker, counts, on_published)
            device.task = asyncio.create_task(device.run(), name=f"device {identity.client_id}")
            device.task.add_done_callback(ended.put_nowait)
        return device

    feeding = asyncio.create_task(_feed(messages, device_of, origin, speed))
    feeding.add_done_callback(ended.put_nowait)
    try:
        # The schedule ends first, unless it or a device fails.
        first = await ended.get()
        first.result()
        for device in devices.values():
            device.leave()
        if devices:
            await asyncio.wait([device.task for device in devices.values()], timeout=grace_s)
    finally:
        feeding.cancel()
        for device in devices.values():
            device.stop()
        tasks = [feeding, *(device.task for device in devices.values())]
        try:
            await asyncio.wait(tasks, timeout=STOP_GRACE_S)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end
    return counts


async def _feed(
    messages: Iterable[Message],
    device_of: Callable[[Message], _Device],
    origin: datetime | None,
    speed: float,
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for message in messages:
        origin = origin or message.received_at
        due = began + (message.received_at - origin).total_seconds() / speed
        if (early := due - loop.time()) > 0:
            await asyncio.sleep(early)
        await device_of(message).queue.put((message, due))


class _ConnectionLost(Exception):  # noqa: N818 - never leaves this module
    """The connection ended while something was waited for."""


class _Device:
    """One device's connection: says its messages in order, each until it is acknowledged."""

    task: asyncio.Task[None]

    def __init__(
        self,
        identity: Identity,
        broker: Broker,
        counts: Counts,
        on_published: OnPublished | None,
    ) -> None:
        self.queue: asyncio.Queue[tuple[Message, float] | None] = asyncio.Queue(QUEUE_MESSAGES)
        self._identity = identity
        self._broker = broker
        self._counts = counts
        self._on_published = on_published
        self._current: Message | None = None
        self._doubtful = False  # the current message was sent, and no PUBACK came
        self._losses = 0  # connections the current message has cost
        self._last_status: Message | None = None
        self._connected = False
        self._said_lost = False
        self._connections = 0
        self._acknowledged_here = 0
        self._goodbye = identity.goodbye
        self._leaving = False

    def leave(self) -> None:
        """Say what is queued, say goodbye, disconnect."""
        self._leaving = True
        with contextlib.suppress(asyncio.QueueFull):
            self.queue.put_nowait(None)  # wakes one that waits; a full queue's is awake

    def stop(self) -> None:
        """Say nothing new: leave after the message that is under way, at once if none can be."""
        self._drop_queue()
        self.leave()
        if not self._connected:
            self.task.cancel()

    async def run(self) -> None:
        """Connect, speak, and connect again, until told to leave.

        Raises:
            BrokerRefused: The broker does not let this identity in.
        """
        pause = _PAUSE_S[0]
        try:
            while True:
                self._acknowledged_here = 0
                try:
                    async with self._client() as client:
                        await self._speak(client)
                except MqttConnectError as fault:
                    self._raise_if_refused(fault)
                    self._say_lost(fault)
                except (aiomqtt.MqttError, _ConnectionLost) as fault:
                    self._say_lost(fault)
                else:
                    return
                if self._leaving and self._current is None and self.queue.empty():
                    return
                if self._acknowledged_here:
                    pause = _PAUSE_S[0]
                # Many devices lose one broker at once; they must not come back at once.
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, _PAUSE_S[1])
        finally:
            if self._current is not None:
                doubtful = self._doubtful
                self._count(self._counts.unconfirmed if doubtful else self._counts.unsent)
            self._drop_queue()

    def _client(self) -> aiomqtt.Client:
        # A new one for each connection: paho would send again by itself what it holds.
        identity, broker = self._identity, self._broker
        own = identity.username is not None
        last = identity.will
        will = None
        if last is not None:
            will = aiomqtt.Will(last.topic, last.payload, last.qos, last.retain)
        return aiomqtt.Client(
            broker.host,
            broker.port,
            identifier=identity.client_id,
            username=identity.username if own else broker.username,
            password=identity.password if own else broker.password,
            tls_context=broker.tls,
            will=will,
            timeout=ACK_TIMEOUT_S,
            keepalive=30,
        )

    async def _speak(self, client: aiomqtt.Client) -> None:
        lost = asyncio.create_task(_until_lost(client))
        try:
            self._connected = True
            self._connections += 1
            if self._connections > 1:
                self._counts.reconnects += 1
                await self._repeat_status(client, lost)
            while True:
                if self._current is None and not await self._take(lost):
                    return
                await self._deliver(client, lost)
        finally:
            self._connected = False
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)

    async def _take(self, lost: asyncio.Task[None]) -> bool:
        """Make the next message the current one; False when there is nothing more to say."""
        while not (self._leaving and self.queue.empty()):
            waiting = await _unless_lost(self.queue.get(), lost)
            if waiting is not None:
                self._current, due = waiting
                behind = asyncio.get_running_loop().time() - due
                self._counts.behind_s = max(self._counts.behind_s, behind)
                return True
        self._current, self._goodbye = self._goodbye, None
        return self._current is not None

    async def _deliver(self, client: aiomqtt.Client, lost: asyncio.Task[None]) -> None:
        """Send the current message until the broker has it."""
        message = self._current
        assert message is not None  # noqa: S101 - for the type checker
        sent_before, sent_now = self._doubtful, True
        try:
            self._doubtful = True
            await self._send(client, message, lost)
        except ValueError as fault:  # paho: no topic can hold this
            log.warning("%s: %r not published: %s", self._identity.client_id, message.topic, fault)
            sent_now = False
            self._count(self._counts.refused)
        except aiomqtt.MqttCodeError as fault:
            sent_now = fault.rc != MQTTErrorCode.MQTT_ERR_NO_CONN
            self._doubtful = sent_before or sent_now
            raise
        except _ConnectionLost:
            self._losses += 1
            if self._losses < MOST_CONNECTIONS_LOST:
                raise
            log.warning("%s: the broker cannot bear %r", self._identity.client_id, message.topic)
            self._count(self._counts.refused)
            self._settle()
            raise
        else:
            self._count(self._counts.published)
            self._acknowledged_here += 1
            self._said_lost = False
            if unit_of(message)[0] == Channel.STATUS:
                self._last_status = message
            if self._on_published is not None:
                self._on_published(message, datetime.now(UTC))
        finally:
            if sent_before and sent_now:
                self._count(self._counts.resent, message)
        self._settle()

    async def _repeat_status(self, client: aiomqtt.Client, lost: asyncio.Task[None]) -> None:
        """Put right what the last will said."""
        message = self._last_status
        if message is None:
            return
        try:
            await self._send(client, message, lost)
        except BaseException:
            self._count(self._counts.unconfirmed, message)
            raise
        self._count(self._counts.published, message)
        if self._on_published is not None:
            self._on_published(message, datetime.now(UTC))

    @staticmethod
    async def _send(client: aiomqtt.Client, message: Message, lost: asyncio.Task[None]) -> None:
        sending = client.publish(message.topic, message.payload, qos=1, retain=message.retain)
        await _unless_lost(sending, lost)

    def _say_lost(self, fault: Exception) -> None:
        # An outage is worth one line, not one for each attempt.
        level = logging.DEBUG if self._said_lost else logging.WARNING
        log.log(level, "%s: not connected: %s", self._identity.client_id, fault)
        self._said_lost = True

    def _settle(self) -> None:
        self._current = None
        self._doubtful = False
        self._losses = 0

    def _count(self, counter: Counter[str], message: Message | None = None) -> None:
        message = message or self._current
        if message is not None:
            key, units = unit_of(message)
            counter[key] += units

    def _drop_queue(self) -> None:
        while not self.queue.empty():
            waiting = self.queue.get_nowait()
            if waiting is not None:
                self._count(self._counts.unsent, waiting[0])

    def _raise_if_refused(self, fault: MqttConnectError) -> None:
        code = fault.rc.value if isinstance(fault.rc, ReasonCode) else fault.rc
        if code in _REFUSALS:
            raise BrokerRefused(
                f"the broker at {self._broker.host}:{self._broker.port} does not let"
                f" {self._identity.client_id} in: {fault}"
            ) from None


async def _until_lost(client: aiomqtt.Client) -> None:
    """Return, or raise, when the connection ends; nothing is subscribed, so nothing comes."""
    async for _ in client.messages:
        pass


async def _unless_lost(work: Coroutine[Any, Any, T], lost: asyncio.Task[None]) -> T:
    """Wait for something, but not longer than the connection lasts.

    Raises:
        _ConnectionLost: The connection ended first.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, lost), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    raise _ConnectionLost("the broker closed the connection")
