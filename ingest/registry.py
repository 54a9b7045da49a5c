"""The registry: organisations, sites, devices, recipients; and which device a topic belongs to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from enum import Enum, auto
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from device_profiles.catalogue import Profile
from device_profiles.datasheets import Format
from device_profiles.decoding.build import DecodeMany
from device_profiles.decoding.events import DecodeEvent
from device_profiles.decoding.terms import NO_TERMS, Terms
from device_profiles.errors import Reason, Rejected, shown
from device_profiles.hj212.topics import mn_of_topic, refusal_of
from device_profiles.native import Decoder, telemetry_decoder
from device_profiles.sites import Device, SiteFile
from device_profiles.topics import Address, parse_topic
from device_profiles.vocabulary import QUANTITIES, Channel, Kind
from ingest.clocks import Clocks
from ingest.errors import Misconfigured
from ingest.profiles import NATIVE, Readers, claims, is_gateway, terms_of
from ingest.store.clocks import load_clocks
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent / "store" / "sql" / "registry.sql")

UNKNOWN_DEVICE = 0
"""Stands for a device that is not registered, where exceptions are counted."""

MAX_EXTERNAL_ID_CHARS = 128

MOST_TOPICS = 16
"""Topics remembered, by registered device."""


class RegisteredDevice(NamedTuple):
    """A device as the hot path needs it.

    Attributes:
        id: The registry's number.
        site: Site id.
        device: Device id within the site.
        kind: What it is.
        district: The topic prefix its site publishes under.
        profile: What it is read by; None: it speaks the native contract.
        external_id: How its make's topics and payloads name it.
        terms: How it departs from its profile's datasheet.
        unread: Id of the profile it is to be read by, where that is not in force.
        password: Reference of what it proves itself with by HJ 212.
    """

    id: int
    site: str
    device: str
    kind: Kind
    district: str
    profile: Profile | None = None
    external_id: str | None = None
    terms: Terms = NO_TERMS
    unread: str | None = None
    password: str | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.site}/{self.device}"

    @property
    def reader(self) -> str:
        """How refusals name it: with what it is read by, where that is a profile."""
        return f"{self.label} by {self.profile.sheet.id}" if self.profile else self.label


class UnknownExternalId(Rejected):
    """What names a device by an external id that nobody is registered with.

    Attributes:
        external_id: As it was sent, bounded.
    """

    def __init__(self, profile: str, external_id: str) -> None:
        """Name it.

        Args:
            profile: Of the topic or payload.
            external_id: As it was sent.
        """
        super().__init__(
            Reason.UNKNOWN_DEVICE,
            f"{profile}: external id {shown(external_id)} is not registered",
        )
        self.external_id = external_id[:MAX_EXTERNAL_ID_CHARS]


class Use(Enum):
    """What is done with a message of a route."""

    READ = auto()
    KEEP_STATUS = auto()
    KEEP_EVENT = auto()
    KEEP_FRAME = auto()
    REPORT = auto()


class Route(NamedTuple):
    """Where a topic leads.

    Attributes:
        device: Whose topic it is.
        use: What is done with its messages.
        decode: How its telemetry is read; None for other channels.
        report: How its events are read, where a profile reads them.
    """

    device: RegisteredDevice
    use: Use
    decode: Decoder | None
    report: DecodeEvent | None = None


class Gateway(NamedTuple):
    """Where the topic of a gateway leads: its messages say whose readings they hold.

    Attributes:
        profile: How they are read.
        topic: Outside the native contract; None within it.
        site: Of the registered gateway, for whose devices alone it speaks; None outside the
            contract, where a topic names no site.
        decode: By external id.
    """

    profile: Profile
    topic: str | None
    site: str | None
    decode: DecodeMany


class EventGateway(NamedTuple):
    """Where the topic of an AI box leads whose messages say which camera they are about.

    Attributes:
        profile: How they are read.
        topic: Outside the native contract.
        report: The decoder, for a camera of which nothing more is known.
    """

    profile: Profile
    topic: str
    report: DecodeEvent


class Routes:
    """From topic to route, remembered for topics of registered devices only.

    What strangers send can therefore not fill the memory.

    Attributes:
        known: Routes by topic.
        clocks: The spans of devices' clocks, of the same snapshot.
    """

    def __init__(
        self,
        devices: Iterable[RegisteredDevice],
        clocks: Clocks | None = None,
        readers: Readers | None = None,
    ) -> None:
        self.clocks = Clocks() if clocks is None else clocks
        self._readers = Readers() if readers is None else readers
        self._devices = {(device.site, device.device): device for device in devices}
        self._external = {
            device.external_id: device
            for device in self._devices.values()
            if device.external_id is not None
        }
        self._terms: dict[str | None, dict[str, Terms]] = {}
        self._decoders = {kind: telemetry_decoder(kind) for kind in QUANTITIES}
        self._readers.forget(len(self._devices))
        self.known: dict[bytes, Route] = {}

    def __len__(self) -> int:
        return len(self._devices)

    @property
    def devices(self) -> Collection[RegisteredDevice]:
        """All registered devices."""
        return self._devices.values()

    def knows(self, site: str, device: str) -> bool:
        """Whether a device is registered."""
        return (site, device) in self._devices

    def find(self, topic: bytes) -> Route | Gateway | EventGateway:
        """Find a topic's route.

        Args:
            topic: As the broker sent it.

        Returns:
            The route.

        Raises:
            Rejected: The topic is neither of the contract nor of a profile that is listened to,
                or its device is not registered so.
        """
        try:
            address = parse_topic(topic)
        except Rejected as fault:
            route = self._find_foreign(topic, fault)
        else:
            route = self._find_native(address)
        if (
            isinstance(route, Route)
            and route.use is not Use.KEEP_FRAME  # every frame has a topic of its own
            # A make's topic may have levels that anybody can fill with anything.
            and len(self.known) < MOST_TOPICS * len(self._devices)
        ):
            self.known[topic] = route
        return route

    def _find_native(self, address: Address) -> Route | Gateway:
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
                return self._read(device, None)
            case Channel.STATUS:
                return Route(device, Use.KEEP_STATUS, None)
            case Channel.EVENT:
                return self._event(device)
            case Channel.FRAME:
                return Route(device, Use.KEEP_FRAME, None)

    def _find_foreign(self, topic: bytes, fault: Rejected) -> Route | Gateway | EventGateway:
        """Find the route of a topic outside the native contract."""
        text = topic.decode("utf-8", "replace")
        found = self._readers.profiles.match_topic(text)
        if found is None:
            mn = mn_of_topic(topic)
            if mn is None:
                raise refusal_of(topic) or fault
            device = self.device_of("HJ 212", unquote(mn))
            if device.profile is None or device.profile.sheet.format is not Format.HJ212:
                raise Rejected(Reason.TOPIC, f"{device.reader}: does not speak HJ 212")
            return self._read(device, text)
        sheet = found.profile.sheet
        if is_gateway(found.profile) and not found.device:
            if sheet.format is Format.EVENT:
                report = self._readers.event_decoder(found.profile, NO_TERMS)
                return EventGateway(found.profile, text, report)
            return self._gateway(found.profile, text, None)
        if not found.device:
            raise Rejected(Reason.TOPIC, f"{sheet.id}: topic {shown(text)} names no device")
        device = self.device_of(sheet.id, found.device)
        if device.profile is None or not claims(device.profile, text):
            raise Rejected(
                Reason.TOPIC, f"{device.reader}: its topics are others than {shown(text)}"
            )
        match device.profile.sheet.format:
            case Format.JPEG:
                return Route(device, Use.KEEP_FRAME, None)
            case Format.EVENT:
                return self._event(device)
            case _:
                return self._read(device, text)

    def device_of(self, profile: str, external_id: str) -> RegisteredDevice:
        """Find a device by its external id.

        Args:
            profile: Whose topic or payload names it, for the refusal.
            external_id: As it was sent.

        Returns:
            The device.

        Raises:
            UnknownExternalId: Nobody is registered with it.
        """
        device = self._external.get(external_id)
        if device is None:
            raise UnknownExternalId(profile, external_id)
        return device

    def behind(self, gateway: Gateway, external_id: str) -> tuple[RegisteredDevice, DecodeMany]:
        """Find a device that a gateway speaks for, and how its readings are read.

        Platforms give every kind of device one topic: a device is read by its own profile if
        that has the same topic, or is of the same make as the gateway's.

        Args:
            gateway: Whose payload names it.
            external_id: As it was sent.

        Returns:
            The device, and the decoder of the whole message that reads it rightly.

        Raises:
            Rejected: Nobody is registered with it, it stands on another site, or is read
                otherwise.
        """
        device = self.device_of(gateway.profile.sheet.id, external_id)
        if gateway.site is not None and device.site != gateway.site:
            raise Rejected(
                Reason.TOPIC,
                f"{device.reader}: its site is not that of the gateway, {gateway.site}",
            )
        profile = device.profile
        if profile is gateway.profile:
            return device, gateway.decode
        if profile is not None and is_gateway(profile) and _same_make(profile, gateway):
            return device, self._gateway(profile, gateway.topic, gateway.site).decode
        raise Rejected(
            Reason.TOPIC,
            f"{device.reader}: is not read by {gateway.profile.sheet.id}, which brought it",
        )

    def camera(self, route: Route | EventGateway, external_id: str) -> RegisteredDevice:
        """Find the camera that an event is about.

        Args:
            route: Where its topic leads.
            external_id: The camera its payload names; "" where it names none.

        Returns:
            The camera: that of the topic where there is one and no other is named. A camera
            whose own external id is not registered may be named as anything.

        Raises:
            Rejected: Nobody is registered with it, it stands on another site, or is read
                otherwise.
        """
        if isinstance(route, Route):
            own = route.device
            if not external_id or own.external_id in (None, external_id):
                return own
            device = self.device_of(own.reader, external_id)
            if device.site != own.site:
                raise Rejected(Reason.TOPIC, f"{device.label}: its site is not that of {own.label}")
            return device
        if not external_id:
            raise Rejected(
                Reason.INCOMPLETE, f"{route.profile.sheet.id}: the event names no camera"
            )
        device = self.device_of(route.profile.sheet.id, external_id)
        claimed = device.profile is not None and claims(device.profile, route.topic)
        if not claimed or not reads_events(device):
            raise Rejected(
                Reason.TOPIC, f"{device.reader}: its topics are others than {shown(route.topic)}"
            )
        return device

    def report_decoder(self, device: RegisteredDevice) -> DecodeEvent:
        """The decoder of a camera's events, with all that is known of it.

        Args:
            device: A camera that is read by a profile of format `event`.

        Returns:
            The decoder.
        """
        assert device.profile is not None  # noqa: S101 - the caller has looked
        return self._readers.event_decoder(device.profile, device.terms)

    def _gateway(self, profile: Profile, topic: str | None, site: str | None) -> Gateway:
        if site not in self._terms:
            self._terms[site] = {
                name: device.terms
                for name, device in self._external.items()
                if site is None or device.site == site
            }
        decode = self._readers.gateway(profile, site, self._terms[site])
        return Gateway(profile, topic, site, decode)

    def _read(self, device: RegisteredDevice, topic: str | None) -> Route | Gateway:
        _require_profile(device)
        native = self._decoders.get(device.kind)
        if native is None:
            raise Rejected(Reason.TYPE, f"{device.label} is a {device.kind}: it has no telemetry")
        if device.profile is None:
            return Route(device, Use.READ, native)
        if is_gateway(device.profile):
            return self._gateway(device.profile, topic, device.site)
        return Route(device, Use.READ, self._readers.decoder(device.profile, device.terms))

    def _event(self, device: RegisteredDevice) -> Route:
        _require_profile(device)
        if not reads_events(device):
            return Route(device, Use.KEEP_EVENT, None)
        return Route(device, Use.REPORT, None, self.report_decoder(device))


def reads_events(device: RegisteredDevice) -> bool:
    """Whether a device's events are read by a profile: an AI box's, with pictures."""
    return device.profile is not None and device.profile.sheet.format is Format.EVENT


def _require_profile(device: RegisteredDevice) -> None:
    if device.unread is not None:
        raise Rejected(Reason.TYPE, f"{device.label}: there is no profile {device.unread!r}")


def _same_make(profile: Profile, gateway: Gateway) -> bool:
    if gateway.topic is not None:
        return claims(profile, gateway.topic)
    mine, theirs = profile.sheet.fits, gateway.profile.sheet.fits
    return mine is not None and theirs is not None and mine.make == theirs.make


class Registration(NamedTuple):
    """A device as the registry has it.

    Attributes:
        id: The registry's number.
        site: Site id.
        device: Device id within the site.
        kind: What it is.
        district: The topic prefix its site publishes under.
        make: As registered; likewise the rest.
        model: Its model.
        firmware: Its version.
        external_id: How its make's topics and payloads name it.
        settings: How it is read, among others.
    """

    id: int
    site: str
    device: str
    kind: str
    district: str
    make: str
    model: str
    firmware: str
    external_id: str | None
    settings: Mapping[str, Any]

    def with_reader(self, readers: Readers) -> RegisteredDevice:
        """Find out how it is read.

        Args:
            readers: The profiles in force.

        Returns:
            The device as the hot path needs it.
        """
        kind = Kind(self.kind)
        profile, unread = None, None
        named = self.settings.get("profile")
        if named is None:
            profile = readers.profile_of(kind, self.make, self.model, self.firmware)
        elif named != f"{NATIVE}{kind}":
            profile = readers.profiles.by_id.get(named)
            if profile is None or profile.sheet.kind is not kind:
                profile, unread = None, named
        return RegisteredDevice(
            self.id,
            self.site,
            self.device,
            kind,
            self.district,
            profile,
            self.external_id,
            terms_of(kind, self.settings) if profile is not None else NO_TERMS,
            unread,
            self.settings.get("password"),
        )


async def load_routes(
    connection: psycopg.AsyncConnection[Any], readers: Readers | None = None
) -> Routes:
    """Read the registered devices, and how far their clocks are off.

    Args:
        connection: An open connection; its transaction is used.
        readers: The profiles in force, and the decoders built so far; None: every device
            speaks the native contract.

    Returns:
        Their routes, a snapshot.
    """
    readers = Readers() if readers is None else readers
    cursor = await connection.execute(SQL["devices_for_routes"])
    devices = [Registration(*row).with_reader(readers) for row in await cursor.fetchall()]
    return Routes(devices, await load_clocks(connection), readers)


_SETTINGS = {
    "geometry", "camera", "profile", "units", "zone", "alarm_bits", "tolerate", "password",
}  # fmt: skip


def settings_of(device: Device) -> dict[str, Any]:
    """Say what of a site file's device is kept as its settings.

    Args:
        device: As written down.

    Returns:
        What is said of it there, and nothing else.
    """
    said = device.model_dump(mode="json", include=_SETTINGS, exclude_none=True)
    return {name: value for name, value in said.items() if value not in ({}, [])}


def _twice(fault: psycopg.errors.UniqueViolation) -> str:
    return (
        f"two devices would have one external id: {fault.diag.message_detail}"
        " (retire the one that has it: `smartsite devices retire`)"
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
                    entry.model_dump(mode="json", exclude=_SETTINGS)
                    | {"settings": Jsonb(settings_of(entry))}
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
        except psycopg.errors.UniqueViolation as fault:
            raise Misconfigured(_twice(fault)) from None
        cursor.execute(SQL["notify_registry"])
    return {
        "organisations": len(file.organisation),
        "sites": len(file.site),
        "devices": len(file.device),
        "recipients": len(file.recipient),
    }


def adopt_devices(
    connection: psycopg.Connection[Any],
    devices: Iterable[tuple[str, str, Kind]],
    *,
    expected_every_s: float | None = None,
    make: str | None = None,
    model: str | None = None,
    firmware: str | None = None,
    profile: str | None = None,
    external_id: str | None = None,
) -> None:
    """Register devices of registered sites; one that was retired is taken back.

    Args:
        connection: An open connection; the caller commits.
        devices: Site id, device id, kind.
        expected_every_s: How often each ought to speak; None: as registered, or a minute.
        make: Of each; None: as registered, or unknown.
        model: Likewise.
        firmware: Likewise.
        profile: Id of the profile each is read by; None: as registered, or by the above.
        external_id: How one device's make names it; None: as registered.

    Raises:
        Misconfigured: A site is not registered, a device is registered as another kind, or the
            external id is another's.
    """
    try:
        for site, device, kind in devices:
            connection.execute(
                SQL["adopt_device"],
                {
                    "site": site,
                    "device": device,
                    "kind": kind,
                    "expected_every_s": expected_every_s,
                    "default_every_s": Device.model_fields["expected_every_s"].default,
                    "make": make,
                    "model": model,
                    "firmware": firmware,
                    "external_id": external_id,
                    "settings": Jsonb({} if profile is None else {"profile": profile}),
                },
            )
    except psycopg.errors.ForeignKeyViolation:
        raise Misconfigured(
            f"site {site!r} is not registered: `smartsite site import FILE` first"
        ) from None
    except psycopg.errors.RaiseException as fault:
        raise Misconfigured(str(fault.diag.message_primary)) from None
    except psycopg.errors.UniqueViolation as fault:
        raise Misconfigured(_twice(fault)) from None
    connection.execute(SQL["notify_registry"])


def retire_device(
    connection: psycopg.Connection[Any], site: str, device: str, now: datetime
) -> None:
    """Take a device out of service: its messages are unknown from now on, its rows stay.

    Args:
        connection: An open connection; the caller commits.
        site: Site id.
        device: Device id within the site.
        now: The present time; aware.

    Raises:
        Misconfigured: It is not registered, or retired already.
    """
    cursor = connection.execute(SQL["retire_device"], {"site": site, "device": device, "now": now})
    if not cursor.rowcount:
        raise Misconfigured(f"{site}/{device} is not registered: see `smartsite devices`")
    connection.execute(SQL["notify_registry"])


def list_devices(connection: psycopg.Connection[Any], site: str | None = None) -> list[Any]:
    """List the registered devices with the last that was heard of each.

    Args:
        connection: An open connection.
        site: Only this site's.

    Returns:
        One dict a device: site, device, kind, make, model, expected_every_s, last_observed_at,
        last_received_at, online (as its status says), silent_since (while it is found silent),
        clock_is_off, clock_offset_s (in force, seconds; None where the clock is right or its
        times are not believed).
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(SQL["devices_with_last"], {"site": site}).fetchall()
