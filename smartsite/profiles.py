"""Profiles as the settings have them: who reads what, and what is subscribed to for it."""

from __future__ import annotations

from typing import NamedTuple

from device_profiles.catalogue import Profile, Profiles, load_profiles
from ingest.profiles import Readers, filters_of
from smartsite.embedded.broker import ACK_PENDING, SESSION_ACK_PENDING
from smartsite.errors import Misconfigured
from smartsite.services import EMBEDDED
from smartsite.settings import Settings

EVERYTHING = ("site/+/+/+/+",)
BUT_EVENTS = (
    "site/+/dust/+/+",
    "site/+/crane/+/+",
    "site/+/camera/+/telemetry",
    "site/+/camera/+/status",
)
"""The same without cameras' events: MQTT has no filter for all kinds but one."""

FRAMES = ("site/+/camera/+/frame/+",)
EVENTS = ("site/+/camera/+/event",)


class Filters(NamedTuple):
    """What a role subscribes to.

    Attributes:
        native: Below the prefix.
        own: Topics of makes, outside the native contract and without a prefix.
        retired: Below the prefix, of other settings: a session keeps what it once had.
        retired_own: Likewise, of makes.
    """

    native: tuple[str, ...]
    own: tuple[str, ...]
    retired: tuple[str, ...]
    retired_own: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.native) + len(self.own)


def readers_of(settings: Settings) -> Readers:
    """Load the profiles in force.

    Args:
        settings: Their folders, and whose topics are listened to.

    Returns:
        What reads by them.

    Raises:
        ProfileFault: With every fault of every file, naming file and key.
    """
    return Readers(load_profiles(settings.profiles.folders, settings.profiles.topics_of))


def filters_for(role: str, settings: Settings, profiles: Profiles) -> Filters:
    """Say what a role subscribes to.

    Args:
        role: "ingest" or "frames".
        settings: Whose topics are listened to, and who hears cameras' events.
        profiles: Those in force.

    Returns:
        The filters.

    Raises:
        Misconfigured: They are more than the embedded broker takes.
    """
    wanted = settings.profiles.topics_of
    others = tuple(name for name, profile in profiles.by_id.items() if _has_topics(profile))
    place = 0 if role == "ingest" else 1
    own = filters_of(profiles, wanted)[place]
    events = settings.frames.events
    native: tuple[str, ...]
    retired: tuple[str, ...]
    if role == "ingest":
        native, retired = (BUT_EVENTS, EVERYTHING) if events else (EVERYTHING, BUT_EVENTS)
    else:
        native, retired = (FRAMES + EVENTS, ()) if events else (FRAMES, EVENTS)
    filters = Filters(
        native,
        own,
        retired,
        tuple(one for one in filters_of(profiles, others)[place] if one not in own),
    )
    most = SESSION_ACK_PENDING // ACK_PENDING
    if settings.broker.url == EMBEDDED and len(filters) > most:
        raise Misconfigured(
            f"profiles.topics_of: with {', '.join(wanted)} the role {role} has {len(filters)}"
            f" topic filters; the embedded broker takes at most {most} for a session: listen to"
            " fewer, or name a broker of your own"
        )
    return filters


def _has_topics(profile: Profile) -> bool:
    return profile.sheet.fits is not None and bool(profile.sheet.fits.topics)
