"""What the roles that consume MQTT share: the session's options from the settings."""

from __future__ import annotations

from ingest.consumer import Flushing
from ingest.mqtt.codec import Version
from ingest.mqtt.connection import Options
from smartsite.services import EMBEDDED, Whereabouts
from smartsite.settings import Settings, resolve_secret

MOST_BYTES = 64 * 1024 * 1024
"""What may wait in memory before the socket is no longer read."""

MOST_BYTES_READING_ON = 256 * 1024 * 1024
"""The same for brokers that reset who does not read: their own limit of unacknowledged messages
comes first, but for large frames."""


def session_options(
    settings: Settings,
    whereabouts: Whereabouts,
    worker: str,
    filters: tuple[str, ...],
    max_payload_bytes: int,
    *,
    rest_s: float = 0.0,
) -> Options:
    """Put a session's options together.

    Args:
        settings: Of the broker.
        whereabouts: Where it is.
        worker: Name of the session.
        filters: Below the prefix.
        max_payload_bytes: Larger payloads are skipped.
        rest_s: How long the socket is left alone after a small read, seconds.

    Returns:
        The options.

    Raises:
        Misconfigured: A secret or a certificate cannot be read.
    """
    broker = settings.broker
    prefix = f"{broker.prefix}/" if broker.prefix else ""
    password = None
    if broker.password is not None:
        password = resolve_secret(broker.password, "broker.password")
    return Options(
        url=whereabouts.broker_url,
        client_id=f"smartsite-{worker}",
        filters=tuple((prefix + topic_filter, 1) for topic_filter in filters),
        version=Version(broker.version),
        username=broker.username,
        password=password,
        ca_file=broker.ca_file,
        cert_file=broker.cert_file,
        key_file=broker.key_file,
        keepalive_s=broker.keepalive_s,
        max_payload_bytes=max_payload_bytes,
        rest_s=rest_s,
    )


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
