"""`smartsite record`: the raw segments of a span of time as a recording."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import psycopg

from device_profiles.recording import write_recording
from ingest.exporting import recorded, topic_matcher
from ingest.frame_store import FrameStore
from ingest.store.migrate import require_latest
from smartsite.services import database, locate
from smartsite.settings import Settings


def export(
    settings: Settings, file: Path, start: datetime, end: datetime, topics: tuple[str, ...]
) -> int:
    """Write what was received to a file.

    Args:
        settings: Whose database and frames.
        file: Where to; a name ending in ``.zst`` is compressed.
        start: First time of receipt; aware.
        end: End, exclusive; aware.
        topics: MQTT filters; none lets everything through.

    Returns:
        How many messages were written.

    Raises:
        Unavailable: There is no database to look at.
    """
    settings = locate(settings)
    frames = FrameStore(settings.frame_dir)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        messages = recorded(connection, frames, start, end, topic_matcher(topics))
        return write_recording(file, messages)
