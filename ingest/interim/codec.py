"""The MQTT codec of a consumer: bytes in, batches and events out; no I/O, no clock.

Contract of `Reader.feed`:

    for any bytes, cut anywhere, it returns what the packets completed by them held, or raises
    `ProtocolError` and is of no further use; it never raises anything else, never keeps more
    than one packet within the limits, and looks at every byte once.

PUBLISHes, which are nearly everything, go into parallel lists instead of objects. Whatever is
rare is an event object. A PUBLISH whose payload is above the limit is skipped while streaming:
its hash, its length and its first bytes are told in its place.

The subset: MQTT 3.1.1 and 5 as a client that subscribes with QoS 0 or 1, and publishes with
QoS 0 or 1 (simulators, benchmarks). No QoS 2, no topic aliases (we offer none), no AUTH.
Sources: OASIS MQTT 3.1.1 (2014) and MQTT 5.0 (2019), section numbers in brackets.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from ingest.interim.errors import ProtocolError

Version: TypeAlias = Literal["3.1.1", "5"]

MAX_CONTROL_BYTES = 65_536
"""Longest packet that is no PUBLISH: a SUBACK or a DISCONNECT with its reason is far smaller."""

MAX_PROPERTY_BYTES = 65_536
"""Longest properties of a PUBLISH (MQTT 5)."""

KEPT_BYTES = 65_536
"""How much is kept of a payload above the limit."""

MAX_REMEMBERED_TOPICS = 200_000
"""Topics known to be well formed; beyond, each is looked at again."""

_UNFIT = frozenset("+#\0")


@dataclass(slots=True)
class Publishes:
    """Received messages; entry i of each list is one.

    Attributes:
        topics: UTF-8, well formed.
        payloads: The bytes; of an oversized message the first ones.
        packet_ids: What is to be acknowledged; 0 for QoS 0.
        flags: Low half of the fixed header's first byte: DUP 8, QoS 1 as 2, RETAIN 1.
        oversized: By index: true length and SHA-256 of payloads above the limit.
    """

    topics: list[bytes] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    packet_ids: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    oversized: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.topics)


@dataclass(frozen=True, slots=True)
class Connack:
    """The broker's answer to CONNECT.

    Attributes:
        session_present: Whether it remembers our session.
        code: 0 accepted; else the reason of our version [3.2.2].
        receive_maximum: How many unacknowledged messages we may send it (MQTT 5).
    """

    session_present: bool
    code: int
    receive_maximum: int = 65_535


@dataclass(frozen=True, slots=True)
class Suback:
    """The broker's answer to SUBSCRIBE: a code for each filter; 128 and above are refusals."""

    packet_id: int
    codes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unsuback:
    """The broker's answer to UNSUBSCRIBE."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Puback:
    """The broker took a message of ours; a code of 128 and above refuses it (MQTT 5)."""

    packet_id: int
    code: int = 0


@dataclass(frozen=True, slots=True)
class Pingresp:
    """The broker is alive."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The broker says good-bye (MQTT 5)."""

    code: int


Event: TypeAlias = Connack | Suback | Unsuback | Puback | Pingresp | Disconnect


class _Skipping:
    """A payload above the limit, on its way past us."""

    def __init__(self, topic: bytes, packet_id: int, flags: int, length: int) -> None:
        self.topic = topic
        self.packet_id = packet_id
        self.flags = flags
        self.length = length
        self.left = length
        self._hash = hashlib.sha256()
        self._kept = bytearray()

    def take(self, data: memoryview) -> int:
        """Look at what belongs to the payload; return how much that was."""
        part = data[: self.left]
        self._hash.update(part)
        if len(self._kept) < KEPT_BYTES:
            self._kept += part[: KEPT_BYTES - len(self._kept)]
        self.left -= len(part)
        return len(part)

    def finish(self, into: Publishes) -> None:
        """Tell what is known of it in its place."""
        into.oversized[len(into)] = (self.length, self._hash.digest())
        into.topics.append(self.topic)
        into.payloads.append(bytes(self._kept))
        into.packet_ids.append(self.packet_id)
        into.flags.append(self.flags)


class Reader:
    """Reads what a broker sends."""

    def __init__(self, version: Version = "3.1.1", max_payload_bytes: int = 268_435_455) -> None:
        """Start at the beginning of a connection.

        Args:
            version: What CONNECT said.
            max_payload_bytes: Payloads above are skipped while streaming.
        """
        self._five = version == "5"
        self._limit = max_payload_bytes
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 2
        self._skipping: _Skipping | None = None
        self._fit: set[bytes] = set()

    def feed(self, data: bytes) -> tuple[Publishes, list[Event]]:
        """Take bytes in.

        Args:
            data: As the socket gave them.

        Returns:
            The messages and the other packets completed by them, each in order.

        Raises:
            ProtocolError: They are not what a broker may send.
        """
        publishes = Publishes()
        events: list[Event] = []
        if self._skipping is not None:
            taken = self._skipping.take(memoryview(data))
            if self._skipping.left:
                return publishes, events
            self._skipping.finish(publishes)
            self._skipping = None
            data = data[taken:]
        elif self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return publishes, events
            data = b"".join(self._parts)
            self._parts.clear()
        rest = self._read(data, publishes, events)
        if rest < len(data):
            self._parts.append(data[rest:])
            self._have = len(data) - rest
        return publishes, events

    def _read(self, data: bytes, publishes: Publishes, events: list[Event]) -> int:
        """Read all complete packets; return where the first incomplete one begins."""
        size = len(data)
        at = 0
        five, limit, fit = self._five, self._limit, self._fit
        add_topic, add_payload = publishes.topics.append, publishes.payloads.append
        add_id, add_flags = publishes.packet_ids.append, publishes.flags.append
        while size - at >= 2:
            first = data[at]
            length = data[at + 1]
            body = at + 2
            if length >= 0x80:
                length, body = _read_length(data, at + 1, size)
                if body == 0:
                    self._need = size - at + 1
                    return at
            end = body + length
            if first >> 4 != 3:
                if length > MAX_CONTROL_BYTES:
                    raise ProtocolError(f"a packet of type {first >> 4} and {length} bytes")
                if end > size:
                    self._need = end - at
                    return at
                events.append(_read_control(first, data[body:end], five=five))
                at = end
                continue
            if length > limit and self._begin_skipping(data, at, body, end):
                at = self._skip(data, publishes)
                if self._skipping is not None:
                    return at
                continue
            if end > size:
                # While a payload above the limit is not ruled out, only its header is waited for.
                self._need = (
                    end - at if length <= limit else min(end, body + _header_most(five)) - at
                )
                if length > limit and size >= body + _header_most(five):
                    self._need = end - at
                return at
            if length < 2:
                raise ProtocolError("a PUBLISH without a topic")
            topic_end = body + 2 + (data[body] << 8 | data[body + 1])
            payload_at = topic_end
            packet_id = 0
            qos = first & 0b0110
            if qos == 0b0010:
                payload_at += 2
                if payload_at > end:
                    raise ProtocolError("a PUBLISH shorter than its topic and id")
                packet_id = data[topic_end] << 8 | data[topic_end + 1]
                if packet_id == 0:
                    raise ProtocolError("a PUBLISH with packet id 0")
            elif qos:
                raise ProtocolError("a PUBLISH with a QoS we did not ask for")
            elif first & 0b1000:
                raise ProtocolError("a PUBLISH of QoS 0 marked as sent before")
            if payload_at > end:
                raise ProtocolError("a PUBLISH shorter than its topic")
            topic = data[body + 2 : topic_end]
            if topic not in fit:
                self._require_fit(topic)
            if five:
                payload_at = _skip_properties(data, payload_at, end)
            add_topic(topic)
            add_payload(data[payload_at:end])
            add_id(packet_id)
            add_flags(first & 0x0F)
            at = end
        self._need = 2
        return at

    def _require_fit(self, topic: bytes) -> None:
        try:
            text = topic.decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("a topic that is not UTF-8") from None
        if not text or not _UNFIT.isdisjoint(text):
            raise ProtocolError("a topic that is empty, or holds a wildcard or NUL")
        if len(self._fit) < MAX_REMEMBERED_TOPICS:
            self._fit.add(topic)

    def _begin_skipping(self, data: bytes, at: int, body: int, end: int) -> bool:
        """Look whether a long PUBLISH's payload is above the limit, as far as can be seen yet."""
        header = data[body : min(end, len(data), body + _header_most(self._five))]
        if len(header) < 2:
            return False
        first = data[at]
        topic_end = 2 + (header[0] << 8 | header[1])
        place = topic_end + (2 if first & 0b0110 else 0)
        if place > end - body:
            raise ProtocolError("a PUBLISH shorter than its topic and id")
        if place > len(header):
            return False
        packet_id = 0
        if first & 0b0110 == 0b0010:
            packet_id = header[topic_end] << 8 | header[topic_end + 1]
            if packet_id == 0:
                raise ProtocolError("a PUBLISH with packet id 0")
        elif first & 0b0110:
            raise ProtocolError("a PUBLISH with a QoS we did not ask for")
        elif first & 0b1000:
            raise ProtocolError("a PUBLISH of QoS 0 marked as sent before")
        topic = header[2:topic_end]
        self._require_fit(topic)
        if self._five:
            length, place_after = _read_length(header, place, len(header))
            if place_after == 0:
                return False
            if length > MAX_PROPERTY_BYTES or place_after + length > end - body:
                raise ProtocolError("a PUBLISH shorter than its properties")
            place = place_after + length
            if place > len(header):
                return False
        payload_bytes = end - body - place
        if payload_bytes <= self._limit:
            return False
        self._skipping = _Skipping(topic, packet_id, first & 0x0F, payload_bytes)
        self._skip_from = body + place
        return True

    def _skip(self, data: bytes, publishes: Publishes) -> int:
        """Take what is there of a payload above the limit; return where it goes on."""
        skipping = self._skipping
        assert skipping is not None  # noqa: S101 - `_begin_skipping` said so
        taken = skipping.take(memoryview(data)[self._skip_from :])
        if skipping.left == 0:
            skipping.finish(publishes)
            self._skipping = None
        return self._skip_from + taken


def _header_most(five: bool) -> int:
    """Longest variable header of a PUBLISH: topic, id, and in MQTT 5 the properties."""
    return 2 + 65_535 + 2 + (4 + MAX_PROPERTY_BYTES if five else 0)


def _read_length(data: bytes, at: int, size: int) -> tuple[int, int]:
    """Read a variable byte integer [1.5.5]; return it and where it ends, 0 if it is cut off."""
    value = 0
    for shift in (0, 7, 14, 21):
        if at >= size:
            return 0, 0
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise ProtocolError("a length written longer than it needs")
            return value, at
    raise ProtocolError("a length of more than four bytes")


def _skip_properties(data: bytes, at: int, end: int) -> int:
    length, after = _read_length(data, at, end)
    if after == 0 or after + length > end:
        raise ProtocolError("a packet shorter than its properties")
    return after + length


_PROPERTY_SIZES = {0x01: 1, 0x17: 1, 0x19: 1, 0x24: 1, 0x25: 1, 0x28: 1, 0x29: 1, 0x2A: 1} | (
    {0x13: 2, 0x21: 2, 0x22: 2, 0x23: 2} | {0x02: 4, 0x11: 4, 0x18: 4, 0x27: 4}
)
_PROPERTY_TEXTS = frozenset({0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F})


def _read_properties(data: bytes, at: int) -> tuple[dict[int, int], int]:
    """Read a control packet's properties [2.2.2]; numbers are kept, texts passed over."""
    length, at = _read_length(data, at, len(data))
    end = at + length
    if at == 0 or end > len(data):
        raise ProtocolError("a packet shorter than its properties")
    numbers: dict[int, int] = {}
    while at < end:
        name = data[at]
        at += 1
        size = _PROPERTY_SIZES.get(name)
        if size is not None:
            numbers[name] = int.from_bytes(data[at : at + size], "big")
            at += size
        elif name == 0x0B:
            numbers[name], at = _read_length(data, at, end)
            if at == 0:
                break
        elif name in _PROPERTY_TEXTS or name == 0x26:
            for _ in range(2 if name == 0x26 else 1):
                at += 2 + int.from_bytes(data[at : at + 2], "big")
        else:
            raise ProtocolError(f"an unknown property {name:#x}")
    if at != end:
        raise ProtocolError("a packet whose properties do not end where they say")
    return numbers, end


def _read_control(first: int, body: bytes, *, five: bool) -> Event:
    if first & 0x0F:
        raise ProtocolError(f"a packet of type {first >> 4} with reserved flags set")
    match first >> 4:
        case 2:
            return _read_connack(body, five=five)
        case 4:
            if len(body) < 2 or (len(body) != 2 and not five):
                raise ProtocolError(f"a PUBACK of {len(body)} bytes")
            if len(body) > 3:
                _, end = _read_properties(body, 3)
                _require_end(end, body, "PUBACK")
            return Puback(_packet_id(body), body[2] if len(body) > 2 else 0)
        case 9:
            packet_id, at = _packet_id(body), 2
            if five:
                _, at = _read_properties(body, 2)
            codes = tuple(body[at:])
            known = {0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}
            if not codes or not known.issuperset(codes):
                raise ProtocolError(f"a SUBACK with the codes {codes}")
            return Suback(packet_id, codes)
        case 11:
            packet_id = _packet_id(body)
            if not five and len(body) != 2:
                raise ProtocolError(f"an UNSUBACK of {len(body)} bytes")
            return Unsuback(packet_id)
        case 13:
            if body:
                raise ProtocolError("a PINGRESP that is not empty")
            return Pingresp()
        case 14 if five:
            if len(body) > 1:
                _, end = _read_properties(body, 1)
                _require_end(end, body, "DISCONNECT")
            return Disconnect(body[0] if body else 0)
    raise ProtocolError(f"a packet of type {first >> 4}, which no broker may send us")


def _read_connack(body: bytes, *, five: bool) -> Connack:
    if len(body) < 2 or (len(body) != 2 and not five) or body[0] > 1:
        raise ProtocolError("a malformed CONNACK")
    numbers: dict[int, int] = {}
    if five and len(body) > 2:
        numbers, end = _read_properties(body, 2)
        _require_end(end, body, "CONNACK")
    if body[1] and body[0]:
        raise ProtocolError("a CONNACK that refuses us and has a session")
    return Connack(bool(body[0]), body[1], numbers.get(0x21, 65_535))


def _require_end(end: int, body: bytes, name: str) -> None:
    if end != len(body):
        raise ProtocolError(f"a {name} with {len(body) - end} bytes too many")


def _packet_id(body: bytes) -> int:
    packet_id = int.from_bytes(body[:2], "big")
    if len(body) < 2 or packet_id == 0:
        raise ProtocolError("a packet without its id")
    return packet_id


def _length(value: int) -> bytes:
    """Write a variable byte integer [1.5.5]."""
    if value > 268_435_455:
        raise ValueError(f"no MQTT packet is {value} bytes long")
    out = bytearray()
    while True:
        value, byte = value >> 7, value & 0x7F
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(encoded)) + encoded


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _length(len(body)) + body


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when we are lost.

    Attributes:
        topic: Where.
        payload: What.
        qos: 0 or 1.
        retain: Whether it is kept.
    """

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = True


def connect(
    client_id: str,
    *,
    version: Version = "3.1.1",
    clean: bool = False,
    keepalive_s: int = 30,
    username: str | None = None,
    password: str | None = None,
    will: Will | None = None,
    session_expiry_s: int = 0xFFFF_FFFF,
    receive_maximum: int = 65_535,
) -> bytes:
    """Write a CONNECT [3.1].

    Args:
        client_id: Who we are.
        version: "3.1.1" or "5".
        clean: Whether to forget an earlier session.
        keepalive_s: Longest silence of ours, seconds.
        username: None for none.
        password: None for none.
        will: What is said when we are lost.
        session_expiry_s: How long the broker is to remember us (MQTT 5); all ones: for ever.
        receive_maximum: Most unacknowledged messages it may send us (MQTT 5).

    Returns:
        The packet.
    """
    five = version == "5"
    flags = 0b10 if clean else 0
    body = b""
    if five:
        properties = struct.pack(">BI", 0x11, session_expiry_s)
        properties += struct.pack(">BH", 0x21, receive_maximum)
        body += _length(len(properties)) + properties
    body += _text(client_id)
    if will is not None:
        flags |= 0b100 | will.qos << 3 | will.retain << 5
        body += (b"\0" if five else b"") + _text(will.topic) + _text(will.payload)
    if username is not None:
        flags |= 0b1000_0000
        body += _text(username)
    if password is not None:
        flags |= 0b0100_0000
        body += _text(password)
    head = _text("MQTT") + struct.pack(">BBH", 5 if five else 4, flags, keepalive_s)
    return _packet(0x10, head + body)


def subscribe(
    packet_id: int, filters: Iterable[tuple[str, int]], *, version: Version = "3.1.1"
) -> bytes:
    """Write a SUBSCRIBE [3.8].

    Args:
        packet_id: 1 to 65,535.
        filters: Topic filters, each with the highest QoS wanted.
        version: "3.1.1" or "5".

    Returns:
        The packet.
    """
    body = struct.pack(">H", packet_id) + (b"\0" if version == "5" else b"")
    for topic_filter, qos in filters:
        body += _text(topic_filter) + bytes((qos,))
    return _packet(0x82, body)


def pubacks(packet_ids: Sequence[int]) -> bytes:
    """Write the PUBACKs of many messages as one piece [3.4].

    Args:
        packet_ids: In the order received, as the standard asks.

    Returns:
        The packets; the same bytes in both versions.
    """
    packets = np.empty((len(packet_ids), 2), ">u2")
    packets[:, 0] = 0x4002
    packets[:, 1] = packet_ids
    return packets.tobytes()


PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
"""Without a reason: the same bytes in both versions."""


def publish(
    topic: str | bytes,
    payload: bytes,
    *,
    packet_id: int = 0,
    retain: bool = False,
    duplicate: bool = False,
    version: Version = "3.1.1",
) -> bytes:
    """Write a PUBLISH [3.3].

    Args:
        topic: Where.
        payload: What.
        packet_id: 1 to 65,535 for QoS 1; 0 for QoS 0.
        retain: Whether the broker is to keep it.
        duplicate: Whether it was sent before.
        version: "3.1.1" or "5".

    Returns:
        The packet.
    """
    if isinstance(topic, str):
        topic = topic.encode()
    first = 0x30 | bool(packet_id) << 1 | retain | (duplicate and packet_id > 0) << 3
    head = len(topic).to_bytes(2, "big") + topic
    if packet_id:
        head += packet_id.to_bytes(2, "big")
    if version == "5":
        head += b"\0"
    return b"".join((bytes((first,)), _length(len(head) + len(payload)), head, payload))
