"""Open registration: a device nobody has registered is, once it says something readable.

Only of a registered site, only under that site's topic prefix, only so many a day and site:
whoever may publish must not be able to fill the registry. Everyone else's messages wait in
quarantine, as with closed registration.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from psycopg.types.json import Jsonb

from device_profiles.errors import Rejected
from device_profiles.jpeg import read_jpeg_header
from device_profiles.native import decode_event, decode_status, telemetry_decoder
from device_profiles.sites import Device
from device_profiles.topics import Address, parse_topic
from device_profiles.vocabulary import QUANTITIES, Channel, Kind
from ingest.pipeline import Arrivals
from ingest.registry import Routes
from ingest.store.queries import load_queries
from ingest.store.worker import Worker, declared

log = logging.getLogger(__name__)

SQL = load_queries(Path(__file__).parent / "store" / "sql" / "registry.sql")

MOST_AT_ONCE = 1_000
"""Most strangers of one flush that are asked about."""

MARK = "registered_by_itself"
"""Key of a device's settings that says so."""

_DECODERS = {kind: telemetry_decoder(kind) for kind in QUANTITIES}


def introduces(address: Address, payload: bytes) -> bool:
    """Whether a payload is what a device of that kind sends there. Pure.

    Args:
        address: Who a stranger says it is, by its topic.
        payload: What it says.

    Returns:
        Whether it can be read.
    """
    try:
        match address.channel:
            case Channel.TELEMETRY:
                decode = _DECODERS.get(address.kind)
                return decode is not None and bool(decode(payload).readings)
            case Channel.FRAME:
                read_jpeg_header(payload)
                return address.kind is Kind.CAMERA
            case Channel.STATUS:
                decode_status(payload)
            case Channel.EVENT:
                decode_event(payload)
    except Rejected:
        return False
    return True


class Newcomers:
    """Registers strangers over one worker's connection."""

    def __init__(self, worker: Worker, most_a_day: int) -> None:
        """Nobody is registered yet.

        Args:
            worker: Whose connection is used.
            most_a_day: How many may register themselves in 24 hours, of each site.
        """
        self._worker = worker
        self._most_a_day = most_a_day

    async def welcome(self, arrivals: Arrivals, indices: Iterable[int], routes: Routes) -> bool:
        """Register the strangers among some messages.

        Args:
            arrivals: The messages.
            indices: Which of them to look at.
            routes: Who is known.

        Returns:
            Whether some are registered now that were not known: read the registry again.

        Raises:
            DatabaseUnavailable: The database cannot be used.
        """
        strangers: dict[tuple[str, str], Address] = {}
        for index in indices:
            if index in arrivals.oversized or len(strangers) >= MOST_AT_ONCE:
                continue
            try:
                address = parse_topic(arrivals.topics[index])
            except Rejected:
                continue
            name = address.site, address.device
            if name in strangers or routes.knows(*name):
                continue
            if introduces(address, arrivals.payloads[index]):
                strangers[name] = address
        return bool(strangers) and await self._register(list(strangers.values()))

    async def _register(self, strangers: list[Address]) -> bool:
        connection = await self._worker.open()
        named = {
            "site_ids": [one.site for one in strangers],
            "devices": [one.device for one in strangers],
        }
        with declared():
            async with connection.transaction():
                # The site's row is held until the commit: two workers never exceed the number.
                cursor = await connection.execute(SQL["hold_sites"], named)
                districts = dict(await cursor.fetchall())
                cursor = await connection.execute(
                    SQL["registered_by_themselves"], named | {"mark": MARK}
                )
                taken = Counter(dict(await cursor.fetchall()))
                for one in strangers:
                    if districts.get(one.site) != one.prefix:
                        continue
                    if taken[one.site] >= self._most_a_day:
                        continue
                    cursor = await connection.execute(
                        SQL["register_newcomer"],
                        {
                            "site": one.site,
                            "device": one.device,
                            "kind": one.kind,
                            "expected_every_s": Device.model_fields["expected_every_s"].default,
                            "settings": Jsonb({MARK: True}),
                        },
                    )
                    if cursor.rowcount:
                        log.info("registered %s/%s, a %s", one.site, one.device, one.kind)
                        taken[one.site] += 1
                cursor = await connection.execute(SQL["registered_of"], named)
                known = bool(await cursor.fetchall())
                if known:
                    await connection.execute(SQL["notify_registry"])
        return known
