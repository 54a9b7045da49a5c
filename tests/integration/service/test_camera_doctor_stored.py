"""The camera doctor on frames of the store."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from device_profiles.native import microseconds
from device_profiles.sites import CameraSettings, Device
from device_profiles.vocabulary import Kind
from ingest.frame_store import FrameStore
from ingest.frames import FrameWriter
from ingest.pipeline import TimeLimits
from ingest.store.worker import Worker
from simulators.camera import programme
from smartsite.commands.vision import doctor
from smartsite.doctor import kept, stored
from smartsite.errors import Misconfigured
from smartsite.settings import load_settings
from tests.integration.yard import SITE, arrivals_of, register, routes_of, site_file, topic_of


async def test_the_newest_frames_come_oldest_first(database_url: str, tmp_path: Path) -> None:
    devices = (
        Device(
            site=SITE,
            id="camera-1",
            kind=Kind.CAMERA,
            camera=CameraSettings(fixed=False, tiles="3x2"),
        ),
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
        found = stored(connection, SITE, "camera-1", 4)
        assert found is not None
        assert found.camera == CameraSettings(fixed=False, tiles="3x2")
        assert [each.data for each in kept(store, found.frames)] == pictures[2:]
        observed = [frame.observed_at for frame in found.frames]
        assert observed == sorted(observed)
        assert [each.at for each in kept(store, found.frames)] == observed
        assert (observed[-1] - observed[0]).total_seconds() == 3
        for picture in pictures:
            assert store.remove(hashlib.sha256(picture).digest(), since=now.timestamp() + 3_600)
        assert [each.data for each in kept(store, found.frames)] == [None] * 4
        other = stored(connection, SITE, "camera-2", 4)
        assert other == (CameraSettings(), [])
        assert stored(connection, SITE, "dust-9", 4) is None
        assert stored(connection, SITE, "nobody", 4) is None


async def test_a_camera_is_examined_by_what_is_registered_of_it(
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices = tuple(
        Device(site=SITE, id=name, kind=Kind.CAMERA, camera=CameraSettings(fixed=fixed))
        for name, fixed in (("camera-1", True), ("camera-2", False))
    )
    register(database_url, site_file(devices=devices))
    config = tmp_path / "smartsite.toml"
    password = urlsplit(database_url).password or ""
    monkeypatch.setenv("DOCTORS_PASSWORD", password)
    url = database_url.replace(f":{password}@", "@")
    config.write_text(
        f'data_dir = "{tmp_path}"\n[database]\nurl = "{url}"\npassword = "env:DOCTORS_PASSWORD"\n'
    )
    now = datetime.now(UTC)
    messages = [
        (topic_of(name, f"frame/{microseconds(now) // 1_000 - 500 * (4 - place)}"), picture.jpeg)
        for name in ("camera-1", "camera-2")
        for place, picture in enumerate(programme()[:4])
    ]
    worker = Worker(database_url, "frames")
    routes = await routes_of(database_url)
    writer = FrameWriter(worker, FrameStore(load_settings(config).frame_dir), TimeLimits())
    await writer.write(arrivals_of(*messages, received_us=microseconds(now)), routes)
    await worker.close()
    found = {}
    for name in ("camera-1", "camera-2"):
        doctor(f"{SITE}/{name}", as_json=True, config=config)
        found[name] = json.loads(capsys.readouterr().out)
    assert [each["pictures"] for each in found.values()] == [4, 4]
    assert found["camera-1"]["same_scene"] > 0.5
    assert found["camera-2"]["same_scene"] is None
    with pytest.raises(Misconfigured, match="--patrols goes with --file"):
        doctor(f"{SITE}/camera-1", patrols=True, config=config)
