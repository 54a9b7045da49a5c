"""The registry: organisations, sites, devices, recipients; and which device a topic belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from device_profiles.errors import Reason, Rejected
from device_profiles.native import Decoder, telemetry_decoder
from device_profiles.sites import SiteFile
from device_profiles.topics import parse_topic
from device_profiles.vocabulary import QUANTITIES, Channel, Kind
from ingest.errors import Misconfigured
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent / "store" / "sql" / "registry.sql")

UNKNOWN_DEVICE = 0
"""Stands for a device that is not registered, where exceptions are counted."""


class RegisteredDevice(NamedTuple):
    """A device as the hot path needs it.

    Attributes:
        id: The registry's number.
        site: Site id.
        device: Device id within the site.
        kind: What it is.
        district: The topic prefix its site publishes under.
    """

    id: int
    site: str
    device: str
    kind: Kind
    district: str

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.site}/{self.device}"


class Use(Enum):
    """What is done with a message of a route."""

    READ = auto()
    KEEP_STATUS = auto()
    KEEP_EVENT = auto()
    KEEP_FRAME = auto()


class Route(NamedTuple):
    """Where a topic leads.

    Attributes:
        device: Whose topic it is.
        use: What is done with its messages.
        decode: How its telemetry is read; None for other channels.
    """

    device: RegisteredDevice
    use: Use
    decode: Decoder | None


class Routes:
    """From topic to route, remembered for topics of registered devices only.

    What strangers send can therefore not fill the memory.
    """

    def __init__(self, devices: Iterable[RegisteredDevice]) -> None:
        self._devices = {(device.site, device.device): device for device in devices}
        self._decoders = {kind: telemetry_decoder(kind) for kind in QUANTITIES}
        self.known: dict[bytes, Route] = {}

    def __len__(self) -> int:
        return len(self._devices)

    def find(self, topic: bytes) -> Route:
        """Find a topic's route.

        Args:
            topic: As the broker sent it.

        Returns:
            The route.

        Raises:
            Rejected: The topic is not of the contract, or its device is not registered so.
        """
        address = parse_topic(topic)
        device = self._devices.get((address.site, address.device))
        if device is None:
            raise Rejected(
                Reason.UNKNOWN_DEVICE, f"{address.site}/{address.device} is not registered"
            )
        if device.kind is not address.kind:
            raise Rejected(
                Reason.TOPIC,
                f"{device.label} is registered as {device.kind}, not as {address.kind}",
            )
        if device.district != address.prefix:
            raise Rejected(
                Reason.TOPIC,
                f"{device.label} publishes under {device.district!r}, not {address.prefix!r}",
            )
        match address.channel:
            case Channel.TELEMETRY:
                decode = self._decoders.get(device.kind)
                if decode is None:
                    raise Rejected(
                        Reason.TYPE, f"{device.label} is a {device.kind}: it has no telemetry"
                    )
                route = Route(device, Use.READ, decode)
            case Channel.STATUS:
                route = Route(device, Use.KEEP_STATUS, None)
            case Channel.EVENT:
                route = Route(device, Use.KEEP_EVENT, None)
            case Channel.FRAME:
                return Route(device, Use.KEEP_FRAME, None)  # every frame has a topic of its own
        self.known[topic] = route
        return route


async def load_routes(connection: psycopg.AsyncConnection[Any]) -> Routes:
    """Read the registered devices.

    Args:
        connection: An open connection; its transaction is used.

    Returns:
        Their routes, a snapshot.
    """
    cursor = await connection.execute(SQL["devices_for_routes"])
    return Routes(
        RegisteredDevice(id_, site, device, Kind(kind), district)
        for id_, site, device, kind, district in await cursor.fetchall()
    )


def import_site_file(connection: psycopg.Connection[Any], file: SiteFile) -> dict[str, int]:
    """Register what a site file says; what is registered already is brought up to date.

    Args:
        connection: An open connection; the caller commits.
        file: The checked file.

    Returns:
        How many of each were written.

    Raises:
        Misconfigured: Something refers to what neither the file nor the registry holds.
    """
    with connection.cursor() as cursor:
        try:
            cursor.executemany(
                SQL["put_organisation"], [entry.model_dump() for entry in file.organisation]
            )
            cursor.executemany(SQL["put_site"], [entry.model_dump() for entry in file.site])
            cursor.executemany(
                SQL["put_device"],
                [
                    entry.model_dump(mode="json", exclude={"geometry"})
                    | {
                        "settings": Jsonb(
                            entry.model_dump(mode="json", include={"geometry"}, exclude_none=True)
                        )
                    }
                    for entry in file.device
                ],
            )
            cursor.executemany(
                SQL["put_recipient"], [entry.model_dump() for entry in file.recipient]
            )
        except psycopg.errors.ForeignKeyViolation as fault:
            raise Misconfigured(
                f"the site file refers to what is not registered: {fault.diag.message_detail}"
            ) from None
        except psycopg.errors.RaiseException as fault:
            raise Misconfigured(str(fault.diag.message_primary)) from None
        cursor.execute(SQL["notify_registry"])
    return {
        "organisations": len(file.organisation),
        "sites": len(file.site),
        "devices": len(file.device),
        "recipients": len(file.recipient),
    }


def list_devices(connection: psycopg.Connection[Any], site: str | None = None) -> list[Any]:
    """List the registered devices with the last that was heard of each.

    Args:
        connection: An open connection.
        site: Only this site's.

    Returns:
        One dict a device: site, device, kind, make, model, expected_every_s, last_observed_at,
        last_received_at, online.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(SQL["devices_with_last"], {"site": site}).fetchall()
