"""The simulated site: the same for the same seed, plausible, and misbehaving every minute."""

import itertools
import tomllib
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import simulators
from device_profiles.jpeg import read_jpeg_header
from device_profiles.native import Status, decode_status, telemetry_decoder
from device_profiles.readings import Telemetry
from device_profiles.recording import Message
from device_profiles.sites import CraneGeometry, SiteFile
from device_profiles.topics import parse_topic
from device_profiles.vocabulary import QUANTITIES, Channel, Kind
from simulators.camera import programme
from simulators.cranes import HIGH, LOW, SLEWING, cranes_at, plan
from simulators.errors import Misconfigured
from simulators.site import CRANES, PHASE_S, SimulatedSite, epoch_ms
from simulators.truth import Limits, Truth, truth_of

START = datetime(2026, 11, 21, 1, 30, 0, 250_000, tzinfo=UTC)
SEEDS = (0, 1, 20261121)
MINUTES = 5

Floats = npt.NDArray[np.float64]
Readings = dict[str, list[Telemetry]]


def readings_of(messages: list[Message]) -> Readings:
    decoders = {kind: telemetry_decoder(kind) for kind in QUANTITIES}
    found: Readings = defaultdict(list)
    for message in messages:
        address = parse_topic(message.topic.encode())
        if address.channel is Channel.TELEMETRY:
            decoded = decoders[address.kind](message.payload)
            assert decoded.refused == ()
            found[address.device] += decoded.readings
    return found


@pytest.fixture(scope="module", params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    value = request.param
    assert isinstance(value, int)
    return value


@pytest.fixture(scope="module")
def messages(seed: int) -> list[Message]:
    return list(SimulatedSite().messages(START, seed, 60.0 * MINUTES))


@pytest.fixture(scope="module")
def readings(messages: list[Message]) -> Readings:
    return readings_of(messages)


@pytest.fixture(scope="module")
def truths(seed: int) -> list[Truth]:
    return truth_of(SimulatedSite(), START, 60.0 * MINUTES, seed)


def column(readings: list[Telemetry], kind: Kind, name: str) -> Floats:
    place = [quantity.name for quantity in QUANTITIES[kind]].index(name)
    return np.array([reading.values[place] for reading in readings])


def seconds_of(readings: list[Telemetry]) -> Floats:
    return np.array([reading.reported_us - epoch_ms(START) * 1_000 for reading in readings]) / 1e6


def since_start(at: datetime) -> float:
    return (at - START).total_seconds()


def test_same_seed_same_bytes() -> None:
    once, again = (list(SimulatedSite().messages(START, 7, 20.0)) for _ in range(2))
    assert once == again
    other = list(SimulatedSite().messages(START, 8, 20.0))
    assert [message.topic for message in other] == [message.topic for message in once]
    assert other != once


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short = list(SimulatedSite().messages(START, 3, 12.0))
    endless = SimulatedSite().messages(START, 3)
    assert list(itertools.islice(endless, len(short))) == short


def test_every_device_speaks_at_its_rate(messages: list[Message]) -> None:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for message in messages:
        address = parse_topic(message.topic.encode())
        counts[address.device, address.channel] += 1
    seconds = 60 * MINUTES
    assert counts == {
        **{(device, "status"): 1 for device in PHASE_S},
        **{(device, "telemetry"): seconds for device in PHASE_S if device != "camera-1"},
        ("camera-1", "frame"): 2 * seconds,
    }


def test_cranes_may_speak_twice_a_second() -> None:
    found = readings_of(list(SimulatedSite(crane_hz=2).messages(START, 0, 10.0)))
    assert len(found["crane-1"]) == len(found["crane-2"]) == 20
    assert np.diff(seconds_of(found["crane-1"])) == pytest.approx(0.5)


def test_publish_time_and_payload_time_are_one(messages: list[Message]) -> None:
    times = [message.received_at for message in messages]
    assert times == sorted(times)
    decoders = {kind: telemetry_decoder(kind) for kind in QUANTITIES}
    for message in messages:
        address = parse_topic(message.topic.encode())
        if address.channel is Channel.TELEMETRY:
            reading = decoders[address.kind](message.payload).readings[0]
            assert reading.reported_us == epoch_ms(message.received_at) * 1_000
        elif address.channel is Channel.FRAME:
            assert address.frame_ms == epoch_ms(message.received_at)


def test_readings_count_up_and_stay_within_the_vocabulary(readings: Readings) -> None:
    for device, said in readings.items():
        kind = Kind(device.split("-")[0])
        assert [reading.seq for reading in said] == list(range(len(said)))
        values = np.array([reading.values for reading in said])
        for quantity, measured in zip(QUANTITIES[kind], values.T, strict=True):
            if quantity.name == "luff_deg":  # a horizontal jib has no luffing angle
                assert np.isnan(measured).all()
            else:
                assert measured.min() >= quantity.low, quantity.name
                assert measured.max() <= quantity.high, quantity.name
        assert all(reading.extra is None for reading in said)


def test_dust_sizes_are_in_order(readings: Readings) -> None:
    for device in ("dust-1", "dust-2"):
        said = readings[device]
        fine, coarse, all_sizes = (
            column(said, Kind.DUST, name) for name in ("pm2_5_ug_m3", "pm10_ug_m3", "tsp_ug_m3")
        )
        assert (fine < coarse).all()
        assert (coarse < all_sizes).all()
        assert np.unique(coarse).size > len(said) / 4  # it drifts and has noise


def test_dust_noise_follows_the_clock() -> None:
    by_day, by_night = (
        column(
            readings_of(list(SimulatedSite().messages(at, 0, 60.0)))["dust-1"],
            Kind.DUST,
            "leq_db",
        )[-1]
        for at in (datetime(2026, 11, 21, 2, tzinfo=UTC), datetime(2026, 11, 21, 18, tzinfo=UTC))
    )
    assert by_day > by_night + 8


def test_cranes_keep_to_their_drives(seed: int, readings: Readings) -> None:
    step = 0.05
    for which in (0, 1):
        states = [cranes_at(seed, number * step)[which] for number in range(int(120 / step))]
        for values, speed, acceleration in (
            ([state.bearing_deg for state in states], 4.2, 0.8),
            ([state.trolley_m for state in states], 1.0, 0.4),
            ([state.hook_height_m for state in states], 1.2, 0.5),
        ):
            assert np.abs(np.diff(values)).max() <= speed * step * 1.001
            assert np.abs(np.diff(values, 2)).max() <= acceleration * step**2 * 1.001
    for device in CRANES:
        slew = np.unwrap(column(readings[device], Kind.CRANE, "slew_deg"), period=360.0)
        # Rounding to 0.1 degrees and the encoder's error, in a second difference.
        assert np.abs(np.diff(slew, 2)).max() <= SLEWING.acceleration + 0.6
        assert np.ptp(slew) > 30


def test_moves_of_a_cycle_do_not_overlap() -> None:
    for cycle in range(200):
        for work in plan(5, cycle):
            for moves in work:
                for one, following in itertools.pairwise(moves):
                    assert one.ends_at <= following.starts_at
                    assert one.target == following.origin
                assert moves[0].origin == moves[-1].target
                assert moves[-1].ends_at <= 52.0


def test_one_crane_wraps_its_angle_and_the_other_does_not(readings: Readings) -> None:
    wrapped = column(readings["crane-2"], Kind.CRANE, "slew_deg")
    assert wrapped.min() < 10
    assert wrapped.max() > 320
    assert (wrapped < 360).all()
    assert np.abs(np.diff(column(readings["crane-1"], Kind.CRANE, "slew_deg"))).max() < 5


def test_load_moment_and_radius_agree(readings: Readings) -> None:
    for device, geometry in CRANES.items():
        said = readings[device]
        load, rated, moment, radius, hook = (
            column(said, Kind.CRANE, name)
            for name in ("load_t", "rated_load_t", "moment_pct", "trolley_m", "hook_height_m")
        )
        assert load.max() > 0.8
        assert load.min() == 0.0
        assert (moment <= 95).all()
        assert moment == pytest.approx(100 * load / rated, abs=0.5)
        assert rated == pytest.approx(np.minimum(6.0, 125.0 / radius), rel=0.01)
        assert radius.max() <= geometry.jib_m
        assert hook.max() < geometry.jib_height_m


def bodies(geometry: CraneGeometry, slew: float, trolley: float, hook: float) -> Floats:
    """The four bodies of a crane from a published reading: [body, end, xyz]."""
    bearing = np.radians(slew + geometry.slew_zero_deg)
    along = np.array([np.sin(bearing), np.cos(bearing), 0.0])
    foot = np.array([geometry.x_m, geometry.y_m, geometry.base_m])
    up = np.array([0.0, 0.0, 1.0])
    pivot = foot + up * geometry.jib_height_m
    return np.array(
        [
            [pivot, pivot + along * geometry.jib_m],
            [pivot, pivot - along * geometry.counter_jib_m],
            [foot, foot + up * (geometry.top_height_m or geometry.jib_height_m)],
            [pivot + along * trolley, foot + along * trolley + up * hook],
        ]
    )


def brute_distance(one: Floats, other: Floats) -> float:
    """Try points along both segments, then finer around the best."""
    low = np.zeros(2)
    high = np.ones(2)
    best = np.inf
    for _ in range(3):
        s = np.linspace(low[0], high[0], 41)
        t = np.linspace(low[1], high[1], 41)
        points = one[0] + s[:, None] * (one[1] - one[0])
        others = other[0] + t[:, None] * (other[1] - other[0])
        gaps = np.linalg.norm(points[:, None, :] - others[None, :, :], axis=2)
        place = np.unravel_index(int(gaps.argmin()), gaps.shape)
        best = float(gaps[place])
        at = np.array([s[place[0]], t[place[1]]])
        width = (high - low) / 20
        low, high = np.clip(at - width, 0, 1), np.clip(at + width, 0, 1)
    return best


def published_distances(readings: Readings) -> tuple[Floats, Floats]:
    """Seconds at which crane-1 spoke, and the distance then with crane-2 interpolated."""
    at = seconds_of(readings["crane-1"])
    track = {}
    for device in CRANES:
        said = readings[device]
        track[device] = [
            np.interp(at, seconds_of(said), values)
            for values in (
                np.unwrap(column(said, Kind.CRANE, "slew_deg"), period=360.0),
                column(said, Kind.CRANE, "trolley_m"),
                column(said, Kind.CRANE, "hook_height_m"),
            )
        ]
    distances = [
        min(
            brute_distance(one, other)
            for one in bodies(HIGH, *(values[index] for values in track["crane-1"]))
            for other in bodies(LOW, *(values[index] for values in track["crane-2"]))
        )
        for index in range(at.size)
    ]
    return at, np.array(distances)


def spans(truths: list[Truth], kind: str, subject: str) -> list[tuple[float, float]]:
    return [
        (since_start(truth.from_at), since_start(truth.to_at))
        for truth in truths
        if (truth.kind, truth.subject) == (kind, subject)
    ]


def depth(at: Floats, within: list[tuple[float, float]]) -> Floats:
    """How far inside the nearest span an instant is, in seconds; negative outside."""
    return np.array([max(min(t - begin, end - t) for begin, end in within) for t in at])


def test_crane_truth_agrees_with_the_published_readings(
    readings: Readings, truths: list[Truth]
) -> None:
    at, distances = published_distances(readings)
    inside = depth(at, spans(truths, "crane", "crane-1+crane-2"))
    assert (distances[inside > 1.0] < 2.0).all()
    assert (distances[inside < -1.0] > 2.0).all()
    assert (distances > 0.4).all()  # near misses, no collisions
    for truth in truths:
        if truth.kind == "crane":
            span = (at >= since_start(truth.from_at)) & (at <= since_start(truth.to_at))
            assert distances[span].min() == pytest.approx(truth.measured["distance_m"], abs=0.2)
            # Long enough for readings a second apart to show it several times.
            assert span.sum() >= 8
    assert (distances > 5.0).mean() > 0.5  # calm for more than half of the time


def test_dust_truth_agrees_with_the_published_readings(
    readings: Readings, truths: list[Truth]
) -> None:
    for device in ("dust-1", "dust-2"):
        pm10 = column(readings[device], Kind.DUST, "pm10_ug_m3")
        means = np.convolve(pm10, np.ones(10) / 10, "valid")
        at = seconds_of(readings[device])[9:]
        inside = depth(at, spans(truths, "dust", device))
        assert (means[inside > 1.0] > 150.0).all()
        assert (means[inside < -1.0] < 150.0).all()
        assert means[inside > 4.0].min() > 170.0
        assert (means < 110.0).mean() > 0.3


def test_helmet_truth_agrees_with_the_pictures(
    messages: list[Message], truths: list[Truth]
) -> None:
    bare = {picture.jpeg for picture in programme() if picture.bare_head}
    covered = {picture.jpeg for picture in programme() if not picture.bare_head}
    assert not bare & covered
    within = spans(truths, "helmet", "camera-1")
    for message in messages:
        if parse_topic(message.topic.encode()).channel is Channel.FRAME:
            at = since_start(message.received_at)
            shown = any(begin <= at < end for begin, end in within)
            assert (message.payload in bare) == shown
    assert all(end - begin == pytest.approx(11.5) for begin, end in within)


@pytest.mark.parametrize("kind", ["dust", "crane", "helmet"])
def test_every_minute_shows_every_kind(truths: list[Truth], kind: str) -> None:
    begins = [since_start(truth.from_at) for truth in truths if truth.kind == kind]
    assert begins[0] < 15
    for minute in range(MINUTES):
        assert any(60 * minute <= begin < 60 * (minute + 1) for begin in begins)
    # Also in any other minute than those of the clock.
    assert np.diff(begins).max() < 60
    ends = [since_start(truth.to_at) for truth in truths if truth.kind == kind]
    assert min(np.subtract(ends, begins)[:-1]) > 8


def test_something_happens_in_the_first_ten_seconds(truths: list[Truth]) -> None:
    first = min(since_start(truth.from_at) for truth in truths if truth.kind != "helmet")
    assert first < 8


def test_truth_follows_its_limits() -> None:
    site = SimulatedSite()
    strict = truth_of(site, START, 60.0, 0, Limits(pm10_ug_m3=5.0, crane_m=100.0))
    assert [(truth.kind, truth.from_at) for truth in strict if truth.kind == "crane"] == [
        ("crane", START)
    ]
    dust = [truth for truth in strict if truth.kind == "dust"]
    assert len(dust) == 2  # one endless exceedance a monitor
    assert {truth.to_at for truth in dust} == {START + timedelta(seconds=60)}
    lax = truth_of(site, START, 60.0, 0, Limits(pm10_ug_m3=5_000.0, crane_m=0.1))
    assert {truth.kind for truth in lax} == {"helmet"}


def test_status_is_retained_and_readable() -> None:
    site = SimulatedSite(district="pudong/lujiazui")
    online = [message for message in site.messages(START, 0, 1.0) if message.retain]
    assert len(online) == len(site.devices())
    for message in online:
        assert message.topic.startswith("pudong/lujiazui/site/demo-site/")
        assert message.topic.endswith("/status")
        assert decode_status(message.payload).online is True
    will = site.status("crane-2", START, online=False, detail="lost")
    assert decode_status(will.payload) == Status(online=False, detail="lost")
    assert will.retain


def test_pictures_are_jpegs_of_one_size() -> None:
    headers = {read_jpeg_header(picture.jpeg) for picture in programme()}
    assert {(header.width, header.height) for header in headers} == {(768, 432)}
    assert max(len(picture.jpeg) for picture in programme()) < 100_000


def test_pictures_stay_small_in_the_repository() -> None:
    clips = Path(simulators.__file__).parent / "clips"
    assert sum(file.stat().st_size for file in clips.rglob("*.jpg")) < 3_000_000
    attribution = (clips / "README.md").read_text(encoding="utf-8")
    for needed in ("CC BY 4.0", "github.com/intel-iot-devkit/sample-videos", "Changes made"):
        assert needed in attribution


def test_demo_site_file_is_the_simulated_site() -> None:
    path = Path(simulators.__file__).parent / "demo_site.toml"
    file = SiteFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    site = SimulatedSite()
    assert file.device == site.devices()
    assert [(one.id, one.district, one.timezone) for one in file.site] == [
        (site.id, site.district, site.timezone)
    ]
    organisations = {organisation.id for organisation in file.organisation}
    assert {file.site[0].contractor, file.site[0].regulator} == organisations
    assert {recipient.organisation for recipient in file.recipient} == organisations


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"id": "has space"}, "has space"),
        ({"district": "/a"}, "district"),
        ({"timezone": "Mars/Olympus"}, "IANA"),
        ({"crane_hz": 3}, "crane_hz"),
        ({"pictures_hz": 0}, "pictures_hz"),
    ],
)
def test_wrong_settings_are_refused_by_name(fault: dict[str, object], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        SimulatedSite(**fault)  # type: ignore[arg-type]


def test_naive_start_is_refused() -> None:
    with pytest.raises(ValueError, match="no zone"):
        next(SimulatedSite().messages(datetime(2026, 1, 1), 0))  # noqa: DTZ001 - that is the fault
