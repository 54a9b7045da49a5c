"""The role `deliver`: sends what is queued, until it is taken or given up with a reason."""

from __future__ import annotations

import asyncio

from alerts.deliver import Deliverer, DeliverySettings
from alerts.errors import Misconfigured as AlertsMisconfigured
from smartsite.errors import Misconfigured
from smartsite.services import Whereabouts
from smartsite.settings import Settings


async def run(settings: Settings, whereabouts: Whereabouts, stop: asyncio.Event) -> None:
    """Deliver until told to stop.

    Args:
        settings: How many at a time, and how patiently.
        whereabouts: The database.
        stop: Set from outside.

    Raises:
        Misconfigured: A recipient's secret is missing or malformed.
    """
    terms = settings.deliver
    try:
        deliverer = Deliverer(
            whereabouts.database_url,
            DeliverySettings(concurrency=terms.concurrency, timeout_s=terms.timeout_s),
        )
        await deliverer.run(stop)
    except AlertsMisconfigured as fault:
        raise Misconfigured(str(fault)) from None
