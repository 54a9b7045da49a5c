"""What `smartsite check` looks at beyond single values: files, secrets, and how they fit."""

from __future__ import annotations

import os
from collections.abc import Iterator

from alerts.errors import SecretUnusable
from alerts.secret_refs import resolve
from device_profiles.catalogue import ProfileFault, Profiles
from device_profiles.datasheets import Format
from device_profiles.sites import SiteFile
from ingest.profiles import faults_of, profile_of
from smartsite.errors import Misconfigured
from smartsite.profiles import filters_for, readers_of
from smartsite.settings import Settings, load_site_file, resolve_secret


def find_faults(settings: Settings) -> list[str]:
    """Find everything that would keep the service from working.

    Args:
        settings: Already valid by themselves.

    Returns:
        One line a fault, naming file or setting and key.
    """
    return list(_faults(settings))


def _faults(settings: Settings) -> Iterator[str]:
    for key, ref in (
        ("broker.password", settings.broker.password),
        ("database.password", settings.database.password),
    ):
        if ref is not None:
            yield from _secret_faults(ref, key)
    for key, path in (
        ("broker.ca_file", settings.broker.ca_file),
        ("broker.cert_file", settings.broker.cert_file),
        ("broker.key_file", settings.broker.key_file),
        ("vision.model", settings.vision.model),
    ):
        if path is not None and not path.is_file():
            yield f"{key}: there is no file {path}"
    try:
        profiles = readers_of(settings).profiles
        for role in ("ingest", "frames"):
            filters_for(role, settings, profiles)
    except ProfileFault as fault:
        yield from fault.faults
        profiles = None
    except Misconfigured as fault:
        yield str(fault)
    external: dict[str, str] = {}
    sites: set[str] = set()  # a file may refer to what one before it registers
    organisations: set[str] = set()
    for file in settings.site_files:
        try:
            found = load_site_file(file)
        except Misconfigured as fault:
            yield from str(fault).splitlines()
            continue
        sites |= {site.id for site in found.site}
        organisations |= {organisation.id for organisation in found.organisation}
        for number, site in enumerate(found.site):
            for role in ("contractor", "regulator"):
                if getattr(site, role) not in organisations:
                    yield f"{file}: site.{number}.{role}: no organisation {getattr(site, role)!r}"
        for number, device in enumerate(found.device):
            if device.site not in sites:
                yield f"{file}: device.{number}.site: no site {device.site!r}"
            taken = external.setdefault(device.external_id or "", f"{device.site}/{device.id}")
            if device.external_id and taken != f"{device.site}/{device.id}":
                yield f"{file}: device.{number}.external_id: it is that of {taken} too"
            if device.password is not None:
                yield from _secret_faults(device.password, f"{file}: device.{number}.password")
            if device.kind == "crane" and device.geometry is None:
                yield f"{file}: device.{number}.geometry: without it no distance can be judged"
        if profiles is not None:
            yield from profile_faults(found, str(file), profiles)
            for number in events_unheard(found, profiles, settings):
                yield (
                    f"{file}: device.{number}.profile: it reads events with pictures, which nobody"
                    " hears: set [frames] events = true"
                )
        for number, recipient in enumerate(found.recipient):
            if recipient.organisation not in organisations:
                yield (
                    f"{file}: recipient.{number}.organisation: no organisation"
                    f" {recipient.organisation!r}"
                )
            try:
                resolve(recipient.secret, os.environ)
            except SecretUnusable as fault:
                yield f"{file}: recipient.{number}.secret: {fault}"


def profile_faults(found: SiteFile, file: str, profiles: Profiles) -> Iterator[str]:
    """Find what does not fit between a site file and the profiles in force.

    Args:
        found: The file, valid by itself.
        file: Its name.
        profiles: Those in force.

    Yields:
        One line a fault, naming file and key.
    """
    for number, device in enumerate(found.device):
        for key, fault in faults_of(device, profiles):
            yield f"{file}: device.{number}.{key}: {fault}"


def require_profiles(found: SiteFile, file: str, profiles: Profiles) -> None:
    """Refuse a site file that does not fit the profiles in force.

    Args:
        found: The file, valid by itself.
        file: Its name.
        profiles: Those in force.

    Raises:
        Misconfigured: With every fault on a line of its own, naming file and key.
    """
    faults = list(profile_faults(found, file, profiles))
    if faults:
        raise Misconfigured("\n".join(faults))


def events_unheard(found: SiteFile, profiles: Profiles, settings: Settings) -> Iterator[int]:
    """Find AI boxes whose events nobody hears as the settings are.

    Args:
        found: A site file.
        profiles: Those in force.
        settings: Who hears what.

    Yields:
        Places in the file's list of devices.
    """
    for number, device in enumerate(found.device):
        profile = profile_of(device, profiles)
        if profile is None or profile.sheet.format is not Format.EVENT or settings.frames.events:
            continue
        if profile.sheet.id not in settings.profiles.topics_of:
            yield number


def _secret_faults(ref: str, key: str) -> Iterator[str]:
    try:
        resolve_secret(ref, key)
    except Misconfigured as fault:
        yield str(fault)
