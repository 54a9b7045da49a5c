"""Writing what a client sends: each function returns the bytes of one packet, or of many.

All of them are strict: what MQTT does not allow raises `ValueError`, for it is a bug of the
caller, who has to check what people configured.
"""

from __future__ import annotations

import array
import itertools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ingest.mqtt.codec.wire import (
    MAX_STRING_BYTES,
    Property,
    Version,
    binary,
    string,
    variable_integer,
)

PINGREQ = b"\xc0\x00"

MAX_PACKET_ID = 65_535

NEVER_EXPIRES = 0xFFFF_FFFF
"""A session expiry (5: 3.1.2.11.2) that never comes."""


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when the connection is lost (3.1.2.5).

    Attributes:
        topic: Where.
        payload: What, at most 65,535 bytes.
        qos: 0 or 1.
        retain: Keep it for later subscribers.
    """

    topic: str
    payload: bytes = field(repr=False)
    qos: int = 1
    retain: bool = False


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + variable_integer(len(body)) + body


def _identified(packet_id: int) -> bytes:
    if not 0 < packet_id <= MAX_PACKET_ID:
        raise ValueError(f"packet id {packet_id} is not between 1 and 65535")
    return packet_id.to_bytes(2, "big")


def _qos(qos: int) -> int:
    if qos not in (0, 1):
        raise ValueError(f"QoS {qos} is not spoken here")
    return qos


def connect(
    version: Version,
    client_id: str,
    *,
    clean: bool,
    keepalive_s: int,
    username: str | None = None,
    password: str | None = None,
    will: Will | None = None,
    session_expiry_s: int = NEVER_EXPIRES,
    receive_maximum: int = MAX_PACKET_ID,
) -> bytes:
    """Write CONNECT (3.1).

    Args:
        version: The protocol.
        client_id: Names the session at the broker.
        clean: Forget the session there may be. Under 3.1.1 the new one then ends with the
            connection; under 5 `session_expiry_s` says so.
        keepalive_s: The broker may hang up after one and a half times this of silence; 0 is never.
        username: User name, if any.
        password: Its password, if any.
        will: What to publish when the connection is lost.
        session_expiry_s: MQTT 5: how long the broker keeps the session without a connection.
        receive_maximum: MQTT 5: how many messages may be unacknowledged at once.

    Returns:
        The packet, which holds the password.
    """
    if password is not None and username is None and version is not Version.V5:
        raise ValueError("MQTT 3.1.1 has no password without a user name")
    flags = (
        (clean << 1)
        | (will is not None) << 2
        | (_qos(will.qos) << 3 | will.retain << 5 if will else 0)
        | (password is not None) << 6
        | (username is not None) << 7
    )
    parts = [string("MQTT"), bytes((version.level, flags)), keepalive_s.to_bytes(2, "big")]
    if version is Version.V5:
        if not receive_maximum:
            raise ValueError("a receive maximum of 0 is not allowed")
        properties = bytes((Property.SESSION_EXPIRY,)) + session_expiry_s.to_bytes(4, "big")
        properties += bytes((Property.RECEIVE_MAXIMUM,)) + receive_maximum.to_bytes(2, "big")
        # Never a maximum packet size: a broker drops what is larger without a word (3.1.2-25).
        parts += [variable_integer(len(properties)), properties]
    parts.append(string(client_id))
    if will is not None:
        parts += [b"\0"] if version is Version.V5 else []
        parts += [string(will.topic), binary(will.payload)]
    parts += [string(part) for part in (username, password) if part is not None]
    return _packet(0x10, b"".join(parts))


def subscribe(
    version: Version,
    packet_id: int,
    filters: Sequence[tuple[str, int]],
    *,
    retained_again: bool = True,
) -> bytes:
    """Write SUBSCRIBE (3.8).

    Args:
        version: The protocol.
        packet_id: Which the SUBACK will name.
        filters: Topic filters, each with the highest QoS wanted, 0 or 1.
        retained_again: Send retained messages even for subscriptions that are already there;
            under 3.1.1 brokers always do.
    """
    if not filters:
        raise ValueError("SUBSCRIBE without a filter")
    handling = 0x10 if version is Version.V5 and not retained_again else 0
    parts = [_identified(packet_id), b"\0" if version is Version.V5 else b""]
    for pattern, qos in filters:
        parts += [string(pattern), bytes((_qos(qos) | handling,))]
    return _packet(0x82, b"".join(parts))


def unsubscribe(version: Version, packet_id: int, filters: Sequence[str]) -> bytes:
    """Write UNSUBSCRIBE (3.10).

    Args:
        version: The protocol.
        packet_id: Which the UNSUBACK will name.
        filters: As they were subscribed.
    """
    if not filters:
        raise ValueError("UNSUBSCRIBE without a filter")
    parts = [_identified(packet_id), b"\0" if version is Version.V5 else b""]
    parts += [string(pattern) for pattern in filters]
    return _packet(0xA2, b"".join(parts))


def disconnect(version: Version) -> bytes:
    """Write DISCONNECT (3.14): the will is forgotten, the session stays."""
    return b"\xe0\x02\x00\x00" if version is Version.V5 else b"\xe0\x00"


def pubacks(packet_ids: Sequence[int]) -> bytes:
    """Write one PUBACK (3.4) for each packet id, joined; the same bytes in 3.1.1 and 5.

    Args:
        packet_ids: Each between 1 and 65,535.
    """
    words = array.array("H", (0x4002,)) * (2 * len(packet_ids))
    try:
        words[1::2] = array.array("H", packet_ids)
    except OverflowError:
        raise ValueError("a packet id is not between 1 and 65535") from None
    if 0 in words:
        raise ValueError("a packet id is 0")
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes()


def publish(
    version: Version,
    topic: bytes,
    payload: bytes,
    *,
    packet_id: int = 0,
    retain: bool = False,
    dup: bool = False,
) -> bytes:
    """Write one PUBLISH (3.3), of QoS 1 if it has a packet id, else of QoS 0.

    Args:
        version: The protocol.
        topic: UTF-8 without NUL or wildcards, which is not checked here.
        payload: Any bytes.
        packet_id: Which the PUBACK will name, 1 to 65,535; 0 for QoS 0.
        retain: Keep it for later subscribers.
        dup: It was sent before.
    """
    ids = [packet_id] if packet_id else None
    return publish_many(version, [topic], [payload], ids, retain=retain, dup=dup)


def publish_many(
    version: Version,
    topics: Sequence[bytes],
    payloads: Sequence[bytes],
    packet_ids: Sequence[int] | None = None,
    *,
    retain: bool = False,
    dup: bool = False,
) -> bytes:
    """Write many PUBLISHes, joined: about a microsecond each.

    Args:
        version: The protocol.
        topics: As in `publish`; as many as payloads.
        payloads: Any bytes.
        packet_ids: One for each message, for QoS 1; None for QoS 0.
        retain: Keep each for later subscribers.
        dup: Each was sent before.
    """
    first = bytes((0x30 | retain | dup << 3 | (packet_ids is not None) << 1,))
    no_properties = b"\0" if version is Version.V5 else b""
    fixed = 2 + len(no_properties)
    after_topic: Iterable[bytes]
    if packet_ids is None:
        if dup:
            raise ValueError("QoS 0 is never sent again")
        after_topic = itertools.repeat(no_properties, len(topics))
    else:
        fixed += 2
        after_topic = [_identified(packet_id) + no_properties for packet_id in packet_ids]
    lengths: dict[int, bytes] = {}  # few lengths occur, and each is worth writing once
    parts: list[bytes] = []
    for topic, tail, payload in zip(topics, after_topic, payloads, strict=True):
        length = fixed + len(topic) + len(payload)
        sized = lengths.get(length)
        if sized is None:
            sized = lengths[length] = first + variable_integer(length)
        if not 0 < len(topic) <= MAX_STRING_BYTES:
            raise ValueError(f"a topic of {len(topic)} bytes")
        parts += (sized, len(topic).to_bytes(2, "big"), topic, tail, payload)
    return b"".join(parts)
