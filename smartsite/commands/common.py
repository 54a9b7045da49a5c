"""What all commands share: their common options, and how they speak."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from device_profiles.topics import ID
from smartsite.errors import Misconfigured

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Settings file; default: smartsite.toml of this folder, if there is one.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def say(text: str) -> None:
    """Tell a person: on standard error, so that output stays for machines.

    Args:
        text: One line.
    """
    print(text, file=sys.stderr)


def print_json(value: object) -> None:
    """Print the result for machines.

    Args:
        value: What msgspec can encode; times as ISO 8601.
    """
    print(msgspec.json.encode(value, enc_hook=str).decode())


def site_and_device(text: str) -> tuple[str, str]:
    """Read how people name a device.

    Args:
        text: SITE/DEVICE.

    Returns:
        Site id and device id.

    Raises:
        Misconfigured: It is not two ids.
    """
    site, _, device = text.partition("/")
    if not (ID.fullmatch(site) and ID.fullmatch(device)):
        raise Misconfigured(f"{text!r} names no device: write SITE/DEVICE, as `riverside/dust-1`")
    return site, device
