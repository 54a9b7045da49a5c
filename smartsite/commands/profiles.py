"""`smartsite profiles` and `smartsite decode`: what makes send, and how to bring up a new one."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer
import zstandard
from rich.console import Console
from rich.table import Table

from device_profiles.catalogue import (
    Profile,
    ProfileFault,
    Profiles,
    load_profile,
    load_profiles,
)
from device_profiles.datasheets import ExampleReading
from device_profiles.errors import Reason, Rejected
from device_profiles.native import telemetry_decoder
from device_profiles.recording import MAX_LINE_BYTES, parse_message
from device_profiles.vocabulary import QUANTITIES, Kind
from ingest.pipeline import TimeLimits
from smartsite.commands.common import ConfigOption, JsonOption, print_json, say
from smartsite.decoding import Explain, explainer, native_explainer, refusal
from smartsite.errors import Misconfigured
from smartsite.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="What makes of devices send: list, check, begin one.")

NATIVE = {f"native-{kind}": kind for kind in QUANTITIES}


def _loaded(config: Path | None) -> Profiles:
    settings = load_settings(config).profiles
    return load_profiles(settings.folders, settings.topics_of)


@app.command("list")
def list_profiles(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the profiles in force."""
    found = _loaded(config)
    if as_json:
        print_json(
            [
                {
                    "id": profile.sheet.id,
                    "title": profile.sheet.title,
                    "kind": profile.sheet.kind,
                    "format": profile.sheet.format,
                    "fits": profile.sheet.fits and profile.sheet.fits.model_dump(mode="json"),
                    "file": str(profile.file),
                }
                for profile in found.by_id.values()
            ]
        )
        return
    table = Table(box=None)
    # What is typed next is never cut, however narrow the terminal.
    table.add_column("id", no_wrap=True, min_width=max(map(len, found.by_id)))
    for title in ("kind", "format", "fits"):
        table.add_column(title, no_wrap=True)
    table.add_column("what it is", no_wrap=True)
    for profile in found.by_id.values():
        sheet, fits = profile.sheet, profile.sheet.fits
        who = "by name only"
        if fits is not None:
            who = " ".join(filter(None, (fits.make, *_but_all(fits.models), fits.firmware)))
        table.add_row(sheet.id, str(sheet.kind), str(sheet.format), who, sheet.title)
    Console().print(table)
    say("the datasheet of one: smartsite profiles show ID")


def _but_all(models: tuple[str, ...]) -> tuple[str, ...]:
    return () if models == ("*",) else models


@app.command()
def show(
    profile: Annotated[str, typer.Argument(help="Id of a profile.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a profile's datasheet."""
    found = _loaded(config).by_id.get(profile)
    if found is None:
        raise Misconfigured(f"there is no profile {profile!r}: see smartsite profiles list")
    if as_json:
        print_json(found.sheet.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
        return
    say(str(found.file))
    print(found.file.read_text("utf-8"), end="")


@app.command()
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Profile files.")] = None,
    config: ConfigOption = None,
) -> None:
    """Check profile files, and that no two profiles in force claim the same device.

    Every fault is said with file and key; a profile's documented example is decoded.
    """
    faults: list[str] = []
    profiles: list[Profile] = []
    for file in files or ():
        try:
            profiles.append(load_profile(file))
        except ProfileFault as fault:
            faults += fault.faults
    try:
        in_force = list(_loaded(config).by_id.values())
        named = {profile.file.resolve() for profile in profiles}
        others = [profile for profile in in_force if profile.file.resolve() not in named]
        Profiles([*others, *profiles])
    except ProfileFault as fault:
        faults += fault.faults
    for profile in profiles or ([] if faults else in_force):
        faults += example_faults(profile)
    for line in faults:
        say(line)
    if faults:
        raise typer.Exit(1)
    count = len(profiles) or len(in_force)
    say("1 profile is right" if count == 1 else f"{count} profiles are right")


def example_faults(profile: Profile) -> list[str]:
    """Decode a profile's documented example and say what differs from what it says.

    Args:
        profile: The profile.

    Returns:
        One line a fault.
    """
    example = profile.sheet.example
    if example is None:
        return [f"{profile.file}: example: is missing: a datasheet shows one"]
    result = explainer(profile, TimeLimits(1e12, 1e12))(example.bytes, example.received_at)
    where = f"{profile.file}: example:"
    if not result["accepted"]:
        return [f"{where} is refused: {result['reason']}: {result['detail']}"]
    found = result["readings"]
    if len(found) != len(example.readings):
        return [f"{where} gives {len(found)} readings, the file says {len(example.readings)}"]
    faults = [
        f"{where} {part['detail']}"
        for part in result["refused"]
        if part["field"] not in example.refused
    ]
    for number, (said, got) in enumerate(zip(example.readings, found, strict=True)):
        faults += [f"{where} reading {number}: {line}" for line in _differences(said, got)]
    return faults


def _differences(said: ExampleReading, got: dict[str, Any]) -> list[str]:
    """What a reading has that the example does not say, or says otherwise."""
    lines: list[str] = []
    when = got["observed_at"] and datetime.fromisoformat(got["observed_at"])
    if when != said.observed_at:
        lines.append(f"observed_at is {when.isoformat() if when else 'that of receipt'}")
    for name in ("series", "alarms", "seq", "device", "what", "score", "picture_url"):
        wanted, given = getattr(said, name), got.get(name)
        given = tuple(given) if isinstance(given, list) else given
        if wanted is not None and given != wanted:
            lines.append(f"{name} is {given}, the file says {wanted}")
    if said.boxes is not None:
        boxes = [(box["label"], box["score"], tuple(box["box"])) for box in got.get("boxes", ())]
        if boxes != [(box.label, box.score, box.box) for box in said.boxes]:
            lines.append(f"boxes are {boxes}")
    if said.picture is not None:
        picture = got.get("picture") or {}
        if (picture.get("width"), picture.get("height")) != said.picture:
            lines.append(f"the picture is {picture or 'missing'}")
    values = got["values"]
    if values.keys() != said.values.keys():
        lines.append(f"it holds {sorted(values)}, the file says {sorted(said.values)}")
    return lines + [
        f"{name} is {values[name]}, the file says {value}"
        for name, value in said.values.items()
        if name in values and abs(values[name] - value) > 1e-9 * max(1.0, abs(value))
    ]


_SKELETON = """\
# Datasheet of {id}. Every line is explained in docs/new-device.md.
id = "{id}"
title = "{id}"
kind = "{kind}"                    # dust, crane or camera
format = "json"                    # json, text, pairs, csv, struct, hj212, jpeg, event, python
source = ""                        # where the shape was learnt

[fits]
make = "{make}"
models = ["*"]                     # shell patterns
# firmware = ">=2.0, <3"

[time]
at = "time"
format = "%Y-%m-%d %H:%M:%S"       # or rfc3339, epoch_s, epoch_ms, auto_epoch
zone = "Asia/Shanghai"

{values}
[rest]
keep = "all"                       # what no line names is kept beside the reading

[example]
payload = \'\'\'{{"time": "2026-03-01 09:02:03", "{first}": 1.0}}\'\'\'
readings = [{{ observed_at = 2026-03-01T01:02:03Z, values = {{ {first} = 1.0 }} }}]
"""


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="Where to: vendor/model.toml.")],
    kind: Annotated[Kind, typer.Option(help="What sort of device.")] = Kind.DUST,
) -> None:
    """Begin a profile: a datasheet to fill in, which is right as it stands."""
    if kind not in QUANTITIES:
        raise Misconfigured(f"--kind {kind}: begin with a copy of a camera's (profiles show)")
    if file.exists():
        raise Misconfigured(f"{file} is there already")
    make = file.resolve().parent.name
    quantities = QUANTITIES[kind]
    first, *others = quantities
    lines = [f'[values.{first.name}]\nat = "{first.name}"\nunit = "{first.unit}"\n']
    lines += [
        f'# [values.{other.name}]   # {other.en}\n# at = ""\n# unit = "{other.unit}"\n'
        for other in others
    ]
    text = _SKELETON.format(
        id=f"{make}-{file.stem}".lower(),
        kind=kind,
        make=make,
        values="\n".join(lines),
        first=first.name,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    say(f"{file}: fill it in, then: smartsite decode --profile {file} --raw PAYLOAD_FILE")
    say(f"and: smartsite profiles check {file}")


def decode(
    profile: Annotated[str, typer.Option("--profile", help="Id of a profile, or a .toml file.")],
    file: Annotated[
        str, typer.Argument(help="A recording (.jsonl, .jsonl.zst); -: standard input.")
    ] = "-",
    raw: Annotated[bool, typer.Option("--raw", help="The input is one bare payload.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show what a profile makes of messages: one JSON object a line for each, in order.

    A bad value refuses the value, not the message; `reason` says which rule a refused message
    broke, `detail` the rest. Succeeds whatever the messages are.
    """
    settings = load_settings(config)
    # How old a reading may be is the business of who keeps it: recordings are old.
    limits = TimeLimits(settings.ingest.future_s, past_s=math.inf)
    explain = _explainer(profile, config, limits)
    output = sys.stdout.buffer
    try:
        for payload, received_at, fault in _messages(file, raw=raw):
            result = explain(payload, received_at) if fault is None else refusal(fault)
            output.write(msgspec.json.encode(result, enc_hook=str) + b"\n")
            output.flush()  # each line when it is there: the input may be somebody's live feed
    except BrokenPipeError:  # as of `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as fault:
        raise Misconfigured(f"{file}: {fault.strerror}") from None


def _explainer(name: str, config: Path | None, limits: TimeLimits) -> Explain:
    if name in NATIVE:
        kind = NATIVE[name]
        return native_explainer(kind, telemetry_decoder(kind), limits)
    if name.endswith(".toml"):
        return explainer(load_profile(Path(name)), limits)
    found = _loaded(config).by_id.get(name)
    if found is None:
        known = ", ".join([*_loaded(config).by_id, *NATIVE])
        raise Misconfigured(f"--profile {name}: not a .toml file and not one of {known}")
    return explainer(found, limits)


def _messages(file: str, *, raw: bool) -> Iterator[tuple[bytes, datetime | None, Rejected | None]]:
    """Yield payload and time of receipt, or the fault of a line that is no message."""
    if raw:
        yield sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes(), None, None
        return
    if file == "-":
        yield from _lines(sys.stdin.buffer)
        return
    with Path(file).open("rb") as stream:
        if not file.endswith(".zst"):
            yield from _lines(stream)
            return
        inflated = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        try:
            yield from _lines(io.BufferedReader(inflated))
        except zstandard.ZstdError as fault:
            yield b"", None, Rejected(Reason.ENCODING, f"not compressed as its name says: {fault}")


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, datetime | None, Rejected | None]]:
    while line := stream.readline(MAX_LINE_BYTES):
        if not line.strip():
            continue
        try:
            message = parse_message(line)
        except Rejected as fault:
            yield b"", None, fault
        else:
            yield message.payload, message.received_at, None
