"""A simulated construction site, as messages of the native contract.

Two dust-and-noise monitors, two tower cranes whose jibs overlap, one camera. It misbehaves: in
every minute PM10 exceeds what a strict demo allows, the cranes come nearer than 2 m, and a man
without a helmet is in the picture; in between all is well again. Some habits of real devices
are in it: one monitor tells its time in epoch milliseconds and one with a zone, one crane
counts its slewing angle beyond a turn and one wraps it at 360 degrees, and no two devices speak
at the same instant.
"""

from __future__ import annotations

import heapq
import itertools
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from device_profiles.recording import Message
from device_profiles.sites import CameraSettings, Device
from device_profiles.topics import ID, PREFIX, Address
from device_profiles.vocabulary import Channel, Kind
from simulators.camera import picture_at
from simulators.cranes import HIGH, LOW, CraneInstrument, cranes_at
from simulators.dust import Episodes, dust_samples
from simulators.errors import Misconfigured
from simulators.weather import Sky

DUST_EPISODES = {
    "dust-1": Episodes(first_s=0.5, every_s=50.0),  # by the gate
    "dust-2": Episodes(first_s=30.0, every_s=150.0),  # at the far fence
}
CRANES = {"crane-1": HIGH, "crane-2": LOW}
CAMERAS = ("camera-1",)

PHASE_S = {"dust-1": 0.05, "dust-2": 0.55, "crane-1": 0.1, "crane-2": 0.3, "camera-1": 0.2}
"""When in a second a device speaks."""

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSite:
    """The site; all that happens on it is decided by a start and a seed.

    Attributes:
        id: Site id.
        district: Topic prefix, "" for none.
        timezone: IANA zone that the day's course and local times follow.
        crane_hz: How often a crane speaks, 1 or 2 a second.
        pictures_hz: How often the camera speaks, 1, 2 or 4 a second.
    """

    id: str = "demo-site"
    district: str = ""
    timezone: str = "Asia/Shanghai"
    crane_hz: int = 1
    pictures_hz: int = 2

    def __post_init__(self) -> None:
        faults = []
        if not ID.fullmatch(self.id):
            faults.append(f"id {self.id!r} does not match {ID.pattern}")
        if not PREFIX.fullmatch(self.district):
            faults.append(f"district {self.district!r} is not ids joined by '/'")
        if self.timezone not in zoneinfo.available_timezones():
            faults.append(f"timezone {self.timezone!r} is not an IANA time zone")
        if self.crane_hz not in (1, 2):
            faults.append(f"crane_hz {self.crane_hz!r} is not 1 or 2")
        if self.pictures_hz not in (1, 2, 4):
            faults.append(f"pictures_hz {self.pictures_hz!r} is not 1, 2 or 4")
        if faults:
            raise Misconfigured("simulated site: " + "; ".join(faults))

    def devices(self) -> tuple[Device, ...]:
        """The site's instruments as the registry has to know them.

        Returns:
            Dust monitors, cranes with their geometry, the camera.
        """
        monitors = [
            Device(site=self.id, id=device, kind=Kind.DUST, make="simulated", expected_every_s=1.0)
            for device in DUST_EPISODES
        ]
        cranes = [
            Device(
                site=self.id,
                id=device,
                kind=Kind.CRANE,
                make="simulated",
                expected_every_s=1.0 / self.crane_hz,
                geometry=geometry,
            )
            for device, geometry in CRANES.items()
        ]
        cameras = [
            Device(
                site=self.id,
                id=device,
                kind=Kind.CAMERA,
                make="simulated",
                expected_every_s=1.0 / self.pictures_hz,
                camera=CameraSettings(fixed=False),
            )
            for device in CAMERAS
        ]
        return (*monitors, *cranes, *cameras)

    def address(self, device: str, channel: Channel, frame_ms: int | None = None) -> Address:
        """Where a device of this site speaks.

        Args:
            device: One of the site's device ids.
            channel: What it says.
            frame_ms: The picture's time, on the frame channel.

        Returns:
            The address.
        """
        if device in DUST_EPISODES:
            kind = Kind.DUST
        elif device in CRANES:
            kind = Kind.CRANE
        elif device in CAMERAS:
            kind = Kind.CAMERA
        else:
            raise KeyError(f"site {self.id} has no device {device!r}")
        return Address(self.district, self.id, kind, device, channel, frame_ms)

    def status(self, device: str, at: datetime, *, online: bool, detail: str = "") -> Message:
        """A device's retained word on itself; with `online` false also its last will.

        Args:
            device: One of the site's device ids.
            at: When it is said; aware.
            online: Whether the device is there.
            detail: Anything it adds.

        Returns:
            The message.
        """
        said: dict[str, object] = {"online": online}
        if detail:
            said["detail"] = detail
        topic = self.address(device, Channel.STATUS).topic
        return Message(at.astimezone(UTC), topic, _encode(said), qos=1, retain=True)

    def messages(
        self, start: datetime, seed: int = 0, seconds: float | None = None
    ) -> Iterator[Message]:
        """What the site's devices publish, in the order of time.

        Args:
            start: When the devices come up; aware. Told to the millisecond.
            seed: What makes one run differ from another.
            seconds: How long it goes on; None is without end.

        Yields:
            Messages; `received_at` is when the device publishes it, and the time in the
            payload (or in a picture's topic) is the same instant to the millisecond.

        Raises:
            Misconfigured: The pictures are not there.
        """
        start = _to_ms(start)
        streams = [
            iter([self.status(device.id, start, online=True) for device in self.devices()]),
            *(self._dust(device, start, seed) for device in DUST_EPISODES),
            *(self._crane(device, start, seed) for device in CRANES),
            *(self._camera(device, start) for device in CAMERAS),
        ]
        merged = heapq.merge(*streams, key=lambda message: message.received_at)
        if seconds is None:
            return merged
        end = start + timedelta(seconds=seconds)
        return itertools.takewhile(lambda message: message.received_at < end, merged)

    def start_hour(self, start: datetime) -> float:
        """The local hour of a time on this site.

        Args:
            start: Aware.

        Returns:
            0 to 24.
        """
        local = start.astimezone(zoneinfo.ZoneInfo(self.timezone))
        return local.hour + local.minute / 60.0 + local.second / 3600.0

    def _dust(self, device: str, start: datetime, seed: int) -> Iterator[Message]:
        topic = self.address(device, Channel.TELEMETRY).topic
        zone = zoneinfo.ZoneInfo(self.timezone)
        in_local_time = device == "dust-2"
        hour = self.start_hour(start)
        for sample in dust_samples(seed, device, DUST_EPISODES[device], hour):
            at = start + timedelta(seconds=sample.second + PHASE_S[device])
            ts: object = epoch_ms(at)
            if in_local_time:
                ts = at.astimezone(zone).isoformat(timespec="milliseconds")
            payload = {"ts": ts, "seq": sample.second, "values": sample.values}
            yield Message(at, topic, _encode(payload))

    def _crane(self, device: str, start: datetime, seed: int) -> Iterator[Message]:
        topic = self.address(device, Channel.TELEMETRY).topic
        which = list(CRANES).index(device)
        unit = CraneInstrument(seed, device, CRANES[device], wraps=device == "crane-2")
        sky = Sky(seed)
        hour = self.start_hour(start)
        for seq in itertools.count():
            seconds = seq / self.crane_hz + PHASE_S[device]
            at = start + timedelta(seconds=seconds)
            wind = sky.at(int(seconds), (hour + seconds / 3600.0) % 24.0).wind_speed_m_s
            values = unit.read(cranes_at(seed, seconds)[which], wind)
            yield Message(at, topic, _encode({"ts": epoch_ms(at), "seq": seq, "values": values}))

    def _camera(self, device: str, start: datetime) -> Iterator[Message]:
        for number in itertools.count():
            seconds = number / self.pictures_hz
            at = start + timedelta(seconds=seconds + PHASE_S[device])
            topic = self.address(device, Channel.FRAME, epoch_ms(at)).topic
            yield Message(at, topic, picture_at(seconds).jpeg)


def epoch_ms(at: datetime) -> int:
    """Milliseconds since 1970 UTC of an aware time, rounded down.

    Args:
        at: The time.

    Returns:
        Milliseconds.
    """
    return (at - _EPOCH) // timedelta(milliseconds=1)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _to_ms(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no zone")
    return _EPOCH + timedelta(milliseconds=epoch_ms(at))
