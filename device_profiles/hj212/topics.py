"""Topics of what came over TCP from nobody that is registered.

What a registered device says over TCP is filed under its own topic, as if it had come by MQTT.
A stranger has none: its frames are filed under ``hj212/MN``, so that they can be shown, and read
again once somebody is registered with that MN.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from device_profiles.errors import Reason, Rejected, shown

MOST_MN_CHARS = 64

_STRANGER = re.compile(rb"hj212/([^/]{1,64})")


def stranger_topic(mn: str) -> bytes:
    """Where frames of an MN are filed that nobody is registered with.

    Args:
        mn: As it was sent: anything.

    Returns:
        A topic; what cannot stand in one level of it is written as %XX.
    """
    return f"hj212/{_level(mn)}".encode("ascii")


def refused_topic(mn: str) -> bytes:
    """Where frames are filed that had a registered MN and not its password.

    Args:
        mn: The MN.

    Returns:
        A topic that leads to no device, so that a retry does not make the frames good.
    """
    return f"hj212/{_level(mn)}/wrong-password".encode("ascii")


def unread_topic(address: str, faults: int, skipped_bytes: int) -> bytes:
    """Where the beginning of what nobody could read is filed, once a connection.

    Args:
        address: Whence it came.
        faults: How much of it began like a frame.
        skipped_bytes: How much of it was not even that.

    Returns:
        A topic that leads to no device.
    """
    return f"hj212/unread/{_level(address)}/{faults}-faults/{skipped_bytes}-bytes".encode("ascii")


def mn_of_topic(topic: bytes) -> str | None:
    """Find the MN of a stranger's topic.

    Args:
        topic: Any topic.

    Returns:
        The MN as `stranger_topic` wrote it; None for another topic.
    """
    found = _STRANGER.fullmatch(topic)
    return found[1].decode("ascii", "replace") if found else None


def refusal_of(topic: bytes) -> Rejected | None:
    """Say why what was filed under a topic is nobody's.

    Args:
        topic: Any topic.

    Returns:
        Why, for a topic of `refused_topic` or `unread_topic`; None for another one.
    """
    match topic.decode("ascii", "replace").split("/"):
        case ["hj212", mn, "wrong-password"]:
            return Rejected(
                Reason.UNKNOWN_DEVICE, f"MN {shown(mn)} came with another PW than is registered"
            )
        case ["hj212", "unread", address, faults, skipped]:
            return Rejected(
                Reason.SYNTAX,
                f"what came from {shown(address)} and was no frame of a known device, in all"
                f" {faults.replace('-', ' ')} and {skipped.replace('-', ' ')} outside of any;"
                " this is how it began",
            )
    return None


def _level(text: str) -> str:
    return quote(text, safe="", errors="replace")[:MOST_MN_CHARS] or "-"
