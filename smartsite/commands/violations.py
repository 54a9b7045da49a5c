"""`smartsite violations`: what was found, and one violation with its picture."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import psycopg
import typer
from rich.console import Console
from rich.table import Table

from alerts.errors import UnknownViolation
from alerts.listing import ListedViolation, violations
from ingest.frame_store import FrameStore
from ingest.store.migrate import require_latest
from smartsite.commands.common import ConfigOption, JsonOption, print_json, say
from smartsite.errors import Misconfigured
from smartsite.services import database
from smartsite.settings import Settings, load_settings

app = typer.Typer(help="What was found, with evidence by hash; `show` one with its picture.")


@app.callback(invoke_without_command=True)
def list_violations(
    context: typer.Context,
    config: ConfigOption = None,
    site: Annotated[str | None, typer.Option(help="Only this site's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List what was found, newest first, with its evidence: readings and frames by hash."""
    if context.invoked_subcommand is not None:
        return
    found = _fetch(load_settings(config), site=site, limit=limit)
    if as_json:
        print_json(found)
        return
    table = Table("when", "violation", "what happened", "state", "told", show_lines=True)
    for violation in found:
        zone = ZoneInfo(violation.timezone)
        opened = violation.opened_at.astimezone(zone)
        closed = violation.closed_at.astimezone(zone) if violation.closed_at else None
        delivered = sum(1 for delivery in violation.deliveries if delivery.state == "delivered")
        table.add_row(
            f"{opened:%Y-%m-%d}\n{opened:%H:%M:%S}–" + (f"{closed:%H:%M:%S}" if closed else "…"),
            f"{violation.kind}\n{violation.site}",
            f"{violation.message_zh}\n{violation.message_en}",
            str(violation.state),
            f"{delivered}/{len(violation.deliveries)}",
        )
    Console().print(table)
    say("with evidence by hash: smartsite violations --json")


@app.command("show")
def show(
    violation_id: Annotated[str, typer.Argument(metavar="ID", help="Of the violation.")],
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Write a copy of its best picture for sharing here: what was found is marked,"
            " the heads of others are unreadable."
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one violation with all that is known of it."""
    settings = load_settings(config)
    found = _fetch(settings, violation_id=violation_id)
    if not found:
        raise UnknownViolation(f"there is no violation {violation_id!r}: see smartsite violations")
    (violation,) = found
    if picture is not None:
        picture.write_bytes(_copy(settings, violation))
        say(f"a copy for sharing is in {picture}; the original stays as it came")
    if as_json:
        print_json(violation)
        return
    _print(violation)


def _fetch(settings: Settings, **terms: Any) -> list[ListedViolation]:
    async def fetch(url: str) -> list[ListedViolation]:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            return await violations(connection, **terms)

    with database(settings) as url:
        with psycopg.connect(url) as connection:
            require_latest(connection)
        return asyncio.run(fetch(url))


def _copy(settings: Settings, violation: ListedViolation) -> bytes:
    """The copy that was made when the violation was booked, or a new one."""
    from alerts.sharing import Sharing, best_picture  # OpenCV, which a list does not need

    entry = best_picture(violation.evidence)
    if entry is None:
        raise Misconfigured(f"violation {violation.id} rests on no picture that was looked at")
    copies = FrameStore(settings.shared_dir)
    sharing = Sharing(FrameStore(settings.frame_dir), copies)

    async def make(url: str) -> bytes | None:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            sha256 = await sharing.copy_of(connection, entry)
            if sha256 is not None and copies.path(sha256).exists():
                return copies.get(sha256)
            return await sharing.make(connection, violation.site, entry, datetime.now(UTC))

    with database(settings) as url:
        made = asyncio.run(make(url))
    if made is None:
        raise Misconfigured(
            f"frame {entry.frame_sha256} is not in {settings.frame_dir}: it has aged out, or the"
            " frames lie on another machine"
        )
    return made


def _print(violation: ListedViolation) -> None:
    zone = ZoneInfo(violation.timezone)
    closed = violation.closed_at.astimezone(zone).isoformat(" ") if violation.closed_at else "…"
    facts = Table("violation", violation.id)
    facts.add_row("rule", f"{violation.rule} ({violation.kind}, {violation.severity})")
    facts.add_row("site", f"{violation.site}, {violation.site_name}")
    facts.add_row("subject", violation.subject)
    facts.add_row("when", f"{violation.opened_at.astimezone(zone).isoformat(' ')} – {closed}")
    facts.add_row("what happened", f"{violation.message_zh}\n{violation.message_en}")
    facts.add_row(
        "figures", ", ".join(f"{name} {value:g}" for name, value in violation.measured.items())
    )
    facts.add_row("state", str(violation.state))
    facts.add_row(
        "told",
        "\n".join(
            f"{delivery.event} {delivery.recipient}: {delivery.state}"
            for delivery in violation.deliveries
        )
        or "nobody",
    )
    facts.add_row(
        "evidence",
        "\n".join(
            f"{entry.role} {entry.device} {entry.observed_at.astimezone(zone).isoformat(' ')}"
            + (f" frame {entry.frame_sha256[:16]}…" if entry.frame_sha256 else "")
            for entry in violation.evidence
        ),
    )
    Console().print(facts)
    say("with all hashes: --json; a copy of its picture for sharing: --picture FILE")
