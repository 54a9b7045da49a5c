"""The native MQTT contract's topics.

``[prefix/]site/{site_id}/{kind}/{device_id}/{channel}``, and for pictures
``…/frame/{epoch_ms}``. The prefix (a district) is what a worker subscribes to.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from device_profiles.errors import Reason, Rejected, shown
from device_profiles.vocabulary import Channel, Kind

ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PREFIX = re.compile(r"(?:[A-Za-z0-9._-]{1,64}(?:/[A-Za-z0-9._-]{1,64}){0,7})?")
MAX_TOPIC_BYTES = 1_024
MAX_TIME_DIGITS = 13
"""Most digits of a picture's time: milliseconds until the year 2286."""


class Address(NamedTuple):
    """Who speaks, and about what.

    Attributes:
        prefix: The district, "" if there is none.
        site: Site id.
        kind: Kind of device.
        device: Device id within the site.
        channel: What is said.
        frame_ms: The picture's time, milliseconds since 1970 UTC; None off the frame channel.
    """

    prefix: str
    site: str
    kind: Kind
    device: str
    channel: Channel
    frame_ms: int | None = None

    @property
    def topic(self) -> str:
        """The topic this address is spoken on."""
        return format_topic(self)


def parse_topic(topic: bytes) -> Address:
    """Read a topic of the native contract.

    Args:
        topic: The topic's bytes as the broker sent them.

    Returns:
        The address.

    Raises:
        Rejected: With reason `topic`, naming what does not fit.
    """
    if len(topic) > MAX_TOPIC_BYTES:
        raise Rejected(Reason.TOPIC, f"topic of {len(topic)} bytes, at most {MAX_TOPIC_BYTES}")
    try:
        parts = topic.decode("ascii").split("/")
    except UnicodeDecodeError:
        raise Rejected(Reason.TOPIC, f"topic {shown(topic)} is not ASCII") from None
    frame_ms = None
    if (
        len(parts) >= 6
        and parts[-2] == Channel.FRAME
        and parts[-6] == "site"
        and parts[-1] not in set(Channel)  # else "frame" is a device's id, "site" a district's
    ):
        if not (parts[-1].isdigit() and len(parts[-1]) <= MAX_TIME_DIGITS):
            raise Rejected(Reason.TOPIC, f"frame time {shown(parts[-1])} is not epoch milliseconds")
        frame_ms = int(parts.pop())
    if len(parts) < 5 or parts[-5] != "site":
        raise Rejected(
            Reason.TOPIC,
            f"topic {shown(topic)} is not [prefix/]site/SITE/KIND/DEVICE/CHANNEL",
        )
    *prefix, _, site, kind, device, channel = parts
    for name, text in (("site id", site), ("device id", device)):
        if not ID.fullmatch(text):
            raise Rejected(Reason.TOPIC, f"{name} {shown(text)} does not match {ID.pattern}")
    if prefix == [""] or not PREFIX.fullmatch("/".join(prefix)):
        raise Rejected(
            Reason.TOPIC, f"prefix {shown('/'.join(prefix))} does not match {ID.pattern}"
        )
    if kind not in set(Kind):
        raise Rejected(Reason.TOPIC, f"kind {shown(kind)} is not one of {', '.join(Kind)}")
    if channel not in set(Channel):
        raise Rejected(Reason.TOPIC, f"channel {shown(channel)} is not one of {', '.join(Channel)}")
    if (channel == Channel.FRAME) != (frame_ms is not None):
        raise Rejected(Reason.TOPIC, "a picture's topic ends in frame/EPOCH_MS")
    return Address("/".join(prefix), site, Kind(kind), device, Channel(channel), frame_ms)


def format_topic(address: Address) -> str:
    """Write a topic of the native contract.

    Args:
        address: Who speaks; its ids must already be valid.

    Returns:
        The topic.
    """
    head = f"{address.prefix}/" if address.prefix else ""
    tail = f"/{address.frame_ms}" if address.frame_ms is not None else ""
    return f"{head}site/{address.site}/{address.kind}/{address.device}/{address.channel}{tail}"
