"""The camera doctor on frames of the store."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from device_profiles.native import microseconds
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import TimeLimits
from ingest.store.worker import Worker
from simulators.camera import programme
from smartsite.doctor import stored
from tests.integration.yard import SITE, arrivals_of, register, routes_of, site_file, topic_of


async def test_the_newest_frames_come_oldest_first(database_url: str, tmp_path: Path) -> None:
    devices = (
        Device(site=SITE, id="camera-1", kind=Kind.CAMERA),
        Device(site=SITE, id="camera-2", kind=Kind.CAMERA),
        Device(site=SITE, id="dust-9", kind=Kind.DUST),
    )
    register(database_url, site_file(devices=devices))
    store = FrameStore(tmp_path)
    pictures = [picture.jpeg for picture in programme()[:6]]
    now = datetime.now(UTC)
    times = [now - timedelta(seconds=6 - place) for place in range(len(pictures))]
    messages = [
        (topic_of("camera-1", f"frame/{microseconds(time) // 1_000}"), jpeg)
        for time, jpeg in zip(times, pictures, strict=True)
    ]
    worker = Worker(database_url, "frames")
    routes = await routes_of(database_url)
    writer = FrameWriter(worker, store, TimeLimits())
    await writer.write(arrivals_of(*messages, received_us=microseconds(now)), routes)
    await worker.close()
    with psycopg.connect(database_url) as connection:
        found = stored(connection, store, SITE, "camera-1", 4)
        assert found is not None
        assert [each.data for each in found] == pictures[2:]
        observed = [each.at for each in found if each.at is not None]
        assert observed == sorted(observed)
        assert (observed[-1] - observed[0]).total_seconds() == 3
        for picture in pictures:
            assert store.remove(hashlib.sha256(picture).digest(), since=now.timestamp() + 3_600)
        gone = stored(connection, store, SITE, "camera-1", 4)
        assert gone is not None
        assert [each.data for each in gone] == [None] * 4
        assert stored(connection, store, SITE, "camera-2", 4) == []
        assert stored(connection, store, SITE, "dust-9", 4) is None
        assert stored(connection, store, SITE, "nobody", 4) is None
