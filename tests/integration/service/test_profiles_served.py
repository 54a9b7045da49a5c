"""Makes of devices over a real broker: their own topics, gateways, HJ 212, boxes with pictures."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import REGISTRY

from device_profiles.catalogue import ProfileFault
from device_profiles.hj212.crc import crc
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.segments import unpack
from simulators.camera import picture_at
from smartsite.settings import FramesSettings, ProfilesSettings, Settings
from tests.integration.service.roles import Service, device_of, publish_all, until
from tests.integration.yard import SITE, ask, balance_of, register, site_file

JPEG = picture_at(0.0).jpeg

OWN = """
id = "own-{kind}"
title = "A make with topics of its own"
kind = "{kind}"
format = "json"

[fits]
make = "own"
topics = ["{prefix}/own/{{plant}}/{{device}}/data"]

[time]
at = "t"
format = "epoch_ms"

[values.{quantity}]
at = "v"
"""
HUB = """
id = "hub-dust"
title = "A platform"
kind = "dust"
format = "json"

[fits]
make = "hub"
topics = ["{prefix}/v1/gateway/telemetry"]

[each]
key_is_device = true
at = "[*]"

[time]
at = "ts"
format = "epoch_ms"

[values.pm10_ug_m3]
at = "values.pm10"
"""
BOX = """
id = "box"
title = "A box with a topic of its own"
kind = "camera"
format = "event"

[fits]
make = "box"
topics = ["{prefix}/box/{{device}}/alarm"]

[time]
at = "t"
format = "epoch_ms"

[picture]
at = "image"

[verdict]
what = "intrusion"
"""


@dataclass
class Makes(Service):
    """The same with profiles of the test's own, and who listens to what."""

    listened: tuple[str, ...] = ()
    events: bool = False
    fetch_from: tuple[str, ...] = ()
    devices: list[Device] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        plain = super().settings
        frames = FramesSettings(
            worker=self.workers["frames"], events=self.events, fetch_from=self.fetch_from
        )
        profiles = ProfilesSettings(folders=(self.folder,), topics_of=self.listened)
        return plain.model_copy(update={"frames": frames, "profiles": profiles})

    @property
    def folder(self) -> Any:
        folder = self.data_dir / "profiles"
        folder.mkdir(exist_ok=True)
        return folder

    def make(self, name: str, text: str, **more: str) -> None:
        (self.folder / f"{name}.toml").write_text(text.format(prefix=self.prefix, **more), "utf-8")

    def put(self, id_: str, kind: Kind = Kind.DUST, **more: Any) -> None:
        device = Device(site=SITE, id=id_, kind=kind, expected_every_s=1, **more)
        register(self.database_url, site_file(self.prefix, [device]))


@pytest.fixture
def makes(service: Service) -> Makes:
    return Makes(**{name: getattr(service, name) for name in Service.__dataclass_fields__})


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1_000)


def hj212() -> bytes:
    """A frame of this second whose checksum has a letter, so that its case can be told."""
    at = datetime.now(UTC) + timedelta(hours=8)
    for number in range(1_000):
        body = (
            f"QN={at:%Y%m%d%H%M%S}{number:03};ST=39;CN=2011;PW=123456;MN=310000SITE0000000000042;"
            f"Flag=4;CP=&&DataTime={at:%Y%m%d%H%M%S};a34002-Rtd=78.5,a34002-Flag=N&&"
        ).encode()
        digits = b"%04x" % crc(body)
        if not digits.isdigit():
            return b"##%04d" % len(body) + body + digits + b"\r\n"
    raise AssertionError("no checksum with a letter")


async def test_every_shape_ends_in_its_table(
    makes: Makes, mqtt_client_id: Callable[[str], str]
) -> None:
    makes.make("dust", OWN, kind="dust", quantity="pm10_ug_m3")
    makes.make("crane", OWN, kind="crane", quantity="load_t")
    makes.make("hub", HUB)
    makes.listened = ("own-dust", "hub-dust")
    makes.put("dust-11", make="own", external_id="M-11")
    makes.put("crane-11", Kind.CRANE, make="own", external_id="M-12")
    makes.put("dust-12", make="hub", external_id="H-1")
    makes.put("dust-13", make="hub", external_id="H-2")
    makes.put("dust-14", profile="hj212")
    makes.put("dust-15", make="yunzhu", model="any")
    yunzhu = {"deviceTime": f"{datetime.now(UTC) + timedelta(hours=8):%Y-%m-%d %H:%M:%S}"}
    t = now_ms()
    messages = [
        (f"{makes.prefix}/own/a/M-11/data", {"t": t, "v": 11}),
        (f"{makes.prefix}/own/b/M-12/data", {"t": t, "v": 12}),
        (
            f"{makes.prefix}/v1/gateway/telemetry",
            {name: [{"ts": t, "values": {"pm10": 13}}] for name in ("H-1", "H-2", "H-9")},
        ),
        (makes.topic("dust-14"), hj212()),
        (makes.topic("dust-15"), yunzhu | {"pm10": "15.0", "pm25": "7"}),
        (makes.topic("dust-1"), {"ts": t, "values": {"pm10_ug_m3": 1}}),
    ]
    before = _noted("hj212", "lower_case_crc")
    async with (
        makes.running(),
        device_of(makes.broker, mqtt_client_id("device")) as publish,
    ):
        await publish_all(
            publish,
            [
                (topic, body if isinstance(body, bytes) else json.dumps(body).encode())
                for topic, body in messages
            ],
        )
        await makes.until_received(8)
        await makes.until_acknowledged()
    kept = ask(makes.database_url, "SELECT reason, value, detail FROM quarantine ORDER BY id")
    assert [(row["reason"], row["value"]) for row in kept] == [("unknown_device", "H-9")], kept
    for device in ("dust-11", "crane-11", "dust-12", "dust-13", "dust-14", "dust-15", "dust-1"):
        assert makes.stored(device) == 1, device
    assert _noted("hj212", "lower_case_crc") == before + 1
    balance = balance_of(makes.database_url)
    assert (balance.received, balance.stored, balance.adds_up) == (8, 7, True)


def _noted(profile: str, note: str) -> float:
    labels = {"profile": profile, "note": note}
    return REGISTRY.get_sample_value("smartsite_decode_notes_total", labels) or 0.0


async def test_a_boxs_pictures_come_by_the_frames_role_alone(
    makes: Makes, mqtt_client_id: Callable[[str], str]
) -> None:
    makes.make("box", BOX)
    makes.listened = ("box",)
    makes.events = True
    makes.put("camera-11", Kind.CAMERA, make="box", external_id="B-1")
    t = now_ms()
    event = {"t": t, "image": base64.b64encode(JPEG).decode()}
    other = event | {"t": t + 1_000}
    large = event | {"t": t + 2_000, "more": "x" * 2**20}
    async with (
        makes.running(),
        makes.running("frames"),
        device_of(makes.broker, mqtt_client_id("device")) as publish,
    ):
        for topic, body in (
            (makes.topic("camera-11", "event"), event),
            (f"{makes.prefix}/box/B-1/alarm", other),
            (makes.topic("camera-1", "event"), {"door": "open"}),
            (makes.topic("camera-11", "event"), large),
        ):
            await publish(topic, json.dumps(body).encode())
        await publish(makes.topic("dust-1"), b'{"ts": %d, "values": {"noise_db": 1}}' % now_ms())
        await publish(makes.topic("dust-1", "event"), b'{"door": "shut"}')
        await makes.until_stored("dust-1", 1)
        await makes.until_acknowledged()
    reported = ask(
        makes.database_url, "SELECT what, frame_sha256 FROM reported_events ORDER BY observed_at"
    )
    digest = hashlib.sha256(JPEG).digest()
    assert [(row["what"], row["frame_sha256"]) for row in reported] == [("intrusion", digest)] * 3
    assert makes.stored("camera-11") == 3
    events = ask(makes.database_url, "SELECT body FROM device_events ORDER BY body")
    assert [row["body"] for row in events] == [{"door": "open"}, {"door": "shut"}]
    heard = ask(
        makes.database_url,
        "SELECT body FROM segments s JOIN workers w ON w.id = s.worker_id WHERE w.name = %(name)s",
        {"name": makes.workers["ingest"]},
    )
    topics = {topic for row in heard for topic in unpack(row["body"]).topics}
    assert topics == {makes.topic("dust-1").encode(), makes.topic("dust-1", "event").encode()}


async def test_a_picture_is_fetched_from_where_it_may_be(
    makes: Makes, mqtt_client_id: Callable[[str], str]
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=JPEG)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    makes.make("box", BOX)
    makes.listened, makes.fetch_from = ("box",), ("127.0.0.1",)
    makes.put("camera-11", Kind.CAMERA, make="box", external_id="B-1")
    async with (
        makes.running("frames"),
        device_of(makes.broker, mqtt_client_id("device")) as publish,
    ):
        for number, image in enumerate((f"{url}/one.jpg", "http://169.254.169.254/latest")):
            body = {"t": now_ms() + number * 1_000, "image": image}
            await publish(f"{makes.prefix}/box/B-1/alarm", json.dumps(body).encode())
        await until(lambda: len(_reported(makes)) == 2, "both are stored")
    await runner.cleanup()
    fetched, refused = _reported(makes)
    assert fetched["frame_sha256"] == hashlib.sha256(JPEG).digest()
    assert refused["frame_sha256"] is None
    assert refused["notes"] == [
        "its picture was not fetched: address 169.254.169.254 is not listed in frames.fetch_from"
    ]
    assert asked == ["/one.jpg"]


def _reported(makes: Makes) -> list[dict[str, Any]]:
    return ask(makes.database_url, "SELECT * FROM reported_events ORDER BY observed_at")


@pytest.mark.parametrize("role", ["ingest", "frames"])
async def test_profiles_that_overlap_are_refused_at_start(makes: Makes, role: str) -> None:
    makes.make("one", OWN, kind="dust", quantity="pm10_ug_m3")
    text = OWN.replace("own-{kind}", "other")
    makes.make("two", text, kind="dust", quantity="pm10_ug_m3")
    with pytest.raises(ProfileFault, match=r"one\.toml") as caught:
        async with makes.running(role):
            pass
    assert "could be of 'own-dust' too" in str(caught.value)
