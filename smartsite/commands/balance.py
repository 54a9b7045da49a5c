"""`smartsite balance`: what was received is what became of it, by device and hour."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, get_args

import psycopg
import typer
from rich.console import Console
from rich.table import Table

from ingest.store.migrate import require_latest
from smartsite.balance import (
    FATES,
    FRAME_FATES,
    OTHERS,
    Accounts,
    Auditor,
    By,
    Difference,
    Line,
    Named,
    snapshot,
)
from smartsite.commands.common import ConfigOption, JsonOption, print_json, say
from smartsite.errors import Misconfigured
from smartsite.profiles import readers_of
from smartsite.recounting import Recount
from smartsite.services import database
from smartsite.settings import load_settings

SPAN = timedelta(hours=24)
SHOWN_DIFFERENCES = 20

_TITLES = {
    "statuses_quarantined": "statuses put aside",
    "frames_duplicate": "frames dup.",
    "frames_quarantined": "frames put aside",
    "frameless_events": "events without frame",
}


class Rows(StrEnum):
    """What a row is of."""

    DEVICE = "device"
    HOUR = "hour"
    TOTAL = "total"


assert set(Rows) == set(get_args(By))  # noqa: S101 - typer asks for an enumeration


def balance(
    since: Annotated[
        datetime | None, typer.Option(help="Begin by time of receipt, UTC; default: 24 h ago.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="End, UTC; default: the last message received.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All of history, however long that takes.")
    ] = False,
    site: Annotated[
        list[str] | None, typer.Option(help="Only this site's devices; repeatable.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only SITE/DEVICE; repeatable.")] = None,
    by: Annotated[Rows, typer.Option(help="One row a device, an hour, or one in all.")] = (
        Rows.DEVICE
    ),
    verify: Annotated[
        bool, typer.Option("--verify", help="Count the raw messages anew and compare.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the balance: every reading received was stored, or it says what became of it.

    Spans are widened to full hours (UTC, by time of receipt). Ends with status 1 if the sum does
    not add up, or cannot be told. For some devices only, what was received is known by
    --verify alone.
    """
    if everything and since is not None:
        raise Misconfigured("--all and --since exclude each other")
    settings = load_settings(config)
    start = since.replace(tzinfo=UTC) if since else datetime.now(UTC) - SPAN
    end = until.replace(tzinfo=UTC) if until else None
    if end is not None and end <= start and not everything:
        raise Misconfigured("--until lies before --since")
    kept_from = _kept_from(settings.retention.frames_days)
    with database(settings) as url:
        with psycopg.connect(url) as connection:
            require_latest(connection)
        with snapshot(url) as connection:
            auditor = Auditor(connection, readers_of(settings))
            chosen = choose(auditor.devices, site or (), device or ())
            accounts = auditor.draw(None if everything else start, end, chosen)
            verified = auditor.verify(accounts, chosen, kept_from) if verify else None
    adds_up = accounts.adds_up(kept_from)
    if chosen is not None:
        adds_up = None if verified is None else True
    if verified is not None and verified[1]:
        adds_up = False
    if as_json:
        print_json(_as_dict(accounts, by, adds_up, verified))
    else:
        _show(accounts, by)
        for line in summary(accounts, adds_up, verified):
            say(line)
    asked_for_less = chosen is not None and verified is None
    if not adds_up and not asked_for_less:
        raise typer.Exit(1)


def _kept_from(days: int) -> datetime | None:
    return datetime.now(UTC) - timedelta(days=days) if days else None


def choose(
    devices: dict[int, Named], sites: Collection[str], labels: Collection[str]
) -> set[int] | None:
    """Find the devices that were asked for.

    Args:
        devices: Names by number.
        sites: Site ids.
        labels: Devices as SITE/DEVICE.

    Returns:
        Their numbers; None if nothing was asked for, which is all, unknown ones too.

    Raises:
        Misconfigured: A site or device is not registered, and never was.
    """
    if not sites and not labels:
        return None
    chosen: set[int] = set()
    for site in sites:
        found = {number for number, name in devices.items() if name.site == site}
        if not found:
            raise Misconfigured(f"--site {site}: no device of such a site is registered")
        chosen |= found
    for label in labels:
        found = {number for number, name in devices.items() if "/".join(name) == label}
        if not found:
            raise Misconfigured(f"--device {label}: not registered; see `smartsite devices`")
        chosen |= found
    return chosen


def _as_dict(
    accounts: Accounts,
    by: Rows,
    adds_up: bool | None,
    verified: tuple[Recount, list[Difference]] | None,
) -> dict[str, Any]:
    total = accounts.total()
    result: dict[str, Any] = {
        "since": accounts.start,
        "until": accounts.end,
        "balance_from": accounts.opened,
        "adds_up": adds_up,
        "received": accounts.received,
        "missing": accounts.missing(),
        "frames_received": accounts.frames_received,
        "frames_missing": accounts.frames_missing(),
        "redelivered": accounts.redelivered,
        "total": {what: total[what] for what in (*FATES, *OTHERS, *FRAME_FATES)},
        "uncertain": accounts.uncertain,
        "rows": accounts.lines(by.value),
    }
    if verified is not None:
        found, differences = verified
        result["verified"] = {
            "messages": found.messages,
            "readings": sum(found.readings.values()),
            "frames": sum(found.frames.values()),
            "hours_aged_out": sorted(found.unknown),
            "differences": [difference._asdict() for difference in differences],
        }
    return result


def _show(accounts: Accounts, by: Rows) -> None:
    lines = accounts.lines(by.value)
    columns = [
        what
        for what in (*FATES, *OTHERS, *FRAME_FATES)
        if what in FATES[:5] or any(getattr(line, what) for line in lines)
    ]
    table = Table(*_heads(by), *(_TITLES.get(what, what.replace("_", " ")) for what in columns))
    for column in table.columns[len(_heads(by)) :]:
        column.justify = "right"
    for line in lines:
        table.add_row(*_head(line, by), *(f"{getattr(line, what):,}" for what in columns))
    Console().print(table)


def _heads(by: Rows) -> tuple[str, ...]:
    return {Rows.DEVICE: ("device",), Rows.HOUR: ("hour, UTC",), Rows.TOTAL: ()}[by]


def _head(line: Line, by: Rows) -> tuple[str, ...]:
    if by is Rows.DEVICE:
        return (f"{line.site}/{line.device}" if line.site else "(unknown)",)
    if by is Rows.HOUR and line.hour is not None:
        return (f"{line.hour:%Y-%m-%d %H:%M}",)
    return ()


def summary(
    accounts: Accounts, adds_up: bool | None, verified: tuple[Recount, list[Difference]] | None
) -> list[str]:
    """Say what it comes to.

    Args:
        accounts: The balance.
        adds_up: The verdict.
        verified: What counting anew has found.

    Returns:
        Lines for people.
    """
    said = [f"{accounts.start:%Y-%m-%d %H:%M} to {accounts.end:%Y-%m-%d %H:%M} UTC, by receipt"]
    if accounts.opened is None:
        said.append("nothing was ever received")
    elif accounts.start < accounts.opened:
        said.append(f"the balance begins with the first message, {accounts.opened:%Y-%m-%d %H:%M}")
    missing, frames = accounts.missing(), accounts.frames_missing()
    if missing is not None and frames is not None:
        accounted = (accounts.received or 0) - missing
        said.append(
            f"{accounts.received:,} readings received, {accounted:,} accounted for;"
            f" {accounts.frames_received:,} frames received,"
            f" {(accounts.frames_received or 0) - frames:,} accounted for"
        )
        if frames > 0 and adds_up:
            said.append(f"{frames:,} frames have aged out")
    said += accounts.uncertain
    if verified is not None:
        found, differences = verified
        said.append(
            f"counted anew from {found.messages:,} raw messages: {len(differences)} differences"
        )
        if found.unknown:
            said.append(f"the bytes of {len(found.unknown)} hours have aged out: not counted anew")
        for difference in differences[:SHOWN_DIFFERENCES]:
            name = f"{difference.site}/{difference.device}" if difference.site else "(unknown)"
            said.append(
                f"{name}, {difference.hour:%Y-%m-%d %H:%M}: {difference.tables:,}"
                f" {difference.what} in the tables, {difference.bytes:,} in the messages"
            )
    if adds_up is None:
        told = accounts.received is not None
        said.append(
            "whether it adds up cannot be told: choose another hour, or --all"
            if told
            else "what was received is known by --verify alone for some devices"
        )
    elif adds_up:
        said.append("it adds up")
    elif missing:
        said.append(
            f"it does NOT add up: {missing:,} readings are missing"
            if missing > 0
            else f"it does NOT add up: {-missing:,} readings more than were received"
        )
    else:
        said.append("it does NOT add up")
    return said
