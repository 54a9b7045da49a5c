"""Frames: what is understood of messages on camera topics, and what is put aside."""

import hashlib
import struct

import cv2
import numpy as np
import pytest

from device_profiles.errors import Reason
from device_profiles.vocabulary import Kind
from ingest.frames import FrameFlush, read_frames
from ingest.pipeline import Arrivals, Quarantined, Scope, TimeLimits, hour_of
from ingest.registry import UNKNOWN_DEVICE, RegisteredDevice, Routes
from ingest.segments import Flag, unpack

NOW_US = 1_800_000_000_000_000
NOW_MS = NOW_US // 1_000
CAMERA = RegisteredDevice(7, "s", "cam", Kind.CAMERA, "d")
DUST = RegisteredDevice(8, "s", "d1", Kind.DUST, "d")


def jpeg(width: int = 16, height: int = 8) -> bytes:
    return cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


def topic(ms: object = NOW_MS, device: str = "cam") -> bytes:
    return f"d/site/s/camera/{device}/frame/{ms}".encode()


def read(*messages: tuple[bytes, bytes], oversized: tuple[int, ...] = ()) -> FrameFlush:
    arrivals = Arrivals(
        [topic for topic, _ in messages],
        [payload for _, payload in messages],
        [1] * len(messages),
        [NOW_US] * len(messages),
    )
    hashes = {}
    for index, (_, payload) in enumerate(messages):
        if index in oversized:
            arrivals.oversized[index] = (99_999_999, bytes(32))
        else:
            hashes[index] = hashlib.sha256(payload).digest()
    flush = read_frames(arrivals, hashes, Routes([CAMERA, DUST]), TimeLimits(300, 86_400))
    assert len(flush.pictures) + len(flush.quarantined) == len(messages)
    assert all(entry.scope is Scope.FRAME for entry in flush.quarantined)
    assert sum(flush.exceptions.values()) == len(flush.quarantined)
    return flush


def refused(*message: bytes, oversized: tuple[int, ...] = ()) -> Quarantined:
    flush = read((message[0], message[1]), oversized=oversized)
    (entry,) = flush.quarantined
    return entry


def test_a_picture_is_understood() -> None:
    data = jpeg(32, 24)
    flush = read((topic(), data))
    (picture,) = flush.pictures
    assert (picture.index, picture.device_id, picture.label) == (0, CAMERA.id, "s/cam")
    assert picture.observed_us == NOW_US
    assert picture.sha256 == hashlib.sha256(data).digest()
    assert picture.bytes == len(data)
    assert (picture.header.width, picture.header.height) == (32, 24)


def test_the_segment_holds_hashes_in_the_place_of_pictures() -> None:
    data = jpeg()
    flush = read((topic(), data), (topic(), b"start of much"), oversized=(1,))
    segment = unpack(flush.segment.body)
    assert segment.payloads == [hashlib.sha256(data).digest(), b"start of much"]
    assert segment.flags == [1 | Flag.FRAME, 1 | Flag.TRUNCATED]


def claiming(width: int, height: int) -> bytes:
    data = jpeg()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    ("payload", "reason", "words"),
    [
        (b"", Reason.SYNTAX, "not a JPEG"),
        (b"hello", Reason.SYNTAX, "not a JPEG"),
        (jpeg()[:20], Reason.INCOMPLETE, "20 bytes"),
        (claiming(60_000, 60_000), Reason.TOO_LARGE, "60000 × 60000"),
    ],
)
def test_a_picture_that_is_not_one_names_camera_and_fault(
    payload: bytes, reason: Reason, words: str
) -> None:
    entry = refused(topic(), payload)
    assert (entry.reason, entry.device_id) == (reason, CAMERA.id)
    assert entry.detail.startswith("s/cam: ")
    assert words in entry.detail


@pytest.mark.parametrize(
    ("at", "reason", "device"),
    [
        (topic(NOW_MS + 300_001), Reason.TIME, CAMERA.id),
        (topic(NOW_MS - 86_400_001), Reason.TIME, CAMERA.id),
        (topic(0), Reason.TIME, CAMERA.id),
        (topic(9_999_999_999_999), Reason.TIME, CAMERA.id),
        (topic(999_999_999_999_999), Reason.TOPIC, None),
        (topic("now"), Reason.TOPIC, None),
        (topic(device="cam2"), Reason.UNKNOWN_DEVICE, None),
        (topic(device="d1"), Reason.TOPIC, None),
        (topic()[2:], Reason.TOPIC, None),
        (b"d/site/s/camera/cam/status", Reason.TOPIC, CAMERA.id),
        (b"d/site/s/dust/d1/telemetry", Reason.TOPIC, DUST.id),
        (b"d/site/s/dust/d1/frame/1800000000000", Reason.SYNTAX, DUST.id),
        (b"\xff", Reason.TOPIC, None),
    ],
)
def test_a_topic_or_time_that_is_wrong_is_put_aside(
    at: bytes, reason: Reason, device: int | None
) -> None:
    flush = read((at, b"no picture" if b"dust" in at else jpeg()))
    (entry,) = flush.quarantined
    assert (entry.reason, entry.device_id) == (reason, device)
    key = (hour_of(NOW_US), device or UNKNOWN_DEVICE, "quarantined_frame")
    assert flush.exceptions == {key: 1}


def test_an_oversized_frame_says_its_size() -> None:
    entry = refused(topic(), jpeg(), oversized=(0,))
    assert (entry.reason, entry.device_id) == (Reason.TOO_LARGE, CAMERA.id)
    assert "99999999" in entry.detail


def test_a_bad_frame_leaves_the_others() -> None:
    flush = read(
        (topic(1), jpeg()), (topic(), jpeg()), (topic(), b"x"), (topic(NOW_MS + 1), jpeg())
    )
    assert [picture.index for picture in flush.pictures] == [1, 3]
    assert [entry.index for entry in flush.quarantined] == [0, 2]


def test_the_limits_of_time_are_allowed() -> None:
    assert (
        len(read((topic(NOW_MS + 300_000), jpeg()), (topic(NOW_MS - 86_400_000), jpeg())).pictures)
        == 2
    )
