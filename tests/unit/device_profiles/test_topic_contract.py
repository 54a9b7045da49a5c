"""Topics of the native contract: there and back, and what is refused."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from device_profiles.errors import Reason, Rejected
from device_profiles.topics import MAX_TOPIC_BYTES, Address, format_topic, parse_topic
from device_profiles.vocabulary import Channel, Kind

words = st.sampled_from(["site", "frame", "telemetry", "dust", "camera", "0", "12", ".", "..", "-"])
ids = words | st.from_regex(re.compile(r"[A-Za-z0-9._-]{1,64}"), fullmatch=True)


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    channel = draw(st.sampled_from(Channel))
    return Address(
        "/".join(draw(st.lists(ids, max_size=8))),
        draw(ids),
        draw(st.sampled_from(Kind)),
        draw(ids),
        channel,
        draw(st.integers(0, 10**13 - 1)) if channel is Channel.FRAME else None,
    )


@given(addresses())
@example(Address("site", "s", Kind.DUST, "frame", Channel.TELEMETRY))
@example(Address("", "site", Kind.CAMERA, "site", Channel.FRAME, 0))
@settings(max_examples=300, deadline=None)
def test_an_address_is_read_as_it_was_written(address: Address) -> None:
    topic = format_topic(address)
    assert topic == address.topic
    assert parse_topic(topic.encode()) == address


@given(st.one_of(st.binary(max_size=80), addresses().map(lambda a: a.topic.encode()[1:])))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_address_or_rejected(topic: bytes) -> None:
    try:
        address = parse_topic(topic)
    except Rejected as fault:
        rejected = fault
    else:
        assert address.topic == topic.decode()
        return
    assert rejected.reason is Reason.TOPIC
    str(rejected).encode()


@pytest.mark.parametrize(
    ("topic", "named"),
    [
        ("", "SITE/KIND/DEVICE/CHANNEL"),
        ("site", "SITE/KIND/DEVICE/CHANNEL"),
        ("/site/s/dust/d/telemetry", "prefix"),
        ("a//site/s/dust/d/telemetry", "prefix"),
        ("a/b/c/d/e/f/g/h/i/site/s/dust/d/telemetry", "prefix"),
        ("$SYS/site/s/dust/d/telemetry", "prefix"),
        ("site/s/dust/d/telemetry/", "SITE/KIND/DEVICE/CHANNEL"),
        ("site/s/dust/d/telemetry/1", "SITE/KIND/DEVICE/CHANNEL"),
        ("Site/s/dust/d/telemetry", "SITE/KIND/DEVICE/CHANNEL"),
        ("site//dust/d/telemetry", "site id"),
        ("site/s s/dust/d/telemetry", "site id"),
        ("site/s\n/dust/d/telemetry", "site id"),
        ("site/s/dust/d\0/telemetry", "device id"),
        ("site/s/dust/+/telemetry", "device id"),
        ("site/s/dust/" + "d" * 65 + "/telemetry", "device id"),
        ("site/s/noise/d/telemetry", "noise"),
        ("site/s/dust/d/Telemetry", "Telemetry"),
        ("site/s/camera/c/frame", "EPOCH_MS"),
        ("site/s/camera/c/frame/", "epoch milliseconds"),
        ("site/s/camera/c/frame/-1", "epoch milliseconds"),
        ("site/s/camera/c/frame/1.5", "epoch milliseconds"),
        ("site/s/camera/c/frame/now", "epoch milliseconds"),
        ("site/s/camera/c/frame/10000000000000", "epoch milliseconds"),
        ("site/s/camera/c/frame/" + "9" * 400, "epoch milliseconds"),
        ("site/工地/dust/d/telemetry", "ASCII"),
        ("x/" * MAX_TOPIC_BYTES, str(MAX_TOPIC_BYTES)),
    ],
)
def test_what_does_not_fit_is_named(topic: str, named: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_topic(topic.encode())
    assert caught.value.reason is Reason.TOPIC
    assert named in caught.value.detail
    assert len(caught.value.detail) < 300
    assert caught.value.detail.isprintable()
