"""What cameras show and say, stored and judged: reports, zones, unfit cameras, shared copies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import psycopg
import pytest
from psycopg.types.json import Jsonb

from alerts.evidence import SQL
from alerts.sharing import Sharing
from detectors.rules import Rules
from device_profiles.jpeg import JpegHeader
from device_profiles.native import microseconds
from device_profiles.readings import Box, Detections, Unfit
from device_profiles.sites import CameraSettings, Device
from device_profiles.vocabulary import Kind
from ingest.frame_store import FrameStore
from ingest.segments import pack
from ingest.store.readings import load_devices, readings_of_devices
from ingest.store.worker import Worker
from simulators.camera import picture_at
from smartsite.commands.coverage import CameraLooks, read_coverage
from smartsite.eyes import Leased, Look
from smartsite.judge import Judge
from smartsite.roles.vision import _store
from tests.integration.yard import NOW, SITE, ask, do, register, site_file

HEAD = Box("head", 0.9, (100.0, 100.0, 140.0, 140.0))
NEIGHBOUR = Box("helmet", 0.9, (300.0, 100.0, 340.0, 140.0))
PERSON = Box("person", 0.9, (80.0, 90.0, 160.0, 330.0))
PLAN = CameraSettings.model_validate(
    {
        "zone": [
            {"name": "pit", "polygon": [[0, 0], [1, 0], [1, 1], [0, 1]], "no_entry": True},
        ]
    }
)
MODEL = "ab" * 32
SECOND_LOOK = "cd" * 32


class Site:
    """A site with one camera, what is said of it, and a judge."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.frames = FrameStore(folder / "frames")
        self.copies = FrameStore(folder / "shared")
        self._vision, self._events = Worker(url, "vision"), Worker(url, "frames")
        (row,) = ask(url, "SELECT id FROM devices WHERE kind = 'camera'")
        self.camera: int = row["id"]
        self.sha256 = self.frames.put(picture_at(0).jpeg)

    async def close(self) -> None:
        await self._vision.close()
        await self._events.close()

    async def look(
        self,
        seconds: Sequence[float],
        *boxes: Box,
        unfit: Unfit | None = None,
        skipped: int = 0,
        model: str = MODEL,
    ) -> None:
        seen: list[tuple[Leased, Look | str]] = []
        for second in seconds:
            at = NOW + timedelta(seconds=second)
            frame = Leased(self.camera, SITE, "camera-1", at, at, self.sha256)
            header = JpegHeader(640, 360, 3, progressive=False)
            figures = {} if unfit is None else {"light": 12.0}
            look = Look(frame, header, boxes, False, unfit, figures, skipped)
            seen.append((frame, look))
        await _store(self._vision, model, SECOND_LOOK, seen)

    async def report(
        self, second: float, what: str = "no_helmet", *, pictured: bool = True
    ) -> None:
        """Write a report as the role that hears events does."""
        at = NOW + timedelta(seconds=second)

        async def rows(connection: psycopg.AsyncConnection[Any]) -> None:
            await connection.execute(
                "INSERT INTO reported_events (device_id, observed_at, received_at, worker_id,"
                " segment, segment_index, what, score, boxes, frame_sha256, notes)"
                " VALUES (%s, %s, %s, %s, %s, 0, %s, 0.8, %s, %s, '{odd}')",
                (
                    *(self.camera, at, at, self._events.id, self._events.next_number, what),
                    Jsonb([["no_helmet", None, 90, 90, 150, 150]]),
                    self.sha256 if pictured else None,
                ),
            )

        received_us = [microseconds(at)]
        segment = pack(received_us, [b"event"], [f"{what} {second}".encode()], [0])
        await self._events.open()
        await self._events.commit(segment, received_us, rows, readings=0, observed_days=[at.date()])

    async def judge(self, second: float, *, sharing: bool = True) -> None:
        connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True)
        async with connection:
            share = Sharing(self.frames, self.copies) if sharing else None
            judge = Judge(connection, Rules(), share)
            now = NOW + timedelta(seconds=second)
            await judge.start(now)
            await judge.step(now)
            await judge.tick(now, timedelta())

    def violations(self) -> list[dict[str, Any]]:
        return ask(
            self.url,
            "SELECT rule, kind, subject, state, closed_at, measured, evidence FROM violations"
            " WHERE rule <> 'device.silence' ORDER BY rule",
        )


@pytest.fixture
async def site(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    camera = Device(site=SITE, id="camera-1", kind=Kind.CAMERA, expected_every_s=1, camera=PLAN)
    register(database_url, site_file(devices=[camera]))
    found = Site(database_url, tmp_path)
    yield found
    await found.close()


async def test_a_cameras_plan_goes_through_the_registry(site: Site) -> None:
    async with await psycopg.AsyncConnection.connect(site.url) as connection:
        (device,) = await load_devices(connection)
    assert device.camera == PLAN


async def test_a_report_is_confirmed_by_the_look_at_its_very_picture(site: Site) -> None:
    await site.report(10)
    await site.judge(11)
    assert site.violations() == []  # its picture is waited for
    await site.look([10], HEAD)
    await site.judge(12)
    (violation,) = site.violations()
    assert (violation["rule"], violation["kind"], violation["subject"]) == (
        "device.reported",
        "helmet",
        "camera-1#no_helmet",
    )
    assert violation["measured"]["confirmed"] == 1
    report, look = violation["evidence"]
    assert report["boxes"] == [["no_helmet", 0.8, 90, 90, 150, 150]]
    assert report["payload_sha256"] != look["payload_sha256"]
    assert report["frame_sha256"] == look["frame_sha256"] == site.sha256.hex()


async def test_a_look_that_comes_late_contradicts_what_was_told(site: Site) -> None:
    await site.report(10)
    await site.judge(11)
    await site.judge(60)
    (violation,) = site.violations()
    assert (violation["measured"]["confirmed"], violation["measured"]["contradicted"]) == (0, 0)
    await site.look([10], NEIGHBOUR)
    await site.judge(61)
    (violation,) = site.violations()
    assert violation["measured"]["contradicted"] == 1


async def test_a_report_without_a_picture_is_told_and_ends_alone(site: Site) -> None:
    await site.report(10, pictured=False)
    await site.report(40, pictured=False)
    await site.report(40, "smoke_fire", pictured=False)
    await site.judge(41)
    await site.judge(3_600)
    told = {violation["subject"]: violation for violation in site.violations()}
    assert set(told) == {"camera-1#no_helmet", "camera-1#smoke_fire"}
    assert told["camera-1#no_helmet"]["measured"]["reports"] == 2
    assert told["camera-1#no_helmet"]["closed_at"] == NOW + timedelta(seconds=40)


async def test_zones_and_unfit_cameras_are_judged_and_covered(site: Site) -> None:
    await site.look([t / 2 for t in range(20)], PERSON)
    await site.look([10 + t / 2 for t in range(20)], unfit=Unfit.DARK, skipped=3)
    await site.judge(60)
    assert [(one["rule"], one["kind"]) for one in site.violations()] == [
        ("device.camera", "device_health"),
        ("zone.entry", "presence"),
    ]
    with psycopg.connect(site.url) as connection:
        covered, looks = read_coverage(connection, NOW, NOW + timedelta(hours=1))
    reasons = {(one.rule, one.reason): one.seconds for one in covered}
    assert reasons["zone.entry", "camera_dark"] == reasons["helmet.bare_head", "camera_dark"]
    assert reasons["zone.entry", "camera_dark"] == pytest.approx(9.5)
    assert reasons["device.camera", None] == pytest.approx(19.5)
    assert looks == [
        CameraLooks(
            site=SITE,
            device="camera-1",
            received=0,
            looked=40,
            still=0,
            unfit=20,
            waiting=0,
            skipped={},
        )
    ]


async def test_what_was_skipped_stands_in_the_coverage(site: Site) -> None:
    hour = NOW.replace(minute=0, second=0, microsecond=0)
    do(
        site.url,
        "INSERT INTO frames_skipped VALUES (%(hour)s, %(id)s, 'overload', 7),"
        " (%(hour)s, %(id)s, 'missing', 1), (%(before)s, %(id)s, 'overload', 100)",
        {"hour": hour, "id": site.camera, "before": hour - timedelta(hours=1)},
    )
    await site.look([3.0 * t for t in range(10)], skipped=5)
    await site.judge(28)
    with psycopg.connect(site.url) as connection:
        covered, looks = read_coverage(connection, NOW, NOW + timedelta(hours=1), SITE)
    assert looks[0].skipped == {"overload": 7, "missing": 1}
    assert "frames_skipped" in {one.reason for one in covered if one.rule == "helmet.bare_head"}


async def test_a_copy_for_sharing_is_made_once_and_named_with_the_evidence(site: Site) -> None:
    await site.look([t / 2 for t in range(20)], HEAD, NEIGHBOUR)
    await site.judge(10)
    await site.judge(11)
    (copy,) = ask(site.url, "SELECT * FROM shared_pictures")
    assert copy["frame_sha256"] == site.sha256
    made = site.copies.get(copy["sha256"])
    assert made != picture_at(0).jpeg
    assert site.frames.get(site.sha256) == picture_at(0).jpeg
    told = next(one for one in site.violations() if one["rule"] == "helmet.bare_head")
    shared = {entry.get("shared_sha256") for entry in told["evidence"]}
    assert copy["sha256"].hex() in shared


async def test_a_copy_is_made_of_the_look_of_the_model_that_is_named(site: Site) -> None:
    newer = "ef" * 32
    await site.look([0], HEAD)
    await site.look([0], NEIGHBOUR, model=newer)
    terms = {"site": SITE, "device": "camera-1", "observed_at": NOW, "frame_sha256": site.sha256}
    with psycopg.connect(site.url) as connection:
        for model, box in (
            (MODEL, HEAD),
            (newer, NEIGHBOUR),
            ("77" * 32, NEIGHBOUR),
            (None, NEIGHBOUR),
        ):
            named = None if model is None else bytes.fromhex(model)
            query = SQL["seen_on_frame"]
            (row,) = connection.execute(query, terms | {"model_sha256": named}).fetchall()
            assert row == ([box.as_row()],)


async def test_what_the_second_look_said_is_stored_and_judged(site: Site) -> None:
    cap = Box("helmet", 0.9, HEAD.box, 0.125)
    await site.look([t / 2 for t in range(0, 20, 2)], cap, NEIGHBOUR)
    await site.look([t / 2 for t in range(1, 20, 2)], NEIGHBOUR, Box("helmet", 0.9, HEAD.box))
    await site.judge(10)
    told = next(one for one in site.violations() if one["rule"] == "helmet.bare_head")
    assert told["subject"].endswith("@120,120")
    asked = [entry["values"].get("second_look") for entry in told["evidence"]]
    assert asked == [0.125, None, 0.125, None]
    assert {box[0] for entry in told["evidence"] for box in entry["boxes"]} == {"head"}
    # A copy for sharing could be made of what is stored in either form.
    assert len(ask(site.url, "SELECT FROM shared_pictures")) == 1
    rows = ask(site.url, "SELECT boxes, second_look_sha256 FROM detections ORDER BY observed_at")
    assert {row["second_look_sha256"].hex() for row in rows} == {SECOND_LOOK}
    assert rows[0]["boxes"] == [cap.as_row(), NEIGHBOUR.as_row()]
    async with await psycopg.AsyncConnection.connect(site.url) as connection:
        devices = await load_devices(connection)
        span = NOW, NOW + timedelta(seconds=0.25)
        (look,) = [one async for one in readings_of_devices(connection, devices, *span)]
    assert isinstance(look, Detections)
    assert look.second_look_sha256 == SECOND_LOOK
    assert look.boxes == (cap, NEIGHBOUR)


async def test_looks_of_before_the_second_look_stay_what_they_are(site: Site) -> None:
    await site.look([t / 2 for t in range(20)], NEIGHBOUR)
    do(site.url, "UPDATE detections SET second_look_sha256 = NULL")
    await site.judge(10)
    assert "helmet.bare_head" not in {one["rule"] for one in site.violations()}
    async with await psycopg.AsyncConnection.connect(site.url) as connection:
        devices = await load_devices(connection)
        span = NOW, NOW + timedelta(seconds=0.25)
        (look,) = [one async for one in readings_of_devices(connection, devices, *span)]
    assert isinstance(look, Detections)
    assert (look.second_look_sha256, look.boxes) == (None, (NEIGHBOUR,))


@pytest.mark.parametrize(
    "breaking",
    [
        "UPDATE detections SET boxes = jsonb_set(boxes, '{0,6}', '2') WHERE observed_at = %(at)s",
        "UPDATE detections SET boxes = '[7]' WHERE observed_at = %(at)s",
    ],
)
async def test_a_look_that_cannot_be_read_counts_as_none_and_stops_nobody(
    site: Site, breaking: str
) -> None:
    await site.look([t / 2 for t in range(20)], HEAD)
    do(site.url, breaking, {"at": NOW})
    await site.judge(10)
    (told,) = (one for one in site.violations() if one["rule"] == "helmet.bare_head")
    # It began at the look after: half a second later.
    assert told["subject"] == f"camera-1#{microseconds(NOW) // 1_000 + 500}@120,120"


@pytest.mark.parametrize("fault", ["gone", "too large for memory"])
async def test_a_picture_that_cannot_be_had_stops_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error(fault)

    if fault == "gone":
        site.frames.path(site.sha256).unlink()
    else:
        monkeypatch.setattr("alerts.sharing.cv2.imdecode", refuse)
    await site.look([t / 2 for t in range(20)], HEAD)
    await site.judge(10)
    assert ask(site.url, "SELECT FROM shared_pictures") == []
    assert "helmet.bare_head" in {one["rule"] for one in site.violations()}
