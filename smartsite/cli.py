"""The command `smartsite`: what people type."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.table import Table

from alerts.errors import AlertsError
from device_profiles.catalogue import ProfileFault
from ingest.errors import IngestError
from ingest.errors import Misconfigured as IngestMisconfigured
from ingest.registry import import_site_file
from ingest.store.migrate import migrate as run_migrations
from ingest.store.migrate import require_latest
from smartsite.commands import (
    balance,
    coverage,
    devices,
    hj212,
    profiles,
    quarantine,
    violations,
    vision,
)
from smartsite.commands.common import ConfigOption, JsonOption, print_json, say, site_and_device
from smartsite.errors import Misconfigured, SmartsiteError
from smartsite.services import database
from smartsite.settings import Settings, load_settings, load_site_file
from smartsite.supervisor import EXIT_MISCONFIGURED, ROLES

app = typer.Typer(
    name="smartsite",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Supervision of construction sites by their own instruments.\n\n"
    "Start with `smartsite demo`: a simulated site, a broker, a database and the whole service, "
    "live in this terminal. For a site of your own: write smartsite.toml and a site file, "
    "`smartsite check`, `smartsite site import FILE`, `smartsite run`.",
)
site_app = typer.Typer(no_args_is_help=True, help="Register sites, devices and recipients.")
app.add_typer(site_app, name="site")
bench_app = typer.Typer(no_args_is_help=True, help="Measure what the service costs, on real parts.")
app.add_typer(bench_app, name="bench")
app.add_typer(devices.app, name="devices")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(violations.app, name="violations")
app.add_typer(hj212.app, name="hj212")
app.command("balance")(balance.balance)
app.command("coverage")(coverage.coverage)
app.add_typer(profiles.app, name="profiles")
app.command("decode")(profiles.decode)
app.command("detect")(vision.detect)
app.add_typer(vision.app, name="camera")
bench_app.command("vision")(vision.bench)


def _set_up_logging() -> None:
    level = os.environ.get("SMARTSITE_LOG", "info").upper()
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)


@app.command()
def demo(
    for_seconds: Annotated[
        float | None,
        typer.Option("--for", min=1, help="Stop after so many seconds of the simulated site."),
    ] = None,
    as_json: JsonOption = False,
    webhook: Annotated[
        str | None, typer.Option(help="Tell this URL too, with --secret-file.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="File with the whsec_ secret of --webhook.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 1,
    config: ConfigOption = None,
) -> None:
    """Show everything: a simulated site, the whole service, two recipients, in this terminal.

    A minute shows a dust exceedance, two cranes too near and a worker without a helmet. With
    --for it ends by itself, and succeeds only if each kind was stored, told to both recipients
    with a valid signature, and no reading is unaccounted for.
    """
    if (webhook is None) != (secret_file is None):
        raise Misconfigured("--webhook and --secret-file go together")
    extra = (webhook, secret_file) if webhook is not None and secret_file is not None else None
    settings = load_settings(config)
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    from smartsite.demoing import present

    result = present(settings, for_seconds, seed, extra, as_json=as_json)
    if as_json:
        print_json(result)
    if for_seconds is not None and not result["ok"]:
        for line in result["missing"]:
            say(f"smartsite demo: {line}")
        raise typer.Exit(1)


@app.command()
def run(
    config: ConfigOption = None,
    role: Annotated[
        str | None,
        typer.Option("--role", help=f"Run only this role: {', '.join(ROLES)}."),
    ] = None,
) -> None:
    """Run the service: all roles under a supervisor, or one role by itself.

    With the default settings broker and database are embedded: started with it, kept in the
    data folder, gone with it. Metrics and health are on http://127.0.0.1:9464.
    """
    settings = load_settings(config)
    _set_up_logging()
    from smartsite import running

    if role is not None:
        if role not in ROLES:
            raise Misconfigured(f"--role {role}: not one of {', '.join(ROLES)}")
        asyncio.run(running.run_alone(role, settings))
    else:
        asyncio.run(running.run_all(settings, config))


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Validate the settings and site files; say every fault with file and key."""
    faults: list[str] = []
    settings: Settings | None = None
    try:
        settings = load_settings(config)
    except Misconfigured as fault:
        faults += str(fault).splitlines()
    if settings is not None:
        from smartsite.checking import find_faults

        faults += find_faults(settings)
    if as_json:
        print_json({"ok": not faults, "faults": faults})
    else:
        for line in faults:
            say(line)
        say("settings are sound" if not faults else f"{len(faults)} faults")
    if faults:
        raise typer.Exit(EXIT_MISCONFIGURED)


@app.command()
def migrate(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Bring the database to this version's schema."""
    settings = load_settings(config)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    from smartsite.services import Services

    services = Services(settings, with_broker=False)
    services.start()
    try:
        before, after = run_migrations(services.database_url)
    finally:
        services.stop()
    if as_json:
        print_json({"before": before, "after": after})
        return
    say(
        f"the schema is at {after}"
        + ("" if before == after else f", was {before or 'empty'}; next: smartsite run")
    )


@site_app.command("import")
def site_import(
    file: Annotated[Path, typer.Argument(help="A TOML site file.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Register what a site file says; what is registered already is brought up to date."""
    settings = load_settings(config)
    found = load_site_file(file)
    from smartsite.checking import require_profiles
    from smartsite.profiles import readers_of

    require_profiles(found, str(file), readers_of(settings).profiles)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        counts = import_site_file(connection, found)
    if as_json:
        print_json(counts)
        return
    say("registered " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    say("devices publish on [prefix/]site/SITE/KIND/DEVICE/telemetry: see docs/mqtt.md")


@app.command()
def record(
    file: Annotated[Path, typer.Argument(help="Where to: NAME.jsonl or NAME.jsonl.zst.")],
    since: Annotated[datetime, typer.Option(help="First time of receipt, UTC.")],
    until: Annotated[datetime | None, typer.Option(help="End, UTC; default: now.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="Only topics of this MQTT filter; repeatable.")
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Only this site's devices; repeatable.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Only SITE/DEVICE; repeatable.")] = None,
    config: ConfigOption = None,
) -> None:
    """Export what was received in a span of time, in the recording format.

    Messages are written as they were received, those put aside too, in the order received. What
    was read again from quarantine is in it once, with its first time.
    """
    from smartsite.recording import export

    settings = load_settings(config)
    start = since.replace(tzinfo=UTC)
    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    exported = export(
        settings,
        file,
        start,
        end,
        tuple(topic or ()),
        frozenset(site or ()),
        frozenset(site_and_device(name) for name in device or ()),
    )
    say(f"{exported.messages} messages in {file}")
    if exported.aged_out:
        say(f"of this span the bytes of up to {exported.aged_out} messages have aged out")


@bench_app.command("ingest")
def bench_ingest(
    messages: Annotated[int, typer.Option(min=1_000, help="How many to queue.")] = 200_000,
    batch: Annotated[int, typer.Option(min=1, max=1_000, help="Readings a message.")] = 1,
    broker: Annotated[str | None, typer.Option(help="mqtt://… ; default: embedded.")] = None,
    database_: Annotated[
        str | None, typer.Option("--database", help="postgresql://… , empty; default: embedded.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the fleet's values.")] = 1,
    repeat: Annotated[int, typer.Option(min=1, max=99, help="Drains; the medians are told.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Queue a fleet's readings at the broker and drain them with the real service process."""
    from smartsite.bench import ingest as bench

    result = bench.as_dict(
        bench.repeat(
            repeat,
            messages=messages,
            batch=batch,
            seed=seed,
            broker_url=broker,
            database_url=database_,
            say=say,
        )
    )
    if as_json:
        print_json(result)
        return
    table = Table("figure", "value")
    for name, value in result.items():
        table.add_row(name, str(value))
    Console().print(table)


@bench_app.command("consumer")
def bench_consumer(as_json: JsonOption = False) -> None:
    """Time the MQTT codec, and the consumer's connection on the embedded broker."""
    from smartsite.bench.consumer import measure

    result = measure()
    if as_json:
        print_json(result)
        return
    table = Table("CPU µs a message of 200 bytes", "value")
    for name, value in result.items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)


@bench_app.command("decode")
def bench_decode(as_json: JsonOption = False) -> None:
    """Time every profile of JSON against a bare parse of the same bytes, and HJ 212."""
    from smartsite.bench.decode import measure

    result = measure()
    if as_json:
        print_json(result)
        return
    table = Table("profile", "bytes", "fields", "µs", "orjson µs", "bar µs", "holds")
    for row in (*result["profiles"], {"id": "hj212 minute"} | result["hj212_minute"]):
        cells = (row.get(name, "") for name in ("bytes", "fields", "us", "orjson_us", "bar_us"))
        table.add_row(row["id"], *map(str, cells), "yes" if row["holds"] else "no")
    Console().print(table)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings file and of the site file."""
    from smartsite.schemas import settings_schema, site_schema

    schemas = {"smartsite.toml": settings_schema(), "site": site_schema()}
    print(json.dumps(schemas, indent=2, ensure_ascii=False))


def main() -> None:
    """Run the command; what people can mend is one sentence, not a trace."""
    try:
        app(standalone_mode=True)
    except (SmartsiteError, IngestError, AlertsError, ProfileFault) as fault:
        say(f"smartsite: {fault}")
        config_fault = isinstance(fault, Misconfigured | IngestMisconfigured | ProfileFault)
        sys.exit(EXIT_MISCONFIGURED if config_fault else 1)
    except psycopg.OperationalError as fault:
        say(f"smartsite: the database cannot be used: {str(fault).splitlines()[0]}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
