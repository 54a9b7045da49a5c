"""`smartsite coverage`: what could be judged, what could not and why; what became of frames."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psycopg
import typer
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from ingest.store.migrate import require_latest
from ingest.store.queries import load_queries
from smartsite.commands.common import ConfigOption, JsonOption, print_json, say
from smartsite.services import database
from smartsite.settings import load_settings

SQL = load_queries(Path(__file__).with_name("coverage.sql"))
FRAMES_SQL = load_queries(Path(__file__).parents[2] / "ingest" / "store" / "sql" / "frames.sql")

SPAN = timedelta(hours=24)


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """How long a rule could, or could not, judge a subject.

    Attributes:
        rule: Name of the rule.
        site: Site id.
        subject: What was to be judged.
        reason: Why it was not evaluable; None where it was evaluated.
        seconds: How long, within the span asked for.
        spans: In how many pieces.
    """

    rule: str
    site: str
    subject: str
    reason: str | None
    seconds: float
    spans: int


class CameraLooks(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a camera's frames.

    Attributes:
        site: Site id.
        device: Device id.
        received: Frames that came.
        looked: Of those received in the span, how many were looked at.
        still: Of these, unchanged scenes that the model did not have to run on.
        unfit: Of these, of a camera that could not be relied on.
        waiting: In the queue now.
        skipped: By reason, how many nobody looked at, by whole hours.
    """

    site: str
    device: str
    received: int
    looked: int
    still: int
    unfit: int
    waiting: int
    skipped: dict[str, int]


def read_coverage(
    connection: psycopg.Connection[Any], start: datetime, end: datetime, site: str | None = None
) -> tuple[list[Covered], list[CameraLooks]]:
    """Read what could be judged in a span.

    Args:
        connection: An open connection.
        start: Begin; aware.
        end: Its end, exclusive; aware.
        site: Only this site's.

    Returns:
        By rule, subject and reason how long; and by camera what became of its frames.
    """
    terms = {"start": start, "end": end, "site": site}
    with connection.cursor(row_factory=dict_row) as cursor:
        covered = [Covered(**row) for row in cursor.execute(SQL["coverage_sums"], terms)]
        looks = [
            CameraLooks(**row) for row in cursor.execute(FRAMES_SQL["looks_of_cameras"], terms)
        ]
    return covered, looks


def coverage(
    since: Annotated[datetime | None, typer.Option(help="Begin, UTC; default: 24 h ago.")] = None,
    until: Annotated[datetime | None, typer.Option(help="End, UTC; default: now.")] = None,
    site: Annotated[str | None, typer.Option(help="Only this site's.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what could be judged and what could not, and why; a gap is never "compliant".

    Of cameras also how many frames came, were looked at, and were skipped for which reason.
    """
    settings = load_settings(config)
    end = datetime.now(UTC) if until is None else until.replace(tzinfo=UTC)
    start = end - SPAN if since is None else since.replace(tzinfo=UTC)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        covered, looks = read_coverage(connection, start, end, site)
    if as_json:
        print_json({"since": start, "until": end, "coverage": covered, "cameras": looks})
        return
    table = Table("rule", "subject", "evaluated", "hours", "spans")
    for one in covered:
        table.add_row(
            one.rule,
            f"{one.site}/{one.subject}",
            "yes" if one.reason is None else f"no: {one.reason}",
            f"{one.seconds / 3_600:.2f}",
            str(one.spans),
        )
    Console().print(table)
    frames = Table("camera", "received", "looked at", "still", "unfit", "waiting", "skipped")
    for camera in looks:
        counts = (camera.received, camera.looked, camera.still, camera.unfit, camera.waiting)
        skipped = ", ".join(f"{count} {reason}" for reason, count in camera.skipped.items())
        frames.add_row(f"{camera.site}/{camera.device}", *map(str, counts), skipped or "0")
    if looks:
        Console().print(frames)
    say(f"from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")
