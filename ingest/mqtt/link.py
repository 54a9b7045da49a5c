"""One TCP connection to a broker: handshake, keepalive, and the way of the messages.

What outlives it, the session, is `ingest.mqtt.connection`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from ingest.mqtt import codec, reasons
from ingest.mqtt.codec import Batch, ConnAck, Event, Property, Version
from ingest.mqtt.errors import BrokerMisconfigured, BrokerUnavailable, ProtocolError
from ingest.mqtt.options import Endpoint, Options
from ingest.mqtt.outstanding import Outstanding

OPEN_TIMEOUT_S = 10.0
"""For the TCP and TLS handshakes, for the CONNACK, and for the SUBACK, each."""

SMALL_READ_BYTES = 32_768
"""After a larger read more is waiting: no rest then."""

NO_LIMIT = 1 << 32
"""Above the largest packet size (5: 3.2.2.3.6) that a broker can state."""

_SENT_ONCE = (0x30, 0x31, 0x32, 0x33)
"""First bytes of a PUBLISH without DUP."""

_SUBSCRIBE_ID = 1
_UNSUBSCRIBE_ID = 2


class Phase(StrEnum):
    """How far a connection has come."""

    WAITING = "waiting"
    """Not connected: at the start, between attempts, or paused by the consumer."""
    CONNECTING = "connecting"
    SUBSCRIBING = "subscribing"
    """Let in; messages may come already."""
    READY = "ready"
    STOPPED = "stopped"


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


class Link(asyncio.Protocol):
    """One TCP connection.

    Attributes:
        generation: Its number.
        outstanding: What it delivered and we have not acknowledged.
        ended: Done when it is over, with the reason.
        paused: The consumer wants nothing to be read.
    """

    def __init__(
        self,
        options: Options,
        endpoint: Endpoint,
        counters: Counters,
        *,
        generation: int,
        first: bool,
        paused: bool,
        on_batch: OnBatch,
        on_let_in: Callable[[ConnAck], None],
        on_ready: Callable[[], None],
    ) -> None:
        """Prepare; asyncio makes the connection.

        Args:
            options: What to hear, and how.
            endpoint: Where to, with what credentials.
            counters: Counted into.
            generation: Its number.
            first: Subscribe even if the broker knows the session, and end what is retired.
            paused: Read nothing before `resume_reading`.
            on_batch: Called with what each read brought.
            on_let_in: Called with the CONNACK, if it lets us in.
            on_ready: Called when every filter is granted.
        """
        self.generation = generation
        self.outstanding = Outstanding()
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.paused = paused
        self._first = first
        self._on_let_in = on_let_in
        self._on_ready = on_ready
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
        self._leaving = False
        self._subscribing = False
        self._unsubscribing = False  # asked for, and not answered, like the one above
        self._published = False
        self._largest = NO_LIMIT
        self._pings = 0  # not answered yet
        self._flooded = False  # messages came since the deadline was last looked at
        self._ready_at: float | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._rest: asyncio.TimerHandle | None = None

    @property
    def ready_s(self) -> float:
        """For how long the session is or was ready on it."""
        return 0.0 if self._ready_at is None else self._loop.time() - self._ready_at

    @property
    def writable(self) -> bool:
        """Whether it is worth writing to."""
        transport = self._transport
        over = self._leaving or self._error is not None
        return not over and transport is not None and not transport.is_closing()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves."""
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
        """Take what one read of the socket brought."""
        if self._leaving:
            return
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
        """Note that the broker has hung up."""
        self.end(BrokerUnavailable(f"{self._endpoint} hung up"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell why it is over."""
        for timer in (self._deadline, self._next_look, self._rest):
            if timer is not None:
                timer.cancel()
        if not self.ended.done():
            self.ended.set_result(self._error or self._loss(exc))

    def _loss(self, fault: Exception | None) -> Exception:
        if isinstance(fault, ssl.SSLError) and self._phase is Phase.CONNECTING:
            # Since TLS 1.3 a broker looks at our certificate after the handshake is over for us.
            refused = reasons.tls_failed(self._endpoint, fault)
            if refused is not None:
                return refused
        why = f": {fault}" if fault is not None else ""
        return BrokerUnavailable(f"the connection to {self._endpoint} was lost{why}")

    # What `Connection` calls.

    def publish(self, packets: bytes) -> None:
        """Send PUBLISHes; only now may PUBACKs come."""
        self._published = True
        self.write(packets)

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
        if self._transport is None or self.ended.done():
            return
        self._heard_at = self._loop.time()
        if self._phase is not Phase.READY:
            self._require_answer()
        if self._rest is None:
            self._transport.resume_reading()

    def _wake(self) -> None:
        self._rest = None
        if self._transport is not None and not self.paused:
            self._transport.resume_reading()

    def leave(self) -> None:
        """Say good-bye; the broker hangs up when it has read that and all before it.

        Closing ourselves while there is something unread would reset the connection, and the
        broker might never see the last acknowledgements.
        """
        if self._transport is None or not self.writable:
            self.end(BrokerUnavailable("left before the connection was made"))
            return
        self.write(codec.disconnect(self._options.version))
        self._leaving = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.resume_reading()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def end(self, error: Exception) -> None:
        """Close at once, for a reason."""
        if self._error is None:
            self._error = error
        if self._transport is None and not self.ended.done():
            self.ended.set_result(error)
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
        answered = bool(batch.acked) or codec.PublishRefused in map(type, batch.events)
        if answered and not self._published:
            raise ProtocolError("a PUBACK for what we did not send")
        if batch.flags or answered:
            batch.generation = self.generation
            self._on_batch(batch)

    def _answer(self, event: Event) -> None:
        """Act on an event.

        Raises:
            IngestError: It ends the connection.
        """
        match event:
            case ConnAck():
                self._let_in(event)
            case codec.SubAck():
                self._granted(event)
            case codec.UnsubAck():
                self._released(event)
            case codec.Disconnect():
                raise reasons.hung_up(self._endpoint, event)
            case codec.PublishRefused():
                pass  # the publisher's
            case codec.PingResp():
                self._pings -= 1
                if self._pings < 0:
                    raise ProtocolError("a PINGRESP nobody asked for")

    def _let_in(self, answer: ConnAck) -> None:
        options, stated = self._options, answer.properties
        if answer.code:
            raise reasons.connect_refused(self._endpoint, options.client_id, answer)
        if answer.session_present and options.clean:
            raise ProtocolError("the broker found a session where none was wanted")
        assigned = stated.get(Property.ASSIGNED_CLIENT_ID, options.client_id)
        if assigned != options.client_id:
            # The session would be another's, and gone with the next connection.
            raise ProtocolError(f"the broker renames the client{reasons.said(assigned)}")
        keepalive_s = stated.get(Property.SERVER_KEEP_ALIVE)
        if isinstance(keepalive_s, int) and keepalive_s:
            self._keepalive_s = min(self._keepalive_s, keepalive_s)
            self._look_again()
        self._counters.connections += 1
        self._phase = Phase.SUBSCRIBING
        self._on_let_in(answer)
        if missing := reasons.filters_missing(self._endpoint, options.filters, stated):
            raise missing
        self._largest = int(stated.get(Property.MAXIMUM_PACKET_SIZE, NO_LIMIT))
        # MQTT 5 lets us ask again without being sent the retained messages again: so what a
        # broker says of its session need not be believed.
        if options.filters and (
            self._first or not answer.session_present or options.version is Version.V5
        ):
            self._write_limited(
                codec.subscribe(
                    options.version,
                    _SUBSCRIBE_ID,
                    options.filters,
                    retained_again=not answer.session_present,
                ),
                "SUBSCRIBE",
            )
            self._subscribing = True
            self._require_answer()
        else:
            self._release()

    def _release(self) -> None:
        """End what is retired: only now that the others are granted, lest nobody hears a message.

        Under both, for a moment, a message may come twice.
        """
        options = self._options
        if self._first and options.retired_filters:
            self._write_limited(
                codec.unsubscribe(options.version, _UNSUBSCRIBE_ID, options.retired_filters),
                "UNSUBSCRIBE",
            )
            self._unsubscribing = True
            self._require_answer()
        else:
            self._ready()

    def _write_limited(self, packet: bytes, name: str) -> None:
        if len(packet) > self._largest:
            raise BrokerMisconfigured(
                f"{self._endpoint} takes packets of at most {self._largest} bytes,"
                f" and {name} has {len(packet)}"
            )
        self.write(packet)

    def _granted(self, answer: codec.SubAck) -> None:
        filters = self._options.filters
        if not self._subscribing or answer.packet_id != _SUBSCRIBE_ID:
            raise ProtocolError("a SUBACK nobody asked for")
        if len(answer.codes) != len(filters):
            raise ProtocolError(
                f"a SUBACK with {len(answer.codes)} codes for {len(filters)} filters"
            )
        if refused := reasons.filters_refused(self._endpoint, filters, answer):
            raise refused
        self._subscribing = False
        self._release()

    def _released(self, answer: codec.UnsubAck) -> None:
        filters = self._options.retired_filters
        if not self._unsubscribing or answer.packet_id != _UNSUBSCRIBE_ID:
            raise ProtocolError("an UNSUBACK nobody asked for")
        if self._options.version is Version.V5:
            if len(answer.codes) != len(filters):
                raise ProtocolError(
                    f"an UNSUBACK with {len(answer.codes)} codes for {len(filters)} filters"
                )
            if kept := reasons.filters_kept(self._endpoint, filters, answer):
                raise kept
        self._unsubscribing = False
        self._ready()

    def _ready(self) -> None:
        self._phase = Phase.READY
        self._ready_at = self._loop.time()
        self._on_ready()

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
        if self._leaving:
            return
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
            self._pings += 1
            self.write(codec.PINGREQ)
        self._look_again()
