"""What surrounds the simulated site: truths on disk, replayed times, fleets, counted units."""

import itertools
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.errors import Rejected
from device_profiles.native import telemetry_decoder
from device_profiles.recording import Message, read_recording
from device_profiles.topics import parse_topic
from device_profiles.vocabulary import QUANTITIES, Kind
from simulators.cranes import Segment, segment_distance
from simulators.errors import Misconfigured
from simulators.fleet import START_MS, device_id, fleet_file, payloads, site_id
from simulators.motion import Drive, Move, position
from simulators.publish import Broker, unit_of
from simulators.replay import shifted, shifted_to
from simulators.site import SimulatedSite
from simulators.truth import read_truth, record, truth_of, truth_path

START = datetime(2026, 11, 21, 1, 30, tzinfo=UTC)
TELEMETRY = "d/site/s/dust/d1/telemetry"


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.zst"])
def test_a_recording_goes_with_its_truth(tmp_path: Path, name: str) -> None:
    site = SimulatedSite()
    count = record(site, tmp_path / name, START, 30.0, seed=4)
    assert list(read_recording(tmp_path / name)) == list(site.messages(START, 4, 30.0))
    assert count == sum(1 for _ in site.messages(START, 4, 30.0))
    assert truth_path(tmp_path / name) == tmp_path / "run.truth.jsonl"
    truths = read_truth(tmp_path / "run.truth.jsonl")
    assert truths == truth_of(site, START, 30.0, seed=4)
    assert {truth.kind for truth in truths} == {"dust", "crane", "helmet"}


def test_a_spoiled_truth_is_refused_by_line(tmp_path: Path) -> None:
    record(SimulatedSite(), tmp_path / "run.jsonl", START, 30.0)
    path = tmp_path / "run.truth.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "dust"}\n')
    with pytest.raises(Rejected, match="line"):
        read_truth(path)


def message(payload: bytes, topic: str = TELEMETRY) -> Message:
    return Message(START, topic, payload)


def test_shifting_moves_every_time_and_nothing_else() -> None:
    by = timedelta(days=3, milliseconds=5)
    moved = shifted(message(b'{"ts":1000,"seq":7,"values":{"pm10_ug_m3":35.0}}'), by)
    assert moved.received_at == START + by
    assert msgspec.json.decode(moved.payload) == {
        "ts": 1000 + 3 * 86_400_000 + 5,
        "seq": 7,
        "values": {"pm10_ug_m3": 35.0},
    }
    batch = shifted(message(b'[{"ts":"2026-11-21T09:30:00+08:00","values":{}},{"ts":5}]'), by)
    assert msgspec.json.decode(batch.payload) == [
        {"ts": "2026-11-24T09:30:00.005+08:00", "values": {}},
        {"ts": 5 + 3 * 86_400_000 + 5},
    ]
    frame = shifted(message(b"\xff\xd8", "site/s/camera/c/frame/1000"), by)
    assert frame.topic == f"site/s/camera/c/frame/{1000 + 3 * 86_400_000 + 5}"
    assert frame.payload == b"\xff\xd8"


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (TELEMETRY, b"garbage"),
        (TELEMETRY, b'{"ts": NaN}'),
        (TELEMETRY, b'{"ts": "yesterday"}'),
        (TELEMETRY, b'{"ts": "9999-12-31T23:59:59Z"}'),
        (TELEMETRY, b"[[[[1]]]]"),
        (TELEMETRY, b"\xff"),
        ("elsewhere", b'{"ts": 1}'),
        ("site/s/dust/d1/status", b'{"online": true }'),
    ],
)
def test_shifting_leaves_alone_what_it_cannot_read(topic: str, payload: bytes) -> None:
    moved = shifted(message(payload, topic), timedelta(days=1))
    assert (moved.topic, moved.payload) == (topic, payload)


def test_shifting_keeps_intervals() -> None:
    site = SimulatedSite()
    now = datetime(2027, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    once = list(site.messages(START, 0, 3.0))
    moved = list(shifted_to(iter(once), now))
    assert moved[0].received_at <= now < moved[0].received_at + timedelta(milliseconds=1)
    assert {new.received_at - old.received_at for old, new in zip(once, moved, strict=True)} == {
        moved[0].received_at - once[0].received_at
    }
    decode = telemetry_decoder(Kind.DUST)
    for new in moved:
        if "/dust/" in new.topic and new.topic.endswith("telemetry"):
            us = decode(new.payload).readings[0].reported_us
            assert us == pytest.approx(new.received_at.timestamp() * 1e6, abs=1_000)


def test_a_fleets_readings_are_all_different_and_readable() -> None:
    decode = telemetry_decoder(Kind.DUST)
    made = list(payloads(7, 3, 1_000, seed=1))
    keys = set()
    for topic, payload in made:
        address = parse_topic(topic)
        assert address.kind is Kind.DUST
        decoded = decode(payload)
        assert decoded.refused == ()
        assert sum(not math.isnan(value) for value in decoded.readings[0].values) == 8
        keys.add((address.site, address.device, decoded.readings[0].reported_us))
        assert 150 <= len(payload) <= 220
    assert len(keys) == 1_000
    assert min(us for _, _, us in keys) == START_MS * 1_000
    assert list(payloads(7, 3, 1_000, seed=1)) == made
    assert list(payloads(7, 3, 1_000, seed=2)) != made


def test_a_fleets_values_are_plausible() -> None:
    decode = telemetry_decoder(Kind.DUST)
    for _, payload in payloads(1, 1, 2_000):
        values = decode(payload).readings[0].values
        for quantity, value in zip(QUANTITIES[Kind.DUST], values, strict=True):
            assert math.isnan(value) or quantity.low <= value <= quantity.high
        assert values[0] < values[1] < values[2]


def test_batches_hold_as_many_readings_as_asked_for() -> None:
    decode = telemetry_decoder(Kind.DUST)
    keys = set()
    for topic, payload in payloads(2, 2, 12, batch=100, district="pudong"):
        assert topic.startswith(b"pudong/site/")
        decoded = decode(payload)
        assert len(decoded.readings) == 100
        assert unit_of(message(payload, topic.decode())) == ("dust", 100)
        keys |= {(topic, reading.reported_us) for reading in decoded.readings}
    assert len(keys) == 1_200


def test_the_registry_can_know_the_fleet() -> None:
    file = fleet_file(3, 2, district="pudong")
    addresses = {parse_topic(topic)[:4] for topic, _ in payloads(3, 2, 50, district="pudong")}
    assert addresses == {
        (site.district, site.id, Kind.DUST, device.id)
        for site in file.site
        for device in file.device
        if device.site == site.id
    }
    assert (site_id(2), device_id(1)) == ("load-0002", "dust-001")


@pytest.mark.parametrize(
    ("topic", "payload", "unit"),
    [
        (TELEMETRY, b'{"ts":1}', ("dust", 1)),
        (TELEMETRY, b' [{"ts":1},{"ts":2},{"ts":3}]', ("dust", 3)),
        (TELEMETRY, b"[]", ("dust", 1)),
        (TELEMETRY, b"[broken", ("dust", 1)),
        (TELEMETRY, b"[\xff]", ("dust", 1)),
        ("site/s/crane/c/telemetry", b"", ("crane", 1)),
        ("site/s/crane/c/status", b"[1,2]", ("status", 1)),
        ("site/s/crane/c/event", b"{}", ("event", 1)),
        ("site/s/camera/c/frame/5", b"[", ("frame", 1)),
        ("somewhere/else", b"[1,2]", ("unreadable", 1)),
        ("site/s/crane/\ud800/status", b"", ("unreadable", 1)),
    ],
)
def test_a_message_counts_as_its_readings(
    topic: str, payload: bytes, unit: tuple[str, int]
) -> None:
    assert unit_of(message(payload, topic)) == unit


def test_broker_addresses() -> None:
    assert Broker.parse("mqtt://broker") == Broker("broker", 1883)
    assert Broker.parse("mqtt://u:p%40ss@[::1]:1884/") == Broker("::1", 1884, None, "u", "p@ss")
    encrypted = Broker.parse("mqtts://broker.example")
    assert encrypted.port == 8883
    assert encrypted.tls is not None
    assert "p@ss" not in repr(Broker.parse("mqtt://u:p%40ss@host"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://b:0x1",
        "mqtt://b:99999",
        "mqtt://u:secret@b/topic",
    ],
)
def test_wrong_broker_addresses_are_refused_without_showing_passwords(url: str) -> None:
    with pytest.raises(Misconfigured, match="HOST") as refused:
        Broker.parse(url)
    assert "secret" not in str(refused.value)


@given(
    st.floats(0.1, 10),
    st.floats(0.05, 5),
    st.floats(-300, 300),
    st.floats(-300, 300),
)
def test_a_move_keeps_to_its_drive(
    top_speed: float, acceleration: float, origin: float, target: float
) -> None:
    drive = Drive(top_speed, acceleration)
    move = Move(drive, origin, target, 10.0)
    length = move.ends_at - 10.0
    assert move.at(10.0) == origin
    assert move.at(0.0) == origin
    assert move.at(move.ends_at + 1.0) == pytest.approx(target, abs=1e-6)
    assert length >= abs(target - origin) / top_speed - 1e-9
    step = max(length / 200, 1e-3)
    places = [move.at(10.0 + number * step) for number in range(-2, 203)]
    speeds = [(b - a) / step for a, b in itertools.pairwise(places)]
    changes = [(b - a) / step for a, b in itertools.pairwise(speeds)]
    assert max(map(abs, speeds)) <= top_speed * (1 + 1e-6) + 1e-6
    assert max(map(abs, changes)) <= acceleration * (1 + 1e-6) + 1e-5


def test_moves_follow_each_other() -> None:
    drive = Drive(1.0, 1.0)
    moves = [Move(drive, 0.0, 5.0, 1.0), Move(drive, 5.0, 2.0, 10.0)]
    assert position(moves, 0.0) == 0.0
    assert position(moves, 8.0) == 5.0
    assert position(moves, 30.0) == 2.0


COORDINATE = st.floats(-60, 60)
POINT = st.tuples(COORDINATE, COORDINATE, COORDINATE)
SEGMENT = st.tuples(POINT, POINT)


@given(SEGMENT, SEGMENT, st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=5))
def test_no_pair_of_points_is_nearer_than_the_segments(
    one: Segment, other: Segment, parameters: list[tuple[float, float]]
) -> None:
    def at(segment: Segment, part: float) -> list[float]:
        return [a + part * (b - a) for a, b in zip(*segment, strict=True)]

    least = segment_distance(one, other)
    assert segment_distance(other, one) == pytest.approx(least, abs=1e-6)
    corners = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]
    for s, t in parameters + corners:
        assert math.dist(at(one, s), at(other, t)) >= least - 1e-6


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        (((0, 0, 0), (10, 0, 0)), ((5, -5, 3), (5, 5, 3)), 3.0),  # crossing above
        (((0, 0, 0), (10, 0, 0)), ((2, 1, 0), (8, 1, 0)), 1.0),  # parallel
        (((0, 0, 0), (10, 0, 0)), ((12, 0, 0), (20, 0, 0)), 2.0),  # in line
        (((0, 0, 0), (0, 0, 0)), ((3, 4, 0), (3, 4, 0)), 5.0),  # points
        (((0, 0, 0), (0, 0, 0)), ((-5, 2, 0), (5, 2, 0)), 2.0),  # a hook at its trolley
        (((0, 0, 0), (10, 0, 0)), ((5, 0, -1), (5, 0, 1)), 0.0),  # touching
    ],
)
def test_segment_distances(one: Segment, other: Segment, distance: float) -> None:
    assert segment_distance(one, other) == pytest.approx(distance)
