"""Reading what a broker sends: bytes in, whole messages and rare events out.

The contract:

- `Reader.feed` takes the bytes of one read of the socket, however they are cut, and returns a
  `Batch` with everything that is complete now; what is not stays in the reader. Or it raises
  `ProtocolError`, and no other error, whatever the bytes; after that the reader is of no use.
- A PUBLISH becomes one entry in each of four parallel lists, not an object: that is the hot path,
  under a microsecond a message. Everything rare is an object in `Batch.events`.
- Bounded: it never holds more than `max_payload_bytes` and a header, plus one read. A larger
  PUBLISH is skipped as it streams past, its place in the batch marked by an `Oversize`; any other
  packet may have 64 KiB. No byte is looked at twice, except the few of a header cut in two.
- What a consumer's broker may not send is an error: a packet type only clients send, a PUBLISH of
  QoS 2 (we never subscribe above 1), any PUBLISH before CONNACK, a packet id of 0, flags that are
  reserved, a padded or endless remaining length, a topic that is empty, not UTF-8, or holds NUL
  or a wildcard. Brokers refuse such topics at the publisher (tried with nats-server 2.15 and
  Mosquitto 2.0), so no device can cause this.
- MQTT 5: the properties of a PUBLISH are walked and forgotten. Topic aliases are never asked for
  (their maximum is 0 unless CONNECT says otherwise), so one is an error, and an empty topic too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ingest.mqtt.codec.wire import (
    ANY_ANSWER,
    CONNACK,
    DISCONNECT,
    Body,
    Properties,
    Property,
    Version,
    check_publish_properties,
    read_variable_integer,
)
from ingest.mqtt.errors import ProtocolError

RETAIN = 0x01
QOS_1 = 0x02
DUP = 0x08
"""Bits of `Batch.flags` (3.3.1): kept by the broker for later subscribers; to be acknowledged;
sent before."""

MAX_CONTROL_BYTES = 65_536
"""Largest packet we take that is not a PUBLISH, and largest property block of one."""

HEAD_BYTES = 65_536
"""How much of a payload above the limit is kept."""

_MAX_KNOWN_TOPICS = 65_536
_MAX_KNOWN_TOPIC_BYTES = 256
_MAX_KNOWN_PROPERTIES = 1_024
_MAX_KNOWN_PROPERTY_BYTES = 127


@dataclass(frozen=True, slots=True)
class ConnAck:
    """The broker's answer to CONNECT (3.2).

    Attributes:
        code: 0 is accepted; else a return code of 3.1.1 (1 to 5) or a reason code of 5 (128 up).
        session_present: The broker still knows this client's session.
        properties: MQTT 5 only.
    """

    code: int
    session_present: bool
    properties: Properties


@dataclass(frozen=True, slots=True)
class SubAck:
    """The broker's answer to SUBSCRIBE (3.9).

    Attributes:
        packet_id: That of the SUBSCRIBE.
        codes: For each filter, granted QoS or 128 up.
        reason: MQTT 5: in the broker's words; may be empty.
    """

    packet_id: int
    codes: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UnsubAck:
    """The broker's answer to UNSUBSCRIBE (3.11).

    Attributes:
        packet_id: That of the UNSUBSCRIBE.
        codes: MQTT 5: one for each filter, below 128 if it is gone.
        reason: MQTT 5: in the broker's words; may be empty.
    """

    packet_id: int
    codes: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PublishRefused:
    """MQTT 5: the broker did not take a message of ours (3.4.2.1).

    Attributes:
        packet_id: The message's.
        code: Why, 128 up.
        reason: In its words; may be empty.
    """

    packet_id: int
    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PingResp:
    """The broker's answer to PINGREQ (3.13)."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """MQTT 5: the broker hangs up (3.14).

    Attributes:
        code: Why.
        reason: In its words; may be empty.
    """

    code: int
    reason: str


Event = ConnAck | SubAck | UnsubAck | PublishRefused | PingResp | Disconnect


@dataclass(frozen=True, slots=True)
class Oversize:
    """What is known of a payload above the limit, beside its first 64 KiB.

    Attributes:
        payload_bytes: Length of the whole payload.
        sha256: Hash of the whole payload.
    """

    payload_bytes: int
    sha256: bytes


class Batch:
    """What one read of the socket completed. Entry i of each of the four lists is one message.

    Attributes:
        topics: Where, checked UTF-8. Equal topics are mostly one object, whose hash is computed
            only once: look them up in a dict of bytes.
        payloads: What; of a message in `oversize` only the first 64 KiB.
        packet_ids: What to acknowledge, 1 to 65,535; 0 for QoS 0.
        flags: First byte of each packet: `DUP`, `QOS_1` and `RETAIN` in its low half.
        oversize: By index, the messages whose payload is above the limit. They are to be
            acknowledged like any other, or they come for ever.
        acked: Packet ids of our own messages that the broker took.
        events: All else.
        generation: Which connection this came by; see `ingest.mqtt.connection`.
    """

    __slots__ = (
        "acked",
        "events",
        "flags",
        "generation",
        "oversize",
        "packet_ids",
        "payloads",
        "topics",
    )

    def __init__(self) -> None:
        self.topics: list[bytes] = []
        self.payloads: list[bytes] = []
        self.packet_ids: list[int] = []
        self.flags = bytearray()
        self.oversize: dict[int, Oversize] = {}
        self.acked: list[int] = []
        self.events: list[Event] = []
        self.generation = 0

    def __len__(self) -> int:
        return len(self.flags)


class _Skipped:
    """A payload above the limit, on its way past."""

    __slots__ = ("flags", "hash", "head", "left", "packet_id", "payload_bytes", "topic")

    def __init__(self, topic: bytes, packet_id: int, flags: int, payload_bytes: int) -> None:
        self.topic = topic
        self.packet_id = packet_id
        self.flags = flags
        self.payload_bytes = payload_bytes
        self.left = payload_bytes
        self.head = bytearray()
        self.hash = hashlib.sha256()

    def pass_by(self, part: memoryview) -> None:
        """Take the next bytes of the payload."""
        self.left -= len(part)
        self.hash.update(part)
        self.head += part[: HEAD_BYTES - len(self.head)]

    def end(self, batch: Batch) -> None:
        """Tell what is known of it."""
        batch.oversize[len(batch)] = Oversize(self.payload_bytes, self.hash.digest())
        batch.topics.append(self.topic)
        batch.payloads.append(bytes(self.head))
        batch.packet_ids.append(self.packet_id)
        batch.flags.append(self.flags)


class Reader:
    """Turns one connection's bytes into messages and events.

    Args:
        version: The protocol of the CONNECT that was sent.
        max_payload_bytes: Payloads above this are skipped; at least 1.
    """

    def __init__(self, version: Version, *, max_payload_bytes: int) -> None:
        self._v5 = version is Version.V5
        self._max_payload_bytes = max_payload_bytes
        self._known_topics: dict[bytes, bytes] = {}
        self._known_properties: set[bytes] = set()  # blocks that were walked
        self._greeted = False
        self._held = bytearray()  # the first part of a packet
        self._needed = 0  # how long `held` has to be before it is worth another look
        self._skipped: _Skipped | None = None

    @property
    def held_bytes(self) -> int:
        """How much of an incomplete packet is in memory."""
        return len(self._held) + (len(self._skipped.head) if self._skipped else 0)

    def feed(self, data: bytes) -> Batch:
        """Take what was read from the socket.

        Args:
            data: Bytes, cut anywhere.

        Returns:
            What is complete now.

        Raises:
            ProtocolError: This is not MQTT as a broker may speak it to us.
        """
        batch = Batch()
        if self._skipped is not None:
            rest = self._skip(data, self._skipped, batch)
            if rest is None:
                return batch
            data = rest
        held = self._held
        if held:
            held += data
            if len(held) < self._needed:
                return batch
            data = bytes(held)
            self._held = bytearray()

        size = len(data)
        at = 0 if self._greeted else self._take_one(data, 0, batch)
        v5 = self._v5
        max_length = self._max_payload_bytes
        known_topic = self._known_topics.get
        known_properties = self._known_properties
        add_topic = batch.topics.append
        add_payload = batch.payloads.append
        add_packet_id = batch.packet_ids.append
        add_flags = batch.flags.append
        header_fits = size - 4
        while 0 <= at < size:
            # The common case: a whole PUBLISH of QoS 0 or 1, on a topic seen before, shorter than
            # 16 KiB. Whatever is not as expected goes to `_take_one`, which knows every case.
            while at < header_fits:
                first = data[at]
                if first & 0xF4 != 0x30:
                    break
                length = data[at + 1]
                start = at + 2
                if length > 127:
                    high = data[start]
                    if not 0 < high < 128:
                        break
                    length += (high << 7) - 128
                    start += 1
                end = start + length
                if end > size or length > max_length:
                    break
                topic_end = start + 2 + (data[start] << 8 | data[start + 1])
                topic = known_topic(data[start + 2 : topic_end])
                if topic is None:
                    break
                if first & 2:
                    start = topic_end + 2
                    if start > end:
                        break
                    packet_id = data[topic_end] << 8 | data[topic_end + 1]
                    if not packet_id:
                        break
                else:
                    start = topic_end
                    packet_id = 0
                    if start > end or first & 8:
                        break
                if v5:
                    if start == end:
                        break
                    length = data[start]
                    start += 1
                    if length:
                        if data[start : start + length] not in known_properties:
                            break
                        start += length
                    if start > end:
                        break
                add_topic(topic)
                add_payload(data[start:end])
                add_packet_id(packet_id)
                add_flags(first)
                at = end
            at = self._take_one(data, at, batch)
        return batch

    def _take_one(self, data: bytes, at: int, batch: Batch) -> int:
        """Take the packet that starts at `at`, whatever it is.

        Returns:
            Where the next one starts; -1 if this one is not complete and was kept for later.
        """
        if at == len(data):
            return -1
        first = data[at]
        kind = first >> 4
        name = _NAMES[kind]
        if not self._greeted and kind != 2:
            raise ProtocolError(f"the broker's first packet is {name}, not CONNACK")
        sized = read_variable_integer(data, at + 1, len(data), f"the remaining length of {name}")
        if kind == 3:
            if first & 0x04:
                raise ProtocolError(f"PUBLISH of QoS {first >> 1 & 3}, above all we subscribe to")
            if first & 0x0A == 0x08:
                raise ProtocolError("PUBLISH of QoS 0 marked as sent before")
            if sized is None:
                return self._keep(data, at, len(data) + 1)
            return self._take_publish(data, at, sized[1], sized[1] + sized[0], batch)
        take = (_TAKE_5 if self._v5 else _TAKE_3_1_1).get(first)
        if take is None:
            raise ProtocolError(f"{name} with flags {first & 15}, which no broker may send us")
        if sized is None:
            return self._keep(data, at, len(data) + 1)
        length, start = sized
        if length > MAX_CONTROL_BYTES:
            raise ProtocolError(f"{name} of {length} bytes")
        end = start + length
        if end > len(data):
            return self._keep(data, at, end)
        if kind == 2:
            if self._greeted:
                raise ProtocolError("a second CONNACK")
            self._greeted = True
        take(Body(data[start:end], name), batch)
        return end

    def _take_publish(self, data: bytes, at: int, start: int, end: int, batch: Batch) -> int:
        """Take the PUBLISH whose topic length is at `start`; the contract is `_take_one`'s.

        Its header is looked at before the rest has come, because only then is it known whether
        the payload is above the limit.
        """
        first = data[at]
        size = len(data)
        topic_start = start + 2
        if topic_start > end:
            raise ProtocolError("PUBLISH without a topic")
        if topic_start > size:
            return self._keep(data, at, topic_start)
        topic_end = topic_start + int.from_bytes(data[start:topic_start], "big")
        payload_start = topic_end + (2 if first & QOS_1 else 0)
        if payload_start > end:
            raise ProtocolError("PUBLISH ends within its topic or packet id")
        if payload_start > size:
            return self._keep(data, at, payload_start)
        packet_id = int.from_bytes(data[topic_end:payload_start], "big")
        if first & QOS_1 and not packet_id:
            raise ProtocolError("PUBLISH with packet id 0")
        if self._v5:
            sized = read_variable_integer(
                data, payload_start, min(end, size), "the property length of PUBLISH"
            )
            if sized is None:
                if size >= end:
                    raise ProtocolError("PUBLISH ends before its properties")
                return self._keep(data, at, size + 1)
            payload_start = sized[0] + sized[1]
            if payload_start > end:
                raise ProtocolError("PUBLISH ends within its properties")
            if sized[0] > MAX_CONTROL_BYTES:
                raise ProtocolError(f"PUBLISH with {sized[0]} bytes of properties")
            if payload_start > size:
                return self._keep(data, at, payload_start)
            if sized[0]:
                self._check_properties(data[sized[1] : payload_start])
        too_large = end - payload_start > self._max_payload_bytes
        if end > size and not too_large:
            return self._keep(data, at, end)
        topic = self._checked_topic(data[topic_start:topic_end])
        if too_large:
            skipped = _Skipped(topic, packet_id, first, end - payload_start)
            rest = self._skip(data[payload_start:], skipped, batch)
            return -1 if rest is None else end
        batch.topics.append(topic)
        batch.payloads.append(data[payload_start:end])
        batch.packet_ids.append(packet_id)
        batch.flags.append(first)
        return end

    def _checked_topic(self, topic: bytes) -> bytes:
        """The one object for a topic, checked once."""
        known = self._known_topics.get(topic)
        if known is not None:
            return known
        if not topic:
            raise ProtocolError("PUBLISH with an empty topic")
        try:
            topic.decode()
        except UnicodeDecodeError as fault:
            raise ProtocolError(f"topic {topic[:80]!r} is not UTF-8: {fault.reason}") from None
        for byte in (b"\0", b"+", b"#"):
            if byte in topic:
                raise ProtocolError(f"topic {topic[:80]!r} holds {byte.decode()!r}")
        if len(topic) <= _MAX_KNOWN_TOPIC_BYTES:
            if len(self._known_topics) >= _MAX_KNOWN_TOPICS:
                self._known_topics.clear()
            self._known_topics[topic] = topic
        return topic

    def _check_properties(self, block: bytes) -> None:
        """Most messages bring the same few, if any: walk those once."""
        if block in self._known_properties:
            return
        check_publish_properties(block)
        if len(block) <= _MAX_KNOWN_PROPERTY_BYTES:
            if len(self._known_properties) >= _MAX_KNOWN_PROPERTIES:
                self._known_properties.clear()
            self._known_properties.add(block)

    def _keep(self, data: bytes, at: int, needed: int) -> int:
        """Hold what begins at `at` until the data would reach `needed`."""
        self._held = bytearray(memoryview(data)[at:])
        self._needed = needed - at
        return -1

    def _skip(self, data: bytes, skipped: _Skipped, batch: Batch) -> bytes | None:
        """Let a payload above the limit pass.

        Returns:
            What follows it; None if more of it is to come.
        """
        count = min(skipped.left, len(data))
        skipped.pass_by(memoryview(data)[:count])
        if skipped.left:
            self._skipped = skipped
            return None
        self._skipped = None
        skipped.end(batch)
        return data[count:]


_NAMES = (
    "reserved packet 0",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
)


def _take_connack(body: Body, batch: Batch) -> None:
    flags = body.integer(1)
    code = body.integer(1)
    properties: Properties = {}
    # A broker that knows only 3.1.1 refuses MQTT 5 in its own way: code 1, no properties.
    if body.left or not code:
        properties = body.properties(CONNACK)
    _end_connack(body, flags, code, properties, batch)


def _take_connack_3_1_1(body: Body, batch: Batch) -> None:
    _end_connack(body, body.integer(1), body.integer(1), {}, batch)


def _end_connack(body: Body, flags: int, code: int, properties: Properties, batch: Batch) -> None:
    body.end()
    if flags > 1:
        raise ProtocolError(f"CONNACK with reserved flags {flags}")
    if flags and code:
        raise ProtocolError(f"CONNACK refuses with code {code} and yet finds a session")
    batch.events.append(ConnAck(code, bool(flags), properties))


def _packet_id(body: Body) -> int:
    packet_id = body.integer(2)
    if not packet_id:
        raise ProtocolError(f"{body.packet} with packet id 0")
    return packet_id


def _reason(body: Body) -> str:
    return str(body.properties(ANY_ANSWER).get(Property.REASON_STRING, ""))


def _take_puback(body: Body, batch: Batch) -> None:
    packet_id = _packet_id(body)
    code = body.integer(1) if body.left else 0
    reason = _reason(body) if body.left else ""
    body.end()
    if code < 128:
        batch.acked.append(packet_id)
    else:
        batch.events.append(PublishRefused(packet_id, code, reason))


def _take_puback_3_1_1(body: Body, batch: Batch) -> None:
    packet_id = _packet_id(body)
    body.end()
    batch.acked.append(packet_id)


def _take_suback(body: Body, batch: Batch) -> None:
    packet_id = _packet_id(body)
    reason = _reason(body)
    _end_suback(body, packet_id, reason, batch)


def _take_suback_3_1_1(body: Body, batch: Batch) -> None:
    _end_suback(body, _packet_id(body), "", batch)


def _end_suback(body: Body, packet_id: int, reason: str, batch: Batch) -> None:
    codes = tuple(body.take(body.left))
    for code in codes:
        if 2 < code < 128:
            raise ProtocolError(f"SUBACK with code {code}")
    batch.events.append(SubAck(packet_id, codes, reason))


def _take_unsuback(body: Body, batch: Batch) -> None:
    packet_id = _packet_id(body)
    reason = _reason(body)
    batch.events.append(UnsubAck(packet_id, tuple(body.take(body.left)), reason))


def _take_unsuback_3_1_1(body: Body, batch: Batch) -> None:
    packet_id = _packet_id(body)
    body.end()
    batch.events.append(UnsubAck(packet_id, ()))


def _take_pingresp(body: Body, batch: Batch) -> None:
    body.end()
    batch.events.append(PingResp())


def _take_disconnect(body: Body, batch: Batch) -> None:
    code = body.integer(1) if body.left else 0
    properties = body.properties(DISCONNECT) if body.left else {}
    body.end()
    reason = str(properties.get(Property.REASON_STRING, ""))
    server = str(properties.get(Property.SERVER_REFERENCE, ""))
    batch.events.append(Disconnect(code, " ".join(filter(None, (reason, server)))))


_TAKE_3_1_1 = {
    0x20: _take_connack_3_1_1,
    0x40: _take_puback_3_1_1,
    0x90: _take_suback_3_1_1,
    0xB0: _take_unsuback_3_1_1,
    0xD0: _take_pingresp,
}
_TAKE_5 = {
    0x20: _take_connack,
    0x40: _take_puback,
    0x90: _take_suback,
    0xB0: _take_unsuback,
    0xD0: _take_pingresp,
    0xE0: _take_disconnect,
}
"""By first byte: a broker's packets, with the flags they must have."""
