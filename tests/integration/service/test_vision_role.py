"""The role `vision`: every frame is looked at or counted, whatever befalls it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from detectors.rules import Rules
from detectors.vision.model import Model
from device_profiles.jpeg import read_jpeg_header
from device_profiles.native import microseconds
from device_profiles.readings import Detections
from device_profiles.sites import CameraSettings, Device
from device_profiles.vocabulary import Kind
from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import TimeLimits
from ingest.store.readings import load_devices, readings_of_devices
from ingest.store.worker import Worker, connect
from simulators.camera import programme
from smartsite.eyes import Eyes, Leased, Look
from smartsite.judge import Judge
from smartsite.roles import vision
from smartsite.services import Whereabouts
from smartsite.settings import DatabaseSettings, Settings, VisionSettings
from tests.integration.service.roles import until
from tests.integration.yard import (
    SITE,
    arrivals_of,
    ask,
    do,
    register,
    routes_of,
    site_file,
    topic_of,
)

PICTURES = [picture.jpeg for picture in programme()[:31]]
"""A man with a bare head walks in and leaves."""


class Darkroom:
    """A database, a folder of frames, and whoever looks at them."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.url = database_url
        self.settings = Settings(
            data_dir=folder,
            database=DatabaseSettings(url="postgresql://somebody@localhost/unused"),
            vision=VisionSettings(keep_up_s=600),
        )

    async def hang(
        self, pictures: Sequence[bytes], device: str = "camera-1", every_s: float = 0.5
    ) -> datetime:
        """Take frames in; returns the time of the first."""
        worker = Worker(self.url, "frames")
        writer = FrameWriter(worker, FrameStore(self.settings.frame_dir), TimeLimits())
        now = datetime.now(UTC)
        start = now - timedelta(seconds=every_s * len(pictures))
        times = [start + timedelta(seconds=every_s * place) for place in range(len(pictures))]
        messages = [
            (topic_of(device, f"frame/{microseconds(time) // 1_000}"), jpeg)
            for time, jpeg in zip(times, pictures, strict=True)
        ]
        routes = await routes_of(self.url)
        await writer.write(arrivals_of(*messages, received_us=microseconds(now)), routes)
        await worker.close()
        return start

    @asynccontextmanager
    async def looking(self, worker: str = "vision") -> Any:
        stop = asyncio.Event()
        where = Whereabouts(pid=0, started=0.0, broker_url="", database_url=self.url)
        named = self.settings.vision.model_copy(update={"worker": worker})
        settings = self.settings.model_copy(update={"vision": named})
        task = asyncio.create_task(vision.run(settings, where, stop))
        try:
            yield task
        finally:
            stop.set()
            async with asyncio.timeout(60):
                await task

    async def until_looked(self) -> None:
        async with self.looking() as task:
            await until(lambda: task.done() or self.waiting() == 0, "all frames are looked at")

    def waiting(self) -> int:
        return len(ask(self.url, "SELECT FROM frame_queue"))

    def looks(self) -> list[dict[str, Any]]:
        return ask(self.url, "SELECT * FROM detections ORDER BY observed_at")

    def skipped(self) -> dict[str, int]:
        rows = ask(self.url, "SELECT reason, sum(count)::int AS n FROM frames_skipped GROUP BY 1")
        return {row["reason"]: row["n"] for row in rows}

    async def judged(self) -> list[dict[str, Any]]:
        connection = await connect(self.url, "test")
        async with connection:
            judge = Judge(connection, Rules())
            now = datetime.now(UTC)
            await judge.start(now)
            await judge.step(now)
            await judge.tick(now + timedelta(hours=1), timedelta())
        return ask(
            self.url,
            "SELECT rule, subject, closed_at, measured, evidence FROM violations"
            " WHERE state <> 'withdrawn' AND rule <> 'device.silence' ORDER BY opened_at",
        )


@pytest.fixture
def room(database_url: str, tmp_path: Path) -> Darkroom:
    register(database_url, site_file())
    return Darkroom(database_url, tmp_path)


async def test_a_clip_of_a_bare_head_is_one_violation(room: Darkroom) -> None:
    start = await room.hang(PICTURES)
    await room.until_looked()
    looks = room.looks()
    assert len(looks) == len(PICTURES)
    assert room.skipped() == {}
    assert {look["unfit"] for look in looks} == {None}
    # What is still, the model has not run on; most of the clip moves.
    assert 0 < sum(not look["still"] for look in looks) < len(PICTURES)
    (violation,) = await room.judged()
    assert violation["rule"] == "helmet.bare_head"
    frames = {look["frame_sha256"].hex() for look in looks}
    assert {entry["frame_sha256"] for entry in violation["evidence"]} <= frames
    assert violation["closed_at"] > start


def damaged(change: Callable[[Any], Any]) -> list[bytes]:
    def one(jpeg: bytes) -> bytes:
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        return cv2.imencode(".jpg", change(picture))[1].tobytes()

    return [one(jpeg) for jpeg in PICTURES[8:20]]


async def test_a_camera_that_goes_dark_is_reported_and_nothing_is_made_of_its_pictures(
    room: Darkroom,
) -> None:
    await room.hang(damaged(lambda picture: picture // 10))
    await room.until_looked()
    assert {look["unfit"] for look in room.looks()[3:]} == {"dark"}
    (violation,) = await room.judged()
    assert (violation["rule"], violation["subject"]) == ("device.camera", "camera-1")
    assert violation["measured"]["light"] < 50
    reasons = ask(
        room.url,
        "SELECT reason FROM coverage WHERE rule = 'helmet.bare_head' ORDER BY from_at",
    )
    assert "camera_dark" in {row["reason"] for row in reasons}


async def test_zones_are_judged_as_they_are_registered(database_url: str, tmp_path: Path) -> None:
    zone = {"name": "门口", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]], "no_entry": True}
    camera = CameraSettings.model_validate({"zone": [zone]})
    register(
        database_url,
        site_file(devices=[Device(site=SITE, id="camera-1", kind=Kind.CAMERA, camera=camera)]),
    )
    room = Darkroom(database_url, tmp_path)
    await room.hang(PICTURES)
    await room.until_looked()
    rules = {violation["rule"] for violation in await room.judged()}
    assert "zone.entry" in rules


async def test_a_frame_that_cannot_be_looked_at_is_counted_with_its_reason(room: Darkroom) -> None:
    await room.hang([PICTURES[0], PICTURES[1], PICTURES[2]])
    lost = ask(room.url, "SELECT sha256 FROM frames ORDER BY observed_at")
    FrameStore(room.settings.frame_dir).path(lost[0]["sha256"]).unlink()
    await room.until_looked()
    assert room.skipped() == {"missing": 1}
    assert [look["skipped"] for look in room.looks()] == [1, 0]


def cameras(database_url: str, number: int) -> list[str]:
    names = [f"camera-{place}" for place in range(number)]
    registered = [
        Device(site=SITE, id=name, kind=Kind.CAMERA, expected_every_s=1) for name in names
    ]
    register(database_url, site_file(devices=registered))
    return names


async def test_what_a_short_stall_left_is_looked_at_whole(
    database_url: str, tmp_path: Path
) -> None:
    room = Darkroom(database_url, tmp_path)
    room.settings = room.settings.model_copy(update={"vision": VisionSettings()})
    for name in cameras(database_url, 20):
        await room.hang(PICTURES[5:8], name, every_s=1.0)
    do(room.url, "UPDATE frame_queue SET received_at = now()")
    await room.until_looked()
    looks = room.looks()
    assert len(looks) == 20 * 3
    assert room.skipped() == {}
    # The frames of a camera in their order.
    by_segment = sorted(looks, key=lambda look: (look["segment"], look["segment_index"]))
    times: dict[int, list[datetime]] = {}
    for look in by_segment:
        times.setdefault(look["device_id"], []).append(look["observed_at"])
    assert all(seen == sorted(seen) for seen in times.values())


class Slow:
    """Who needs so long for a frame and for storing a round, by a clock that only these move.

    Attributes:
        rounds: How many pictures each took.
        stall_s: For how long the next look stops.
    """

    def __init__(
        self,
        room: Darkroom,
        monkeypatch: pytest.MonkeyPatch,
        frame_s: float,
        store_s: float = 0.0,
        pace_s: float = vision.PACE_S * 60,  # as `keep_up_s` is sixty times the usual
    ) -> None:
        eyes = Eyes(Model(None), FrameStore(room.settings.frame_dir), 0.3)
        header = read_jpeg_header(PICTURES[0])
        store = vision._store
        self.rounds: list[int] = []
        self.now_s = self.stall_s = 0.0

        def look(frames: Sequence[Leased]) -> list[tuple[Leased, Look | str]]:
            self.rounds.append(len(frames))
            self.now_s += frame_s * len(frames) + self.stall_s
            self.stall_s = 0.0
            return [(frame, Look(frame, header, (), still=True)) for frame in frames]

        async def slow_store(*given: Any) -> None:
            self.now_s += store_s
            await store(*given)

        monkeypatch.setattr(vision, "PACE_S", pace_s)
        monkeypatch.setattr(eyes, "look", look)
        monkeypatch.setattr(vision, "_store", slow_store)
        monkeypatch.setattr(vision, "monotonic", lambda: self.now_s)
        self.watch = vision._Watch(Worker(room.url, "vision"), eyes, room.settings)

    async def work_off(self) -> None:
        while await self.watch.look():
            pass


async def test_of_more_than_it_can_look_at_in_time_the_newest_of_each_camera_are_looked_at(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = cameras(database_url, 3)
    room = Darkroom(database_url, tmp_path)
    frame_s = room.settings.vision.keep_up_s / 2 / 50  # half of it, in full rounds, to store it
    slow = Slow(room, monkeypatch, frame_s / 2, store_s=frame_s / 2 * vision.AT_MOST)
    # Until it knows that it is good for fifty, which it still is after rounds of one.
    for pictures in [PICTURES] * 12 + [PICTURES[:1]] * 5:
        await room.hang(pictures, names[0])
        await slow.work_off()
    assert room.skipped() == {}
    do(room.url, "DELETE FROM detections")
    for name, number in zip(names, (60, 40, 5), strict=True):
        await room.hang((PICTURES * 2)[:number], name, every_s=0.1)
    waited = ask(room.url, "SELECT device_id, observed_at FROM frame_queue ORDER BY 2 DESC")
    await slow.work_off()
    await slow.watch.worker.close()

    newest: dict[int, list[datetime]] = {}
    for row in waited:
        newest.setdefault(row["device_id"], []).append(row["observed_at"])
    looked: dict[int, list[datetime]] = {}
    said: dict[int, list[int]] = {}
    for look in room.looks():
        looked.setdefault(look["device_id"], []).insert(0, look["observed_at"])
        said.setdefault(look["device_id"], []).append(look["skipped"])
    assert sum(map(len, looked.values())) == 50
    assert sorted(map(len, looked.values())) == [5, 22, 23]
    assert all(newest[camera][: len(times)] == times for camera, times in looked.items())
    # What was skipped is said with the camera's next look, and counted by camera and reason.
    missed = {camera: len(newest[camera]) - len(times) for camera, times in looked.items()}
    assert said == {
        camera: [missed[camera], *[0] * (len(times) - 1)] for camera, times in looked.items()
    }
    rows = ask(room.url, "SELECT device_id, reason, count FROM frames_skipped")
    assert {row["device_id"]: row["count"] for row in rows} == {
        camera: number for camera, number in missed.items() if number
    }
    assert {row["reason"] for row in rows} == {"overload"}


async def test_after_a_stall_what_came_meanwhile_is_looked_at_whole(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = cameras(database_url, 4)
    room = Darkroom(database_url, tmp_path)
    slow = Slow(room, monkeypatch, frame_s=vision.PACE_S * 60)
    slow.stall_s = room.settings.vision.keep_up_s / 2
    await room.hang(PICTURES, names[0])
    assert await slow.watch.look()
    for name in names:
        await room.hang(PICTURES[:25], name, every_s=0.1)
    await slow.work_off()
    await slow.watch.worker.close()
    assert len(room.looks()) == len(PICTURES) + 4 * 25
    assert room.skipped() == {}


async def test_where_few_may_wait_no_round_takes_more(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = cameras(database_url, 7)
    room = Darkroom(database_url, tmp_path)
    frame_s = room.settings.vision.keep_up_s / 2 / 5
    slow = Slow(room, monkeypatch, frame_s, pace_s=frame_s)
    await room.hang(PICTURES[:6], names[0])
    do(room.url, "UPDATE frame_queue SET event = true")
    for name in names:
        await room.hang(PICTURES[:2], name, every_s=0.1)
    await slow.work_off()
    await slow.watch.worker.close()
    # One frame of each camera and all pictures of events, five of each kind in a round.
    assert slow.rounds == [5 + 5, 2 + 1]
    assert room.skipped() == {"overload": 7}


async def test_pictures_of_events_are_looked_at_however_many_frames_came_since(
    room: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_s = room.settings.vision.keep_up_s / 2 / vision.AT_MOST
    monkeypatch.setattr(vision, "PACE_S", slow_s)  # so slow that only one round's may wait
    await room.hang(PICTURES * 2, every_s=0.1)
    oldest = "SELECT observed_at FROM frame_queue ORDER BY 1 LIMIT 20"
    times = [row["observed_at"] for row in ask(room.url, oldest)]
    do(
        room.url,
        "UPDATE frame_queue SET event = true WHERE observed_at = ANY(%(times)s)",
        {"times": times},
    )
    await room.until_looked()
    events = [look for look in room.looks() if look["event"]]
    assert [look["observed_at"] for look in events] == times
    assert not any(look["still"] for look in events)
    missed = 2 * len(PICTURES) - 20 - vision.AT_MOST
    assert room.skipped() == {"overload": missed}
    # What the stream missed is said by the stream's own next look.
    told = [look["skipped"] for look in room.looks() if not look["event"]]
    assert told == [missed, *[0] * (vision.AT_MOST - 1)]
    seen = await readings(room)
    assert [one.event for one in seen] == [look["event"] for look in room.looks()]


async def readings(room: Darkroom) -> list[Detections]:
    connection = await connect(room.url, "test")
    async with connection, connection.transaction():
        devices = [one for one in await load_devices(connection) if one.kind is Kind.CAMERA]
        now = datetime.now(UTC)
        found = readings_of_devices(connection, devices, now - timedelta(hours=1), now)
        return [reading async for reading in found if isinstance(reading, Detections)]


async def test_what_could_not_be_stored_is_looked_at_again_at_once(
    room: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.hang(PICTURES[:5])
    store, cuts, attempts = vision._store, 0, []

    async def cut_once(*given: Any) -> None:
        nonlocal cuts
        cuts += 1
        attempts.append([row["attempts"] for row in ask(room.url, "SELECT * FROM frame_queue")])
        if cuts == 1:
            ask(
                room.url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'smartsite vision' AND datname = current_database()",
            )
        await store(*given)

    monkeypatch.setattr(vision, "_store", cut_once)
    monkeypatch.setattr(vision, "LEASE", timedelta(hours=1))
    await room.until_looked()
    # All together once more: that was no attempt.
    assert attempts == [[1] * 5] * 2
    assert len(room.looks()) == 5
    assert room.skipped() == {}


async def test_a_picture_that_ends_the_process_is_skipped_and_takes_no_other_with_it(
    room: Darkroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.settings = room.settings.model_copy(update={"vision": VisionSettings()})
    await room.hang(PICTURES[:4])
    rows = ask(room.url, "SELECT observed_at, sha256 FROM frames ORDER BY observed_at")
    times = [row["observed_at"] for row in rows]
    do(
        room.url,
        "UPDATE frame_queue SET event = true WHERE observed_at = %(at)s",
        {"at": times[0]},
    )
    eyes = Eyes(Model(None), FrameStore(room.settings.frame_dir), 0.3)
    whole = eyes.look
    taken: list[int] = []

    class Killed(BaseException):
        """The end of the process."""

    def look(frames: Sequence[Leased]) -> list[tuple[Leased, Look | str]]:
        taken.append(len(frames))
        if any(frame.sha256 == rows[1]["sha256"] for frame in frames):
            raise Killed
        return whole(frames)

    monkeypatch.setattr(eyes, "look", look)
    ends = 0
    while room.waiting():
        worker = Worker(room.url, "vision")
        watch = vision._Watch(worker, eyes, room.settings)
        try:
            while await watch.look():
                pass
        except Killed:
            ends += 1
            # Longer than a frame is worth waiting for, until it is started again.
            do(room.url, "UPDATE frame_queue SET received_at = received_at - interval '11 seconds'")
        await worker.close()
    assert ends == vision.ATTEMPTS
    # All of them, then one by one; what comes before it is looked at, what comes after it as well.
    assert taken == [4, 1, 1, 1, 1, 1]
    assert room.skipped() == {"crashed": 1}
    assert [look["observed_at"] for look in room.looks()] == [times[0], *times[2:]]
    assert [look["skipped"] for look in room.looks()] == [0, 1, 0]


async def test_a_second_process_stands_by_until_the_first_ends(
    room: Darkroom, caplog: pytest.LogCaptureFixture
) -> None:
    def lookers() -> list[str]:
        rows = ask(
            room.url,
            "SELECT w.name FROM detections l JOIN workers w ON w.id = l.worker_id"
            " ORDER BY l.received_at, l.observed_at",
        )
        return [row["name"] for row in rows]

    locked = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 1936548193"
    mine = " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    async with room.looking():
        await until(lambda: len(ask(room.url, locked + mine)) == 2, "the first looks")
        async with room.looking("vision-2"):
            await until(lambda: "another process looks" in caplog.text, "the second stands by")
            await room.hang(PICTURES[:3])
            await until(lambda: room.waiting() == 0, "all frames are looked at")
    assert lookers() == ["vision"] * 3
    async with room.looking("vision-2"):
        await room.hang(PICTURES[3:6])
        await until(lambda: room.waiting() == 0, "all frames are looked at")
    assert lookers() == ["vision"] * 3 + ["vision-2"] * 3


@pytest.fixture
def start_role(room: Darkroom, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts the role as an operator does."""
    parts = urlsplit(room.url)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    file = tmp_path / "smartsite.toml"
    file.write_text(
        f'data_dir = "."\n[broker]\nurl = "mqtt://127.0.0.1:1"\n[vision]\nkeep_up_s = 600\n'
        f'[database]\nurl = "postgresql://{parts.username}@{parts.hostname}:{parts.port}'
        f'{parts.path}"\npassword = "env:ROLE_DATABASE_PASSWORD"\n'
        f'[health]\nlisten = "127.0.0.1:{port}"\n',
        "utf-8",
    )
    environ = {name: text for name, text in os.environ.items() if not name.startswith("SMARTSITE")}
    environ["ROLE_DATABASE_PASSWORD"] = parts.password or ""
    processes = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "smartsite", "run", "--role", "vision"]
        processes.append(
            subprocess.Popen(
                [*command, "--config", str(file)], env=environ, stderr=subprocess.DEVNULL
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


async def test_a_killed_role_loses_no_frame(
    room: Darkroom, start_role: Callable[[], subprocess.Popen[bytes]]
) -> None:
    # Moving all the time: the model runs on each, so that the kill falls into the looking.
    pictures = [jpeg for pair in zip(PICTURES, PICTURES[::-1], strict=True) for jpeg in pair]
    await room.hang(pictures[: vision.AT_MOST])
    role = start_role()
    await until(
        lambda: bool(ask(room.url, "SELECT FROM frame_queue WHERE leased_until IS NOT NULL")),
        "frames are taken",
    )
    role.send_signal(signal.SIGKILL)
    await asyncio.to_thread(role.wait)
    assert room.waiting() + len(room.looks()) == vision.AT_MOST
    # Its own leases are taken up again at once, long before they run out.
    start_role()
    await until(lambda: room.waiting() == 0, "all frames are looked at")
    assert len(room.looks()) == vision.AT_MOST
    assert room.skipped() == {}
