"""Many devices at once, for load: PUBLISH payloads made faster than anything reads them.

The values are those of calm dust monitors and repeat; what is never repeated is the pair of
device and observed time, so every reading is a row of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from device_profiles.sites import Device, Organisation, Site, SiteFile
from device_profiles.vocabulary import Kind

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z, the observed time of every device's first reading."""

_VARIANTS = 1_021  # prime, so that the same device does not meet the same values each round
_CONTRACTOR = "fleet-contractor"
_REGULATOR = "fleet-regulator"


def site_id(site: int) -> str:
    """Id of a site of the fleet.

    Args:
        site: Its number, from 0.

    Returns:
        The id.
    """
    return f"load-{site:04d}"


def device_id(device: int) -> str:
    """Id of a device within its site.

    Args:
        device: Its number, from 0.

    Returns:
        The id.
    """
    return f"dust-{device:03d}"


def fleet_file(sites: int, devices: int, district: str = "") -> SiteFile:
    """Who is in the fleet, for the registry.

    Args:
        sites: How many sites.
        devices: How many dust monitors on each.
        district: Topic prefix of all sites.

    Returns:
        Organisations, sites and devices; no recipient.
    """
    return SiteFile(
        organisation=(
            Organisation(id=_CONTRACTOR, name="Fleet contractor"),
            Organisation(id=_REGULATOR, name="Fleet regulator"),
        ),
        site=tuple(
            Site(
                id=site_id(site),
                name=f"Load site {site}",
                district=district,
                contractor=_CONTRACTOR,
                regulator=_REGULATOR,
            )
            for site in range(sites)
        ),
        device=tuple(
            Device(site=site_id(site), id=device_id(device), kind=Kind.DUST, make="simulated")
            for site in range(sites)
            for device in range(devices)
        ),
    )


def payloads(
    sites: int,
    devices: int,
    count: int,
    seed: int = 0,
    *,
    batch: int = 1,
    start_ms: int = START_MS,
    every_ms: int = 1_000,
    district: str = "",
) -> Iterator[tuple[bytes, bytes]]:
    """Telemetry of a fleet of dust monitors: all devices in turn, then all again.

    Args:
        sites: How many sites.
        devices: How many monitors on each.
        count: How many messages.
        seed: What makes one fleet's values differ from another's.
        batch: Readings a message; above 1 the payload is an array.
        start_ms: Observed time of every device's first reading, epoch milliseconds.
        every_ms: Between two readings of one device, milliseconds.
        district: Topic prefix.

    Yields:
        Topic and payload: JSON readings of 8 values, about 200 bytes each.
    """
    head = f"{district}/" if district else ""
    topics = [
        f"{head}site/{site_id(site)}/dust/{device_id(device)}/telemetry".encode()
        for site in range(sites)
        for device in range(devices)
    ]
    variants = _variants(seed)
    ts = start_ms
    made = 0
    while True:
        for topic in topics:
            if made == count:
                return
            if batch == 1:
                yield topic, variants[made % _VARIANTS] % ts
            else:
                readings = [
                    variants[(made * batch + number) % _VARIANTS] % (ts + number * every_ms)
                    for number in range(batch)
                ]
                yield topic, b"[" + b",".join(readings) + b"]"
            made += 1
        ts += batch * every_ms


def _variants(seed: int) -> list[bytes]:
    dice = random.Random(f"{seed}/fleet")
    made = []
    for _ in range(_VARIANTS):
        pm10 = dice.uniform(20.0, 110.0)
        values = {
            "pm2_5_ug_m3": pm10 * dice.uniform(0.35, 0.55),
            "pm10_ug_m3": pm10,
            "tsp_ug_m3": pm10 * dice.uniform(1.4, 1.9),
            "noise_db": dice.uniform(48.0, 68.0),
            "temperature_c": dice.uniform(12.0, 34.0),
            "humidity_pct": dice.uniform(35.0, 90.0),
            "wind_speed_m_s": dice.uniform(0.2, 9.0),
            "wind_direction_deg": dice.uniform(0.0, 359.9),
        }
        body = ",".join(f'"{name}":{value:.1f}' for name, value in values.items())
        made.append(f'{{"ts":%d,"values":{{{body}}}}}'.encode())
    return made
