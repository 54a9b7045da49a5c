"""How registered devices are read: by the profiles in force, with what is known of each device.

Decoders are built when a device first speaks and kept while the registry is read again and
again; devices that are read alike share one. So what is kept is bounded by the registry, and what
strangers send cannot fill it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from device_profiles.catalogue import Profile, Profiles
from device_profiles.datasheets import Alarm, Datasheet, Format
from device_profiles.decoding.build import DecodeMany
from device_profiles.decoding.events import DecodeEvent, event_decoder
from device_profiles.decoding.terms import NO_TERMS, Terms
from device_profiles.decoding.times import NO_TIME_NOTE
from device_profiles.fitting import topic_filter, topic_pattern
from device_profiles.hj212.factors import power_of
from device_profiles.hj212.frames import Tolerance
from device_profiles.hj212.segment import Note
from device_profiles.native import Decoder
from device_profiles.sites import Device
from device_profiles.units import conversion, printed
from device_profiles.vocabulary import QUANTITIES, Kind

BEYOND_JIB_M = 1.0
"""So far beyond the registered jib a trolley is believed: buffers, and jibs measured roughly."""

SPARE = 256
"""Decoders kept beyond twice the registry's devices: those of an earlier snapshot."""

TERMS_KEYS = ("units", "zone", "alarm_bits", "tolerate")
"""Keys of a device's settings that say how it departs from its make's datasheet."""

NATIVE = "native-"
"""With the kind behind it, the name of the native contract where profiles are named."""

NO_PROFILES = Profiles(())


def terms_of(kind: Kind, settings: Mapping[str, Any]) -> Terms:
    """Say what is known of a device beyond its datasheet.

    Args:
        kind: Of the device.
        settings: As registered.

    Returns:
        Its terms.
    """
    limits = {}
    geometry = settings.get("geometry")
    if kind is Kind.CRANE and geometry:
        limits["trolley_m"] = (-BEYOND_JIB_M, float(geometry["jib_m"]) + BEYOND_JIB_M)
    if not limits and not any(key in settings for key in TERMS_KEYS):
        return NO_TERMS
    return Terms(
        units=settings.get("units", {}),
        limits=limits,
        zone=settings.get("zone"),
        alarm_bits=settings.get("alarm_bits"),
        tolerate=tuple(settings.get("tolerate", ())),
    )


def is_gateway(profile: Profile) -> bool:
    """Whether messages of a profile say themselves whose readings they hold."""
    return profile.sheet.each.is_gateway


def claims(profile: Profile, topic: str) -> bool:
    """Whether a topic outside the native contract is one of a profile's own."""
    fits = profile.sheet.fits
    return fits is not None and any(topic_pattern(own).fullmatch(topic) for own in fits.topics)


class Listened(NamedTuple):
    """Topics outside the native contract.

    Attributes:
        readings: Filters of what the role `ingest` hears.
        pictures: Filters of what the role `frames` hears.
    """

    readings: tuple[str, ...]
    pictures: tuple[str, ...]


def filters_of(profiles: Profiles, ids: tuple[str, ...]) -> Listened:
    """Say which filters the own topics of some profiles need.

    Args:
        profiles: Those in force.
        ids: Which of them.

    Returns:
        The filters, each once.
    """
    readings: dict[str, None] = {}
    pictures: dict[str, None] = {}
    for name in ids:
        sheet = profiles.by_id[name].sheet
        for topic in sheet.fits.topics if sheet.fits else ():
            chosen = pictures if sheet.kind is Kind.CAMERA else readings
            chosen[topic_filter(topic)] = None
    return Listened(tuple(readings), tuple(pictures))


@dataclass(slots=True)
class _Kept:
    """A gateway's decoder, and what it was built for."""

    terms: Mapping[str, Terms]
    decode: DecodeMany


class Readers:
    """Which profile a device is read by, and the decoders that do it.

    Attributes:
        profiles: Those in force.
    """

    def __init__(self, profiles: Profiles = NO_PROFILES) -> None:
        """No decoder is built yet.

        Args:
            profiles: Those in force; by default none: every device speaks the native contract.
        """
        self.profiles = profiles
        self._found: dict[tuple[Kind, str, str, str], Profile | None] = {}
        self._decoders: dict[tuple[object, ...], Decoder] = {}
        self._events: dict[tuple[object, ...], DecodeEvent] = {}
        self._gateways: dict[tuple[str, str | None], _Kept] = {}

    def profile_of(self, kind: Kind, make: str, model: str, firmware: str) -> Profile | None:
        """Find the profile of a device that names none, remembered by what decides it.

        Args:
            kind: Of the device.
            make: As registered.
            model: As registered.
            firmware: As registered.

        Returns:
            The profile; None where the device speaks the native contract.
        """
        if not make:
            return None
        key = kind, make, model, firmware
        if key not in self._found:
            self._found[key] = self.profiles.find(kind, make, model, firmware)
        return self._found[key]

    def forget(self, devices: int) -> None:
        """Let go of decoders if there are more than so many devices can need.

        Args:
            devices: How many are registered.
        """
        most = 2 * devices + SPARE
        for kept in (self._found, self._decoders, self._events, self._gateways):
            if len(kept) > most:
                kept.clear()

    def decoder(self, profile: Profile, terms: Terms) -> Decoder:
        """The decoder of devices that are read alike.

        Args:
            profile: Whose payloads are readings of the sender.
            terms: Of the device.

        Returns:
            The decoder.
        """
        key = _key(profile, terms)
        decode = self._decoders.get(key)
        if decode is None:
            decode = self._decoders[key] = profile.decoder(terms)
        return decode

    def event_decoder(self, profile: Profile, terms: Terms) -> DecodeEvent:
        """The decoder of a make's events.

        Args:
            profile: Of format `event`.
            terms: Of the device.

        Returns:
            The decoder.
        """
        key = _key(profile, terms)
        decode = self._events.get(key)
        if decode is None:
            decode = self._events[key] = event_decoder(profile.sheet, terms)
        return decode

    def gateway(self, profile: Profile, site: str | None, terms: Mapping[str, Terms]) -> DecodeMany:
        """The decoder of messages that hold readings of several devices.

        Args:
            profile: Whose `[each]` names the device.
            site: Of the gateway, where that is registered: it speaks for this site alone.
            terms: Of the devices it may speak for, by external id.

        Returns:
            The decoder; another one only after something about the devices has changed.
        """
        kept = self._gateways.get((profile.sheet.id, site))
        if kept is None or kept.terms != terms:
            decode = profile.gateway(lambda device: terms.get(device, NO_TERMS))
            kept = self._gateways[profile.sheet.id, site] = _Kept(terms, decode)
        return kept.decode


def _key(profile: Profile, terms: Terms) -> tuple[object, ...]:
    return (
        profile.sheet.id,
        tuple(sorted(terms.units.items())),
        tuple(sorted(terms.limits.items())),
        terms.zone,
        terms.alarm_bits,
        terms.tolerate,
    )


_HJ212_NOTES = frozenset(map(str, (*Note, *Tolerance)))


def kind_of_note(note: str) -> str:
    """Say what kind of note a decoder has made: few kinds, so that they can be counted.

    Args:
        note: One of `Decoded.notes`.

    Returns:
        A name of HJ 212's notes and tolerances, "contradiction", "no_time", "no_reading"
        or "other".
    """
    if note in _HJ212_NOTES:
        return str(note)
    if note.endswith(NO_TIME_NOTE):
        return "no_time"
    if " contradicts " in note or " is above " in note:
        return "contradiction"
    return "no_reading" if "without a reading" in note else "other"


def profile_of(device: Device, profiles: Profiles) -> Profile | None:
    """Find the profile of a device of a site file.

    Args:
        device: As written down.
        profiles: Those in force.

    Returns:
        The one it names, of whatever kind, or the one that fits; None where there is none.
    """
    if device.profile is None:
        return profiles.find(device.kind, device.make, device.model, device.firmware)
    return profiles.by_id.get(device.profile)


def faults_of(device: Device, profiles: Profiles) -> list[tuple[str, str]]:
    """Find what does not fit between a device of a site file and the profiles in force.

    Args:
        device: As written down, valid by itself.
        profiles: Those in force.

    Returns:
        Key and what is wrong with it, for each fault.
    """
    profile = profile_of(device, profiles)
    if device.profile not in (None, f"{NATIVE}{device.kind}"):
        if profile is None:
            return [("profile", f"there is no profile {device.profile!r}: see `profiles list`")]
        if profile.sheet.kind is not device.kind:
            return [("profile", f"{device.profile!r} is of a {profile.sheet.kind}")]
    if profile is None:
        return [
            (key, "belongs to a device with a profile: the native contract leaves no doubt of it")
            for key in TERMS_KEYS
            if getattr(device, key)
        ]
    sheet = profile.sheet
    faults = [
        (f"units.{name}", fault)
        for name, unit in device.units.items()
        if (fault := _unit_fault(sheet, name, unit)) is not None
    ]
    if device.zone is not None and (sheet.time is None or sheet.time.zone is None):
        faults.append(("zone", f"times of profile {sheet.id!r} say their zone themselves"))
    if device.alarm_bits is not None and not any(map(_has_ends, sheet.alarms)):
        faults.append(("alarm_bits", f"profile {sheet.id!r} reads no text of bits"))
    if sheet.format is not Format.HJ212:
        faults += [
            (key, f"profile {sheet.id!r} does not speak HJ 212")
            for key in ("tolerate", "password")
            if getattr(device, key)
        ]
    return faults


def _has_ends(alarm: Alarm) -> bool:
    return alarm.bits in ("right", "left")


def _unit_fault(sheet: Datasheet, name: str, unit: str) -> str | None:
    if sheet.format not in (Format.HJ212, Format.PYTHON) and name not in sheet.values:
        return f"profile {sheet.id!r} reads no such quantity"
    try:
        if sheet.format is Format.HJ212:
            power_of(name, printed(unit))
        else:
            quantity = next(one for one in QUANTITIES[sheet.kind] if one.name == name)
            conversion(unit, quantity.unit)
    except ValueError as fault:
        return str(fault)
    return None
