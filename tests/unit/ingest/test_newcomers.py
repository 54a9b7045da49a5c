"""Who may register itself: only who says what a device of its kind says."""

from __future__ import annotations

import json

import pytest

from device_profiles.topics import parse_topic
from ingest.newcomers import introduces
from simulators.camera import picture_at

READING = json.dumps({"ts": 1_795_248_000_000, "values": {"noise_db": 50}}).encode()
PARTLY = json.dumps(
    [{"ts": 1_795_248_000_000, "values": {"noise_db": 50}}, {"ts": "yesterday"}]
).encode()
NONE = json.dumps([{"ts": "now"}, {"ts": "then"}]).encode()
JPEG = picture_at(0.0).jpeg
STATUS = b'{"online": true}'


@pytest.mark.parametrize(
    ("topic", "payload", "expected"),
    [
        ("site/s/dust/d/telemetry", READING, True),
        ("site/s/dust/d/telemetry", PARTLY, True),
        ("a/b/site/s/dust/d/telemetry", READING, True),
        ("site/s/dust/d/telemetry", NONE, False),
        ("site/s/dust/d/telemetry", b"{", False),
        ("site/s/dust/d/status", STATUS, True),
        ("site/s/dust/d/status", READING, False),
        ("site/s/crane/d/event", b"{}", True),
        ("site/s/crane/d/event", b"[]", False),
        ("site/s/camera/c/frame/1795248000000", JPEG, True),
        ("site/s/camera/c/frame/1795248000000", b"\xff\xd8", False),
        ("site/s/dust/c/frame/1795248000000", JPEG, False),
        ("site/s/camera/c/telemetry", READING, False),
        ("site/s/camera/c/status", STATUS, True),
    ],
)
def test_a_stranger_is_known_by_what_it_says(topic: str, payload: bytes, expected: bool) -> None:
    assert introduces(parse_topic(topic.encode()), payload) is expected
