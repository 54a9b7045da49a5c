"""A consumer's connection: one broker session kept through any number of TCP connections.

What is received goes to one synchronous callback per read of the socket. What is acknowledged
belongs to the TCP connection it came by: after a reconnect the broker sends the rest again, so
old packet ids are dropped, never sent on the new connection.

While reading is paused nothing the broker says is seen, so its silence is no sign of death;
PINGREQ is sent all the same, so that ours is none either. Pausing suits brokers that flood a
returning session (Mosquitto). A nats-server resets a connection that is not read for its
`write_deadline`; there one reads on and is bounded by `max_ack_pending` unacknowledged messages.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from ingest.errors import Misconfigured
from ingest.interim import codec
from ingest.interim.codec import Connack, Disconnect, Event, Publishes, Suback, Version
from ingest.interim.errors import BrokerRefused, BrokerUnavailable, ProtocolError

log = logging.getLogger(__name__)

OnPublishes: TypeAlias = Callable[[Publishes, int], None]
OnState: TypeAlias = Callable[[bool, str], None]

CONNECT_TIMEOUT_S = 10.0
FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0

_NOT_ALLOWED_3 = {1: "the protocol version", 2: "the client id", 4: "user name or password"} | {
    5: "what we may do (not authorised)"
}
_NOT_ALLOWED_5 = {
    0x84: "the protocol version",
    0x85: "the client id",
    0x86: "user name or password",
    0x87: "what we may do (not authorised)",
    0x8A: "us: we are banned",
    0x8C: "the authentication method",
}


@dataclass(frozen=True, slots=True)
class Options:
    """How to reach a broker and what to hear from it.

    Attributes:
        url: mqtt://HOST[:PORT] or mqtts://HOST[:PORT]; no credentials in it.
        client_id: The session's name.
        filters: Topic filters, each with its QoS.
        version: MQTT version.
        username: None for none.
        password: None for none; never shown.
        tls: For mqtts; None takes the system's certificates.
        keepalive_s: Longest silence, seconds.
        session_expiry_s: How long the broker is to remember us (MQTT 5).
        receive_maximum: Most unacknowledged messages the broker may send (MQTT 5).
        max_payload_bytes: Larger payloads are skipped while streaming.
    """

    url: str
    client_id: str
    filters: tuple[tuple[str, int], ...]
    version: Version = "3.1.1"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    keepalive_s: int = 30
    session_expiry_s: int = 0xFFFF_FFFF
    receive_maximum: int = 65_535
    max_payload_bytes: int = 256 * 1024

    def address(self) -> tuple[str, int, ssl.SSLContext | None]:
        """Host, port and encryption.

        Returns:
            What `asyncio` connects to.

        Raises:
            Misconfigured: The URL is none of a broker.
        """
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.username:
            raise Misconfigured("broker.url is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
        if parts.scheme == "mqtt":
            return parts.hostname, port or 1883, None
        return parts.hostname, port or 8883, self.tls or ssl.create_default_context()


@dataclass(slots=True)
class Received:
    """What came, over all TCP connections.

    Attributes:
        messages: PUBLISHes.
        redelivered: Of these, marked by the broker as sent before.
        connections: TCP connections on which the broker let us in.
    """

    messages: int = 0
    redelivered: int = 0
    connections: int = 0


class _Link(asyncio.Protocol):
    """One TCP connection."""

    def __init__(self, options: Options, on_publishes: Callable[[Publishes], None]) -> None:
        loop = asyncio.get_running_loop()
        self.reader = codec.Reader(options.version, options.max_payload_bytes)
        self.on_publishes = on_publishes
        self.lost: asyncio.Future[None] = loop.create_future()
        self.answers: asyncio.Queue[Event] = asyncio.Queue()
        self.heard_at = loop.time()
        self.transport: asyncio.Transport | None = None
        self._loop = loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP transports are
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        try:
            publishes, events = self.reader.feed(data)
        except ProtocolError as fault:
            self.fail(fault)
            return
        if publishes.topics:
            self.on_publishes(publishes)
        for event in events:
            match event:
                case Disconnect(code):
                    self.fail(BrokerUnavailable(f"the broker said good-bye with code {code:#x}"))
                case Connack() | Suback():
                    self.answers.put_nowait(event)
                case _:
                    pass

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail(BrokerUnavailable(f"the connection was lost ({exc or 'closed by the broker'})"))

    def fail(self, fault: BrokerUnavailable) -> None:
        """End this TCP connection for a reason."""
        if not self.lost.done():
            self.lost.set_exception(fault)
            self.lost.exception()  # looked at, whoever awaits it
        if self.transport is not None:
            self.transport.abort()

    def write(self, data: bytes) -> None:
        """Send, if there is still somebody to send to."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    async def answer(self) -> Event:
        """Wait for the next CONNACK or SUBACK."""
        waiting = asyncio.ensure_future(self.answers.get())
        try:
            await asyncio.wait(
                (waiting, self.lost), timeout=CONNECT_TIMEOUT_S, return_when="FIRST_COMPLETED"
            )
            if waiting.done():
                return waiting.result()
            if self.lost.done():
                self.lost.result()
            raise BrokerUnavailable(f"the broker did not answer within {CONNECT_TIMEOUT_S:.0f} s")
        finally:
            waiting.cancel()


class Connection:
    """A broker session that comes back by itself.

    Attributes:
        received: Counters over all TCP connections.
        connected: Whether the broker has let us in and granted every filter.
        generation: Number of the present TCP connection; what came by it carries this number.
    """

    def __init__(
        self,
        options: Options,
        on_publishes: OnPublishes,
        on_state: OnState | None = None,
        *,
        dice: random.Random | None = None,
    ) -> None:
        """Prepare a connection; `run` makes it.

        Args:
            options: Where to, and what to hear.
            on_publishes: Called with what one read of the socket held, and its generation.
            on_state: Called when the session comes up (true) or goes down, with a reason.
            dice: For the jitter of reconnecting.
        """
        self._options = options
        self._on_publishes = on_publishes
        self._on_state = on_state or (lambda _up, _why: None)
        self._dice = dice or random.Random()  # noqa: S311 - jitter
        self._link: _Link | None = None
        self._paused = False
        self.received = Received()
        self.connected = False
        self.generation = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the session until told to stop.

        Args:
            stop: Set from outside.

        Raises:
            BrokerRefused: The broker refuses name, password or a filter.
            Misconfigured: The broker's address is none.
        """
        self._options.address()
        delay_s = FIRST_DELAY_S
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                try:
                    await self._session(stopping)
                except BrokerUnavailable as fault:
                    if self.connected:
                        delay_s = FIRST_DELAY_S
                    self._down(str(fault))
                    log.warning("%s: %s", self._options.url, fault)
                else:
                    return
                await asyncio.wait((stopping,), timeout=delay_s * self._dice.uniform(0.5, 1.5))
                delay_s = min(delay_s * 2, LONGEST_DELAY_S)
        finally:
            stopping.cancel()
            self._down("stopped")

    def acknowledge(self, generation: int, packet_ids: Sequence[int]) -> None:
        """Acknowledge messages; those of an earlier TCP connection are the broker's to resend.

        Args:
            generation: The one they came with.
            packet_ids: In the order received, without zeros.
        """
        if generation == self.generation and self._link is not None and packet_ids:
            self._link.write(codec.pubacks(packet_ids))

    def pause_reading(self) -> None:
        """Stop reading the socket: the broker's backlog stays with the broker."""
        if not self._paused:
            self._paused = True
            if self._link is not None and self._link.transport is not None:
                self._link.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read the socket again."""
        if self._paused:
            self._paused = False
            if self._link is not None and self._link.transport is not None:
                self._link.heard_at = asyncio.get_running_loop().time()
                self._link.transport.resume_reading()

    def _down(self, why: str) -> None:
        if self.connected:
            self.connected = False
            self._on_state(False, why)

    def _take(self, publishes: Publishes) -> None:
        self.received.messages += len(publishes)
        self.received.redelivered += sum(1 for flags in publishes.flags if flags & 8)
        self._on_publishes(publishes, self.generation)

    async def _session(self, stopping: asyncio.Task[Literal[True]]) -> None:
        """One TCP connection, from CONNECT to its end; returns only when told to stop."""
        options = self._options
        host, port, tls = options.address()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, link = await loop.create_connection(
                    lambda: _Link(options, self._take),
                    host,
                    port,
                    ssl=tls,
                    server_hostname=host if tls else None,
                )
        except ssl.SSLCertVerificationError as fault:
            raise BrokerUnavailable(f"the broker's certificate: {fault.verify_message}") from None
        except (OSError, TimeoutError) as fault:
            raise BrokerUnavailable(
                f"the broker cannot be reached: {str(fault) or 'timeout'}"
            ) from None
        self.generation += 1
        self._link = link
        try:
            await self._open(link)
            if self._paused:
                transport.pause_reading()
            self.connected = True
            self._on_state(True, "connected")
            await self._keep(link, stopping)
            link.write(codec.DISCONNECT)
        finally:
            self._link = None
            transport.close()

    async def _open(self, link: _Link) -> None:
        options = self._options
        link.write(
            codec.connect(
                options.client_id,
                version=options.version,
                keepalive_s=options.keepalive_s,
                username=options.username,
                password=options.password,
                session_expiry_s=options.session_expiry_s,
                receive_maximum=options.receive_maximum,
            )
        )
        connack = await link.answer()
        if not isinstance(connack, Connack):
            raise ProtocolError("something before the CONNACK")
        if connack.code:
            refusals = _NOT_ALLOWED_5 if options.version == "5" else _NOT_ALLOWED_3
            what = refusals.get(connack.code)
            if what is None:
                raise BrokerUnavailable(f"the broker refuses with code {connack.code:#x}")
            raise BrokerRefused(f"the broker {options.url} refuses {what}")
        if connack.session_present and self.received.connections:
            # The same process, the same filters, a session that is still there.
            self.received.connections += 1
            return
        link.write(codec.subscribe(1, options.filters, version=options.version))
        suback = await link.answer()
        if not isinstance(suback, Suback) or suback.packet_id != 1:
            raise ProtocolError("something else in the place of the SUBACK")
        if len(suback.codes) != len(options.filters):
            raise ProtocolError(
                f"a SUBACK of {len(suback.codes)} codes for {len(options.filters)} filters"
            )
        for (topic_filter, qos), code in zip(options.filters, suback.codes, strict=True):
            if code >= 0x80:
                raise BrokerRefused(
                    f"the broker {options.url} refuses the filter {topic_filter} (code {code:#x}):"
                    " see its ACL, and its limit of unacknowledged messages"
                )
            if code < qos:
                raise BrokerRefused(
                    f"the broker {options.url} grants {topic_filter} only with QoS {code}:"
                    f" with less than {qos}, messages may be lost"
                )
        self.received.connections += 1

    async def _keep(self, link: _Link, stopping: asyncio.Task[Literal[True]]) -> None:
        """Ping until the connection is lost (raises) or we are to stop (returns)."""
        every_s = self._options.keepalive_s / 2
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.wait(
                (stopping, link.lost), timeout=every_s, return_when="FIRST_COMPLETED"
            )
            if stopping.done():
                return
            if link.lost.done():
                link.lost.result()
            silent_s = loop.time() - link.heard_at
            if not self._paused and silent_s > self._options.keepalive_s * 1.5:
                link.fail(BrokerUnavailable(f"the broker has been silent for {silent_s:.0f} s"))
                continue
            link.write(codec.PINGREQ)
