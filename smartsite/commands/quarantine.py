"""`smartsite quarantine`: what could not be read, why, and the way back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import psycopg
import typer
from rich.console import Console
from rich.table import Table

from device_profiles.errors import Reason
from ingest.frame_store import FrameStore
from ingest.quarantine import (
    Payload,
    Wanted,
    count_by_reason,
    fetch_payload,
    find_rows,
    open_ids,
)
from ingest.store.migrate import require_latest
from smartsite.commands.common import ConfigOption, JsonOption, print_json, say, site_and_device
from smartsite.errors import Misconfigured
from smartsite.services import database, locate
from smartsite.settings import Settings, load_settings

if TYPE_CHECKING:
    from ingest.retrying import Retried

app = typer.Typer(no_args_is_help=True, help="What could not be read, why, and the way back.")

MOST_SHOWN_BYTES = 4_096
HEX_WIDTH = 16
TOLD_EVERY_S = 2.0

_MENDED = "mend the device or its profile, then `smartsite quarantine retry --reason {}`"
WHAT_TO_DO = {
    Reason.UNKNOWN_DEVICE: "`smartsite devices pending`, then `smartsite devices adopt`",
    Reason.TOPIC: "register the device as the kind and on the prefix it speaks by, then"
    " `smartsite quarantine retry --reason topic`",
    Reason.TIME: "see the clocks in `smartsite devices`; what is believed by now comes back with"
    " `smartsite quarantine retry --reason time`",
    Reason.TOO_LARGE: "raise max_payload_bytes for the future; what was cut cannot come back",
    Reason.CONFLICT: "the first value stays; do two devices share an id, or does one count its"
    " time wrongly?",
}
"""By reason; everything else is the device's or its profile's fault."""

IdArgument = Annotated[int, typer.Argument(metavar="ID", help="Of `smartsite quarantine list`.")]
ReasonOption = Annotated[Reason | None, typer.Option(help="Only this reason's.")]
DeviceOption = Annotated[
    str | None, typer.Option(metavar="SITE/DEVICE", help="Only this device's, known or not.")
]
SinceOption = Annotated[
    datetime | None, typer.Option(help="Only what was received since then, UTC.")
]


def _wanted(
    reason: Reason | None,
    device: str | None,
    since: datetime | None,
    ids: Sequence[int] = (),
    *,
    resolved_too: bool = False,
) -> Wanted:
    site, name = site_and_device(device) if device is not None else (None, None)
    return Wanted(
        ids=tuple(ids) or None,
        reason=reason,
        site=site,
        device=name,
        since=since.replace(tzinfo=UTC) if since else None,
        resolved_too=resolved_too,
    )


@app.command("list")
def list_(
    reason: ReasonOption = None,
    device: DeviceOption = None,
    since: SinceOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what came back by a retry.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many at most.")] = 100,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List what could not be read, the newest first, and what to do about it."""
    settings = load_settings(config)
    wanted = _wanted(reason, device, since, resolved_too=everything)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        rows = find_rows(connection, wanted, limit)
        totals = count_by_reason(connection, wanted)
    if as_json:
        print_json({"rows": rows, "totals": totals})
        return
    table = Table("id", "received, UTC", "device or topic", "scope", "reason", "detail", "state")
    for row in rows:
        table.add_row(
            str(row.id),
            f"{row.received_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            f"{row.site}/{row.device}" if row.device else row.topic,
            row.scope,
            row.reason,
            row.detail,
            f"back {row.resolved_at.astimezone(UTC):%m-%d %H:%M}" if row.resolved_at else "open",
        )
    console = Console()
    if rows:
        console.print(table, markup=False)
    if not totals:
        say("nothing is put aside" + (" of these" if wanted != Wanted() else ""))
        return
    shown = sum(total.rows for total in totals)
    if shown > len(rows):
        say(f"the newest {len(rows)} of {shown}: see --limit")
    for total in totals:
        back = f", {total.rows - total.open} came back" if total.open < total.rows else ""
        say(f"{total.reason}: {total.open} open{back}")
        if total.open:
            say("    " + WHAT_TO_DO.get(Reason(total.reason), _MENDED.format(total.reason)))
    say("one with its bytes: smartsite quarantine show ID")


@app.command()
def show(id_: IdArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show everything about one row, and the bytes that came."""
    settings = locate(load_settings(config))
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        found = find_rows(connection, Wanted(ids=(id_,), resolved_too=True), 1)
        payload = fetch_payload(connection, id_, FrameStore(settings.frame_dir))
    if not found or payload is None:
        raise Misconfigured(f"there is no row {id_} in quarantine: see `smartsite quarantine list`")
    (row,) = found
    data, text = payload.data, _as_text(payload)
    if as_json:
        bounded = None if data is None else data[:MOST_SHOWN_BYTES]
        print_json(
            msgspec.structs.asdict(row)
            | {
                "payload_kept": data is not None,
                "payload_cut": payload.cut,
                "payload_intact": payload.intact,
                "payload_text": text and text[:MOST_SHOWN_BYTES],
                "payload_hex": bounded.hex() if bounded is not None and text is None else None,
            }
        )
        return
    for name, value in msgspec.structs.asdict(row).items():
        if value is not None:
            said = value.isoformat() if isinstance(value, datetime) else value
            print(f"{name + ':':<18}{said}")
    print(f"{'bytes:':<18}{_state(payload)}")
    if data is None:
        return
    print(text[:MOST_SHOWN_BYTES] if text is not None else _hex_dump(data[:MOST_SHOWN_BYTES]))
    if len(data) > MOST_SHOWN_BYTES:
        say(f"the first {MOST_SHOWN_BYTES} of {len(data)} bytes")


def _state(payload: Payload) -> str:
    if payload.intact is False:
        return "altered since they were stored: their hash does not match"
    if payload.data is None:
        return "aged out; hash, reason and count stay"
    if payload.cut:
        return f"the first {len(payload.data)}: it was above the limit"
    return f"{len(payload.data)}, as they came: their hash matches"


def _as_text(payload: Payload) -> str | None:
    """The payload, if it is text that harms no terminal."""
    try:
        text = (payload.data or b"").decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text and all(c.isprintable() or c in "\r\n\t" for c in text) else None


def _hex_dump(data: bytes) -> str:
    lines = []
    for start in range(0, len(data), HEX_WIDTH):
        part = data[start : start + HEX_WIDTH]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):<{HEX_WIDTH * 3}} {text}")
    return "\n".join(lines)


@app.command("retry")
def retry_(
    ids: Annotated[
        list[int] | None, typer.Option("--id", help="Only this row's message; repeatable.")
    ] = None,
    reason: ReasonOption = None,
    device: DeviceOption = None,
    since: SinceOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, and write nothing.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read again what was put aside; what can be read now is stored with its own time.

    Without options all that is open is tried. It may be stopped and run again at any moment:
    nothing comes back twice.
    """
    settings = locate(load_settings(config))
    wanted = _wanted(reason, device, since, ids or ())
    with database(settings) as url:
        with psycopg.connect(url) as connection:
            require_latest(connection)
            rows = open_ids(connection, wanted)
        done = read_again(settings, url, rows, dry_run=dry_run)
    if as_json:
        print_json(as_dict(done) | {"dry_run": dry_run})
        return
    tell(done, dry_run=dry_run)


def read_again(
    settings: Settings, database_url: str, rows: Sequence[int], *, dry_run: bool = False
) -> Retried:
    """Retry rows of the quarantine, telling a person now and then how far it is.

    Args:
        settings: Which times are believed, and where frames lie.
        database_url: Password included.
        rows: Their ids.
        dry_run: Read, and write nothing.

    Returns:
        What became of them.

    Raises:
        IngestError: See `ingest.retrying.retry`.
    """
    # Only here: the write path takes its time to import.
    from ingest.pipeline import TimeLimits
    from ingest.retrying import retry
    from smartsite.profiles import readers_of

    terms = settings.ingest
    return asyncio.run(
        retry(
            database_url,
            rows,
            TimeLimits(terms.future_s, terms.past_days * 86_400),
            datetime.now(UTC),
            frames=FrameStore(settings.frame_dir),
            readers=readers_of(settings),
            dry_run=dry_run,
            progress=_teller(),
        )
    )


def _teller() -> Callable[[Retried], None]:
    told_at = time.monotonic()

    def tell_progress(done: Retried) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            say(f"{done.messages} messages read again, {done.back} came back …")

    return tell_progress


def as_dict(done: Retried) -> dict[str, Any]:
    """For machines.

    Args:
        done: What became of what was read again.

    Returns:
        The same as plain types.
    """
    return {
        "messages": done.messages,
        "back": done.back,
        "stored": dict(done.stored),
        "merged": done.merged,
        "duplicates": done.duplicates,
        "statuses": done.statuses,
        "refused": dict(done.refused),
        "cut": done.cut,
        "aged_out": done.aged_out,
        "damaged": done.damaged,
    }


def tell(done: Retried, *, dry_run: bool = False) -> None:
    """Say to a person what became of what was read again.

    Args:
        done: What did.
        dry_run: Nothing was written.
    """
    parts = [f"{count} {kind} stored" for kind, count in sorted(done.stored.items()) if count]
    for count, what in (
        (done.merged, "merged into stored readings"),
        (done.duplicates, "stored already"),
        (done.statuses, "statuses and events"),
    ):
        if count:
            parts.append(f"{count} {what}")
    would = "would come back" if dry_run else "came back"
    said = f": {', '.join(parts)}" if parts else ""
    say(f"{done.messages} messages read again, {done.back} {would}{said}")
    for reason, count in done.refused.most_common():
        say(f"still refused, {reason}: {count}")
        say("    " + WHAT_TO_DO.get(Reason(reason), _MENDED.format(reason)))
    for count, what in (
        (done.cut, "were above the limit: only their first bytes were kept, they cannot come back"),
        (done.aged_out, "cannot come back: their bytes have aged out"),
        (done.damaged, "cannot come back: their stored bytes were altered"),
    ):
        if count:
            say(f"{count} messages {what}")
