"""`smartsite devices`: what is registered, what is not yet, and what they prove themselves with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from device_profiles.catalogue import Profiles
from device_profiles.sites import Device
from device_profiles.vocabulary import Kind
from ingest.profiles import faults_of
from ingest.quarantine import (
    PendingDevice,
    Wanted,
    open_ids,
    open_ids_of_external_id,
    pending_devices,
    pending_external_ids,
)
from ingest.registry import adopt_devices, list_devices, retire_device
from ingest.store.migrate import require_latest
from smartsite.commands import credentials
from smartsite.commands.common import ConfigOption, JsonOption, print_json, say, site_and_device
from smartsite.commands.quarantine import as_dict, read_again, tell
from smartsite.errors import Misconfigured
from smartsite.profiles import readers_of
from smartsite.services import database, locate
from smartsite.settings import load_settings

app = typer.Typer(help="List devices, adopt unknown ones, give and revoke credentials.")
app.command("passwd")(credentials.passwd)
app.command("acl")(credentials.acl)


@app.callback(invoke_without_command=True)
def devices(
    context: typer.Context,
    config: ConfigOption = None,
    site: Annotated[str | None, typer.Option(help="Only this site's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the registered devices and the last that was heard of each."""
    if context.invoked_subcommand is not None:
        return
    settings = load_settings(config)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        rows = list_devices(connection, site)
    if as_json:
        print_json(rows)
        return
    table = Table("site", "device", "kind", "make", "model", "last observed", "online", "clock")
    for row in rows:
        last = row["last_observed_at"]
        table.add_row(
            row["site"],
            row["device"],
            row["kind"],
            row["make"],
            row["model"],
            last.isoformat(timespec="seconds") if last else "never",
            _presence(row),
            _clock(row),
        )
    Console().print(table)


def _presence(row: dict[str, Any]) -> str:
    if row["silent_since"] is not None:
        return f"offline since {row['silent_since'].astimezone(UTC):%m-%d %H:%M} UTC"
    return {True: "yes", False: "offline", None: "?"}[row["online"]]


def _clock(row: dict[str, Any]) -> str:
    if not row["clock_is_off"]:
        return "ok"
    if row["clock_offset_s"] is None:
        return "not believed"
    return offset_text(row["clock_offset_s"])


def offset_text(offset_s: float) -> str:
    """Write what is added to a device's times, for people.

    Args:
        offset_s: Seconds.

    Returns:
        As "+8 h 0 min", or in seconds where it is less than a minute.
    """
    sign = "-" if offset_s < 0 else "+"
    if abs(offset_s) < 60:
        return f"{sign}{abs(offset_s):g} s"
    hours, minutes = divmod(round(abs(offset_s) / 60), 60)
    return f"{sign}{hours} h {minutes} min"


@app.command()
def pending(
    config: ConfigOption = None,
    site: Annotated[str | None, typer.Option(help="Only this site's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List who speaks and is not registered: what they say waits in quarantine."""
    settings = load_settings(config)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        found = pending_devices(connection, site)
        external = pending_external_ids(connection) if site is None else []
    if as_json:
        print_json([*found, *external])
        return
    if not found and not external:
        say("every device that speaks is registered")
        return
    if external:
        table = Table("external id", "topic", "messages", "first received", "last")
        for named in external:
            table.add_row(
                named.external_id,
                named.topic,
                str(named.messages),
                f"{named.first_received_at.astimezone(UTC):%m-%d %H:%M:%S}",
                f"{named.last_received_at.astimezone(UTC):%m-%d %H:%M:%S}",
            )
        Console().print(table, markup=False)
        say(
            "register one: smartsite devices adopt SITE/DEVICE --external-id ID --profile PROFILE;"
            " times are UTC"
        )
    if not found:
        return
    table = Table("site", "device", "kind", "messages", "first received", "last", "what to do")
    for one in found:
        table.add_row(
            one.site,
            one.device,
            one.kind,
            str(one.messages),
            f"{one.first_received_at.astimezone(UTC):%m-%d %H:%M:%S}",
            f"{one.last_received_at.astimezone(UTC):%m-%d %H:%M:%S}",
            _advice(one),
        )
    Console().print(table, markup=False)
    say("register one: smartsite devices adopt SITE/DEVICE; times are UTC")


def _advice(one: PendingDevice) -> str:
    if not one.site_registered:
        return "import its site first"
    if not one.prefix_is_right:
        return f"it speaks under {one.prefix!r}, its site under {one.district!r}"
    return "retired; adopt to take it back" if one.retired_at else "adopt"


@app.command()
def adopt(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SITE/DEVICE]...", help="Which.")
    ] = None,
    all_of: Annotated[
        str | None,
        typer.Option(metavar="SITE", help="All that speak rightly on a site, but the retired."),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(min=0.01, max=86_400, help="How often each ought to speak, s; default 60."),
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option(help="Where one speaks as several; default: of its topic.")
    ] = None,
    make: Annotated[str | None, typer.Option(help="Of each.")] = None,
    model: Annotated[str | None, typer.Option(help="Of each.")] = None,
    firmware: Annotated[str | None, typer.Option(help="Of each.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Id of the profile each is read by: see profiles list.")
    ] = None,
    external_id: Annotated[
        str | None, typer.Option(help="How its make, a gateway or HJ 212 (MN) names one device.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register devices that speak already, and read what they said so far."""
    if bool(names) == (all_of is not None):
        raise Misconfigured("name devices as SITE/DEVICE, or a site by --all-of")
    if external_id is not None and len(names or ()) != 1:
        raise Misconfigured("--external-id is of one device: name it as SITE/DEVICE")
    settings = locate(load_settings(config))
    profiles = readers_of(settings).profiles
    with database(settings) as url:
        with psycopg.connect(url) as connection:
            require_latest(connection)
            if external_id is not None and names:
                adopted = [_named(*site_and_device(names[0]), profile, kind, profiles)]
            elif all_of is not None:
                adopted = _all_of(pending_devices(connection, all_of), all_of, kind)
            else:
                wanted = sorted({site_and_device(name) for name in names or ()})
                sites = {site for site, _ in wanted}
                found = {site: pending_devices(connection, site) for site in sites}
                adopted = [
                    (site, device, _kind_of(found[site], site, device, kind))
                    for site, device in wanted
                ]
            for adopted_site, device, its_kind in adopted:
                _require_sound(adopted_site, device, its_kind, profile, external_id, profiles)
            adopt_devices(
                connection,
                adopted,
                expected_every_s=every,
                make=make,
                model=model,
                firmware=firmware,
                profile=profile,
                external_id=external_id,
            )
            connection.commit()
            rows = [
                row
                for site, device, _ in adopted
                for row in open_ids(connection, Wanted(site=site, device=device))
            ]
            if external_id is not None:
                rows += open_ids_of_external_id(connection, external_id)
        done = read_again(settings, url, rows)
    if as_json:
        listed = [{"site": site, "device": device, "kind": kind} for site, device, kind in adopted]
        print_json({"adopted": listed, "retried": as_dict(done)})
        return
    for site, device, its_kind in adopted:
        say(f"registered {site}/{device}, a {its_kind}")
    tell(done)
    if any(its_kind is Kind.CRANE for _, _, its_kind in adopted):
        say("where a crane stands and how long its jib is, a site file says: smartsite site import")


def _named(
    site: str, device: str, profile: str | None, kind: Kind | None, profiles: Profiles
) -> tuple[str, str, Kind]:
    """Whom an external id names: a person says what it is, or the profile does."""
    found = profiles.by_id.get(profile or "")
    its_kind = kind or (found.sheet.kind if found else None)
    if its_kind is None:
        raise Misconfigured("say what it is by --kind, or by a --profile of `profiles list`")
    return site, device, its_kind


def _require_sound(
    site: str,
    device: str,
    kind: Kind,
    profile: str | None,
    external_id: str | None,
    profiles: Profiles,
) -> None:
    try:
        entry = Device(site=site, id=device, kind=kind, profile=profile, external_id=external_id)
    except ValidationError as fault:
        (error, *_) = fault.errors(include_url=False)
        option = "--" + str(error["loc"][0]).replace("_", "-")
        raise Misconfigured(f"{option}: {error['msg']}") from None
    for key, what in faults_of(entry, profiles):
        raise Misconfigured(f"--{key}: {what}")


def _all_of(
    found: list[PendingDevice], site: str, wanted: Kind | None
) -> list[tuple[str, str, Kind]]:
    """Whom a whole site's adoption takes: who speaks rightly, and as one kind only."""
    kinds: dict[str, set[Kind]] = {}
    for one in found:
        if one.prefix_is_right and one.retired_at is None:
            kinds.setdefault(one.device, set()).add(Kind(one.kind))
    adopted = []
    for device, spoken in sorted(kinds.items()):
        if len(spoken) == 1:
            adopted.append((site, device, wanted or next(iter(spoken))))
        else:
            say(f"left out: {site}/{device} speaks as {' and as '.join(sorted(spoken))}")
    if not adopted:
        raise Misconfigured(
            f"nobody on site {site!r} can be adopted: see `smartsite devices pending`"
        )
    return adopted


def _kind_of(
    pending_there: list[PendingDevice], site: str, device: str, wanted: Kind | None
) -> Kind:
    """What a pending device is: what it says, or a person where it says several things."""
    found = [one for one in pending_there if one.device == device]
    if not found:
        raise Misconfigured(
            f"nothing that {site}/{device} said waits as unknown: see `smartsite devices pending`,"
            " or register it by a site file"
        )
    if not found[0].site_registered:
        raise Misconfigured(
            f"site {site!r} is not registered: `smartsite site import FILE` first, then adopt"
        )
    kinds = {Kind(one.kind) for one in found if one.prefix_is_right} or {
        Kind(one.kind) for one in found
    }
    if wanted is not None:
        return wanted
    if len(kinds) > 1:
        raise Misconfigured(
            f"{site}/{device} speaks as {' and as '.join(sorted(kinds))}: say which by --kind"
        )
    return kinds.pop()


@app.command()
def retire(
    names: Annotated[list[str], typer.Argument(metavar="SITE/DEVICE...", help="Which.")],
    config: ConfigOption = None,
) -> None:
    """Take devices out of service: what they say is unknown from now on, what is stored stays."""
    settings = load_settings(config)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        for name in names:
            retire_device(connection, *site_and_device(name), datetime.now(UTC))
    say(f"retired {', '.join(names)}; to take one back: smartsite devices adopt, or a site file")
