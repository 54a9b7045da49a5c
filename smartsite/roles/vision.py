"""The role `vision`: takes queued frames, looks at them, stores what it saw as readings.

Detections are written like anything received: a raw segment of JSON messages, numbered under
this worker's name, and rows that point into it. So what is certified lies downstream of stored
bytes even where another machine's floats would differ.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Counts
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import psycopg
from prometheus_client import Counter
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from detectors.vision.errors import Misconfigured as VisionMisconfigured
from detectors.vision.model import Model
from detectors.vision.second_look import SecondLook
from device_profiles.native import microseconds
from ingest.errors import DatabaseUnavailable
from ingest.frame_store import FrameStore
from ingest.segments import pack
from ingest.store.queries import load_queries
from ingest.store.worker import Worker, declared
from smartsite.errors import Misconfigured
from smartsite.eyes import Eyes, Leased, Look, Scene, with_skipped
from smartsite.services import Whereabouts
from smartsite.settings import Settings

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).parent.parent.parent / "ingest" / "store" / "sql" / "frames.sql")

POLL_S = 0.25
LEASE = timedelta(seconds=30)
AT_MOST = 32
"""Frames looked at in one round, the oldest of every camera first: what it saw is stored soon, and
a stop waits for no more than this. No more than may wait, which is another matter: see `_Watch`."""
EVENTS_AT_MOST = 16
"""And so many pictures of AI boxes' events beside them, no more than may wait either."""
PACE_S = 0.01
"""What a frame takes, until it is known: one run of the shipped model."""
PACE_OF_FRAMES = 64
"""The pace is that of about so many frames: one in tiles does not decide alone."""
SLOWER_AT_MOST = 4
"""So many times the pace, or `PACE_S`, is the most that one round says: a stall is no pace."""
ATTEMPTS = 3
"""A picture that was taken so often without coming to an end is skipped: it ends the process. After
the first time it is taken by itself."""
LONGEST_DELAY_S = 10.0

SKIPPED = Counter("smartsite_frames_skipped", "frames not looked at", ["reason"])


def as_message(
    look: Look, model_sha256: str, second_look_sha256: str | None = None
) -> tuple[bytes, bytes]:
    """Write a look as a message: the form in which detections are kept and replayed.

    Args:
        look: What was seen.
        model_sha256: Hash of the model, hexadecimal.
        second_look_sha256: Hash of the second look, hexadecimal; None where there is none.

    Returns:
        Topic and JSON payload.
    """
    frame = look.frame
    said: dict[str, object] = {
        "ts": frame.observed_at,
        "frame_sha256": frame.sha256.hex(),
        "model_sha256": model_sha256,
        "width": look.header.width,
        "height": look.header.height,
        "still": look.still,
        "boxes": _rows(look),
    }
    if second_look_sha256 is not None:
        said["second_look_sha256"] = second_look_sha256
    if look.unfit is not None:
        said |= {"unfit": look.unfit, "fitness": look.fitness}
    if look.skipped:
        said["skipped"] = look.skipped
    if frame.event:
        said["event"] = True
    payload = msgspec.json.encode(said)
    return f"site/{frame.site_id}/camera/{frame.device}/detections".encode(), payload


def _rows(look: Look) -> list[list[str | float]]:
    return [box.as_row() for box in look.boxes]


_DECIDING = {
    "helmet": ("head", "helmet"),
    "vest": ("no_vest",),
    "presence": ("person",),
    "reported": ("head", "no_vest", "person"),
}
"""Which classes' scores decide what each rule finds."""


def scores_apart(
    operating_point: Mapping[str, float], stored_from: float, settings: Settings
) -> list[str]:
    """Say where rules count other scores than the model was measured for, or than are stored.

    Args:
        operating_point: Of the model, by class.
        stored_from: The least score of the boxes that are stored.
        settings: With the rules; those of the shipped model were set beside it (`docs/vision.md`).

    Returns:
        A line for each rule.
    """
    lines = []
    for name, classes in _DECIDING.items():
        points = {each: operating_point[each] for each in classes if each in operating_point}
        least: float = getattr(settings.rules, name).min_score
        if not points:
            continue
        if least < stored_from:
            lines.append(
                f"rules.{name}.min_score is {least}, but no box below {stored_from} is stored:"
                " lower vision.min_score"
            )
        elif settings.vision.model and not min(points.values()) <= least <= max(points.values()):
            told = ", ".join(f"{each} {score}" for each, score in points.items())
            lines.append(
                f"rules.{name}.min_score is {least}, the operating point of the model {told}: the"
                " rule decides"
            )
    return lines


async def run(settings: Settings, whereabouts: Whereabouts, stop: asyncio.Event) -> None:
    """Look at frames until told to stop; a database that is away is waited for.

    Args:
        settings: Model, threads and how long a frame is worth looking at.
        whereabouts: Where the database is.
        stop: Set from outside.

    Raises:
        Misconfigured: The model cannot be used, as is found at the start or later.
    """
    try:
        model = Model(
            settings.vision.model,
            threads=settings.vision.threads,
            device=settings.vision.device,
            tested=settings.vision.self_test,
        )
        # It goes with the shipped model; another may mean other things by a helmet.
        second_look = (
            SecondLook(threads=settings.vision.threads) if settings.vision.model is None else None
        )
    except VisionMisconfigured as fault:
        raise Misconfigured(f"vision.model: {fault}") from None
    eyes = Eyes(model, FrameStore(settings.frame_dir), settings.vision.min_score, second_look)
    for line in scores_apart(model.operating_point, eyes.min_score, settings):
        log.warning("%s", line)
    log.info(
        "looking with model %s… on %s (%s)",
        model.sha256[:12],
        model.provider.removesuffix("ExecutionProvider"),
        ", ".join(model.classes),
    )
    watch = _Watch(Worker(whereabouts.database_url, settings.vision.worker), eyes, settings)
    delay_s = POLL_S
    while not stop.is_set():
        try:
            busy = await watch.look()
            delay_s = 0.0 if busy else POLL_S
        except DatabaseUnavailable as fault:
            delay_s = min(max(delay_s, POLL_S) * 2, LONGEST_DELAY_S)
            log.warning("%s; trying again in %.1f s", fault, delay_s)
        except VisionMisconfigured as fault:  # what its checks at the start did not find
            raise Misconfigured(f"vision.model: the model {fault}") from None
        if delay_s:
            try:
                await asyncio.wait_for(stop.wait(), delay_s)
            except TimeoutError:
                continue
    await watch.worker.close()


class _Watch:
    """The queue, looked at round after round.

    As many frames may wait as can be looked at within half of `keep_up_s` at the pace of late, and
    no round takes more, nor more pictures of events beside them: what a short stall left is worked
    off whole, while of what comes too fast the newest of each camera are kept, one in any case, the
    others skipped and counted. So is what nobody took within `keep_up_s`.

    Attributes:
        worker: Who writes.
    """

    def __init__(self, worker: Worker, eyes: Eyes, settings: Settings) -> None:
        self.worker = worker
        self._eyes = eyes
        self._keep_up = timedelta(seconds=settings.vision.keep_up_s)
        self._keep_events = timedelta(seconds=settings.vision.keep_events_s)
        self._pace_s = PACE_S
        self._skipped: Counts[int] = Counts()
        self._alone_on: psycopg.AsyncConnection[Any] | None = None
        self._was_alone = False
        self._told = False

    async def look(self) -> bool:
        """Look at some frames; False when there were none, or another process looks."""
        try:
            connection = await self.worker.open()
            return await self._is_alone(connection) and await self._look(connection)
        except DatabaseUnavailable:
            self._alone_on = None  # what was leased and not stored is taken up again at once
            raise

    async def _is_alone(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        """Become the one who looks: what is known of a camera is in one process, and in order."""
        if self._alone_on is connection:
            return True
        with declared():
            cursor = await connection.execute(SQL["lock_looking"])
            ((locked,),) = await cursor.fetchall()
            if not locked:
                if not self._told:
                    log.warning("another process looks at the frames; taking over when it ends")
                self._told = True
                return False
            # Whoever looked before was stopped, or could not store, while it looked.
            living = self.worker.id if self._was_alone else None
            await connection.execute(SQL["release_leases"], {"living": living})
        self._alone_on, self._was_alone, self._told = connection, True, False
        return True

    async def _look(self, connection: psycopg.AsyncConnection[Any]) -> bool:
        now, began = datetime.now(UTC), monotonic()
        may_wait = max(1, int(self._keep_up.total_seconds() / 2 / self._pace_s))
        with declared():
            frames = await self._lease(connection.cursor(), now, may_wait)
        if not frames:
            return False
        opened = monotonic()
        seen = await asyncio.to_thread(self._eyes.look, frames)
        looked_s = monotonic() - opened
        left = self._skipped.copy()
        hashes = self._eyes.model.sha256, self._eyes.second_look_sha256
        await _store(self.worker, *hashes, with_skipped(seen, left))
        self._skipped = left  # only now: what could not be stored comes back
        self._keep_pace(len(frames), looked_s, monotonic() - began - looked_s)
        await self._keep_scenes(connection, now)
        return True

    async def _lease(
        self, cursor: psycopg.AsyncCursor[Any], now: datetime, may_wait: int
    ) -> list[Leased]:
        """Skip what is overtaken, take the next round in the order of its times, and know it."""
        terms = {
            "now": now,
            "until": now + LEASE,
            "too_old": now - self._keep_up,
            "events_too_old": now - self._keep_events,
            "attempts_at_most": ATTEMPTS,
            "may_wait": may_wait,
            "worker_id": self.worker.id,
        }
        await cursor.execute(SQL["skip_overtaken"], terms)
        for device_id, reason, count, of_stream in await cursor.fetchall():
            SKIPPED.labels(reason).inc(count)
            self._skipped[device_id] += of_stream
        await cursor.execute(SQL["lease_suspect"], terms)
        frames = [Leased(*row) for row in await cursor.fetchall()]
        for frame in frames:
            log.warning(
                "the role ended while it looked at frame %s of %s/%s; trying it by itself",
                frame.sha256.hex(),
                frame.site_id,
                frame.device,
            )
        kinds = () if frames else ((False, AT_MOST), (True, EVENTS_AT_MOST))
        for event, at_most in kinds:
            kind = {"event": event, "at_most": min(at_most, may_wait)}
            await cursor.execute(SQL["lease_frames"], terms | kind)
            frames += [Leased(*row) for row in await cursor.fetchall()]
        strangers = self._eyes.strangers(frames)
        if strangers:
            await cursor.execute(SQL["scenes"], {"device_ids": strangers})
            self._eyes.recall([Scene(*row) for row in await cursor.fetchall()])
        return sorted(frames, key=lambda frame: (frame.observed_at, frame.device_id))

    def _keep_pace(self, frames: int, looked_s: float, else_s: float) -> None:
        """Learn from a round what a frame takes.

        Args:
            frames: How many were looked at.
            looked_s: How long that took.
            else_s: How long the round took beside it, mostly in the database. It counts as that of
                a full round, not all of it for the single frame of a quiet hour.
        """
        spent_s = looked_s / frames + else_s / AT_MOST
        spent_s = min(spent_s, SLOWER_AT_MOST * max(self._pace_s, PACE_S))
        self._pace_s += (spent_s - self._pace_s) * frames / PACE_OF_FRAMES

    async def _keep_scenes(self, connection: psycopg.AsyncConnection[Any], now: datetime) -> None:
        for scene in self._eyes.scenes(now):
            with declared():
                await connection.execute(
                    SQL["put_scene"],
                    {
                        "device_id": scene.device_id,
                        "now": now,
                        "camera": Jsonb(scene.camera),
                        "scene": scene.memory,
                    },
                )


async def _store(
    worker: Worker,
    model_sha256: str,
    second_look_sha256: str | None,
    seen: list[tuple[Leased, Look | str]],
) -> None:
    looks = [look for _, look in seen if isinstance(look, Look)]
    blind = [(frame, look) for frame, look in seen if isinstance(look, str)]
    received_us = [microseconds(datetime.now(UTC))] * len(looks)
    messages = [as_message(look, model_sha256, second_look_sha256) for look in looks]
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
                        "unfit": look.unfit,
                        "fitness": Jsonb(dict(look.fitness)),
                        "skipped": look.skipped,
                        "second_look_sha256": None
                        if second_look_sha256 is None
                        else bytes.fromhex(second_look_sha256),
                        "event": look.frame.event,
                    }
                    for index, look in enumerate(looks)
                ],
            )
            await _leave_queue(cursor, [frame for frame, _ in seen], blind)

    if looks:
        days = {look.frame.observed_at.astimezone(UTC).date() for look in looks}
        await worker.commit(segment, received_us, rows, readings=0, observed_days=sorted(days))
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
