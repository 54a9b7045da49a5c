"""The role `vision`: takes queued frames, looks at them, stores what it saw as readings.

Detections are written like anything received: a raw segment of JSON messages, numbered under
this worker's name, and rows that point into it. So what is certified lies downstream of stored
bytes even where another machine's floats would differ.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from prometheus_client import Counter
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from detectors.vision.errors import Misconfigured as VisionMisconfigured
from detectors.vision.model import Model
from detectors.vision.motion import MotionGate
from device_profiles.errors import Rejected
from device_profiles.jpeg import JpegHeader, read_jpeg_header
from device_profiles.native import microseconds
from device_profiles.readings import Box
from ingest.errors import DatabaseUnavailable
from ingest.frame_store import FrameStore
from ingest.segments import pack
from ingest.store.queries import load_queries
from ingest.store.worker import Worker, declared
from smartsite.errors import Misconfigured
from smartsite.services import Whereabouts
from smartsite.settings import Settings

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).parent.parent.parent / "ingest" / "store" / "sql" / "frames.sql")

POLL_S = 0.25
LEASE = timedelta(seconds=30)
PER_CAMERA = 8
"""Newest frames of one camera looked at in one round; older ones are skipped and counted."""
AT_MOST = 32
LONGEST_DELAY_S = 10.0

LOOKED = Counter("smartsite_frames_looked_at", "frames looked at", ["way"])
SKIPPED = Counter("smartsite_frames_skipped", "frames not looked at", ["reason"])
LOOK_SECONDS = Counter("smartsite_vision_cpu_seconds", "CPU seconds spent looking")


class Leased(NamedTuple):
    """A frame taken from the queue."""

    device_id: int
    site_id: str
    device: str
    observed_at: datetime
    received_at: datetime
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen on a frame."""

    frame: Leased
    header: JpegHeader
    boxes: tuple[Box, ...]
    still: bool


class Eyes:
    """The model and, per camera, its motion gate."""

    def __init__(self, model: Model, store: FrameStore, min_score: float) -> None:
        self.model = model
        self._store = store
        self._min_score = min_score
        self._gates: defaultdict[int, MotionGate] = defaultdict(MotionGate)

    def look(self, frame: Leased) -> Look | str:
        """Look at one frame; blocking.

        Args:
            frame: From the queue.

        Returns:
            What was seen, or why nothing could be: "missing", "undecodable".
        """
        try:
            data = self._store.get(frame.sha256)
        except (OSError, ValueError) as fault:
            log.error("frame %s of %s: %s", frame.sha256.hex(), frame.device, fault)  # noqa: TRY400
            return "missing"
        started = time.thread_time()
        gate = self._gates[frame.device_id]
        try:
            header = read_jpeg_header(data)
            seen = gate.still(data, frame.observed_at)
            still = seen is not None
            if seen is None:
                seen = tuple(self.model.look(data, self._min_score))
                gate.looked(frame.observed_at, seen)
        except Rejected as fault:
            log.warning("%s/%s: %s", frame.site_id, frame.device, fault)
            return "undecodable"
        LOOK_SECONDS.inc(time.thread_time() - started)
        LOOKED.labels("still" if still else "model").inc()
        return Look(frame, header, seen, still)


def as_message(look: Look, model_sha256: str) -> tuple[bytes, bytes]:
    """Write a look as a message: the form in which detections are kept and replayed.

    Args:
        look: What was seen.
        model_sha256: Hash of the model, hexadecimal.

    Returns:
        Topic and JSON payload.
    """
    frame = look.frame
    payload = msgspec.json.encode(
        {
            "ts": frame.observed_at,
            "frame_sha256": frame.sha256.hex(),
            "model_sha256": model_sha256,
            "width": look.header.width,
            "height": look.header.height,
            "still": look.still,
            "boxes": _rows(look),
        }
    )
    return f"site/{frame.site_id}/camera/{frame.device}/detections".encode(), payload


def _rows(look: Look) -> list[list[str | float]]:
    return [[box.label, box.score, *box.box] for box in look.boxes]


async def run(settings: Settings, whereabouts: Whereabouts, stop: asyncio.Event) -> None:
    """Look at frames until told to stop; a database that is away is waited for.

    Args:
        settings: Model, threads and how long a frame is worth looking at.
        whereabouts: Where the database is.
        stop: Set from outside.

    Raises:
        Misconfigured: The model cannot be used.
    """
    try:
        model = Model(settings.vision.model, threads=settings.vision.threads)
    except VisionMisconfigured as fault:
        raise Misconfigured(f"vision.model: {fault}") from None
    eyes = Eyes(model, FrameStore(settings.frame_dir), settings.vision.min_score)
    log.info("looking with model %s… (%s)", model.sha256[:12], ", ".join(model.classes))
    worker = Worker(whereabouts.database_url, settings.vision.worker)
    keep_up = timedelta(seconds=settings.vision.keep_up_s)
    delay_s = POLL_S
    while not stop.is_set():
        try:
            busy = await _look_once(worker, eyes, keep_up)
            delay_s = 0.0 if busy else POLL_S
        except DatabaseUnavailable as fault:
            delay_s = min(max(delay_s, POLL_S) * 2, LONGEST_DELAY_S)
            log.warning("%s; trying again in %.1f s", fault, delay_s)
        if delay_s:
            try:
                await asyncio.wait_for(stop.wait(), delay_s)
            except TimeoutError:
                continue
    await worker.close()


async def _look_once(worker: Worker, eyes: Eyes, keep_up: timedelta) -> bool:
    connection = await worker.open()
    now = datetime.now(UTC)
    terms = {
        "now": now,
        "until": now + LEASE,
        "too_old": now - keep_up,
        "per_camera": PER_CAMERA,
        "at_most": AT_MOST,
    }
    with declared():
        cursor = connection.cursor()
        await cursor.execute(SQL["skip_overtaken"], terms)
        (overtaken,) = await cursor.fetchone() or (0,)
        SKIPPED.labels("overload").inc(overtaken)
        await cursor.execute(SQL["lease_frames"], terms)
        frames = [Leased(*row) for row in await cursor.fetchall()]
    if not frames:
        return False
    frames.sort(key=lambda frame: (frame.observed_at, frame.device_id))
    seen = await asyncio.to_thread(lambda: [(frame, eyes.look(frame)) for frame in frames])
    await _store(worker, eyes.model.sha256, seen)
    return True


async def _store(worker: Worker, model_sha256: str, seen: list[tuple[Leased, Look | str]]) -> None:
    looks = [look for _, look in seen if isinstance(look, Look)]
    blind = [(frame, look) for frame, look in seen if isinstance(look, str)]
    received_us = [microseconds(datetime.now(UTC))] * len(looks)
    messages = [as_message(look, model_sha256) for look in looks]
    segment = pack(
        received_us,
        [topic for topic, _ in messages],
        [payload for _, payload in messages],
        [0] * len(looks),
    )

    async def rows(connection: psycopg.AsyncConnection[Any]) -> None:
        async with connection.cursor(row_factory=namedtuple_row) as cursor:
            await cursor.executemany(
                SQL["put_detections"],
                [
                    {
                        "device_id": look.frame.device_id,
                        "observed_at": look.frame.observed_at,
                        "received_at": look.frame.received_at,
                        "worker_id": worker.id,
                        "segment": worker.next_number,
                        "index": index,
                        "frame_sha256": look.frame.sha256,
                        "model_sha256": bytes.fromhex(model_sha256),
                        "width": look.header.width,
                        "height": look.header.height,
                        "still": look.still,
                        "boxes": Jsonb(_rows(look)),
                    }
                    for index, look in enumerate(looks)
                ],
            )
            await _leave_queue(cursor, [frame for frame, _ in seen], blind)

    if looks:
        await worker.commit(segment, received_us, rows, readings=0)
    else:
        connection = await worker.open()
        with declared():
            async with connection.transaction(), connection.cursor() as cursor:
                await _leave_queue(cursor, [frame for frame, _ in seen], blind)


async def _leave_queue(
    cursor: psycopg.AsyncCursor[Any], frames: list[Leased], blind: list[tuple[Leased, str]]
) -> None:
    now = datetime.now(UTC)
    for frame, reason in blind:
        SKIPPED.labels(reason).inc()
        await cursor.execute(
            SQL["skip_frame"], {"device_id": frame.device_id, "reason": reason, "now": now}
        )
    await cursor.executemany(
        SQL["unqueue_frame"],
        [{"device_id": frame.device_id, "observed_at": frame.observed_at} for frame in frames],
    )
