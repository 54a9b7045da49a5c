"""What AI boxes report: the message, its picture as a frame, and the verdict, all at once."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import web

from device_profiles.catalogue import load_profiles
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.errors import DatabaseUnavailable
from ingest.fetching import Fetcher
from ingest.frame_store import FrameStore
from ingest.frames import FrameOutcome, FrameWriter
from ingest.pipeline import TimeLimits
from ingest.profiles import Readers
from ingest.registry import Routes, load_routes
from ingest.retrying import retry
from ingest.segments import Flag, unpack
from ingest.store.hypertables import look_at_server
from ingest.store.retention import Aging, Retention
from ingest.store.worker import Worker
from simulators.camera import picture_at
from smartsite.balance import Auditor, snapshot
from tests.integration.yard import NOW, NOW_US, SITE, arrivals_of, ask, do, register, site_file

ONE, OTHER = picture_at(0.0).jpeg, picture_at(7.0).jpeg
READERS = Readers(load_profiles())
DEVICES = (
    Device(site=SITE, id="box-1", kind=Kind.CAMERA, make="aidrive"),
    Device(site=SITE, id="box-2", kind=Kind.CAMERA, make="kks", external_id="GATE"),
    Device(site=SITE, id="box-3", kind=Kind.CAMERA, make="kks", external_id="CRANE"),
    Device(site=SITE, id="camera-1", kind=Kind.CAMERA),
)


def topic(device: str, channel: str = "event") -> str:
    return f"site/{SITE}/camera/{device}/{channel}"


def aidrive(picture: str | bytes, *, after_s: float = 0.0, name: str = "helmet") -> bytes:
    """What an AIDrive box posts."""
    text = picture if isinstance(picture, str) else base64.b64encode(picture).decode()
    box = {"xyxy": [10, 20, 30, 40], "label": "未佩戴安全帽", "conf": 0.85, "ext": {}}
    return json.dumps(
        {
            "id": "x",
            "alert_time": NOW.timestamp() + after_s,
            "alg": {"name": name, "ch_name": "…", "type": "general"},
            "image": text,
            "reserved_data": {"bbox": {"rectangles": [box]}},
        }
    ).encode()


def kks(camera: str, picture: bytes = ONE) -> bytes:
    return json.dumps(
        {
            "image": base64.b64encode(picture).decode(),
            "model": "helmet-v1",
            "camera_kks": camera,
            "score": 0.95,
            "x1": 0.25, "y1": 0.5, "x2": 0.5, "y2": 0.75,
            "timestamp": NOW.isoformat(),
        }
    ).encode()  # fmt: skip


@dataclass
class Desk:
    """A frame writer on the test's database and folder."""

    url: str
    store: FrameStore
    worker: Worker
    routes: Routes
    fetcher: Fetcher | None = None

    async def write(
        self, *messages: tuple[str | bytes, bytes], received_us: int = NOW_US
    ) -> FrameOutcome:
        writer = FrameWriter(self.worker, self.store, TimeLimits(), self.fetcher)
        return await writer.write(arrivals_of(*messages, received_us=received_us), self.routes)

    def events(self) -> list[dict[str, Any]]:
        return ask(
            self.url,
            "SELECT e.*, d.device FROM reported_events e JOIN devices d ON d.id = e.device_id"
            " ORDER BY observed_at, what",
        )

    def frames(self) -> list[dict[str, Any]]:
        return ask(
            self.url,
            "SELECT f.*, d.device, q.sha256 IS NOT NULL AS queued, q.event FROM frames f"
            " JOIN devices d ON d.id = f.device_id LEFT JOIN frame_queue q"
            " USING (device_id, observed_at) ORDER BY observed_at",
        )

    def aside(self) -> list[dict[str, Any]]:
        return ask(self.url, "SELECT * FROM quarantine WHERE resolved_at IS NULL ORDER BY id")

    def is_balanced(self) -> bool:
        with snapshot(self.url) as connection:
            auditor = Auditor(connection, READERS)
            accounts = auditor.draw(None, None)
            _, differences = auditor.verify(accounts)
        assert differences == []
        return bool(accounts.adds_up())


@pytest.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Desk]:
    register(database_url, site_file(devices=DEVICES))
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        routes = await load_routes(connection, READERS)
    worker = Worker(database_url, "frames")
    yield Desk(database_url, FrameStore(tmp_path / "frames"), worker, routes)
    await worker.close()


async def test_an_event_is_a_verdict_a_frame_and_a_message(desk: Desk) -> None:
    payload = aidrive(ONE)
    outcome = await desk.write((topic("box-1"), payload))
    assert (outcome.stored, dict(outcome.reported)) == (1, {"no_helmet": 1})
    (event,) = desk.events()
    assert (event["device"], event["what"], event["score"]) == ("box-1", "no_helmet", None)
    assert event["boxes"] == [["no_helmet", 0.85, 10, 20, 30, 40]]
    assert event["observed_at"] == NOW
    (frame,) = desk.frames()
    assert frame["sha256"] == event["frame_sha256"] == hashlib.sha256(ONE).digest()
    assert (frame["observed_at"], frame["bytes"], frame["queued"]) == (NOW, len(ONE), True)
    assert frame["event"]
    assert desk.store.get(event["frame_sha256"]) == ONE
    # The bytes the verdict came from are proven by the segment, which holds their hash.
    (row,) = ask(desk.url, "SELECT body FROM segments")
    segment = unpack(row["body"])
    assert segment.flags[0] & Flag.FRAME
    assert segment.payloads[event["segment_index"]] == event["payload_sha256"]
    assert desk.store.get(event["payload_sha256"]) == payload
    assert desk.is_balanced()


async def test_told_again_it_changes_nothing(desk: Desk) -> None:
    messages = [(topic("box-1"), aidrive(ONE)), (topic("box-1"), aidrive("", after_s=5))]
    await desk.write(*messages)
    before = desk.events(), desk.frames()
    outcome = await desk.write(*messages, received_us=NOW_US + 10**7)
    assert (outcome.stored, outcome.duplicates, dict(outcome.reported)) == (0, 1, {})
    assert (desk.events(), desk.frames()) == before
    assert len(before[0]) == 2
    assert "the event has no picture" in before[0][1]["notes"]
    assert desk.is_balanced()


async def test_what_is_said_in_one_second_is_told_apart(desk: Desk) -> None:
    """Boxes count in seconds, and see two people in one."""
    await desk.write(
        (topic("box-1"), aidrive(ONE)),
        (topic("box-1"), aidrive(OTHER)),
        (topic("box-1"), aidrive(ONE, name="vest")),
        (topic("box-1"), aidrive("", name="fire")),
    )
    found = {(one["what"], one["observed_at"] - NOW) for one in desk.events()}
    later = timedelta(milliseconds=1)
    none = timedelta()
    assert found == {
        ("no_helmet", none), ("no_helmet", later), ("no_vest", none), ("smoke_fire", none),
    }  # fmt: skip
    assert [frame["observed_at"] - NOW for frame in desk.frames()] == [none, later]
    assert desk.is_balanced()


async def test_a_box_speaks_for_the_cameras_behind_it(desk: Desk) -> None:
    await desk.write(
        (topic("box-2"), kks("GATE")),
        (topic("box-2"), kks("CRANE")),
        (topic("box-2"), kks("ROOF")),
    )
    assert sorted(one["device"] for one in desk.events()) == ["box-2", "box-3"]
    (box, *_) = desk.events()[0]["boxes"]
    header = desk.frames()[0]
    assert box[1:] == [
        0.95, header["width"] * 0.25, header["height"] * 0.5,
        header["width"] * 0.5, header["height"] * 0.75,
    ]  # fmt: skip
    (row,) = desk.aside()
    assert (row["scope"], row["reason"], row["value"]) == ("frame", "unknown_device", "ROOF")
    assert desk.is_balanced()
    # Registered by now.
    device = Device(site=SITE, id="box-4", kind=Kind.CAMERA, make="kks", external_id="ROOF")
    register(desk.url, site_file(devices=(device,)))
    done = await retry(
        desk.url, [row["id"]], TimeLimits(), NOW + timedelta(hours=1), frames=desk.store,
        readers=READERS,
    )  # fmt: skip
    assert (done.back, done.stored) == (1, {"camera": 1})
    assert {one["device"] for one in desk.events()} == {"box-2", "box-3", "box-4"}
    assert desk.is_balanced()


async def test_what_cannot_be_read_is_put_aside_and_the_rest_goes_on(desk: Desk) -> None:
    outcome = await desk.write(
        (topic("box-1"), b"{]"),
        (topic("box-1"), aidrive("no picture!")),
        (topic("box-1"), aidrive(b"not a JPEG", after_s=1)),
        (topic("box-1"), aidrive(ONE, after_s=10_000)),
        (topic("camera-1"), b'{"door": "open"}'),
        (topic("camera-1"), b"[1]"),
        (topic("box-1", f"frame/{NOW_US // 1_000}"), OTHER),
    )
    assert outcome.quarantined.total() == 3
    assert [row["reason"] for row in desk.aside()] == ["syntax", "time", "type"]
    assert all("yard/" in row["detail"] for row in desk.aside())
    events = desk.events()
    assert [one["frame_sha256"] for one in events] == [None, None]
    assert any("base64" in note for note in events[0]["notes"])
    assert any("not a JPEG" in note for note in events[1]["notes"])
    (kept,) = ask(desk.url, "SELECT body FROM device_events")
    assert kept["body"] == {"door": "open"}
    (frame,) = desk.frames()
    assert frame["sha256"] == hashlib.sha256(OTHER).digest()
    assert desk.is_balanced()


@pytest.fixture
async def shown(desk: Desk) -> AsyncIterator[tuple[str, list[str]]]:
    """A server of pictures, and what it was asked for."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        if request.path == "/gone":
            raise web.HTTPGone
        return web.Response(body=ONE, content_type="image/jpeg")

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    desk.fetcher = Fetcher(["127.0.0.0/8"])
    yield f"http://127.0.0.1:{port}", asked
    await desk.fetcher.close()
    await runner.cleanup()


async def test_a_picture_that_is_pointed_at_is_fetched_at_once(
    desk: Desk, shown: tuple[str, list[str]]
) -> None:
    url, asked = shown
    desk.routes = await _routes_with_urls(desk.url)
    messages = [
        (topic("box-1"), aidrive(f"{url}/one")),
        (topic("box-1"), aidrive(f"{url}/gone", after_s=1)),
        (topic("box-1"), aidrive("http://10.0.0.1/one", after_s=2)),
    ]
    await desk.write(*messages)
    fetched, gone, elsewhere = desk.events()
    assert fetched["frame_sha256"] == hashlib.sha256(ONE).digest()
    assert fetched["boxes"]
    assert gone["frame_sha256"] is None
    assert gone["notes"] == ["its picture was not fetched: host '127.0.0.1' answers 410"]
    assert "10.0.0.1 is not listed" in elsewhere["notes"][0]
    assert sorted(asked) == ["/gone", "/one"]
    assert len(desk.frames()) == 1
    # Told again by the broker: the address may have expired, the event stays as it is.
    before = desk.events()
    await desk.write(*messages, received_us=NOW_US + 10**7)
    assert desk.events() == before
    assert desk.is_balanced()


async def test_a_picture_is_fetched_once_however_often_the_flush_is_tried(
    desk: Desk, shown: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = shown
    routes = await _routes_with_urls(desk.url)
    writer = FrameWriter(desk.worker, desk.store, TimeLimits(), desk.fetcher)
    arrivals = arrivals_of((topic("box-1"), aidrive(f"{url}/one")))

    async def away(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(desk.worker, "commit", away)
        with pytest.raises(DatabaseUnavailable):
            await writer.write(arrivals, routes)
    await writer.write(arrivals, routes)
    assert asked == ["/one"]
    assert len(desk.frames()) == 1


async def _routes_with_urls(url: str) -> Routes:
    """AIDrive's profile, with pictures by address."""
    profiles = load_profiles()
    profile = profiles.by_id["aidrive-alert"]
    picture = profile.sheet.picture
    assert picture is not None
    sheet = profile.sheet.model_copy(update={"picture": picture.model_copy(update={"form": "url"})})
    profiles.by_id["aidrive-alert"] = type(profile)(sheet, profile.file)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        return await load_routes(connection, Readers(profiles))


async def test_its_message_ages_out_with_frames_and_the_verdict_with_detections(
    desk: Desk,
) -> None:
    await desk.write((topic("box-1"), aidrive(ONE)), (topic("box-1"), aidrive(OTHER, after_s=60)))
    first, second = (event["payload_sha256"] for event in desk.events())
    long_ago = NOW.timestamp() - 10**8
    for sha256 in (first, second):
        os.utime(desk.store.path(sha256), (long_ago, long_ago))
    evidence = [{"source": {"worker": 1, "number": 1, "index": 1}}]
    do(
        desk.url,
        "INSERT INTO violations (id, rule, kind, site_id, subject, state, severity, opened_at,"
        " closed_at, measured, message_zh, message_en, evidence, booked_at, changed_at)"
        " VALUES ('x', 'device.reported', 'helmet', 'yard', 's', 'open', 'warning', %(opened_at)s,"
        " NULL, '{}', '', '', %(evidence)s::jsonb, now(), now())",
        {"opened_at": NOW, "evidence": json.dumps(evidence)},
    )

    async def age(**days: int) -> None:
        later = NOW + timedelta(days=40)
        async with await psycopg.AsyncConnection.connect(desk.url, autocommit=True) as connection:
            server = await look_at_server(connection)
            aging = Aging(connection, server, Retention(**days), desk.store, later)
            assert await aging.run()

    await age(frames_days=30)
    assert [event["payload_sha256"] for event in desk.events()] == [None, second]
    assert not desk.store.path(first).exists()
    assert desk.store.path(second).exists()
    await age(frames_days=30, detections_days=35)
    assert [event["payload_sha256"] for event in desk.events()] == [second]
