"""`smartsite record`: the raw segments of a span of time as a recording."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psycopg

from device_profiles.recording import write_recording
from ingest.exporting import SQL, recorded, topic_matcher
from ingest.frame_store import FrameStore
from ingest.store.migrate import require_latest
from smartsite.services import database, locate
from smartsite.settings import Settings


class Exported(NamedTuple):
    """What an export has come to.

    Attributes:
        messages: Written.
        aged_out: In segments that touch the span and whose bytes are gone, whatever their topics.
    """

    messages: int
    aged_out: int


_SPEAKER = re.compile(r"(?:.+/)?site/([^/]+)/[^/]+/([^/]+)/.+", re.DOTALL)


def speaker_matcher(
    sites: Collection[str], devices: Collection[tuple[str, str]]
) -> Callable[[str], bool]:
    """Make a test of topics by who speaks, registered or not.

    Args:
        sites: Site ids.
        devices: Site and device ids.

    Returns:
        Whether a topic is of one of the sites or devices; every topic is, if none are named.
    """

    def matches(topic: str) -> bool:
        found = _SPEAKER.fullmatch(topic)
        return found is not None and (found[1] in sites or (found[1], found[2]) in devices)

    return matches if sites or devices else lambda _topic: True


def export(
    settings: Settings,
    file: Path,
    start: datetime,
    end: datetime,
    topics: tuple[str, ...],
    sites: Collection[str] = (),
    devices: Collection[tuple[str, str]] = (),
) -> Exported:
    """Write what was received to a file. What came back from quarantine is in it once.

    Args:
        settings: Whose database and frames.
        file: Where to; a name ending in ``.zst`` is compressed.
        start: First time of receipt; aware.
        end: End, exclusive; aware.
        topics: MQTT filters; none lets everything through.
        sites: Only of these sites, and of the devices named beside.
        devices: Only of these, as site and device ids, and of the sites named beside.

    Returns:
        How many messages were written, and how many could not be had any more.

    Raises:
        Unavailable: There is no database to look at.
    """
    settings = locate(settings)
    frames = FrameStore(settings.frame_dir)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        on_topic, of_speaker = topic_matcher(topics), speaker_matcher(sites, devices)
        messages = recorded(
            connection,
            frames,
            start,
            end,
            lambda topic: on_topic(topic) and of_speaker(topic),
        )
        written = write_recording(file, messages)
        row = connection.execute(SQL["aged_out_of_span"], {"start": start, "end": end}).fetchone()
        return Exported(written, row[0] if row else 0)
