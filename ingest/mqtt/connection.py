"""A consumer's connection: one broker session, kept through any number of TCP connections.

What holds here:

- Messages go to one synchronous callback, once for each read of the socket. There is no queue and
  no task in between, so the consumer's own bound on memory is the only one needed.
- `acknowledge` belongs to the TCP connection ("generation") a message came by. Packet ids are
  names on that connection only: after a reconnect the broker may give the same id to another
  message. So acknowledgements of an earlier generation are dropped, and the broker delivers those
  messages again. What is delivered again on a *live* connection is sorted out by
  `ingest.mqtt.outstanding`.
- The session is persistent. Filters are subscribed on the first connection of the process, for
  they may have changed since the session was made, and whenever the broker has no session. Every
  code of the SUBACK is checked. What is refused before the session was ever ready is raised by
  `run`, so that the service refuses to start; later it is retried, for a broker may well refuse
  while it recovers.
- `pause_reading` leaves the backlog with the broker. Meanwhile PINGREQ is still sent, but no
  PINGRESP seen, so silence is no sign of death; a peer that vanished shows in TCP's own timeout.
  A connection lost while paused is not made anew before `resume_reading`.

  When to pause is the consumer's policy, and depends on the broker. Mosquitto floods a returning
  session far beyond its in-flight window: only not reading bounds the memory. nats-server resets
  a connection it cannot write to for its `write_deadline` (10 s by default): there keep reading
  and stop acknowledging, and `max_ack_pending` is the bound.
- A session that returns with a backlog may send all of it before the SUBACK. So messages are
  delivered from the CONNACK on, and the SUBACK may take as long as messages keep coming.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from ingest.errors import IngestError, Misconfigured
from ingest.mqtt import codec
from ingest.mqtt.codec import Batch, Event, Property, Version
from ingest.mqtt.codec.wire import string
from ingest.mqtt.errors import (
    BrokerMisconfigured,
    BrokerUnavailable,
    ConnectRefused,
    FilterRefused,
    ProtocolError,
)
from ingest.mqtt.outstanding import Outstanding

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
"""For the TCP and TLS handshakes, for the CONNACK, and for the SUBACK, each."""

CLOSE_TIMEOUT_S = 2.0
"""For what is still to be sent when we leave."""

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0
STABLE_S = 10.0
"""A session ready for so long has forgotten earlier failures."""

SMALL_READ_BYTES = 32_768
"""After a larger read more is waiting: no rest then."""

WEEK_S = 7 * 86_400

_SENT_ONCE = (0x30, 0x31, 0x32, 0x33)
"""First bytes of a PUBLISH without DUP."""

_SUBSCRIBE_ID = 1
_UNSUBSCRIBE_ID = 2

_FAULTS_3_1_1 = {
    1: "it does not speak this version of MQTT",
    2: "it does not take the client id",
    4: "user name or password is wrong",
    5: "not authorised",
}
_FAULTS_5 = {
    0x84: "it does not speak this version of MQTT",
    0x85: "it does not take the client id",
    0x86: "user name or password is wrong",
    0x87: "not authorised",
    0x8A: "banned",
    0x8C: "it wants another method of authentication",
    0x90: "it does not take the will's topic",
    0x95: "it does not take a CONNECT so large",
    0x99: "it does not take the will's payload",
    0x9A: "it retains no messages, as the will asks",
    0x9B: "it does not take the will's QoS",
    0x9C: "it wants us on another server",
    0x9D: "it has moved to another server",
}
_REFUSED_FILTER = {
    0x80: "refused; see its access rules, and on nats-server the sum of max_ack_pending",
    0x83: "refused",
    0x87: "not authorised",
    0x8F: "not a filter it takes",
    0x97: "above a quota",
    0x9E: "it has no shared subscriptions",
    0xA2: "it has no wildcard subscriptions",
}
_HUNG_UP = {
    0x81: "malformed packet",
    0x82: "protocol error",
    0x87: "not authorised",
    0x89: "busy",
    0x8B: "shutting down",
    0x8D: "keepalive timeout",
    0x8E: "another client has connected with our client id",
    0x93: "receive maximum exceeded",
    0x95: "packet too large",
    0x98: "administrative action",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where to connect, and what to hear.

    Attributes:
        url: ``mqtt://[USER:PASSWORD@]HOST[:PORT]``, or ``mqtts``.
        client_id: Names the session at the broker: one at a time may use it.
        filters: Topic filters, each with its QoS, 0 or 1; ``$share/GROUP/FILTER`` where the broker
            has shared subscriptions. None at all for one who only publishes.
        retired_filters: Those of an earlier configuration, unsubscribed on the first connection:
            a session keeps its subscriptions until told otherwise.
        version: Of MQTT.
        username: User name; None for that of the URL.
        password: Its password; None for that of the URL.
        ca_file: For mqtts: whom to trust, PEM; None for whom the system trusts.
        cert_file: For mqtts: our certificate, PEM, if the broker wants one.
        key_file: Its private key, PEM; None if it lies in `cert_file`.
        clean: Forget the session, now and after every connection: for observers.
        keepalive_s: Longest silence on either side, 1 to 65,535.
        session_expiry_s: MQTT 5: how long the broker keeps the session while we are away.
        receive_maximum: MQTT 5: how many messages may be unacknowledged, 1 to 65,535.
        max_payload_bytes: Larger payloads are skipped as they stream past.
        will: What the broker publishes when we are lost.
        rest_s: How long the socket is left alone after a small read, 0 to 1: messages then come
            in fewer, larger reads, each that much later. It saves most where many come one by
            one: at 12,000 messages a second 20 ms cut the CPU for each from 10 µs to 2.
    """

    url: str = field(repr=False)
    client_id: str
    filters: tuple[tuple[str, int], ...] = ()
    retired_filters: tuple[str, ...] = ()
    version: Version = Version.V3_1_1
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    clean: bool = False
    keepalive_s: int = 30
    session_expiry_s: int = WEEK_S
    receive_maximum: int = 16_000
    max_payload_bytes: int = 256 * 1024
    will: codec.Will | None = None
    rest_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a URL leads.

    Attributes:
        host: Name or address.
        port: TCP port.
        tls: How to encrypt, None for plain TCP.
        username: User name, if any.
        password: Its password, if any.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = field(repr=False)
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def resolve(options: Options) -> Endpoint:
    """Check options as a whole, and read the files they name.

    Args:
        options: As configured.

    Returns:
        Where to connect, with what credentials.

    Raises:
        BrokerMisconfigured: With every fault there is; none shows a credential.
    """
    faults: list[str] = []
    try:
        parts = urlsplit(options.url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    rest = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or rest:
        # Not said what it is instead: there may be a password in it.
        faults.append("url is not mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
    username = options.username
    password = options.password
    if username is None and parts.username:
        username = unquote(parts.username)
        password = password if parts.password is None else unquote(parts.password)
    if password is not None and username is None and options.version is Version.V3_1_1:
        faults.append("password without username, which MQTT 3.1.1 does not have")
    faults += [
        f"{name} is longer than 65535 bytes, not UTF-8, or holds NUL"
        for name, text in (
            ("client_id", options.client_id),
            ("username", username),
            ("password", password),
        )
        if text is not None and not _is_string(text)
    ]
    if not options.client_id:
        faults.append("client_id is empty: the session needs a name")
    for name, value, low, high in (
        ("keepalive_s", options.keepalive_s, 1, 65_535),
        ("session_expiry_s", options.session_expiry_s, 0, codec.NEVER_EXPIRES),
        ("receive_maximum", options.receive_maximum, 1, codec.MAX_PACKET_ID),
        ("max_payload_bytes", options.max_payload_bytes, 1, 268_435_455),
    ):
        if not low <= value <= high:
            faults.append(f"{name} {value} is not between {low} and {high}")
    if not 0 <= options.rest_s <= 1:
        faults.append(f"rest_s {options.rest_s} is not between 0 and 1")
    faults += [
        f"filters: {pattern!r} {fault}"
        for pattern, qos in options.filters
        if (fault := _filter_fault(pattern, qos))
    ]
    patterns = [pattern for pattern, _ in options.filters]
    if len(set(patterns)) != len(patterns):
        faults.append("filters: one is there twice")
    faults += [
        f"retired_filters: {pattern!r} {fault}"
        for pattern in options.retired_filters
        if (fault := _filter_fault(pattern, 1) or ("is subscribed" if pattern in patterns else ""))
    ]
    tls = None
    if parts.scheme == "mqtts":
        tls = _tls_context(options, faults)
    elif options.ca_file or options.cert_file or options.key_file:
        faults.append("ca_file, cert_file and key_file belong to an mqtts:// url")
    if faults:
        raise BrokerMisconfigured("; ".join(faults))
    return Endpoint(str(parts.hostname), port or (8883 if tls else 1883), tls, username, password)


def _is_string(text: str) -> bool:
    try:
        string(text)
    except ValueError:
        return False
    return True


def _filter_fault(pattern: str, qos: int) -> str:
    """What is wrong with a filter (4.7), or nothing."""
    levels = pattern.split("/")
    if not pattern or not _is_string(pattern):
        return "is no string of MQTT"
    if qos not in (0, 1):
        return f"wants QoS {qos}, above 1"
    if levels[0] == "$share":
        if len(levels) < 3 or not levels[1] or not pattern.split("/", 2)[2]:
            return "is not $share/GROUP/FILTER"
        if "+" in levels[1] or "#" in levels[1]:
            return "has a wildcard in its group"
    if any(("+" in level or "#" in level) and len(level) > 1 for level in levels):
        return "has a wildcard that is only part of a level"
    if "#" in levels[:-1]:
        return "has a # that is not its last level"
    return ""


def _tls_context(options: Options, faults: list[str]) -> ssl.SSLContext | None:
    context = None
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except (OSError, ssl.SSLError) as fault:
        faults.append(f"ca_file {options.ca_file}: {fault}")
    if options.cert_file is not None:
        try:
            # An empty password, lest it asks for one on the terminal.
            (context or ssl.create_default_context()).load_cert_chain(
                options.cert_file, options.key_file, password=""
            )
        except (OSError, ssl.SSLError) as fault:
            faults.append(f"cert_file {options.cert_file}, key_file {options.key_file}: {fault}")
    elif options.key_file is not None:
        faults.append("key_file without cert_file")
    return context


class Phase(StrEnum):
    """How far a connection has come."""

    WAITING = "waiting"
    """Not connected: at the start, between attempts, or paused by the consumer."""
    CONNECTING = "connecting"
    SUBSCRIBING = "subscribing"
    """Let in; messages may come already."""
    READY = "ready"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class State:
    """What there is to say of a connection.

    Attributes:
        phase: How far it has come.
        since: Since when.
        generation: Number of the TCP connection, 0 before the first.
        session_present: Whether the broker knew the session, of the last CONNACK. If not, it will
            not deliver again what was unacknowledged then.
        failures: Attempts in a row that did not last.
        error: Why the last connection ended or did not come about.
    """

    phase: Phase
    since: datetime
    generation: int = 0
    session_present: bool = False
    failures: int = 0
    error: Exception | None = None


@dataclass(slots=True)
class Counters:
    """What went through, over all TCP connections.

    Attributes:
        bytes: Read from the socket.
        messages: PUBLISHes read from the socket, whatever became of them.
        redelivered: Of these, marked by the broker as sent before.
        held_back: Of these, copies of what the consumer still held, which it was not given.
        oversize: Messages whose payload was above the limit.
        acknowledged: PUBACKs written.
        outdated: Acknowledgements dropped because they came after the end of their connection.
        connections: TCP connections on which the broker let us in.
    """

    bytes: int = 0
    messages: int = 0
    redelivered: int = 0
    held_back: int = 0
    oversize: int = 0
    acknowledged: int = 0
    outdated: int = 0
    connections: int = 0


OnBatch: TypeAlias = Callable[[Batch], None]
OnState: TypeAlias = Callable[[State], None]


class Connection:
    """One session with a broker, which comes back by itself.

    All methods belong to the event loop that `run` runs in.

    Attributes:
        endpoint: Where it connects.
        counters: What went through.
        state: What there is to say of it.
    """

    def __init__(
        self,
        options: Options,
        on_batch: OnBatch,
        on_state: OnState | None = None,
        *,
        dice: random.Random | None = None,
    ) -> None:
        """Prepare; `run` connects.

        Args:
            options: Where to, and what to hear.
            on_batch: Called with what each read of the socket brought, never with an empty batch.
                What it raises is a bug, ends the connection, and is raised by `run`.
            on_state: Called after every change of `state`.
            dice: For the jitter between attempts.

        Raises:
            BrokerMisconfigured: The options cannot be right.
        """
        self.endpoint = resolve(options)
        self.counters = Counters()
        self.state = State(Phase.WAITING, datetime.now(UTC))
        self._options = options
        self._on_batch = on_batch
        self._on_state = on_state
        self._dice = dice or random.Random()  # noqa: S311 - jitter
        self._link: _Link | None = None
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._was_ready = False
        self._granted = False  # the session that the broker last spoke of has all filters

    @property
    def paused(self) -> bool:
        """Whether the consumer has stopped the reading."""
        return not self._resumed.is_set()

    @property
    def unacknowledged(self) -> int:
        """Packet ids of the present TCP connection that wait for their acknowledgement."""
        return 0 if self._link is None else len(self._link.outstanding)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the session until told to stop, then leave in order; the session stays.

        Args:
            stop: Set from outside, when all that is to be acknowledged was.

        Raises:
            ConnectRefused: The broker does not let us in, and never did.
            FilterRefused: It does not grant a filter, and never did.
        """
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                error = await self._connect_once(stopping)
                if error is None:
                    return
                retried = not isinstance(error, Misconfigured) or self._was_ready
                if not isinstance(error, IngestError) or not retried:
                    raise error
                log.warning("%s: %s", self._options.client_id, error)
                await asyncio.wait((stopping,), timeout=self._delay_s())
                if self.paused:
                    await _unless(stopping, self._resumed.wait())
        finally:
            stopping.cancel()
            self._enter(Phase.STOPPED)

    def acknowledge(self, generation: int, packet_ids: Sequence[int]) -> int:
        """Acknowledge messages, in one write.

        Args:
            generation: That of the batch they came in; ids of an earlier connection are dropped,
                for the broker delivers those messages again.
            packet_ids: Theirs, in the order received; the zeros of QoS 0 may be among them.

        Returns:
            How many PUBACKs were written.
        """
        link = self._link
        if link is None or generation != link.generation or not link.writable:
            self.counters.outdated += len(packet_ids)
            return 0
        due = link.outstanding.settle(packet_ids)
        if due:
            link.write(codec.pubacks(due))
            self.counters.acknowledged += len(due)
        return len(due)

    def publish(self, generation: int, packets: bytes) -> bool:
        """Write PUBLISH packets made by `ingest.mqtt.codec`; what is taken comes as `Batch.acked`.

        Args:
            generation: The connection whose packet ids are meant.
            packets: Whole ones.

        Returns:
            False if that connection has ended, and nothing was written.
        """
        link = self._link
        if link is None or generation != link.generation or not link.writable:
            return False
        link.write(packets)
        return True

    def pause_reading(self) -> None:
        """Read the socket no more; the batch of the present read is the last."""
        if not self.paused:
            self._resumed.clear()
            if self._link is not None:
                self._link.pause_reading()

    def resume_reading(self) -> None:
        """Read the socket again."""
        if self.paused:
            self._resumed.set()
            if self._link is not None:
                self._link.resume_reading()

    async def _connect_once(self, stopping: asyncio.Task[Literal[True]]) -> Exception | None:
        """One TCP connection from beginning to end.

        Returns:
            Why it ended, or did not come about; None if told to stop.
        """
        endpoint = self.endpoint
        generation = self.state.generation + 1
        link = _Link(self._options, endpoint, generation, self.counters, self._on_batch)
        link.on_phase = self._enter
        link.must_subscribe = not self._granted
        link.paused = self.paused
        self._link = link
        self._enter(Phase.CONNECTING, generation=generation)
        error: Exception | None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await _unless(
                    stopping,
                    asyncio.get_running_loop().create_connection(
                        lambda: link, endpoint.host, endpoint.port, ssl=endpoint.tls
                    ),
                )
        except ssl.SSLCertVerificationError as fault:
            error = BrokerUnavailable(
                f"the certificate of {endpoint} is not trusted: {fault.verify_message}"
            )
        except (OSError, TimeoutError) as fault:
            reason = str(fault) or f"no answer within {OPEN_TIMEOUT_S:.0f} s"
            error = BrokerUnavailable(f"{endpoint} cannot be reached: {reason}")
        else:
            await asyncio.wait((stopping, link.ended), return_when=asyncio.FIRST_COMPLETED)
            if not link.ended.done():
                link.leave()
                await asyncio.wait((link.ended,), timeout=CLOSE_TIMEOUT_S)
                return None
            error = link.ended.result()
        finally:
            link.abort()
            self._link = None
        lasted = link.ready_s >= STABLE_S
        self._enter(Phase.WAITING, failures=1 if lasted else self.state.failures + 1, error=error)
        return error

    def _delay_s(self) -> float:
        doubled = FIRST_DELAY_S * 2.0 ** min(self.state.failures - 1, 20)
        return min(LONGEST_DELAY_S, doubled) * self._dice.uniform(0.5, 1.0)

    def _enter(self, phase: Phase, **changes: Any) -> None:
        if phase is Phase.SUBSCRIBING and not changes["session_present"]:
            self._granted = False
        elif phase is Phase.READY:
            self._granted = self._was_ready = True
        self.state = replace(self.state, phase=phase, since=datetime.now(UTC), **changes)
        if self._on_state is not None:
            self._on_state(self.state)


T = TypeVar("T")


async def _unless(stopping: asyncio.Task[Literal[True]], work: Coroutine[Any, Any, T]) -> T | None:
    """Do something, unless told to stop first."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


class _Link(asyncio.Protocol):
    """One TCP connection: handshake, keepalive, and the way of the messages.

    Attributes:
        generation: Its number.
        outstanding: What it delivered and we have not acknowledged.
        ended: Done when it is over, with the reason.
        ready_s: For how long the session was ready on it, or has been.
    """

    def __init__(
        self,
        options: Options,
        endpoint: Endpoint,
        generation: int,
        counters: Counters,
        on_batch: OnBatch,
    ) -> None:
        self.generation = generation
        self.outstanding = Outstanding()
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.paused = False
        self.must_subscribe = True
        self.on_phase: Callable[..., None] = lambda _phase, **_changes: None
        self._options = options
        self._endpoint = endpoint
        self._counters = counters
        self._on_batch = on_batch
        self._reader = codec.Reader(options.version, max_payload_bytes=options.max_payload_bytes)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._phase = Phase.CONNECTING
        self._error: Exception | None = None
        self._keepalive_s = options.keepalive_s
        self._heard_at = self._loop.time()
        self._wrote_at = self._heard_at
        self._flooded = False  # messages came since the deadline was last looked at
        self._ready_at: float | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None

    @property
    def ready_s(self) -> float:
        return 0.0 if self._ready_at is None else self._loop.time() - self._ready_at

    @property
    def writable(self) -> bool:
        """Whether it is worth writing to."""
        transport = self._transport
        return self._error is None and transport is not None and not transport.is_closing()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP and TLS ones are
        self._transport = transport
        options, endpoint = self._options, self._endpoint
        raw = transport.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            # While reading is paused nothing else tells that the broker's machine is gone.
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2_000 * options.keepalive_s)
        if self.paused:
            transport.pause_reading()
        self.write(
            codec.connect(
                options.version,
                options.client_id,
                clean=options.clean,
                keepalive_s=options.keepalive_s,
                username=endpoint.username,
                password=endpoint.password,
                will=options.will,
                session_expiry_s=0 if options.clean else options.session_expiry_s,
                receive_maximum=options.receive_maximum,
            )
        )
        self._heard_at = self._loop.time()
        self._require_answer()
        self._look_again()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            self._take(data)
        except Exception as fault:  # noqa: BLE001 - `Connection.run` tells faults from bugs
            self.end(fault)
            return
        if self._options.rest_s and len(data) < SMALL_READ_BYTES and self._rest is None:
            assert self._transport is not None  # noqa: S101 - it has just delivered
            self._transport.pause_reading()
            self._rest = self._loop.call_later(self._options.rest_s, self._wake)

    def eof_received(self) -> None:
        self.end(BrokerUnavailable(f"{self._endpoint} hung up"))

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._next_look, self._rest):
            if timer is not None:
                timer.cancel()
        if not self.ended.done():
            why = f": {exc}" if exc is not None else ""
            lost = BrokerUnavailable(f"the connection to {self._endpoint} was lost{why}")
            self.ended.set_result(self._error or lost)

    # What `Connection` calls.

    def write(self, data: bytes) -> None:
        """Send."""
        if self._transport is not None:
            self._wrote_at = self._loop.time()
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Let the broker's bytes lie."""
        self.paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on; only from now on is silence silence."""
        self.paused = False
        self._heard_at = self._loop.time()
        if self._transport is not None and self._rest is None:
            self._transport.resume_reading()

    def _wake(self) -> None:
        self._rest = None
        if self._transport is not None and not self.paused:
            self._transport.resume_reading()

    def leave(self) -> None:
        """Say good-bye and close when all is sent."""
        if self.writable:
            self.write(codec.disconnect(self._options.version))
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def end(self, error: Exception) -> None:
        """Close at once, for a reason."""
        if self._error is None:
            self._error = error
        self.abort()

    # Messages and handshake.

    def _take(self, data: bytes) -> None:
        """Act on what was read.

        Raises:
            IngestError: It ends the connection.
        """
        counters = self._counters
        counters.bytes += len(data)
        batch = self._reader.feed(data)
        for event in batch.events:
            self._answer(event)
        count = len(batch)
        if count:
            self._flooded = True
            counters.messages += count
            counters.oversize += len(batch.oversize)
            counters.redelivered += count - sum(map(batch.flags.count, _SENT_ONCE))
            counters.held_back += self.outstanding.admit(batch)
        if batch.flags or batch.acked:
            batch.generation = self.generation
            self._on_batch(batch)

    def _answer(self, event: Event) -> None:
        """Act on an event.

        Raises:
            IngestError: It ends the connection.
        """
        match event:
            case codec.ConnAck():
                self._let_in(event)
            case codec.SubAck():
                self._granted(event)
            case codec.UnsubAck(packet_id):
                if packet_id != _UNSUBSCRIBE_ID or not self._options.retired_filters:
                    raise ProtocolError("an UNSUBACK nobody asked for")
            case codec.Disconnect(code, reason):
                what = _HUNG_UP.get(code, f"code {code:#x}") + (f" ({reason!r})" if reason else "")
                raise BrokerUnavailable(f"{self._endpoint} hung up: {what}")
            case codec.PublishRefused(packet_id, code):
                log.warning(
                    "%s: %s refused a message of ours with code %#x",
                    self._options.client_id,
                    self._endpoint,
                    code,
                )
            case codec.PingResp():
                pass

    def _let_in(self, answer: codec.ConnAck) -> None:
        options = self._options
        if answer.code:
            raise self._refusal(answer)
        if answer.session_present and options.clean:
            raise ProtocolError("the broker found a session where none was wanted")
        keepalive_s = answer.properties.get(Property.SERVER_KEEP_ALIVE)
        if isinstance(keepalive_s, int) and keepalive_s:
            self._keepalive_s = min(self._keepalive_s, keepalive_s)
            self._look_again()
        self._counters.connections += 1
        self.on_phase(Phase.SUBSCRIBING, session_present=answer.session_present)
        self._phase = Phase.SUBSCRIBING
        if self.must_subscribe and options.retired_filters:
            self.write(codec.unsubscribe(options.version, _UNSUBSCRIBE_ID, options.retired_filters))
        if options.filters and (self.must_subscribe or not answer.session_present):
            self.write(
                codec.subscribe(
                    options.version,
                    _SUBSCRIBE_ID,
                    options.filters,
                    retained_again=not answer.session_present,
                )
            )
            self._require_answer()
        else:
            self._ready()

    def _refusal(self, answer: codec.ConnAck) -> IngestError:
        code = answer.code
        fault = (_FAULTS_3_1_1 if code < 0x80 else _FAULTS_5).get(code)
        name = f"{self._endpoint} does not let client {self._options.client_id!r} in"
        if fault is not None:
            said = answer.properties.get(Property.REASON_STRING)
            server = answer.properties.get(Property.SERVER_REFERENCE)
            more = "".join(f", {text!r}" for text in (said, server) if text)
            return ConnectRefused(f"{name}: {fault} (code {code:#x}{more})", code)
        if code == 3 or code >= 0x80:
            return BrokerUnavailable(f"{name} now: code {code:#x}")
        return ProtocolError(f"CONNACK with reserved code {code}")

    def _granted(self, answer: codec.SubAck) -> None:
        filters = self._options.filters
        if self._phase is not Phase.SUBSCRIBING or answer.packet_id != _SUBSCRIBE_ID:
            raise ProtocolError("a SUBACK nobody asked for")
        if len(answer.codes) != len(filters):
            raise ProtocolError(
                f"a SUBACK with {len(answer.codes)} codes for {len(filters)} filters"
            )
        refused: dict[str, int] = {}
        reasons: list[str] = []
        for (pattern, qos), code in zip(filters, answer.codes, strict=True):
            if code >= 0x80:
                reason = _REFUSED_FILTER.get(code, "refused")
                reasons.append(f"{pattern!r}: {reason} (code {code:#x})")
            elif code < qos:
                reasons.append(f"{pattern!r}: granted with QoS {code}, which may lose messages")
            else:
                continue
            refused[pattern] = code
        if refused:
            raise FilterRefused(
                f"{self._endpoint} does not grant {len(refused)} of {len(filters)} filters: "
                + "; ".join(reasons),
                refused,
            )
        self._ready()

    def _ready(self) -> None:
        self._phase = Phase.READY
        self._ready_at = self._loop.time()
        self.on_phase(Phase.READY)

    # Time.

    def _require_answer(self) -> None:
        """End the handshake if it stands still from now on."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._flooded = False
        self._deadline = self._loop.call_later(OPEN_TIMEOUT_S, self._look_for_answer, self._phase)

    def _look_for_answer(self, phase: Phase) -> None:
        if self._phase is not phase:
            return
        if self.paused or self._flooded:  # the answer lies behind what we have not read
            self._require_answer()
            return
        what = "CONNECT" if phase is Phase.CONNECTING else "SUBSCRIBE"
        self.end(
            BrokerUnavailable(f"{self._endpoint} did not answer {what} in {OPEN_TIMEOUT_S:.0f} s")
        )

    def _look_again(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
        self._next_look = self._loop.call_later(self._keepalive_s / 4, self._keep_alive)

    def _keep_alive(self) -> None:
        """Ping where either side has been quiet for long, give up where the broker was too long."""
        now = self._loop.time()
        assert self._next_look is not None  # noqa: S101 - it has just called
        if now - self._next_look.when() > self._keepalive_s / 4:
            self._heard_at = now  # it was us who slept, and what came meanwhile is not yet read
        silent_s = now - self._heard_at
        if not self.paused and silent_s > 1.5 * self._keepalive_s:
            self.end(BrokerUnavailable(f"{self._endpoint} has been silent for {silent_s:.0f} s"))
            return
        quiet_s = now - self._wrote_at
        if max(quiet_s, 0 if self.paused else silent_s) >= self._keepalive_s / 2:
            self.write(codec.PINGREQ)
        self._look_again()
