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
  they may have changed since the session was made, whenever the broker has no session, and under
  MQTT 5 on every connection, for there it costs nothing to distrust what the broker says of the
  session. A session that the broker has lost is counted, and said. Every code of the SUBACK is
  checked. What is refused before the session was ever ready is raised by
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
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, TypeVar

from ingest.errors import IngestError, Misconfigured
from ingest.mqtt import codec
from ingest.mqtt.codec import ConnAck, Property
from ingest.mqtt.errors import BrokerUnavailable
from ingest.mqtt.link import NO_LIMIT, OPEN_TIMEOUT_S, Counters, Link, OnBatch, Phase
from ingest.mqtt.options import Options, resolve
from ingest.mqtt.reasons import tls_failed

__all__ = ["Connection", "Counters", "OnBatch", "OnState", "Options", "Phase", "State"]

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 2.0
"""For the broker to hang up when we leave."""

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0
STABLE_S = 10.0
"""A session ready for so long has forgotten earlier failures."""


@dataclass(frozen=True, slots=True)
class State:
    """What there is to say of a connection.

    Attributes:
        phase: How far it has come.
        since: Since when.
        generation: Number of the TCP connection, 0 before the first.
        session_present: Whether the broker knew the session, of the last CONNACK. If not, it will
            not deliver again what was unacknowledged then.
        session_lost: Whether it has lost it, of the last CONNACK: it was there earlier in this
            process. What was waiting in it is gone.
        failures: Attempts in a row that did not last.
        error: Why the last connection ended or did not come about.
    """

    phase: Phase
    since: datetime
    generation: int = 0
    session_present: bool = False
    session_lost: bool = False
    failures: int = 0
    error: Exception | None = None


OnState: TypeAlias = Callable[[State], None]


class Connection:
    """One session with a broker, which comes back by itself.

    All methods belong to the event loop that `run` runs in.

    Attributes:
        endpoint: Where it connects.
        counters: What went through.
        state: What there is to say of it.
        receive_maximum: How many messages of ours the broker takes before their PUBACK.
        maximum_packet_bytes: The largest packet it takes.
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
                What it raises ends the connection: an `IngestError` tells of a broker that lies,
                all else is a bug and is raised by `run`.
            on_state: Called after every change of `state`.
            dice: For the jitter between attempts.

        Raises:
            BrokerMisconfigured: The options cannot be right.
        """
        self.endpoint = resolve(options)
        self.counters = Counters()
        self.state = State(Phase.WAITING, datetime.now(UTC))
        self.receive_maximum = codec.MAX_PACKET_ID
        self.maximum_packet_bytes = NO_LIMIT
        self._options = options
        self._on_batch = on_batch
        self._on_state = on_state
        self._dice = dice or random.Random()  # noqa: S311 - jitter
        self._link: Link | None = None
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._was_ready = False
        self._had_session = False
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
            BrokerMisconfigured: The broker does not let us in, or does not grant a filter, or
                one side does not trust the other's certificate; and it never was otherwise.
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
        link.publish(packets)
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
        self._enter(Phase.CONNECTING, generation=generation)
        link = Link(
            self._options,
            endpoint,
            self.counters,
            generation=generation,
            first=not self._granted,
            paused=self.paused,
            on_batch=self._on_batch,
            on_let_in=self._let_in,
            on_ready=self._ready,
        )
        self._link = link
        error: Exception | None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await _unless(
                    stopping,
                    asyncio.get_running_loop().create_connection(
                        lambda: link, endpoint.host, endpoint.port, ssl=endpoint.tls
                    ),
                )
        except ssl.SSLError as fault:
            error = tls_failed(endpoint, fault) or BrokerUnavailable(
                f"{endpoint} cannot be reached by TLS: {fault}"
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

    def _let_in(self, answer: ConnAck) -> None:
        if not answer.session_present:
            self._granted = False
        stated = answer.properties
        self.receive_maximum = int(stated.get(Property.RECEIVE_MAXIMUM, codec.MAX_PACKET_ID))
        self.maximum_packet_bytes = int(stated.get(Property.MAXIMUM_PACKET_SIZE, NO_LIMIT))
        lost = self._had_session and not answer.session_present
        if not self._options.clean:
            self._had_session = True
            self._tell_of_session(answer, lost=lost)
        self._enter(Phase.SUBSCRIBING, session_present=answer.session_present, session_lost=lost)

    def _tell_of_session(self, answer: ConnAck, *, lost: bool) -> None:
        options = self._options
        if lost:
            log.warning(
                "%s: %s has lost the session, and what waited in it; subscribing again",
                options.client_id,
                self.endpoint,
            )
        elif not answer.session_present:
            log.info("%s: a new session at %s", options.client_id, self.endpoint)
        kept_s = answer.properties.get(Property.SESSION_EXPIRY, options.session_expiry_s)
        if int(kept_s) < options.session_expiry_s:
            log.warning(
                "%s: %s keeps the session for %s s while we are away, not for %d s",
                options.client_id,
                self.endpoint,
                kept_s,
                options.session_expiry_s,
            )

    def _ready(self) -> None:
        self._granted = self._was_ready = True
        self._enter(Phase.READY)

    def _enter(self, phase: Phase, **changes: Any) -> None:
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
