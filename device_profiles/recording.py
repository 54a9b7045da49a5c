"""The recording format: one received message a line.

Each line is a JSON object ``{"received_at", "topic", "payload" | "payload_base64", "qos",
"retain"}``: the time RFC 3339 in UTC with microseconds, the payload as text where it is valid
UTF-8 and as base64 where it is not. A file whose name ends in ``.zst`` is compressed with
Zstandard. Simulators write it, ``smartsite record`` exports it, replay and decode read it.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import BinaryIO

import msgspec
import zstandard

from device_profiles.errors import Reason, Rejected, shown

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line read: a frame of tens of megabytes in base64. Longer is not a recording."""


class Message(msgspec.Struct, frozen=True):
    """One message as it was received.

    Attributes:
        received_at: When; aware, UTC.
        topic: MQTT topic.
        payload: The bytes.
        qos: 0, 1 or 2.
        retain: Whether the broker had kept it.
    """

    received_at: datetime
    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class _Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    received_at: datetime
    topic: str
    payload: str | None = None
    payload_base64: str | None = None
    qos: int = 0
    retain: bool = False


_DECODER = msgspec.json.Decoder(_Line)


def format_message(message: Message) -> bytes:
    """Write one line of a recording.

    Args:
        message: The message; its time must be aware.

    Returns:
        The line, without the newline.
    """
    at = message.received_at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")
    line: dict[str, object] = {"received_at": at + "Z", "topic": message.topic}
    try:
        line["payload"] = message.payload.decode("utf-8")
    except UnicodeDecodeError:
        line["payload_base64"] = base64.b64encode(message.payload).decode("ascii")
    line["qos"] = message.qos
    line["retain"] = message.retain
    return msgspec.json.encode(line)


def parse_message(line: bytes) -> Message:
    """Read one line of a recording.

    Args:
        line: The line, with or without its newline.

    Returns:
        The message.

    Raises:
        Rejected: The line is not of this format; the detail says how.
    """
    try:
        read = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise Rejected(Reason.SYNTAX, f"not a line of a recording: {fault}") from None
    if (read.payload is None) == (read.payload_base64 is None):
        raise Rejected(Reason.SYNTAX, "a line has either payload or payload_base64")
    if read.received_at.tzinfo is None:
        raise Rejected(Reason.TIME, f"received_at {read.received_at.isoformat()} has no zone")
    if read.qos not in (0, 1, 2):
        raise Rejected(Reason.RANGE, f"qos {shown(read.qos)} is not 0, 1 or 2")
    if read.payload is not None:
        payload = read.payload.encode("utf-8")
    else:
        try:
            payload = base64.b64decode(read.payload_base64 or "", validate=True)
        except (binascii.Error, ValueError):
            raise Rejected(Reason.ENCODING, "payload_base64 is not base64") from None
    try:
        received_at = read.received_at.astimezone(UTC)
    except OverflowError:
        raise Rejected(Reason.TIME, "received_at lies outside the years 1 to 9999") from None
    return Message(received_at, read.topic, payload, read.qos, read.retain)


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[BinaryIO]:
    with path.open(mode) as raw:
        if path.suffix != ".zst":
            yield raw  # type: ignore[misc]  # open() with a variable mode is typed IO[Any]
        elif mode == "rb":
            # Files joined by `cat` are one recording, as they are to the zstd tool.
            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
                yield io.BufferedReader(stream)
        else:
            with zstandard.ZstdCompressor(level=9).stream_writer(raw, closefd=False) as stream:
                yield stream


def read_recording(path: Path) -> Iterator[Message]:
    """Read a recording from a file, line by line.

    Args:
        path: A ``.jsonl`` or ``.jsonl.zst`` file.

    Yields:
        The messages in the order of the file.

    Raises:
        Rejected: A line is not of this format, or the file is not compressed as its name says;
            the detail names file and line.
    """
    with _opened(path, "rb") as stream:
        for number in count(1):
            try:
                line = stream.readline(MAX_LINE_BYTES)
            except zstandard.ZstdError as fault:
                where = f"{path}, line {number}: {fault}"
                raise Rejected(Reason.ENCODING, where) from None
            if not line:
                return
            if not line.strip():
                continue
            try:
                yield parse_message(line)
            except Rejected as fault:
                where = f"{path}, line {number}: {fault.detail}"
                raise Rejected(fault.reason, where) from None


def write_recording(path: Path, messages: Iterable[Message]) -> int:
    """Write a recording to a file.

    Args:
        path: Where; a name ending in ``.zst`` is compressed.
        messages: What was received, in the order received.

    Returns:
        How many messages were written.
    """
    written = 0
    with _opened(path, "wb") as stream:
        for message in messages:
            stream.write(format_message(message) + b"\n")
            written += 1
    return written
