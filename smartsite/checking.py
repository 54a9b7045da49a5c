"""What `smartsite check` looks at beyond single values: files, secrets, and how they fit."""

from __future__ import annotations

import os
from collections.abc import Iterator

from alerts.errors import SecretUnusable
from alerts.secret_refs import resolve
from smartsite.errors import Misconfigured
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
            if device.kind == "crane" and device.geometry is None:
                yield f"{file}: device.{number}.geometry: without it no distance can be judged"
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


def _secret_faults(ref: str, key: str) -> Iterator[str]:
    try:
        resolve_secret(ref, key)
    except Misconfigured as fault:
        yield str(fault)
