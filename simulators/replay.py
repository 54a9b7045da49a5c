"""Replaying a recording into a broker: as recorded, faster, or as if it happened now."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from device_profiles.errors import Rejected
from device_profiles.recording import Message, read_recording
from device_profiles.topics import Address, parse_topic
from device_profiles.vocabulary import Channel
from simulators.publish import GRACE_S, Broker, Counts, Identity, OnPublished, publish


async def replay(
    recording: Path,
    broker: Broker | str,
    *,
    speed: float = 1.0,
    shift_to_now: bool = False,
    connections: int = 1,
    credentials: tuple[str, str] | None = None,
    counts: Counts | None = None,
    on_published: OnPublished | None = None,
    grace_s: float = GRACE_S,
) -> Counts:
    """Publish a recording's messages at the intervals at which they were received.

    Args:
        recording: A ``.jsonl`` or ``.jsonl.zst`` file.
        broker: Where to.
        speed: Recorded seconds a second, 1 as recorded; `math.inf` for as fast as the broker
            acknowledges.
        shift_to_now: Rewrite the times in payloads and pictures' topics so that the recording
            begins now. At a speed above 1 they then run ahead of the clock.
        connections: How many to share the devices among; one device's messages stay in order.
        credentials: User name and password, where the broker wants them.
        counts: Counted into as it goes on; None for new ones.
        on_published: Called with each message and the time its PUBACK came.
        grace_s: How long to wait at the end for what is not yet acknowledged.

    Returns:
        The counts.

    Raises:
        Rejected: A line is not of the recording format; the detail names file and line.
        BrokerRefused: The broker does not let us in.
        Misconfigured: The broker's address is none, or the speed is not positive.
        OSError: The file cannot be read.
    """
    run = secrets.token_hex(4)
    username, password = credentials or (None, None)
    identities = [
        Identity(f"replay-{run}-{number}", username, password) for number in range(connections)
    ]

    def identity_of(message: Message) -> Identity:
        speaker = _speaker(message.topic)
        return identities[zlib.crc32(speaker.encode("utf-8", "replace")) % connections]

    messages = read_recording(recording)
    if shift_to_now:
        messages = shifted_to(messages, datetime.now(UTC))
    return await publish(
        messages,
        broker,
        identity_of,
        speed=speed,
        counts=counts,
        on_published=on_published,
        grace_s=grace_s,
    )


def shifted_to(messages: Iterator[Message], now: datetime) -> Iterator[Message]:
    """Move a recording in time so that it begins at an instant.

    Args:
        messages: The recording.
        now: When its first message is to be received; aware.

    Yields:
        The messages, all times moved by the same whole number of milliseconds.
    """
    by: timedelta | None = None
    for message in messages:
        if by is None:
            by = (now - message.received_at) // _MS * _MS
        yield shifted(message, by)


def shifted(message: Message, by: timedelta) -> Message:
    """Move one message in time.

    Args:
        message: Any message.
        by: Whole milliseconds, either sign.

    Returns:
        The message with `received_at`, the `ts` of its payload and the time in a picture's
        topic moved. A payload that is not of the native contract stays as it is.
    """
    topic, payload = message.topic, message.payload
    try:
        address = parse_topic(topic.encode())
    except (Rejected, UnicodeEncodeError):
        address = None
    if address is not None and address.frame_ms is not None:
        moved = max(0, address.frame_ms + by // _MS)
        topic = Address(*address[:5], frame_ms=moved).topic
    elif address is not None and address.channel is not Channel.FRAME:
        payload = _shifted_payload(payload, by)
    return Message(message.received_at + by, topic, payload, message.qos, message.retain)


_MS = timedelta(milliseconds=1)


def _speaker(topic: str) -> str:
    """The part of a topic that names the device: what stays in order."""
    try:
        address = parse_topic(topic.encode())
    except (Rejected, UnicodeEncodeError):
        return topic
    return f"{address.prefix}/{address.site}/{address.device}"


def _shifted_payload(payload: bytes, by: timedelta) -> bytes:
    try:
        parsed = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return payload
    readings = parsed if isinstance(parsed, list) else [parsed]
    moved = [_shift_ts(reading, by) for reading in readings]
    return msgspec.json.encode(parsed) if any(moved) else payload


def _shift_ts(reading: Any, by: timedelta) -> bool:
    if not isinstance(reading, dict):
        return False
    ts = reading.get("ts")
    if type(ts) is int:
        reading["ts"] = ts + by // _MS
        return True
    if isinstance(ts, str):
        try:
            at = msgspec.convert(ts, datetime)
            reading["ts"] = (at + by).isoformat(timespec="milliseconds")
        except (msgspec.ValidationError, OverflowError):
            return False
        return True
    return False
