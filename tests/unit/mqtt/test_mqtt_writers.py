"""What the writers refuse; what they write is compared with others in `test_mqtt_oracles`."""

from __future__ import annotations

import pytest

from ingest.mqtt import codec
from ingest.mqtt.codec import Version
from ingest.mqtt.codec.wire import variable_integer
from tests.unit.mqtt.mqtt_wire import VERSIONS

V3, V5 = VERSIONS


@pytest.mark.parametrize("ids", [[0], [1, 0, 2], [65_536], [-1]])
def test_pubacks_of_no_packet_id(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="packet id"):
        codec.pubacks(ids)


def test_no_pubacks() -> None:
    assert codec.pubacks([]) == b""


@pytest.mark.parametrize("version", VERSIONS)
def test_publish_refuses(version: Version) -> None:
    with pytest.raises(ValueError, match="topic of 0 bytes"):
        codec.publish(version, b"", b"x")
    with pytest.raises(ValueError, match="topic of 65536 bytes"):
        codec.publish(version, b"t" * 65_536, b"x")
    with pytest.raises(ValueError, match="packet id 65536"):
        codec.publish(version, b"t", b"x", packet_id=65_536)
    with pytest.raises(ValueError, match="never sent again"):
        codec.publish(version, b"t", b"x", dup=True)
    with pytest.raises(ValueError, match="zip"):
        codec.publish_many(version, [b"t"], [b"x", b"y"], [1, 2])
    with pytest.raises(ValueError, match="does not fit"):
        codec.publish(version, b"t", bytes(268_435_455))


def test_connect_refuses() -> None:
    with pytest.raises(ValueError, match="without a user name"):
        codec.connect(V3, "c", clean=True, keepalive_s=1, password="p")
    with pytest.raises(ValueError, match="NUL"):
        codec.connect(V3, "c\0", clean=True, keepalive_s=1)
    with pytest.raises(ValueError, match="70000 bytes"):
        codec.connect(V3, "c" * 70_000, clean=True, keepalive_s=1)
    with pytest.raises(ValueError, match="surrogates"):
        codec.connect(V3, "\ud800", clean=True, keepalive_s=1)
    with pytest.raises(ValueError, match="QoS 2"):
        codec.connect(V3, "c", clean=True, keepalive_s=1, will=codec.Will("t", b"", qos=2))
    with pytest.raises(ValueError, match="receive maximum"):
        codec.connect(V5, "c", clean=True, keepalive_s=1, receive_maximum=0)


def test_subscribe_refuses() -> None:
    with pytest.raises(ValueError, match="without a filter"):
        codec.subscribe(V3, 1, [])
    with pytest.raises(ValueError, match="without a filter"):
        codec.unsubscribe(V3, 1, [])
    with pytest.raises(ValueError, match="QoS 2"):
        codec.subscribe(V3, 1, [("a", 2)])
    with pytest.raises(ValueError, match="packet id 0"):
        codec.subscribe(V3, 0, [("a", 1)])


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
        (2_097_151, b"\xff\xff\x7f"),
        (2_097_152, b"\x80\x80\x80\x01"),
        (268_435_455, b"\xff\xff\xff\x7f"),
    ],
)
def test_variable_integers_as_the_standard_prints_them(value: int, data: bytes) -> None:
    """3.1.1, table 2.4."""
    assert variable_integer(value) == data


def test_a_will_shows_no_payload() -> None:
    assert "secret" not in repr(codec.Will("t", b"secret"))
