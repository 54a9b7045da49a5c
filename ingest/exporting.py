"""A recording is an export of raw segments: what was received, as it was received."""

from __future__ import annotations

import contextlib
import heapq
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg

from device_profiles.native import microseconds, moment_of
from device_profiles.recording import Message
from ingest.frame_store import FrameStore
from ingest.segments import Flag, unpack
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent / "store" / "sql" / "recording.sql")


def topic_matcher(filters: tuple[str, ...]) -> Callable[[str], bool]:
    """Make a test of topics from MQTT filters.

    Args:
        filters: With ``+`` and ``#``; none at all lets everything through.

    Returns:
        Whether a topic matches any of them.
    """
    patterns = [
        re.compile(
            re.escape(one).replace(r"\+", "[^/]*").replace(r"/\#", "(/.*)?").replace(r"\#", ".*")
        )
        for one in filters
    ]
    return lambda topic: not patterns or any(one.fullmatch(topic) for one in patterns)


def recorded(
    connection: psycopg.Connection[Any],
    frames: FrameStore,
    start: datetime,
    end: datetime,
    wanted: Callable[[str], bool],
) -> Iterator[Message]:
    """Read the messages of a span of time, in the order received.

    Args:
        connection: In a transaction: segments are fetched by server-side cursors.
        frames: Where pictures lie; one that has aged out is left out.
        start: First time of receipt; aware.
        end: End, exclusive; aware.
        wanted: Which topics.

    Yields:
        The messages. Of a payload above the limit only the first bytes were kept.
    """
    workers = [worker for (worker,) in connection.execute(SQL["recording_workers"]).fetchall()]
    streams = [_of_worker(connection, worker, frames, start, end, wanted) for worker in workers]
    yield from heapq.merge(*streams, key=lambda message: message.received_at)


def _of_worker(
    connection: psycopg.Connection[Any],
    worker: int,
    frames: FrameStore,
    start: datetime,
    end: datetime,
    wanted: Callable[[str], bool],
) -> Iterator[Message]:
    first, last = microseconds(start), microseconds(end)
    with connection.cursor(f"segments_{worker}", binary=True) as cursor:
        cursor.itersize = 20
        cursor.execute(SQL["segments_of_span"], {"worker_id": worker, "start": start, "end": end})
        for _, body in cursor:
            segment = unpack(body)
            for received_us, topic, payload, flags in zip(
                segment.received_us,
                segment.topics,
                segment.payloads,
                segment.flags,
                strict=True,
            ):
                name = topic.decode("utf-8", "replace")
                if flags & Flag.RETRIED or not first <= received_us < last or not wanted(name):
                    continue
                content = payload
                if flags & Flag.FRAME:
                    with contextlib.suppress(FileNotFoundError):
                        content = frames.get(payload)
                    if content is payload:
                        continue
                yield Message(
                    moment_of(received_us),
                    name,
                    content,
                    flags & Flag.QOS,
                    bool(flags & Flag.RETAIN),
                )
