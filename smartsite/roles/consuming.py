"""What the roles that consume MQTT share: the session's options from the settings."""

from __future__ import annotations

import asyncio
import logging

from ingest.errors import Unavailable
from ingest.flushing import Flushing
from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options
from ingest.store.worker import Worker
from smartsite.profiles import Filters
from smartsite.services import EMBEDDED, Whereabouts
from smartsite.settings import BrokerSettings, Settings, resolve_secret

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024 * 1024
"""What may wait in memory before the socket is no longer read."""

MOST_BYTES_READING_ON = 256 * 1024 * 1024
"""The same for brokers that reset who does not read: their own limit of unacknowledged messages
comes first, but for large frames."""


def session_options(
    settings: Settings,
    whereabouts: Whereabouts,
    worker: str,
    filters: Filters,
    max_payload_bytes: int,
    *,
    rest_s: float = 0.0,
) -> Options:
    """Put a session's options together.

    Args:
        settings: Of the broker.
        whereabouts: Where it is.
        worker: Name of the session.
        filters: Shared in the group there may be, none of them if the session is to be drained.
        max_payload_bytes: Larger payloads are skipped.
        rest_s: How long the socket is left alone after a small read, seconds.

    Returns:
        The options.

    Raises:
        Misconfigured: A secret or a certificate cannot be read.
    """
    broker = settings.broker
    wanted, retired = _filters(broker, filters)
    if broker.share_group is not None and broker.version != "5":
        log.warning(
            "MQTT 3.1.1 does not tell whether a broker has shared subscriptions: if nothing comes,"
            " this one has not; with version 5 it would say so"
        )
    password = None
    if broker.password is not None:
        password = resolve_secret(broker.password, "broker.password")
    return Options(
        url=whereabouts.broker_url,
        client_id=f"smartsite-{worker}",
        filters=tuple((topic_filter, 1) for topic_filter in wanted),
        retired_filters=retired,
        version=Version(broker.version),
        username=broker.username,
        password=password,
        ca_file=broker.ca_file,
        cert_file=broker.cert_file,
        key_file=broker.key_file,
        keepalive_s=broker.keepalive_s,
        session_expiry_s=broker.session_expiry_s,
        receive_maximum=broker.receive_maximum,
        max_payload_bytes=max_payload_bytes,
        rest_s=rest_s,
    )


def _filters(broker: BrokerSettings, filters: Filters) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What to subscribe to, and what to end.

    A session that has a filter both alone and shared hears every message twice.
    """
    prefix = f"{broker.prefix}/" if broker.prefix else ""

    def placed(native: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
        return (*(prefix + topic_filter for topic_filter in native), *own)

    def shared(alone: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"$share/{broker.share_group}/{topic_filter}" for topic_filter in alone)

    alone = placed(filters.native, filters.own)
    retired = placed(filters.retired, filters.retired_own)
    if broker.share_group is None:
        return alone, retired
    retired = (*alone, *shared(retired), *retired)
    return ((), (*shared(alone), *retired)) if broker.drain else (shared(alone), retired)


async def take_name(worker: Worker, stop: asyncio.Event) -> None:
    """Take the worker's name before its session: who may not write must not take that over.

    A database that is away is waited for later, so that the session stands and the broker keeps
    for it what comes.

    Args:
        worker: Not open yet.
        stop: Set from outside.

    Raises:
        WorkerTaken: Another process writes under that name.
    """
    taking = asyncio.create_task(worker.open())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((taking, stopping), return_when=asyncio.FIRST_COMPLETED)
        if taking.done():
            taking.result()
    except Unavailable as fault:
        log.warning("%s", fault)
    finally:
        taking.cancel()
        stopping.cancel()
        await asyncio.gather(taking, stopping, return_exceptions=True)


def flushing(settings: Settings, messages: int, after_s: float) -> Flushing:
    """Say when to write.

    Args:
        settings: Of the broker.
        messages: As soon as so many wait.
        after_s: Or when the first has waited so long.

    Returns:
        The terms.
    """
    read_on = settings.broker.keep_reading
    if read_on is None:
        read_on = settings.broker.url == EMBEDDED
    return Flushing(messages, after_s, MOST_BYTES_READING_ON if read_on else MOST_BYTES)
